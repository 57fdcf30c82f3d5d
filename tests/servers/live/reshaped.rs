//! Rows of tables whose columns changed, of tables with very many columns, and of partitions.

use super::while_captured;
use crate::support::Server;

/// A row at the moment is a line of the table as it was then, also if nothing touched the row before the table changed.
#[test]
fn a_row_that_is_first_touched_after_its_columns_changed_goes_back() {
    let tables = "CREATE TABLE t (id int PRIMARY KEY, gone text, a text);
        INSERT INTO t SELECT g, 'gone', 'a' || g FROM generate_series(1, 4) g";
    while_captured(&Server::shared(None), tables, |scene| {
        scene.mark("good");
        scene.psql("ALTER TABLE t DROP COLUMN gone; ALTER TABLE t ADD COLUMN added text DEFAULT 'new'");
        scene.psql("UPDATE t SET a = 'x', added = 'later' WHERE id = 1; DELETE FROM t WHERE id = 2");
        let undone =
            scene.transaction("UPDATE t SET a = 'y' WHERE id = 3; ALTER TABLE t ADD COLUMN more text");
        scene.psql("UPDATE t SET more = 'm' WHERE id = 3");
        scene.undo(&format!("xid:{undone}"), &[]);
        assert_eq!(scene.psql("SELECT a, added, more FROM t WHERE id = 3"), "a3|new|m");
        scene.rewind(&["--to", "mark:good"]);
        assert_eq!(
            scene.psql("SELECT * FROM t ORDER BY id"),
            "1|a1|later|\n2|a2|new|\n3|a3|new|m\n4|a4|new|"
        );
    });
}

/// A temporary table with each column of such a table twice would have too many.
#[test]
fn rows_of_a_table_with_very_many_columns_go_back() {
    let columns: Vec<_> = (0..900).map(|number| format!("c{number} int")).collect();
    let tables = format!(
        "CREATE TABLE t (id int PRIMARY KEY, {}); INSERT INTO t (id, c899) SELECT g, g FROM generate_series(1, 2100) g",
        columns.join(", ")
    );
    while_captured(&Server::shared(None), &tables, |scene| {
        let few = scene.transaction("UPDATE t SET c0 = 1 WHERE id = 7");
        scene.undo(&format!("xid:{few}"), &[]);
        let many = scene.transaction("UPDATE t SET c0 = 1");
        scene.undo(&format!("xid:{many}"), &[]);
        assert_eq!(scene.psql("SELECT count(c0), sum(c899) FROM t"), "0|2206050");
    });
}

/// A row that moved to another partition is a deleted and an inserted row. If the one cannot go, the other does not come.
#[test]
fn a_rewind_leaves_a_row_that_moved_alone_as_a_whole() {
    let tables = "CREATE TABLE parts (region text, id int, v text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
        CREATE TABLE parts_n PARTITION OF parts FOR VALUES IN ('n'); CREATE TABLE parts_s PARTITION OF parts FOR VALUES IN ('s');
        CREATE TABLE child (id int PRIMARY KEY, region text, part int, FOREIGN KEY (region, part) REFERENCES parts);
        INSERT INTO parts SELECT 'n', g, 'v' FROM generate_series(1, 4) g";
    let rows = "SELECT string_agg(region || id || ' ' || v, ', ' ORDER BY id, region) FROM parts";
    while_captured(&Server::shared(None), tables, |scene| {
        scene.mark("good");
        scene.psql("UPDATE parts SET region = 's' WHERE id <= 2; UPDATE parts SET v = 'w' WHERE id = 4");
        scene.psql("UPDATE parts SET v = 'later' WHERE id = 1; INSERT INTO child VALUES (1, 's', 1)");
        // A partitioned table's key is that of each partition.
        scene.rewind(&["--to", "mark:good", "--key", "parts=region=s,id=2", "--key", "parts=region=n,id=2"]);
        assert_eq!(scene.psql(rows), "s1 later, n2 v, n3 v, n4 w");
        scene.psql("UPDATE parts SET region = 's' WHERE id = 2");
        scene.rewind(&["--to", "mark:good", "--table", "parts", "--conflicts", "skip"]);
        assert_eq!(scene.psql(rows), "s1 later, s2 v, n3 v, n4 v");
    });
}
