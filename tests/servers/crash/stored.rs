//! Death at random while `capture --durable store` keeps a copy in object stores that fail now and then: in one, or encrypted
//! over several.
//!
//! After each death the folder and the copy must both hold what was confirmed. At times the folder is thrown away and made of
//! the copy again, as after the loss of the machine; of several stores one is emptied before that.

use std::thread::sleep;
use std::time::{Duration, Instant};

use backwhen::model::Lsn;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::crash::points::CAPTURE;
use crate::crash::power::Power;
use crate::crash::random::{SLOW_PLACES, kill_all, lives_until, number, seed_of, start};
use crate::stores::STORE;
use crate::support::bank::{
    assert_books_balance, assert_confirmed_is_held, assert_history_balances, assert_shows_names, bank,
    commits_at, confirmed, trades,
};
use crate::support::s3::S3Server;
use crate::support::s3_faults::FaultyS3;
use crate::support::scan::files;
use crate::support::{Backwhen, Server, meanwhile};

/// Kills of a run within the other tests.
const FEW: usize = 2;
/// A long run begins with a new database after so many kills.
const KILLS_OF_A_BANK: usize = 60;
/// After so many kills the clients pause, and the source is compared with the history and with the copy.
const AUDIT_EVERY: usize = 20;

/// The numbers of requests among a thousand that go wrong during one life.
const TROUBLES: &[u32] = &[0, 30, 250];

#[derive(Default)]
struct Count {
    kills: usize,
    at_points: usize,
    of_others: usize,
    power_cuts: usize,
    absences: usize,
    faults: usize,
    thrown_away: usize,
    emptied: usize,
    audits: usize,
}

/// The place of a run's copies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    OneStore,
    /// Two of four stores may be lost. History and copy are encrypted.
    SeveralStores,
}

/// One database with its history, and the copy of that history behind a proxy.
struct Protected<'a> {
    backwhen: Backwhen,
    store: &'static S3Server,
    proxy: &'a FaultyS3,
    /// The beginning of all keys of the copy.
    prefix: String,
    place: Place,
    url: String,
    /// The position that was confirmed before the first capture.
    begun: Lsn,
    power: Power,
}

#[test]
fn random_kills_with_a_copy_in_a_failing_store_lose_and_double_nothing() {
    die_beside(Place::OneStore);
}

#[test]
fn random_kills_with_an_encrypted_copy_over_failing_stores_lose_double_and_show_nothing() {
    die_beside(Place::SeveralStores);
}

