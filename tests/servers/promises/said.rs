//! 6. What cannot be recovered exactly is said, before and after, by name: never a silent fallback to
//!    another moment.

use crate::promises::{head, now, recovered};
use crate::support::{Backwhen, Server, wait_for};

fn protected(name: &str, schema: &str) -> (Server, Backwhen) {
    protected_where(name, schema, |backwhen| backwhen)
}

fn protected_where(name: &str, schema: &str, how: impl FnOnce(Backwhen) -> Backwhen) -> (Server, Backwhen) {
    let server = Server::shared(None);
    let database = server.fresh_database(name);
    server.psql(&database, schema);
    let backwhen = how(Backwhen::new(&server, &database));
    backwhen.init();
    (server, backwhen)
}

/// What the plan and the report say of it, which must agree on the names.
fn inexact(backwhen: &Backwhen, to: &str) -> Vec<(String, String)> {
    let read = |report: &serde_json::Value| -> Vec<(String, String)> {
        let list = report["inexact"].as_array().unwrap_or_else(|| panic!("no list: {report}")).iter();
        let text = |it: &serde_json::Value, key: &str| it[key].as_str().expect("a text").to_owned();
        list.map(|it| (text(it, "what"), text(it, "why"))).collect()
    };
    let into = backwhen.server().fresh_database("said");
    let target = backwhen.server().conninfo(&into);
    let planned = read(&backwhen.json(&["recover", "--dry-run", "--to", to, "--into", &target]));
    let done = read(&backwhen.json(&["recover", "--to", to, "--into", &target]));
    for (what, why) in &planned {
        assert!(done.iter().any(|(name, _)| name == what), "planned, not reported: {what}: {why}");
    }
    done
}

#[track_caller]
fn assert_says(said: &[(String, String)], what: &str, why: &str) {
    let found = said.iter().any(|(name, text)| name == what && text.contains(why));
    assert!(found, "nothing says of {what} that … {why} …: {said:#?}");
}

#[test]
fn a_schema_that_changed_since_its_checkpoint_is_named() {
    let schema =
        "CREATE TABLE added (id int PRIMARY KEY); CREATE TABLE dropped (id int PRIMARY KEY, old text);
        CREATE TABLE renamed (id int PRIMARY KEY); CREATE TABLE retyped (id int PRIMARY KEY, n int);
        CREATE TABLE same (id int PRIMARY KEY)";
    // With event triggers all of this comes back exactly.
    let (server, backwhen) =
        protected_where("changed", schema, |it| it.with_env("BACKWHEN_NO_EVENT_TRIGGERS", "true"));
    let database = backwhen.database();
    server.psql(
        database,
        "ALTER TABLE added ADD COLUMN extra text; INSERT INTO added VALUES (1, 'x');
         ALTER TABLE dropped DROP COLUMN old; INSERT INTO dropped VALUES (1);
         ALTER TABLE renamed RENAME TO other; INSERT INTO other VALUES (1);
         ALTER TABLE retyped ALTER n TYPE bigint; INSERT INTO retyped VALUES (1, 1);
         INSERT INTO same VALUES (1)",
    );
    // Before anything of ours could look at the new schema.
    let then = head(&server);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let said = inexact(&backwhen, &then);
    assert_says(&said, "public.added", "column extra added");
    assert_says(&said, "public.dropped", "column old dropped");
    assert_says(&said, "public.renamed", "renamed to public.other");
    assert_says(&said, "public.retyped", "column n changed its type");
    assert!(said.iter().all(|(what, _)| what != "public.same"), "{said:#?}");
    assert_eq!(inexact(&backwhen, "latest"), [], "capture takes the new schema in");
}

#[test]
fn what_the_stream_does_not_carry_is_named() {
    let schema = "CREATE TABLE keyless (n int); CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY);
        CREATE TABLE exact (id int PRIMARY KEY); SELECT lo_from_bytea(0, 'large')";
    let (server, backwhen) = protected("carried", schema);
    server.psql(backwhen.database(), "INSERT INTO keyless VALUES (1); INSERT INTO exact VALUES (1)");
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let said = inexact(&backwhen, "latest");
    assert_says(&said, "public.keyless", "updates and deletes");
    assert_says(&said, "public.unlogged", "only its definition");
    assert_says(&said, "large objects", "as of");
    assert_eq!(said.len(), 3, "{said:#?}");
}

