//! The replication connection: slots, and the stream of changes of a slot.
//!
//! This module is written on `postgres-protocol`, since `tokio_postgres` knows neither the replication startup nor the
//! CopyBoth mode. See "Streaming Replication Protocol" in PostgreSQL's documentation.

mod client;
mod fault;
mod login;
mod peek;
mod receive;
mod slot;
mod wire;

pub use client::{Backend, ReplicationClient, SystemIdentity};
pub use fault::StreamFault;
pub(in crate::source) use login::{SERVING_PROCESS, parse_serving_process};
pub use peek::{Batch, BatchItem, SlotPosition};
pub use receive::{ReplicationStream, StreamMessage};
pub use slot::CreatedSlot;
