//! Histories in an object store, on a real S3 server. Without that server's program these tests are skipped.

mod cached;
mod clouds;
mod damage;
mod dispersed;
mod encrypted;
mod faults;
mod lag;
mod reading;
mod standing;
mod told;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::s3::S3Server;
use crate::support::s3_faults::FaultyS3;
use crate::support::shop::{CHANGES, assert_says, shop};
use crate::support::{Backwhen, Server};

/// Where a copy to an object store can die.
pub const STORE: &[&str] =
    &["store.put", "store.put-done", "disperse.put", "disperse.put-done", "disperse.repair"];

const CHANGES_AGAIN: &str = "
    INSERT INTO visits (page) SELECT md5(n::text) FROM generate_series(1, 300) n;
    UPDATE orders SET note = note || '.' WHERE id <= 20";

mod exit {
    pub const USAGE: i32 = 2;
    pub const UNAVAILABLE: i32 = 10;
    pub const DAMAGED: i32 = 12;
    pub const LOCKED: i32 = 13;
    pub const REFUSED: i32 = 14;
}

/// A captured shop, and a place for its copy on the server that the tests share.
struct Stored {
    server: &'static S3Server,
    backwhen: Backwhen,
    /// The bucket and the prefix.
    path: String,
    /// The address of the copy.
    url: String,
}

impl Stored {
    /// A history with sealed segments, an open one, and a folded checkpoint. `None` without an S3 server.
    fn begin() -> Option<Stored> {
        Stored::begin_in("first")
    }

    /// In another bucket than the first, the history has a key.
    fn begin_in(bucket: &str) -> Option<Stored> {
        Stored::begin_on(&Server::shared(None), bucket)
    }

    fn begin_on(source: &Server, bucket: &str) -> Option<Stored> {
        let path = format!("{bucket}/{}", Stored::prefix());
        let url = format!("s3://{path}");
        let server = S3Server::shared()?;
        Some(Stored::begin_at(source, server, path, url, &server.variables("owner")))
    }

