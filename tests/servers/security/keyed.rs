//! A history with a key, in the hands of somebody who can write to its folder and lacks the key: a recovery
//! with the key refuses what they made, or finds another way; nothing of theirs reaches the target.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::security::forgery::{
    append_to_open, forge, forge_under_the_old_tag, objects, put, rewrite_sealed, strip_key,
};
use crate::support::shop::{CHANGES, assert_says, shop};
use crate::support::{Backwhen, Server};

const DAMAGED: i32 = 12;
const REFUSED: i32 = 14;

/// What only an attacker would put anywhere.
const PLANTED: &str = "planted";

/// A shop whose history has a key, which every command is given; nothing is made yet.
fn shop_with_key(server: &Server) -> Backwhen {
    let backwhen = shop(server);
    let key = backwhen.folder().join("shop.key");
    // Segments are small, so that there are several.
    backwhen.with_env("BACKWHEN_KEY_FILE", key.to_str().unwrap()).with_env("BACKWHEN_TEST_ROLL_AT", "3000")
}

/// With two checkpoints, sealed segments, an open one, evidence and an expiry's record.
fn rich(server: &Server) -> Backwhen {
    let backwhen = shop_with_key(server);
    backwhen.init();
    for round in 0..3 {
        let changes = if round == 0 { CHANGES } else { "UPDATE orders SET note = 'again' WHERE id < 200" };
        server.psql(backwhen.database(), changes);
        backwhen.ok(&["capture", "--until", "caught-up"]);
        if round == 1 {
            backwhen.ok(&["checkpoint"]);
        }
    }
    backwhen.ok(&["verify"]);
    let history = backwhen.history();
    assert_eq!(objects(&history, "checkpoints", ".json").len(), 2);
    assert!(
        objects(&history, "journal", ".seg").len() > 1 && !objects(&history, "journal", ".open").is_empty()
    );
    backwhen
}

fn clone_folder(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

struct Recovery {
    code: i32,
    stderr: String,
    /// The script's lines, sorted; none if there is no script.
    script: Option<Vec<String>>,
}

impl Recovery {
    fn has(&self, text: &str) -> bool {
        self.script.iter().flatten().any(|line| line.contains(text))
    }
}

fn recover(backwhen: &Backwhen, history: &Path, key_file: Option<&Path>) -> Recovery {
    let file = backwhen.folder().join("recovered.sql");
    let _ = fs::remove_file(&file);
    let into = format!("sql:{}", file.display());
    let arguments = ["recover", "--history", history.to_str().unwrap(), "--to", "latest", "--into", &into];
    let mut command = backwhen.command(&arguments);
    command.env_remove("BACKWHEN_KEY_FILE");
    command.envs(key_file.map(|file| ("BACKWHEN_KEY_FILE", file)));
    let output = command.output().unwrap();
    let text = fs::read_to_string(&file).ok();
    let script = text.map(|text| {
        let mut lines: Vec<_> =
            text.lines().filter(|line| !line.contains("restrict")).map(str::to_owned).collect();
        lines.sort();
        lines
    });
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Recovery { code: output.status.code().unwrap(), stderr, script }
}

/// Where an attack is made, and what of it.
struct Scene<'a> {
    backwhen: &'a Backwhen,
    key: PathBuf,
    sound: Recovery,
}

