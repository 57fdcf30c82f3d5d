//! 7. Objects are written once. No object is ever overwritten, and the catalog is only an index.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::promises::recovered;
use crate::support::{Backwhen, Dump, Server, assert_same, wait_for};

/// What is part of the history and complete: its size and digest.
type Objects = BTreeMap<PathBuf, (u64, blake3::Hash)>;

fn objects(history: &Path) -> Objects {
    let mut found = Objects::new();
    for folder in ["", "packs", "checkpoints", "epochs", "schemas", "journal"] {
        for entry in fs::read_dir(history.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
            if ["pack", "json", "dump", "sql", "seg"].contains(&extension.as_str()) {
                let bytes = fs::read(&path).unwrap();
                found.insert(path, (bytes.len() as u64, blake3::hash(&bytes)));
            }
        }
    }
    found
}

fn look(backwhen: &Backwhen, seen: &mut Objects) {
    let now = objects(&backwhen.history());
    for (path, before) in &*seen {
        assert_eq!(now.get(path), Some(before), "{} changed", path.display());
    }
    *seen = now;
}

/// The capture may be making one itself, for the schema that has changed.
fn checkpoint(backwhen: &Backwhen, arguments: &[&str]) {
    wait_for("nobody else makes a checkpoint", || {
        let output = backwhen.run(&[&["checkpoint"], arguments].concat());
        let is_locked = output.status.code() == Some(13);
        assert!(is_locked || output.status.success(), "{}", output.stderr);
        !is_locked
    });
}

#[test]
fn no_object_changes_or_vanishes_through_a_long_run() {
    let server = Server::shared(None);
    let database = server.fresh_database("once");
    server.psql(&database, "CREATE TABLE t (id serial PRIMARY KEY, v text)");
    let backwhen = Backwhen::new(&server, &database).with_env("BACKWHEN_HEARTBEAT", "500ms");
    backwhen.init();
    let mut seen = Objects::new();
    look(&backwhen, &mut seen);
    for round in 1..=3 {
        let mut capture = backwhen.spawn_capture();
        capture.allow("trying again");
        // More than a segment holds, so that some are sealed.
        server.psql(&database, "INSERT INTO t (v) SELECT repeat('x', 1000000) FROM generate_series(1, 35)");
        server.psql(&database, "UPDATE t SET v = v || '.' WHERE id % 2 = 0; DELETE FROM t WHERE id % 3 = 0");
        capture.wait_caught_up();
        checkpoint(&backwhen, &[]);
        look(&backwhen, &mut seen);
        checkpoint(&backwhen, &["--from-source", "--label", &format!("round {round}")]);
        backwhen.ok(&["mark", &format!("round {round}")]);
        look(&backwhen, &mut seen);
        let before = capture.checkpoints();
        server.psql(&database, &format!("ALTER TABLE t ADD COLUMN c{round} int DEFAULT {round}"));
        capture.wait_for_checkpoints(before + 1);
        look(&backwhen, &mut seen);
        if round == 2 {
            capture.kill()
        } else {
            capture.stop()
        }
        look(&backwhen, &mut seen);
    }
    backwhen.ok(&["capture", "--until", "caught-up"]);
    look(&backwhen, &mut seen);
    let sealed = seen.keys().filter(|path| path.extension().is_some_and(|it| it == "seg")).count();
    assert!(sealed > 0, "nothing was sealed, so this proves little");

    let truth = Dump::of(&server, &database);
    fs::remove_file(backwhen.history().join("catalog.sqlite")).unwrap();
    assert_same(&truth, &recovered(&backwhen, &server, &["--to", "latest"]).1);
    backwhen.ok(&["verify", "--prove"]);
    look(&backwhen, &mut seen);
}
