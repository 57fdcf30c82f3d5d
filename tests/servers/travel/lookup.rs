//! A row's history is looked up: only the blocks of the journal are read that may hold its changes.

use super::{Scene, WORK, on_oldest_and_newest};
use crate::support::{Backwhen, Server};

/// A scene whose segments are sealed when they are this large.
fn scene(server: &Server, sql: &str, roll_at: &str) -> Scene {
    let database = server.fresh_database("lookup");
    server.psql(&database, sql);
    let backwhen = Backwhen::new(server, &database)
        .with_env("BACKWHEN_TEST_ROLL_AT", roll_at)
        .with_env("BACKWHEN_LOG", "backwhen=warn,backwhen::history::journal=trace");
    backwhen.init();
    Scene { backwhen }
}

#[test]
fn one_row_among_many_changes_takes_a_part_of_the_journal() {
    let server = Server::shared(None);
    let table = "CREATE TABLE t (id int PRIMARY KEY, words text);
        INSERT INTO t SELECT g, 'at first' FROM generate_series(1, 60000) g;";
    let scene = scene(&server, &format!("{table}{WORK}"), "8192");
    scene.psql("CALL work(1, 500)");
    let changed = scene.transaction("UPDATE t SET words = 'changed' WHERE id = 30000");
    scene.psql("CALL work(1, 30)");
    scene.drain();
    let journal = scene.backwhen.journal_bytes();
    for arguments in [&["row", "t", "30000"][..], &["row", "t", "59999"], &["log", "--key", "t=30000"]] {
        let read = scene.backwhen.bytes_read(arguments);
        assert!(read * 3 < journal, "{arguments:?} read {read} bytes of {journal}");
    }
    assert_eq!(scene.lines(&["row", "t", "30000"]).len(), 3);
    assert_eq!(scene.listed(&["--key", "t=30000"])[1], changed);
    let read = scene.backwhen.bytes_read(&["log", "--table", "t", "--min-rows", "2", "--op", "update"]);
    // The epoch of transaction numbers is read from one block.
    assert!(read * 3 < journal, "the counts tell it, and {read} bytes of {journal} were read");
    assert_eq!(scene.listed(&["--min-rows", "2"]).len(), 530);
}

#[test]
fn blocks_without_the_row_hide_nothing_that_concerns_it() {
    on_oldest_and_newest(|server| {
        let table =
            "CREATE TABLE t (id int PRIMARY KEY, words text); CREATE TYPE mood AS ENUM ('well', 'ill');
            CREATE TABLE other (id int PRIMARY KEY, feels mood); INSERT INTO other VALUES (1, 'well');
            INSERT INTO t SELECT g, 'at first' FROM generate_series(1, 5000) g;";
        let scene = scene(server, &format!("{table}{WORK}"), "4096");
        let mut steps = vec![];
        for statement in [
            "UPDATE t SET id = 7777 WHERE id = 42",
            "ALTER TABLE t ADD COLUMN more int DEFAULT 3",
            "UPDATE t SET words = 'as 7777' WHERE id = 7777",
            "ALTER TABLE t RENAME words TO w; ALTER TABLE t RENAME id TO words; ALTER TABLE t RENAME w TO id; \
             ALTER TABLE t RENAME id TO w; ALTER TABLE t RENAME words TO id; ALTER TABLE t RENAME w TO words",
            "ALTER TYPE mood RENAME VALUE 'well' TO 'fine'",
            "UPDATE other SET id = 2",
            "UPDATE t SET id = 42 WHERE id = 7777",
            "TRUNCATE t; INSERT INTO t SELECT g, 'anew' FROM generate_series(1, 5000) g",
            "ALTER TABLE t ALTER id TYPE bigint",
            "DELETE FROM t WHERE id = 42",
        ] {
            scene.psql("CALL work(1, 20)");
            steps.push(scene.transaction(statement));
        }
        scene.drain();
        let lines = scene.lines(&["row", "t", "42"]);
        let words: Vec<_> = lines.iter().map(|line| line["row"]["words"].as_str().unwrap_or("-")).collect();
        eprintln!("{words:?}");
        assert_eq!(words.first(), Some(&"at first"));
        assert!(words.contains(&"as 7777") && words.contains(&"anew"));
        let of_row = |step: usize| scene.listed(&["--key", "t=42"]).contains(&steps[step]);
        assert!([0, 6, 7, 9].into_iter().all(of_row));
        let other = scene.lines(&["row", "other", "2"]);
        let feels: Vec<_> = other.iter().map(|line| line["row"]["feels"].as_str().unwrap_or("-")).collect();
        assert_eq!(feels, ["well", "fine", "fine"]);
        // Counts and rows must agree. A condition that every row meets makes `log` read the rows.
        let counted = scene.lines(&["log", "--table", "t", "--op", "update"]);
        let read = scene.lines(&["log", "--table", "t", "--op", "update", "--where", "id > 0"]);
        assert_eq!(counted.len(), read.len());
    });
}

#[test]
fn one_transaction_of_many_blocks_is_read_in_part() {
    let server = Server::shared(None);
    let scene = scene(&server, "CREATE TABLE t (id int PRIMARY KEY, words text)", "65536");
    let rows = "SELECT g, md5(g::text) || md5('-' || g) FROM generate_series(1, 400000) g";
    let large = scene.transaction(&format!("INSERT INTO t {rows}"));
    let small = scene.transaction("UPDATE t SET words = 'small' WHERE id = 100000");
    scene.drain();
    let journal = scene.backwhen.journal_bytes();
    let read = scene.backwhen.bytes_read(&["row", "t", "100000"]);
    assert!(read * 3 < journal, "{read} bytes of {journal}");
    let lines = scene.lines(&["row", "t", "100000"]);
    let from: Vec<_> = lines.iter().map(|line| format!("xid:{}", line["from"]["xid"])).collect();
    assert_eq!(from, [large.clone(), small.clone()]);
    assert_eq!(scene.listed(&["--key", "t=100000"]), [large, small]);
}
