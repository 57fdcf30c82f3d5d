//! `backwhen row` tells every version of a row, through changes of its key and of the table's columns.

use serde_json::{Value, json};

use super::{SHOP, Scene, on_oldest_and_newest};
use crate::support::Server;
use crate::support::shop::assert_says;

/// How each version came to be and ended, with one of its values.
fn versions(lines: &[Value], column: &str) -> Vec<(String, String, Value)> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    lines.iter().map(|line| (text(&line["op"]), text(&line["ended"]), line["row"][column].clone())).collect()
}

fn version(op: &str, ended: &str, value: impl Into<Value>) -> (String, String, Value) {
    (op.to_owned(), ended.to_owned(), value.into())
}

#[test]
fn a_rows_versions_come_with_their_transactions() {
    on_oldest_and_newest(|server| {
        let scene = Scene::new(server, SHOP);
        let paid = scene.transaction(
            "UPDATE orders SET status = 'tried' WHERE id = 5; UPDATE orders SET status = 'paid' WHERE id = 5",
        );
        // Nothing changes for whoever looks from outside.
        scene.transaction("UPDATE orders SET status = status WHERE id = 5");
        scene.transaction(
            "UPDATE orders SET total = 1 WHERE id = 5; UPDATE orders SET total = 5 WHERE id = 5",
        );
        let gone = scene.transaction("DELETE FROM orders WHERE id = 5");
        let back =
            scene.transaction("INSERT INTO orders (id, status) OVERRIDING SYSTEM VALUE VALUES (5, 'back')");
        let other = scene.transaction(
            "DELETE FROM orders WHERE id = 5; INSERT INTO orders (id, status) OVERRIDING SYSTEM VALUE VALUES (5, 'other')",
        );
        scene.drain();
        let lines = scene.lines(&["row", "orders", "5"]);
        assert_eq!(
            versions(&lines, "status"),
            [
                version("checkpoint", "update", "open"),
                version("update", "delete", "paid"),
                version("insert", "update", "back"),
                version("update", "-", "other"),
            ]
        );
        assert_eq!(lines[1]["row"]["note"], "n5".repeat(2000));
        let xid = |line: &Value, end: &str| format!("xid:{}", line[end]["xid"]);
        assert_eq!((xid(&lines[1], "from"), xid(&lines[1], "to")), (paid.clone(), gone.clone()));
        assert_eq!((xid(&lines[2], "from"), xid(&lines[3], "from")), (back, other));
        assert_eq!(lines[3]["to"], Value::Null);
        let between = scene.lines(&["row", "public.orders", "id=5", "--since", &paid, "--until", &gone]);
        assert_eq!(versions(&between, "status"), [version("checkpoint", "delete", "paid")]);
        let script = scene.backwhen.ok(&["row", "orders", "5", "--sql"]);
        let old = script.lines().find(|line| line.contains("'paid'")).unwrap();
        let twin = scene.twin();
        scene.apply(&twin, old);
        let status = "SELECT status, total, length(note) FROM orders WHERE id = 5";
        assert_eq!(scene.backwhen.server().psql(&twin, status), "paid|5.00|4000");
    });
}

#[test]
fn a_row_is_followed_through_other_keys_and_columns() {
    on_oldest_and_newest(|server| {
        let scene = Scene::new(
            server,
            "CREATE TABLE t (id int PRIMARY KEY, v text, w int); INSERT INTO t SELECT g, 'v' || g, g FROM generate_series(1, 9) g",
        );
        scene.transaction("UPDATE t SET id = 100 WHERE id = 1");
        scene.transaction("UPDATE t SET v = 'as 100' WHERE id = 100");
        scene.transaction(
            "ALTER TABLE t RENAME COLUMN v TO name; ALTER TABLE t ADD COLUMN more int DEFAULT 3",
        );
        scene.transaction("INSERT INTO t VALUES (1, 'new 1', 1)");
        scene.transaction("UPDATE t SET id = 200 WHERE id = 100");
        scene.transaction("ALTER TABLE t ALTER w TYPE bigint USING w * 10");
        scene.transaction("ALTER TABLE t DROP COLUMN w");
        scene.transaction("UPDATE t SET id = id + 1000");
        scene.transaction("TRUNCATE t");
        scene.transaction("INSERT INTO t VALUES (200, 'last')");
        scene.drain();
        let lines = scene.lines(&["row", "t", "200"]);
        let ids: Vec<_> = lines.iter().map(|line| line["row"].clone()).collect();
        let expected = [
            json!({"id": "1", "v": "v1", "w": "1"}),
            json!({"id": "100", "v": "v1", "w": "1"}),
            json!({"id": "100", "v": "as 100", "w": "1"}),
            json!({"id": "100", "name": "as 100", "w": "1", "more": "3"}),
            json!({"id": "200", "name": "as 100", "w": "1", "more": "3"}),
            json!({"id": "200", "name": "as 100", "w": "10", "more": "3"}),
            json!({"id": "200", "name": "as 100", "more": "3"}),
            json!({"id": "1200", "name": "as 100", "more": "3"}),
            json!({"id": "200", "name": "last", "more": "3"}),
        ];
        assert_eq!(ids, expected);
        assert_eq!(lines[7]["ended"], "truncate");
        assert_eq!(lines[5]["op"], "ddl");
        // Two rows had this key, one after the other.
        let first = scene.lines(&["row", "t", "1"]);
        let ids: Vec<_> = first.iter().map(|line| line["row"]["id"].as_str().unwrap()).collect();
        assert_eq!(ids.iter().filter(|id| **id == "1").count(), 4, "{ids:?}");
        assert!(ids.contains(&"1001") && ids.contains(&"1200"), "{ids:?}");
    });
}

#[test]
fn a_row_without_a_key_is_named_by_its_values() {
    let server = Server::shared(None);
    let scene = Scene::new(&server, SHOP);
    scene.transaction("INSERT INTO audit VALUES ('a', '1'), ('b', '2')");
    scene.transaction("UPDATE audit SET extra = '3' WHERE what = 'a'");
    scene.transaction("UPDATE audit SET what = 'c' WHERE what = 'a'");
    scene.drain();
    let lines = scene.lines(&["row", "audit", "what=a"]);
    assert_eq!(
        versions(&lines, "extra"),
        [version("insert", "update", "1"), version("update", "update", "3"), version("update", "-", "3")]
    );
    scene.transaction("INSERT INTO audit VALUES ('b', '4')");
    scene.drain();
    assert_says(
        &scene.backwhen.fails(14, &["row", "audit", "what=b"]),
        &["several rows", "name more columns"],
    );
    assert_says(&scene.backwhen.fails(2, &["row", "audit", "b"]), &["has no key", "column=value"]);
    assert_says(&scene.backwhen.fails(2, &["row", "items", "1"]), &["order_id=…,line=…"]);
    assert_says(&scene.backwhen.fails(2, &["row", "nothing", "1"]), &["no table matches"]);
    let text = scene.backwhen.ok(&["row", "orders", "1"]);
    assert_says(&text, &["(checkpoint) until now", "status='open'"]);
}
