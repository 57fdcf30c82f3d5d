//! Questions about the rows that have a key: how much of the journal they read, and rows of partitioned tables.

use super::{Scene, WORK};
use crate::support::{Backwhen, Server};

/// Sealed segments of many small blocks, as a long journal has many large ones.
const SMALL: [(&str, &str); 3] = [
    ("BACKWHEN_TEST_ROLL_AT", "131072"),
    ("BACKWHEN_TEST_SEALED_BLOCK", "2048"),
    ("BACKWHEN_LOG", "backwhen=warn,backwhen::history::journal=trace"),
];

#[test]
fn the_history_of_one_row_takes_less_than_a_hundredth_of_the_journal() {
    let server = Server::shared(None);
    let database = server.fresh_database("hundredth");
    server.psql(
        &database,
        &format!(
            "CREATE TABLE t (id int PRIMARY KEY, words text); {WORK}
             INSERT INTO t SELECT g, 'at first' FROM generate_series(1, 50000) g"
        ),
    );
    let with_setting = |backwhen: Backwhen, (name, value): (&str, &str)| backwhen.with_env(name, value);
    let backwhen = SMALL.into_iter().fold(Backwhen::new(&server, &database), with_setting);
    backwhen.init();
    let scene = Scene { backwhen };
    scene.psql("CALL work(1, 399)");
    scene.transaction("UPDATE t SET words = 'changed' WHERE id = 20000");
    let middle = scene.transaction("UPDATE t SET words = 'not asked for' WHERE id = 50");
    scene.psql("CALL work(400, 450)");
    let moved = scene.transaction("UPDATE t SET id = 77777 WHERE id = 20010");
    scene.psql("CALL work(450, 470)");
    scene.drain();
    let journal = scene.backwhen.journal_bytes();

    // Each change lies in one block of more than a thousand, and so does the heartbeat that tells the epoch of the
    // transactions' numbers. The filters are wrong about one block of 4096, so a handful would have to be read for nothing.
    for arguments in [
        &["row", "t", "20000"][..],
        &["row", "t", "999999"],
        &["log", "--key", "t=20000"],
        &["row", "t", "20000", "--since", &middle],
        &["log", "--key", "t=20000", "--since", &middle],
    ] {
        let read = scene.backwhen.bytes_read(arguments);
        assert!(read * 100 < journal, "{arguments:?} read {read} bytes of {journal}");
    }
    let words = |arguments: &[&str]| -> Vec<_> {
        let lines = scene.lines(arguments);
        lines.iter().map(|line| line["row"]["words"].as_str().unwrap().to_owned()).collect()
    };
    let worked = server.psql(&database, "SELECT md5('200' || 20000)");
    assert_eq!(words(&["row", "t", "20000"]), ["at first", &worked, "changed"]);
    assert_eq!(words(&["row", "t", "20000", "--since", &middle]), ["changed"]);
    assert_eq!(scene.listed(&["--key", "t=20000"]).len(), 2);
    // The row had another key before the moment from which it is asked for.
    let of_moved = words(&["row", "t", "77777", "--since", &moved]);
    assert_eq!(of_moved, [server.psql(&database, "SELECT words FROM t WHERE id = 77777")]);
}

#[test]
fn a_key_of_a_partitioned_table_is_looked_for_in_each_partition() {
    let server = Server::shared(None);
    let scene = Scene::new(
        &server,
        "CREATE TABLE measures (site int, id int, v text, PRIMARY KEY (site, id)) PARTITION BY RANGE (id);
        CREATE TABLE low PARTITION OF measures FOR VALUES FROM (0) TO (100);
        CREATE TABLE high PARTITION OF measures FOR VALUES FROM (100) TO (1000) PARTITION BY LIST (site);
        CREATE TABLE high_one PARTITION OF high FOR VALUES IN (1);
        CREATE TABLE high_two PARTITION OF high FOR VALUES IN (2);
        CREATE TABLE other (id int PRIMARY KEY);
        INSERT INTO measures SELECT 1 + n % 2, n, 'v' || n FROM generate_series(1, 150) n;",
    );
    let low = scene.transaction("UPDATE measures SET v = 'low' WHERE id = 3");
    scene.transaction("UPDATE measures SET v = 'another' WHERE id = 4; INSERT INTO other VALUES (3)");
    let high = scene.transaction("UPDATE measures SET v = 'high' WHERE id = 120");
    let moved = scene.transaction("UPDATE measures SET site = 2 WHERE id = 120");
    scene.drain();
    assert_eq!(scene.listed(&["--key", "measures=site=2,id=3"]), std::slice::from_ref(&low));
    assert_eq!(scene.listed(&["--key", "low=site=2,id=3"]), [low]);
    assert_eq!(scene.listed(&["--key", "measures=site=1,id=120"]), [high, moved.clone()]);
    assert_eq!(scene.listed(&["--key", "measures=site=2,id=120"]), std::slice::from_ref(&moved));
    assert_eq!(scene.listed(&["--key", "high=site=2,id=120"]), [moved]);
    assert_eq!(scene.listed(&["--key", "high=site=2,id=3"]), [] as [String; 0]);
    scene.backwhen.fails(2, &["log", "--key", "measures=3"]);
}
