//! The source of the changes: a PostgreSQL server, read through its catalogs, its snapshots and the replication stream.

pub mod amend;
pub mod blocker;
pub mod digests;
pub mod identity;
pub mod inspect;
pub mod liveness;
pub mod messages;
pub mod preflight;
pub mod process;
pub mod publication;
pub mod sequences;
pub mod slot;
pub mod snapshot;
pub mod stream;
pub mod traces;
pub mod triggers;
