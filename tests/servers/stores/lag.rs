//! A store that is away or slow for long, beside another one, beyond the budget of WAL, or while a backlog is drained: a lag, and
//! no loss.

use backwhen::model::Lsn;

use super::standing::{QUICK_LEASE, behind_a_proxy, copies, wait_copied};
use super::{Stored, exit, text};
use crate::support::s3_faults::S3Fault;
use crate::support::shop::assert_says;
use crate::support::{Capture, Server, wait_for};

/// While its store is away, a capture warns of these.
const TROUBLE: [&str; 3] = ["is not kept up to date", "trying again", "a heartbeat of"];

fn start<'a>(stored: &'a Stored, arguments: &[&str], variables: &[(&str, &str)]) -> Capture<'a> {
    let mut command = stored.backwhen.command(&[&["capture"], arguments].concat());
    command.envs(variables.iter().copied());
    let mut capture = Capture::start(&stored.backwhen, command);
    for text in TROUBLE {
        capture.allow(text);
    }
    capture
}

#[test]
fn of_two_copies_a_dead_one_and_a_slow_one_hold_up_nobody_else() {
    let Some((stored, proxy)) = Stored::begin_behind_a_proxy(5) else { return };
    let (slow, dead, slot) = (stored.url(), format!("{}-too", stored.url()), stored.slot());
    proxy.trouble(1000);
    proxy.only(S3Fault::Slow);
    proxy.lose(dead.strip_prefix("s3://").unwrap());
    let arguments = ["--also", &slow, "--also", &dead, "--durable", "store"];
    let mut capture = start(&stored, &arguments, &[QUICK_LEASE]);
    capture.wait_streaming();
    let end = stored.visit(1, 20);
    wait_for("the first copy decides", || stored.confirmed_of(&slot) >= end);
    capture.wait_for_live("the second copy lacks everything, and says why", |live| {
        live.copies.len() == 2
            && live.copies[1].end.is_none()
            && live.copies[1].fault.as_ref().is_some_and(|it| it.contains(&dead))
    });
    capture.wait_for_live("the first one is well", |live| live.copies[0].fault.is_none());
    let shown = stored.backwhen.json(&["status"]);
    assert_eq!((&shown["state"], &shown["copies"][1]["end"]), (&"streaming".into(), &().into()), "{shown}");

    proxy.come_back();
    let end = stored.visit(21, 30);
    capture.wait_for_live("the second copy is there too", |live| live.copies[1].end >= Some(end));
    capture.stop();
    let folder = text(&stored.backwhen.history());
    proxy.trouble(0);
    for copy in [&slow, &dead] {
        stored.backwhen.ok(&stored.remote(copy, &["verify"]));
        assert_eq!(stored.visits(copy), stored.visits(&folder), "{copy}");
    }
}

/// Production's disk counts for more than the copy, and the folder for more than nothing.
#[test]
fn a_store_that_is_away_beyond_the_budget_costs_the_slot_and_nothing_of_the_folder() {
    let Some(stored) = Stored::begin() else { return };
    let (stored, proxy) = behind_a_proxy(stored);
    let (backwhen, url, slot) = (&stored.backwhen, stored.url(), stored.slot());
    let arguments =
        ["--also", &url, "--durable", "store", "--heartbeat", "100ms", "--max-retained-wal", "16MB"];
    let mut capture = start(&stored, &arguments, &[QUICK_LEASE]);
    capture.allow("max-retained-wal").wait_streaming();
    let before = stored.visit(1, 3);
    wait_copied(&mut capture, before);
    proxy.cut();
    let held = stored.visit(4, 6);
    capture.wait_caught_up();
    stored.psql("CREATE TABLE filler AS SELECT repeat(md5(n::text), 40) FROM generate_series(1, 14000) n");
    capture.wait_for_line("was given up before production's disk could fill");
    capture.wait_for_epoch(2);
    // Nobody has waited for the store: what was committed meanwhile is in the folder, and recovered up to there.
    let moment = held.to_string();
    backwhen.ok(&["recover", "--to", &moment, "--dry-run"]);
    let after = stored.visit(7, 9);
    capture.wait_caught_up();
    assert!(stored.confirmed_of(&slot) < after, "what no copy has was confirmed");

    proxy.heal();
    wait_for("the copy is confirmed", || stored.confirmed_of(&slot) >= after);
    capture.stop();
    let gaps = backwhen.json_lines(&["list", "gaps"]);
    assert_says(gaps[0]["cause"].as_str().unwrap(), &["--max-retained-wal, 16 MiB"]);
    assert_eq!(backwhen.json_lines(&stored.remote(&url, &["list", "gaps"])), gaps);
    backwhen.ok(&stored.remote(&url, &["verify"]));
    backwhen.ok(&stored.remote(&url, &["recover", "--to", &moment, "--dry-run"]));
    assert_eq!(stored.visits(&url), (1..=9).collect::<Vec<u32>>());
}

