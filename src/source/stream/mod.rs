//! The replication connection: slots, and the stream of changes that a slot gives.
//!
//! Written on `postgres-protocol`, since `tokio_postgres` knows neither the replication startup nor
//! the both-ways copy mode. See PostgreSQL's "Streaming Replication Protocol".

mod client;
mod fault;
mod login;
mod peek;
mod receive;
mod slot;
mod wire;

pub use client::{Backend, ReplicationClient, SystemIdentity};
pub use fault::StreamFault;
pub(in crate::source) use login::{WHO_SERVES, who_serves};
pub use peek::{Batch, Fetched, SlotPosition};
pub use receive::{ReplicationStream, StreamMessage};
pub use slot::CreatedSlot;
