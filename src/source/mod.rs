//! Where changes come from: a PostgreSQL server, read through its catalogs, snapshots and stream.

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

/// How often, in milliseconds, a server at work looks whether anybody still waits for its answer; else what was
/// killed here would go on there.
const LOOK_AFTER_MS: u32 = 500;