/// A lease of another owner would be watched for thirty seconds, and that is warned of.
#[test]
fn the_next_capture_on_the_folder_of_a_killed_one_has_its_copy_at_once() {
    let Some(stored) = Stored::begin() else { return };
    let url = stored.url();
    for visit in [1, 2] {
        let mut capture = stored.backwhen.spawn_capture_with(&["--also", &url, "--durable", "store"]);
        capture.allow("the heartbeat failed and is tried again").allow("trying again").wait_streaming();
        let end = stored.visit(visit, visit);
        wait_copied(&mut capture, end);
        capture.kill();
    }
}

#[test]
fn an_open_segment_of_many_pieces_is_sealed_early() {
    let Some(stored) = Stored::begin() else { return };
    let (url, segments) = (stored.url(), || stored.backwhen.json_lines(&["list", "segments"]).len());
    let before = segments();
    let variables = [("BACKWHEN_TEST_INCREMENTS", "2"), ("BACKWHEN_TEST_ROLL_AT", "100000000")];
    let mut capture = start(&stored, &["--also", &url], &variables);
    capture.wait_streaming();
    let mut last = 0;
    wait_for("a segment is sealed, which is far from full", || {
        last += 1;
        stored.visit(last, last);
        segments() > before + 1
    });
    capture.stop();
    assert_eq!(stored.visits(&url), (1..=last).collect::<Vec<u32>>());
    stored.backwhen.ok(&stored.remote(&url, &["verify"]));
}

#[test]
fn a_backlog_that_is_drained_is_confirmed_as_far_as_the_copy_has_it() {
    // A server of its own: with batches this small, what others write to the log would be hundreds of them, and each waits for
    // the copy.
    let Some(stored) = Stored::begin_on(&Server::start(None), "first") else { return };
    let (stored, proxy) = stored.behind_faults(9);
    let (backwhen, url, slot) = (&stored.backwhen, stored.url(), stored.slot());
    stored.copy();
    let end_of_copy = || -> Lsn {
        let shown = backwhen.json(&stored.remote(&url, &["status", "--offline"]));
        serde_json::from_value(shown["window"]["latest"]["lsn"].clone()).unwrap()
    };
    let until = ["--also", &url, "--durable", "store", "--until", "caught-up"];
    let small = ("BACKWHEN_TEST_DRAIN", "0:8192");
    // One dies between two batches, and one while the store is away, for which each batch would wait.
    let deaths = [
        (small, "journal.synced=kill@4"),
        (("BACKWHEN_TEST_DRAIN", "0:1000000000"), "journal.synced=kill@1"),
    ];
    let mut last = 0;
    for ((batches, point), is_away) in deaths.into_iter().zip([false, true]) {
        let before = stored.confirmed_of(&slot);
        stored.visit(last + 1, last + 200);
        last += 200;
        if is_away {
            proxy.go_away();
        }
        let capture = start(&stored, &until, &[batches, QUICK_LEASE, ("BACKWHEN_TEST_POINT", point)]);
        assert!(!capture.wait().success(), "{point} was never met");
        proxy.come_back();
        let (confirmed, end) = (stored.confirmed_of(&slot), end_of_copy());
        assert!(confirmed <= end, "{point}: {confirmed} is confirmed, the copy ends at {end}");
        assert!(!is_away || confirmed == before, "{confirmed} was confirmed while the store was away");
    }
    let capture = start(&stored, &until, &[small, QUICK_LEASE]);
    assert!(capture.wait().success());
    assert!(stored.confirmed_of(&slot) <= end_of_copy());
    for history in [&url, &text(&backwhen.history())] {
        assert_eq!(stored.visits(history), (1..=last).collect::<Vec<u32>>(), "{history}");
        backwhen.ok(&["verify", "--history", history]);
    }
}