impl<'a> Scene<'a> {
    fn of(backwhen: &'a Backwhen) -> Scene<'a> {
        let key = backwhen.folder().join("shop.key");
        let sound = recover(backwhen, &backwhen.history(), Some(&key));
        assert_eq!(sound.code, 0, "{}", sound.stderr);
        assert!(sound.script.is_some() && !sound.stderr.contains("not checked"), "{}", sound.stderr);
        Scene { backwhen, key, sound }
    }

    /// A copy of the history, attacked; with what a recovery with the key makes of it. Nothing foreign is in
    /// it, and what is there is the whole of what was right.
    fn attacked(&self, name: &str, attack: impl Fn(&Path)) -> (PathBuf, Recovery) {
        let folder = self.backwhen.folder().join(format!("attacked-{}", name.replace(' ', "-")));
        clone_folder(&self.backwhen.history(), &folder);
        attack(&folder);
        let recovery = recover(self.backwhen, &folder, Some(&self.key));
        let Recovery { code, stderr, script } = &recovery;
        assert!(!recovery.has(PLANTED), "{name}: what was planted is in the target");
        if *code == 0 {
            assert!(*script == self.sound.script, "{name}: the recovery is another one");
        } else {
            assert!(script.is_none(), "{name}: exit {code}, but there is a script");
        }
        assert!([0, DAMAGED, REFUSED].contains(code), "{name}: exit {code}: {stderr}");
        (folder, recovery)
    }

    /// The attack ends every recovery with the key; `verify` names it too.
    fn refuses(&self, name: &str, attack: impl Fn(&Path)) -> Recovery {
        let (folder, recovery) = self.attacked(name, attack);
        assert_eq!(recovery.code, DAMAGED, "{name}: {}", recovery.stderr);
        let verified = self.backwhen.run(&["verify", "--history", folder.to_str().unwrap()]);
        assert_eq!(verified.status.code(), Some(DAMAGED), "{name}: {}{}", verified.stdout, verified.stderr);
        recovery
    }

    /// The same, and without the key the attack would have worked.
    fn refuses_what_would_work(&self, name: &str, attack: impl Fn(&Path)) {
        let recovery = self.refuses(name, &attack);
        assert_says(&recovery.stderr, &["not written by a holder of the key"]);
        let folder = self.backwhen.folder().join(format!("attacked-{}", name.replace(' ', "-")));
        let believed = recover(self.backwhen, &folder, None);
        assert_eq!(believed.code, 0, "{name}: without the key: {}", believed.stderr);
        assert!(believed.script != self.sound.script, "{name}: it changes nothing even without the key");
        assert_says(&believed.stderr, &["not checked who wrote this history", "--key-file"]);
    }
}

/// An archive with a table of the attacker's, under its own digest; returns the digest.
fn plant_archive(server: &Server, history: &Path) -> String {
    let database = server.fresh_database("planted");
    server.psql(&database, &format!("CREATE TABLE {PLANTED} (id int)"));
    let archive = server.pg_dump(&database, &["--format=custom", "--schema-only"]);
    let digest = blake3::hash(&archive).to_hex().to_string();
    fs::write(history.join(format!("schemas/{digest}.dump")), archive).unwrap();
    digest
}

fn with_archive(text: &str, digest: &str) -> String {
    let at = text.find("\"archive\": \"").unwrap() + "\"archive\": \"".len();
    format!("{}{digest}{}", &text[..at], &text[at + 64..])
}

#[test]
fn no_manifest_is_believed_that_the_key_did_not_make() {
    let server = Server::shared(None);
    let backwhen = rich(&server);
    let scene = Scene::of(&backwhen);
    let each = |history: &Path, change: &dyn Fn(&Path)| {
        objects(history, "checkpoints", ".json").iter().for_each(|path| change(path));
    };
    scene.refuses_what_would_work("another archive", |history| {
        let digest = plant_archive(&server, history);
        each(history, &|path| forge(path, |text| with_archive(&text, &digest)));
        // A recovery of the tables would miss theirs; definitions alone do.
        each(history, &|path| forge(path, without_tables));
    });
    scene.refuses("another archive under the old tag", |history| {
        let digest = plant_archive(&server, history);
        each(history, &|path| forge_under_the_old_tag(path, |text| with_archive(&text, &digest)));
    });
    scene.refuses("each in the other's place", |history| {
        let paths = objects(history, "checkpoints", ".json");
        let texts: Vec<_> = paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
        let id = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
        for (path, text) in paths.iter().zip(texts.iter().rev()) {
            fs::write(path, text).unwrap();
            let theirs = paths.iter().map(|path| id(path)).find(|other| *other != id(path)).unwrap();
            forge_under_the_old_tag(path, |text| text.replace(&theirs, &id(path)));
        }
    });
    // One that is damaged is passed over, by name, as ever.
    let (_, recovery) = scene.attacked("the newest manifest", |history| {
        let newest = objects(history, "checkpoints", ".json").pop().unwrap();
        forge(&newest, |text| text.replace("\"label\": null", &format!("\"label\": \"{PLANTED}\"")));
    });
    assert_eq!(recovery.code, 0, "{}", recovery.stderr);
    assert_says(&recovery.stderr, &["not written by a holder of the key", "so an older one"]);
}

/// The manifest's text, with none of its tables.
fn without_tables(text: String) -> String {
    let mut object: serde_json::Value = serde_json::from_str(&format!("{{{text}")).unwrap();
    object["tables"] = serde_json::json!([]);
    object["sequences"] = serde_json::json!([]);
    format!("{}\n", serde_json::to_string_pretty(&object).unwrap())
}

#[test]
fn no_epoch_record_or_identity_is_believed_that_the_key_did_not_make() {
    let server = Server::shared(None);
    let backwhen = rich(&server);
    let scene = Scene::of(&backwhen);
    scene.refuses("epoch", |history| {
        let epoch = objects(history, "epochs", ".json").remove(0);
        forge(&epoch, |text| text.replace("\"cause\": \"init\"", "\"cause\": \"other\""));
    });
    scene.refuses("identity", |history| {
        forge(&history.join("history.json"), |text| text.replace("\"exclude\": []", "\"exclude\": [\"x\"]"));
    });
    scene.refuses("expiry record that hides the journal", |history| {
        let newest = objects(history, "checkpoints", ".json").pop().unwrap();
        let newest: serde_json::Value = serde_json::from_slice(&fs::read(newest).unwrap()).unwrap();
        let record = serde_json::json!({
            "format": 1, "at": newest["time"], "backwhen": "0", "rules": [], "checkpoint": newest["id"],
            "epoch": 1, "lsn": newest["lsn"], "time": newest["time"], "journal_from": newest["lsn"],
            "packs": [], "schemas": [],
        });
        let text = serde_json::to_string_pretty(&record).unwrap();
        put(&history.join("expired/20260101T000000000000Z.json"), &format!("{text}\n"));
    });
    // Evidence decides no recovery, but verify believes none that is forged.
    let (folder, recovery) = scene.attacked("evidence", |history| {
        let evidence = objects(history, "evidence", ".json").remove(0);
        forge(&evidence, |text| text.replace("\"checkpoints\": [", "\"checkpoints\": [[\"0009-1\", \"x\"],"));
    });
    assert_eq!(recovery.code, 0, "{}", recovery.stderr);
    let name = objects(&folder, "evidence", ".json").remove(0);
    let said = backwhen.run(&["verify", "--history", folder.to_str().unwrap()]);
    assert_eq!(said.status.code(), Some(DAMAGED));
    assert_says(&said.stdout, &[name.file_name().unwrap().to_str().unwrap(), "holder of the key"]);
    assert!(!said.stdout.contains("0009-1"), "{}", said.stdout);
}

#[test]
fn no_segment_or_row_of_the_catalog_is_believed_that_the_key_did_not_make() {
    let server = Server::shared(None);
    let backwhen = rich(&server);
    let scene = Scene::of(&backwhen);
    scene.refuses_what_would_work("rows of a sealed segment", |history| {
        // The first checkpoint is the only one from which those rows are folded.
        let newest = objects(history, "checkpoints", ".json").pop().unwrap();
        fs::remove_file(newest).unwrap();
        fs::remove_dir_all(history.join("evidence")).unwrap();
        rewrite_sealed(history, b"new 1", b"plan1");
    });
    scene.refuses("a block behind the open segment's end", append_to_open);
    scene.refuses("an older segment in a newer one's place", |history| {
        fs::remove_file(objects(history, "checkpoints", ".json").pop().unwrap()).unwrap();
        let sealed = objects(history, "journal", ".seg");
        fs::copy(&sealed[0], &sealed[1]).unwrap();
    });
    scene.refuses("a segment that is gone", |history| {
        fs::remove_file(&objects(history, "journal", ".seg")[0]).unwrap();
        for manifest in objects(history, "checkpoints", ".json").iter().skip(1) {
            fs::remove_file(manifest).unwrap();
        }
    });
    for change in [
        "UPDATE checkpoints SET lsn = lsn + 1000000, epoch = 7",
        "UPDATE checkpoints SET id = id || 'planted'",
        "UPDATE segments SET summary = json_set(summary, '$.end', '0/1')",
        "UPDATE segments SET summary = json_set(summary, '$.first_commit', NULL, '$.last_commit', NULL)",
        "UPDATE segments SET path = '../planted'",
        "UPDATE segments SET tag = zeroblob(32); UPDATE checkpoints SET tag = NULL",
    ] {
        let (_, recovery) = scene.attacked("catalog", |history| {
            let catalog = rusqlite::Connection::open(history.join("catalog.sqlite")).unwrap();
            catalog.execute_batch(change).unwrap();
        });
        assert_eq!(recovery.code, 0, "{change}: {}", recovery.stderr);
    }
}

#[test]
fn objects_of_another_history_under_the_same_key_are_not_believed() {
    let server = Server::shared(None);
    let backwhen = rich(&server);
    let scene = Scene::of(&backwhen);
    let other = shop(&server).with_env("BACKWHEN_KEY_FILE", scene.key.to_str().unwrap());
    other.init();
    server.psql(other.database(), CHANGES);
    other.ok(&["capture", "--until", "caught-up"]);
    let others = |folder: &str, ending: &str| objects(&other.history(), folder, ending).remove(0);
    scene.refuses("epoch of another history", |history| {
        fs::copy(others("epochs", ".json"), history.join("epochs/0001.json")).unwrap();
    });
    scene.refuses("manifests of another history", |history| {
        for path in objects(history, "checkpoints", ".json") {
            fs::copy(others("checkpoints", ".json"), path).unwrap();
        }
    });
    scene.refuses("segment of another history", |history| {
        let open = objects(history, "journal", ".open").pop().unwrap();
        fs::copy(others("journal", ".open"), open).unwrap();
    });
    // All of it is another history, which its id says; who names the wrong folder gets that one.
    scene.refuses("segment with this history's id", |history| {
        let open = objects(history, "journal", ".open").pop().unwrap();
        let header = fs::read(&open).unwrap()[..44].to_vec();
        let mut bytes = fs::read(others("journal", ".open")).unwrap();
        bytes[..44].copy_from_slice(&header);
        fs::write(open, bytes).unwrap();
    });
}

#[test]
fn a_key_that_is_given_is_never_passed_over() {
    let server = Server::shared(None);
    let backwhen = rich(&server);
    let scene = Scene::of(&backwhen);
    let (_, stripped) = scene.attacked("key record gone", strip_key);
    assert_eq!(stripped.code, REFUSED, "{}", stripped.stderr);
    assert_says(&stripped.stderr, &["names no key", "tampered"]);
    let (_, exchanged) = scene.attacked("another key's record", |history| {
        forge(&history.join("history.json"), |text| {
            let at = text.find("\"key\": {\n    \"id\": \"").unwrap() + "\"key\": {\n    \"id\": \"".len();
            format!("{}0123456789abcdef{}", &text[..at], &text[at + 16..])
        });
    });
    assert_eq!(exchanged.code, REFUSED, "{}", exchanged.stderr);

    let plain = shop(&server);
    plain.init();
    let wrong = plain.folder().join("wrong.key");
    fs::write(&wrong, format!("{}\n", "5a".repeat(32))).unwrap();
    for (history, why) in [(plain.history(), "names no key"), (backwhen.history(), "holds key")] {
        let refused = recover(&backwhen, &history, Some(&wrong));
        assert_eq!(refused.code, REFUSED, "{}", refused.stderr);
        assert_says(&refused.stderr, &[why]);
        assert!(refused.script.is_none());
    }
    let missing = recover(&backwhen, &backwhen.history(), Some(Path::new("absent.key")));
    assert_eq!(missing.code, REFUSED, "{}", missing.stderr);
}

#[test]
fn without_the_key_a_history_can_be_read_and_not_written() {
    let server = Server::shared(None);
    let backwhen = rich(&server);
    let scene = Scene::of(&backwhen);
    let history = backwhen.history();
    let unchecked = recover(&backwhen, &history, None);
    assert_eq!(unchecked.code, 0, "{}", unchecked.stderr);
    assert!(unchecked.script == scene.sound.script);
    assert_eq!(unchecked.stderr.matches("not checked who wrote this history").count(), 1);

    let copied = backwhen.folder().join("copied");
    let copied = copied.to_str().unwrap();
    let before: Vec<_> =
        objects(&history, "journal", "").into_iter().map(|path| fs::read(path).unwrap()).collect();
    let writing: [&[&str]; 6] = [
        &["capture", "--until", "caught-up"],
        &["checkpoint"],
        &["resync"],
        &["copy", "--to", copied],
        &["repair", "--from", copied],
        &["expire", "--keep-last", "1", "--apply"],
    ];
    backwhen.ok(&["copy", "--to", copied]);
    for arguments in writing {
        let mut command = backwhen.command(arguments);
        let output = command.env_remove("BACKWHEN_KEY_FILE").output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(REFUSED), "{arguments:?}: {stderr}");
        assert_says(&stderr, &["--key-file"]);
    }
    let after: Vec<_> =
        objects(&history, "journal", "").into_iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(before == after);
    let shown = backwhen.json(&["status", "--offline"]);
    assert_eq!(shown["key"]["checked"], true, "{shown}");
}

