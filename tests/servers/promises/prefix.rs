//! 2. The state at T is a prefix of the commit order: every transaction before the first one whose
//!    commit time is later than T. Clocks that step back are reported. An idle database can be
//!    recovered to any T up to the last heartbeat.

use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use chrono::{DateTime, FixedOffset};

use backwhen::history::FORMAT;
use backwhen::history::catalog::CheckpointRow;
use backwhen::history::checkpoint::Origin;
use backwhen::history::epoch::Epoch;
use backwhen::history::journal::{BlockBuilder, Journal, Writer};
use backwhen::history::key::Authorship;
use backwhen::history::segments::Segments;
use backwhen::history::timeline::{SegmentView, Stretch, Timeline};
use backwhen::model::{Lsn, Moment, PgTime};
use backwhen::past::resolve::{ResolvedMoment, resolve};

use crate::promises::{now, recovered};
use crate::support::{Backwhen, Server};

#[test]
fn a_time_holds_what_committed_at_that_very_microsecond_and_nothing_later() {
    let server = Server::shared(None);
    let database = server.fresh_database("prefix");
    server.psql(&database, "CREATE TABLE t (n int PRIMARY KEY)");
    let backwhen = Backwhen::new(&server, &database);
    backwhen.init();
    let mut transactions = Vec::new();
    for n in 1..=4 {
        let insert = format!("INSERT INTO t VALUES ({n}) RETURNING pg_current_xact_id()::xid");
        transactions.push(server.psql(&database, &insert));
        // No two commit in the same microsecond, whatever the clock's grain.
        sleep(Duration::from_millis(3));
    }
    backwhen.ok(&["capture", "--until", "caught-up"]);
    for pair in transactions.windows(2) {
        let (before, xid) = (&pair[0], &pair[1]);
        let at = dry_run(&backwhen, &format!("xid:{xid}"));
        let time: PgTime = serde_json::from_value(at["time"].clone()).unwrap();
        let inclusive = dry_run(&backwhen, &time.to_string());
        assert_eq!(inclusive, at);
        let earlier = dry_run(&backwhen, &PgTime(time.0 - 1).to_string());
        assert_eq!(earlier["xid"].to_string(), *before);
        assert_eq!(earlier["next"]["xid"].to_string(), *xid);
    }
    let third = dry_run(&backwhen, &format!("xid:{}", transactions[2]));
    let time: PgTime = serde_json::from_value(third["time"].clone()).unwrap();
    for (time, rows) in [(time, 3), (PgTime(time.0 - 1), 2)] {
        let (_, dump) = recovered(&backwhen, &server, &["--to", &time.to_string()]);
        assert_eq!(dump.row_count(), rows, "{time}");
    }
}

fn dry_run(backwhen: &Backwhen, to: &str) -> serde_json::Value {
    let into = format!("sqlite:{}", backwhen.folder().join("never").display());
    backwhen.json(&["recover", "--dry-run", "--to", to, "--into", &into])["moment"].clone()
}

#[test]
fn an_idle_database_comes_back_as_of_any_time_up_to_the_last_heartbeat() {
    let server = Server::shared(None);
    let database = server.fresh_database("idle");
    server.psql(&database, "CREATE TABLE t (n int PRIMARY KEY)");
    let backwhen = Backwhen::new(&server, &database).with_env("BACKWHEN_HEARTBEAT", "300ms");
    backwhen.init();
    let mut capture = backwhen.spawn_capture();
    server.psql(&database, "INSERT INTO t VALUES (1)");
    capture.wait_caught_up();
    let mut idle = Vec::new();
    for _ in 0..4 {
        idle.push(now(&server));
        capture.wait_until("a heartbeat has come", |_| latest(&backwhen) > time(idle.last().unwrap()));
    }
    capture.stop();
    for time in idle {
        assert_eq!(recovered(&backwhen, &server, &["--to", &time]).1.row_count(), 1, "{time}");
    }
    let message = backwhen.fails(11, &["recover", "--to", &now(&server), "--into", "sqlite:never"]);
    assert!(message.contains("what can be recovered is"), "{message}");
}

