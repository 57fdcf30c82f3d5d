//! A replication connection that is not streaming: it runs commands and plain queries.

use std::time::Duration;

use postgres_protocol::message::backend::{DataRowBody, Message};
use postgres_protocol::message::frontend;
use serde::{Deserialize, Serialize};

use super::fault::{Operation, StreamFault};
use super::receive::ReplicationStream;
use super::wire::{Answer, Wire};
use crate::connect::{ServerFault, quoted};
use crate::error::{Error, Result};
use crate::model::Lsn;

/// How long the end of a connection is waited for.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// TextRows as text. Values that are not UTF-8 have been refused.
pub(super) type TextRows = Vec<Vec<Option<String>>>;

/// The facts by which a server identifies itself; another server that answers under the same name says something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    pub system_identifier: String,
    pub timeline: u32,
    /// The position up to which the server's own WAL is flushed.
    pub flushed: Lsn,
}

/// A connection in `replication=database` mode with the pinned settings. A call whose future is dropped before it is
/// done leaves an answer under way; the client must then be dropped too.
pub struct ReplicationClient {
    pub(super) wire: Wire,
    version: u32,
    /// Host, port and database, for messages.
    pub(super) place: String,
    backend: Backend,
    silence: Duration,
}

/// A process of the server. Its start time tells it from a later process with the same id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    pub pid: i32,
    /// `backend_start`, as the server writes it.
    pub started: String,
}

impl ReplicationClient {
    pub(super) fn new(wire: Wire, version: u32, place: String) -> ReplicationClient {
        ReplicationClient { wire, version, place, backend: Backend::default(), silence: Duration::ZERO }
    }

    pub(super) fn served_by(&mut self, backend: Backend, silence: Duration) {
        (self.backend, self.silence) = (backend, silence);
    }

    /// The server's process that serves this connection.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// The server ends the connection after this much silence (its `wal_sender_timeout`), and backwhen may end it too.
    pub fn silence(&self) -> Duration {
        self.silence
    }

    /// The server's major version.
    pub fn server_version(&self) -> u32 {
        self.version
    }

