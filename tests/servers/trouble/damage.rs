//! A flipped bit in any object: `verify` names that object and no other, a recovery that needs it
//! fails by its name and leaves no target.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::shop::{assert_says, captured_shop, shop};
use crate::support::{Backwhen, Dump, Server, assert_same};
use crate::trouble::exit;

/// The history's one object under `folder` whose name ends like this.
fn object(history: &Path, folder: &str, ending: &str) -> PathBuf {
    let entries = std::fs::read_dir(history.join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries.filter(|path| path.to_str().unwrap().ends_with(ending)).collect();
    found.sort();
    found.into_iter().next().unwrap_or_else(|| panic!("no {folder}/*{ending}"))
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

/// Offsets all over the file, its first and last byte among them.
fn offsets(path: &Path) -> Vec<usize> {
    let length = std::fs::metadata(path).unwrap().len() as usize;
    vec![0, length / 3, length - length / 8, length - 1]
}

/// `verify` finds a fault, and each one it finds names this object; returns the exit code.
fn verify_names(backwhen: &Backwhen, history: &Path, damaged: &Path) {
    let history = history.to_str().unwrap();
    let name = damaged.file_name().unwrap().to_str().unwrap();
    let output = backwhen.run(&["verify", "--output", "json", "--history", history]);
    assert_eq!(output.status.code(), Some(exit::DAMAGED), "{name}: {}{}", output.stdout, output.stderr);
    // `verify` must not advise to run `verify`.
    assert!(
        !(output.stdout.clone() + &output.stderr).contains("backwhen verify"),
        "{name}: {}",
        output.stdout
    );
    if output.stdout.is_empty() {
        // Without it nothing else can be read.
        assert_says(&output.stderr, &[name]);
        return;
    }
    let shown: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(shown["ok"], false);
    let faults = shown["faults"].as_array().unwrap();
    assert!(!faults.is_empty());
    let names_it = |fault: &&serde_json::Value| fault.as_str().unwrap().contains(name);
    assert!(faults.iter().any(|fault| names_it(&fault)), "{name} is not named: {faults:?}");
    // What an unreadable pack holds is missing from checkpoints; anything else must not be blamed.
    let follows = |fault: &serde_json::Value| fault.as_str().unwrap().starts_with("checkpoint ");
    for fault in faults.iter().filter(|fault| !names_it(fault)) {
        assert!(name.ends_with(".pack") && follows(fault), "{name} is damaged, but: {fault}");
    }
}

/// A recovery either does not need the damaged bytes and is exact, or fails by that name and leaves
/// nothing; the exit code tells which.
fn recover_names(backwhen: &Backwhen, history: &Path, damaged: &Path, expected: &[String]) -> i32 {
    let name = damaged.file_name().unwrap().to_str().unwrap();
    let file = backwhen.folder().join("damaged.sql");
    let into = format!("sql:{}", file.display());
    let output =
        backwhen.run(&["recover", "--history", history.to_str().unwrap(), "--to", "latest", "--into", &into]);
    let code = output.status.code().unwrap();
    if code == 0 {
        assert!(script(&file) == expected, "{name} is damaged, and the recovery is another one");
        std::fs::remove_file(&file).unwrap();
    } else {
        assert_eq!(code, exit::DAMAGED, "{name}: {}{}", output.stdout, output.stderr);
        assert_says(&output.stderr, &[name]);
        assert!(!file.exists());
    }
    code
}

/// The lines of a script, sorted, since tables come as they are done; without the random keys that
/// later pg_restores put in.
fn script(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap();
    let mut lines: Vec<_> =
        text.lines().filter(|line| !line.contains("restrict")).map(str::to_owned).collect();
    lines.sort();
    lines
}

/// What a recovery of the whole history gives.
fn sound(backwhen: &Backwhen) -> Vec<String> {
    let file = backwhen.folder().join("sound.sql");
    backwhen.ok(&["recover", "--to", "latest", "--into", &format!("sql:{}", file.display())]);
    script(&file)
}

/// Flips a byte at several places of one object, each time in a fresh copy of the history.
fn each_flip(backwhen: &Backwhen, object: &Path, check: impl Fn(&Path, &Path)) {
    let relative = object.strip_prefix(backwhen.history()).unwrap().to_owned();
    for (round, at) in offsets(object).into_iter().enumerate() {
        let folder = backwhen.folder().join(format!("copy-{round}"));
        copy(&backwhen.history(), &folder);
        let damaged = folder.join(&relative);
        flip(&damaged, at);
        check(&folder, &damaged);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn in_packs_manifests_schemas_and_epochs() {
    let backwhen = captured_shop(&Server::shared(None));
    let history = backwhen.history();
    let expected = sound(&backwhen);
    for (folder, ending) in
        [("packs", ".pack"), ("checkpoints", ".json"), ("schemas", ".dump"), ("epochs", ".json")]
    {
        let object = object(&history, folder, ending);
        each_flip(&backwhen, &object, |folder, damaged| {
            verify_names(&backwhen, folder, damaged);
            let code = recover_names(&backwhen, folder, damaged, &expected);
            // Head and tail of a pack are not needed while the catalog knows what is in it.
            assert!(
                code == exit::DAMAGED || folder_is(damaged, "packs"),
                "{} is not needed?",
                damaged.display()
            );
        });
    }
    // Roles are restored by hand; no recovery reads this one.
    let roles = object(&history, "schemas", ".sql");
    each_flip(&backwhen, &roles, |folder, damaged| verify_names(&backwhen, folder, damaged));
    let identity = history.join("history.json");
    each_flip(&backwhen, &identity, |folder, damaged| {
        verify_names(&backwhen, folder, damaged);
        assert_eq!(recover_names(&backwhen, folder, damaged, &expected), exit::DAMAGED);
    });
}

fn folder_is(path: &Path, name: &str) -> bool {
    path.parent().is_some_and(|folder| folder.ends_with(name))
}

#[test]
fn in_the_open_segment() {
    let server = Server::shared(None);
    let backwhen = captured_shop(&server);
    // Several blocks, each synced before the next, so that a bad one has a witness after it.
    for _ in 0..3 {
        server.psql(
            backwhen.database(),
            "INSERT INTO visits (page) SELECT md5(n::text) FROM generate_series(1, 200) n",
        );
        backwhen.ok(&["capture", "--until", "caught-up"]);
    }
    let latest = backwhen.json(&["recover", "--to", "latest", "--dry-run"]);
    let moment = latest["moment"]["lsn"].as_str().unwrap().to_owned();
    let segment = object(&backwhen.history(), "journal", ".open");
    each_flip(&backwhen, &segment, |folder, damaged| {
        verify_names(&backwhen, folder, damaged);
        let name = damaged.file_name().unwrap().to_str().unwrap();
        let into = format!("sql:{}", backwhen.folder().join("damaged.sql").display());
        let arguments = ["recover", "--history", folder.to_str().unwrap(), "--to", &moment, "--into", &into];
        let output = backwhen.run(&arguments);
        // A bad last block looks like one that was never finished: then the moment is not held.
        let code = output.status.code().unwrap();
        assert!(matches!(code, exit::DAMAGED | exit::OUTSIDE_WINDOW), "{code}: {}", output.stderr);
        assert!(code == exit::OUTSIDE_WINDOW || output.stderr.contains(name), "{name}: {}", output.stderr);
        assert!(!backwhen.folder().join("damaged.sql").exists());
    });
}

#[test]
fn in_a_sealed_segment() {
    let server = Server::shared(None);
    let backwhen = shop(&server);
    backwhen.init();
    let rows = "INSERT INTO visits (page) SELECT repeat(md5(n::text), 40) FROM generate_series(1, 56000) n";
    server.psql(backwhen.database(), rows);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let segment = object(&backwhen.history(), "journal", ".seg");
    each_flip(&backwhen, &segment, |folder, damaged| {
        verify_names(&backwhen, folder, damaged);
    });
    // The rows themselves: a recovery reads them.
    let folder = backwhen.folder().join("rows");
    copy(&backwhen.history(), &folder);
    let damaged = object(&folder, "journal", ".seg");
    flip(&damaged, std::fs::metadata(&damaged).unwrap().len() as usize / 3);
    let name = damaged.file_name().unwrap().to_str().unwrap();
    let into = format!("damaged_{}", backwhen.database());
    let message = backwhen.fails(
        exit::DAMAGED,
        &[
            "recover",
            "--history",
            folder.to_str().unwrap(),
            "--to",
            "latest",
            "--create",
            "--into",
            &server.conninfo(&into),
        ],
    );
    assert_says(&message, &[name]);
    let left =
        server.psql("postgres", &format!("SELECT datname FROM pg_database WHERE datname LIKE '{into}%'"));
    assert_eq!(left, "", "left on the target");
}

#[test]
fn objects_that_are_gone() {
    let server = Server::shared(None);
    let backwhen = captured_shop(&server);
    for (folder, ending) in
        [("packs", ".pack"), ("schemas", ".dump"), ("journal", ".open"), ("epochs", ".json")]
    {
        let history = backwhen.folder().join("copy");
        copy(&backwhen.history(), &history);
        let gone = object(&history, folder, ending);
        std::fs::remove_file(&gone).unwrap();
        let output = backwhen.run(&["verify", "--history", history.to_str().unwrap()]);
        assert_eq!(
            output.status.code(),
            Some(exit::DAMAGED),
            "{}: {}{}",
            gone.display(),
            output.stdout,
            output.stderr
        );
        std::fs::remove_dir_all(&history).unwrap();
    }
}

#[test]
fn a_catalog_that_is_gone_or_garbage_is_made_anew() {
    let server = Server::shared(None);
    let backwhen = captured_shop(&server);
    backwhen.ok(&["mark", "here"]);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    backwhen.ok(&["checkpoint", "--label", "folded"]);
    let answers = || -> Vec<String> {
        let questions = [
            &["list", "checkpoints"][..],
            &["list", "segments"],
            &["list", "marks"],
            &["recover", "--to", "latest", "--dry-run"],
        ];
        questions
            .iter()
            .map(|question| backwhen.ok(&[question, &["--output", "json"][..]].concat()))
            .collect()
    };
    let expected = answers();
    let catalog = backwhen.history().join("catalog.sqlite");
    let whole = std::fs::read(&catalog).unwrap();
    let half = whole[..whole.len() / 2].to_vec();
    let mut scribbled = whole.clone();
    scribbled[4096..].iter_mut().for_each(|byte| *byte ^= 0x5A);
    for bytes in [None, Some(Vec::new()), Some(b"garbage, no catalog".to_vec()), Some(half), Some(scribbled)]
    {
        let length = bytes.as_ref().map(Vec::len);
        match bytes {
            Some(bytes) => std::fs::write(&catalog, bytes).unwrap(),
            None => std::fs::remove_file(&catalog).unwrap(),
        }
        assert_eq!(answers(), expected, "after a catalog of {length:?} bytes");
    }
    let into = format!("anew_{}", backwhen.database());
    backwhen.ok(&["recover", "--to", "latest", "--create", "--into", &server.conninfo(&into)]);
    assert_same(&Dump::of(&server, backwhen.database()), &Dump::of(&server, &into));
}
