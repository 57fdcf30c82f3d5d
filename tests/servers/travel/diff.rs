//! `backwhen diff` tells the net difference between two moments, and writes the statements that lead from one to the other.

use serde_json::{Value, json};

use super::{SHOP, Scene, TABLES, on_oldest_and_newest};
use crate::support::Server;
use crate::support::shop::assert_says;

fn counts(table: &str, added: u64, removed: u64, changed: u64) -> Value {
    json!({"table": table, "added": added, "removed": removed, "changed": changed})
}

#[test]
fn only_what_differs_in_the_end_is_told() {
    on_oldest_and_newest(|server| {
        let scene = Scene::new(server, SHOP);
        let start = scene.transaction("INSERT INTO audit VALUES ('a', '1'), ('a', '1'), ('b', '2')");
        scene.transaction("UPDATE orders SET status = 'paid' WHERE id IN (1, 5)");
        scene.transaction("UPDATE orders SET status = 'open' WHERE id = 1");
        scene.transaction("DELETE FROM items WHERE order_id = 2");
        scene.transaction("INSERT INTO items SELECT 2, l, 'sku ' || l FROM generate_series(1, 2) l");
        scene.transaction("INSERT INTO orders (total) VALUES (1); DELETE FROM orders WHERE id = 10");
        scene.transaction("DELETE FROM audit WHERE ctid = (SELECT min(ctid) FROM audit); INSERT INTO audit VALUES ('b', '2')");
        let end =
            scene.transaction("DELETE FROM orders WHERE id = 9; INSERT INTO orders (note) VALUES ('x')");
        scene.drain();
        let found = scene.backwhen.json(&["diff", &start, &end]);
        let tables = [
            counts("public.audit", 1, 1, 0),
            counts("public.items", 0, 2, 0),
            counts("public.orders", 1, 1, 1),
        ];
        // One equal row less and another one more is a changed row to whoever counts rows without a key.
        assert_eq!(found["tables"], json!(tables));
        let back = scene.backwhen.json(&["diff", &end, &start]);
        assert_eq!(back["tables"][1], counts("public.items", 2, 0, 0));
        assert_eq!(found["from"]["xid"].to_string(), start["xid:".len()..]);
        let rows = scene.lines(&["diff", &start, &end, "--rows", "--table", "orders"]);
        assert_eq!(rows[0]["key"], json!({"id": "5"}));
        assert_eq!(rows[0]["before"]["status"], "open");
        assert_eq!(rows[0]["after"]["note"], "n5".repeat(2000));
        assert_eq!((&rows[1]["op"], &rows[1]["after"]), (&json!("removed"), &json!({})));
        let of_two = scene.lines(&["diff", &start, &end, "--rows", "--where", "tenant_id = 2"]);
        assert_eq!(of_two.len(), 1);
        let nothing = scene.backwhen.ok(&["diff", &end, "latest"]);
        assert_says(&nothing, &["no row differs"]);
    });
}

#[test]
fn the_statements_lead_from_one_moment_to_the_other_and_back() {
    on_oldest_and_newest(|server| {
        let scene = Scene::new(server, SHOP);
        let start = scene.transaction("INSERT INTO audit VALUES ('a', '1'), ('a', '1'), ('b', NULL)");
        let before = scene.rows(scene.backwhen.database(), &TABLES);
        scene.transaction("DELETE FROM orders WHERE id IN (3, 5)");
        scene.transaction("UPDATE items SET line = line + 5 WHERE order_id = 1; UPDATE orders SET total = NULL WHERE id = 2");
        scene.transaction("INSERT INTO orders (tenant_id, note) VALUES (3, 'late'); INSERT INTO items SELECT max(id), 1 FROM orders");
        scene.transaction("TRUNCATE audit; INSERT INTO audit VALUES ('a', '1'), ('c', '4')");
        let after = scene.rows(scene.backwhen.database(), &TABLES);
        scene.drain();
        scene.backwhen.ok(&["checkpoint"]);
        let twin = scene.twin();
        let file = scene.backwhen.folder().join("back.sql").display().to_string();
        scene.backwhen.ok(&["diff", "latest", &start, "--sql", &file]);
        scene.apply(&twin, &std::fs::read_to_string(&file).unwrap());
        assert_eq!(scene.rows(&twin, &TABLES), before);
        scene.apply(&twin, &scene.backwhen.ok(&["diff", &start, "latest", "--sql", "-"]));
        assert_eq!(scene.rows(&twin, &TABLES), after);
        assert_says(
            &scene.backwhen.fails(14, &["diff", "latest", &start, "--sql", &file]),
            &["exists already"],
        );
    });
}

#[test]
fn columns_and_tables_that_change_in_between_are_told() {
    on_oldest_and_newest(|server| {
        let scene = Scene::new(server, SHOP);
        scene.psql("CREATE TABLE gone (id int PRIMARY KEY); INSERT INTO gone VALUES (1), (2)");
        let start = scene.transaction("UPDATE orders SET total = 1 WHERE id = 1");
        scene.transaction("ALTER TABLE orders ADD COLUMN flag int DEFAULT 7, DROP COLUMN note");
        scene.transaction(
            "ALTER TABLE orders RENAME COLUMN status TO state; UPDATE orders SET flag = 8 WHERE id = 2",
        );
        scene.transaction("ALTER TABLE items ALTER line TYPE bigint; UPDATE items SET sku = 'x' WHERE order_id = 1 AND line = 1");
        scene
            .transaction("DROP TABLE gone; CREATE TABLE made AS SELECT g AS id FROM generate_series(1, 3) g");
        scene.transaction(
            "ALTER TABLE audit ADD COLUMN id serial PRIMARY KEY; ALTER TABLE audit REPLICA IDENTITY DEFAULT",
        );
        scene.drain();
        let found = scene.backwhen.json(&["diff", &start, "latest"]);
        let tables = [
            counts("public.gone", 0, 2, 0),
            counts("public.items", 0, 0, 1),
            counts("public.orders", 0, 0, 1),
        ];
        let mut told = found["tables"].as_array().unwrap().clone();
        told.retain(|it| it["table"] != "public.made");
        assert_eq!(told, tables);
        let whats: Vec<_> =
            found["definitions"].as_array().unwrap().iter().map(|it| it["what"].as_str().unwrap()).collect();
        assert!(
            whats.contains(&"ALTER TABLE public.orders")
                && whats.iter().any(|it| it.starts_with("DROP TABLE")),
            "{whats:?}"
        );
        let rows = scene.lines(&["diff", &start, "latest", "--rows", "--table", "orders"]);
        assert_eq!(
            rows[0]["before"],
            json!({"id": "2", "tenant_id": "2", "status": "open", "total": "2.00", "note": "n2"})
        );
        assert_eq!(
            rows[0]["after"],
            json!({"id": "2", "tenant_id": "2", "state": "open", "total": "2.00", "flag": "8"})
        );
    });
}

#[test]
fn a_moment_is_compared_with_the_live_source() {
    let server = Server::shared(None);
    let scene = Scene::new(&server, SHOP);
    let start = scene.transaction("UPDATE orders SET total = 1 WHERE id = 1");
    let mut capture = scene.backwhen.spawn_capture();
    capture.wait_streaming();
    scene.transaction("DELETE FROM items WHERE order_id < 4");
    let found = scene.backwhen.json(&["diff", &start, "live"]);
    assert_eq!(found["tables"], json!([counts("public.items", 0, 6, 0)]));
    capture.stop();
    assert_says(&scene.backwhen.fails(14, &["diff", &start, "live"]), &["no capture is running"]);
}
