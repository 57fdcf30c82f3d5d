//! 1. Nothing is acknowledged to the server before it is durable in the history. A crash at any
//!    instruction loses nothing and doubles nothing.

use std::thread::sleep;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::bank::{
    assert_books_balance, assert_confirmed_is_held, bank, commits, trades, while_trading,
};
use crate::support::{Backwhen, Server};

const KILLS: usize = 12;

#[test]
fn a_capture_killed_again_and_again_loses_and_doubles_nothing() {
    let server = Server::shared(None);
    let database = bank(&server);
    let backwhen = Backwhen::new(&server, &database).with_env("BACKWHEN_HEARTBEAT", "1s");
    backwhen.init();
    while_trading(&server, &database, || kill_often(&backwhen));
    backwhen.ok(&["capture", "--until", "caught-up"]);

    let commits = commits(&backwhen);
    let step = (commits.len() / 6).max(1);
    for end in commits.iter().step_by(step).skip(1) {
        assert_books_balance(&backwhen, &end.to_string());
    }
    assert_eq!(assert_books_balance(&backwhen, "latest"), trades(&server, &database));
}

/// Everything is received, and the disk keeps it waiting for longer than the server goes without
/// news from us.
#[test]
fn what_the_disk_has_not_taken_is_not_acknowledged() {
    let server = Server::shared(None);
    let database = server.fresh_database("slow_disk");
    server.psql(&database, "CREATE TABLE t (id int PRIMARY KEY)");
    let backwhen = Backwhen::new(&server, &database);
    backwhen.init();
    let mut capture = backwhen.spawn_capture_where("BACKWHEN_TEST_PAUSE", "disk:25000");
    capture.wait_streaming();
    server.psql(&database, "INSERT INTO t SELECT generate_series(1, 1000)");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(13) {
        assert_confirmed_is_held(&backwhen);
        // The server is asked again and again while nothing may change.
        sleep(Duration::from_millis(200));
    }
    assert_eq!(commits(&backwhen), [], "the disk was not slow, so this proves nothing");
    capture.kill();
    assert_confirmed_is_held(&backwhen);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    backwhen.ok(&["recover", "--to", "latest", "--create", "--into", &server.conninfo("slow_disk_past")]);
    assert_eq!(server.psql("slow_disk_past", "SELECT count(*) FROM t").trim(), "1000");
}

/// Where the disk is slow for anything but the journal, the server hears all the same what is durable.
#[test]
fn work_beside_the_stream_does_not_delay_what_is_confirmed() {
    let server = Server::shared(None);
    // Writing the live state, and a checkpoint after a change of definitions.
    let slow = [("BACKWHEN_TEST_PAUSE", "board:20000"), ("BACKWHEN_TEST_POINT", "checkpoint.publish=20000")];
    for (name, value) in slow {
        let database = server.fresh_database("slow_beside");
        server.psql(&database, "CREATE TABLE t (id int PRIMARY KEY)");
        let backwhen = Backwhen::new(&server, &database).with_env("BACKWHEN_HEARTBEAT", "300ms");
        backwhen.init();
        let mut capture = backwhen.spawn_capture_where(name, value);
        // The live state may be what is slow.
        capture.wait_for_line("streaming from");
        server.psql(&database, "CREATE TABLE late (id int PRIMARY KEY)");
        let begun = Instant::now();
        let mut slowest = Duration::ZERO;
        for id in 1.. {
            if begun.elapsed() > Duration::from_secs(5) {
                break;
            }
            slowest = slowest.max(time_to_confirm(&server, &database, id));
        }
        assert!(slowest < Duration::from_secs(10), "{name}={value}: confirmed only after {slowest:?}");
        capture.kill();
        backwhen.ok(&["drop"]);
    }
}

/// How long after its commit a transaction is confirmed.
fn time_to_confirm(server: &Server, database: &str, id: i32) -> Duration {
    let insert = format!("INSERT INTO t VALUES ({id}); SELECT pg_current_wal_insert_lsn()");
    let lsn = server.psql(database, &insert);
    let begun = Instant::now();
    let confirmed = format!(
        "SELECT confirmed_flush_lsn >= '{lsn}' FROM pg_replication_slots \
         WHERE database = current_database() AND NOT temporary"
    );
    server.wait_until(database, &confirmed);
    begun.elapsed()
}

fn kill_often(backwhen: &Backwhen) {
    let mut random = StdRng::seed_from_u64(1);
    for kill in 0..KILLS {
        // Every other one fetches what it missed in batches, of a few transactions each.
        let backlog = if kill % 2 == 0 { "0:65536" } else { "" };
        let mut capture = backwhen.spawn_capture_where("BACKWHEN_TEST_DRAIN", backlog);
        capture.allow("trying again");
        // The first ones meet it while it starts, the later ones in the middle of work.
        sleep(Duration::from_millis(random.random_range(30..700)));
        assert_confirmed_is_held(backwhen);
        capture.kill();
        assert_confirmed_is_held(backwhen);
    }
}
