//! A PostgreSQL server for tests, ready for logical replication.

use std::collections::BTreeMap;
use std::panic::Location;
use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use super::engine::{Engine, Place, Stop, Wish};
use super::local::STANDBY_SLOT;
use super::programs::versions;
use super::waiting::wait_for;

/// A handle; the server ends, and its folder goes, with the last one.
#[derive(Clone)]
pub struct Server {
    engine: Arc<Engine>,
    major: u32,
}

pub struct Builder {
    wish: Wish,
}

/// Small, quick, and able to serve many tests at once. A setting a test adds comes later and so wins.
const SETTINGS: &[(&str, &str)] = &[
    ("wal_level", "logical"),
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("shared_buffers", "16MB"),
    ("max_connections", "100"),
    ("max_wal_senders", "50"),
    ("max_replication_slots", "200"),
    ("max_worker_processes", "8"),
    ("max_prepared_transactions", "10"),
    ("jit", "off"),
    ("log_line_prefix", "%m [%p] %x "),
];

impl Server {
    /// A server of this test alone: of that major, or the one `BACKWHEN_TEST_PG` chooses.
    pub fn start(version: Option<u32>) -> Server {
        Server::builder_of(version).start()
    }

    pub fn builder() -> Builder {
        Server::builder_of(None)
    }

    pub fn builder_of(version: Option<u32>) -> Builder {
        let settings = SETTINGS.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Builder {
            wish: Wish {
                place: Place::choose(version),
                settings,
                encoding: "UTF8".to_owned(),
                environment: Vec::new(),
                primary: None,
            },
        }
    }

    /// A standby of this server, which can hold copies of its slots where the version knows how.
    pub fn standby(&self) -> Server {
        let (host, port) = self.engine.address();
        let mut builder = Server::builder_of(Some(self.major))
            .setting("hot_standby_feedback", "on")
            .setting("primary_slot_name", STANDBY_SLOT)
            .setting("primary_conninfo", &format!("host={host} port={port} user=postgres dbname=postgres"));
        if self.major >= 17 {
            builder = builder.setting("sync_replication_slots", "on");
        }
        builder.wish.primary = Some((host, port));
        builder.start()
    }

    /// The server that the tests of one subject share; use a `fresh_database`, and neither stop nor reconfigure it. Of
    /// another subject's tests an open transaction would keep an `init` waiting, so each subject has its own.
    #[track_caller]
    pub fn shared(version: Option<u32>) -> Server {
        shared_of(subject_of(Location::caller()), version)
    }

    pub fn major(&self) -> u32 {
        self.major
    }

    /// What a user would give as `--source` or `--into`.
    pub fn conninfo(&self, database: &str) -> String {
        conninfo(self.engine.address(), database)
    }

    /// The same over TCP on the loopback address.
    pub fn conninfo_tcp(&self, database: &str) -> String {
        conninfo(self.engine.tcp_address(), database)
    }

    /// Host and port on the loopback address.
    pub fn tcp_address(&self) -> (String, u16) {
        self.engine.tcp_address()
    }

    /// The same as a `postgresql://` URI, over TCP.
    pub fn uri(&self, database: &str) -> String {
        let (host, port) = self.engine.tcp_address();
        format!("postgresql://postgres@{host}:{port}/{database}")
    }

    pub fn create_database(&self, name: &str) {
        self.psql("postgres", &format!("CREATE DATABASE \"{name}\" TEMPLATE template0"));
    }

    /// Creates a database that no other test of this server has; returns its name.
    pub fn fresh_database(&self, prefix: &str) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let name = format!("{prefix}_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.create_database(&name);
        name
    }

