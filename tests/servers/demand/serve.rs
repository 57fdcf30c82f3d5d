//! `backwhen serve` opens the past to any client, and to nobody else.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

use super::{Served, protected, psql};
use crate::support::shop::{OpenSession, assert_says};
use crate::support::{Backwhen, Server, on_oldest_and_newest, wait_for};

const ORDERS: &str = "SELECT count(*), sum(total) FROM sales.orders";

#[test]
fn clients_read_and_write_a_past_that_fills_as_it_is_asked() {
    on_oldest_and_newest(|server| {
        let backwhen = protected(server);
        let served = Served::start(&backwhen, &["--at", "latest"]);
        // The snapshot is older than the rows that come.
        let mut snapshot = OpenSession::new(server, served.connection());
        snapshot.run("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM pg_class;");
        let truth = server.psql(backwhen.database(), ORDERS);
        assert_eq!(psql(server, served.connection(), ORDERS), truth);
        let (count, sum) = truth.split_once('|').unwrap();
        snapshot.run(&format!(
            "SELECT 1 / (count(*) = {count} AND sum(total) = {sum})::int FROM sales.orders; COMMIT;"
        ));
        // Triggers, foreign keys and sequences act as they did.
        let write = "INSERT INTO sales.orders (customer, total) VALUES (1, 5) RETURNING id; SELECT count(*) FROM log;
                     INSERT INTO sales.orders (customer, total) VALUES (777, 5); INSERT INTO untouched VALUES (77)";
        let written = psql(server, served.connection(), write);
        let next = "SELECT last_value + 1 FROM sales.orders_id_seq";
        let (next, logged) = (server.psql(backwhen.database(), next), "33");
        assert!(written.starts_with(&format!("{next}\n{logged}\n")), "{written}");
        assert_says(&written, &["orders_customer_fkey", "a trigger fired"]);
        // The indexes are those of the source, and valid.
        let indexes = "SELECT indexrelid::regclass, indisvalid, indisready, indisclustered, indcheckxmin FROM pg_index \
                       WHERE indrelid = 'sales.orders'::regclass ORDER BY indexrelid::regclass::text; \
                       SELECT tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1";
        assert_eq!(psql(server, served.connection(), indexes), server.psql(backwhen.database(), indexes));
        let said = served.stop();
        assert_says(&said, &["loaded sales.orders: 890 rows, proved", "nothing of the past is left"]);
        assert!(!said.contains("loaded public.visits"), "{said}");
    });
}

#[test]
fn a_password_keeps_others_out_and_a_reader_changes_nothing() {
    on_oldest_and_newest(|server| {
        let backwhen = protected(server);
        let served = Served::start(&backwhen, &["--at", "latest", "--listen", "127.0.0.1:0", "--read-only"]);
        let connection = served.connection();
        assert_eq!(psql(server, connection, "SELECT count(*) FROM customers"), "41");
        let others = [
            (connection.replace("user=past", "user=postgres"), "open to user past only"),
            (connection.replace("password=", "password=0"), "password authentication failed"),
            (format!("{connection} replication=database"), "open to user past only"),
        ];
        for (other, why) in others {
            assert_says(&psql(server, &other, "SELECT 1"), &[why]);
        }
        let writes = "DELETE FROM customers; SET default_transaction_read_only = off; DELETE FROM customers;
                      CREATE TABLE new (id int); SET ROLE postgres; COPY log TO PROGRAM 'true'";
        let written = psql(server, connection, writes);
        let expected = [
            "read-only transaction",
            "permission denied for table customers",
            "permission denied for schema",
            "permission denied to set role",
        ];
        // Up to version 14 everybody may make tables in public.
        assert_says(&written, if server.major() < 15 { &expected[..2] } else { &expected[..] });
        assert_eq!(psql(server, connection, "SELECT count(*) FROM customers"), "41");
        served.stop();
    });
}

