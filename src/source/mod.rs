//! Where changes come from: a PostgreSQL server, read through its catalogs, snapshots and stream.

pub mod digests;
pub mod inspect;
pub mod preflight;
pub mod publication;
pub mod sequences;
pub mod snapshot;
pub mod stream;
pub mod triggers;
