//! Links that somebody put into a history's folder: none is followed to what is written.

use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::shop::{CHANGES, assert_says, assert_source_clean, captured_shop, shop};
use crate::support::{Backwhen, Server};

const LETTER: &str = "process of a letter: dear all\n";

/// Puts a link to a victim's file in place of `name`, or to one that does not exist yet.
fn plant(backwhen: &Backwhen, name: &str, dangling: bool) {
    let (place, victim) = (backwhen.history().join(name), backwhen.folder().join("victim"));
    let _ = std::fs::remove_file(&place);
    let _ = std::fs::remove_file(&victim);
    if !dangling {
        std::fs::write(&victim, LETTER).unwrap();
    }
    symlink(&victim, &place).unwrap();
}

fn assert_untouched(backwhen: &Backwhen, what: &str, dangling: bool) {
    let victim = std::fs::read_to_string(backwhen.folder().join("victim")).ok();
    assert_eq!(victim.as_deref(), (!dangling).then_some(LETTER), "{what}");
}

fn is_link(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink())
}

#[test]
fn a_link_in_place_of_a_lock_is_refused() {
    let backwhen = captured_shop(&Server::shared(None));
    let copy = backwhen.folder().join("copy").display().to_string();
    for (lock, writers) in [
        ("locks/capture.lock", &[&["capture", "--until", "caught-up"][..], &["repair", "--from", &copy]][..]),
        ("locks/checkpoint.lock", &[&["checkpoint"], &["expire", "--keep-last", "1", "--apply"]]),
        ("locks/objects.lock", &[&["expire", "--keep-last", "1", "--apply"]]),
    ] {
        backwhen.server().psql(backwhen.database(), CHANGES.lines().last().unwrap_or_default());
        for dangling in [false, true] {
            plant(&backwhen, lock, dangling);
            for arguments in [&["status"][..], &["list", "marks"], &["verify"], &["copy", "--to", &copy]] {
                backwhen.ok(arguments);
            }
            for writer in writers {
                let message = backwhen.fails(14, writer);
                assert_says(&message, &[lock, "symbolic link"]);
            }
            assert_untouched(&backwhen, lock, dangling);
        }
        std::fs::remove_file(backwhen.history().join(lock)).unwrap();
        backwhen.ok(writers[0]);
    }
}

#[test]
fn a_link_in_place_of_the_catalog_or_of_live_state_is_replaced() {
    let backwhen = captured_shop(&Server::shared(None));
    let names = [
        "catalog.sqlite",
        "catalog.sqlite-wal",
        "catalog.sqlite-shm",
        "catalog.sqlite-journal",
        "live/capture.json",
    ];
    for name in names {
        for dangling in [false, true] {
            plant(&backwhen, name, dangling);
            backwhen.ok(&["status"]);
            assert_eq!(backwhen.json_lines(&["list", "checkpoints"]).len(), 1);
            backwhen.server().psql(backwhen.database(), "INSERT INTO visits (page) VALUES ('/again')");
            backwhen.ok(&["capture", "--until", "caught-up"]);
            backwhen.ok(&["verify"]);
            assert_untouched(&backwhen, name, dangling);
            assert!(!is_link(&backwhen.history().join(name)), "{name} is still a link");
        }
    }
    assert!(backwhen.history().join("catalog.sqlite").is_file());
}

#[test]
fn an_intent_that_is_a_link_keeps_init_from_the_folder() {
    let server = Server::shared(None);
    let backwhen = shop(&server);
    std::fs::create_dir(backwhen.history()).unwrap();
    for dangling in [false, true] {
        plant(&backwhen, "init.json", dangling);
        let message = backwhen.fails(14, &["init", "--source", &backwhen.source()]);
        assert_says(&message, &["is not empty", "init.json"]);
        assert_untouched(&backwhen, "init.json", dangling);
    }
    assert_source_clean(&server, backwhen.database());
}

#[test]
fn a_result_is_not_written_through_a_link_nor_beside_another_databases_leftovers() {
    let backwhen = captured_shop(&Server::shared(None));
    let result = backwhen.folder().join("result");
    for kind in ["sql", "sqlite"] {
        for dangling in [false, true] {
            let victim = backwhen.folder().join("victim");
            let _ = std::fs::remove_file(&victim);
            if !dangling {
                std::fs::write(&victim, LETTER).unwrap();
            }
            symlink(&victim, &result).unwrap();
            let into = format!("{kind}:{}", result.display());
            let message = backwhen.fails(14, &["recover", "--to", "latest", "--into", &into]);
            assert_says(&message, &["exists already"]);
            assert_untouched(&backwhen, kind, dangling);
            std::fs::remove_file(&result).unwrap();
        }
    }
    for suffix in ["-wal", "-shm", "-journal"] {
        let beside = format!("{}{suffix}", result.display());
        std::fs::write(&beside, "frames of another database").unwrap();
        let into = format!("sqlite:{}", result.display());
        let message = backwhen.fails(14, &["recover", "--to", "latest", "--into", &into]);
        assert_says(&message, &[&beside, "remove it"]);
        std::fs::remove_file(&beside).unwrap();
    }
}