    /// Runs SQL, one statement after the other; returns the rows, columns separated by `|`, without the
    /// last line's end. The server's message fails the test.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        self.try_psql(database, sql).unwrap_or_else(|message| panic!("{message}in: {}", beginning_of(sql)))
    }

    /// The server's message as the error.
    pub fn try_psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let arguments = ["-XqAt", "-v", "ON_ERROR_STOP=1", "-f", "-"];
        let output = self.engine.client("psql", database, &arguments, sql);
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Returns once a question is answered with `t`.
    #[track_caller]
    pub fn wait_until(&self, database: &str, sql: &str) {
        wait_for(format_args!("{database} answers with t: {sql}"), || self.psql(database, sql) == "t");
    }

    /// Plain `pg_dump`, of this server's own version unless it runs in a container.
    pub fn pg_dump(&self, database: &str, arguments: &[&str]) -> Vec<u8> {
        let output = self.engine.client("pg_dump", database, arguments, "");
        assert!(output.status.success(), "pg_dump: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Any client program, such as `pgbench` or `pg_restore`.
    pub fn client(&self, program: &str, database: &str, arguments: &[&str], input: &str) -> Output {
        self.engine.client(program, database, arguments, input)
    }

    /// An orderly restart; returns once connections are accepted again.
    pub fn restart(&self) {
        self.stop(Stop::Fast);
        self.start_again();
    }

    /// The server dies without a checkpoint; `start_again` makes it recover.
    pub fn crash(&self) {
        self.stop(Stop::Crash);
    }

    pub fn stop(&self, how: Stop) {
        self.engine.stop(how);
    }

    pub fn start_again(&self) {
        self.engine.start_again();
    }

    /// Keeps a copy of a stopped server's data, as a snapshot of its disk would.
    pub fn keep_data(&self) {
        self.engine.keep_data();
    }

    /// Puts that copy in the place of a stopped server's data.
    pub fn bring_back_data(&self) {
        self.engine.bring_back_data();
    }

    /// Runs a program such as `pg_resetwal` on the data of a stopped server.
    pub fn on_data(&self, program: &str, arguments: &[&str]) {
        self.engine.on_data(program, arguments);
    }

    pub fn log(&self) -> String {
        self.engine.log()
    }

    /// The folder of this server's programs; `None` means those on `PATH`.
    pub fn bin(&self) -> Option<&Path> {
        self.engine.bin()
    }
}

impl Builder {
    /// Adds or replaces a setting, such as `("track_commit_timestamp", "on")`.
    pub fn setting(mut self, name: &str, value: &str) -> Builder {
        self.wish.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A variable in the server's environment; of servers of this machine only.
    pub fn env(mut self, name: &str, value: &str) -> Builder {
        self.wish.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The encoding of its databases: `UTF8` unless said otherwise; `SQL_ASCII`, `LATIN1`.
    pub fn encoding(mut self, encoding: &str) -> Builder {
        self.wish.encoding = encoding.to_owned();
        self
    }

    pub fn start(self) -> Server {
        let engine = Arc::new(Engine::start(&self.wish));
        let mut server = Server { engine, major: 0 };
        let number = server.psql("postgres", "SHOW server_version_num");
        server.major = number.parse::<u32>().expect("server_version_num is a number") / 10_000;
        server
    }
}

/// Runs a test on the shared server of each major, or only on the one `BACKWHEN_TEST_PG` chooses.
#[track_caller]
pub fn for_each_version(test: impl Fn(&Server)) {
    let subject = subject_of(Location::caller());
    run_on(subject, versions().into_iter().map(Some).collect(), &test);
}

/// Runs a test on the oldest and on the newest version, or on the one that `BACKWHEN_TEST_PG` names.
#[track_caller]
pub fn on_oldest_and_newest(test: impl Fn(&Server)) {
    let subject = subject_of(Location::caller());
    let all = versions();
    let mut ends: Vec<_> = [all.first(), all.last()].into_iter().flatten().map(|it| Some(*it)).collect();
    ends.dedup();
    run_on(subject, ends, &test);
}

fn run_on(subject: &'static str, versions: Vec<Option<u32>>, test: &dyn Fn(&Server)) {
    let one = std::env::var("BACKWHEN_TEST_PG").is_ok_and(|text| !text.is_empty());
    let chosen = if one { vec![None] } else { versions };
    assert!(!chosen.is_empty(), "no PostgreSQL server on this machine: run scripts/setup.sh");
    for version in chosen {
        let server = shared_of(subject, version);
        eprintln!("--- PostgreSQL {}", server.major());
        test(&server);
    }
}

/// With so many shared servers those that no test has in hand are stopped before another is started.
const SHARED_LIMIT: usize = 8;

fn shared_of(subject: &'static str, version: Option<u32>) -> Server {
    static SERVERS: Mutex<BTreeMap<(&str, Option<u32>), Server>> = Mutex::new(BTreeMap::new());
    // A start that failed in another test has poisoned nothing.
    let mut servers = SERVERS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if !servers.contains_key(&(subject, version)) && servers.len() >= SHARED_LIMIT {
        servers.retain(|(of, _), server| *of == subject || Arc::strong_count(&server.engine) > 1);
    }
    servers.entry((subject, version)).or_insert_with(|| Server::start(version)).clone()
}

/// `expire` of `tests/servers/expire.rs`, `retold` of `tests/servers/retold/late.rs`.
fn subject_of(caller: &'static Location<'static>) -> &'static str {
    let path = caller.file().split_once("tests/servers/").map_or(caller.file(), |(_, path)| path);
    path.split(['/', '.']).next().unwrap_or(path)
}

fn conninfo((host, port): (String, u16), database: &str) -> String {
    format!("host={host} port={port} user=postgres dbname={database}")
}

fn beginning_of(sql: &str) -> String {
    sql.trim().chars().take(300).collect()
}