/// The latest time that can be recovered.
fn latest(backwhen: &Backwhen) -> DateTime<FixedOffset> {
    time(backwhen.json(&["status"])["window"]["latest"]["time"].as_str().unwrap())
}

fn time(text: &str) -> DateTime<FixedOffset> {
    DateTime::parse_from_rfc3339(text).unwrap()
}

/// Commits as (position, microseconds): at 30 the clock is set back by a minute, and catches up at 60.
const COMMITS: [(u64, i64); 7] = [
    (0x110, 1_000_000),
    (0x120, 2_000_000),
    (0x130, 2_000_000),
    (0x140, 3_000_000),
    (0x150, -57_000_000),
    (0x160, 2_500_000),
    (0x170, 4_000_000),
];

#[test]
fn a_clock_that_steps_back_does_not_reorder_and_is_not_hidden() {
    let folder = tempfile::tempdir().unwrap();
    let timeline = made_up(folder.path());
    let at = |micros: i64| resolve(&timeline, &Moment::Time(PgTime(micros)), false).unwrap();
    let xid = |resolved: &ResolvedMoment| resolved.last.map(|last| last.xid);
    let next = |resolved: &ResolvedMoment| resolved.next.map(|next| next.xid);

    assert_eq!((xid(&at(1_000_000)), next(&at(1_000_000))), (Some(1), Some(2)));
    assert_eq!(xid(&at(1_999_999)), Some(1));
    // Two of the same microsecond are both in.
    assert_eq!((xid(&at(2_000_000)), next(&at(2_000_000))), (Some(3), Some(4)));
    // The fifth and sixth bear times of before, and lie after the fourth all the same.
    assert_eq!(xid(&at(2_999_999)), Some(3));
    assert!(at(2_999_999).notes.iter().any(|note| note.contains("stepped back: 2 transactions")));
    assert_eq!((xid(&at(3_000_000)), next(&at(3_000_000))), (Some(6), Some(7)));
    assert_eq!(at(3_000_000).notes, Vec::<String>::new());
    assert_eq!(xid(&at(3_999_999)), Some(6));
    // One of the very same time as the last may still come.
    assert!(resolve(&timeline, &Moment::Time(PgTime(4_000_000)), false).is_err());
    let clock = &timeline.stretches[0].segments[0].summary.clock_steps;
    assert_eq!((clock.count, clock.largest_micros), (2, 60_000_000));
}

/// A history of these commits, without a server.
fn made_up(folder: &std::path::Path) -> Timeline {
    let start = Lsn(0x100);
    let journal = Journal::in_folder(folder, &Authorship::Unkeyed);
    let (mut writer, _) = Writer::open(&journal, *b"history-for-test", 1, start).unwrap();
    let mut builder = BlockBuilder::new(start);
    for (number, (lsn, time)) in COMMITS.iter().enumerate() {
        let xid = number as u32 + 1;
        let begin = [&b"B"[..], &lsn.to_be_bytes(), &time.to_be_bytes(), &xid.to_be_bytes()].concat();
        let end = lsn + 8;
        let commit = [&b"C\0"[..], &lsn.to_be_bytes(), &end.to_be_bytes(), &time.to_be_bytes()].concat();
        builder.push(&begin).unwrap();
        builder.push(&commit).unwrap();
    }
    while let Some(block) = builder.take_complete() {
        writer.write(block).unwrap();
    }
    writer.sync().unwrap();
    let table = Arc::new(Segments::new(&journal));
    let view = |name| SegmentView::scan(name, &table).unwrap();
    let segments = journal.list().unwrap().into_iter().map(view).collect();
    let epoch = Epoch {
        format: FORMAT,
        ..Epoch::new(1, start, PgTime(0), 1, "slot".to_owned(), "a test".to_owned())
    };
    let checkpoint = CheckpointRow {
        id: "first".to_owned(),
        epoch: 1,
        lsn: start,
        time: PgTime(0),
        label: None,
        origin: Origin::Source,
        rows: 0,
        bytes_new: 0,
        bytes_total: 0,
    };
    let stretches = vec![Stretch { epoch, held_from: start, segments, checkpoints: vec![checkpoint] }];
    Timeline { stretches, singles: Vec::new(), unusable: Vec::new(), expired: None }
}
