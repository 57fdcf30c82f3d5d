//! Questions to the past: `log`, `show`, `row` and `diff`, each against PostgreSQL's own answer.

mod asked;
mod bisect;
mod diff;
mod gap;
mod keyed;
mod log;
mod lookup;
mod partitions;
mod random;
mod row;
mod show;

use serde_json::Value;

use crate::support::{Backwhen, Server, on_oldest_and_newest};

/// Makes a procedure whose transactions change a hundred rows of table t each, one after the other.
const WORK: &str = "
CREATE PROCEDURE work(first int, last int) LANGUAGE plpgsql AS $$ BEGIN
    FOR n IN first..last LOOP
        UPDATE t SET words = md5(n::text || id) WHERE id BETWEEN n * 100 AND n * 100 + 99;
        COMMIT;
    END LOOP;
END $$;";

/// A shop with a row of every kind of table, under protection.
const SHOP: &str = "
CREATE TABLE orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id int, status text,
    total numeric(10, 2), note text, twice numeric GENERATED ALWAYS AS (total * 2) STORED);
ALTER TABLE orders ALTER note SET STORAGE EXTERNAL;
CREATE TABLE items (order_id int REFERENCES orders ON DELETE CASCADE, line int, sku text, PRIMARY KEY (order_id, line));
CREATE TABLE audit (what text, extra json);
ALTER TABLE audit REPLICA IDENTITY FULL;
INSERT INTO orders (tenant_id, status, total, note)
    SELECT g % 3, 'open', g, repeat('n' || g, CASE WHEN g = 5 THEN 2000 ELSE 1 END) FROM generate_series(1, 9) g;
INSERT INTO items SELECT g, l, 'sku ' || l FROM generate_series(1, 9) g, generate_series(1, 2) l;
";

/// A database under protection, and what happened to it.
struct Scene {
    backwhen: Backwhen,
}

impl Scene {
    fn new(server: &Server, sql: &str) -> Scene {
        let database = server.fresh_database("travel");
        server.psql(&database, sql);
        let backwhen = Backwhen::new(server, &database);
        backwhen.init();
        Scene { backwhen }
    }

    fn psql(&self, sql: &str) -> String {
        self.backwhen.server().psql(self.backwhen.database(), sql)
    }

    /// Runs the statements in one transaction; returns its number, as a moment.
    fn transaction(&self, sql: &str) -> String {
        let number = self.psql(&format!("BEGIN; SELECT pg_current_xact_id()::xid; {sql}; COMMIT"));
        format!("xid:{}", number.lines().next().expect("a number"))
    }

    /// Takes in all that happened so far.
    fn drain(&self) {
        self.backwhen.ok(&["capture", "--until", "caught-up"]);
    }

    fn lines(&self, arguments: &[&str]) -> Vec<Value> {
        self.backwhen.json_lines(arguments)
    }

    /// Returns the transactions that `backwhen log` lists, as moments.
    fn listed(&self, arguments: &[&str]) -> Vec<String> {
        let lines = self.lines(&[&["log"], arguments].concat());
        lines.iter().map(|line| format!("xid:{}", line["xid"])).collect()
    }

    /// A database of its own with the same rows and definitions.
    fn twin(&self) -> String {
        let server = self.backwhen.server();
        let twin = server.fresh_database("twin");
        let dump =
            server.pg_dump(self.backwhen.database(), &["--no-publications", "--exclude-schema=backwhen"]);
        // The event triggers cannot be made, since their functions are left out.
        let output = server.client("psql", &twin, &["-Xq", "-f", "-"], &String::from_utf8(dump).unwrap());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        twin
    }

    /// Applies a script as a person would, who reads it and runs psql.
    #[track_caller]
    fn apply(&self, database: &str, script: &str) {
        let output = self.backwhen.server().client("psql", database, &["-Xq", "-f", "-"], script);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && error.is_empty(), "{error}\nin: {script}");
    }

    /// All rows of the tables, as PostgreSQL prints them.
    fn rows(&self, database: &str, tables: &[&str]) -> String {
        let queries: Vec<_> =
            tables.iter().map(|table| format!("SELECT t::text FROM {table} t ORDER BY 1")).collect();
        self.backwhen.server().psql(database, &queries.join(";"))
    }
}

const TABLES: [&str; 3] = ["orders", "items", "audit"];
