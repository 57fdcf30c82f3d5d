//! A part of the database goes back, and what its rows are connected with decides.

use serde_json::json;

use super::{Scene, on_oldest_and_newest, while_captured};
use crate::support::Server;

const SHOP: &str = "
CREATE TABLE customers (id int PRIMARY KEY, tenant int, name text, code text UNIQUE);
CREATE TABLE orders (id int PRIMARY KEY, tenant int, customer int REFERENCES customers, total int);
CREATE TABLE other (id int PRIMARY KEY, v text);
INSERT INTO customers SELECT g, g % 3, 'c' || g, 'k' || g FROM generate_series(1, 9) g;
INSERT INTO orders SELECT g, (1 + g % 9) % 3, 1 + g % 9, g FROM generate_series(1, 30) g;
INSERT INTO other SELECT g, 'v' FROM generate_series(1, 5) g";

fn conflicts(report: &serde_json::Value) -> Vec<String> {
    let each = report["conflicts"].as_array().unwrap().iter();
    each.map(|it| format!("{} {}: {}", it["table"], it["key"], it["why"])).collect()
}

#[test]
fn tables_rows_and_keys_are_chosen() {
    on_oldest_and_newest(|server| {
        while_captured(server, SHOP, |scene| {
            scene.mark("good");
            let good = scene.rows();
            scene.psql(
                "UPDATE customers SET name = 'x'; UPDATE orders SET total = 0; UPDATE other SET v = 'w'",
            );
            scene.rewind(&["--to", "mark:good", "--where", "tenant = 1"]);
            assert_eq!(
                scene.psql("SELECT count(*), min(tenant), max(tenant) FROM customers WHERE name <> 'x'"),
                "3|1|1"
            );
            assert_eq!(scene.psql("SELECT count(*) FROM orders WHERE total <> 0 AND tenant <> 1"), "0");
            assert_eq!(scene.psql("SELECT count(*) FROM other WHERE v = 'v'"), "0");

            scene.rewind(&["--to", "mark:good", "--key", "customers=2", "--key", "other=id=3"]);
            assert_eq!(
                scene.psql("SELECT string_agg(id::text, ',' ORDER BY id) FROM customers WHERE name <> 'x'"),
                "1,2,4,7"
            );
            assert_eq!(scene.psql("SELECT id FROM other WHERE v = 'v'"), "3");

            scene.rewind(&["--to", "mark:good", "--table", "or*"]);
            assert_eq!(
                scene.rows()["public.orders (id, tenant, customer, total)"],
                good["public.orders (id, tenant, customer, total)"]
            );
            assert_eq!(scene.psql("SELECT count(*) FROM customers WHERE name = 'x'"), "5");
            scene.rewind(&["--to", "mark:good"]);
            assert_eq!(scene.rows(), good);
        });
    });
}

#[test]
fn what_cannot_be_asked_for_is_said() {
    let server = Server::shared(None);
    while_captured(&server, SHOP, |scene| {
        scene.mark("good");
        scene.psql("UPDATE other SET v = 'w'");
        scene.backwhen.fails(2, &["rewind", "--to", "mark:good", "--table", "nothing"]);
        scene.backwhen.fails(2, &["rewind", "--to", "mark:good", "--where", "nothing = 1"]);
        scene.backwhen.fails(2, &["rewind", "--to", "mark:good", "--where", "v = 1 +"]);
        scene.backwhen.fails(2, &["rewind", "--to", "mark:good", "--key", "other"]);
        scene.backwhen.fails(2, &["rewind", "--to", "mark:good", "--key", "nothing=1"]);
        scene.backwhen.fails(11, &["rewind", "--to", "mark:never"]);
        scene.backwhen.fails(11, &["undo", "xid:1"]);
        scene.backwhen.fails(2, &["undo", "last"]);
        assert_eq!(scene.psql("SELECT count(*) FROM other WHERE v = 'w'"), "5");
    });
}

