//! Capture: one at a time, one consumer a slot, and nothing received is lost when it is stopped.

use std::process::{Command, Stdio};

use crate::support::shop::{assert_says, captured_shop};
use crate::support::{Backwhen, Server};
use crate::trouble::exit;
use backwhen::capture::state::State;

#[test]
fn a_second_one_and_a_drop_beside_it_are_refused() {
    let backwhen = captured_shop(&Server::shared(None));
    let mut capture = backwhen.spawn_capture();
    capture.wait_streaming();
    for arguments in [&["capture"][..], &["capture", "--until", "caught-up"], &["drop"]] {
        let message = backwhen.fails(exit::LOCKED, arguments);
        assert_says(
            &message,
            &["already running", &format!("process {}", capture.pid()), "wait for it, or stop it"],
        );
    }
    // What is made to run beside it does.
    backwhen.ok(&["mark", "beside"]);
    capture.wait_caught_up();
    backwhen.ok(&["checkpoint"]);
    backwhen.ok(&["verify"]);
    capture.stop();
}

#[test]
fn a_slot_that_another_consumer_has_is_waited_for() {
    let server = Server::shared(None);
    let backwhen = captured_shop(&server);
    let slot = backwhen.json(&["status"])["slot"]["name"].as_str().unwrap().to_owned();
    let mut thief = Command::new(server.bin().unwrap().join("pg_recvlogical"));
    // It never reports, so the slot stays where it is.
    thief.args(["--start", "--slot", &slot, "-f", "/dev/null", "--status-interval=0", "--fsync-interval=0"]);
    thief.args(["-o", "proto_version=1", "-o", &format!("publication_names={slot}")]);
    thief.args(["-d", &backwhen.source()]).stderr(Stdio::null());
    let mut thief = thief.spawn().unwrap();
    let active = format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{slot}'");
    server.wait_until("postgres", &active);

    let output = backwhen.run(&["capture", "--until", "caught-up", "--patience", "1s"]);
    assert_eq!(output.status.code(), Some(exit::LOCKED), "{}", output.stderr);
    assert_says(&output.stderr, &[&slot, "in use by the server process", "pg_terminate_backend"]);

    let mut capture = backwhen.spawn_capture();
    capture.allow("is in use").wait_for_failure("in use");
    thief.kill().unwrap();
    thief.wait().unwrap();
    server.psql(backwhen.database(), "INSERT INTO visits (page) VALUES ('/after')");
    capture.wait_caught_up();
    capture.stop();
    assert_eq!(backwhen.json_lines(&["list", "gaps"]).len(), 0);
}

/// The event triggers publish a table in its own transaction, and move it when it gets a key, also between two questions
/// that capture asks about it.
#[test]
fn a_table_that_is_published_while_capture_looks_is_no_fault() {
    let backwhen = captured_shop(&Server::shared(None)).with_env("BACKWHEN_HEARTBEAT", "200ms");
    let mut capture = backwhen.spawn_capture_where("BACKWHEN_TEST_PAUSE", "publish:1000");
    capture.wait_streaming();
    for number in 0..40_u32 {
        let mut made = format!("CREATE TABLE made_{number} (id int NOT NULL);");
        if let Some(earlier) = number.checked_sub(6) {
            made += &format!("ALTER TABLE made_{earlier} ADD PRIMARY KEY (id);");
        }
        backwhen.server().psql(backwhen.database(), &made);
        // Tables come in the whole of the second between two questions, and get their keys in the second after the server
        // has refused to publish them again.
        std::thread::sleep(std::time::Duration::from_millis(150));
    }
    capture.wait_caught_up();
    // A warning that a table is not protected would fail the test here.
    capture.stop();
}

/// With a new connection, all segments that are not sealed are to be sealed, also one whose sealing is under way.
#[test]
fn a_segment_is_sealed_once_also_if_the_connection_breaks_meanwhile() {
    let server = Server::shared(None);
    let backwhen = captured_shop(&server).with_env("BACKWHEN_TEST_ROLL_AT", "20000");
    let mut capture = backwhen.spawn_capture_where("BACKWHEN_TEST_POINT", "seal.write=2000");
    capture.allow("trying again").wait_streaming();
    let insert = "INSERT INTO visits (page) SELECT md5(i::text) FROM generate_series(1, 1000) i";
    for _ in 0..2 {
        server.psql(backwhen.database(), insert);
        capture.wait_caught_up();
    }
    let journal = backwhen.history().join("journal");
    let count = |extension: &str| {
        let files = std::fs::read_dir(&journal).unwrap().map(|file| file.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|it| it == extension)).count()
    };
    let (open, sealed) = (count("open"), count("seg"));
    assert!(open > 1, "no segment is being sealed");
    let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = current_database()";
    server.psql(backwhen.database(), end);
    server.psql(backwhen.database(), "INSERT INTO visits (page) VALUES ('/after')");
    capture.wait_until("all finished segments are sealed", |_| count("open") == 1);
    assert_eq!(count("seg"), sealed + open - 1);
    capture.wait_caught_up();
    // A warning that a segment cannot be sealed would fail the test here.
    capture.stop();
}

