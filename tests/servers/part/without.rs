//! Rows that meet a condition, in a database without some transactions: the condition judges what there is without them.

use serde_json::{Value, json};

use super::{assert_keys_hold, part_of, protected};
use crate::support::{Backwhen, Server, on_oldest_and_newest};

const SHOP: &str = "
CREATE TABLE customers (id int PRIMARY KEY, tenant int NOT NULL, name text UNIQUE);
CREATE TABLE orders (id int, tenant int NOT NULL, customer int REFERENCES customers ON DELETE CASCADE, total int,
                     PRIMARY KEY (id, tenant)) PARTITION BY LIST (tenant);
CREATE TABLE orders_1 PARTITION OF orders FOR VALUES IN (1); CREATE TABLE orders_2 PARTITION OF orders FOR VALUES IN (2, 3);
CREATE TABLE lines (id int PRIMARY KEY, order_id int, tenant int, FOREIGN KEY (order_id, tenant) REFERENCES orders);
CREATE TABLE log (n int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant int);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.log (tenant) VALUES (9); RETURN NULL; END $$;
CREATE TRIGGER note AFTER INSERT OR DELETE OR UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION note();
INSERT INTO customers SELECT g, 1 + g % 3, 'c' || g FROM generate_series(1, 30) g;
INSERT INTO orders SELECT g, 1 + g % 3, g % 30 + 1, 10 FROM generate_series(1, 60) g;
INSERT INTO lines SELECT g, g % 60 + 1, 1 + (g % 60 + 1) % 3 FROM generate_series(1, 120) g";

/// What the tables hold, as far as a condition tells, and the rows to which these refer.
const PART: &str = "
WITH o AS (SELECT * FROM orders WHERE tenant = 2), l AS (SELECT * FROM lines WHERE tenant = 2),
     r AS (SELECT * FROM orders WHERE (id, tenant) IN (SELECT order_id, tenant FROM l) UNION SELECT * FROM o)
SELECT (SELECT string_agg(r::text, ',' ORDER BY r.id) FROM r), (SELECT string_agg(l::text, ',' ORDER BY l.id) FROM l),
       (SELECT string_agg(c::text, ',' ORDER BY c.id) FROM customers c
         WHERE tenant = 2 OR id IN (SELECT customer FROM r))";

const WHOLE: &str = "
SELECT (SELECT string_agg(o::text, ',' ORDER BY o.id) FROM orders o), (SELECT string_agg(l::text, ',' ORDER BY l.id) FROM lines l),
       (SELECT string_agg(c::text, ',' ORDER BY c.id) FROM customers c)";

fn transaction(backwhen: &Backwhen, sql: &str) -> String {
    let sql = format!("BEGIN; SELECT pg_current_xact_id(); {sql}; COMMIT");
    let said = backwhen.server().psql(backwhen.database(), &sql);
    format!("xid:{}", said.lines().next().expect("a number comes first"))
}

/// Recovers the latest moment without transactions; returns the new database, and the report.
fn without(backwhen: &Backwhen, transactions: &str, further: &[&str]) -> (String, Value) {
    super::recover(backwhen, &[&["--except", transactions], further].concat())
}

#[test]
fn a_condition_judges_the_rows_without_the_transactions() {
    on_oldest_and_newest(|server| {
        let backwhen = protected(server, SHOP, "SELECT 1");
        // Rows of the transaction come into the part and leave it: a tenant's customer, orders in two partitions, a line.
        let wrong = transaction(
            &backwhen,
            "UPDATE customers SET tenant = 2 WHERE id = 3; UPDATE customers SET tenant = 3 WHERE id = 4;
             DELETE FROM lines WHERE id < 9; UPDATE orders SET total = 0 WHERE id < 20;
             INSERT INTO customers VALUES (31, 2, 'wrong'); INSERT INTO orders VALUES (61, 2, 31, 7)",
        );
        let later =
            "UPDATE customers SET name = 'later ' || id WHERE id < 6; INSERT INTO lines VALUES (200, 5, 3)";
        server.psql(backwhen.database(), later);
        backwhen.ok(&["capture", "--until", "caught-up"]);
        let (whole, _) = without(&backwhen, &wrong, &[]);
        let part = &["--where", "tenant = 2", "--with-references"];
        let (database, report) = without(&backwhen, &wrong, part);
        let asked = |sql: &str| server.psql(&database, sql);
        assert_eq!(asked(WHOLE), server.psql(&whole, PART));
        assert_eq!(report["proved"], true, "{report}");
        assert_eq!(
            report["except"]["tables"][0],
            json!({"table": "public.customers", "inserted": 0, "deleted": 1, "updated": 2})
        );
        let (rows, left_out) = part_of(&report, "public.customers");
        assert_eq!((rows + left_out, asked("SELECT count(*) FROM customers")), (30, rows.to_string()));
        assert_keys_hold(server, &database, 2);
        assert_eq!(asked("SELECT count(*) FROM log"), "0", "no trigger fired");
    });
}

#[test]
fn what_was_built_on_it_is_in_the_way_of_a_part_too() {
    let server = Server::shared(None);
    let backwhen = protected(&server, SHOP, "SELECT 1");
    let wrong = transaction(&backwhen, "INSERT INTO customers VALUES (31, 2, 'wrong')");
    let child = transaction(&backwhen, "INSERT INTO orders VALUES (61, 1, 31, 7)");
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let refused = format!("{}_refused", server.fresh_database("part"));
    let into = server.conninfo(&refused);
    let recover = ["recover", "--to", "latest", "--create", "--into", &into, "--except", &wrong];
    let error = backwhen.fails(14, &[&recover[..], &["--where", "tenant = 2"]].concat());
    assert!(error.contains("a row of public.orders_1 refers to it (orders_customer_fkey)"), "{error}");
    assert_eq!(
        server.psql("postgres", &format!("SELECT count(*) FROM pg_database WHERE datname LIKE '{refused}%'")),
        "0"
    );
    let part = ["--where", "tenant < 3", "--with-references", "--conflicts"];
    let (database, report) = without(&backwhen, &wrong, &[&part[..], &["cascade"]].concat());
    let xid: u64 = child.trim_start_matches("xid:").parse().unwrap();
    assert_eq!(report["except"]["dependents"][0]["xid"], json!(xid), "{report}");
    let gone =
        "SELECT (SELECT count(*) FROM orders WHERE id = 61), (SELECT count(*) FROM customers WHERE id = 31)";
    assert_eq!(server.psql(&database, gone), "0|0");
    let (database, _) = without(&backwhen, &wrong, &[&part[..], &["skip"]].concat());
    assert_eq!(server.psql(&database, gone), "1|1");
}