#[test]
fn a_moment_that_is_not_held_is_refused_with_the_window() {
    let server = Server::shared(None);
    let too_early = now(&server);
    let (server, backwhen) = protected("outside", "CREATE TABLE t (id int PRIMARY KEY)");
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let window = backwhen.json(&["status"])["window"].clone();
    let earliest = window["earliest"]["time"].as_str().unwrap().to_owned();
    let too_late = now(&server);
    let moments =
        [&too_early, &too_late, "2100-01-01T00:00:00Z", "0/1", "FFFF/0", "xid:3", "mark:no", "checkpoint:no"];
    for moment in moments {
        let message = backwhen.fails(11, &["recover", "--to", moment, "--into", "sqlite:never"]);
        assert!(message.contains(&earliest), "{moment}: the window is not named: {message}");
    }
    assert!(!backwhen.folder().join("never").exists());
}

#[test]
fn a_gap_is_recorded_and_refused_and_both_sides_of_it_come_back() {
    let (server, backwhen) =
        protected("gap", "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    let database = backwhen.database();
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let before = backwhen.json(&["status"])["window"]["latest"]["time"].as_str().unwrap().to_owned();
    server.psql(database, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()");
    server.psql(database, "INSERT INTO t VALUES (2); INSERT INTO t VALUES (3)");
    let (inside, inside_lsn) = (now(&server), head(&server));
    server.psql(database, "INSERT INTO t VALUES (4)");

    let mut capture = backwhen.spawn_capture();
    capture.allow("continuity is lost").allow("a new epoch was begun");
    capture.wait_for_epoch(2);
    capture.wait_caught_up();
    capture.stop();
    let gaps = backwhen.json_lines(&["list", "gaps"]);
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert!(gaps[0]["cause"].as_str().unwrap().contains("is gone from the source"), "{gaps:?}");
    assert_eq!(backwhen.json(&["status"])["gaps"].as_array().unwrap().len(), 1);
    let end = |side: &str, what: &str| gaps[0][side][what].as_str().unwrap().to_owned();
    assert_eq!(end("from", "time"), before);
    let sides = ["from", "to"].map(|side| format!("{} ({})", end(side, "time"), end(side, "lsn")));
    let nearest = format!("recovered are {} before it and {} after it", sides[0], sides[1]);
    for moment in [&inside, &inside_lsn] {
        let message = backwhen.fails(11, &["recover", "--to", moment, "--into", "sqlite:never"]);
        assert!(message.contains("lies in a gap") && message.contains(&nearest), "{message}");
    }
    // Both ends themselves come back, by position and by time.
    for (side, rows) in [("from", 1), ("to", 4)] {
        for what in ["time", "lsn"] {
            let dump = recovered(&backwhen, &server, &["--to", &end(side, what)]).1;
            assert_eq!(dump.row_count(), rows, "{side} {what}");
        }
    }
    assert_eq!(recovered(&backwhen, &server, &["--to", &before]).1.row_count(), 1);
    assert_eq!(recovered(&backwhen, &server, &["--to", "latest"]).1.row_count(), 4);
}

/// A commit that waits for a standby is in the log, and nobody sees yet what it did: heartbeats meanwhile know
/// nothing of the sequence, though they are later.
#[test]
fn a_sequence_that_nobody_saw_yet_is_found_in_a_later_sample() {
    let server = Server::builder()
        .setting("synchronous_standby_names", "nobody")
        .setting("synchronous_commit", "local")
        .start();
    let database = server.fresh_database("unseen");
    let backwhen = Backwhen::new(&server, &database).with_env("BACKWHEN_HEARTBEAT", "100ms");
    backwhen.init();
    let mut capture = backwhen.spawn_capture();
    let beats = |count: u32| {
        let durable = || backwhen.json(&["status", "--offline"])["window"]["latest"]["lsn"].to_string();
        for _ in 0..count {
            let before = durable();
            wait_for("a heartbeat is durable", || durable() != before);
        }
    };
    let making = "BEGIN; SET LOCAL synchronous_commit = on;
        CREATE TABLE made (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, x int);
        INSERT INTO made (x) SELECT generate_series(1, 16); DELETE FROM made WHERE id > 3; COMMIT";
    std::thread::scope(|scope| {
        scope.spawn(|| server.psql(&database, making));
        capture.wait_until("the table is known", |_| !backwhen.json_lines(&["list", "schemas"]).is_empty());
        beats(4);
        server.psql(
            &database,
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'",
        );
    });
    beats(4);
    capture.wait_caught_up();
    capture.stop();
    let made = &backwhen.json_lines(&["list", "schemas"])[0];
    let moment = made["lsn"].as_str().expect("a position");
    let into = server.fresh_database("seen");
    backwhen.ok(&["recover", "--to", moment, "--into", &server.conninfo(&into)]);
    let sql = "SELECT (SELECT count(*) FROM made), nextval('made_id_seq') > 16";
    assert_eq!(server.psql(&into, sql), "3|t");
}

/// All samples are later than the renames, and tell of the sequences under names that they did not have yet.
#[test]
fn a_sequence_comes_back_under_the_name_that_it_had() {
    let (server, backwhen) = protected("named", "CREATE TABLE old (id serial PRIMARY KEY, x int)");
    let database = backwhen.database();
    server.psql(
        database,
        "CREATE TABLE young (id serial PRIMARY KEY, x int); CREATE SEQUENCE alone;
         INSERT INTO old (x) SELECT generate_series(1, 16); DELETE FROM old WHERE id > 3;
         INSERT INTO young (x) SELECT generate_series(1, 16); DELETE FROM young WHERE id > 3;
         SELECT nextval('alone') FROM generate_series(1, 16)",
    );
    let moment = head(&server);
    server.psql(
        database,
        "ALTER TABLE old RENAME TO ancient; ALTER SEQUENCE old_id_seq RENAME TO ancient_id_seq;
         CREATE SCHEMA other; ALTER TABLE young SET SCHEMA other; ALTER SEQUENCE alone SET SCHEMA other;
         ALTER SCHEMA other RENAME TO another",
    );
    let mut capture = backwhen.spawn_capture();
    // With a sample of the sequences: a capture may catch up, and be stopped, before its first heartbeat has one.
    backwhen.ok(&["mark", "sampled"]);
    capture.wait_until("the mark is held", |_| !backwhen.json_lines(&["list", "marks"]).is_empty());
    capture.stop();
    assert_eq!(inexact(&backwhen, &moment), []);
    let into = server.fresh_database("named_again");
    backwhen.ok(&["recover", "--to", &moment, "--into", &server.conninfo(&into)]);
    let next = "SELECT nextval('old_id_seq') > 16, nextval('young_id_seq') > 16, nextval('alone') > 16";
    assert_eq!(server.psql(&into, next), "t|t|t");

    // So it is from a folded checkpoint, whose definitions are still those of the first and the statements since.
    backwhen.ok(&["checkpoint"]);
    let (report, _) = recovered(&backwhen, &server, &["--to", "latest"]);
    assert_eq!(report["inexact"], serde_json::json!([]), "{report}");
}

/// Nothing is rewritten under UTC, and the text of every value becomes another one.
#[test]
fn a_column_that_was_retyped_without_a_rewrite_is_named_and_costs_no_row() {
    let (server, backwhen) = protected(
        "retyped",
        "CREATE TABLE t (id int PRIMARY KEY, at timestamp, net cidr); CREATE TABLE other (id int PRIMARY KEY);
         INSERT INTO t VALUES (1, '2024-01-01 10:00', '10.0.0.0/8'); INSERT INTO other VALUES (1)",
    );
    server.psql(
        backwhen.database(),
        "SET timezone = 'UTC'; ALTER TABLE t ALTER at TYPE timestamptz; ALTER TABLE t ALTER net TYPE inet; INSERT INTO other VALUES (2)",
    );
    let moment = head(&server);
    let into = server.fresh_database("retyped_again");
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let report = backwhen.json(&["recover", "--to", &moment, "--into", &server.conninfo(&into)]);
    let inexact = report["inexact"].to_string();
    assert!(inexact.contains("column at was given another type without a rewrite"), "{inexact}");
    assert_eq!(report["rows"], 3, "{report}");
    let rows = "SET timezone = 'UTC'; SELECT at, (SELECT count(*) FROM other) FROM t";
    assert_eq!(server.psql(&into, rows), "2024-01-01 10:00:00+00|2");
}

#[test]
fn a_column_that_a_replaced_function_computes_anew_is_named() {
    let (server, backwhen) = protected(
        "computed",
        "CREATE FUNCTION twice(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 2';
         CREATE FUNCTION same(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1';
         CREATE TABLE t (id int PRIMARY KEY, g int GENERATED ALWAYS AS (twice(id)) STORED, h int GENERATED ALWAYS AS (same(id)) STORED);
         INSERT INTO t VALUES (1)",
    );
    let before = head(&server);
    server.psql(
        backwhen.database(),
        "CREATE OR REPLACE FUNCTION twice(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 100'; INSERT INTO t VALUES (3)",
    );
    let replaced = head(&server);
    let mut capture = backwhen.spawn_capture();
    capture.wait_for_line("has the schema as it is now");
    capture.stop();
    let named = |to: &str| {
        let (report, _) = recovered(&backwhen, &server, &["--to", to]);
        let inexact = report["inexact"].as_array().unwrap().iter();
        let computed = inexact.filter(|it| it["why"].as_str().unwrap().contains("computed anew"));
        computed
            .map(|it| it["why"].as_str().unwrap().split(':').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(named(&before), [""; 0]);
    // The same holds from the checkpoint that knows only the new function.
    for to in [&replaced, "latest"] {
        assert_eq!(named(to), ["column g is computed anew"], "{to}");
    }
}
