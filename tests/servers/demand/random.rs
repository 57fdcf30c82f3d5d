//! Random statements on gated tables end as on a conventional recovery.
//!
//! `BACKWHEN_TEST_SEED` replays a seed that a failure printed, `BACKWHEN_TEST_CASES` sets the number of scripts, and
//! `BACKWHEN_TEST_ALL=1` tries all versions of PostgreSQL.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::{Served, protected, psql};
use crate::support::{Backwhen, Server, for_each_version, number_from, on_oldest_and_newest, seed};

/// Scripts for each version; each costs a server of its own.
const CASES: u64 = 2;

/// Templates of what an application does; `$N` becomes a number that is likely to be a key.
const STATEMENTS: &[&str] = &[
    "SELECT count(*), sum(total) FROM sales.orders",
    "SELECT * FROM sales.orders WHERE id = $N",
    "SELECT * FROM customers WHERE id = $N FOR UPDATE",
    "SELECT * FROM spenders ORDER BY name LIMIT 5",
    "SELECT spent($N)",
    "SELECT count(*) FROM visits WHERE at < $N",
    "SELECT what, count(*), sum(number) FROM log GROUP BY 1 ORDER BY 1",
    "SELECT c.id, o.id FROM customers c LEFT JOIN sales.orders o ON o.customer = c.id AND o.total > 90 ORDER BY 1, 2",
    "EXECUTE by_id($N)",
    "EXECUTE visits_of($N)",
    "INSERT INTO customers (name) VALUES ('new $N') RETURNING id",
    "INSERT INTO customers (name) VALUES ('c$N')",
    "INSERT INTO customers (name) VALUES ('c$N') ON CONFLICT (name) DO NOTHING RETURNING id",
    "INSERT INTO customers (name, mood) VALUES ('c$N', 'high') ON CONFLICT (name) DO UPDATE SET mood = 'high' RETURNING id",
    "INSERT INTO customers (id, name) OVERRIDING SYSTEM VALUE VALUES ($N, 'own $N')",
    "INSERT INTO sales.orders (customer, total) VALUES ($N, $N) RETURNING id",
    "INSERT INTO sales.orders (customer, total) VALUES (1, -$N)",
    "INSERT INTO sales.orders VALUES ($N, 1, 1) ON CONFLICT DO NOTHING",
    "INSERT INTO visits VALUES ($N, '/new')",
    "INSERT INTO visits VALUES ($N, '/$N') ON CONFLICT DO NOTHING",
    "INSERT INTO empty VALUES ($N)",
    "INSERT INTO log SELECT 'copied', id FROM customers WHERE id < $N",
    "UPDATE sales.orders SET total = total + $N WHERE customer = $N",
    "UPDATE customers SET name = name || '!' WHERE id = $N RETURNING loud",
    "UPDATE visits SET at = at + 1000 WHERE at = $N",
    "UPDATE log SET number = $N WHERE what = 'a'",
    "DELETE FROM customers WHERE id = $N",
    "DELETE FROM sales.orders WHERE id > $N AND total < 40",
    "DELETE FROM visits WHERE at = $N RETURNING page",
    "DELETE FROM untouched WHERE id = $N",
    "TRUNCATE log",
    "TRUNCATE visits",
    "TRUNCATE customers",
    "TRUNCATE sales.orders RESTART IDENTITY",
    "TRUNCATE customers CASCADE",
    "COPY visits_1 TO STDOUT",
    "COPY (SELECT * FROM log ORDER BY 1, 2) TO STDOUT",
    "COPY log FROM STDIN;\nfrom copy\t$N\n\\.\nSELECT 1",
    "MERGE INTO customers c USING (VALUES ('c$N'), ('merged')) v (name) ON c.name = v.name \
     WHEN MATCHED THEN UPDATE SET mood = 'low' WHEN NOT MATCHED THEN INSERT (name) VALUES (v.name)",
    "LOCK TABLE untouched",
    "ALTER TABLE untouched ADD COLUMN added_$N int DEFAULT $N",
    "CREATE INDEX ON sales.orders (total)",
    "ALTER TABLE empty DROP CONSTRAINT empty_id_fkey",
    "DROP TABLE visits_2",
    "ANALYZE customers",
    "SELECT nextval('sales.orders_id_seq')",
];

/// A materialised view is filled when it is asked for, so it is asked for before the tables change, or never.
const VIEWS: &str = "SELECT t::text FROM totals t ORDER BY 1; SELECT total FROM grand;";

