//! A database whose definitions change under capture comes back, with its schema, as it was after any
//! of those changes: between them, in bursts of them, and where capture was down when they were made.
//!
//! `BACKWHEN_TEST_SEED` replays a seed that a failure printed; `BACKWHEN_DEFINITION_STEPS` is the number
//! of steps that are told, and so the length of the test. By default one seed is told, so that a change
//! is judged by what it changed; `make soak` tells new ones without end.

mod digests;
mod families;
mod telling;

use std::sync::Mutex;

use crate::support::{Backwhen, Dump, Part, Server, assert_same, compare, number_from};
use telling::{Remembered, Telling};

const STEPS: usize = 36;
const SEED: u64 = 594_964_518;

#[test]
fn every_moment_between_two_changes_comes_back() {
    let steps = number_from("BACKWHEN_DEFINITION_STEPS").unwrap_or(STEPS as u64) as usize;
    let seed = number_from("BACKWHEN_TEST_SEED").unwrap_or(SEED);
    let major = crate::support::Server::shared(None).major();
    eprintln!("PostgreSQL {major}; again with: BACKWHEN_TEST_SEED={seed} BACKWHEN_DEFINITION_STEPS={steps}");
    let telling = Telling::tell(seed, steps);
    let wanted = Mutex::new(telling.remembered.iter());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let next = wanted.lock().unwrap().next();
                    let Some(moment) = next else { return };
                    assert_comes_back(&telling, moment);
                }
            });
        }
    });
    telling.backwhen.ok(&["checkpoint"]);
    telling.backwhen.ok(&["verify", "--prove"]);
}

/// The source tells a long text once, not with each of its statements.
#[test]
fn what_one_long_message_made_comes_back() {
    let server = Server::shared(None);
    let database = server.fresh_database("long");
    let backwhen = Backwhen::new(&server, &database);
    backwhen.init();
    let comment = "-- a comment that makes the message long\n".repeat(2000);
    let script = format!(
        "CREATE TABLE first (id int PRIMARY KEY); {comment}
         CREATE INDEX ON first (id, id); INSERT INTO first VALUES (1); CREATE VIEW second AS SELECT id FROM first"
    );
    server.client("psql", &database, &["-qX", "-v", "ON_ERROR_STOP=1", "-c", &script], "");
    let lsn = server.psql(&database, "SELECT pg_current_wal_insert_lsn()");
    let truth = Dump::of(&server, &database);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let target = server.fresh_database("recovered");
    let report = backwhen.json(&["recover", "--to", &lsn, "--into", &server.conninfo(&target)]);
    assert_eq!(report["inexact"], serde_json::json!([]));
    assert_same(&truth, &Dump::of(&server, &target));
}

fn assert_comes_back(telling: &Telling, moment: &Remembered) {
    let (report, recovered) = telling.recover(&moment.lsn);
    assert_eq!(report["proved"], true, "{}: {report}", moment.after);
    // Of a table without a key the stream tells only inserts, and the stories only insert.
    // A sequence that a later step drops has no sample after the moment.
    let harmless = [
        "has no replica identity",
        "foreign table: only its definition is kept",
        "was set back or dropped after this moment",
    ];
    let inexact = report["inexact"].as_array().expect("a list").iter();
    let inexact: Vec<_> = inexact
        .filter(|it| !harmless.iter().any(|why| it["why"].as_str().expect("a reason").starts_with(why)))
        .collect();
    assert!(inexact.is_empty(), "after {}: {inexact:?}", moment.after);
    let mut differences = compare(&moment.truth, &recovered);
    // Only a sample at the moment itself tells where a sequence stood.
    differences.retain(|it| it.part != Part::Sequence || moment.marked);
    assert_eq!(differences, [], "after {} at {}: {report}", moment.after, moment.lsn);
}
