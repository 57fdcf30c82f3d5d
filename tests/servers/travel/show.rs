//! `backwhen show` tells all that a transaction did, and writes the statements that do it or take it back.

use serde_json::{Value, json};

use super::{SHOP, Scene, TABLES, on_oldest_and_newest};
use crate::support::Server;
use crate::support::shop::assert_says;

#[test]
fn old_and_new_values_come_whole_although_the_wal_lacks_them() {
    on_oldest_and_newest(|server| {
        let scene = Scene::new(server, SHOP);
        scene.transaction("UPDATE orders SET status = 'paid' WHERE id = 5");
        let both = scene.transaction(
            "UPDATE orders SET total = 8 WHERE id = 5; UPDATE orders SET total = NULL WHERE id = 5; \
             DELETE FROM orders WHERE id = 5",
        );
        scene.drain();
        let lines = scene.lines(&["show", &both, "--table", "orders"]);
        let note = "n5".repeat(2000);
        let row = |total: Value| json!({"id": "5", "tenant_id": "2", "status": "paid", "total": total, "note": note});
        let change = |op: &str, before: Value, after: Value| json!({"table": "public.orders", "op": op, "key": {"id": "5"}, "before": before, "after": after});
        let (first, second, third) = (row("5.00".into()), row("8.00".into()), row(Value::Null));
        assert_eq!(lines[0], change("update", first, second.clone()));
        assert_eq!(lines[1], change("update", second, third.clone()));
        assert_eq!(lines[2], change("delete", third, json!({})));
        // The cascade's deletes are the transaction's own.
        assert_eq!(scene.lines(&["show", &both]).len(), 5);
        let at = scene.lines(&["log"])[1]["lsn"].as_str().unwrap().to_owned();
        assert_eq!(scene.lines(&["show", &at, "--table", "orders"]), lines);
    });
}

#[test]
fn a_table_is_known_by_the_name_that_it_has_before_the_transaction() {
    let server = Server::shared(None);
    let scene = Scene::new(&server, SHOP);
    scene.psql("ALTER TABLE orders RENAME TO purchases; ALTER TABLE items RENAME TO orders");
    let changed = scene.transaction(
        "UPDATE purchases SET status = 'paid' WHERE id = 5; UPDATE orders SET sku = 'x' WHERE order_id = 1 AND line = 2",
    );
    scene.drain();
    for (table, column, before) in [("purchases", "status", "open"), ("orders", "sku", "sku 2")] {
        let lines = scene.lines(&["show", &changed, "--table", table]);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!(lines[0]["before"][column], before);
    }
}

#[test]
fn a_truncate_tells_the_rows_that_it_removed() {
    on_oldest_and_newest(|server| {
        let scene = Scene::new(server, SHOP);
        scene.transaction("INSERT INTO audit VALUES ('a', '{}'), ('a', '{}'), ('b', NULL); DELETE FROM items WHERE line = 2");
        let emptied = scene.transaction(
            "INSERT INTO items VALUES (1, 7, 'late'); UPDATE items SET sku = 'changed' WHERE order_id = 2; \
             DELETE FROM audit WHERE ctid = (SELECT min(ctid) FROM audit WHERE what = 'a'); \
             INSERT INTO audit VALUES ('c'); TRUNCATE items, audit; INSERT INTO items VALUES (1, 1, 'new')",
        );
        scene.drain();
        let lines = scene.lines(&["show", &emptied]);
        let mut gone: Vec<_> = lines
            .iter()
            .filter(|line| line["op"] == "truncate")
            .map(|line| format!("{} {}", line["before"]["sku"], line["before"]["what"]))
            .collect();
        gone.sort();
        let mut expected =
            vec!["\"changed\" null", "\"late\" null", "null \"a\"", "null \"b\"", "null \"c\""];
        expected.extend(["\"sku 1\" null"; 8]);
        expected.sort();
        assert_eq!(gone, expected);
    });
}