#[test]
fn a_copy_keeps_the_tags_and_heals_what_was_forged() {
    let server = Server::shared(None);
    let backwhen = rich(&server);
    let copied = backwhen.folder().join("copied");
    let to = copied.to_str().unwrap();
    backwhen.ok(&["copy", "--to", to]);
    backwhen.ok(&["verify", "--history", to]);
    let history = backwhen.history();
    let sound = fs::read(history.join("epochs/0001.json")).unwrap();
    forge(&history.join("epochs/0001.json"), |text| text.replace("\"init\"", "\"other\""));
    rewrite_sealed(&history, b"new 1", b"plan1");
    backwhen.fails(DAMAGED, &["verify"]);
    backwhen.ok(&["repair", "--from", to]);
    assert_eq!(fs::read(history.join("epochs/0001.json")).unwrap(), sound);
    backwhen.ok(&["verify", "--prove"]);
    // The other way round: nothing forged is taken from a copy.
    forge(&copied.join("epochs/0001.json"), |text| text.replace("\"init\"", "\"other\""));
    fs::remove_file(history.join("epochs/0001.json")).unwrap();
    backwhen.fails(DAMAGED, &["repair", "--from", to]);
    assert!(!history.join("epochs/0001.json").exists());
}

#[test]
fn a_key_lies_outside_of_the_history() {
    let server = Server::shared(None);
    let backwhen = shop(&server);
    let inside = backwhen.history().join("key");
    let arguments = ["init", "--source", &backwhen.source(), "--key-file", inside.to_str().unwrap()];
    assert_says(&backwhen.fails(REFUSED, &arguments), &["inside the history"]);
    let slots = server.psql(
        backwhen.database(),
        "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()",
    );
    assert_eq!(slots.trim(), "0");
    assert!(!inside.exists());
}
