//! Faults of a slot or a stream, for a caller that must act on them.

use std::{fmt, io};

use crate::connect::ServerFault;
use crate::error::{Error, Kind};

/// The cause of an error of the replication connection; [`StreamFault::of`] finds it in the error.
#[derive(Debug)]
pub enum StreamFault {
    /// Another connection streams from the slot; the caller waits for it.
    SlotActive {
        pid: Option<u32>,
        server: ServerFault,
    },
    /// There is no such slot: the history gets a gap.
    SlotMissing(ServerFault),
    /// The slot exists but cannot be streamed from, because it was invalidated or belongs to another database: the
    /// history gets a gap. `pg_replication_slots.wal_status` tells more.
    SlotUnusable(ServerFault),
    SlotExists(ServerFault),
    /// A publication did not exist at this position of the WAL. Up to version 17 the server ends the stream with an
    /// error; later versions warn and leave changes out.
    PublicationMissing(ServerFault),
    /// The creation of a slot waits for all running transactions, and one of them took too long.
    LockTimeout(ServerFault),
    /// The server reported another error.
    Server(ServerFault),
    /// The connection broke.
    Broken(io::Error),
    /// The server ended the stream in good order: it is being shut down.
    Ended,
}

/// The operation during which the server complained, since one SQLSTATE means different things in different operations.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Operation {
    CreateSlot,
    DropSlot,
    Start,
    Stream,
    /// Reading a batch by SQL. A fault that the stream too would meet comes again in the stream, with its own meaning
    /// there.
    Peek,
    Query,
}

impl StreamFault {
    /// Finds the fault that caused this error.
    pub fn of(error: &Error) -> Option<&StreamFault> {
        std::error::Error::source(error)?.downcast_ref()
    }

    /// Returns the server's SQLSTATE, if the server complained.
    pub fn sqlstate(&self) -> Option<&str> {
        self.server().map(|server| server.sqlstate.as_str())
    }

    fn server(&self) -> Option<&ServerFault> {
        match self {
            StreamFault::SlotActive { server, .. }
            | StreamFault::SlotMissing(server)
            | StreamFault::SlotUnusable(server)
            | StreamFault::SlotExists(server)
            | StreamFault::PublicationMissing(server)
            | StreamFault::LockTimeout(server)
            | StreamFault::Server(server) => Some(server),
            StreamFault::Broken(_) | StreamFault::Ended => None,
        }
    }

    pub(super) fn sort(server: ServerFault, operation: Operation) -> StreamFault {
        match (server.sqlstate.as_str(), operation) {
            ("55006", _) => StreamFault::SlotActive { pid: last_number(&server.message), server },
            ("42704", Operation::Start | Operation::DropSlot) => StreamFault::SlotMissing(server),
            ("42704", Operation::Stream) => StreamFault::PublicationMissing(server),
            // 58P01: the WAL that the slot needs has been removed.
            ("55000" | "58P01", Operation::Start | Operation::Stream) => StreamFault::SlotUnusable(server),
            ("42710", Operation::CreateSlot) => StreamFault::SlotExists(server),
            ("55P03", Operation::CreateSlot) => StreamFault::LockTimeout(server),
            _ => StreamFault::Server(server),
        }
    }

    /// Turns the fault into an error for a person. `place` is the database, `slot` the slot in question.
    pub(super) fn explain(self, place: &str, slot: Option<&str>) -> Error {
        let slot = slot.unwrap_or("?");
        let (kind, message) = match &self {
            StreamFault::SlotActive { pid: Some(pid), .. } => (
                Kind::Locked,
                format!(
                    "the slot {slot:?} at {place} is in use by the server process {pid}; wait for it, or end it with \
                     SELECT pg_terminate_backend({pid})"
                ),
            ),
            StreamFault::SlotActive { pid: None, .. } => {
                (Kind::Locked, format!("the slot {slot:?} at {place} is in use; wait until it is free"))
            }
            StreamFault::SlotMissing(_) => (
                Kind::Refused,
                format!(
                    "the slot {slot:?} is gone from {place}; what happened since is a gap in the history"
                ),
            ),
            StreamFault::SlotUnusable(_) => (
                Kind::Refused,
                format!(
                    "the slot {slot:?} at {place} cannot be streamed from; look at wal_status in \
                     pg_replication_slots, and at max_slot_wal_keep_size"
                ),
            ),
            StreamFault::SlotExists(_) => (
                Kind::Refused,
                format!("the slot {slot:?} exists at {place} already; drop it if no other history uses it"),
            ),
            StreamFault::PublicationMissing(_) => (
                Kind::Refused,
                format!(
                    "a publication that the slot {slot:?} at {place} is to stream does not exist; create it first"
                ),
            ),
            StreamFault::LockTimeout(_) => (
                Kind::Unavailable,
                format!(
                    "creating the slot {slot:?} at {place} waited too long for running transactions; look for the oldest \
                     in pg_stat_activity and pg_prepared_xacts, and try again once it has ended"
                ),
            ),
            StreamFault::Server(server) => {
                (server.kind(), format!("the replication connection to {place} failed"))
            }
            StreamFault::Broken(_) => {
                (Kind::Unavailable, format!("the replication connection to {place} broke; connect again"))
            }
            StreamFault::Ended => (
                Kind::Unavailable,
                format!("{place} ended the stream, as a server does that shuts down; connect again"),
            ),
        };
        Error::new(kind, message).caused_by(self)
    }
}

impl fmt::Display for StreamFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.server(), self) {
            (Some(server), _) => server.fmt(f),
            (None, StreamFault::Broken(error)) => error.fmt(f),
            (None, _) => f.write_str("the stream has ended"),
        }
    }
}

impl std::error::Error for StreamFault {}

/// Finds the process id in `replication slot "x" is active for PID 123`, whatever the language of the message.
fn last_number(message: &str) -> Option<u32> {
    let after_name = message.rsplit('"').next()?;
    after_name.split(|c: char| !c.is_ascii_digit()).rfind(|part| !part.is_empty())?.parse().ok()
}
