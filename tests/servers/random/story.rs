//! A database that lives through a seeded load and a tormented capture, and the moments of it that
//! are remembered.

use std::thread::sleep;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

use crate::random::workload::Workload;
use crate::support::{Backwhen, Capture, Dump, Server};

const SCHEMA: &str = include_str!("schema.sql");
const CLIENTS: u64 = 3;
/// Each client's, between two moments.
const TRANSACTIONS: usize = 40;

/// An instant at which nothing was under way, and what the database held.
pub struct Remembered {
    pub time: String,
    pub lsn: String,
    /// The last transaction before it.
    pub xid: String,
    pub mark: String,
    pub truth: Dump,
}

pub struct Story {
    pub backwhen: Backwhen,
    pub remembered: Vec<Remembered>,
}

impl Story {
    /// Lets the load run for some rounds, with a moment remembered after each.
    pub fn tell(seed: u64, rounds: usize) -> Story {
        let server = Server::shared(None);
        let database = server.fresh_database("random");
        server.psql(&database, SCHEMA);
        let backwhen = Backwhen::new(&server, &database).with_env("BACKWHEN_HEARTBEAT", "1s");
        let remembered = live(&backwhen, seed, rounds);
        Story { backwhen, remembered }
    }

    /// Recovers into a database of its own; returns the report and what the database then held.
    pub fn recover(&self, to: &[&str]) -> (serde_json::Value, Dump) {
        let server = self.backwhen.server();
        let database = server.fresh_database("recovered");
        server.psql("postgres", &format!("DROP DATABASE {database}"));
        let target = server.conninfo(&database);
        let arguments = [&["recover", "--create", "--into", &target], to].concat();
        let report = self.backwhen.json(&arguments);
        let dump = Dump::of(server, &database);
        server.psql("postgres", &format!("DROP DATABASE {database}"));
        (report, dump)
    }
}

fn live(backwhen: &Backwhen, seed: u64, rounds: usize) -> Vec<Remembered> {
    let mut random = StdRng::seed_from_u64(seed);
    // A history that begins with an empty database tests less than one that begins in the middle.
    load(backwhen, seed, 0, 20);
    backwhen.init();
    let mut remembered = Vec::new();
    let mut capture = Some(backwhen.spawn_capture_in_trouble());
    for round in 1..=rounds {
        if random.random_bool(0.4) {
            capture = Some(change_schema(backwhen, capture, &mut random, round));
        }
        std::thread::scope(|scope| {
            let loading = scope.spawn(|| load(backwhen, seed, round, TRANSACTIONS));
            while !loading.is_finished() {
                // Trouble comes at any instant.
                sleep(Duration::from_millis(random.random_range(20..500)));
                torment(backwhen, &mut capture, &mut random);
            }
        });
        remembered.push(remember(backwhen, round));
    }
    if let Some(mut capture) = capture {
        capture.wait_streaming();
        capture.stop();
    }
    backwhen.ok(&["capture", "--until", "caught-up"]);
    remembered
}

/// Changes some definitions; the load then goes on with the new ones. A moment between a change and
/// the capture's notice of it would not be exact, so none is remembered there.
fn change_schema<'a>(
    backwhen: &'a Backwhen,
    capture: Option<Capture<'a>>,
    random: &mut StdRng,
    round: usize,
) -> Capture<'a> {
    if let Some(mut capture) = capture {
        if random.random_bool(0.5) {
            capture.kill();
        } else {
            capture.wait_streaming();
            capture.stop();
        }
    }
    for _ in 0..random.random_range(1..4) {
        let number = format!("{round}_{}", random.random_range(0..1000));
        let day = 100 + 1000 * round + random.random_range(0..1000);
        let change = match random.random_range(0..9) {
            0 => format!("ALTER TABLE account ADD COLUMN more_{number} text DEFAULT 'as it was'"),
            1 => format!("ALTER TABLE stock ADD COLUMN filled_{number} timestamptz DEFAULT clock_timestamp()"),
            2 => "ALTER TABLE ledger DROP COLUMN at, ADD COLUMN at timestamptz DEFAULT clock_timestamp()".to_owned(),
            3 => format!(
                "CREATE TABLE made_{number} AS SELECT g, md5(g::text) AS m FROM generate_series(1, 500) g; \
                 ALTER TABLE made_{number} ADD PRIMARY KEY (g)"
            ),
            4 => "CREATE TABLE IF NOT EXISTS comes_and_goes (id serial PRIMARY KEY, v text); \
                  INSERT INTO comes_and_goes (v) VALUES ('here')"
                .to_owned(),
            5 => "DROP TABLE IF EXISTS comes_and_goes".to_owned(),
            6 => "ALTER TABLE coded ALTER rest TYPE varchar; ALTER TABLE ledger ALTER amount TYPE numeric(30, 3)".to_owned(),
            7 => format!("CREATE TABLE event_{number} PARTITION OF event FOR VALUES FROM ({day}) TO ({})", day + 1),
            _ => format!(
                "CREATE INDEX ON person (seen, name); COMMENT ON TABLE queue IS '{number}'; \
                 CREATE OR REPLACE VIEW poor AS SELECT id, owner, balance FROM account WHERE balance < {round}"
            ),
        };
        backwhen.server().psql(backwhen.database(), &change);
    }
    backwhen.ok(&["capture", "--until", "caught-up"]);
    backwhen.spawn_capture_in_trouble()
}

