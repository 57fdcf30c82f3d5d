//! Two moments with a gap between them: what happened in it is not known, and what differs is.

use serde_json::json;

use super::{SHOP, Scene};
use crate::support::Server;
use crate::support::shop::assert_says;

#[test]
fn moments_on_both_sides_of_a_gap_are_compared_row_by_row() {
    let scene = Scene::new(&Server::shared(None), SHOP);
    let start = scene.transaction("UPDATE orders SET status = 'paid' WHERE id = 1");
    scene.drain();
    scene.psql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()");
    scene.psql(
        "UPDATE orders SET status = 'lost' WHERE id = 2; DELETE FROM items WHERE order_id = 3 AND line = 1;
         DROP TABLE audit; CREATE TABLE made (id int PRIMARY KEY); INSERT INTO made VALUES (1);
         ALTER TABLE items ADD COLUMN extra int; UPDATE items SET extra = 1 WHERE order_id = 4 AND line = 2",
    );
    scene.drain();
    let end = scene.transaction("UPDATE orders SET status = 'sent' WHERE id = 5");
    scene.drain();

    let counts = |table: &str, added: u64, removed: u64, changed: u64| json!({"table": table, "added": added, "removed": removed, "changed": changed});
    let found = scene.backwhen.json(&["diff", &start, &end]);
    let tables =
        [counts("public.items", 0, 1, 1), counts("public.made", 1, 0, 0), counts("public.orders", 0, 0, 2)];
    assert_eq!(found["tables"], json!(tables));
    let back = scene.backwhen.json(&["diff", &end, &start, "--table", "items"]);
    assert_eq!(back["tables"], json!([counts("public.items", 1, 0, 1)]));
    let rows = scene.lines(&["diff", &start, &end, "--rows", "--where", "id = 2"]);
    assert_eq!((rows.len(), &rows[0]["after"]["status"]), (1, &json!("lost")));
    let output = scene.backwhen.run(&["diff", &start, &end]);
    assert_says(&output.stderr, &["a gap lies between the two moments"]);
}
