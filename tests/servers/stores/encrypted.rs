//! Encrypted copies: nothing can be read without an identity, everything with one, and what was tampered with is named.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{CHANGES_AGAIN, Stored, exit, text};
use crate::support::scan::{files, readable};
use crate::support::shop::{assert_says, captured_shop};
use crate::support::{Backwhen, Server, wait_for};

/// A file with a new identity for the copies of this history; the copy makes it.
fn identity(backwhen: &Backwhen, name: &str) -> String {
    text(&backwhen.folder().join(name))
}

/// The words that must not be found in an encrypted copy: names, values, labels, the name of the slot, and secrets.
fn words(backwhen: &Backwhen, label: &str) -> Vec<String> {
    let history: serde_json::Value =
        serde_json::from_slice(&fs::read(backwhen.history().join("history.json")).unwrap()).unwrap();
    let archive =
        fs::read_dir(backwhen.history().join("schemas")).unwrap().next().unwrap().unwrap().file_name();
    let mut words: Vec<_> =
        ["customers", "latest_orders", "CANARY-in-a-row", label].map(str::to_owned).to_vec();
    words.extend(["secret", "id"].map(|key| history[key].as_str().unwrap().to_owned()));
    words.push(backwhen.database().to_owned());
    words.push(archive.to_str().unwrap().split('.').next().unwrap().to_owned());
    words
}

const CANARY: &str = "INSERT INTO visits (page) VALUES ('CANARY-in-a-row')";

#[test]
fn an_encrypted_copy_in_a_bucket_is_recovered_elsewhere_and_shows_nothing() {
    let Some(stored) = Stored::begin() else { return };
    let (backwhen, url) = (&stored.backwhen, stored.url());
    stored.change(CANARY);
    backwhen.ok(&["checkpoint", "--label", "before-audit"]);
    backwhen.ok(&["pin", "before-audit", "--reason", "customers of the audit"]);
    let key = identity(backwhen, "identity");
    let copied = backwhen.run(&["copy", "--to", &url, "--identity-file", &key]);
    assert!(copied.status.success(), "{}", copied.stderr);
    assert_says(&copied.stderr, &["made the identity file", "keep a copy"]);
    let again = backwhen.run(&["copy", "--to", &url, "--identity-file", &key, "--output", "json"]);
    assert!(
        again.stderr.is_empty() && again.stdout.contains("\"objects\":0"),
        "{}{}",
        again.stdout,
        again.stderr
    );

    let words = words(backwhen, "before-audit");
    let secret = fs::read_to_string(&key).unwrap().lines().last().unwrap().to_owned();
    let words: Vec<_> = words.iter().map(String::as_str).chain([secret.as_str()]).collect();
    let (bucket, prefix) = stored.path.split_once('/').unwrap();
    let objects = stored.server.everything(bucket, &format!("{prefix}/"));
    assert!(objects.len() > 10, "{}", objects.len());
    assert_eq!(readable(&words, &objects), Vec::<&str>::new());
    // In a copy that is not encrypted they are found, so the search finds what is there.
    backwhen.ok(&["copy", "--to", &format!("{url}-plain")]);
    let found = readable(&words, &stored.server.everything(bucket, &format!("{prefix}-plain/")));
    assert!(found.len() >= 6 && found.contains(&"before-audit") && found.contains(&"customers"), "{found:?}");

    // The machine is gone; another one has the identity, and no cache.
    let truth = stored.latest(&text(&backwhen.history()));
    fs::remove_dir_all(backwhen.history()).unwrap();
    fs::remove_dir_all(backwhen.folder().join("cache")).unwrap();
    let said = backwhen.fails(exit::REFUSED, &stored.remote(&url, &["status", "--offline"]));
    assert_says(&said, &["encrypted for 1 recipient", "--identity-file", "--identity-command"]);
    let script = backwhen.folder().join("recovered.sql");
    let into = format!("sql:{}", text(&script));
    let with = |arguments: &[&str]| {
        backwhen.ok(&[arguments, &["--history", &url, "--identity-file", &key]].concat())
    };
    with(&["verify", "--prove"]);
    with(&["recover", "--to", "latest", "--into", &into]);
    let mut lines: Vec<_> = fs::read_to_string(&script).unwrap().lines().map(str::to_owned).collect();
    lines.retain(|line| !line.contains("restrict"));
    lines.sort();
    assert_eq!(lines, truth);
    assert!(with(&["list", "checkpoints"]).contains("customers of the audit"));
    // A folder is made of it again, which is a history like any other.
    let back = text(&backwhen.folder().join("back"));
    with(&["copy", "--to", &back]);
    assert_eq!(stored.latest(&back), truth);
}

