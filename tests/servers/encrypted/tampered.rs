//! Somebody who can write to the folder, and has no key, changes objects of each kind; each change is found, and named.

use std::fs;
use std::path::{Path, PathBuf};

use super::{encrypted_shop, exit};
use crate::support::scan::files;
use crate::support::shop::assert_says;
use crate::support::{Backwhen, Server};

/// The files of the history that are part of it, by their folders.
fn objects(backwhen: &Backwhen) -> Vec<PathBuf> {
    let beside = ["locks", "live", "keys", "damaged"];
    let history = backwhen.history();
    let mut found: Vec<_> = files(&history)
        .into_iter()
        .map(|(name, _)| PathBuf::from(name))
        .filter(|path| {
            let inside = path.strip_prefix(&history).unwrap();
            !beside.iter().any(|folder| inside.starts_with(folder)) && inside != Path::new("catalog.sealed")
        })
        .collect();
    found.sort();
    found
}

fn kind_of(path: &Path) -> String {
    let folder = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
    format!("{folder}/{}", path.extension().unwrap().to_str().unwrap())
}

/// `verify` must find damage, and name the file.
fn assert_named(backwhen: &Backwhen, path: &Path, how: &str) {
    let verified = backwhen.run(&["verify"]);
    let said = format!("{}{}", verified.stdout, verified.stderr);
    assert_eq!(verified.status.code(), Some(exit::DAMAGED), "{how} {}: {said}", path.display());
    assert_says(&said, &[path.file_name().unwrap().to_str().unwrap()]);
}

#[test]
fn each_kind_of_object_that_was_flipped_cut_dropped_or_exchanged_is_named() {
    let backwhen = encrypted_shop(&Server::shared(None));
    backwhen.ok(&["pin", "before-audit", "--reason", "audit"]);
    backwhen.ok(&["verify", "--prove"]);
    let objects = objects(&backwhen);
    let mut kinds: Vec<_> = objects.iter().map(|path| kind_of(path)).collect();
    kinds.dedup();
    for kind in [
        "epochs/json",
        "journal/open",
        "journal/seg",
        "packs/pack",
        "checkpoints/json",
        "schemas/dump",
        "pins/json",
        "evidence/json",
    ] {
        assert!(kinds.iter().any(|found| found == kind), "no {kind} in {kinds:?}");
    }
    let mut tried: Vec<String> = Vec::new();
    for path in &objects {
        // One of each kind, and another one to exchange it with.
        if tried.contains(&kind_of(path)) {
            continue;
        }
        tried.push(kind_of(path));
        let whole = fs::read(path).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 0x10;
        fs::write(path, &flipped).unwrap();
        assert_named(&backwhen, path, "flipped");
        fs::write(path, &whole[..whole.len() - 1]).unwrap();
        assert_named(&backwhen, path, "cut short");
        if let Some(other) = objects.iter().find(|other| *other != path && kind_of(other) == kind_of(path)) {
            fs::write(path, fs::read(other).unwrap()).unwrap();
            assert_named(&backwhen, path, "exchanged");
        }
        fs::remove_file(path).unwrap();
        let verified = backwhen.run(&["verify"]);
        // Nothing names evidence, pins and roles; that is in docs/security.md.
        if !["evidence/json", "pins/json", "schemas/sql"].contains(&kind_of(path).as_str()) {
            let said = format!("{}{}", verified.stdout, verified.stderr);
            assert!(!verified.status.success(), "dropped {}: {said}", path.display());
        }
        fs::write(path, whole).unwrap();
        let healed = backwhen.run(&["verify"]);
        assert!(healed.status.success(), "{}: {}{}", path.display(), healed.stdout, healed.stderr);
    }
}

/// The last capture's state tells up to where the source was told that all is durable.
#[test]
fn an_open_segment_that_was_put_back_to_an_older_state_is_named() {
    let server = Server::shared(None);
    let backwhen = encrypted_shop(&server);
    let open = objects(&backwhen).into_iter().find(|path| kind_of(path) == "journal/open").unwrap();
    let older = fs::read(&open).unwrap();
    server.psql(backwhen.database(), "INSERT INTO visits (page) VALUES ('/one more')");
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let newer = fs::read(&open).unwrap();
    assert!(newer.starts_with(&older) && newer.len() > older.len(), "the file has grown");
    fs::write(&open, &older).unwrap();
    assert_named(&backwhen, &open, "an older state of");
    fs::write(&open, newer).unwrap();
    backwhen.ok(&["verify"]);
}