/// Some trouble, or some work, while the load runs.
fn torment<'a>(backwhen: &'a Backwhen, capture: &mut Option<Capture<'a>>, random: &mut StdRng) {
    match random.random_range(0..10) {
        0..=3 => {
            if let Some(capture) = capture.take() {
                capture.kill();
            }
            // Nobody captures for a while.
            sleep(Duration::from_millis(random.random_range(0..300)));
            *capture = Some(backwhen.spawn_capture_in_trouble());
        }
        4 => {
            if let Some(mut capture) = capture.take() {
                // One that has hardly begun knows no clean stop.
                capture.wait_streaming();
                capture.stop();
            }
        }
        5 | 6 => drop(backwhen.ok(&["checkpoint"])),
        7 => drop(backwhen.ok(&["checkpoint", "--from-source"])),
        8 => {
            let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
                       WHERE database = current_database()";
            backwhen.server().psql(backwhen.database(), end);
        }
        _ => {}
    }
    if capture.is_none() {
        *capture = Some(backwhen.spawn_capture_in_trouble());
    }
}

/// Nothing writes to the database now, so that its dump is the truth of this instant.
fn remember(backwhen: &Backwhen, round: usize) -> Remembered {
    let (server, database) = (backwhen.server(), backwhen.database());
    let last = "UPDATE tally SET n = n + 1 RETURNING pg_current_xact_id()::xid";
    let xid = server.psql(database, last);
    let now = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
                      pg_current_wal_insert_lsn()";
    let now = server.psql(database, now);
    let (time, lsn) = now.split_once('|').expect("two columns");
    let truth = Dump::of(server, database);
    let mark = format!("round {round}");
    backwhen.ok(&["mark", &mark]);
    Remembered { time: time.to_owned(), lsn: lsn.to_owned(), xid, mark, truth }
}

/// Several clients at once, until each is through with its transactions.
fn load(backwhen: &Backwhen, seed: u64, round: usize, transactions: usize) {
    let conninfo = backwhen.source();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let mut workload = Workload::new(seed, round as u64 * CLIENTS + client);
            let conninfo = &conninfo;
            scope.spawn(move || {
                let session = Session::connect(conninfo);
                for _ in 0..transactions {
                    session.run(workload.transaction());
                }
            });
        }
    });
}

struct Session {
    runtime: Runtime,
    client: Client,
}

impl Session {
    fn connect(conninfo: &str) -> Session {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (client, connection) = runtime.block_on(tokio_postgres::connect(conninfo, NoTls)).unwrap();
        runtime.spawn(connection);
        let session = Session { runtime, client };
        session.send("SET deadlock_timeout = '20ms'; SET lock_timeout = '2s'").unwrap();
        session
    }

    /// What the server refuses is part of the load: locks, deadlocks, constraints.
    fn run(&self, transaction: Vec<String>) {
        for piece in transaction {
            if let Err(error) = self.send(&piece) {
                let error = error.as_db_error().unwrap_or_else(|| panic!("the connection broke: {error}"));
                let class = &error.code().code()[..2];
                // Mistakes in the workload itself must not pass for conflicts.
                assert!(["23", "40", "55"].contains(&class), "{error} ({}) in {piece}", error.code().code());
                self.send("ROLLBACK").unwrap();
                return;
            }
        }
    }

    fn send(&self, sql: &str) -> Result<(), tokio_postgres::Error> {
        self.runtime.block_on(self.client.batch_execute(sql))
    }
}
