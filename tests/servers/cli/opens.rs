//! A command opens a segment of the journal once, however many questions it asks of it: to open one that is still
//! written to means to read all of it, and two looks at a segment that grows would be two answers.

use std::collections::BTreeMap;

use crate::support::{Backwhen, Server};

/// How often the command opened each segment, by the name that the segment has in either form.
fn opens(backwhen: &Backwhen, arguments: &[&str]) -> BTreeMap<String, usize> {
    let output = backwhen.run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}{}", output.stdout, output.stderr);
    let mut opens = BTreeMap::new();
    for (_, path) in output.stderr.lines().filter_map(|line| line.split_once(" opened ")) {
        let name = path.rsplit('/').next().unwrap_or_default();
        let stem = name.split('.').next().unwrap_or_default().to_owned();
        *opens.entry(stem).or_insert(0) += 1;
    }
    opens
}

fn assert_opened_once(backwhen: &Backwhen, arguments: &[&str]) {
    let opens = opens(backwhen, arguments);
    assert!(!opens.is_empty(), "{arguments:?} reads the journal");
    assert!(opens.values().all(|times| *times == 1), "{arguments:?} opened {opens:?}");
}

/// A history with schema changes and marks in several sealed segments and one that is written to, and with a
/// checkpoint between them.
fn history(server: &Server) -> Backwhen {
    let database = server.fresh_database("opens");
    server.psql(&database, "CREATE TABLE t (n int PRIMARY KEY, words text)");
    let backwhen = Backwhen::new(server, &database)
        .with_env("BACKWHEN_TEST_ROLL_AT", "65536")
        .with_env("BACKWHEN_LOG", "backwhen=warn,backwhen::history::journal=trace");
    backwhen.init();
    for round in 0..4 {
        let numbers = format!("generate_series({round}001, {round}500) n");
        server.psql(&database, &format!("INSERT INTO t SELECT n, repeat('{round}', 200) FROM {numbers}"));
        server.psql(&database, &format!("ALTER TABLE t ADD COLUMN c{round} int"));
        server.psql(&database, &format!("UPDATE t SET c{round} = n WHERE n % 7 = 0"));
        backwhen.ok(&["mark", &format!("round-{round}")]);
        backwhen.ok(&["capture", "--until", "caught-up"]);
        if round == 1 {
            backwhen.ok(&["checkpoint"]);
        }
    }
    let segments = backwhen.json_lines(&["list", "segments"]);
    assert!(segments.len() > 3, "{segments:?}");
    backwhen
}

#[test]
fn a_command_opens_no_segment_twice() {
    let server = Server::shared(None);
    let backwhen = history(&server);
    let moment = &backwhen.json(&["recover", "--to", "mark:round-2", "--dry-run"])["moment"];
    let text = |field: &str| moment[field].as_str().unwrap_or_default().to_owned();
    let checkpoint = backwhen.json_lines(&["list", "checkpoints"]).pop().unwrap();
    let moments = [
        "latest".to_owned(),
        text("lsn"),
        text("time"),
        format!("xid:{}", moment["xid"]),
        "mark:round-3".to_owned(),
        format!("checkpoint:{}", checkpoint["id"].as_str().unwrap()),
    ];
    for (number, moment) in moments.iter().enumerate() {
        assert_opened_once(&backwhen, &["recover", "--to", moment, "--dry-run"]);
        let into = server.conninfo(&format!("opens_{number}_{}", backwhen.database()));
        assert_opened_once(&backwhen, &["recover", "--to", moment, "--create", "--into", &into]);
    }
    assert_opened_once(&backwhen, &["recover", "--to", "mark:round-1", "--before", "--dry-run"]);
    assert_opened_once(&backwhen, &["show", "schema", "--at", "latest"]);
    assert_opened_once(&backwhen, &["log", "--where", "n < 3000"]);
    assert_opened_once(&backwhen, &["show", &format!("xid:{}", moment["xid"])]);
    assert_opened_once(&backwhen, &["row", "t", "1007"]);
    assert_opened_once(&backwhen, &["diff", "mark:round-0", "latest"]);
    assert_opened_once(&backwhen, &["status"]);
    assert_opened_once(&backwhen, &["list", "schemas"]);
    assert_opened_once(&backwhen, &["verify", "--prove"]);
    let mut capture = backwhen.spawn_capture();
    capture.wait_caught_up();
    assert_opened_once(&backwhen, &["check", "--against-source"]);
    server.psql(backwhen.database(), "DELETE FROM t WHERE n < 100");
    backwhen.ok(&["mark", "deleted"]);
    assert_opened_once(&backwhen, &["resync"]);
    assert_opened_once(&backwhen, &["checkpoint"]);
}
