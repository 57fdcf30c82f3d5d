//! New tables are in the stream from their first row on, however many transactions make tables at the same time.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::ddl_triggers::told::Source;
use crate::support::shop::OpenSession;
use crate::support::{Backwhen, Dump, Server, assert_same, meanwhile, number_from, wait_at_most};

const SESSIONS: u32 = 20;

/// The number of sessions among these that keep their transaction open until the storm is over.
const OPEN: u32 = 4;

/// How long a storm lasts by default.
const STORM: Duration = Duration::from_secs(8);

/// A longer storm has about so many transactions. While a transaction is open, the server's logical decoding keeps for it
/// the numbers of all transactions that change definitions, once more with each of them: what it sorts and spills to
/// disk grows with the square of their number (31,504 took 17 GB).
const TRANSACTIONS: u32 = 6500;

/// How long each transaction of a storm sleeps before it ends.
fn pause(storm: Duration) -> Duration {
    let each = storm * (SESSIONS - OPEN) / TRANSACTIONS;
    each.max(Duration::from_millis(250))
}

/// The table in which each transaction notes the rows that it left in the tables of the storm.
const TOLD: &str = "CREATE TABLE told (name text PRIMARY KEY, rows int8, total int8)";

/// Fails unless every table holds what `told` says, and there is no other.
const AUDIT: &str = "DO $$DECLARE t record; c int8; s int8; BEGIN
    FOR t IN SELECT * FROM told LOOP
        EXECUTE format('SELECT count(*), sum(v) FROM %I', t.name) INTO c, s;
        IF (c, s) IS DISTINCT FROM (t.rows, t.total) THEN RAISE EXCEPTION '% holds %, %, not %', t.name, c, s, t; END IF;
    END LOOP;
    IF (SELECT count(*) FROM pg_tables WHERE tablename ~ '^s[0-9]') <> (SELECT count(*) FROM told) THEN
        RAISE EXCEPTION 'other tables than are told of: %', (SELECT string_agg(tablename, ' ') FROM pg_tables);
    END IF;
END$$";

/// One transaction of a session: makes a table, writes to it, changes the one before, and drops an old one. Each third
/// table gets its key in the transaction after.
fn transaction(session: u32, step: u32, end: &str) -> String {
    let name = |step: u32| format!("s{session}_{step}");
    let tell = |table: &str| {
        format!(
            "INSERT INTO told SELECT '{table}', count(*), sum(v) FROM {table} \
             ON CONFLICT (name) DO UPDATE SET rows = excluded.rows, total = excluded.total;"
        )
    };
    let write =
        |table: &str| format!("UPDATE {table} SET v = v + 1 WHERE id = 2; DELETE FROM {table} WHERE id = 3;");
    let (new, keyless) = (name(step), step.is_multiple_of(3));
    let mut sql = format!(
        "BEGIN; CREATE TABLE {new} (id int {}, v int);
         INSERT INTO {new} SELECT i, i * {step} FROM generate_series(1, 5) i; {}",
        if keyless { "NOT NULL" } else { "PRIMARY KEY" },
        if keyless { String::new() } else { write(&new) }
    );
    if step > 1 {
        let before = name(step - 1);
        let key = if step % 3 == 1 { "ADD PRIMARY KEY (id), " } else { "" };
        sql += &format!("ALTER TABLE {before} {key}ADD COLUMN w int DEFAULT 7; ");
        if step % 3 == 1 {
            sql += &write(&before);
        }
        sql += &format!("INSERT INTO {before} VALUES (9, 9, 9); {}", tell(&before));
    }
    if step > 4 {
        sql += &format!("DROP TABLE {0}; DELETE FROM told WHERE name = '{0}'; ", name(step - 4));
    }
    sql + &tell(&new) + end
}

/// The application of a storm: its sessions, and how long its transactions took.
struct Storm {
    sessions: Vec<Mutex<OpenSession>>,
    steps: Vec<AtomicU32>,
    end: String,
    /// The sum over all transactions, and the longest.
    took: Mutex<(Duration, Duration)>,
}

