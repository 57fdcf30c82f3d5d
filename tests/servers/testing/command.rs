//! `rewind --reset`

use super::{DROPPED, MADE, ROWS, SEEDED, assert_reset};
use crate::support::{Backwhen, Capture, Dump, Server};

/// A database with seed data, under protection.
fn seeded(server: &Server) -> Backwhen {
    let database = server.fresh_database("testing");
    server.psql(&database, SEEDED);
    let backwhen = Backwhen::new(server, &database);
    backwhen.ok(&["init", "--full-identity", "--source", &backwhen.source()]);
    backwhen
}

/// Starts a capture, and marks the present state as `seeded`.
fn marked(backwhen: &Backwhen) -> Capture<'_> {
    let mut capture = backwhen.spawn_capture();
    capture.wait_streaming();
    backwhen.ok(&["mark", "seeded"]);
    capture
}

#[test]
fn a_reset_puts_back_rows_sequences_and_what_was_made() {
    let server = Server::shared(None);
    let backwhen = seeded(&server);
    let database = backwhen.database();
    let psql = |sql: &str| server.psql(database, sql);
    let capture = marked(&backwhen);
    let seeded = Dump::of(&server, database);
    let reset = ["rewind", "--to", "mark:seeded", "--reset"];
    let apply = [&reset[..], &["--apply"]].concat();

    psql(ROWS);
    let report = backwhen.json(&apply);
    assert_eq!(
        (&report["applied"], &report["definitions"]),
        (&true.into(), &serde_json::json!([])),
        "{report}"
    );
    assert_eq!(report["sequences"], 1, "{report}");
    assert_reset(&seeded, &server, database);

    psql(MADE);
    psql(ROWS);
    let before = Dump::of(&server, database);
    let plan = backwhen.ok(&reset);
    for line in [
        "DROP SCHEMA IF EXISTS extra CASCADE",
        "ALTER TABLE public.orders DROP COLUMN IF EXISTS paid CASCADE",
    ] {
        assert!(plan.contains(&format!("schema    {line}")), "{plan}");
    }
    assert!(plan.contains("nothing was changed yet"), "{plan}");
    assert_reset(&before, &server, database);
    backwhen.ok(&apply);
    assert_reset(&seeded, &server, database);

    psql(DROPPED);
    let before = Dump::of(&server, database);
    let refused = backwhen.fails(14, &apply);
    assert!(refused.contains("table public.orders") && refused.contains("backwhen recover"), "{refused}");
    assert_reset(&before, &server, database);
    let usage = backwhen.fails(2, &["rewind", "--to", "latest", "--reset"]);
    assert!(usage.contains("mark:NAME"), "{usage}");
    capture.stop();
}

/// A mark set at once after a change of the schema: nobody has digested the definitions yet.
#[test]
fn without_known_definitions_at_the_mark_the_reset_says_what_to_do() {
    let server = Server::shared(None);
    let database = server.fresh_database("testing");
    server.psql(&database, "CREATE TABLE t (id int PRIMARY KEY)");
    let backwhen = Backwhen::new(&server, &database);
    backwhen.init();
    // No heartbeat digests the definitions within this test.
    let mut capture = backwhen.spawn_capture_with(&["--heartbeat", "1h"]);
    capture.wait_streaming();
    server.psql(&database, "CREATE TABLE u (id int PRIMARY KEY)");
    backwhen.ok(&["mark", "early"]);
    let refused = backwhen.fails(14, &["rewind", "--to", "mark:early", "--reset", "--apply"]);
    assert!(refused.contains("backwhen checkpoint --from-source"), "{refused}");
    backwhen.ok(&["checkpoint", "--from-source"]);
    backwhen.ok(&["mark", "later"]);
    server.psql(&database, "CREATE TABLE v (id int PRIMARY KEY); INSERT INTO u VALUES (1)");
    backwhen.ok(&["rewind", "--to", "mark:later", "--reset", "--apply"]);
    assert_eq!(server.psql(&database, "SELECT to_regclass('v') IS NULL, count(*) FROM u"), "t|0");
    capture.stop();
}

/// A reset has two transactions: the first drops the objects that were made, the second puts the rows back.
#[test]
fn a_reset_that_was_killed_is_completed_by_the_next() {
    let server = Server::shared(None);
    let backwhen = seeded(&server);
    let database = backwhen.database();
    let capture = marked(&backwhen);
    let seeded = Dump::of(&server, database);
    let apply = ["rewind", "--to", "mark:seeded", "--reset", "--apply"];
    for point in ["rewind.locked", "rewind.committed"] {
        server.psql(database, MADE);
        server.psql(database, ROWS);
        backwhen.dies(point, &apply);
        backwhen.ok(&apply);
        assert_reset(&seeded, &server, database);
    }
    capture.stop();
}