#[test]
fn a_capture_keeps_an_encrypted_copy_up_to_date_and_its_state_is_for_recipients() {
    let Some(mut stored) = Stored::begin() else { return };
    // The state of a capture comes with its signs of life, and so within a second.
    stored.backwhen = stored.backwhen.with_env("BACKWHEN_TEST_LEASE", "3");
    let (backwhen, url) = (&stored.backwhen, stored.url());
    let key = identity(backwhen, "identity");
    backwhen.ok(&["copy", "--to", &url, "--encrypt", "--identity-file", &key]);
    let mut capture =
        backwhen.spawn_capture_with(&["--also", &url, "--durable", "store", "--identity-file", &key]);
    capture.wait_streaming();
    stored.change_beside(CANARY);
    stored.change_beside(CHANGES_AGAIN);
    let held = || {
        let at =
            ["query", "SELECT count(*) FROM visits WHERE page LIKE 'CANARY%'", "--at", "latest", "--quiet"];
        let shown = backwhen.run(&[&at[..], &["--history", &url, "--identity-file", &key]].concat());
        shown.stdout.lines().any(|line| line.trim() == "1")
    };
    wait_for("the row is in the copy", held);
    let status = |identity: &[&str]| {
        backwhen.run(&[&["status", "--offline", "--history", &url, "--output", "json"], identity].concat())
    };
    wait_for("the state is in the copy", || {
        status(&["--identity-file", &key]).stdout.contains("\"streaming\"")
    });
    assert_eq!(status(&[]).status.code(), Some(exit::REFUSED));
    let words = words(backwhen, "visits");
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let (bucket, prefix) = stored.path.split_once('/').unwrap();
    assert_eq!(
        readable(&words, &stored.server.everything(bucket, &format!("{prefix}/"))),
        Vec::<&str>::new()
    );
    capture.stop();
    backwhen.ok(&["verify", "--prove", "--history", &url, "--identity-file", &key]);
}

impl Stored {
    /// Changes rows while a capture runs.
    fn change_beside(&self, sql: &str) {
        self.backwhen.server().psql(self.backwhen.database(), sql);
    }
}

#[test]
fn an_encrypted_copy_in_a_folder_shows_nothing_and_names_what_was_tampered_with() {
    let backwhen = captured_shop(&Server::shared(None));
    backwhen.server().psql(backwhen.database(), CANARY);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let (key, copy) = (identity(&backwhen, "identity"), backwhen.folder().join("copy"));
    let place = format!("file://{}", text(&copy));
    backwhen.ok(&["copy", "--to", &place, "--encrypt", "--identity-file", &key]);
    let words = words(&backwhen, "0001-");
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    assert_eq!(readable(&words, &files(&copy)), Vec::<&str>::new());
    let found = readable(&words, &files(&backwhen.history()));
    assert!(found.len() >= 6 && found.contains(&"customers"), "{found:?}");
    let with = |arguments: &[&str]| {
        backwhen.run(&[arguments, &["--history", &place, "--identity-file", &key]].concat())
    };
    let verified = with(&["verify", "--prove"]);
    assert!(verified.status.success(), "{}{}", verified.stdout, verified.stderr);

    let objects: Vec<_> = files(&copy)
        .into_iter()
        .filter(|(name, _)| !name.contains("locks") && !name.contains("keys/"))
        .collect();
    for (number, (name, whole)) in objects.into_iter().enumerate() {
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 0x10;
        let file = Path::new(&name).file_name().unwrap().to_str().unwrap();
        fs::write(&name, if number % 2 == 0 { &flipped[..] } else { &whole[..whole.len() - 1] }).unwrap();
        let found = with(&["verify"]);
        assert_eq!(found.status.code(), Some(exit::DAMAGED), "{name}: {}{}", found.stdout, found.stderr);
        assert_says(&format!("{}{}", found.stdout, found.stderr), &[file]);
        fs::write(&name, whole).unwrap();
    }
    // An object of somebody else, beside the others.
    let planted = copy.join("packs/8ecf5337ad9fe267031b2e031c5cc947.pack");
    fs::write(&planted, "rows").unwrap();
    let said = with(&["verify"]);
    assert_eq!(said.status.code(), Some(exit::DAMAGED), "{}{}", said.stdout, said.stderr);
    assert_says(&format!("{}{}", said.stdout, said.stderr), &["8ecf5337ad9fe267", "without its key"]);
    fs::remove_file(planted).unwrap();
    // The whole history in the clear in its place.
    let hidden = fs::read(copy.join("history.json")).unwrap();
    fs::copy(backwhen.history().join("history.json"), copy.join("history.json")).unwrap();
    assert_eq!(with(&["status", "--offline"]).status.code(), Some(exit::DAMAGED));
    fs::write(copy.join("history.json"), hidden).unwrap();
    // It goes on, and heals the folder.
    backwhen.server().psql(backwhen.database(), CHANGES_AGAIN);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    backwhen.ok(&["copy", "--to", &place, "--identity-file", &key]);
    fs::remove_file(backwhen.history().join("epochs/0001.json")).unwrap();
    backwhen.ok(&["repair", "--from", &place, "--identity-file", &key]);
    assert!(with(&["verify"]).status.success());
}

