//! Copies that are dispersed over several folders, of which some are lost, slow, damaged, outdated or not mounted.

use std::path::{Path, PathBuf};

use super::{CHANGES_AGAIN, Stored, exit, text};
use crate::support::shop::{CHANGES, assert_says, shop};
use crate::support::{Backwhen, Server, wait_for};

/// A captured shop, and folders for a copy that is dispersed over them.
pub(super) struct Shop {
    pub(super) backwhen: Backwhen,
    k: usize,
    m: usize,
}

impl Shop {
    pub(super) fn begin(k: usize, m: usize) -> Shop {
        let backwhen = shop(&Server::shared(None)).with_env("BACKWHEN_TEST_ROLL_AT", "20000");
        let cache = text(&backwhen.folder().join("cache"));
        let backwhen = backwhen.with_env("BACKWHEN_CACHE", &cache);
        backwhen.init();
        let shop = Shop { backwhen, k, m };
        shop.change(CHANGES);
        shop.backwhen.ok(&["checkpoint"]);
        shop.change(CHANGES_AGAIN);
        shop
    }

    fn change(&self, sql: &str) {
        self.backwhen.server().psql(self.backwhen.database(), sql);
        self.backwhen.ok(&["capture", "--until", "caught-up"]);
    }

    pub(super) fn folder(&self, number: usize) -> PathBuf {
        self.backwhen.folder().join(format!("member-{number}"))
    }

    pub(super) fn member(&self, number: usize) -> String {
        format!("file://{}", self.folder(number).display())
    }

    pub(super) fn address(&self) -> String {
        let members: Vec<_> = (0..self.k + self.m).map(|number| self.member(number)).collect();
        format!("disperse:k={},m={},{}", self.k, self.m, members.join(","))
    }

    fn copy(&self) -> serde_json::Value {
        self.backwhen.json(&["copy", "--to", &self.address()])
    }

    fn verify(&self) -> serde_json::Value {
        self.backwhen.json(&["verify", "--history", &self.address()])
    }

    /// A script of the latest moment, as sorted lines.
    fn latest(&self, history: &str) -> Vec<String> {
        let file = self.backwhen.folder().join("latest.sql");
        let _ = std::fs::remove_file(&file);
        let into = format!("sql:{}", file.display());
        self.backwhen.ok(&["recover", "--history", history, "--to", "latest", "--into", &into]);
        let script = std::fs::read_to_string(&file).unwrap();
        // Newer pg_restores put in a random key.
        let mut lines: Vec<_> =
            script.lines().filter(|line| !line.contains("restrict")).map(str::to_owned).collect();
        lines.sort();
        lines
    }

    fn truth(&self) -> Vec<String> {
        self.latest(&text(&self.backwhen.history()))
    }

    fn shards(&self, number: usize) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder(number).join("shards")).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|it| it == "shard"));
        paths.sort();
        paths
    }

    fn visits(&self, history: &str) -> usize {
        let sql = "SELECT count(*) FROM visits WHERE page LIKE 'visit %'";
        let asked = self.backwhen.ok(&["query", sql, "--at", "latest", "--history", history, "--quiet"]);
        asked.lines().find_map(|line| line.trim().parse().ok()).unwrap_or(0)
    }
}

fn copy_folder(from: &Path, to: &Path) {
    let done = std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(done.success());
}

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes.len() / 3;
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn what_was_confirmed_outlives_the_machine_one_store_and_the_slowness_of_another() {
    let shop = Shop::begin(4, 2);
    let (backwhen, address) = (&shop.backwhen, shop.address());
    let mut capture = backwhen.spawn_capture_with(&["--also", &address, "--durable", "store"]);
    capture.wait_streaming();
    let slot = backwhen.json(&["status", "--offline"])["slot"]["name"].as_str().unwrap().to_owned();
    let confirmed = || {
        let sql = format!("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{slot}'");
        backwhen.server().psql(backwhen.database(), &sql).parse::<backwhen::model::Lsn>().unwrap()
    };
    let visit = |from: u32, to: u32| {
        let rows: String =
            (from..=to).map(|n| format!("INSERT INTO visits (page) VALUES ('visit {n}');\n")).collect();
        backwhen.server().psql(backwhen.database(), &rows);
        let end = backwhen.server().psql(backwhen.database(), "SELECT pg_current_wal_insert_lsn()");
        end.parse::<backwhen::model::Lsn>().unwrap()
    };
    let first = visit(1, 30);
    wait_for("the copy is confirmed", || confirmed() >= first);
    // A store goes while capture writes; one may be missing for a put.
    std::fs::rename(shop.folder(1), backwhen.folder().join("lost")).unwrap();
    capture.allow("is away");
    let second = visit(31, 60);
    wait_for("the copy is confirmed without that store", || confirmed() >= second);
    capture.kill();
    std::fs::remove_dir_all(backwhen.history()).unwrap();
    let slow = shop_with_slow(backwhen, 3);
    let asked = slow(&[
        "query",
        "SELECT count(*) FROM visits WHERE page LIKE 'visit %'",
        "--at",
        "latest",
        "--history",
        &address,
    ]);
    assert!(asked.contains("60"), "{asked}");
    let shown = backwhen.json(&["status", "--offline", "--history", &address]);
    let stores = &shown["dispersal"]["stores"];
    assert!(stores[1]["away"].is_string() && stores[0]["away"].is_null(), "{shown}");
    let told = backwhen.ok(&["verify", "--history", &address]);
    assert_says(&told, &["all is well", "any 1 of the stores may be lost, and not 2", "away"]);

    let back = text(&backwhen.folder().join("back"));
    backwhen.ok(&["copy", "--history", &address, "--to", &back]);
    assert_eq!(shop.visits(&back), 60);
    backwhen.ok(&["verify", "--prove", "--history", &back]);
    backwhen.ok(&["capture", "--history", &back, "--also", &address, "--until", "caught-up"]);
    let healed = backwhen.ok(&["repair", "--history", &address, "--refill", &shop.member(1)]);
    assert_says(&healed, &["any 2 of the stores may be lost", "again"]);
    assert_eq!(shop.verify()["dispersal"]["could_lose"], 2);
}

