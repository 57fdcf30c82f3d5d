//! What can go wrong with a slot or a stream, for a caller that must act on it.

use std::{fmt, io};

use crate::connect::ServerFault;
use crate::error::{Error, Kind};

/// The cause of an error of the replication connection; [`StreamFault::of`] finds it.
#[derive(Debug)]
pub enum StreamFault {
    /// Another connection streams from the slot: wait for it.
    SlotActive {
        pid: Option<u32>,
        server: ServerFault,
    },
    /// There is no such slot: a gap.
    SlotMissing(ServerFault),
    /// The slot exists and cannot be streamed from, for it was invalidated, or belongs to another
    /// database: a gap. `pg_replication_slots.wal_status` tells more.
    SlotUnusable(ServerFault),
    SlotExists(ServerFault),
    /// A publication did not exist at this point of the log. Up to version 17 the server ends the
    /// stream with an error, later it warns and leaves changes out.
    PublicationMissing(ServerFault),
    /// Creating a slot waits for all running transactions; one of them took too long.
    LockTimeout(ServerFault),
    /// The server said something else.
    Server(ServerFault),
    /// The connection broke.
    Broken(io::Error),
    /// The server ended the stream in good order: it is being shut down.
    Ended,
}

/// What was being done, since one SQLSTATE means different things.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Doing {
    CreateSlot,
    DropSlot,
    Start,
    Stream,
    /// What the stream would have done too comes again there, with its own meaning.
    Peek,
    Query,
}

impl StreamFault {
    /// The fault that caused this error.
    pub fn of(error: &Error) -> Option<&StreamFault> {
        std::error::Error::source(error)?.downcast_ref()
    }

    /// The server's SQLSTATE, if it was the server that complained.
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

    pub(super) fn sort(server: ServerFault, doing: Doing) -> StreamFault {
        match (server.sqlstate.as_str(), doing) {
            ("55006", _) => StreamFault::SlotActive { pid: last_number(&server.message), server },
            ("42704", Doing::Start | Doing::DropSlot) => StreamFault::SlotMissing(server),
            ("42704", Doing::Stream) => StreamFault::PublicationMissing(server),
            // The second: the log that the slot needs was removed.
            ("55000" | "58P01", Doing::Start | Doing::Stream) => StreamFault::SlotUnusable(server),
            ("42710", Doing::CreateSlot) => StreamFault::SlotExists(server),
            ("55P03", Doing::CreateSlot) => StreamFault::LockTimeout(server),
            _ => StreamFault::Server(server),
        }
    }

    /// As an error for a person. `place` is the database, `slot` the slot in question.
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
                    "creating the slot {slot:?} at {place} waited too long for running transactions; look for the \
                     oldest xact_start in pg_stat_activity, and try again once it has ended"
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

/// `replication slot "x" is active for PID 123`, in whatever language.
fn last_number(message: &str) -> Option<u32> {
    let after_name = message.rsplit('"').next()?;
    after_name.split(|c: char| !c.is_ascii_digit()).rfind(|part| !part.is_empty())?.parse().ok()
}