impl Storm {
    /// Opens the sessions, and begins the transactions that stay open until the end.
    fn open(server: &Server, source: &str, pause: Duration) -> Storm {
        let sessions = || Mutex::new(OpenSession::new(server, source));
        let sessions: Vec<_> = std::iter::repeat_with(sessions).take(SESSIONS as usize).collect();
        for open in 1..=OPEN {
            sessions[open as usize - 1].lock().unwrap().run(&transaction(open, 1, ""));
        }
        let steps = std::iter::repeat_with(AtomicU32::default).take(SESSIONS as usize).collect();
        let end = format!("SELECT pg_sleep({}); COMMIT;", pause.as_secs_f64());
        Storm { sessions, steps, end, took: Mutex::default() }
    }

    /// Runs the next transaction of a session.
    fn go_on(&self, number: u32) {
        let session = (number + OPEN) as usize - 1;
        let step = self.steps[session].fetch_add(1, Ordering::Relaxed) + 1;
        let sql = transaction(number + OPEN, step, &self.end);
        let begun = Instant::now();
        self.sessions[session].lock().unwrap().run(&sql);
        let took = begun.elapsed();
        let mut all = self.took.lock().unwrap();
        *all = (all.0 + took, all.1.max(took));
    }

    /// Rages for so long; returns some of its moments.
    fn rage(&self, server: &Server, database: &str, time: Duration) -> Vec<String> {
        meanwhile(
            SESSIONS - OPEN,
            |number| self.go_on(number),
            || {
                let moment = |_| {
                    // The storm goes on between two moments.
                    sleep(time / 4);
                    server.psql(database, "SELECT pg_current_wal_insert_lsn()")
                };
                (0..4).map(moment).collect()
            },
        )
    }

    /// Ends the open transactions; returns how many others there were.
    fn end(self) -> u32 {
        for session in &self.sessions[..OPEN as usize] {
            session.lock().unwrap().run("COMMIT;");
        }
        let made: u32 = self.steps.iter().map(|step| step.load(Ordering::Relaxed)).sum();
        let (sum, longest) = self.took.into_inner().unwrap();
        eprintln!("{made} transactions took {:?} each, the longest {longest:?}", sum / made.max(1));
        made
    }
}

/// `BACKWHEN_STORM_SECONDS` makes it longer (`make storm`); then a storm without backwhen is measured first.
#[test]
fn in_a_storm_of_sessions_every_table_is_exact_at_every_moment() {
    let longer = number_from("BACKWHEN_STORM_SECONDS").map(Duration::from_secs);
    let time = longer.unwrap_or(STORM);
    // A server of its own: open transactions of other tests would keep slots from being made.
    let server = Server::builder().setting("wal_level", "logical").start();
    if longer.is_some() {
        let alone = server.fresh_database("alone");
        server.psql(&alone, TOLD);
        let storm = Storm::open(&server, &server.conninfo(&alone), pause(time));
        storm.rage(&server, &alone, time / 10);
        eprint!("without backwhen: ");
        storm.end();
        server.psql(&alone, AUDIT);
    }
    let database = server.fresh_database("storm");
    server.psql(&database, TOLD);
    let backwhen = Backwhen::new(&server, &database);
    backwhen.init();
    let storm = Storm::open(&server, &backwhen.source(), pause(time));
    let mut capture = backwhen.spawn_capture_with(&["--heartbeat", "500ms"]);
    capture.allow("the creation of the replication slot waits");
    let moments = storm.rage(&server, &database, time);
    let made = storm.end();
    server.psql(&database, AUDIT);
    let truth = Dump::of(&server, &database);
    capture.stop();
    backwhen.ok(&["capture", "--until", "caught-up"]);
    assert!(made > SESSIONS * 2, "{made} transactions");
    for moment in moments.iter().map(String::as_str).chain(["latest"]) {
        let (target, report) = recover(&backwhen, moment);
        for inexact in report["inexact"].as_array().unwrap() {
            let why = inexact["why"].as_str().unwrap();
            assert!(why.starts_with("has no replica identity"), "at {moment}: {report:#}");
        }
        server.psql(&target, AUDIT);
        let tables = server.psql(&target, "SELECT count(*) FROM told");
        eprintln!("at {moment}: {tables} tables are exact, after {}", report["transactions_folded"]);
        if moment == "latest" {
            assert_same(&truth, &Dump::of(&server, &target));
        }
        server.psql("postgres", &format!("DROP DATABASE {target}"));
    }
}