/// The parent of a row that is to come back is gone, a child came in since, a unique value is taken.
fn with_conflicts(test: impl Fn(&Scene)) {
    on_oldest_and_newest(|server| {
        while_captured(server, SHOP, |scene| {
            scene.mark("good");
            scene.psql("DELETE FROM orders WHERE customer = 4");
            scene.psql("DELETE FROM customers WHERE id = 4");
            scene.psql("UPDATE customers SET code = 'free' WHERE id = 5; INSERT INTO customers VALUES (50, 2, 'new', 'k5')");
            scene.psql("INSERT INTO orders VALUES (100, 2, 50, 1)");
            test(scene);
        });
    });
}

#[test]
fn by_default_a_conflict_changes_nothing() {
    with_conflicts(|scene| {
        let before = scene.dump();
        let report = scene.amend(14, &["rewind", "--to", "mark:good", "--table", "orders", "--apply"]);
        let found = conflicts(&report);
        assert_eq!(found.len(), 4, "four orders need customer 4: {found:?}");
        assert!(found[0].contains("the row of public.customers that it refers to is gone"), "{found:?}");
        assert_eq!(report["applied"], false);
        let report = scene.amend(0, &["rewind", "--to", "mark:good", "--table", "customers"]);
        let found = conflicts(&report).join("\n");
        assert!(found.contains("a row of public.orders refers to it"), "{found}");
        let report = scene.amend(14, &["rewind", "--to", "mark:good", "--key", "customers=5", "--apply"]);
        assert!(conflicts(&report)[0].contains("another row took its unique value"), "{report}");
        super::assert_rows(&before, &scene.dump());
    });
}

#[test]
fn a_conflict_can_be_left_alone() {
    with_conflicts(|scene| {
        let report = scene.rewind(&["--to", "mark:good", "--table", "customers", "--conflicts", "skip"]);
        // Customer 50 stays for its order, so customer 5 cannot have its code again.
        assert_eq!(
            report["tables"][0],
            json!({"table": "public.customers", "inserted": 1, "deleted": 0, "updated": 0})
        );
        assert_eq!(
            scene.psql("SELECT code FROM customers WHERE id IN (4, 5, 50) ORDER BY id"),
            "k4\nfree\nk5"
        );
    });
}

#[test]
fn a_conflict_can_take_along_what_is_in_the_way() {
    with_conflicts(|scene| {
        scene.psql("UPDATE other SET v = 'stays'");
        scene.rewind(&["--to", "mark:good", "--key", "customers=5", "--conflicts", "cascade"]);
        assert_eq!(scene.psql("SELECT code FROM customers WHERE id IN (4, 5, 50) ORDER BY id"), "k5");
        assert_eq!(scene.psql("SELECT count(*) FROM orders WHERE id = 100"), "0");
        scene.rewind(&["--to", "mark:good", "--table", "orders", "--conflicts", "cascade"]);
        assert_eq!(scene.psql("SELECT count(*) FROM orders"), "30");
        assert_eq!(scene.psql("SELECT count(*) FROM other WHERE v = 'stays'"), "5");
    });
}

/// A table that is not in the history cannot be seen in the plan; ON DELETE CASCADE must not take its rows along.
#[test]
fn rows_that_nobody_follows_are_not_taken_along() {
    let server = Server::shared(None);
    let database = server.fresh_database("live");
    let tables = "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY REFERENCES p ON DELETE CASCADE)";
    server.psql(&database, tables);
    let backwhen = crate::support::Backwhen::new(&server, &database);
    backwhen.ok(&["init", "--source", &backwhen.source(), "--exclude", "c"]);
    let scene = Scene { backwhen };
    let mut capture = scene.backwhen.spawn_capture();
    capture.wait_streaming();
    scene.mark("good");
    scene.psql("INSERT INTO p VALUES (1), (2); INSERT INTO c VALUES (1)");
    let error = scene.amend(14, &["rewind", "--to", "mark:good", "--apply"]);
    assert!(
        error["error"].as_str().unwrap().contains("1 rows of public.c refer to rows of public.p"),
        "{error}"
    );
    assert_eq!(scene.psql("SELECT count(*) FROM p, c"), "2");
    capture.stop();
}
