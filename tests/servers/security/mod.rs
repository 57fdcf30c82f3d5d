//! Attacks on the source, the history and the recovering machine: each is run, and nothing may be gained by it.

mod access;
mod forgery;
mod images;
mod keyed;
mod leftover;
mod lending;
mod links;
mod load;
mod mallory;
mod messages;
mod outlets;
mod passwords;
mod replay;
mod scripts;
mod shell;
mod source;

/// The end of the log, after which definitions change again.
fn head_before_others(server: &crate::support::Server, database: &str) -> String {
    server.psql(database, "SELECT pg_current_wal_insert_lsn(); CREATE SCHEMA later; DROP SCHEMA later")
}
