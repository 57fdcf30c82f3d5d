//! `rewind` and `undo`: the live database put right in place.

mod except;
mod parts;
mod patience;
mod random;
mod reads;
mod reshaped;
mod rewind;
pub mod safety;
mod swaps;
mod traps;
mod undo;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::{Backwhen, Dump, Part, Server, compare, on_oldest_and_newest};

/// A database under protection, with a capture that runs.
struct Scene {
    backwhen: Backwhen,
}

/// Runs a test on a database that `sql` made, while a capture follows it.
fn while_captured(server: &Server, sql: &str, test: impl FnOnce(&Scene)) {
    let database = server.fresh_database("live");
    server.psql(&database, sql);
    while_captured_in(server, &database, test);
}

fn while_captured_in(server: &Server, database: &str, test: impl FnOnce(&Scene)) {
    let backwhen = Backwhen::new(server, database);
    backwhen.init();
    let scene = Scene { backwhen };
    let mut capture = scene.backwhen.spawn_capture();
    capture.wait_streaming();
    test(&scene);
    capture.stop();
}

impl Scene {
    fn psql(&self, sql: &str) -> String {
        self.backwhen.server().psql(self.backwhen.database(), sql)
    }

    /// Runs statements in one transaction; returns its number.
    fn transaction(&self, sql: &str) -> u32 {
        let text = self.psql(&format!("BEGIN; SELECT pg_current_xact_id(); {sql}; COMMIT"));
        text.lines().next().and_then(|line| line.parse::<u64>().ok()).expect("a number comes first") as u32
    }

    fn mark(&self, name: &str) {
        self.backwhen.ok(&["mark", name]);
    }

    /// The database as it is now.
    fn dump(&self) -> Dump {
        Dump::of(self.backwhen.server(), self.backwhen.database())
    }

    fn rows(&self) -> BTreeMap<String, Vec<Vec<u8>>> {
        self.dump().rows
    }

    /// Runs `rewind` or `undo` with JSON; it must exit with `code`.
    fn amend(&self, code: i32, arguments: &[&str]) -> Value {
        let all = [arguments, &["--output", "json"]].concat();
        let output = self.backwhen.run(&all);
        assert_eq!(output.status.code(), Some(code), "{all:?}: {}{}", output.stdout, output.stderr);
        let text = if output.stdout.is_empty() { &output.stderr } else { &output.stdout };
        serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{all:?}: {error} in {text}"))
    }

    fn rewind(&self, arguments: &[&str]) -> Value {
        let report = self.amend(0, &[&["rewind", "--apply"], arguments].concat());
        assert_eq!(report["applied"], true, "{report}");
        report
    }

    fn undo(&self, transactions: &str, arguments: &[&str]) -> Value {
        let report = self.amend(0, &[&["undo", transactions, "--apply"], arguments].concat());
        assert_eq!(report["applied"], true, "{report}");
        report
    }

    /// Takes back the transaction that a report tells of.
    fn undo_report(&self, report: &Value) -> Value {
        self.undo(&format!("xid:{}", report["xid"]), &[])
    }
}

/// The rows of both are the same. Sequences do not go back.
#[track_caller]
fn assert_rows(truth: &Dump, found: &Dump) {
    let differences = compare(truth, found);
    let differences: Vec<_> = differences.into_iter().filter(|it| it.part != Part::Sequence).collect();
    assert!(differences.is_empty(), "{differences:#?}");
}