/// Rows of `visits` in a recovery of the newest moment.
fn recovered_visits(backwhen: &Backwhen, name: &str) -> String {
    let server = backwhen.server();
    let into = format!("{name}_of_{}", backwhen.database());
    backwhen.ok(&["recover", "--to", "latest", "--create", "--into", &server.conninfo(&into)]);
    server.psql(&into, "SELECT count(*) FROM visits")
}

#[test]
fn stopped_by_a_signal_it_keeps_all_that_it_confirmed() {
    let server = Server::shared(None);
    let backwhen = captured_shop(&server);
    for (round, name) in ["TERM", "INT"].into_iter().enumerate() {
        let mut capture = backwhen.spawn_capture_with(&["--output", "json"]);
        capture.wait_streaming();
        for _ in 0..5 {
            server.psql(
                backwhen.database(),
                "INSERT INTO visits (page) SELECT '/busy' FROM generate_series(1, 100)",
            );
        }
        capture.wait_caught_up();
        capture.signal(name);
        let status = capture.wait();
        assert!(status.success(), "after SIG{name}: {status}");
        let status = backwhen.json(&["status"]);
        assert_eq!(status["state"], "blackout");
        assert_says(status["cause"].as_str().unwrap(), &["backwhen capture"]);
        // The server has heard of exactly what is durable.
        assert_eq!(status["slot"]["confirmed"], status["window"]["latest"]["lsn"]);
        let expected = server.psql(backwhen.database(), "SELECT count(*) FROM visits");
        assert_eq!(recovered_visits(&backwhen, &format!("stopped_{round}")), expected);
    }
    backwhen.ok(&["verify"]);
}

#[test]
fn a_source_that_goes_away_is_waited_for() {
    let server = Server::start(None);
    let backwhen = captured_shop(&server);
    let mut capture = backwhen.spawn_capture();
    capture.allow("WARN").wait_streaming();
    server.crash();
    capture.wait_for_live("it has noticed", |live| live.state == State::Blackout);
    let status = backwhen.json(&["status"]);
    assert_says(status["source"].as_str().unwrap(), &["cannot be asked", "could not reach"]);
    let message = backwhen.fails(exit::UNAVAILABLE, &["mark", "unreachable"]);
    assert_says(&message, &["could not reach", "see that the server runs"]);
    server.start_again();
    server.psql(backwhen.database(), "INSERT INTO visits (page) VALUES ('/back')");
    capture.wait_caught_up();
    capture.stop();
    assert_eq!(backwhen.json_lines(&["list", "gaps"]).len(), 0);
    let expected = server.psql(backwhen.database(), "SELECT count(*) FROM visits");
    assert_eq!(recovered_visits(&backwhen, "back"), expected);
}

#[test]
fn another_cluster_is_refused() {
    let backwhen = captured_shop(&Server::shared(None));
    let stranger = Server::start(None);
    let source = stranger.conninfo("postgres");
    for arguments in [
        &["capture", "--until", "caught-up", "--source", &source][..],
        &["checkpoint", "--from-source", "--source", &source],
        &["drop", "--source", &source],
    ] {
        let message = backwhen.fails(exit::REFUSED, arguments);
        assert_says(&message, &["system identifier"]);
    }
    backwhen.ok(&["capture", "--until", "caught-up"]);
}

/// Such a checkpoint would be empty, or contradict the journal.
#[test]
fn no_checkpoint_is_taken_from_a_source_that_the_history_does_not_follow_any_more() {
    let server = Server::shared(None);
    let backwhen = captured_shop(&server);
    let checkpoint = ["checkpoint", "--from-source"];
    let slot = backwhen.json(&["status"])["slot"]["name"].as_str().unwrap().to_owned();
    server.psql(backwhen.database(), &format!("ALTER PUBLICATION {slot} DROP TABLE customers"));
    let message = backwhen.fails(exit::REFUSED, &checkpoint);
    assert_says(&message, &["do not carry all of public.customers", "backwhen capture"]);
    backwhen.ok(&["drop"]);
    assert_says(&backwhen.fails(exit::REFUSED, &checkpoint), &[&slot, "is gone from the source"]);
    assert_eq!(backwhen.json_lines(&["list", "checkpoints"]).len(), 1);
    // A capture goes on behind a gap.
    backwhen.ok(&["capture", "--until", "caught-up"]);
    backwhen.ok(&checkpoint);
    backwhen.ok(&["verify", "--prove"]);
    backwhen.ok(&["drop"]);
}
