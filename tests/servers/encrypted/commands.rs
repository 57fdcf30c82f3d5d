//! Every command works on an encrypted history, and with every sort of copy of one.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use super::{encrypted_shop, exit, text};
use crate::support::scan::{files, readable};
use crate::support::shop::{CHANGES, assert_says, assert_visits_are_held, captured_shop};
use crate::support::{Backwhen, Server};

/// The commands of the program, as its help lists them.
fn all_commands(backwhen: &Backwhen) -> BTreeSet<String> {
    let help = backwhen.ok(&["--help"]);
    let lines =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // What a line has no room for stands further to the right.
    lines
        .filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .filter(|name| name != "help")
        .collect()
}

#[test]
fn every_command_works_on_an_encrypted_history_and_none_without_its_identity() {
    let server = Server::shared(None);
    let backwhen = encrypted_shop(&server);
    let path = |name: &str| text(&backwhen.folder().join(name));
    let (sqlite, copy) = (format!("sqlite:{}", path("shop.sqlite")), path("copy"));
    let recovered = server.conninfo(&format!("recovered_{}", backwhen.database()));
    let checkpoint = &backwhen.json_lines(&["list", "checkpoints"])[0]["id"];
    let before = format!("checkpoint:{}", checkpoint.as_str().unwrap());
    let orders = ["--table", "public.orders"];
    let xid = backwhen.json_lines(&["log", "--table", "public.orders"]).pop().unwrap()["xid"].to_string();
    let xid = format!("xid:{}", xid.trim_matches('"'));
    let mut tried = BTreeSet::new();
    let mut works = |runs: &[&[&str]]| {
        for run in runs {
            tried.insert(run[0].to_owned());
            let without = backwhen.command(run).env_remove("BACKWHEN_IDENTITY_FILE").output().unwrap();
            let said = String::from_utf8_lossy(&without.stderr).into_owned();
            // This asks nothing of the history.
            if run != &["key", "list"] {
                assert!(
                    matches!(without.status.code(), Some(exit::USAGE | exit::REFUSED)),
                    "{run:?}: {said}"
                );
                assert_says(&said, &["--identity-file"]);
            }
            backwhen.ok(run);
        }
    };
    works(&[
        &["init", "--full-identity"],
        &["capture", "--until", "caught-up"],
        &["checkpoint"],
        &["checkpoint", "--from-source"],
        &["resync"],
        &["status"],
        &["list", "checkpoints"],
        &["list", "segments"],
        &["list", "marks"],
        &["log", orders[0], orders[1]],
        &["show", &xid],
        &["show", "schema", "--at", "latest"],
        &["row", "public.customers", "1"],
        &["diff", &before, "latest"],
        &["query", "SELECT count(*) FROM orders", "--at", "latest"],
        &["bisect", "--good", &before, "--bad", "latest", "--check", "SELECT count(*) < 100 FROM visits"],
        &["recover", "--to", "latest", "--into", &sqlite],
        &["recover", "--to", "latest", "--create", "--into", &recovered],
        &["pin", "before-audit", "--reason", "audit"],
        &["unpin", "before-audit"],
        &["expire", "--keep-within", "1d", "--apply"],
        &["verify", "--prove"],
        &["copy", "--to", &copy],
        &["repair", "--from", &copy],
        &["key", "list"],
        &["key", "check"],
    ]);
    let mut capture = backwhen.spawn_capture_with(&[]);
    capture.wait_streaming();
    works(&[
        &["check", "--against-source"],
        &["mark", "here"],
        &["diff", "latest", "live"],
        &["rewind", "--to", &before, orders[0], orders[1]],
        &["undo", &xid],
    ]);
    capture.stop();
    let mut serve = backwhen.command(&["serve", "--at", "latest", "--output", "json"]);
    let mut served = serve.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(served.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("connection"), "{line}");
    std::process::Command::new("kill").args(["-INT", &served.id().to_string()]).status().unwrap();
    served.wait().unwrap();
    works(&[&["drop"]]);
    tried.insert("serve".to_owned());
    assert_eq!(tried, all_commands(&backwhen), "the commands of the program, and what is tried");
}

/// A history in the clear becomes an encrypted one, in which capture goes on.
#[test]
fn copies_lead_from_one_sort_of_history_to_every_other() {
    let server = Server::shared(None);
    let plain = captured_shop(&server);
    let identity = text(&plain.folder().join("identity"));
    let cache = text(&plain.folder().join("cache"));
    let plain = plain.with_env("BACKWHEN_CACHE", &cache).with_env("BACKWHEN_IDENTITY_FILE", &identity);
    let place = |name: &str| text(&plain.folder().join(name));
    let original = text(&plain.history());
    let copy = |from: &str, to: &str, options: &[&str]| {
        plain.ok(&[&["copy", "--history", from, "--to", &place(to)], options].concat());
        plain.ok(&["verify", "--history", &place(to)]);
    };
    let truth = |history: &str| {
        let script = format!("sql:{}", place("truth.sql"));
        plain.ok(&["recover", "--history", history, "--to", "latest", "--into", &script]);
        let text = std::fs::read_to_string(place("truth.sql")).unwrap();
        std::fs::remove_file(place("truth.sql")).unwrap();
        let mut lines: Vec<_> =
            text.lines().filter(|line| !line.contains("restrict")).map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let rows = truth(&original);
    copy(&original, "sealed", &["--encrypt"]);
    copy(&place("sealed"), "plain-again", &[]);
    copy(&place("sealed"), "sealed-again", &["--encrypt"]);
    for name in ["sealed", "plain-again", "sealed-again"] {
        assert_eq!(truth(&place(name)), rows, "{name}");
    }
    let found = readable(&["customers", plain.database()], &files(plain.folder().join("sealed").as_path()));
    assert_eq!(found, [""; 0]);

    // The machine with the history in the clear is gone; capture goes on in the encrypted copy.
    std::fs::remove_dir_all(&original).unwrap();
    server.psql(plain.database(), CHANGES.replace("201", "202").as_str());
    plain.ok(&["capture", "--until", "caught-up", "--history", &place("sealed")]);
    plain.ok(&["verify", "--prove", "--history", &place("sealed")]);
    let inside = files(plain.folder().join("sealed").as_path());
    assert!(inside.iter().any(|(name, _)| name.ends_with(".open")), "the open segment grows there now");
    assert!(inside.iter().all(|(name, _)| !name.ends_with(".inc")), "and lies there once");
    assert_eq!(readable(&["customers", plain.database()], &inside), [""; 0]);
    let moved = plain
        .with_env("BACKWHEN_HISTORY", &text(&std::path::Path::new(&cache).parent().unwrap().join("sealed")));
    assert_visits_are_held(&moved, &server);
    // Copies of both sorts go on from there, and heal it.
    for to in ["plain-again", "sealed-again"] {
        moved.ok(&["copy", "--to", &text(&moved.folder().join(to))]);
    }
    for from in ["plain-again", "sealed-again"] {
        let packs = std::fs::read_dir(moved.history().join("packs")).unwrap();
        packs.for_each(|pack| std::fs::remove_file(pack.unwrap().path()).unwrap());
        moved.fails(exit::DAMAGED, &["verify"]);
        moved.ok(&["repair", "--from", &text(&moved.folder().join(from))]);
        moved.ok(&["verify"]);
    }
    assert_visits_are_held(&moved, &server);
}
