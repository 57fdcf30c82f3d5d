//! Transactions that are large, many, or hold something huge: within bounds of memory.

use std::path::PathBuf;
use std::process::Stdio;
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use crate::support::{Backwhen, Server};

const MIB: u64 = 1 << 20;
const CAPTURE_LIMIT: u64 = 256 * MIB;
const RECOVER_LIMIT: u64 = 1024 * MIB;

/// The most memory a process has had resident so far, in bytes.
fn peak(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(PathBuf::from(format!("/proc/{pid}/status"))).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Looks again and again until the process is gone; what it had at most.
fn watch_peak(pid: u32) -> JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut most = 0;
        while let Some(now) = peak(pid) {
            most = most.max(now);
            // The interval of the question.
            sleep(Duration::from_millis(10));
        }
        most
    })
}

/// Runs a command that must succeed; the most memory it had.
fn run_watched(backwhen: &Backwhen, arguments: &[&str]) -> u64 {
    let mut command = backwhen.command(arguments);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let watcher = watch_peak(child.id());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    watcher.join().unwrap()
}

/// Counts and an order-free sum of every table, quicker than a dump of millions of rows.
fn sums(server: &Server, database: &str) -> String {
    let tables = "SELECT format('SELECT %L, count(*), sum(hashtextextended(t::text, 0)::numeric) FROM %s t', \
                  oid::regclass, oid::regclass) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace \
                  ORDER BY relname";
    let statements = server.psql(database, tables);
    statements.lines().map(|statement| server.psql(database, statement) + "\n").collect()
}

fn assert_recovers_within(backwhen: &Backwhen, name: &str, limit: u64) {
    let server = backwhen.server();
    let into = server.conninfo(name);
    let peak = run_watched(backwhen, &["recover", "--to", "latest", "--into", &into, "--create"]);
    assert_eq!(sums(server, backwhen.database()), sums(server, name));
    eprintln!("recover had {} MiB at most", peak / MIB);
    assert!(peak < limit, "recover had {} MiB, more than {}", peak / MIB, limit / MIB);
    server.psql("postgres", &format!("DROP DATABASE {name}"));
}

#[test]
fn two_million_rows_in_one_transaction() {
    let server = Server::shared(None);
    let database = server.fresh_database("volume");
    server.psql(
        &database,
        "CREATE TABLE many (id int PRIMARY KEY, v text); CREATE TABLE few (id int PRIMARY KEY)",
    );
    let backwhen = Backwhen::new(&server, &database);
    backwhen.init();
    let mut capture = backwhen.spawn_capture();
    let watcher = watch_peak(capture.pid());
    let load = "INSERT INTO few VALUES (1);
        INSERT INTO many SELECT n, 'row ' || n FROM generate_series(1, 2000000) n;
        INSERT INTO few VALUES (2)";
    server.psql(&database, load);
    capture.wait_caught_up();
    capture.stop();
    let peak = watcher.join().unwrap();
    eprintln!("capture had {} MiB at most", peak / MIB);
    assert!(peak < CAPTURE_LIMIT, "capture had {} MiB, more than {}", peak / MIB, CAPTURE_LIMIT / MIB);
    assert_recovers_within(&backwhen, "volume_many", RECOVER_LIMIT);
    let peak = run_watched(&backwhen, &["checkpoint"]);
    assert!(peak < RECOVER_LIMIT, "checkpoint had {} MiB, more than {}", peak / MIB, RECOVER_LIMIT / MIB);
    assert_recovers_within(&backwhen, "volume_folded", RECOVER_LIMIT);
}

#[test]
fn ten_thousand_transactions_while_capture_runs() {
    let server = Server::shared(None);
    let database = server.fresh_database("burst");
    let tables = "CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL, note text);
        INSERT INTO account SELECT n, 1000, NULL FROM generate_series(1, 200) n;
        CREATE TABLE entry (id bigserial PRIMARY KEY, account int, amount int)";
    server.psql(&database, tables);
    let backwhen = Backwhen::new(&server, &database);
    backwhen.init();
    let mut capture = backwhen.spawn_capture();
    let burst = "DO $$
        BEGIN
            FOR n IN 1..5000 LOOP
                UPDATE account SET balance = balance - n % 7, note = 'n ' || n WHERE id = 1 + n % 200;
                UPDATE account SET balance = balance + n % 7 WHERE id = 1 + (n * 31) % 200;
                INSERT INTO entry (account, amount) VALUES (1 + n % 200, n % 7);
                COMMIT;
                DELETE FROM entry WHERE id = n - 10 AND n % 3 = 0;
                UPDATE account SET id = -id WHERE id = 1 + n % 200;
                UPDATE account SET id = -id WHERE id < 0;
                COMMIT;
            END LOOP;
        END $$";
    server.psql(&database, burst);
    capture.wait_caught_up();
    capture.stop();
    let truth = sums(&server, &database);
    let into = server.conninfo("burst_recovered");
    let report = backwhen.json(&["recover", "--to", "latest", "--into", &into, "--create"]);
    assert!(report["transactions_folded"].as_u64().unwrap() >= 10_000, "{report:#}");
    assert_eq!(sums(&server, "burst_recovered"), truth);
    backwhen.ok(&["checkpoint"]);
    assert_recovers_within(&backwhen, "burst_folded", RECOVER_LIMIT);
}

#[test]
fn values_of_fifty_million_bytes() {
    let server = Server::shared(None);
    let database = server.fresh_database("huge");
    let tables = "CREATE TABLE huge (id int PRIMARY KEY, body text, note text);
        ALTER TABLE huge ALTER body SET STORAGE EXTERNAL;
        INSERT INTO huge VALUES (1, repeat(E'fifty\\\\\\t', 7000000), 'image')";
    server.psql(&database, tables);
    let backwhen = Backwhen::new(&server, &database);
    backwhen.init();
    let changes = "INSERT INTO huge VALUES (2, repeat('0123456789', 5000000), 'stream');
        UPDATE huge SET note = 'touched';
        UPDATE huge SET id = id + 10 WHERE id = 1";
    server.psql(&database, changes);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    assert_recovers_within(&backwhen, "huge_recovered", RECOVER_LIMIT);
    backwhen.ok(&["checkpoint"]);
    server.psql(&database, "UPDATE huge SET note = 'after the checkpoint'; DELETE FROM huge WHERE id = 2");
    backwhen.ok(&["capture", "--until", "caught-up"]);
    assert_recovers_within(&backwhen, "huge_folded", RECOVER_LIMIT);
}
