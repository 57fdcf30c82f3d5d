//! No identity, the wrong one, several, and a folder that is encrypted by half: each is a clear error.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{encrypted_shop, exit, text};
use crate::support::shop::{assert_says, shop};
use crate::support::{Backwhen, Server};

/// Runs a command with other settings; returns its exit code and what it says.
fn said(backwhen: &Backwhen, settings: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = backwhen.command(arguments);
    for (name, value) in settings {
        if value.is_empty() {
            command.env_remove(name)
        } else {
            command.env(name, value)
        };
    }
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), format!("{}{}", text(&output.stdout), text(&output.stderr)))
}

fn assert_fails(found: (Option<i32>, String), code: i32, pieces: &[&str]) {
    assert_eq!(found.0, Some(code), "{}", found.1);
    assert_says(&found.1, pieces);
}

const NO_IDENTITY: (&str, &str) = ("BACKWHEN_IDENTITY_FILE", "");

#[test]
fn an_encrypted_history_is_begun_only_with_an_identity_that_lies_elsewhere() {
    let backwhen = shop(&Server::shared(None));
    let source = backwhen.source();
    let begin = ["init", "--source", &source, "--encrypt"];
    let none = said(&backwhen, &[], &begin);
    assert_fails(none, exit::USAGE, &["--identity-file", "it is made if it is not there", "age-keygen"]);
    let inside = text(&backwhen.history().join("identity"));
    let inside = said(&backwhen, &[("BACKWHEN_IDENTITY_FILE", &inside)], &begin);
    assert_fails(inside, exit::USAGE, &["would lie inside the history", "name a file elsewhere"]);
    let stranger = backwhen.history().join("notes.txt");
    fs::write(&stranger, "mine").unwrap();
    let identity = text(&backwhen.folder().join("identity"));
    let with = [("BACKWHEN_IDENTITY_FILE", identity.as_str())];
    assert_fails(said(&backwhen, &with, &begin), exit::REFUSED, &["notes.txt", "name a new folder"]);
    assert!(!backwhen.history().join("keys").exists());
    fs::remove_file(stranger).unwrap();
    // A process that is killed right after it has made the key.
    let killed = [with[0], ("BACKWHEN_TEST_POINT", "init.intent=kill")];
    assert_eq!(said(&backwhen, &killed, &begin).0, None);
    let keys = || {
        fs::read_dir(backwhen.history().join("keys"))
            .unwrap()
            .map(|it| it.unwrap().path())
            .collect::<Vec<_>>()
    };
    let made = keys();
    assert_eq!(made.len(), 1);
    let plain = said(&backwhen, &with, &["init", "--source", &source]);
    assert_fails(plain, exit::REFUSED, &["was not begun to its end", "init --encrypt"]);
    let begun = said(&backwhen, &with, &begin);
    assert_eq!(begun.0, Some(0), "{}", begun.1);
    assert_eq!(keys(), made, "the key is the one that was there");
    assert_fails(said(&backwhen, &with, &begin), exit::REFUSED, &["is a history already"]);
    assert_eq!(said(&backwhen, &with, &["capture", "--until", "caught-up"]).0, Some(0));
    assert_eq!(said(&backwhen, &with, &["verify"]).0, Some(0));
}

