//! Who can read what backwhen makes: its user alone, whatever the umask.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::security::shell::{command, run};
use crate::support::shop::{CHANGES, assert_says, captured_shop, shop};
use crate::support::{Backwhen, Capture, Server};

const COMMON: &str = "umask 022; exec \"$@\"";

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o777
}

/// Every file and folder beneath, itself among them.
fn all(path: &Path) -> Vec<PathBuf> {
    let mut found = vec![path.to_owned()];
    if path.is_dir() {
        let entries = std::fs::read_dir(path).unwrap().flatten();
        entries.for_each(|entry| found.extend(all(&entry.path())));
    }
    found
}

fn assert_private(path: &Path) {
    let all = all(path);
    let open: Vec<_> = all.iter().filter(|path| mode(path) & 0o077 != 0).collect();
    assert!(open.is_empty(), "others may read {open:#?}");
    let folders = all.iter().filter(|path| path.is_dir());
    assert!(folders.clone().all(|path| mode(path) == 0o700));
    assert!(all.iter().filter(|path| path.is_file()).all(|path| mode(path) == 0o600));
}

fn ok(backwhen: &Backwhen, arguments: &[&str]) {
    let output = run(backwhen, COMMON, arguments);
    assert!(output.status.success(), "{arguments:?}: {}{}", output.stdout, output.stderr);
}

#[test]
fn nobody_else_reads_a_history_or_what_is_recovered_from_it() {
    let backwhen = shop(&Server::shared(None));
    let at = |name: &str| backwhen.folder().join(name);
    let to = |name: &str| at(name).display().to_string();
    ok(&backwhen, &["init", "--source", &backwhen.source()]);
    assert_private(&backwhen.history());
    backwhen.server().psql(backwhen.database(), CHANGES);
    ok(&backwhen, &["mark", "before"]);
    ok(&backwhen, &["capture", "--until", "caught-up"]);
    ok(&backwhen, &["checkpoint"]);
    ok(&backwhen, &["verify", "--prove"]);
    ok(&backwhen, &["copy", "--to", &to("copies/new")]);
    ok(&backwhen, &["copy", "--to", &to("copies/new")]);
    ok(&backwhen, &["expire", "--keep-last", "1", "--apply"]);
    ok(&backwhen, &["recover", "--to", "latest", "--into", &format!("sqlite:{}", to("shop.db"))]);
    ok(&backwhen, &["recover", "--to", "latest", "--into", &format!("sql:{}", to("shop.sql"))]);
    for name in ["evidence", "expired", "live", "locks", "journal", "packs", "schemas"] {
        assert!(all(&backwhen.history().join(name)).len() > 1, "nothing is in {name}");
    }
    assert!(backwhen.history().join("catalog.sqlite").is_file());
    for path in [backwhen.history(), at("copies"), at("shop.db"), at("shop.sql")] {
        assert_private(&path);
    }
}

/// While a capture runs: the open segment, the live state, the catalog's own files.
#[test]
fn nobody_else_reads_what_a_running_capture_writes() {
    let backwhen = shop(&Server::shared(None));
    ok(&backwhen, &["init", "--source", &backwhen.source()]);
    let mut capture = Capture::start(&backwhen, command(&backwhen, COMMON, &["capture"]));
    backwhen.server().psql(backwhen.database(), CHANGES);
    capture.wait_caught_up();
    assert_private(&backwhen.history());
    capture.stop();
}

#[test]
fn a_history_that_others_may_read_is_told_with_what_to_do() {
    let backwhen = captured_shop(&Server::shared(None));
    let told = |expected: bool| {
        for command in ["status", "verify"] {
            let shown = backwhen.json(&[command]);
            assert_eq!(shown["open_to_others"], expected, "{command}");
            let text = backwhen.ok(&[command]);
            assert_eq!(text.contains("chmod -R go= "), expected, "{command}: {text}");
        }
    };
    told(false);
    // The folder is made as wide open as an earlier version left it.
    let widen = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    widen(&backwhen.history(), 0o755);
    // A folder that was there before, with nothing in it that others may read.
    told(false);
    widen(&backwhen.history().join("history.json"), 0o644);
    told(true);
    let advice = backwhen.ok(&["status"]);
    let advice = advice
        .lines()
        .filter(|line| line.starts_with("access"))
        .find_map(|line| line.split_once("with: "))
        .unwrap()
        .1
        .to_owned();
    assert_says(&advice, &["chmod", backwhen.history().to_str().unwrap()]);
    assert!(std::process::Command::new("sh").args(["-c", &advice]).status().unwrap().success());
    told(false);
}