    /// Asks the server for its identity.
    ///
    /// # Errors
    /// `Unavailable` if the connection breaks.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity> {
        let rows = self.query("IDENTIFY_SYSTEM").await?;
        let row = rows.first().map(Vec::as_slice).unwrap_or_default();
        match row {
            [Some(identifier), Some(timeline), Some(flushed), ..] => Ok(SystemIdentity {
                system_identifier: identifier.clone(),
                timeline: timeline.parse().map_err(|_| self.odd_answer("IDENTIFY_SYSTEM"))?,
                flushed: flushed.parse().map_err(|_| self.odd_answer("IDENTIFY_SYSTEM"))?,
            }),
            _ => Err(self.odd_answer("IDENTIFY_SYSTEM")),
        }
    }

    /// Ends the connection, and waits until the server has given back its walsender: the server may have only one.
    pub async fn end(mut self) {
        let ending = async {
            self.wire.queue(|out| {
                frontend::terminate(out);
                Ok(())
            })?;
            self.wire.flush().await?;
            loop {
                self.wire.read().await?;
            }
        };
        // The server closes the connection, which is what the last read fails with.
        let _: Result<std::io::Result<()>, _> = tokio::time::timeout(END_PATIENCE, ending).await;
    }

    /// Runs one statement by the simple protocol.
    ///
    /// # Errors
    /// The kind that the server's error has; `Refused` if a value is not UTF-8, because the connection passes bytes in
    /// the database's own encoding.
    pub async fn query(&mut self, sql: &str) -> Result<TextRows> {
        self.command(sql, Operation::Query, None).await
    }

    pub(super) async fn command(
        &mut self,
        sql: &str,
        operation: Operation,
        slot: Option<&str>,
    ) -> Result<TextRows> {
        let outcome = self.ask(sql).await;
        outcome.map_err(|fault| match fault {
            StreamFault::Server(server) => StreamFault::sort(server, operation).explain(&self.place, slot),
            other => other.explain(&self.place, slot),
        })
    }

    /// Runs one statement and returns its rows, or the fault before it is explained to a person.
    pub(super) async fn ask(&mut self, sql: &str) -> Result<TextRows, StreamFault> {
        self.send(sql).await?;
        let (mut rows, mut complaint) = (TextRows::new(), None);
        loop {
            match self.wire.answer().await {
                Ok(Answer::Message(Message::DataRow(body))) => match texts(&body) {
                    Ok(row) => rows.push(row),
                    Err(fault) => complaint = complaint.or(Some(fault)),
                },
                Ok(Answer::Message(Message::ErrorResponse(body))) => {
                    complaint = Some(StreamFault::Server(ServerFault::from_fields(body.fields())));
                }
                Ok(Answer::Message(Message::ReadyForQuery(_))) => return complaint.map_or(Ok(rows), Err),
                Ok(_) => {}
                // A fatal error arrives before the end of the connection, and names the reason.
                Err(error) => return Err(complaint.unwrap_or(StreamFault::Broken(error))),
            }
        }
    }

    async fn send(&mut self, sql: &str) -> Result<(), StreamFault> {
        self.wire.queue(|out| frontend::query(sql, out)).map_err(StreamFault::Broken)?;
        self.wire.flush().await.map_err(StreamFault::Broken)
    }

    /// Begins to stream from a slot. The server continues from `from` or from the confirmed position, whichever is
    /// later; [`Lsn::ZERO`] means the confirmed position.
    ///
    /// # Errors
    /// With [`StreamFault`] as cause: `Locked` if another connection streams from the slot; `Refused` if the slot is
    /// gone or cannot be streamed from.
    pub async fn start(
        mut self,
        slot: &str,
        from: Lsn,
        options: &[(&str, &str)],
    ) -> Result<ReplicationStream> {
        let outcome = self.begin(&start_command(slot, from, options)).await;
        match outcome {
            Ok(()) => Ok(ReplicationStream::new(self.wire, self.place, slot.to_owned(), self.silence)),
            Err(StreamFault::Server(server)) => {
                Err(StreamFault::sort(server, Operation::Start).explain(&self.place, Some(slot)))
            }
            Err(fault) => Err(fault.explain(&self.place, Some(slot))),
        }
    }

    async fn begin(&mut self, command: &str) -> Result<(), StreamFault> {
        self.send(command).await?;
        loop {
            match self.wire.answer().await.map_err(StreamFault::Broken)? {
                Answer::CopyBoth => return Ok(()),
                Answer::Message(Message::ErrorResponse(body)) => {
                    return Err(StreamFault::Server(ServerFault::from_fields(body.fields())));
                }
                Answer::Message(Message::ReadyForQuery(_)) => return Err(StreamFault::Ended),
                Answer::Message(_) => {}
            }
        }
    }

    pub(super) fn odd_answer(&self, command: &str) -> Error {
        Error::unavailable(format!(
            "{} answered {command} in an unknown way; look at what runs between here and the server",
            self.place
        ))
    }
}

fn start_command(slot: &str, from: Lsn, options: &[(&str, &str)]) -> String {
    let options: Vec<_> = options
        .iter()
        .map(|(name, value)| format!("{} {}", quoted(name, '"'), quoted(value, '\'')))
        .collect();
    let list = if options.is_empty() { String::new() } else { format!(" ({})", options.join(", ")) };
    format!("START_REPLICATION SLOT {} LOGICAL {from}{list}", quoted(slot, '"'))
}

fn texts(row: &DataRowBody) -> Result<Vec<Option<String>>, StreamFault> {
    use fallible_iterator::FallibleIterator;
    let not_text = || {
        StreamFault::Server(ServerFault {
            sqlstate: "22021".to_owned(),
            message: "a value is not UTF-8; ask over a session that has client_encoding UTF8".to_owned(),
            ..ServerFault::default()
        })
    };
    let ranges: Vec<_> = row.ranges().collect().map_err(StreamFault::Broken)?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| not_text());
    ranges
        .into_iter()
        .map(|range| range.and_then(|range| row.buffer().get(range)).map(text).transpose())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_what_goes_into_the_command() {
        assert_eq!(start_command("s", Lsn(0x1_0000_00FF), &[]), "START_REPLICATION SLOT \"s\" LOGICAL 1/FF");
        assert_eq!(
            start_command("s", Lsn::ZERO, &[("proto_version", "1"), ("publication_names", "\"it's\"")]),
            "START_REPLICATION SLOT \"s\" LOGICAL 0/0 (\"proto_version\" '1', \"publication_names\" '\"it''s\"')"
        );
    }
}
