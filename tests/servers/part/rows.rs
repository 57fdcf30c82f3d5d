//! Into another database: the rows that meet the condition, what they refer to, and nothing else.

use serde_json::json;

use super::{assert_keys_hold, part_of, protected, recover};
use crate::support::{Server, on_oldest_and_newest};

const SHOP: &str = "
CREATE TABLE countries (code char(2) PRIMARY KEY);
CREATE TABLE customers (id int PRIMARY KEY, country char(2) REFERENCES countries, name text);
CREATE TABLE orders (id int PRIMARY KEY, tenant_id int, customer int REFERENCES customers, note text);
CREATE TABLE lines (order_id int REFERENCES orders, number int, PRIMARY KEY (order_id, number));
CREATE TABLE other (id int PRIMARY KEY);
INSERT INTO countries VALUES ('de'), ('fr'), ('it');
INSERT INTO customers SELECT g, (ARRAY['de', 'fr', 'it'])[1 + g % 3], 'c' || g FROM generate_series(1, 30) g;
INSERT INTO orders SELECT g, g % 10, 1 + g % 30, repeat('x', g) FROM generate_series(1, 300) g;
INSERT INTO lines SELECT g, 1 FROM generate_series(1, 300) g; INSERT INTO other VALUES (1)";

const LATER: &str = "UPDATE orders SET customer = 7 WHERE id = 12; DELETE FROM lines WHERE order_id = 2; DELETE FROM orders WHERE id = 2";

#[test]
fn rows_that_meet_the_condition_come_with_those_that_they_refer_to() {
    on_oldest_and_newest(|server| {
        let backwhen = protected(server, SHOP, LATER);
        let wanted = ["--table", "orders", "--where", "tenant_id = 2", "--with-references"];
        let (database, report) = recover(&backwhen, &wanted);
        assert_eq!(report["proved"], true, "{report}");
        assert_eq!(part_of(&report, "public.orders"), (29, 270));
        // Orders 12, 22 and 32 and so on, of customers 3, 13 and 23, and of customer 7.
        assert_eq!(part_of(&report, "public.customers"), (4, 26));
        assert_eq!(part_of(&report, "public.countries"), (3, 0));
        assert_eq!(report["rows"], 36);
        assert_eq!(report["left_out"], json!([]));
        let ids = |database: &str| {
            server.psql(
                database,
                "SELECT string_agg(id::text || note, ',' ORDER BY id) FROM orders WHERE tenant_id = 2",
            )
        };
        assert_eq!(ids(&database), ids(backwhen.database()));
        let names = "SELECT string_agg(id || name || country, ',' ORDER BY id) FROM customers";
        assert_eq!(server.psql(&database, names), "3c3de,7c7fr,13c13fr,23c23it");
        assert_eq!(
            server.psql(&database, "SELECT to_regclass('lines') IS NULL AND to_regclass('other') IS NULL"),
            "t"
        );
        assert_keys_hold(server, &database, 2);
    });
}

/// References in circles, to the same table, by several columns, to partitions and from them, to a parent's parents.
const GRAPH: &str = "
CREATE TABLE regions (id int PRIMARY KEY, capital int);
CREATE TABLE cities (id int PRIMARY KEY, region int REFERENCES regions);
ALTER TABLE regions ADD FOREIGN KEY (capital) REFERENCES cities DEFERRABLE;
CREATE TABLE staff (dept text, number int, boss_dept text, boss int, PRIMARY KEY (dept, number), city int REFERENCES cities,
    FOREIGN KEY (boss_dept, boss) REFERENCES staff);
CREATE TABLE events (day int, id int, parent_day int, parent int, PRIMARY KEY (day, id)) PARTITION BY LIST (day);
CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2) PARTITION BY LIST (id);
CREATE TABLE events_2_1 PARTITION OF events_2 FOR VALUES IN (1); CREATE TABLE events_2_rest PARTITION OF events_2 DEFAULT;
ALTER TABLE events ADD FOREIGN KEY (parent_day, parent) REFERENCES events;
CREATE TABLE tickets (id int PRIMARY KEY, dept text, number int, day int, event int, wide bigint, code varchar(9) COLLATE \"C\",
    FOREIGN KEY (dept, number) REFERENCES staff MATCH FULL, FOREIGN KEY (day, event) REFERENCES events);
CREATE TABLE codes (code text PRIMARY KEY); ALTER TABLE tickets ADD FOREIGN KEY (code) REFERENCES codes;
CREATE TABLE narrow (id smallint UNIQUE); ALTER TABLE tickets ADD FOREIGN KEY (wide) REFERENCES narrow (id);
INSERT INTO regions SELECT g FROM generate_series(1, 9) g; INSERT INTO cities SELECT g, g FROM generate_series(1, 9) g;
UPDATE regions SET capital = 1 + id % 9;
INSERT INTO staff SELECT 'd' || g % 2, g, CASE WHEN g > 2 THEN 'd' || g % 2 END, CASE WHEN g > 2 THEN g - 2 END, 1 + g % 3
  FROM generate_series(1, 40) g;
INSERT INTO events SELECT 1 + g % 2, g, NULL, NULL FROM generate_series(1, 20) g;
UPDATE events SET parent_day = 1 + (id - 1) % 2, parent = id - 1 WHERE id > 1 AND id <> 11;
INSERT INTO codes SELECT 'k' || g FROM generate_series(1, 5) g; INSERT INTO narrow SELECT g FROM generate_series(1, 5) g;
INSERT INTO tickets SELECT g, 'd0', 2 * g, 1 + g % 2, g, g, 'k' || g FROM generate_series(1, 5) g;
INSERT INTO tickets VALUES (99)";