#[test]
fn keys_are_added_removed_exchanged_and_wrong_ones_are_told() {
    let backwhen = captured_shop(&Server::shared(None));
    let (ours, theirs) = (identity(&backwhen, "ours"), identity(&backwhen, "theirs"));
    let (copy, other) = (text(&backwhen.folder().join("copy")), text(&backwhen.folder().join("other")));
    let public = |file: &str| {
        let text = fs::read_to_string(file).unwrap();
        text.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap().to_owned()
    };
    let said = backwhen.fails(exit::USAGE, &["copy", "--to", &copy, "--encrypt"]);
    assert_says(&said, &["--identity-file"]);
    backwhen.ok(&["copy", "--to", &copy, "--encrypt", "--identity-file", &ours]);
    backwhen.ok(&["copy", "--to", &other, "--encrypt", "--identity-file", &theirs]);
    for command in
        [&["copy", "--to", &copy][..], &["repair", "--from", &copy], &["status", "--history", &copy]]
    {
        assert_says(
            &backwhen.fails(exit::REFUSED, command),
            &["encrypted for 1 recipient", "--identity-file"],
        );
    }
    let strange = text(backwhen.folder());
    let said =
        backwhen.fails(exit::REFUSED, &["copy", "--to", &strange, "--encrypt", "--identity-file", &ours]);
    assert_says(&said, &["is not empty"]);
    let with = |key: &str, arguments: &[&str]| {
        backwhen.run(&[arguments, &["--history", &copy, "--identity-file", key, "--output", "json"]].concat())
    };
    let refused = |key: &str, arguments: &[&str], words: &[&str]| {
        let said = with(key, arguments);
        assert_eq!(said.status.code(), Some(exit::REFUSED), "{arguments:?}: {}{}", said.stdout, said.stderr);
        assert_says(&said.stderr, words);
    };
    let shown = |key: &str, arguments: &[&str]| -> serde_json::Value {
        let said = with(key, arguments);
        assert!(said.status.success(), "{arguments:?}: {}{}", said.stdout, said.stderr);
        serde_json::from_str(&said.stdout).unwrap()
    };
    let (own, second) = (public(&ours), public(&theirs));
    refused(&theirs, &["status", "--offline"], &[&own, &second, "is encrypted for"]);
    refused(
        &text(&backwhen.folder().join("none")),
        &["status", "--offline"],
        &["cannot read the identity file"],
    );
    fs::set_permissions(&ours, fs::Permissions::from_mode(0o644)).unwrap();
    refused(&ours, &["status", "--offline"], &["others can read", "chmod 600"]);
    fs::set_permissions(&ours, fs::Permissions::from_mode(0o600)).unwrap();

    let listed = backwhen.json(&["key", "list", "--history", &copy]);
    assert_eq!(
        (&listed["recipients"], &listed["key"]),
        (&serde_json::json!([own]), &serde_json::Value::Null)
    );
    refused(&ours, &["key", "remove", &own], &["is the last one"]);
    let added = shown(&ours, &["key", "add", &second]);
    assert_eq!(added["recipients"].as_array().unwrap().len(), 2);
    let checked = shown(&theirs, &["key", "check"]);
    assert_eq!((&checked["key"], &checked["vouched_by"]), (&added["key"], &own.as_str().into()));
    shown(&theirs, &["status", "--offline"]);
    // Nothing is encrypted with a key that may be an attacker's, until its holder says that it is right.
    let said = backwhen.fails(exit::REFUSED, &["copy", "--to", &copy, "--identity-file", &theirs]);
    assert_says(&said, &[&own, "backwhen key add"]);
    refused(&theirs, &["key", "add", &public(&identity_of(&backwhen))], &["backwhen key add"]);
    shown(&theirs, &["key", "add", &second]);
    backwhen.ok(&["copy", "--to", &copy, "--identity-file", &theirs]);
    shown(&theirs, &["key", "remove", &own]);
    refused(&ours, &["status", "--offline"], &["is encrypted for"]);
    let new = identity(&backwhen, "new");
    let rotated = shown(&theirs, &["key", "rotate", &new]);
    assert_eq!(rotated["recipients"], serde_json::json!([public(&new)]));
    assert_eq!(rotated["key"], added["key"], "the data is not touched");
    refused(&theirs, &["key", "check"], &["is encrypted for"]);
    backwhen.ok(&["copy", "--to", &copy, "--identity-file", &new]);
    // A program may print the identity.
    let program = format!("cat {new}");
    backwhen.ok(&["status", "--offline", "--history", &copy, "--identity-command", &program]);
    // The history in its folder is not encrypted, and has no keys.
    let said = backwhen.fails(exit::REFUSED, &["key", "list", "--identity-file", &new]);
    assert_says(&said, &["is not an encrypted copy"]);
    let plain = text(&backwhen.folder().join("plain"));
    backwhen.ok(&["copy", "--to", &plain, "--identity-file", &new]);
    let said = backwhen.fails(exit::REFUSED, &["copy", "--to", &plain, "--encrypt", "--identity-file", &new]);
    assert_says(&said, &["is not encrypted"]);
}

/// Somebody else's identity.
fn identity_of(backwhen: &Backwhen) -> String {
    let file = identity(backwhen, "third");
    backwhen.ok(&["copy", "--to", &identity(backwhen, "third-copy"), "--encrypt", "--identity-file", &file]);
    file
}