#[test]
fn each_moment_is_a_database_and_foreign_tables_reach_it() {
    on_oldest_and_newest(|server| {
        let backwhen = protected(server);
        let first = backwhen.json_lines(&["list", "checkpoints"])[0]["id"].as_str().unwrap().to_owned();
        let first = format!("checkpoint:{first}");
        let served = Served::start(&backwhen, &["--at", &first, "--at", "latest", "--fdw"]);
        let moments = served.report["moments"].as_array().unwrap();
        let counts: Vec<_> = moments
            .iter()
            .map(|moment| {
                psql(server, moment["connection"].as_str().unwrap(), "SELECT count(*) FROM customers")
            })
            .collect();
        assert_eq!(counts, ["40", "41"]);
        let fields: BTreeSet<_> = moments[0].as_object().unwrap().keys().map(String::as_str).collect();
        let documented = include_str!("../../../docs/JSON.md").split("\n## serve\n").nth(1).unwrap();
        let documented = documented.split("\n## ").next().unwrap();
        for field in fields {
            assert!(documented.contains(&format!("`moments[].{field}")), "{field} is not in docs/JSON.md");
        }
        // The live database compares itself with its past.
        server.psql(backwhen.database(), "UPDATE sales.orders SET total = 1000 WHERE id = 5");
        server.psql(backwhen.database(), served.report["fdw"].as_str().unwrap());
        let compare = "SELECT l.id, p.total FROM sales.orders l JOIN past_at2_sales.orders p USING (id) \
                       WHERE l.total <> p.total; SELECT count(*) FROM past_at1.visits";
        assert_eq!(server.psql(backwhen.database(), compare), "5|6\n999");
        served.stop();
    });
}

/// If `serve` is killed, a client that waits for a table must not see the table empty.
#[test]
fn a_killed_server_of_the_past_leaves_nothing_and_answers_nothing() {
    let server = Server::shared(None);
    let backwhen = protected(&server);
    for _ in 0..3 {
        let mut served = Served::start(&backwhen, &["--at", "latest"]);
        let connection = served.connection().to_owned();
        let folder = connection.split(['=', ' ']).nth(1).unwrap().to_owned();
        let mode = std::fs::metadata(&folder).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "only this user can reach the socket");
        let ask = |table: &str| psql(&server, &connection, &format!("SELECT count(*) FROM {table}"));
        let ask = &ask;
        std::thread::scope(|scope| {
            let tables = ["customers", "sales.orders", "visits", "log", "untouched"];
            let asked = tables.map(|table| (table, scope.spawn(move || ask(table))));
            served.child.kill().unwrap();
            for (table, asked) in asked {
                let answer = asked.join().unwrap();
                let rows = server.psql(backwhen.database(), &format!("SELECT count(*) FROM {table}"));
                assert!(answer == rows || answer.to_lowercase().contains("connection"), "{table}: {answer}");
            }
        });
        wait_for("the server's folder is gone", || !std::path::Path::new(&folder).exists());
    }
}

/// An index's function makes the loading of one table wait; another table is loaded meanwhile.
const WAITS: &str = "
CREATE FUNCTION waits(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
    $$BEGIN PERFORM pg_catalog.pg_advisory_xact_lock_shared(7); RETURN n; END$$;
CREATE TABLE slow (id int PRIMARY KEY); INSERT INTO slow VALUES (1), (2); CREATE INDEX ON slow (waits(id));
CREATE TABLE quick (id int PRIMARY KEY); INSERT INTO quick VALUES (1)";

#[test]
fn a_table_is_loaded_while_another_one_is_still_being_loaded() {
    let server = Server::shared(None);
    let database = server.fresh_database("gates");
    server.psql(&database, WAITS);
    let backwhen = Backwhen::new(&server, &database);
    backwhen.init();
    let served = Served::start(&backwhen, &["--at", "latest"]);
    let ask =
        |sql: &str| psql(&server, served.connection(), &format!("SET statement_timeout = '30s'; {sql}"));
    let mut holder = OpenSession::new(&server, served.connection());
    holder.run("SELECT pg_advisory_lock(7);");
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| ask("SELECT count(*) FROM slow"));
        let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
        wait_for("the first gate builds its index", || ask(waiting) == "1");
        assert_eq!(ask("SELECT count(*) FROM quick"), "1");
        assert!(!slow.is_finished(), "the first table was not being loaded meanwhile");
        holder.run("SELECT pg_advisory_unlock(7);");
        assert_eq!(slow.join().unwrap(), "2");
    });
    served.stop();
}