fn die_beside(place: Place) {
    let Some(store) = S3Server::shared() else { return };
    let seconds = number("BACKWHEN_SOAK_SECONDS");
    let seed = seed_of(seconds);
    println!("again with: BACKWHEN_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let proxy = FaultyS3::before(store, seed);
    let server = Server::shared(None);
    let (begun, mut count) = (Instant::now(), Count::default());
    let goes_on =
        |count: &Count| seconds.map_or(count.kills < FEW, |most| begun.elapsed() < Duration::from_secs(most));
    for bank in 0.. {
        if !goes_on(&count) {
            break;
        }
        let protected = Protected::begin(&server, store, &proxy, place, bank);
        // Otherwise the first captures die while they make the copy, of which a short run would see nothing else.
        if seconds.is_none() || random.random_bool(0.5) {
            protected.copy();
        }
        let last = count.kills + KILLS_OF_A_BANK;
        while goes_on(&count) && count.kills < last {
            trading_slowly(&server, protected.backwhen.database(), || {
                let audit_at = count.kills + AUDIT_EVERY;
                while goes_on(&count) && count.kills < audit_at {
                    protected.kill(&mut random, &mut count);
                    // A short run throws the folder away once, with much in the copy.
                    let is_lost = seconds.map_or(count.kills == FEW, |_| random.random_bool(0.15));
                    if is_lost {
                        protected.lose_the_machine(&mut random, &mut count);
                    }
                }
            });
            protected.audit(&mut count, seconds.is_some());
            println!("{} kills, {} audits in {:?}", count.kills, count.audits, begun.elapsed());
        }
    }
    println!(
        "seed {seed}: {} kills ({} at failpoints, {} with another command at work), {} power cuts, {} requests that went \
         wrong, {} absences of the store, {} folders thrown away, {} stores emptied, {} audits: nothing lost, nothing twice",
        count.kills,
        count.at_points,
        count.of_others,
        count.power_cuts,
        count.faults,
        count.absences,
        count.thrown_away,
        count.emptied,
        count.audits
    );
}

/// Trades while `work` is done, at some hundred transactions a second: each audit reads all of them from the store.
fn trading_slowly<T>(server: &Server, database: &str, work: impl FnOnce() -> T) -> T {
    let trade = |client| {
        drop(server.psql(database, &format!("CALL trade({client}, 10)")));
        // The pause is the load.
        sleep(Duration::from_millis(50));
    };
    meanwhile(2, trade, work)
}

impl Protected<'_> {
    fn begin<'a>(
        server: &Server,
        store: &'static S3Server,
        proxy: &'a FaultyS3,
        place: Place,
        number: u32,
    ) -> Protected<'a> {
        let database = bank(server);
        let mut backwhen = Backwhen::new(server, &database)
            .with_env("BACKWHEN_HEARTBEAT", "500ms")
            .with_env("BACKWHEN_TEST_ROLL_AT", "200000")
            // A lease of a lost machine is watched for two seconds and not for thirty.
            .with_env("BACKWHEN_TEST_LEASE", "2")
            // The pauses between tries are of milliseconds, and as many as ever.
            .with_env("BACKWHEN_TEST_PAUSES", "10");
        for (name, value) in proxy.variables("owner") {
            backwhen = backwhen.with_env(&name, &value);
        }
        let cache = backwhen.folder().join("cache");
        let mut backwhen = backwhen.with_env("BACKWHEN_CACHE", cache.to_str().unwrap());
        let prefix = match place {
            Place::OneStore => format!("soak-{number}"),
            Place::SeveralStores => format!("spread-{number}"),
        };
        let url = match place {
            Place::OneStore => format!("s3://first/{prefix}"),
            Place::SeveralStores => {
                backwhen = backwhen.encrypted();
                let members: Vec<String> = (0..4).map(|member| member_url(&prefix, member)).collect();
                format!("disperse:k=2,m=2,{}", members.join(","))
            }
        };
        backwhen.init();
        let begun = confirmed(&backwhen);
        Protected { backwhen, store, proxy, prefix, place, url, begun, power: Power::new() }
    }

    /// Makes the copy before the first capture does. A server that has just started is slow at first, and a lease of two seconds
    /// would be lost.
    fn copy(&self) {
        let mut command = self.backwhen.command(&["copy", "--to", &self.url]);
        let copied = command.env("BACKWHEN_TEST_LEASE", "30").output().unwrap();
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    }

    fn capture(&self) -> std::process::Command {
        let mut command = self.backwhen.command(&["capture", "--also", &self.url, "--durable", "store"]);
        command.env("BACKWHEN_TEST_POWER", self.power.folder());
        command
    }

    /// Lets a capture live for a while beside a store that fails, and kills it.
    fn kill(&self, random: &mut StdRng, count: &mut Count) {
        let mut command = self.capture();
        let dies_at_point = random.random_bool(0.4);
        let point = if dies_at_point && random.random_bool(0.4) {
            format!("{}=kill@{}", STORE.choose(random).unwrap(), random.random_range(1..12))
        } else if dies_at_point {
            format!("{}=kill@{}", CAPTURE.choose(random).unwrap(), random.random_range(1..6))
        } else {
            format!("{}={}", SLOW_PLACES.choose(random).unwrap(), random.random_range(0..80))
        };
        command.env("BACKWHEN_TEST_POINT", point);
        self.proxy.trouble(*TROUBLES.choose(random).unwrap());
        let mut capture = start(command);
        let other = random.random_bool(0.3).then(|| self.start_other(random, count));
        let (starting, is_away) = (random.random_bool(0.15), random.random_bool(0.15));
        let life = Duration::from_millis(random.random_range(0..700));
        let before = self.power.len();
        if !starting {
            let limit = Instant::now() + Duration::from_secs(5);
            lives_until(limit, &mut capture, &|| !self.power.tells_since(before, "/journal/"));
        }
        let dies = Instant::now() + life;
        if is_away {
            // The store goes away at a random instant of this life, and may be back before its end.
            lives_until(Instant::now() + life.mul_f64(random.random()), &mut capture, &|| true);
            self.proxy.go_away();
            count.absences += 1;
            if random.random_bool(0.5) {
                lives_until(Instant::now() + life / 4, &mut capture, &|| true);
                self.proxy.come_back();
            }
        }
        lives_until(dies, &mut capture, &|| true);
        // One that met its point is dead already.
        count.at_points += usize::from(dies_at_point && capture.try_wait().unwrap().is_some());
        kill_all([Some(capture), other]);
        count.kills += 1;
        if random.random_bool(0.5) {
            self.power.cut(random);
            count.power_cuts += 1;
        }
        self.settle(count);
        assert_confirmed_is_held(&self.backwhen);
        self.assert_copy_holds_what_is_confirmed();
    }

    fn start_other(&self, random: &mut StdRng, count: &mut Count) -> std::process::Child {
        count.of_others += 1;
        let into = format!("sqlite:{}", self.backwhen.folder().join("beside.sqlite").display());
        let commands: [&[&str]; 4] = [
            &["checkpoint"],
            &["checkpoint", "--from-source"],
            &["verify", "--history", &self.url],
            &["recover", "--history", &self.url, "--to", "latest", "--into", &into],
        ];
        let mut command = self.backwhen.command(commands.choose(random).unwrap());
        command.env("BACKWHEN_TEST_POWER", self.power.folder());
        start(command)
    }

    /// The store is well from now on.
    fn settle(&self, count: &mut Count) {
        self.proxy.come_back();
        self.proxy.trouble(0);
        count.faults += self.proxy.take_traffic().faults.values().sum::<u32>() as usize;
        let _ = std::fs::remove_file(self.backwhen.folder().join("beside.sqlite"));
    }

    /// The end of the copy, as a machine sees it that comes fresh to it; `None` if the copy is no history yet.
    fn end_of_copy(&self) -> Option<Lsn> {
        let status = ["status", "--offline", "--history", &self.url, "--output", "json"];
        let seen = self.backwhen.run(&status);
        if seen.stderr.contains("holds no history") {
            return None;
        }
        assert!(seen.status.success(), "{}{}", seen.stdout, seen.stderr);
        let status: serde_json::Value = serde_json::from_str(&seen.stdout).unwrap();
        Some(status["window"]["latest"]["lsn"].as_str().unwrap().parse().unwrap())
    }

    /// The server has been told of nothing that only this machine has.
    fn assert_copy_holds_what_is_confirmed(&self) {
        let confirmed = confirmed(&self.backwhen);
        match self.end_of_copy() {
            Some(end) => assert!(confirmed <= end, "{confirmed} is confirmed, and the copy ends at {end}"),
            None => assert_eq!(confirmed, self.begun, "that is confirmed, and there is no copy"),
        }
    }

    /// Throws the folder away and makes it of the copy again, if there is one.
    fn lose_the_machine(&self, random: &mut StdRng, count: &mut Count) {
        if self.end_of_copy().is_none() {
            return;
        }
        let history = self.backwhen.history();
        let before = commits_at(&self.backwhen, &history);
        self.power.cut(random);
        for lost in [&history, &self.backwhen.folder().join("cache")] {
            std::fs::remove_dir_all(lost).unwrap();
        }
        let emptied = (self.place == Place::SeveralStores).then(|| self.empty_a_store(random, count));
        self.proxy.trouble(*TROUBLES.choose(random).unwrap());
        self.backwhen.ok(&["copy", "--history", &self.url, "--to", history.to_str().unwrap()]);
        self.settle(count);
        if let Some(emptied) = emptied {
            // On a busy machine a lease of two seconds would be lost meanwhile.
            let mut command =
                self.backwhen.command(&["repair", "--history", &self.url, "--refill", &emptied]);
            let filled = command.env("BACKWHEN_TEST_LEASE", "30").output().unwrap();
            assert!(filled.status.success(), "{}", String::from_utf8_lossy(&filled.stdout));
        }
        let after = commits_at(&self.backwhen, &history);
        assert_eq!(Some(&after[..]), before.get(..after.len()), "the copy held other transactions");
        assert_confirmed_is_held(&self.backwhen);
        count.thrown_away += 1;
    }

    /// Removes all that one of the stores holds; returns its URL.
    fn empty_a_store(&self, random: &mut StdRng, count: &mut Count) -> String {
        let member = random.random_range(0..4);
        loop {
            let objects = self.store.everything("first", &format!("{}/{member}/", self.prefix));
            if objects.is_empty() {
                break;
            }
            for (key, _) in objects {
                self.store.remove(&format!("first/{key}"));
            }
        }
        count.emptied += 1;
        member_url(&self.prefix, member)
    }

    /// The clients pause: now the folder must be what the source is, and so must a folder that a fresh machine makes of the copy.
    /// A short run looks at the copy alone, which is made of the folder.
    fn audit(&self, count: &mut Count, is_whole: bool) {
        let (backwhen, url) = (&self.backwhen, self.url.as_str());
        backwhen.ok(&["capture", "--also", url, "--durable", "store", "--until", "caught-up"]);
        let expected = trades(backwhen.server(), backwhen.database());
        let (folder, fresh) = (backwhen.history(), backwhen.folder().join("fresh"));
        std::fs::remove_dir_all(backwhen.folder().join("cache")).unwrap();
        backwhen.ok(&["copy", "--history", url, "--to", fresh.to_str().unwrap()]);
        let commits = commits_at(backwhen, &folder);
        assert_eq!(commits, commits_at(backwhen, &fresh), "the transactions of the folder, and of the copy");
        assert_eq!(assert_history_balances(backwhen, url, "latest"), expected, "the copy");
        if let Some(middle) = commits.get(commits.len() / 2).filter(|_| is_whole) {
            assert_history_balances(backwhen, url, &middle.to_string());
            assert_eq!(assert_books_balance(backwhen, "latest"), expected, "the folder");
            backwhen.ok(&["verify"]);
            backwhen.ok(&["verify", "--history", url]);
        }
        let gaps = backwhen.ok(&["list", "gaps", "--history", url, "--output", "json"]);
        assert_eq!(gaps, "", "continuity was given up without need");
        std::fs::remove_dir_all(&fresh).unwrap();
        let is_encrypted = self.place == Place::SeveralStores;
        assert_shows_names(&files(&folder), is_encrypted);
        assert_shows_names(&self.store.everything("first", &self.prefix), is_encrypted);
        count.audits += 1;
    }
}

fn member_url(prefix: &str, member: u32) -> String {
    format!("s3://first/{prefix}/{member}")
}