#[test]
fn references_of_every_shape_are_followed() {
    on_oldest_and_newest(|server| {
        let backwhen = protected(server, GRAPH, "SELECT 1");
        let wanted = ["--table", "tickets", "--where", "id IN (3, 99)", "--with-references"];
        let (database, report) = recover(&backwhen, &wanted);
        let ids = |query: &str| server.psql(&database, query);
        assert_eq!(ids("SELECT string_agg(number::text, ',' ORDER BY number) FROM staff"), "2,4,6");
        assert_eq!(ids("SELECT string_agg(id::text, ',' ORDER BY id) FROM events"), "1,2,3");
        assert_eq!(
            ids(
                "SELECT (SELECT string_agg(code, ',') FROM codes), (SELECT string_agg(id::text, ',') FROM narrow)"
            ),
            "k3|3"
        );
        // Each capital lies in the next region, all around.
        assert_eq!((part_of(&report, "public.regions"), part_of(&report, "public.cities")), ((9, 0), (9, 0)));
        assert_eq!(part_of(&report, "public.events_2_rest"), (1, 8));
        assert_eq!((&report["proved"], &report["left_out"]), (&json!(true), &json!([])));
        assert_keys_hold(server, &database, 9);
    });
}

/// The condition is SQL, with the operators and functions of the server; it may ask other tables that are recovered.
#[test]
fn the_condition_is_sql_of_the_server() {
    let server = Server::shared(None);
    let backwhen = protected(&server, SHOP, LATER);
    let condition =
        "length(note) > 290 AND customer IN (SELECT id FROM public.customers WHERE country = 'de') -- so far";
    let (database, _) = recover(&backwhen, &["--table", "orders", "--where", condition, "--with-references"]);
    let truth = format!(
        "SELECT count(*), min(id), max(id) FROM orders WHERE {}",
        condition.trim_end_matches("-- so far")
    );
    assert_eq!(
        server.psql(&database, "SELECT count(*), min(id), max(id) FROM orders"),
        server.psql(backwhen.database(), &truth)
    );

    // Tables without the condition's columns have no such rows.
    let (database, report) = recover(&backwhen, &["--where", "tenant_id = 3", "--with-references"]);
    assert_eq!((part_of(&report, "public.orders").0, part_of(&report, "public.lines").0), (30, 0));
    assert!(report["notes"].to_string().contains("public.lines: no row of it meets --where"), "{report}");
    assert_keys_hold(&server, &database, 3);
    // All rows of a table, and what they refer to.
    let (database, report) = recover(&backwhen, &["--table", "lines", "--with-references"]);
    assert_eq!(part_of(&report, "public.orders").1, 0);
    assert_eq!(server.psql(&database, "SELECT count(*) FROM lines"), "299");
}

/// Without what the rows refer to, a foreign key does not hold, and does not say so.
#[test]
fn a_foreign_key_that_the_part_breaks_is_not_valid() {
    let server = Server::shared(None);
    let backwhen = protected(&server, SHOP, LATER);
    let database = format!("{}_new", server.fresh_database("part"));
    let into = server.conninfo(&database);
    let wanted = ["--table", "orders", "--table", "customers", "--where", "id < 10"];
    let report = backwhen.json_incomplete(
        &[&["recover", "--to", "latest", "--create", "--into", &into][..], &wanted].concat(),
    );
    let why = report["left_out"][0]["why"].as_str().unwrap();
    assert!(why.ends_with("it is NOT VALID; add --with-references"), "{report}");
    assert_eq!(server.psql(&database, "SELECT convalidated FROM pg_constraint WHERE contype = 'f'"), "f");
}

#[test]
fn what_cannot_be_asked_for_is_said_and_leaves_nothing() {
    let server = Server::shared(None);
    let backwhen = protected(&server, SHOP, LATER);
    let database = format!("{}_new", server.fresh_database("part"));
    let into = server.conninfo(&database);
    let fails = |code: i32, into: &str, further: &[&str]| {
        let error = backwhen
            .fails(code, &[&["recover", "--to", "latest", "--create", "--into", into], further].concat());
        let there = format!("SELECT count(*) FROM pg_database WHERE datname LIKE '{database}%'");
        assert_eq!(server.psql("postgres", &there), "0");
        error
    };
    assert!(fails(2, &into, &["--with-references"]).contains("--table or --where"));
    assert!(
        fails(2, "sqlite:x.sqlite", &["--where", "true"]).contains("only a PostgreSQL server can judge rows")
    );
    assert!(fails(2, &into, &["--where", "nothing = 1"]).contains("no chosen table has the columns"));
    assert!(fails(14, &into, &["--table", "orders", "--where", "id = 1 +"]).contains("cannot use --where"));
    assert!(
        fails(14, &into, &["--table", "orders", "--where", "1 / (id - 5) > 0"]).contains("division by zero")
    );
}

#[test]
fn a_dry_run_names_the_tables_that_are_taken_along() {
    let server = Server::shared(None);
    let backwhen = protected(&server, SHOP, LATER);
    let wanted = [
        "recover",
        "--to",
        "latest",
        "--dry-run",
        "--table",
        "orders",
        "--where",
        "id = 1",
        "--with-references",
    ];
    let plan = backwhen.json(&wanted);
    assert_eq!(plan["filter"]["referenced"], json!(["public.countries", "public.customers"]));
    assert_eq!((&plan["filter"]["condition"], &plan["tables"]), (&json!("id = 1"), &json!(3)));
    assert!(backwhen.ok(&wanted).contains("rows are taken along from public.countries, public.customers"));
}