    /// A prefix that no other copy has.
    fn prefix() -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        format!("shop-{}", NUMBER.fetch_add(1, Ordering::Relaxed))
    }

    /// A history whose commands reach the store of its copy, `url`, by these variables.
    fn begin_at(
        source: &Server,
        server: &'static S3Server,
        path: String,
        url: String,
        variables: &[(String, String)],
    ) -> Stored {
        let mut backwhen = shop(source).with_env("BACKWHEN_TEST_ROLL_AT", "20000");
        for (name, value) in variables {
            backwhen = backwhen.with_env(name, value);
        }
        let cache = text(&backwhen.folder().join("cache"));
        let key = text(&backwhen.folder().join("key"));
        let mut backwhen = backwhen.with_env("BACKWHEN_CACHE", &cache);
        if url.starts_with("s3://") && !path.starts_with("first/") {
            backwhen = backwhen.with_env("BACKWHEN_KEY_FILE", &key);
        }
        backwhen.init();
        let stored = Stored { server, backwhen, path, url };
        stored.change(CHANGES);
        stored.backwhen.ok(&["checkpoint"]);
        stored.change(CHANGES_AGAIN);
        stored
    }

    /// A history as that of [`Stored::begin`], whose commands reach the server through a proxy that fails as `seed` says.
    fn begin_behind_a_proxy(seed: u64) -> Option<(Stored, FaultyS3)> {
        Stored::begin().map(|stored| stored.behind_faults(seed))
    }

    fn behind_faults(mut self, seed: u64) -> (Stored, FaultyS3) {
        let proxy = FaultyS3::before(self.server, seed);
        for (name, value) in proxy.variables("owner") {
            self.backwhen = self.backwhen.with_env(&name, &value);
        }
        // The pauses between tries are of milliseconds, and as many as ever.
        self.backwhen = self.backwhen.with_env("BACKWHEN_TEST_PAUSES", "10");
        (self, proxy)
    }

    fn change(&self, sql: &str) {
        self.backwhen.server().psql(self.backwhen.database(), sql);
        self.backwhen.ok(&["capture", "--until", "caught-up"]);
    }

    fn url(&self) -> String {
        self.url.clone()
    }

    fn copy(&self) -> serde_json::Value {
        self.backwhen.json(&["copy", "--to", &self.url()])
    }

    /// The arguments with the copy in the object store as the history.
    fn remote<'a>(&'a self, url: &'a str, arguments: &[&'a str]) -> Vec<&'a str> {
        [arguments, &["--history", url]].concat()
    }

    /// A script of the latest moment, as sorted lines.
    fn latest(&self, history: &str) -> Vec<String> {
        let file = self.backwhen.folder().join("latest.sql");
        let into = format!("sql:{}", file.display());
        self.backwhen.ok(&["recover", "--history", history, "--to", "latest", "--into", &into]);
        let script = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        // Newer pg_restores put in a random key.
        let mut lines: Vec<_> =
            script.lines().filter(|line| !line.contains("restrict")).map(str::to_owned).collect();
        lines.sort();
        lines
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// The objects of a history in a folder, by their names, with their bytes.
fn objects(history: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for folder in ["packs", "schemas", "epochs", "journal", "checkpoints", "evidence"] {
        let files = std::fs::read_dir(history.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        found.extend(files.map(|path: PathBuf| {
            let name = format!("{folder}/{}", path.file_name().unwrap().to_str().unwrap());
            (name, std::fs::read(&path).unwrap())
        }));
    }
    found.insert("history.json".into(), std::fs::read(history.join("history.json")).unwrap());
    found
}

#[test]
fn a_history_whose_machine_is_gone_is_recovered_from_its_copy_in_an_object_store() {
    let Some(stored) = Stored::begin() else { return };
    let (backwhen, url) = (&stored.backwhen, stored.url());
    let copied = stored.copy();
    assert!(copied["ok"] == true && copied["objects"].as_u64().unwrap() > 5, "{copied}");
    let again = stored.copy();
    assert_eq!((&again["objects"], &again["bytes"]), (&0.into(), &0.into()), "{again}");
    for _ in 0..2 {
        stored.change(CHANGES_AGAIN);
        let grown = stored.copy();
        assert!(grown["objects"].as_u64().unwrap() <= 3, "only what is new is sent: {grown}");
    }
    backwhen.ok(&["verify"]);
    let copied = stored.copy();
    let truth = stored.latest(&text(&backwhen.history()));
    let status = |history: &str| backwhen.json(&["status", "--offline", "--history", history]);
    let ends = status(&text(&backwhen.history()))["window"]["latest"]["lsn"].clone();
    assert_eq!(copied["end"], ends);
    let original = objects(&backwhen.history());

    std::fs::remove_dir_all(backwhen.history()).unwrap();
    assert_eq!(status(&url)["window"]["latest"]["lsn"], ends);
    assert_eq!(stored.latest(&url), truth);
    backwhen.ok(&stored.remote(&url, &["verify", "--prove"]));
    // All that is local may be deleted at any time.
    std::fs::remove_dir_all(backwhen.folder().join("cache")).unwrap();
    assert_eq!(stored.latest(&url), truth);

    // A folder is made of the copy again, byte for byte; of the open segment, up to its last transaction.
    let back = backwhen.folder().join("back");
    backwhen.ok(&["copy", "--history", &url, "--to", &text(&back)]);
    let back_again = objects(&back);
    for (name, whole) in &original {
        let bytes = back_again.get(name).unwrap_or_else(|| panic!("{name} is gone"));
        let is_same = if name.ends_with(".open") { whole.starts_with(bytes) } else { bytes == whole };
        assert!(is_same, "{name}");
    }
    assert_eq!(stored.latest(&text(&back)), truth);
}

#[test]
fn a_copy_that_is_killed_goes_on_where_it_was() {
    let Some(stored) = Stored::begin() else { return };
    let (backwhen, url) = (&stored.backwhen, stored.url());
    let (mut valid, mut left_behind) = (0, 0);
    for (point, number) in [("store.put", 3), ("store.put-done", 5), ("store.put-done", 1)] {
        let mut command = backwhen.command(&["copy", "--to", &url, "--wait", "10m"]);
        command.env("BACKWHEN_TEST_POINT", format!("{point}=kill@{number}"));
        // The lease of a killed copy is free after three seconds and not after thirty.
        command.env("BACKWHEN_TEST_LEASE", "3");
        let output = command.output().unwrap();
        assert!(output.status.code().is_none(), "{point}: {}", String::from_utf8_lossy(&output.stderr));
        left_behind += drafts(backwhen);
        let seen = backwhen.run(&stored.remote(&url, &["verify"]));
        valid += i32::from(seen.status.success());
        let is_none_yet = seen.stderr.contains("holds no history");
        assert!(seen.status.success() || is_none_yet, "{}{}", seen.stdout, seen.stderr);
        assert_eq!(
            drafts(backwhen),
            0,
            "the next command takes away what was left, also one that only reads"
        );
        stored.change(CHANGES_AGAIN);
    }
    let mut command = backwhen.command(&["copy", "--to", &url, "--wait", "10m"]);
    let copied = command.env("BACKWHEN_TEST_LEASE", "3").output().unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    backwhen.ok(&stored.remote(&url, &["verify"]));
    assert_eq!(stored.latest(&url), stored.latest(&text(&backwhen.history())), "{valid} times valid before");
    assert_eq!(drafts(backwhen), 0, "of {left_behind} that were left behind");
    assert!(left_behind > 0, "no kill left a draft behind");
}

/// The unfinished objects in the folders of the cache.
fn drafts(backwhen: &Backwhen) -> usize {
    let folders = std::fs::read_dir(backwhen.folder().join("cache")).unwrap();
    let live = folders.filter_map(|folder| std::fs::read_dir(folder.unwrap().path().join("live")).ok());
    let names = live.flatten().map(|file| file.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("draft.")).count()
}

#[test]
fn a_prefix_that_holds_another_history_is_refused_and_so_are_commands_that_need_the_folder() {
    let (Some(one), Some(other)) = (Stored::begin(), Stored::begin()) else { return };
    let url = one.url();
    one.copy();
    assert_says(&other.backwhen.fails(exit::REFUSED, &["copy", "--to", &url]), &["another history"]);
    let source = one.backwhen.source();
    for command in [
        &["capture"][..],
        &["init", "--source", &source],
        &["checkpoint"],
        &["mark", "now"],
        &["resync"],
        &["drop"],
        &["check", "--against-source"],
        &["repair", "--from", "/nowhere"],
        &["rewind", "--to", "latest", "--table", "orders"],
        &["undo", "xid:1"],
    ] {
        let said = one.backwhen.fails(exit::USAGE, &one.remote(&url, command));
        assert_says(&said, &[&format!("backwhen {}", command[0]), "works on the folder", &url]);
    }
    for wrong in ["ftp://a/b", "s3://", "s3://a/../b"] {
        one.backwhen.fails(exit::USAGE, &["status", "--history", wrong]);
    }
    let nothing = format!("{url}/nothing");
    assert_says(
        &one.backwhen.fails(exit::REFUSED, &["status", "--history", &nothing]),
        &["holds no history"],
    );
}
