//! A small shop: the source database of tests that are not about the data.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};

use super::backwhen::Backwhen;
use super::programs::Installation;
use super::server::Server;

/// A table of every grade, a foreign key, an owned sequence, a view and an index.
const TABLES: &str = "
CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE orders (id serial PRIMARY KEY, customer int NOT NULL REFERENCES customers, note text);
CREATE TABLE visits (at timestamptz DEFAULT now(), page text);
CREATE INDEX orders_by_customer ON orders (customer);
CREATE VIEW latest_orders AS SELECT * FROM orders ORDER BY id DESC LIMIT 10;
INSERT INTO customers SELECT n, 'customer ' || n FROM generate_series(1, 200) n;
INSERT INTO orders (customer, note) SELECT 1 + n % 200, md5(n::text) FROM generate_series(1, 3000) n;
INSERT INTO visits (page) VALUES ('/'), ('/cart');
";

/// Changes that come in by the stream: rows of all kinds of change, in several transactions.
pub const CHANGES: &str = "
INSERT INTO customers VALUES (201, 'late');
INSERT INTO orders (customer, note) SELECT 201, 'new ' || n FROM generate_series(1, 50) n;
UPDATE orders SET note = 'changed' WHERE id <= 20;
DELETE FROM orders WHERE id BETWEEN 21 AND 30;
INSERT INTO visits (page) VALUES ('/late');
";

/// A database of its own, and `backwhen` for it; no history yet.
pub fn shop(server: &Server) -> Backwhen {
    let database = server.fresh_database("shop");
    server.psql(&database, TABLES);
    Backwhen::new(server, &database)
}

/// The same with a history that holds the changes, too.
pub fn captured_shop(server: &Server) -> Backwhen {
    let backwhen = shop(server);
    backwhen.init();
    server.psql(backwhen.database(), CHANGES);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    backwhen
}

/// Asserts that the history's latest moment has the pages visited that this server has.
pub fn assert_visits_are_held(backwhen: &Backwhen, server: &Server) {
    let file = backwhen.folder().join("visits.sqlite");
    let _ = std::fs::remove_file(&file);
    let into = format!("sqlite:{}", file.display());
    backwhen.ok(&["recover", "--to", "latest", "--table", "public.visits", "--into", &into]);
    let held = rusqlite::Connection::open(&file).unwrap();
    let mut held = held.prepare("SELECT page, count(*) FROM visits GROUP BY page ORDER BY page").unwrap();
    let held =
        held.query_map([], |row| Ok(format!("{}|{}", row.get::<_, String>(0)?, row.get::<_, i64>(1)?)));
    let held: Vec<_> = held.unwrap().map(Result::unwrap).collect();
    let truth = "SELECT page, count(*) FROM visits GROUP BY page ORDER BY page COLLATE \"C\"";
    assert_eq!(server.psql(backwhen.database(), truth), held.join("\n"));
}

/// Asserts that the source holds nothing of backwhen's.
pub fn assert_source_clean(server: &Server, database: &str) {
    let sql = "SELECT slot_name FROM pg_replication_slots WHERE database = current_database() \
               UNION ALL SELECT pubname FROM pg_publication UNION ALL SELECT evtname FROM pg_event_trigger \
               UNION ALL SELECT nspname FROM pg_namespace WHERE nspname = 'backwhen'";
    assert_eq!(server.psql(database, sql), "", "left on the source");
}

/// Asserts that a message holds all these pieces.
pub fn assert_says(message: &str, pieces: &[&str]) {
    for piece in pieces {
        assert!(message.contains(piece), "no {piece:?} in: {message}");
    }
}

/// A session that stays open: for locks and for transactions that do not end.
pub struct OpenSession {
    psql: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<std::process::ChildStdout>,
}

impl OpenSession {
    /// `conninfo` may ask for a replication connection as well.
    pub fn new(server: &Server, conninfo: &str) -> OpenSession {
        let bin = server.bin().expect("these tests run against programs of this machine");
        let installation = Installation { major: server.major(), bin: bin.to_owned() };
        let mut command = installation.command("psql");
        command
            .args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", conninfo])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut psql = command.spawn().expect("psql starts");
        let stdin = psql.stdin.take();
        let stdout = BufReader::new(psql.stdout.take().expect("stdout is piped"));
        let mut session = OpenSession { psql, stdin, stdout };
        session.run("");
        session
    }

    /// Returns once the statements are done.
    pub fn run(&mut self, sql: &str) {
        self.ask(sql);
    }

    /// The number of the server's process, as a message names it.
    pub fn process(&mut self) -> String {
        self.ask("SELECT pg_backend_pid();")
    }

    /// Returns the last line of the answer.
    fn ask(&mut self, sql: &str) -> String {
        let stdin = self.stdin.as_mut().expect("open until dropped");
        writeln!(stdin, "{sql}\n\\echo done").expect("psql lives");
        let mut last = String::new();
        loop {
            let mut line = String::new();
            assert!(self.stdout.read_line(&mut line).expect("psql answers") > 0, "psql ended at: {sql}");
            match line.trim() {
                "done" => return last,
                line => last = line.to_owned(),
            }
        }
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.stdin.take();
        let _ = self.psql.wait();
    }
}
