//! Death at random: kills, power cuts and failpoints in any order, while everything is at work.

use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::crash::points::CAPTURE;
use crate::crash::power::Power;
use crate::support::bank::{
    assert_books_balance, assert_confirmed_is_held, assert_shows_names, bank, commits, trades, while_trading,
};
use crate::support::scan::files;
use crate::support::{Backwhen, Server};

/// Kills of a run within the other tests.
const FEW: usize = 5;
/// After so many kills the clients pause, and history and source are compared.
const AUDIT_EVERY: usize = 25;

/// Where it may dawdle, so that more is at stake when it dies.
pub const SLOW_PLACES: &[&str] =
    &["journal.sync", "journal.sync", "journal.sync", "folder.sync", "file.linked", "seal.written"];

#[derive(Default)]
struct Count {
    kills: usize,
    at_points: usize,
    of_others: usize,
    power_cuts: usize,
    at_stake: usize,
    taken: usize,
    audits: usize,
}

#[test]
fn random_kills_lose_and_double_nothing() {
    die_at_random(&|backwhen| backwhen);
}

/// The copies that are made meanwhile are encrypted too.
#[test]
fn random_kills_of_an_encrypted_history_lose_and_double_nothing() {
    die_at_random(&Backwhen::encrypted);
}

fn die_at_random(prepared: &dyn Fn(Backwhen) -> Backwhen) {
    let seconds = number("BACKWHEN_SOAK_SECONDS");
    let seed = seed_of(seconds);
    println!("again with: BACKWHEN_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let server = Server::start(None);
    let database = bank(&server);
    let backwhen = prepared(Backwhen::new(&server, &database))
        .with_env("BACKWHEN_HEARTBEAT", "500ms")
        .with_env("BACKWHEN_TEST_ROLL_AT", "200000");
    let cache = backwhen.folder().join("cache");
    let backwhen = backwhen.with_env("BACKWHEN_CACHE", cache.to_str().unwrap());
    backwhen.init();
    let power = Power::new();
    let (begun, mut count) = (Instant::now(), Count::default());
    let goes_on =
        |count: &Count| seconds.map_or(count.kills < FEW, |most| begun.elapsed() < Duration::from_secs(most));
    while goes_on(&count) {
        while_trading(&server, &database, || {
            let audit_at = count.kills + AUDIT_EVERY;
            while goes_on(&count) && count.kills < audit_at {
                kill(&backwhen, &power, &mut random, &mut count);
            }
        });
        audit(&backwhen, &mut count);
    }
    println!(
        "seed {seed}: {} kills ({} at failpoints, {} with another command at work), {} power cuts ({} with \
         something at stake, {} that took some of it), {} audits, {} trades: nothing lost, nothing twice",
        count.kills,
        count.at_points,
        count.of_others,
        count.power_cuts,
        count.at_stake,
        count.taken,
        count.audits,
        trades(&server, &database).replace('\n', " ")
    );
}

/// The seed of a run of so many seconds; a run within the other tests always has the same one.
pub fn seed_of(seconds: Option<u64>) -> u64 {
    number("BACKWHEN_TEST_SEED").unwrap_or_else(|| seconds.map_or(1, |_| rand::random::<u32>().into()))
}

pub fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn kill(backwhen: &Backwhen, power: &Power, random: &mut StdRng, count: &mut Count) {
    let mut command = backwhen.command(&["capture"]);
    command.env("BACKWHEN_TEST_POWER", power.folder());
    let dies_at_point = random.random_bool(0.4);
    let point = if dies_at_point {
        format!("{}=kill@{}", CAPTURE.choose(random).unwrap(), random.random_range(1..6))
    } else {
        format!("{}={}", SLOW_PLACES.choose(random).unwrap(), random.random_range(0..80))
    };
    command.env("BACKWHEN_TEST_POINT", point);
    let mut capture = start(command);
    let other = random.random_bool(0.3).then(|| {
        count.of_others += 1;
        let copy = backwhen.folder().join("copy").to_str().unwrap().to_owned();
        let commands: [&[&str]; 4] =
            [&["checkpoint"], &["checkpoint", "--from-source"], &["copy", "--to", &copy], &["verify"]];
        let mut command = backwhen.command(commands.choose(random).unwrap());
        command.env("BACKWHEN_TEST_POWER", power.folder());
        start(command)
    });
    // Some die before they have begun; the others after some time at work.
    let starting = random.random_bool(0.2);
    let life = Duration::from_millis(random.random_range(0..700));
    let before = power.len();
    let limit = Instant::now() + Duration::from_secs(10);
    if !starting {
        lives_until(limit, &mut capture, &|| power.len() == before);
    }
    lives_until(Instant::now() + life, &mut capture, &|| true);
    // One that met its point is dead already.
    count.at_points += usize::from(dies_at_point && capture.try_wait().unwrap().is_some());
    kill_all([Some(capture), other]);
    count.kills += 1;
    if random.random_bool(0.7) {
        let cut = power.cut(random);
        count.power_cuts += 1;
        count.at_stake += usize::from(cut.at_stake > 0);
        count.taken += usize::from(cut.taken > 0);
    }
    assert_confirmed_is_held(backwhen);
}

/// Kills the processes, which may be dead already.
pub fn kill_all(children: [Option<Child>; 2]) {
    for mut child in children.into_iter().flatten() {
        let _ = child.kill();
        child.wait().unwrap();
    }
}

/// Waits while a process lives, until an instant, and no longer than `goes_on` says.
pub fn lives_until(until: Instant, child: &mut Child, goes_on: &dyn Fn() -> bool) {
    while Instant::now() < until && goes_on() && child.try_wait().unwrap().is_none() {
        // An instant of its life is what is looked for, so it is asked for at short intervals.
        sleep(Duration::from_millis(2));
    }
}

pub fn start(mut command: std::process::Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("backwhen starts")
}

/// The clients pause: now the history must be what the source is.
fn audit(backwhen: &Backwhen, count: &mut Count) {
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let commits = commits(backwhen);
    if let Some(middle) = commits.get(commits.len() / 2) {
        assert_books_balance(backwhen, &middle.to_string());
    }
    let expected = trades(backwhen.server(), backwhen.database());
    assert_eq!(assert_books_balance(backwhen, "latest"), expected);
    backwhen.ok(&["verify"]);
    let gaps = backwhen.ok(&["list", "gaps", "--output", "json"]);
    assert_eq!(gaps, "", "continuity was given up without need");
    let is_encrypted = backwhen.history().join("keys").exists();
    assert_shows_names(&files(&backwhen.history()), is_encrypted);
    let copy = backwhen.folder().join("copy");
    if copy.join("history.json").exists() {
        backwhen.ok(&["verify", "--history", copy.to_str().unwrap()]);
        if is_encrypted {
            assert_shows_names(&files(&copy), is_encrypted);
        }
    }
    count.audits += 1;
}