/// Several changes of one row, a cascade, generated and identity columns, equal rows without a key, and odd names.
#[test]
fn a_transaction_is_taken_back_and_done_again_by_its_statements() {
    on_oldest_and_newest(|server| {
        let scene = Scene::new(server, SHOP);
        scene.psql(
            "CREATE TABLE \"odd \"\" table\" (\"a'b\" text PRIMARY KEY, \"back\\slash\" text, day date, b bytea, \
             f float8, iv interval); INSERT INTO \"odd \"\" table\" VALUES ('it''s', E'x\\\\y\\n\\tz', '2026-02-01', \
             '\\x00ff', 0.1, '1 day 02:00'), ('', NULL, 'infinity', '', 'NaN', NULL); \
             INSERT INTO audit VALUES ('a', '{\"k\": 1}'), ('a', '{\"k\": 1}'), ('b', NULL); \
             CREATE TABLE parts (id int, k int, PRIMARY KEY (id, k)) PARTITION BY LIST (k); \
             CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1); \
             CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2); INSERT INTO parts VALUES (1, 1), (2, 1)",
        );
        let change = scene.transaction(
            "UPDATE orders SET total = total + 1, status = 'it''s' WHERE id IN (1, 5); UPDATE orders SET total = 3 WHERE id = 1; \
             DELETE FROM orders WHERE id = 2; INSERT INTO orders (tenant_id, total) VALUES (4, 4.5); \
             UPDATE orders SET note = 'again' WHERE tenant_id = 4; UPDATE items SET line = line + 10 WHERE order_id = 3; \
             DELETE FROM audit WHERE ctid = (SELECT min(ctid) FROM audit); UPDATE audit SET what = 'c' WHERE what = 'b'; \
             UPDATE \"odd \"\" table\" SET b = 'q', f = -0.0, iv = '1 mon -1 day' WHERE f <> 'NaN'; \
             DELETE FROM \"odd \"\" table\" WHERE \"a'b\" = ''; \
             DELETE FROM items WHERE order_id = 4 AND line = 1; INSERT INTO items VALUES (4, 1, 'written anew'); \
             UPDATE parts SET k = 2 WHERE id = 1",
        );
        scene.drain();
        let tables = [&TABLES[..], &["\"odd \"\" table\"", "parts"]].concat();
        let after = scene.rows(scene.backwhen.database(), &tables);
        let twin = scene.twin();
        scene.apply(&twin, &scene.backwhen.ok(&["show", &change, "--sql", "--reverse"]));
        let before = scene.rows(&twin, &tables);
        assert_ne!(before, after);
        let file = scene.backwhen.folder().join("before.sql");
        scene.backwhen.ok(&[
            "recover",
            "--to",
            &change,
            "--before",
            "--into",
            &format!("sql:{}", file.display()),
        ]);
        let truth = scene.backwhen.server().fresh_database("truth");
        scene.apply(&truth, &std::fs::read_to_string(&file).unwrap());
        assert_eq!(before, scene.rows(&truth, &tables));
        scene.apply(&twin, &scene.backwhen.ok(&["show", &change, "--sql"]));
        assert_eq!(scene.rows(&twin, &tables), after);
        // The script's rows are not there a second time: nothing is changed, and psql fails.
        let script = scene.backwhen.ok(&["show", &change, "--sql"]);
        let again = scene.backwhen.server().client("psql", &twin, &["-Xq", "-f", "-"], &script);
        assert!(!again.status.success(), "the same changes cannot be made twice");
        assert_eq!(scene.rows(&twin, &tables), after);
    });
}

#[test]
fn text_marks_what_changed_and_says_how_to_take_it_back() {
    let server = Server::shared(None);
    let scene = Scene::new(&server, SHOP);
    let change = scene.transaction(
        "UPDATE orders SET status = 'paid' WHERE id = 1; ALTER TABLE audit ADD COLUMN c int; UPDATE orders SET total = 0 \
         WHERE id = 1",
    );
    scene.drain();
    let text = scene.backwhen.ok(&["show", &change]);
    let expected = [
        "UPDATE public.orders id=1",
        "    id         '1'     '1'",
        "  * status     'open'  'paid'",
        "DDL ALTER TABLE public.audit",
        "  * total      '1.00'  '0.00'",
    ];
    for line in expected {
        assert!(text.lines().any(|it| it == line), "{line:?} is not in: {text}");
    }
    assert_says(&text, &[&format!("take it back with: backwhen show {change} --sql --reverse")]);
    let script = scene.backwhen.ok(&["show", &change, "--sql", "--reverse"]);
    assert_says(&script, &["-- The transaction also changed the schema", "ALTER TABLE public.audit"]);
}

#[test]
fn what_names_no_transaction_is_refused_with_the_next_command() {
    let server = Server::shared(None);
    let scene = Scene::new(&server, SHOP);
    scene.transaction("UPDATE orders SET total = 2 WHERE id = 1");
    scene.drain();
    for (arguments, pieces) in [
        (&["show", "latest"][..], &["xid:N", "backwhen log"][..]),
        (&["show", "xid:1"], &["transaction 1 is not in the journal"]),
        (&["show", "0/1"], &["no transaction ends at 0/1", "backwhen log"]),
        (&["show", "schema"], &["backwhen show schema --at latest"]),
        (&["show", "xid:1", "--at", "latest"], &["show schema"]),
        (&["show", "xid:1", "--reverse"], &["--sql"]),
    ] {
        let output = scene.backwhen.run(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        assert_says(&output.stderr, pieces);
    }
}
