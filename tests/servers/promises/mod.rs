//! The promises that the README makes, a file for each, with tests that fail where one is broken.

mod apart;
mod durable;
mod graded;
mod mended;
mod once;
mod prefix;
mod proved;
mod refused;
mod roles;
mod said;
mod whole;

use crate::support::{Dump, Server};

/// What a recovery into a new database gives, which is then dropped.
fn recovered(backwhen: &crate::support::Backwhen, server: &Server, to: &[&str]) -> (serde_json::Value, Dump) {
    let database = server.fresh_database("recovered");
    let target = server.conninfo(&database);
    let report = backwhen.json(&[&["recover", "--into", &target], to].concat());
    let dump = Dump::of(server, &database);
    server.psql("postgres", &format!("DROP DATABASE {database}"));
    (report, dump)
}

/// The server's clock, as `--to` takes it.
fn now(server: &Server) -> String {
    let sql = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    server.psql("postgres", sql)
}

/// The end of the server's log.
fn head(server: &Server) -> String {
    server.psql("postgres", "SELECT pg_current_wal_insert_lsn()")
}