#[test]
fn a_missing_wrong_or_open_identity_is_told_by_every_kind_of_command() {
    let backwhen = encrypted_shop(&Server::shared(None));
    let other = text(&backwhen.folder().join("other"));
    let made = said(
        &backwhen,
        &[("BACKWHEN_IDENTITY_FILE", &other)],
        &["copy", "--to", &text(&backwhen.folder().join("c"))],
    );
    assert_fails(made, exit::REFUSED, &["cannot read the identity file"]);
    let fresh = shop(&Server::shared(None))
        .with_env("BACKWHEN_IDENTITY_FILE", &other)
        .with_env("BACKWHEN_ENCRYPT", "true");
    fresh.init();
    for command in
        [&["status", "--offline"][..], &["capture", "--until", "caught-up"], &["verify"], &["list", "marks"]]
    {
        let none = said(&backwhen, &[NO_IDENTITY], command);
        assert_fails(
            none,
            exit::REFUSED,
            &["is encrypted for 1 recipient", "--identity-file", "--identity-command"],
        );
        let wrong = said(&backwhen, &[("BACKWHEN_IDENTITY_FILE", &other)], command);
        assert_fails(
            wrong,
            exit::REFUSED,
            &["is encrypted for age1", "is the identity of age1", "name the right one"],
        );
    }
    let identity = backwhen.folder().join("identity");
    fs::set_permissions(&identity, fs::Permissions::from_mode(0o644)).unwrap();
    assert_fails(said(&backwhen, &[], &["status"]), exit::REFUSED, &["others can read", "chmod 600"]);
    fs::set_permissions(&identity, fs::Permissions::from_mode(0o600)).unwrap();

    // A second person reads at once, and writes once he has said that the key is right.
    let listed = said(&fresh, &[], &["key", "list"]);
    let recipient = listed.1.split_whitespace().find(|word| word.starts_with("age1")).unwrap().to_owned();
    backwhen.ok(&["key", "add", &recipient]);
    let as_other = [("BACKWHEN_IDENTITY_FILE", other.as_str())];
    let status = said(&backwhen, &as_other, &["status", "--offline", "--output", "json"]);
    let status: serde_json::Value = serde_json::from_str(&status.1).unwrap();
    assert_eq!(status["encryption"]["recipients"].as_array().unwrap().len(), 2);
    assert_eq!(said(&backwhen, &as_other, &["verify"]).0, Some(0));
    let writes = said(&backwhen, &as_other, &["capture", "--until", "caught-up"]);
    assert_fails(
        writes,
        exit::REFUSED,
        &["nothing is encrypted with it until you say", "backwhen key add age1"],
    );
    assert_eq!(said(&backwhen, &as_other, &["key", "add", &recipient]).0, Some(0));
    assert_eq!(said(&backwhen, &as_other, &["capture", "--until", "caught-up"]).0, Some(0));
}

#[test]
fn a_folder_that_is_encrypted_by_half_is_named_as_damage() {
    let backwhen = encrypted_shop(&Server::shared(None));
    let history = backwhen.history();
    let plain = text(&backwhen.folder().join("plain"));
    let copied = said(&backwhen, &[("BACKWHEN_ENCRYPT", "")], &["copy", "--to", &plain]);
    assert_eq!(copied.0, Some(0), "{}", copied.1);
    let in_the_clear = |folder: &str| {
        let mut files = fs::read_dir(format!("{plain}/{folder}")).unwrap().map(|it| it.unwrap().path());
        files.next().unwrap_or_else(|| panic!("nothing in {folder}"))
    };
    // Objects in the clear beside the others, and in the place of one.
    for folder in ["epochs", "journal", "packs", "checkpoints", "schemas", "evidence"] {
        if folder == "evidence" {
            backwhen.ok(&["verify"]);
        }
        let object = if folder == "evidence" { in_the_clear("epochs") } else { in_the_clear(folder) };
        let planted = history.join(folder).join(object.file_name().unwrap());
        fs::copy(&object, &planted).unwrap();
        let found = said(&backwhen, &[], &["verify"]);
        assert_fails(
            found,
            exit::DAMAGED,
            &["without its key", object.file_name().unwrap().to_str().unwrap()],
        );
        fs::remove_file(planted).unwrap();
    }
    let hidden = fs::read(history.join("history.json")).unwrap();
    fs::copy(format!("{plain}/history.json"), history.join("history.json")).unwrap();
    for command in [&["status", "--offline"][..], &["capture", "--until", "caught-up"]] {
        assert_fails(said(&backwhen, &[], command), exit::DAMAGED, &["history.json", "without encryption"]);
    }
    fs::write(history.join("history.json"), hidden).unwrap();
    assert_eq!(said(&backwhen, &[], &["verify"]).0, Some(0));
    // Without its keys nothing opens.
    fs::rename(history.join("keys"), backwhen.folder().join("keys")).unwrap();
    for command in [&["status", "--offline"][..], &["capture", "--until", "caught-up"], &["key", "list"]] {
        let found = said(&backwhen, &[], command);
        let piece = if command[0] == "key" { "no keys" } else { "nobody's key is there" };
        assert_says(&found.1, &[piece]);
        assert!(matches!(found.0, Some(exit::DAMAGED | exit::REFUSED)), "{}", found.1);
    }
    fs::rename(backwhen.folder().join("keys"), history.join("keys")).unwrap();
    assert_eq!(said(&backwhen, &[], &["verify"]).0, Some(0));
}
