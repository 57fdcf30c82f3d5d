//! A rewind and an undo read what concerns their tables, not the journal.

use crate::support::{Backwhen, Server};

use super::Scene;

/// Traffic on another table, in many transactions.
const WORK: &str = "
CREATE TABLE busy (id int PRIMARY KEY, words text); INSERT INTO busy SELECT g, 'at first' FROM generate_series(1, 10000) g;
CREATE TABLE t (id int PRIMARY KEY, words text); INSERT INTO t SELECT g, 'at first' FROM generate_series(1, 1000) g;
CREATE PROCEDURE work(transactions int) LANGUAGE plpgsql AS $$ BEGIN
    FOR n IN 1..transactions LOOP
        UPDATE busy SET words = md5(n::text || id) WHERE id BETWEEN n % 100 * 100 + 1 AND n % 100 * 100 + 100;
        COMMIT;
    END LOOP;
END $$";

#[test]
fn traffic_on_other_tables_is_not_read() {
    let server = Server::shared(None);
    let database = server.fresh_database("reads");
    server.psql(&database, WORK);
    let backwhen = Backwhen::new(&server, &database)
        .with_env("BACKWHEN_TEST_ROLL_AT", "65536")
        .with_env("BACKWHEN_LOG", "backwhen=warn,backwhen::history::journal=trace");
    backwhen.init();
    let scene = Scene { backwhen };
    let mut capture = scene.backwhen.spawn_capture();
    capture.wait_streaming();
    let mut wrong = 0;
    for part in 0..6 {
        scene.psql("CALL work(100)");
        match part {
            // A schema change means that tables must be followed from the checkpoint on.
            1 => drop(scene.psql("ALTER TABLE t ADD COLUMN more int DEFAULT 3")),
            2 => scene.mark("good"),
            3 => wrong = scene.transaction("UPDATE t SET words = 'wrong', more = 4 WHERE id <= 100"),
            _ => {}
        }
    }
    capture.wait_caught_up();
    let journal = scene.backwhen.journal_bytes();
    let wrong = format!("xid:{wrong}");
    for question in [
        &["rewind", "--to", "mark:good", "--table", "t"][..],
        &["undo", &wrong],
        &["show", &wrong],
        &["diff", "mark:good", "latest", "--table", "t"],
    ] {
        let read = scene.backwhen.bytes_read(question);
        assert!(read * 4 < journal, "{question:?} read {read} bytes of {journal}");
    }
    scene.undo(&wrong, &[]);
    assert_eq!(scene.psql("SELECT count(*) FROM t WHERE words = 'at first' AND more = 3"), "1000");
    capture.stop();
}

/// A reader such as `head` has read all it wants when it goes away.
#[test]
fn a_list_ends_when_its_reader_goes_away() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    let server = Server::shared(None);
    let database = server.fresh_database("reads");
    server.psql(&database, WORK);
    let backwhen = Backwhen::new(&server, &database)
        .with_env("BACKWHEN_TEST_ROLL_AT", "8192")
        .with_env("BACKWHEN_LOG", "backwhen=warn,backwhen::history::journal=trace");
    backwhen.init();
    server.psql(&database, "CALL work(600)");
    backwhen.ok(&["capture", "--until", "caught-up"]);
    // With a condition, the rows are read; the list is longer than what a pipe holds.
    let list = ["log", "--where", "id > 0", "--output", "json"];
    let read = |text: &str| text.lines().filter(|line| line.contains(" reading ")).count();
    let all = read(&backwhen.run(&list).stderr);
    let mut command = backwhen.command(&list);
    let mut log = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::with_capacity(64, log.stdout.take().unwrap());
    let mut first = String::new();
    output.read_line(&mut first).unwrap();
    assert!(first.starts_with('{'), "{first}");
    drop(output);
    let ended = log.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success(), "{said}");
    assert!(read(&said) < all, "{} blocks were read of {all}", read(&said));
}
