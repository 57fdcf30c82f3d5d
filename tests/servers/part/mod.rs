//! A part of the rows is recovered: those that meet a condition, and the rows to which they refer.

pub mod beside;
mod except;
mod random;
mod rows;
mod without;

use serde_json::Value;

use crate::support::{Backwhen, Server};

/// A history of a database that `sql` made and `later` changed.
fn protected(server: &Server, sql: &str, later: &str) -> Backwhen {
    let database = server.fresh_database("part");
    server.psql(&database, sql);
    let backwhen = Backwhen::new(server, &database);
    backwhen.init();
    server.psql(&database, later);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    backwhen
}

/// Recovers the latest moment into a new database; returns its name and the report.
fn recover(backwhen: &Backwhen, further: &[&str]) -> (String, Value) {
    let database = format!("{}_new", backwhen.server().fresh_database("part"));
    let into = backwhen.server().conninfo(&database);
    let all = [&["recover", "--to", "latest", "--create", "--into", &into], further].concat();
    (database, backwhen.json(&all))
}

/// The table's rows and those that were left out, as the report tells.
fn part_of(report: &Value, table: &str) -> (u64, u64) {
    let part = report["part"].as_array().unwrap().iter().find(|it| it["table"] == table);
    let part = part.unwrap_or_else(|| panic!("no {table} in {report}"));
    (part["rows"].as_u64().unwrap(), part["left_out"].as_u64().unwrap())
}

/// Every foreign key of a database is there, and is checked anew by the server.
pub fn assert_keys_hold(server: &Server, database: &str, count: usize) {
    let keys = server.psql(
        database,
        "SELECT format('ALTER TABLE %s DROP CONSTRAINT %I; ALTER TABLE %1$s ADD CONSTRAINT %2$I %s', conrelid::regclass, conname,
                       pg_get_constraintdef(oid)) FROM pg_constraint WHERE contype = 'f' AND conparentid = 0 AND convalidated",
    );
    assert_eq!(keys.lines().count(), count, "{keys}");
    keys.lines().for_each(|key| drop(server.psql(database, key)));
}
