//! The source of the changes: a PostgreSQL server, read through its catalogs, its snapshots and the replication stream.

pub mod blocker;
pub mod digests;
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
pub mod triggers;

/// How often, in milliseconds, a server process checks whether its client is still connected. Without the check, the
/// work of a backwhen that was killed would go on at the server.
const CONNECTION_CHECK_MS: u32 = 500;