/// Runs commands that find one of the stores slow.
fn shop_with_slow(backwhen: &Backwhen, number: usize) -> impl Fn(&[&str]) -> String + '_ {
    move |arguments| {
        let mut command = backwhen.command(arguments);
        let output = command.env("BACKWHEN_TEST_PAUSE", format!("disperse.{number}:3000")).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

#[test]
fn a_copy_that_is_killed_at_any_put_goes_on_where_it_was() {
    let shop = Shop::begin(2, 2);
    let (backwhen, address) = (&shop.backwhen, shop.address());
    let mut valid = 0;
    for (point, number) in [
        ("disperse.put", 1),
        ("disperse.put", 3),
        ("disperse.put-done", 6),
        ("disperse.put", 17),
        ("disperse.put-done", 18),
        ("disperse.put", 31),
        ("disperse.put-done", 9),
        ("disperse.put", 22),
    ] {
        let mut command = backwhen.command(&["copy", "--to", &address]);
        command.env("BACKWHEN_TEST_POINT", format!("{point}=kill@{number}"));
        let died = command.output().unwrap().status.code().is_none();
        let seen = backwhen.run(&["verify", "--history", &address]);
        let is_none_yet = seen.stderr.contains("holds no history");
        assert!(seen.status.success() || is_none_yet, "{point} {number}: {}{}", seen.stdout, seen.stderr);
        valid += usize::from(seen.status.success());
        assert!(died || valid > 0, "{point} {number} was never met");
        shop.change(CHANGES_AGAIN);
    }
    shop.copy();
    let verified = shop.verify();
    // The last store may lack its part of an object that a killed process has put into a quorum.
    assert!(verified["dispersal"]["could_lose"].as_u64() >= Some(1), "{verified}");
    assert_eq!(verified["dispersal"]["remnants"], 0, "{verified}");
    backwhen.ok(&["repair", "--history", &address]);
    assert_eq!(shop.verify()["dispersal"]["could_lose"], 2);
    assert_eq!(shop.latest(&address), shop.truth(), "{valid} times valid before");
}

#[test]
fn repairs_of_two_processes_one_killed_and_a_capture_at_once_leave_every_store_whole() {
    let shop = Shop::begin(3, 2);
    let (backwhen, address) = (&shop.backwhen, shop.address());
    shop.copy();
    // Two shards of many objects are damaged or gone.
    for (number, path) in shop.shards(0).iter().enumerate() {
        if number % 2 == 0 { flip(path) } else { std::fs::remove_file(path).unwrap() }
    }
    shop.shards(3).iter().step_by(3).for_each(|path| flip(path));
    assert_eq!(shop.verify()["dispersal"]["could_lose"], 0);
    let mut command = backwhen.command(&["repair", "--history", &address]);
    command.env("BACKWHEN_TEST_POINT", "disperse.repair=kill@4");
    assert!(command.output().unwrap().status.code().is_none(), "the repair did not die");
    let mut capture = backwhen.spawn_capture_with(&["--also", &address]);
    capture.wait_streaming();
    std::thread::scope(|scope| {
        let repair = || backwhen.run(&["repair", "--history", &address]);
        let both: Vec<_> = (0..2).map(|_| scope.spawn(repair)).collect();
        backwhen.server().psql(backwhen.database(), CHANGES_AGAIN);
        for repaired in both {
            let repaired = repaired.join().unwrap();
            // A shard that the other one is at work on may be left to it.
            assert!(matches!(repaired.status.code(), Some(0 | 12)), "{}{}", repaired.stdout, repaired.stderr);
        }
    });
    capture.stop();
    shop.copy();
    let healed = backwhen.ok(&["repair", "--history", &address]);
    assert_says(&healed, &["any 2 of the stores may be lost"]);
    for pair in [(0, 1), (2, 4)] {
        for number in [pair.0, pair.1] {
            std::fs::rename(shop.folder(number), backwhen.folder().join(format!("gone-{number}"))).unwrap();
        }
        assert_eq!(shop.latest(&address), shop.truth(), "{pair:?}");
        for number in [pair.0, pair.1] {
            std::fs::rename(backwhen.folder().join(format!("gone-{number}")), shop.folder(number)).unwrap();
        }
    }
}

#[test]
fn an_empty_mount_point_is_left_empty_and_a_store_with_an_old_state_is_made_whole() {
    let shop = Shop::begin(4, 2);
    let (backwhen, address) = (&shop.backwhen, shop.address());
    shop.copy();
    let (old, unmounted) = (backwhen.folder().join("old"), backwhen.folder().join("unmounted"));
    copy_folder(&shop.folder(2), &old);
    std::fs::rename(shop.folder(5), &unmounted).unwrap();
    std::fs::create_dir(shop.folder(5)).unwrap();
    shop.change(CHANGES_AGAIN);
    let copied = backwhen.run(&["copy", "--to", &address]);
    assert!(copied.status.success(), "{}", copied.stderr);
    assert_says(&copied.stderr, &["dispersal.json is missing", "backwhen repair --refill"]);
    let left = std::fs::read_dir(shop.folder(5)).unwrap().count();
    assert_eq!(left, 0, "the disk below the mount point is not filled");
    // It is mounted again, and another store is brought back from a backup.
    std::fs::remove_dir(shop.folder(5)).unwrap();
    std::fs::rename(&unmounted, shop.folder(5)).unwrap();
    std::fs::remove_dir_all(shop.folder(2)).unwrap();
    std::fs::rename(&old, shop.folder(2)).unwrap();
    let glance = backwhen.json(&["status", "--offline", "--history", &address]);
    let stores = &glance["dispersal"]["stores"];
    assert!(stores[5]["lacks"].as_u64() > Some(0) && stores[2]["lacks"].as_u64() > Some(0), "{glance}");
    assert_eq!(shop.latest(&address), shop.truth());
    backwhen.ok(&["repair", "--history", &address]);
    let verified = shop.verify();
    assert!(verified["ok"] == true && verified["dispersal"]["could_lose"] == 2, "{verified}");
}

#[test]
fn an_encrypted_copy_is_dispersed_and_repaired_without_its_key() {
    let shop = Shop::begin(2, 2);
    let (backwhen, address) = (&shop.backwhen, shop.address());
    let identity = text(&backwhen.folder().join("identity"));
    let with = |arguments: &[&str]| {
        let all = [arguments, &["--identity-file", &identity]].concat();
        let output = backwhen.run(&all);
        assert!(output.status.success(), "{}{}", output.stdout, output.stderr);
        output.stdout
    };
    with(&["copy", "--to", &address]);
    shop.change(CHANGES_AGAIN);
    with(&["copy", "--to", &address]);
    shop.shards(1).iter().for_each(|path| std::fs::remove_file(path).unwrap());
    backwhen.ok(&["repair", "--history", &address]);
    for number in [0, 3] {
        std::fs::remove_dir_all(shop.folder(number)).unwrap();
    }
    let file = backwhen.folder().join("sealed.sql");
    let into = format!("sql:{}", file.display());
    with(&["recover", "--history", &address, "--to", "latest", "--into", &into]);
    let script = std::fs::read_to_string(&file).unwrap();
    let mut lines: Vec<_> = script.lines().filter(|it| !it.contains("restrict")).map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, shop.truth());
    for path in shop.shards(1) {
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(8).any(|it| it == b"customer"), "{} is in the clear", path.display());
    }
}