/// The rows that are left, the indexes and constraints among them.
pub const TRUTH: &str = "
SELECT t::text FROM customers t ORDER BY 1;
SELECT t::text FROM sales.orders t ORDER BY 1;
SELECT t::text FROM visits t ORDER BY 1;
SELECT t::text FROM log t ORDER BY 1;
SELECT t::text FROM untouched t ORDER BY 1;
SELECT t::text FROM empty t ORDER BY 1;
SELECT count(*) FROM never;
SELECT pg_get_indexdef(indexrelid), indisvalid, indisready, indisclustered FROM pg_index
 WHERE indrelid >= 16384 AND indrelid::regclass::text NOT LIKE 'pg_toast%' ORDER BY 1;
SELECT conrelid::regclass::text, conname, convalidated, pg_get_constraintdef(oid) FROM pg_constraint
 WHERE conrelid >= 16384 ORDER BY 1, 2;
SELECT tgrelid::regclass::text, tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2;
SET enable_seqscan = off;
SELECT id FROM sales.orders WHERE customer = 7 ORDER BY id;
SELECT id FROM sales.orders WHERE note = 'Note 77';
SELECT id FROM customers WHERE name = 'c7';
";

/// A script of transactions in random isolation levels, many of which begin with a snapshot of nothing.
pub fn script(rng: &mut StdRng) -> String {
    let mut sql = "PREPARE by_id AS SELECT * FROM sales.orders WHERE id = $1;
        PREPARE visits_of AS SELECT count(*) FROM visits WHERE at % 7 = $1 % 7;\n"
        .to_owned();
    if rng.random_bool(0.3) {
        sql += VIEWS;
    }
    for _ in 0..rng.random_range(4..10) {
        let level = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"].choose(rng).unwrap();
        let snapshot = if rng.random() { "SELECT count(*) FROM pg_class WHERE false;" } else { "" };
        let end = if rng.random_bool(0.8) { "COMMIT" } else { "ROLLBACK" };
        sql += &format!("BEGIN ISOLATION LEVEL {level}; {snapshot}\n");
        for _ in 0..rng.random_range(1..4) {
            let number = [1, 7, 41, 77, 499, 500, 891, 2000].choose(rng).unwrap();
            let statement = STATEMENTS.choose(rng).unwrap().replace("$N", &number.to_string());
            sql += &format!("SAVEPOINT before;\n{statement};\n\\if :ERROR\nROLLBACK TO before;\n\\endif\n");
        }
        sql += &format!("{end};\n");
    }
    sql
}

/// A database as a conventional recovery makes it, of which each case gets a copy.
pub fn recovered(backwhen: &Backwhen, server: &Server) -> String {
    let name = format!("{}_recovered", backwhen.database());
    backwhen.ok(&["recover", "--to", "latest", "--create", "--into", &server.conninfo(&name)]);
    name
}

/// Makes a copy of a recovered database; returns its name.
pub fn copy_of(server: &Server, recovered: &str) -> String {
    let copy = server.fresh_database("copy");
    let sql = format!("DROP DATABASE {copy}; CREATE DATABASE {copy} TEMPLATE {recovered}");
    server.psql("postgres", &sql);
    copy
}

#[test]
fn statements_end_as_on_a_conventional_recovery() {
    let all = number_from("BACKWHEN_TEST_ALL").is_some();
    let test = |server: &Server| {
        let backwhen = protected(server);
        let recovered = recovered(&backwhen, server);
        let (first, cases) = (seed(), number_from("BACKWHEN_TEST_CASES").unwrap_or(CASES));
        for seed in first..first + cases {
            let script = script(&mut StdRng::seed_from_u64(seed));
            let copy = copy_of(server, &recovered);
            let served = Served::start(&backwhen, &["--at", "latest"]);
            for sql in [script.as_str(), TRUTH] {
                let expected = psql(server, &server.conninfo(&copy), sql);
                let found = psql(server, served.connection(), sql);
                let differs = found.lines().zip(expected.lines()).find(|(found, expected)| found != expected);
                let what =
                    format!("BACKWHEN_TEST_SEED={seed} on {}: {differs:?} in\n{script}", server.major());
                assert!(found == expected, "{what}");
            }
            served.stop();
        }
    };
    if all { for_each_version(test) } else { on_oldest_and_newest(test) }
}
