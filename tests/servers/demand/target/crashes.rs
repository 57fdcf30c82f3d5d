//! A target whose server crashes, or whose disk is full: nobody takes what is left for a database, and the next recovery or
//! `--resume` goes on.

use std::os::unix::fs::{MetadataExt, chown};
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::{DEMAND, GATES_HELD, Opened, gates, resume, run_unlocked};
use crate::demand::{protected, psql};
use crate::support::shop::assert_says;
use crate::support::{Backwhen, Dump, Server, assert_same, finish, wait_for};
use crate::trouble::disk::Disk;

/// Selects the databases that a recovery may have left, but for those of the server itself.
const DATABASES: &str =
    "SELECT datname FROM pg_database WHERE datname NOT IN ('postgres', 'template0', 'template1') ORDER BY 1";

/// How a server says that its disk is full.
const FULL: &str = "SQLSTATE 53100";

/// The points before the database has its name.
const BEFORE: [&str; 3] = ["demand.structure", "demand.ledger", "demand.gates"];

fn begin(into: &str) -> [&str; 7] {
    ["recover", "--to", "latest", "--on-demand", "--create", "--into", into]
}

/// A recovery that has stopped itself at a failpoint.
struct Stopped(Option<Child>);

impl Stopped {
    fn at(point: &str, backwhen: &Backwhen, into: &str) -> Stopped {
        let mut command = backwhen.command(&begin(into));
        command.env("BACKWHEN_TEST_POINT", format!("{point}=stop"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().expect("backwhen starts");
        let state = format!("/proc/{}/stat", child.id());
        wait_for(format_args!("backwhen stops at {point}"), || {
            std::fs::read_to_string(&state).is_ok_and(|text| text.contains(") T "))
        });
        Stopped(Some(child))
    }

    /// Sends signals, the last of which lets it go on; returns its exit code and what it said.
    fn go_on(mut self, signals: &[Signal]) -> (Option<i32>, String) {
        let child = self.0.take().expect("it is there until it goes on");
        for signal in signals {
            kill_process(Pid::from_child(&child), *signal).expect("it takes signals");
        }
        let output = finish(child, "recover --on-demand, which was stopped");
        (output.status.code(), output.stderr)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Nobody but a superuser reads a table that is not loaded, and everybody is told what the database is.
fn assert_unfinished(backwhen: &Backwhen, target: &Server, database: &str) {
    let comment =
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()";
    assert!(target.psql(database, comment).starts_with("backwhen: not all tables"), "{database}");
    let read = "SET ROLE reader; SELECT count(*) FROM ";
    for gate in gates(backwhen, &target.conninfo(database)) {
        let (table, state) = gate.split_once(' ').unwrap();
        let read = target.try_psql(database, &format!("{read}{table}"));
        let is_shown = read.as_ref().is_ok_and(|rows| rows != "0");
        let is_refused = read.as_ref().is_err_and(|error| {
            error.contains("permission denied") || error.contains("has not been populated")
        });
        assert!(if state == "loaded" { is_shown } else { is_refused }, "{gate}: {read:?}");
    }
}

/// The shop with a reader of all tables. Its server is another one than the target.
fn readable(target: &Server) -> Backwhen {
    let server = Server::shared(None);
    server.psql(
        "postgres",
        "DO $$BEGIN CREATE ROLE reader; EXCEPTION WHEN duplicate_object OR unique_violation THEN END$$",
    );
    target.psql("postgres", "CREATE ROLE reader");
    let backwhen = protected(&server).with_env("BACKWHEN_TEST_GATE_ABOVE", "0");
    let sql =
        "GRANT USAGE ON SCHEMA sales TO reader; GRANT SELECT ON ALL TABLES IN SCHEMA public, sales TO reader";
    server.psql(backwhen.database(), sql);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    backwhen
}

#[test]
fn a_target_that_crashes_at_any_step_shows_no_empty_table() {
    let target = Server::start(None);
    let backwhen = readable(&target);
    let truth = Dump::of(backwhen.server(), backwhen.database());
    let into = target.conninfo("shop");
    for point in DEMAND {
        let stopped = Stopped::at(point, &backwhen, &into);
        target.crash();
        target.start_again();
        let (code, said) = stopped.go_on(&[Signal::CONT]);
        assert_eq!(code, Some(10), "{point}: {said}");
        let left = target.psql("postgres", DATABASES);
        if BEFORE.contains(point) {
            assert_eq!(left, "shop.backwhen-unfinished", "{point}");
            let again = run_unlocked(&backwhen, &[&begin(&into)[..], &["--output", "json"]].concat());
            assert!(again.status.success(), "{point}: {}", again.stderr);
            assert_says(&again.stdout, &["an earlier recovery left unfinished"]);
        } else {
            assert_eq!(left, "shop", "{point}");
            assert_says(&said, &["database shop stays unfinished", "recover --resume"]);
            assert_unfinished(&backwhen, &target, "shop");
            resume(&backwhen, &into);
        }
        assert_same(&truth, &Dump::of(&target, "shop"));
        target.psql("postgres", "DROP DATABASE shop");
    }
}

#[test]
fn an_application_loses_nothing_that_it_wrote_before_its_server_crashed() {
    let target = Server::start(None);
    let backwhen = readable(&target);
    let into = target.conninfo("shop");
    let opened = Opened::begin(&backwhen, &into, false, &[]);
    // The gate's own commit does not wait for the disk. The application's does, and so for all before it.
    psql(&target, &into, "DELETE FROM log WHERE number = 1; INSERT INTO log VALUES ('ours', 7)");
    let logged = "SELECT count(*), sum(number) FROM log WHERE what = 'ours'";
    target.crash();
    let output = opened.end();
    assert_eq!(output.status.code(), Some(10), "{}", output.stderr);
    assert_says(&output.stderr, &["database shop stays unfinished", "recover --resume"]);
    target.start_again();
    assert_unfinished(&backwhen, &target, "shop");
    assert!(gates(&backwhen, &into).contains(&"public.log loaded".to_owned()));
    assert_eq!(target.psql("shop", logged), "1|7");
    // The server goes down once more while the rest is loaded.
    let resumed = ["recover", "--resume", "--into", &into];
    let again = Opened::start(&backwhen, false, &resumed);
    wait_for("gates are closed", || target.psql("shop", GATES_HELD) != "0");
    target.crash();
    assert_eq!(again.end().status.code(), Some(10));
    target.start_again();
    assert_unfinished(&backwhen, &target, "shop");
    let report = resume(&backwhen, &into);
    assert_eq!(report["inexact"], serde_json::json!([]), "{report}");
    assert_eq!(target.psql("shop", logged), "1|7");
    let orders = "SELECT count(*), sum(total) FROM sales.orders";
    assert_eq!(
        target.psql("shop", orders),
        backwhen.server().psql(backwhen.database(), orders),
        "what was not touched is as it was"
    );
}

#[test]
fn an_interrupt_at_any_step_leaves_nothing_or_a_database_that_says_what_it_is() {
    let target = Server::start(None);
    let backwhen = readable(&target);
    let into = target.conninfo("shop");
    for point in DEMAND {
        let stopped = Stopped::at(point, &backwhen, &into);
        let (code, said) = stopped.go_on(&[Signal::INT, Signal::CONT]);
        let left = target.psql("postgres", DATABASES);
        if *point == "demand.close" {
            assert_eq!((code, left.as_str()), (Some(0), "shop"), "{point}: {said}");
        } else {
            assert_eq!(code, Some(130), "{point}: {said}");
            // The interrupt may be noticed only after the next steps.
            if left.is_empty() && BEFORE.contains(point) {
                continue;
            }
            assert_eq!(left, "shop", "{point}: {said}");
            wait_for("the gates are gone", || target.psql("shop", GATES_HELD) == "0");
            assert_unfinished(&backwhen, &target, "shop");
            resume(&backwhen, &into);
        }
        target.psql("postgres", "DROP DATABASE shop");
    }
}

#[test]
fn a_gate_whose_session_somebody_ends_ends_the_loading() {
    let target = Server::start(None);
    let backwhen = readable(&target);
    let into = target.conninfo("shop");
    let opened = Opened::begin(&backwhen, &into, false, &[]);
    let ended = "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_locks WHERE relation = 'customers'::regclass
        AND granted AND mode = 'AccessExclusiveLock') l";
    assert_eq!(target.psql("shop", ended), "1");
    let output = opened.end();
    assert_eq!(output.status.code(), Some(10), "{}", output.stderr);
    assert_says(
        &output.stderr,
        &["public.customers has ended", "somebody ended the session", "recover --resume"],
    );
    assert_unfinished(&backwhen, &target, "shop");
    resume(&backwhen, &into);
    assert_same(&Dump::of(backwhen.server(), backwhen.database()), &Dump::of(&target, "shop"));
}

/// A database of the target that lies on a disk of its own.
fn on_disk(target: &Server, disk: &Disk) {
    let place = disk.folder().join("tables");
    std::fs::create_dir(&place).unwrap();
    // PostgreSQL wants the folder to be its own user's.
    let owner = target.psql("postgres", "SHOW data_directory");
    let owner = std::fs::metadata(owner).unwrap();
    chown(&place, Some(owner.uid()), Some(owner.gid())).unwrap();
    target.psql("postgres", &format!("CREATE TABLESPACE small LOCATION '{}'", place.display()));
    target.psql("postgres", "CREATE DATABASE shop TABLESPACE small TEMPLATE template0");
}

#[test]
fn a_full_disk_of_the_target_costs_the_tables_for_which_there_is_no_room() {
    let Some(disk) = Disk::mount("64m") else { return };
    let target = Server::start(None);
    let backwhen = readable(&target);
    backwhen.server().psql(
        backwhen.database(),
        "CREATE TABLE large (id int PRIMARY KEY, text text); GRANT SELECT ON large TO reader;
         INSERT INTO large SELECT n, repeat(md5(n::text), 30) FROM generate_series(1, 4000) n",
    );
    backwhen.ok(&["capture", "--until", "caught-up"]);
    on_disk(&target, &disk);
    let into = target.conninfo("shop");
    let existing = ["recover", "--to", "latest", "--on-demand", "--into", &into];
    // Before the database is open, a full disk leaves the empty database that was there.
    disk.fill(512 << 10);
    let message = backwhen.fails(10, &existing);
    assert_says(&message, &[FULL]);
    assert_eq!(target.psql("postgres", DATABASES), "shop");
    assert_eq!(target.psql("shop", "SELECT count(*) FROM pg_class WHERE oid >= 16384"), "0");
    disk.allow_writing();

    let mut opened = Opened::start(&backwhen, false, &existing);
    opened.await_open();
    disk.fill(2 << 20);
    assert_says(&psql(&target, &into, "SELECT count(*) FROM large"), &["canceling statement"]);
    let rows = psql(&target, &into, "SELECT count(*) FROM visits");
    for table in ["customers", "sales.orders", "log", "untouched", "totals"] {
        psql(&target, &into, &format!("SELECT count(*) FROM {table}"));
    }
    assert_eq!(rows, "1000", "a table for which there is room is loaded");
    let output = opened.end();
    assert_eq!(output.status.code(), Some(10), "{}", output.stderr);
    assert_says(&output.stderr, &["public.large cannot be loaded", FULL, "recover --resume"]);
    assert_unfinished(&backwhen, &target, "shop");
    // There is no room yet.
    let message = run_unlocked(&backwhen, &["recover", "--resume", "--into", &into]);
    assert_eq!(message.status.code(), Some(10), "{}", message.stderr);
    assert_says(&message.stderr, &[FULL, "recover --resume"]);
    disk.allow_writing();
    resume(&backwhen, &into);
    assert_same(&Dump::of(backwhen.server(), backwhen.database()), &Dump::of(&target, "shop"));
}