#[test]
fn addresses_that_would_not_keep_what_they_promise_are_refused() {
    let shop = Shop::begin(1, 1);
    let backwhen = &shop.backwhen;
    let own = format!("disperse:k=1,m=1,file://{},{}", backwhen.history().display(), shop.member(1));
    assert_says(&backwhen.fails(exit::USAGE, &["copy", "--to", &own]), &["is the history itself"]);
    let twice = format!("disperse:k=1,m=1,{},{}", shop.member(1), shop.member(1));
    assert_says(&backwhen.fails(exit::USAGE, &["copy", "--to", &twice]), &["the same store"]);
    std::fs::create_dir(shop.folder(0)).unwrap();
    std::os::unix::fs::symlink(shop.folder(0), shop.folder(1)).unwrap();
    let said = backwhen.run(&["copy", "--to", &shop.address()]);
    assert!(!said.status.success(), "one folder by two names is one store: {}", said.stdout);
    std::fs::remove_file(shop.folder(1)).unwrap();
    std::fs::remove_dir_all(shop.folder(0)).unwrap();
    std::fs::create_dir(shop.folder(0)).unwrap();
    std::fs::write(shop.folder(0).join("letter"), "dear").unwrap();
    assert_says(&backwhen.fails(exit::REFUSED, &["copy", "--to", &shop.address()]), &["holds letter"]);
    std::fs::remove_file(shop.folder(0).join("letter")).unwrap();
    shop.copy();
    let exchanged = format!("disperse:k=1,m=1,{},{}", shop.member(1), shop.member(0));
    assert_says(&backwhen.fails(exit::REFUSED, &["verify", "--history", &exchanged]), &["in their order"]);
    assert_says(&backwhen.fails(exit::USAGE, &["repair"]), &["--from"]);
    let refill = ["repair", "--history", &shop.address(), "--refill", "file:///elsewhere"];
    assert_says(&backwhen.fails(exit::USAGE, &refill), &["is none of the stores"]);
}

