//! Moments that the history does not hold, or that are none.

use crate::support::shop::{assert_says, captured_shop};
use crate::support::{Backwhen, Server};
use crate::trouble::exit;

/// Refused with `code` by the plan and by the execution, which leaves no file.
fn refused(shop: &Backwhen, code: i32, moment: &str, pieces: &[&str]) {
    let file = shop.folder().join("refused.sql");
    let into = format!("sql:{}", file.display());
    for more in [&["--dry-run"][..], &["--into", &into]] {
        let message = shop.fails(code, &[&["recover", "--to", moment], more].concat());
        assert_says(&message, pieces);
    }
    assert!(!file.exists());
}

#[test]
fn outside_the_window() {
    let shop = captured_shop(&Server::shared(None));
    let status = shop.json(&["status"]);
    let edge = |end: &str, what: &str| status["window"][end][what].as_str().unwrap().to_owned();
    let window = format!(
        "what can be recovered is {} ({}) to {} ({})",
        edge("earliest", "time"),
        edge("earliest", "lsn"),
        edge("latest", "time"),
        edge("latest", "lsn")
    );
    let out = exit::OUTSIDE_WINDOW;
    refused(&shop, out, "2001-01-01T00:00:00Z", &["is before the window", &window]);
    refused(&shop, out, "400 days ago", &["is before the window", &window]);
    refused(&shop, out, "2199-01-01 10:00:00+01", &["after the last moment", "backwhen capture", &window]);
    refused(&shop, out, "0/1", &["0/1 is outside the window", &window]);
    refused(&shop, out, "FFFF/0", &["FFFF/0 is outside the window", &window]);
    refused(&shop, out, "xid:4000000000", &["transaction 4000000000 is not in the journal", &window]);
    refused(&shop, out, "mark:nowhere", &["no mark \"nowhere\"", "backwhen list marks", &window]);
    refused(&shop, out, "checkpoint:9999", &["no checkpoint \"9999\"", "backwhen list checkpoints", &window]);
}

#[test]
fn what_is_no_moment() {
    let shop = captured_shop(&Server::shared(None));
    refused(&shop, exit::USAGE, "yesterday", &["\"yesterday\" is not a moment", "mark:NAME"]);
    refused(&shop, exit::USAGE, "xid:none", &["is not a moment", "xid:N"]);
    refused(&shop, exit::USAGE, "mark:", &["is not a moment", "mark:NAME"]);
    refused(&shop, exit::USAGE, "2026-02-30T00:00:00Z", &["2026-02-30"]);
    let message = shop.fails(exit::USAGE, &["recover", "--to", "latest", "--before", "--dry-run"]);
    assert_says(&message, &["--before goes with --to xid:N or --to mark:NAME"]);
}

#[test]
fn a_time_without_a_zone_gets_both_readings() {
    let shop = captured_shop(&Server::shared(None));
    let mut command = shop.command(&["recover", "--to", "2026-11-22 10:00:00", "--dry-run"]);
    let output = command.env("TZ", "Europe/Madrid").output().unwrap();
    assert_eq!(output.status.code(), Some(exit::USAGE));
    let message = String::from_utf8_lossy(&output.stderr);
    assert_says(&message, &["no time zone", "2026-11-22T10:00:00Z", "2026-11-22T10:00:00+01:00"]);
}

#[test]
fn a_pattern_that_no_table_fits() {
    let shop = captured_shop(&Server::shared(None));
    let message =
        shop.fails(exit::USAGE, &["recover", "--to", "latest", "--dry-run", "--table", "public.ordes"]);
    assert_says(&message, &["no table matches public.ordes", "backwhen list checkpoints --tables"]);
}

#[test]
fn names_cannot_command_the_terminal() {
    let shop = captured_shop(&Server::shared(None));
    let evil = "\u{1b}]0;owned\u{7}\u{1b}[2J";
    for arguments in [
        &["recover", "--to", &format!("mark:{evil}"), "--dry-run"][..],
        &["recover", "--to", &format!("checkpoint:{evil}"), "--dry-run"],
        &["recover", "--to", evil, "--dry-run"],
        &["recover", "--to", "latest", "--dry-run", "--table", evil],
        &["mark", evil],
        &["status", "--history", evil],
    ] {
        for form in ["text", "json"] {
            let output = shop.run(&[arguments, &["--output", form]].concat());
            assert!(!output.status.success());
            let all = output.stdout + &output.stderr;
            assert!(!all.contains(['\u{1b}', '\u{7}']), "{all:?}");
        }
    }
}

#[test]
fn names_from_the_source_cannot_either() {
    let server = Server::shared(None);
    let backwhen = captured_shop(&server);
    let table = "\u{1b}[2Jgone";
    server.psql(backwhen.database(), &format!("CREATE TABLE \"{table}\" (n int)"));
    server.psql(backwhen.database(), &format!("CREATE UNLOGGED TABLE \"un{table}\" (n int)"));
    let mut texts = vec![backwhen.ok(&["check", "--source", &backwhen.source()])];
    let other = backwhen.folder().join("other");
    let begun = backwhen.run(&["init", "--source", &backwhen.source(), "--history", other.to_str().unwrap()]);
    assert!(begun.status.success(), "{}", begun.stderr);
    texts.extend([begun.stdout, begun.stderr]);
    let other = other.to_str().unwrap();
    texts.push(backwhen.ok(&["status", "--history", other]));
    texts.push(backwhen.ok(&["list", "checkpoints", "--tables", "--history", other]));
    texts.push(backwhen.ok(&["recover", "--to", "latest", "--dry-run", "--history", other]));
    let captured = backwhen.run(&["capture", "--until", "caught-up"]);
    texts.extend([captured.stdout, captured.stderr]);
    for text in texts {
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
    backwhen.ok(&["drop", "--history", other]);
}
