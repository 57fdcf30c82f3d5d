//! Commands that are interrupted while the source works for them: by Ctrl-C, by a terminal that goes away, by a kill.
//! After the next command the source has nothing of backwhen.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::support::shop::{OpenSession, assert_says, assert_source_clean, captured_shop, shop};
use crate::support::{self, Backwhen, Proxy, Server, wait};
use crate::trouble::exit;

const LIMIT: Duration = Duration::from_secs(60);

fn start(backwhen: &Backwhen, arguments: &[&str]) -> Child {
    let mut command = backwhen.command(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    assert!(std::process::Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
}

fn wait_for(backwhen: &Backwhen, sql: &str, expected: &str) {
    support::wait_for(sql, || backwhen.server().psql(backwhen.database(), sql) == expected);
}

/// A session of backwhen waits for a lock.
const WAITS: &str = "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() \
                     AND application_name LIKE 'backwhen init %' AND wait_event_type = 'Lock'";

#[test]
fn what_was_asked_of_the_server_is_not_done_after_the_interruption() {
    for name in ["INT", "HUP", "KILL"] {
        let backwhen = shop(&Server::shared(None));
        let server = backwhen.server();
        let mut session = OpenSession::new(server, &server.conninfo(backwhen.database()));
        session.run("BEGIN; LOCK TABLE visits IN SHARE UPDATE EXCLUSIVE MODE;");
        let mut init = start(&backwhen, &["init", "--source", &backwhen.source()]);
        wait_for(&backwhen, WAITS, "t");
        signal(&init, name);
        let status = wait(&mut init, LIMIT).expect("init ends");
        if name != "KILL" {
            assert_eq!(status.code(), Some(exit::INTERRUPTED), "{name}");
        }
        // The server has given up the statement before the lock is free.
        wait_for(&backwhen, WAITS, "f");
        drop(session);
        // After a kill there is nobody to clean up but the next init.
        if name != "KILL" {
            assert_source_clean(server, backwhen.database());
        }
        backwhen.init();
        backwhen.ok(&["drop"]);
        assert_source_clean(server, backwhen.database());
    }
}

/// The transaction is prepared, so it has no session that could be seen to wait.
#[test]
fn a_prepared_transaction_is_named_and_does_not_keep_what_was_made() {
    let server = Server::start(None);
    let backwhen = shop(&server);
    let prepare = "BEGIN; INSERT INTO visits (page) VALUES ('/p'); PREPARE TRANSACTION 'left behind'";
    server.psql(backwhen.database(), prepare);
    let check = backwhen.ok(&["check", "--source", &backwhen.source()]);
    assert_says(&check, &["left behind", "ROLLBACK PREPARED 'left behind'"]);
    let mut init = start(&backwhen, &["init", "--source", &backwhen.source()]);
    wait_for(&backwhen, WAITS, "t");
    // The log tells of a wait after two seconds, and the prepared transaction is found by the next look.
    let mut lines = BufReader::new(init.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut said = String::new();
    while !said.contains("prepared transaction") {
        said += &lines.next().expect("init tells what it waits for");
    }
    signal(&init, "TERM");
    assert_eq!(wait(&mut init, LIMIT).expect("init ends").code(), Some(exit::INTERRUPTED));
    said.extend(lines);
    assert_says(&said, &["waits", "prepared transaction \"left behind\"", "ROLLBACK PREPARED 'left behind'"]);
    assert_source_clean(&server, backwhen.database());
    server.psql(backwhen.database(), "ROLLBACK PREPARED 'left behind'");
    backwhen.init();
}

/// How a command meets its end.
#[derive(Clone, Copy, Debug)]
enum End {
    Signal(&'static str),
    /// The network between goes away, and the command by itself.
    Cut,
    /// The command is killed while the network is slow: what it has sent arrives afterwards.
    KilledWhileStalled,
}

/// Runs a command through a proxy that holds the N-th statement back, ends the command then, and says whether there
/// was an N-th one.
fn interrupt_at(backwhen: &Backwhen, arguments: &[&str], number: u64, end: End) -> bool {
    let proxy = Proxy::before(backwhen.server());
    proxy.hold_back(number);
    let source = proxy.conninfo(backwhen.database());
    let mut child = start(backwhen, &[arguments, &["--source", &source]].concat());
    let mut ended = None;
    support::wait_for(format!("{arguments:?} comes to statement {number}"), || {
        ended = child.try_wait().unwrap();
        ended.is_some() || proxy.holds_back()
    });
    if let Some(status) = ended {
        assert!(status.success(), "{arguments:?} failed before statement {number}");
        return false;
    }
    match end {
        End::Signal(name) => signal(&child, name),
        End::Cut => proxy.cut(),
        End::KilledWhileStalled => signal(&child, "KILL"),
    }
    if !matches!(end, End::KilledWhileStalled) {
        wait(&mut child, LIMIT)
            .unwrap_or_else(|| panic!("{arguments:?} hangs at statement {number}, {end:?}"));
    }
    let _ = child.wait();
    proxy.release();
    true
}

/// The statements at which a command is interrupted, each with the command's end. A run takes a sample, which its seed
/// shifts: `BACKWHEN_TEST_SEED` replays one. `BACKWHEN_TEST_EVERY` takes every statement from `BACKWHEN_TEST_FIRST` on, with
/// the end of that number.
fn interruptions(ends: Vec<End>) -> impl Iterator<Item = (u64, End)> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<usize>().ok();
    let every = number("BACKWHEN_TEST_EVERY");
    let seed = number("BACKWHEN_TEST_SEED").unwrap_or_else(|| rand::random::<u8>().into());
    eprintln!("again with: BACKWHEN_TEST_SEED={seed}");
    let (first, step) = match every {
        Some(_) => (number("BACKWHEN_TEST_FIRST").unwrap_or(1), 1),
        None => (1 + seed % SAMPLE, SAMPLE),
    };
    let end = move |turn: usize| ends[every.unwrap_or(seed + turn) % ends.len()];
    let interruption = move |turn| ((first + turn * step) as u64, end(turn));
    (0..).map(interruption).inspect(|(number, end)| eprintln!("at statement {number}: {end:?}"))
}

/// The test interrupts one in so many statements.
const SAMPLE: usize = 8;

const ENDS: [End; 5] =
    [End::Signal("INT"), End::Signal("HUP"), End::Signal("KILL"), End::Cut, End::KilledWhileStalled];

/// A session that was held back may still be there, but not what it did.
fn assert_no_trace(backwhen: &Backwhen) {
    let left = "SELECT (SELECT count(*) FROM pg_replication_slots WHERE database = current_database()) \
                     + (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_event_trigger) \
                     + (SELECT count(*) FROM pg_namespace WHERE nspname = 'backwhen')";
    wait_for(backwhen, left, "0");
}

#[test]
fn an_init_that_ends_at_any_statement_leaves_no_trace() {
    let server = Server::shared(None);
    for (number, end) in interruptions(ENDS.into()) {
        let backwhen = shop(&server);
        if !interrupt_at(&backwhen, &["init"], number, end) {
            break;
        }
        if matches!(end, End::Signal("INT" | "HUP")) {
            assert_no_trace(&backwhen);
        }
        if !backwhen.history().join("history.json").exists() {
            backwhen.init();
        }
        // A late kill leaves a history whose source is the proxy, which is gone.
        backwhen.ok(&["drop", "--source", &backwhen.source()]);
        assert_no_trace(&backwhen);
    }
}

#[test]
fn a_drop_a_resync_or_a_checkpoint_that_ends_at_any_statement_leaves_no_trace() {
    let server = Server::shared(None);
    for command in [&["resync"][..], &["checkpoint", "--from-source"], &["drop"]] {
        let mut backwhen = captured_shop(&server);
        // A resync goes on trying for a minute where the network is gone.
        let ends = ENDS.into_iter().filter(|end| command != ["resync"] || !matches!(end, End::Cut));
        for (number, end) in interruptions(ends.collect()) {
            if !interrupt_at(&backwhen, command, number, end) {
                break;
            }
            let temporary =
                "SELECT count(*) FROM pg_replication_slots WHERE database = current_database() AND temporary";
            wait_for(&backwhen, temporary, "0");
            if command == ["drop"] {
                backwhen.ok(&["drop"]);
                assert_no_trace(&backwhen);
                backwhen = captured_shop(&server);
            }
        }
        backwhen.ok(&["drop"]);
        assert_no_trace(&backwhen);
    }
}

#[test]
fn what_a_lost_history_has_left_is_taken_off_by_force() {
    let server = Server::shared(None);
    let (first, second) = (shop(&server), shop(&server));
    first.init();
    let slot = first.json(&["status"])["slot"]["name"].as_str().unwrap().to_owned();
    let identity = std::fs::read(first.history().join("history.json")).unwrap();
    let id =
        serde_json::from_slice::<serde_json::Value>(&identity).unwrap()["id"].as_str().unwrap().to_owned();
    std::fs::remove_dir_all(first.history()).unwrap();
    let message = first.fails(exit::REFUSED, &["drop", "--source", &first.source()]);
    assert_says(&message, &["holds no history"]);
    let check = first.ok(&["check", "--source", &first.source()]);
    assert_says(&check, &["backwhen_", "drop --force --slot"]);
    // Another history may have made what is there, so the command must be told which one is gone.
    let message = first.fails(exit::REFUSED, &["drop", "--force", "--source", &first.source()]);
    assert_says(
        &message,
        &[&format!("{slot} (event triggers, publications, slot, table of keys)"), "--slot"],
    );
    first.ok(&["drop", "--force", "--slot", &id, "--source", &first.source()]);
    assert_source_clean(&server, first.database());
    let nothing = first.ok(&["drop", "--force", "--source", &first.source()]);
    assert_says(&nothing, &["nothing of backwhen"]);
    second.init();
    std::fs::remove_dir_all(second.history()).unwrap();
    second.init();
    let slot = second.json(&["status"])["slot"]["name"].as_str().unwrap().to_owned();
    std::fs::remove_dir_all(second.history()).unwrap();
    let message = second.fails(exit::REFUSED, &["drop", "--force", "--source", &second.source()]);
    assert_says(&message, &[&slot, "--slot"]);
    second.ok(&["drop", "--force", "--slot", &slot, "--source", &second.source()]);
    let message = second.fails(exit::REFUSED, &["drop", "--force", "--source", &second.source()]);
    let left = message.split_once("backwhen_").unwrap().1[..12].to_owned();
    second.ok(&["drop", "--force", "--slot", &format!("backwhen_{left}"), "--source", &second.source()]);
    assert_source_clean(&server, second.database());
}