/// Leases in buckets outlive their process for a while, and those in folders do not.
#[test]
fn buckets_and_folders_go_together() {
    let Some(stored) = Stored::begin() else { return };
    let backwhen = &stored.backwhen;
    let folder = backwhen.folder().join("member");
    let address = format!("disperse:k=2,m=1,{0}/a,{0}/b,file://{1}", stored.url(), folder.display());
    let quick = |arguments: &[&str], point: &str| {
        let mut command = backwhen.command(arguments);
        command.env("BACKWHEN_TEST_LEASE", "3").env("BACKWHEN_TEST_POINT", point);
        command.output().unwrap()
    };
    for point in ["disperse.put=kill@5", "disperse.put-done=kill@12", "store.put-done=kill@9"] {
        assert!(quick(&["copy", "--to", &address], point).status.code().is_none(), "{point}");
    }
    let ok = |arguments: &[&str]| {
        let done = quick(arguments, "none=kill");
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    ok(&["copy", "--to", &address, "--wait", "1m"]);
    stored.change(CHANGES_AGAIN);
    ok(&["copy", "--to", &address]);
    let truth = stored.latest(&text(&backwhen.history()));
    assert_eq!(stored.latest(&address), truth);
    let shown = backwhen.json(&["verify", "--history", &address]);
    assert!(shown["ok"] == true && shown["dispersal"]["could_lose"] == 1, "{shown}");
    let expired = ["expire", "--keep-last", "1", "--apply", "--history", &address];
    ok(&expired);
    let gone = backwhen.folder().join("gone");
    std::fs::rename(&folder, &gone).unwrap();
    let said = quick(&expired, "none=kill");
    let stderr = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success() || said.status.code() == Some(exit::UNAVAILABLE), "{stderr}");
    assert_eq!(stored.latest(&address), truth);
    std::fs::rename(&gone, &folder).unwrap();
    ok(&["repair", "--history", &address]);
    ok(&["verify", "--prove", "--history", &address]);
}

#[test]
#[ignore = "it measures; docs/PERFORMANCE.md has a result"]
fn a_recovery_without_one_store_and_with_a_slow_one_takes_half_as_long_again_at_most() {
    let shop = Shop::begin(4, 2);
    let (backwhen, address) = (&shop.backwhen, shop.address());
    shop.change("INSERT INTO visits (page) SELECT md5(n::text) || md5((n * 7)::text) FROM generate_series(1, 600000) n");
    backwhen.ok(&["checkpoint"]);
    shop.copy();
    let recover = |slow: &str| {
        let file = backwhen.folder().join("measured.sqlite");
        let _ = std::fs::remove_file(&file);
        let into = format!("sqlite:{}", file.display());
        let mut command =
            backwhen.command(&["recover", "--history", &address, "--to", "latest", "--into", &into]);
        let begun = std::time::Instant::now();
        let output =
            command.env("BACKWHEN_TEST_PAUSE", slow).env("BACKWHEN_CACHE_SIZE", "0").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        begun.elapsed().as_secs_f64()
    };
    let median = |slow: &str| {
        let mut times: Vec<_> = (0..3).map(|_| recover(slow)).collect();
        times.sort_by(f64::total_cmp);
        times[1]
    };
    recover("none:0");
    let whole = median("none:0");
    std::fs::rename(shop.folder(1), backwhen.folder().join("gone")).unwrap();
    for millis in [1500, 5000] {
        let without = median(&format!("disperse.3:{millis}"));
        println!(
            "all stores {whole:.2} s; one gone, another answers after {millis} ms: {without:.2} s; {:.2}",
            without / whole
        );
        assert!(without <= 1.5 * whole);
    }
}
