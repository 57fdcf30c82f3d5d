//! Full and read-only disks, as small file systems that the test mounts.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::shop::{CHANGES, assert_says, assert_source_clean, captured_shop, shop};
use crate::support::{Backwhen, Dump, Server, assert_same, scratch_folder};
use crate::trouble::exit;

/// A small file system in memory; goes with the value.
pub struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    /// `None`, with the reason on standard error, where this machine does not let us mount.
    pub fn mount(size: &str) -> Option<Disk> {
        let folder = scratch_folder("backwhen-disk-");
        let disk = Disk { folder };
        let output = disk.run(&format!("size={size}"), &["-t", "tmpfs", "tmpfs"]);
        if !output.status.success() {
            eprintln!(
                "skipped: cannot mount a file system here: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            return None;
        }
        Some(disk)
    }

    pub fn remount(&self, options: &str) {
        let output = self.run(&format!("remount,{options}"), &[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Makes writing to this file system fail, until [`Disk::allow_writing`].
    fn forbid_writing(&self, way: &str) {
        match way {
            "read-only" => self.remount("ro"),
            _ => self.fill(0),
        }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves as much room as this on the file system, in bytes.
    pub fn fill(&self, room: u64) {
        let mut filler = std::fs::File::create(self.path("filler")).unwrap();
        let error = std::io::copy(&mut std::io::repeat(0), &mut filler).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        filler.set_len(filler.metadata().unwrap().len() - room).unwrap();
    }

    pub fn allow_writing(&self) {
        self.remount("rw");
        let _ = std::fs::remove_file(self.path("filler"));
    }

    fn run(&self, options: &str, more: &[&str]) -> std::process::Output {
        Command::new("mount").args(["-o", options]).args(more).arg(self.folder.path()).output().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.folder.path()).output();
    }
}

/// Files under a folder, their paths sorted; only those of unfinished writes, if `unfinished`.
fn files(folder: &Path, unfinished: bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path(), unfinished));
        } else if !unfinished || entry.path().extension().is_some_and(|extension| extension == "tmp") {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// Rows that no compression makes small.
pub fn random_rows(backwhen: &Backwhen, table: &str, kilobytes: usize) {
    let sql = format!(
        "INSERT INTO {table} SELECT n, (SELECT string_agg(md5(random()::text || n::text || part::text), '') FROM generate_series(1, 32) part) \
         FROM generate_series((SELECT coalesce(max(id), 0) + 1 FROM {table}), (SELECT coalesce(max(id), 0) + {kilobytes} FROM {table})) n"
    );
    backwhen.server().psql(backwhen.database(), &sql);
}

pub fn with_history(disk: &Disk, backwhen: Backwhen) -> Backwhen {
    backwhen.with_env("BACKWHEN_HISTORY", disk.path("history").to_str().unwrap())
}

#[test]
fn init_on_a_full_disk_leaves_nothing() {
    let Some(disk) = Disk::mount("1m") else { return };
    let server = Server::shared(None);
    let backwhen = with_history(&disk, shop(&server));
    server.psql(backwhen.database(), "CREATE TABLE big (id int PRIMARY KEY, v text)");
    random_rows(&backwhen, "big", 4000);
    let message = backwhen.fails(exit::UNAVAILABLE, &["init", "--source", &backwhen.source()]);
    assert_says(&message, &["No space left on device", disk.folder.path().to_str().unwrap()]);
    assert_source_clean(&server, backwhen.database());
    assert!(
        files(&disk.path("history"), false)
            .iter()
            .all(|file| file.extension().is_some_and(|it| it == "lock"))
    );
    disk.remount("size=64m");
    backwhen.init();
    backwhen.ok(&["verify"]);
}

#[test]
fn capture_on_a_full_disk_keeps_what_it_has_and_goes_on_once_there_is_room() {
    let Some(disk) = Disk::mount("2m") else { return };
    let server = Server::shared(None);
    let backwhen = with_history(&disk, shop(&server));
    server.psql(backwhen.database(), "CREATE TABLE big (id int PRIMARY KEY, v text)");
    backwhen.init();
    random_rows(&backwhen, "big", 300);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let before = backwhen.json(&["recover", "--to", "latest", "--dry-run"]);
    random_rows(&backwhen, "big", 6000);

    let failed = backwhen.run(&["capture", "--until", "caught-up", "--patience", "1s"]);
    assert_eq!(failed.status.code(), Some(exit::UNAVAILABLE), "{}", failed.stderr);
    assert_says(&failed.stderr, &["No space left on device", disk.folder.path().to_str().unwrap()]);
    // All that there was is still there, and what is confirmed is what is durable.
    let moment = before["moment"]["lsn"].as_str().unwrap();
    let again = backwhen.json(&["recover", "--to", moment, "--dry-run"]);
    assert_eq!(again["moment"]["lsn"], before["moment"]["lsn"]);
    backwhen.ok(&["verify"]);
    let status = backwhen.json(&["status"]);
    let lsn = |value: &serde_json::Value| value.as_str().unwrap().parse::<backwhen::model::Lsn>().unwrap();
    assert!(lsn(&status["slot"]["confirmed"]) <= lsn(&status["window"]["latest"]["lsn"]), "{status}");

    let mut capture = backwhen.spawn_capture();
    capture.allow("No space left on device").allow("WARN").wait_for_line("No space left on device");
    disk.remount("size=64m");
    capture.wait_caught_up();
    capture.stop();
    backwhen.ok(&["verify", "--prove"]);
    assert_eq!(backwhen.json_lines(&["list", "gaps"]).len(), 0);
    let into = format!("full_of_{}", backwhen.database());
    backwhen.ok(&["recover", "--to", "latest", "--create", "--into", &server.conninfo(&into)]);
    let rows = "SELECT count(*), md5(string_agg(v, '' ORDER BY id)) FROM big";
    assert_eq!(server.psql(&into, rows), server.psql(backwhen.database(), rows));
}

#[test]
fn a_checkpoint_on_a_full_disk_leaves_the_history_whole() {
    let Some(disk) = Disk::mount("3m") else { return };
    let server = Server::shared(None);
    let backwhen = with_history(&disk, shop(&server));
    server.psql(backwhen.database(), "CREATE TABLE big (id int PRIMARY KEY, v text)");
    backwhen.init();
    random_rows(&backwhen, "big", 4500);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    assert_says(&backwhen.fails(exit::REFUSED, &["checkpoint"]), &["there is room for", "--despite-room"]);
    let message = backwhen.fails(exit::UNAVAILABLE, &["checkpoint", "--despite-room"]);
    assert_says(&message, &["No space left on device"]);
    assert_eq!(backwhen.json_lines(&["list", "checkpoints"]).len(), 1);
    assert_eq!(files(&disk.path("history"), true), Vec::<PathBuf>::new(), "left behind");
    backwhen.ok(&["verify"]);
    disk.remount("size=64m");
    backwhen.ok(&["checkpoint"]);
    backwhen.ok(&["verify", "--prove"]);
}

#[test]
fn a_recovery_onto_a_full_disk_leaves_no_file() {
    let Some(disk) = Disk::mount("64k") else { return };
    let backwhen = captured_shop(&Server::shared(None));
    for kind in ["sql", "sqlite"] {
        let path = disk.path(&format!("shop.{kind}"));
        let into = format!("{kind}:{}", path.display());
        let message = backwhen.fails(exit::UNAVAILABLE, &["recover", "--to", "latest", "--into", &into]);
        assert!(message.contains("No space left on device") || message.contains("disk is full"), "{message}");
        assert_eq!(files(disk.folder.path(), false), Vec::<PathBuf>::new());
    }
    disk.remount("size=16m");
    for kind in ["sql", "sqlite"] {
        let into = format!("{kind}:{}", disk.path(&format!("shop.{kind}")).display());
        backwhen.ok(&["recover", "--to", "latest", "--into", &into]);
    }
}

/// Ways in which nothing can be written to a history's disk, and what the operating system says of it.
const UNWRITABLE: [(&str, &str); 2] =
    [("read-only", "Read-only file system"), ("full", "No space left on device")];

/// The states of the catalog's file: it knows all objects, it knows those from before the changes, or it is not there.
const CATALOGS: [&str; 3] = ["current", "stale", "gone"];

#[test]
fn a_history_that_cannot_be_written_to_can_be_recovered_from() {
    let Some(disk) = Disk::mount("32m") else { return };
    let server = Server::shared(None);
    let backwhen = shop(&server);
    backwhen.init();
    backwhen.ok(&["recover", "--to", "latest", "--dry-run"]);
    let local = backwhen.folder().join("history");
    std::fs::copy(local.join("catalog.sqlite"), disk.path("stale")).unwrap();
    server.psql(backwhen.database(), CHANGES);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let copied = Command::new("cp").arg("-a").arg(&local).arg(disk.path("history")).status();
    assert!(copied.unwrap().success());
    std::fs::copy(disk.path("history/catalog.sqlite"), disk.path("current")).unwrap();
    let backwhen = with_history(&disk, backwhen);
    let expected = backwhen.json(&["recover", "--to", "latest", "--dry-run"]);
    for (way, says) in UNWRITABLE {
        for catalog in CATALOGS {
            let _ = std::fs::remove_file(disk.path("history/catalog.sqlite"));
            if catalog != "gone" {
                std::fs::copy(disk.path(catalog), disk.path("history/catalog.sqlite")).unwrap();
            }
            disk.forbid_writing(way);
            assert_eq!(
                backwhen.json(&["recover", "--to", "latest", "--dry-run"]),
                expected,
                "{way}, {catalog}"
            );
            let into = format!("{}_{catalog}_of_{}", way.replace('-', "_"), backwhen.database());
            backwhen.ok(&["recover", "--to", "latest", "--create", "--into", &server.conninfo(&into)]);
            assert_same(&Dump::of(&server, backwhen.database()), &Dump::of(&server, &into));
            for command in [&["status"][..], &["list", "segments"], &["log"], &["verify", "--prove"]] {
                backwhen.ok(command);
            }
            // The catalog that was removed has left some room.
            disk.forbid_writing(way);
            let message = backwhen.fails(exit::UNAVAILABLE, &["checkpoint", "--despite-room"]);
            assert_says(&message, &[says]);
            if way == "read-only" {
                let capture = ["capture", "--until", "caught-up", "--patience", "1s"];
                assert_says(&backwhen.fails(exit::UNAVAILABLE, &capture), &[says]);
            }
            disk.allow_writing();
        }
    }
    backwhen.ok(&["capture", "--until", "caught-up"]);
}

#[test]
fn the_catalog_costs_no_answer_however_little_room_there_is_for_it() {
    let Some(disk) = Disk::mount("32m") else { return };
    let server = Server::shared(None);
    let backwhen = with_history(&disk, shop(&server));
    backwhen.init();
    server.psql(backwhen.database(), CHANGES);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let question = ["recover", "--to", "latest", "--dry-run"];
    let expected = backwhen.json(&question);
    for kilobytes in (0..160).step_by(8) {
        let _ = std::fs::remove_file(disk.path("history/catalog.sqlite"));
        disk.fill(kilobytes << 10);
        assert_eq!(backwhen.json(&question), expected, "with {kilobytes} KB of room");
        disk.allow_writing();
    }
}
