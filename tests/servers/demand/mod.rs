//! The past on demand: the structure first, and the rows of a table when somebody touches it.

mod narrowed;
mod query;
mod random;
mod serve;
pub mod target;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::{Backwhen, Server, wait};

/// Tables with keys and without, partitions, identity and generated columns, foreign keys, views and functions that read
/// them, triggers that raise an error whenever rows are loaded with them, and an index of every kind.
const SCHEMA: &str = "
CREATE SCHEMA sales;
CREATE TYPE mood AS ENUM ('low', 'high');
CREATE TABLE customers (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE, mood mood, extra json,
    loud text GENERATED ALWAYS AS (upper(name)) STORED);
CREATE TABLE sales.orders (id serial PRIMARY KEY, customer int NOT NULL REFERENCES customers ON DELETE CASCADE,
    total numeric CHECK (total >= 0), note text);
CREATE INDEX orders_by_customer ON sales.orders (customer) INCLUDE (total);
CREATE INDEX large_orders ON sales.orders (lower(note)) WHERE total > 50;
CREATE INDEX orders_by_hash ON sales.orders USING hash (note);
ALTER TABLE sales.orders CLUSTER ON orders_by_customer;
CREATE TABLE visits (at int, page text, PRIMARY KEY (at, page)) PARTITION BY RANGE (at);
CREATE TABLE visits_1 PARTITION OF visits FOR VALUES FROM (0) TO (500);
CREATE TABLE visits_2 PARTITION OF visits FOR VALUES FROM (500) TO (1000);
CREATE TABLE log (what text, number int);
ALTER TABLE log REPLICA IDENTITY FULL;
CREATE TABLE untouched (id int PRIMARY KEY, text text);
CREATE TABLE empty (id int PRIMARY KEY REFERENCES untouched);
CREATE VIEW spenders AS SELECT c.name, sum(o.total) AS total FROM customers c JOIN sales.orders o ON o.customer = c.id
    GROUP BY c.name;
CREATE MATERIALIZED VIEW totals AS SELECT customer, sum(total) AS total FROM sales.orders GROUP BY 1;
CREATE MATERIALIZED VIEW grand AS SELECT sum(total) AS total FROM totals;
CREATE MATERIALIZED VIEW never AS SELECT 1 AS one WITH NO DATA;
CREATE FUNCTION spent(who int) RETURNS numeric LANGUAGE plpgsql STABLE AS
    $$BEGIN RETURN (SELECT sum(total) FROM sales.orders WHERE customer = who); END$$;
INSERT INTO customers (name, mood, extra) SELECT 'c' || n, 'low', json_build_object('n', n) FROM generate_series(1, 40) n;
INSERT INTO sales.orders (customer, total, note) SELECT 1 + n % 40, n % 97, 'Note ' || n FROM generate_series(1, 900) n;
INSERT INTO visits SELECT n, '/' || n % 7 FROM generate_series(1, 999) n;
INSERT INTO log VALUES ('a', 1), ('a', 1), ('b', NULL);
INSERT INTO untouched SELECT n, 'x' FROM generate_series(1, 10) n;
REFRESH MATERIALIZED VIEW totals;
REFRESH MATERIALIZED VIEW grand;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'a trigger fired'; END$$;
CREATE TRIGGER always BEFORE INSERT ON untouched FOR EACH ROW EXECUTE FUNCTION refuse();
ALTER TABLE untouched ENABLE ALWAYS TRIGGER always;
CREATE FUNCTION count_up() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN INSERT INTO log VALUES (TG_OP, NEW.id); RETURN NEW; END$$;
CREATE TRIGGER logged AFTER INSERT OR UPDATE ON sales.orders FOR EACH ROW EXECUTE FUNCTION count_up();
";

/// The statements after the first checkpoint, with a change of the schema.
const CHANGES: &str = "
UPDATE sales.orders SET total = total + 1 WHERE id <= 30;
DELETE FROM sales.orders WHERE id BETWEEN 31 AND 40;
ALTER TABLE customers ADD COLUMN since int DEFAULT 7;
INSERT INTO customers (name, mood) VALUES ('late', 'high');
INSERT INTO visits VALUES (0, '/late');
DELETE FROM log WHERE number IS NULL;
REFRESH MATERIALIZED VIEW totals;
REFRESH MATERIALIZED VIEW grand;
";

/// A database under protection with these changes.
fn protected(server: &Server) -> Backwhen {
    let database = server.fresh_database("demand");
    server.psql(&database, SCHEMA);
    let backwhen = Backwhen::new(server, &database);
    backwhen.init();
    server.psql(&database, CHANGES);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    backwhen
}

/// A running `backwhen serve`.
pub struct Served {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
    report: Value,
}

impl Served {
    pub fn start(backwhen: &Backwhen, arguments: &[&str]) -> Served {
        let arguments = [&["serve", "--output", "json"], arguments].concat();
        let mut command = backwhen.command(&arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("backwhen starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("stdout can be read");
        let Ok(report) = serde_json::from_str(&line) else {
            let mut said = String::new();
            let _ = child.stderr.take().expect("stderr is piped").read_to_string(&mut said);
            panic!("backwhen {arguments:?}: {line}{said}");
        };
        Served { child, stdout, report }
    }

    pub fn connection(&self) -> &str {
        self.report["connection"].as_str().expect("a connection string")
    }

    /// Ends it as Ctrl-C does; returns what it said.
    pub fn stop(mut self) -> String {
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::INT,
        )
        .expect("it can be told to end");
        let mut said = String::new();
        self.child.stderr.take().expect("stderr is piped").read_to_string(&mut said).unwrap();
        let status = wait(&mut self.child, Duration::from_secs(60)).expect("it ends");
        assert!(status.success(), "{status}: {said}");
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "", "nothing follows the first line");
        said
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs statements as any client does; returns all that psql prints, errors among it.
pub fn psql(server: &Server, connection: &str, sql: &str) -> String {
    let output = server.client("psql", connection, &["-XqAt", "-v", "VERBOSITY=terse", "-f", "-"], sql);
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8(text).unwrap().trim_end().replace("psql:<stdin>:", "")
}

/// Protects a large and a small table, and damages a block of the large one. Returns the file of the block, and what it held.
fn damaged(server: &Server) -> (Backwhen, PathBuf, Vec<u8>) {
    let database = server.fresh_database("demand");
    // The large table takes most of the pack.
    let sql = "CREATE TABLE large (id int PRIMARY KEY, text text); CREATE TABLE small (id int PRIMARY KEY);
        INSERT INTO large SELECT n, (SELECT string_agg(md5(random()::text || g), '') FROM generate_series(1, 30) g WHERE n > 0)
            FROM generate_series(1, 3000) n;
        INSERT INTO small VALUES (1), (2)";
    server.psql(&database, sql);
    let backwhen = Backwhen::new(server, &database);
    backwhen.init();
    let packs = files_below(&backwhen.history().join("packs"));
    let pack = packs.into_iter().max_by_key(|path| path.metadata().unwrap().len()).expect("there is a pack");
    let whole = std::fs::read(&pack).unwrap();
    let mut bytes = whole.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    std::fs::write(&pack, bytes).unwrap();
    (backwhen, pack, whole)
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}