fn recover(backwhen: &Backwhen, moment: &str) -> (String, serde_json::Value) {
    let server = backwhen.server();
    let target = server.fresh_database("recovered");
    let report = backwhen.json(&["recover", "--to", moment, "--into", &server.conninfo(&target)]);
    (target, report)
}

/// An older version made two publications. The stream cannot name others while a transaction is open that is older than
/// they are.
#[test]
fn a_history_of_an_older_version_gets_the_pool() {
    let server = Server::builder().setting("wal_level", "logical").start();
    let database = server.fresh_database("older");
    server.psql(&database, "CREATE TABLE old (id int PRIMARY KEY)");
    let source = Source::of(&server, &database, &[]);
    let (backwhen, slot) = (&source.backwhen, source.slot());
    source.psql(&format!(
        "DO $$DECLARE s text; BEGIN FOR s IN SELECT format('DROP EVENT TRIGGER %I', evtname) FROM pg_event_trigger UNION ALL
             SELECT 'DROP PUBLICATION ' || pubname FROM pg_publication WHERE pubname ~ '_[0-9]+$' LOOP EXECUTE s; END LOOP; END$$;
         ALTER TABLE backwhen.{slot}_config DROP COLUMN exact_ids, DROP COLUMN inserts_ids, DROP COLUMN pooled,
             ADD COLUMN exact name NOT NULL DEFAULT '', ADD COLUMN inserts name NOT NULL DEFAULT '',
             ADD COLUMN exact_id oid, ADD COLUMN inserts_id oid"
    ));
    let mut old = OpenSession::new(&server, &backwhen.source());
    old.run("BEGIN; INSERT INTO old VALUES (1);");
    let mut capture = backwhen.spawn_capture_with(&["--heartbeat", "200ms"]);
    capture.allow("schema changes are no longer told by triggers");
    let limit = Duration::from_secs(20);
    let created = "SELECT count(*) = 48 FROM pg_publication";
    wait_at_most(limit, "the publications are there", || source.psql(created) == "t");
    // In this second, some heartbeats find the transaction open.
    sleep(Duration::from_secs(1));
    let pooled = format!("SELECT bool_or(pooled) FROM backwhen.{slot}_config");
    assert_eq!(source.psql(&pooled), "f", "while an older transaction is open");
    old.run("INSERT INTO old VALUES (2); COMMIT;");
    // The server moves the slot's xmin on whenever it notes which transactions run.
    wait_at_most(limit, "the pool is in use", || source.psql(&format!("CHECKPOINT; {pooled}")) == "t");
    old.run("BEGIN; CREATE TABLE kept_open (id int PRIMARY KEY); INSERT INTO kept_open VALUES (1);");
    source
        .psql("CREATE TABLE made (id int PRIMARY KEY); INSERT INTO made VALUES (1); UPDATE made SET id = 2");
    old.run("COMMIT;");
    let truth = Dump::of(&server, backwhen.database());
    capture.stop();
    backwhen.ok(&["capture", "--until", "caught-up"]);
    assert_eq!(backwhen.json_lines(&["list", "gaps"]).len(), 0);
    let (target, report) = recover(backwhen, "latest");
    assert_eq!(report["inexact"].as_array().unwrap().len(), 0, "{report:#}");
    assert_same(&truth, &Dump::of(&server, &target));
}
