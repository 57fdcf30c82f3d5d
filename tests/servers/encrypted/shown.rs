//! Looks for the source's names and values in all that somebody without the key can read.

use std::fs;

use super::{encrypted_shop, text};
use crate::support::scan::{files, readable};
use crate::support::shop::{assert_says, assert_visits_are_held, shop};
use crate::support::{Backwhen, Server, wait_for};

const CANARY: &str = "INSERT INTO visits (page) VALUES ('CANARY-in-a-row');
    CREATE TABLE canary_table (canary_column int PRIMARY KEY, words text DEFAULT 'CANARY-in-a-definition');
    INSERT INTO canary_table VALUES (1)";

/// The words of the source, and the secrets of the history, as a copy in the clear tells them.
fn words(backwhen: &Backwhen) -> Vec<String> {
    let plain = backwhen.folder().join("plain");
    let copied = backwhen
        .command(&["copy", "--to", &text(&plain), "--no-encrypt"])
        .env_remove("BACKWHEN_ENCRYPT")
        .output();
    let copied = copied.unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    let history: serde_json::Value =
        serde_json::from_slice(&fs::read(plain.join("history.json")).unwrap()).unwrap();
    let archive = fs::read_dir(plain.join("schemas")).unwrap().next().unwrap().unwrap().file_name();
    let mut words =
        ["customers", "latest_orders", "before-audit", "CANARY-in-a-row", "canary_table", "canary_column"]
            .map(str::to_owned)
            .to_vec();
    words.extend(["secret", "id"].map(|key| history[key].as_str().unwrap().to_owned()));
    words.push(backwhen.database().to_owned());
    words.push(archive.to_str().unwrap().split('.').next().unwrap().to_owned());
    // The search finds what is there.
    let words_: Vec<_> = words.iter().map(String::as_str).collect();
    let found = readable(&words_, &files(&plain));
    assert!(
        found.len() >= 7 && found.contains(&"canary_table") && found.contains(&"before-audit"),
        "{found:?}"
    );
    fs::remove_dir_all(plain).unwrap();
    words
}

fn assert_nothing_is_readable(backwhen: &Backwhen, words: &[String], when: &str) {
    let secret = fs::read_to_string(backwhen.folder().join("identity")).unwrap();
    let secret = secret.lines().last().unwrap().to_owned();
    let words: Vec<_> = words.iter().chain([&secret]).map(String::as_str).collect();
    let found: Vec<_> = files(&backwhen.history())
        .into_iter()
        .filter_map(|file| {
            let name = file.0.clone();
            let words = readable(&words, &[file]);
            (!words.is_empty()).then_some((name, words))
        })
        .collect();
    assert_eq!(found, vec![], "{when}");
}

#[test]
fn an_encrypted_history_shows_nothing_and_gives_everything_back() {
    let server = Server::shared(None);
    let backwhen = shop(&server).encrypted().with_env("BACKWHEN_TEST_ROLL_AT", "20000");
    let temporary = backwhen.folder().join("tmp");
    fs::create_dir(&temporary).unwrap();
    let backwhen = backwhen.with_env("TMPDIR", &text(&temporary));
    let begun = backwhen.run(&["init", "--source", &backwhen.source()]);
    assert!(begun.status.success(), "{}", begun.stderr);
    assert_says(&begun.stderr, &["made the identity file", "keep a copy"]);
    server.psql(backwhen.database(), CANARY);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    backwhen.ok(&["checkpoint", "--label", "before-audit"]);
    backwhen.ok(&["pin", "before-audit", "--reason", "canary_table of the audit"]);
    backwhen.ok(&["verify", "--prove"]);
    backwhen.ok(&["log", "--table", "public.visits"]);
    let words = words(&backwhen);
    assert_nothing_is_readable(&backwhen, &words, "after commands");
    let status = backwhen.json(&["status"]);
    assert_eq!(status["encryption"]["recipients"].as_array().unwrap().len(), 1, "{status}");
    assert_eq!(status["encryption"]["opened_by"], status["encryption"]["vouched_by"]);
    assert_eq!(status["encryption"]["key"].as_str().unwrap().len(), 16);
    let text = backwhen.ok(&["status", "--offline"]);
    assert!(text.contains("encryption   key ") && text.contains("; 1 can open it"), "{text}");
    assert_eq!(status["state"], "blackout", "no capture runs: {status}");

    // The files while a capture is at work, and those that a killed one leaves.
    let mut capture = backwhen.spawn_capture_with(&[]);
    capture.wait_streaming();
    server.psql(
        backwhen.database(),
        "INSERT INTO visits (page) SELECT 'CANARY-in-a-row' FROM generate_series(1, 500)",
    );
    wait_for("the rows are in the history", || {
        assert_nothing_is_readable(&backwhen, &words, "while capture runs");
        backwhen.ok(&["log", "--table", "public.visits"]).contains("visits")
    });
    capture.kill();
    assert_nothing_is_readable(&backwhen, &words, "after a kill");
    // The leftovers of processes that die while they write: torn segments, drafts of objects, a catalog that is replaced.
    let backwhen = backwhen.with_env("BACKWHEN_TEST_ROLL_AT", "2000");
    for point in
        ["journal.append", "journal.synced", "seal.write", "seal.written", "catalog.update", "file.link"]
    {
        server.psql(
            backwhen.database(),
            "INSERT INTO canary_table SELECT max(canary_column) + n, md5(n::text) || 'CANARY-in-a-row' FROM canary_table, generate_series(1, 100) n GROUP BY n",
        );
        backwhen.dies(point, &["capture", "--until", "caught-up"]);
        assert_nothing_is_readable(&backwhen, &words, point);
    }
    backwhen.dies("checkpoint.image", &["checkpoint"]);
    assert_nothing_is_readable(&backwhen, &words, "after a checkpoint that died");
    let left: Vec<_> = files(&temporary).into_iter().map(|(name, _)| name).collect();
    assert_eq!(left, [""; 0], "temporary files");
    backwhen.ok(&["capture", "--until", "caught-up"]);
    assert_visits_are_held(&backwhen, &server);
    let evidence = backwhen.json(&["verify", "--prove"]);
    assert_eq!(evidence["ok"], true, "{evidence}");
}

/// A catalog and a state in the clear, which an earlier command left, are neither believed nor kept.
#[test]
fn the_catalog_is_kept_encrypted_and_made_anew_if_it_is_gone_or_spoiled() {
    let backwhen = encrypted_shop(&Server::shared(None));
    let truth = backwhen.ok(&["list", "checkpoints"]);
    let catalog = backwhen.history().join("catalog.sealed");
    assert!(!backwhen.history().join("catalog.sqlite").exists());
    let kept = fs::read(&catalog).unwrap();
    assert_eq!(backwhen.ok(&["list", "checkpoints"]), truth);
    assert_eq!(fs::read(&catalog).unwrap(), kept, "nothing is new, so nothing is written");
    for spoiled in [&kept[..kept.len() / 2], &[], b"SQLite format 3\0"] {
        fs::write(&catalog, spoiled).unwrap();
        assert_eq!(backwhen.ok(&["list", "checkpoints"]), truth);
    }
    fs::remove_file(&catalog).unwrap();
    assert_eq!(backwhen.ok(&["list", "checkpoints"]), truth);
    assert!(catalog.exists());
    fs::write(backwhen.history().join("live/capture.json"), "{\"state\":\"streaming\"}").unwrap();
    assert_eq!(backwhen.json(&["status"])["state"], "blackout");
}