#[test]
fn a_run_with_an_end_of_its_own_ends_well_only_once_the_store_has_it_all() {
    let Some(stored) = Stored::begin() else { return };
    let (stored, proxy) = behind_a_proxy(stored);
    let (backwhen, url) = (&stored.backwhen, stored.url());
    stored.copy();
    let until = |patience: &str| {
        let until = ["--also", &url, "--durable", "store", "--until", "caught-up", "--patience", patience];
        start(&stored, &until, &[QUICK_LEASE])
    };
    stored.visit(1, 20);
    proxy.cut();
    // It waits for its copy for ten seconds in any case.
    let impatient = until("1s").wait();
    assert_eq!(impatient.code(), Some(exit::UNAVAILABLE));
    let patient = until("2m");
    // Longer than it waits for a copy that it need not have.
    std::thread::sleep(std::time::Duration::from_secs(20));
    proxy.heal();
    assert!(patient.wait().success());
    for history in [&url, &text(&backwhen.history())] {
        assert_eq!(stored.visits(history), (1..=20).collect::<Vec<u32>>(), "{history}");
    }
}

/// The most memory that the process has had, in KiB.
fn peak_memory(capture: &Capture<'_>) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", capture.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The lease grows stale in that time, and segments are sealed that the copy does not know.
#[test]
fn a_store_that_is_away_for_long_is_a_lag_in_bounded_memory() {
    let Some(stored) = Stored::begin() else { return };
    let (stored, proxy) = behind_a_proxy(stored);
    let (backwhen, url) = (&stored.backwhen, stored.url());
    // A capture that sees a new table takes a checkpoint, which needs memory of its own.
    stored.psql("CREATE TABLE large (n int PRIMARY KEY, v text)");
    backwhen.ok(&["capture", "--until", "caught-up"]);
    backwhen.ok(&["checkpoint", "--from-source"]);
    let variables = [("BACKWHEN_TEST_LEASE", "3"), ("BACKWHEN_TEST_ROLL_AT", "1000000")];
    let mut capture = start(&stored, &["--also", &url], &variables);
    capture.wait_streaming();
    let end = stored.visit(1, 3);
    wait_copied(&mut capture, end);
    let load = |parts: std::ops::Range<u32>| {
        for part in parts {
            // A megabyte that does not compress, in a transaction of its own.
            stored.psql(&format!(
                "INSERT INTO large SELECT n, (SELECT string_agg(md5(random()::text || n || part), '') FROM generate_series(1, 32) part)
                   FROM generate_series({part} * 1000 + 1, {part} * 1000 + 1000) n"
            ));
        }
        stored.psql("SELECT pg_current_wal_insert_lsn()").parse::<Lsn>().unwrap()
    };
    let end = load(0..10);
    wait_copied(&mut capture, end);
    let before = peak_memory(&capture);
    proxy.cut();
    let away = std::time::Instant::now();
    load(10..30);
    let end = stored.visit(4, 6);
    capture.wait_caught_up();
    capture.wait_for_live("the copy fails", |live| copies(live).fault.is_some());
    wait_for("the lease has long been stale", || away.elapsed().as_secs_f64() > 3.0);
    proxy.heal();
    wait_copied(&mut capture, end);
    let grown = peak_memory(&capture).saturating_sub(before);
    assert!(grown < 10 << 10, "{grown} KiB more, for 20 MB that the copy lacked");
    let temporary = std::fs::read_dir(backwhen.history().join("live")).unwrap();
    let bytes: u64 = temporary.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes < 1 << 20, "{bytes} bytes of temporary files");
    let warnings = capture.printed().lines().filter(|line| line.contains("is not kept up to date")).count();
    assert!((1..=3).contains(&warnings), "once for each cause:\n{}", capture.printed());
    capture.stop();
    backwhen.ok(&stored.remote(&url, &["verify"]));
    let rows = |history: &str| {
        let sql = "SELECT count(*), md5(string_agg(v, '' ORDER BY n)) FROM large";
        backwhen.ok(&["query", sql, "--at", "latest", "--history", history, "--quiet"])
    };
    assert_eq!(rows(&url), rows(&text(&backwhen.history())));
    assert_eq!(stored.visits(&url), (1..=6).collect::<Vec<u32>>());
}
