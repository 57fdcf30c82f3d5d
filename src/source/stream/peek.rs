//! Reads a slot's next changes as one batch, by SQL on the replication connection.
//!
//! A walsender sends every message by itself and is woken for each; the same messages as rows of one COPY arrive in a
//! fraction of the time. The batch is read on the connection that will stream, so that every setting that affects
//! pgoutput's text is the same.

use postgres_protocol::message::backend::{
    COPY_DATA_TAG, ERROR_RESPONSE_TAG, Message, NOTICE_RESPONSE_TAG, READY_FOR_QUERY_TAG,
};
use postgres_protocol::message::frontend;

use super::client::ReplicationClient;
use super::fault::{Operation, StreamFault};
use super::receive::skipped_publication;
use crate::connect::{ServerFault, quoted};
use crate::error::{Error, Result};
use crate::history::journal::Confirmable;
use crate::model::{Lsn, PgTime};

/// The first bytes of a binary COPY, which stand before the flags and the extension.
const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
const END_OF_ROWS: i16 = -1;

/// The positions of a slot, and the end of the server's WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotPosition {
    /// The slot sends the transactions that commit after this position.
    pub confirmed: Lsn,
    /// Every decoding has to begin at this position.
    pub restart: Lsn,
    /// The position up to which the server's WAL is flushed.
    pub flushed: Lsn,
    /// The server's clock.
    pub time: PgTime,
}

/// The next part of a batch.
#[derive(Debug, PartialEq, Eq)]
pub enum BatchItem<'a> {
    /// One message, as the stream would have sent it.
    Message(&'a [u8]),
    /// The batch has ended; the connection accepts commands again.
    End,
}

impl ReplicationClient {
    /// Reads the positions of a slot.
    ///
    /// # Errors
    /// With [`StreamFault`] as cause: `Locked` if another connection streams from the slot; `Unavailable` if the slot
    /// is gone or cannot be read from.
    pub async fn slot_position(&mut self, slot: &str) -> Result<SlotPosition> {
        let question = format!(
            "SELECT confirmed_flush_lsn, restart_lsn, pg_catalog.pg_current_wal_flush_lsn(), active_pid, \
             ((extract(epoch FROM pg_catalog.clock_timestamp()) - 946684800) * 1000000)::int8 \
             FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
            quoted(slot, '\'')
        );
        let rows = self.query(&question).await?;
        let odd = || self.odd_answer("the question where the slot stands");
        let Some([Some(confirmed), Some(restart), Some(flushed), pid, Some(time)]) =
            rows.first().map(Vec::as_slice)
        else {
            return Err(odd());
        };
        if let Some(pid) = pid {
            let server = ServerFault {
                sqlstate: "55006".to_owned(),
                message: format!("replication slot {} is active for PID {pid}", quoted(slot, '"')),
                ..ServerFault::default()
            };
            return Err(self.explain(StreamFault::sort(server, Operation::Peek), Some(slot)));
        }
        Ok(SlotPosition {
            confirmed: confirmed.parse().map_err(|_| odd())?,
            restart: restart.parse().map_err(|_| odd())?,
            flushed: flushed.parse().map_err(|_| odd())?,
            time: PgTime(time.parse().map_err(|_| odd())?),
        })
    }

    /// Tells the server that everything before `to` is durable here and will never be needed again.
    ///
    /// # Errors
    /// With [`StreamFault`] as cause, if the server complains or the connection breaks.
    pub async fn advance_slot(&mut self, slot: &str, to: Confirmable) -> Result<()> {
        let to = to.lsn();
        let command =
            format!("SELECT pg_catalog.pg_replication_slot_advance({}, '{to}')", quoted(slot, '\''));
        self.command(&command, Operation::Peek, Some(slot)).await.map(|_| ())
    }

    /// Asks for the transactions that commit from the slot's confirmed position to before `until`, which must not be
    /// beyond the end of the server's WAL. The batch ends early with the transaction that brings the number of its
    /// changes (rows and messages) to `changes` or more. The slot's position stays where it is. The server decodes the
    /// whole batch before it sends the first byte, and keeps a large batch in a temporary file.
    ///
    /// # Errors
    /// `Unavailable` if the connection breaks.
    pub async fn peek<'a>(
        &'a mut self,
        slot: &'a str,
        until: Lsn,
        changes: u64,
        options: &[(&str, &str)],
    ) -> Result<Batch<'a>> {
        let command = peek_command(slot, until, changes, options);
        let sent = match self.wire.queue(|out| frontend::query(&command, out)) {
            Ok(()) => self.wire.flush().await,
            Err(error) => Err(error),
        };
        sent.map_err(|error| self.explain(StreamFault::Broken(error), Some(slot)))?;
        Ok(Batch { client: self, slot, complaint: None, ended: false })
    }

    fn explain(&self, fault: StreamFault, slot: Option<&str>) -> Error {
        fault.explain(&self.place, slot)
    }
}

fn peek_command(slot: &str, until: Lsn, changes: u64, options: &[(&str, &str)]) -> String {
    let options: String = options
        .iter()
        .map(|(name, value)| format!(", {}, {}", quoted(name, '\''), quoted(value, '\'')))
        .collect();
    format!(
        "COPY (SELECT data FROM pg_catalog.pg_logical_slot_peek_binary_changes({}, '{until}', {changes}{options})) \
         TO STDOUT (FORMAT binary)",
        quoted(slot, '\'')
    )
}

/// A batch of changes under way. Take items with [`Batch::next`] until there is none, then wait with [`Batch::fill`].
/// If the batch is dropped before [`BatchItem::End`], the client must be dropped too.
pub struct Batch<'a> {
    client: &'a mut ReplicationClient,
    slot: &'a str,
    complaint: Option<StreamFault>,
    ended: bool,
}

impl Batch<'_> {
    /// Waits until more bytes have arrived. Cancel-safe.
    ///
    /// # Errors
    /// With [`StreamFault`] as cause, if the connection breaks.
    pub async fn fill(&mut self) -> Result<()> {
        match self.client.wire.read().await {
            Ok(()) => Ok(()),
            // A fatal error arrives before the end of the connection, and names the reason.
            Err(error) => {
                let fault = self.complaint.take().unwrap_or(StreamFault::Broken(error));
                Err(self.client.explain(fault, Some(self.slot)))
            }
        }
    }

    /// Takes the next message that has arrived completely, without waiting.
    ///
    /// # Errors
    /// With [`StreamFault`] as cause, if the server complained. Unless the fault is [`StreamFault::Broken`], the
    /// connection accepts commands again.
    // Not an iterator: each message borrows the buffer.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<BatchItem<'_>>> {
        loop {
            let tag = match self.client.wire.take() {
                Ok(None) if self.ended => return Ok(Some(BatchItem::End)),
                Ok(None) => return Ok(None),
                Ok(Some(tag)) => tag,
                Err(error) => return Err(self.client.explain(StreamFault::Broken(error), Some(self.slot))),
            };
            match tag {
                // After a complaint, the remaining rows do not count.
                COPY_DATA_TAG if self.complaint.is_some() || self.at_end_of_rows() => {}
                COPY_DATA_TAG => break,
                ERROR_RESPONSE_TAG | NOTICE_RESPONSE_TAG => self.listen()?,
                READY_FOR_QUERY_TAG => {
                    self.ended = true;
                    if let Some(fault) = self.complaint.take() {
                        return Err(self.client.explain(fault, Some(self.slot)));
                    }
                    return Ok(Some(BatchItem::End));
                }
                _ => {}
            }
        }
        match one_value(self.client.wire.body()) {
            Some(Some(message)) => Ok(Some(BatchItem::Message(message))),
            _ => Err(self.client.odd_answer("COPY")),
        }
    }

    fn at_end_of_rows(&self) -> bool {
        one_value(self.client.wire.body()) == Some(None)
    }

    fn listen(&mut self) -> Result<()> {
        let parsed = self.client.wire.parse();
        let message =
            parsed.map_err(|error| self.client.explain(StreamFault::Broken(error), Some(self.slot)))?;
        let complaint = match message {
            Message::ErrorResponse(body) => {
                Some(StreamFault::sort(ServerFault::from_fields(body.fields()), Operation::Peek))
            }
            Message::NoticeResponse(body) => skipped_publication(ServerFault::from_fields(body.fields())),
            _ => None,
        };
        self.complaint = self.complaint.take().or(complaint);
        Ok(())
    }
}

/// Extracts the value from one frame of a binary COPY with one column. The inner `None` means that the frame ends the
/// rows; the outer `None` means that the frame is anything else.
fn one_value(frame: &[u8]) -> Option<Option<&[u8]>> {
    // The first frame begins with the signature, the flags, and the length of an empty extension.
    let row = match frame.strip_prefix(SIGNATURE) {
        Some(rest) => rest.strip_prefix(&[0; 8])?,
        None => frame,
    };
    let (columns, rest) = row.split_first_chunk::<2>()?;
    match i16::from_be_bytes(*columns) {
        END_OF_ROWS if rest.is_empty() => Some(None),
        1 => {
            let (length, value) = rest.split_first_chunk::<4>()?;
            (usize::try_from(i32::from_be_bytes(*length)) == Ok(value.len())).then_some(Some(value))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_quotes_what_goes_into_it() {
        let options = [("proto_version", "1"), ("publication_names", "\"it's\"")];
        assert_eq!(
            peek_command("s", Lsn(0x1_0000_00FF), 7, &options),
            "COPY (SELECT data FROM pg_catalog.pg_logical_slot_peek_binary_changes('s', '1/FF', 7, \
             'proto_version', '1', 'publication_names', '\"it''s\"')) TO STDOUT (FORMAT binary)"
        );
    }

    #[test]
    fn reads_rows_and_refuses_what_is_none() {
        let row = b"\0\x01\0\0\0\x02hi";
        let first = [&SIGNATURE[..], &[0; 8], row].concat();
        assert_eq!(one_value(row), Some(Some(&b"hi"[..])));
        assert_eq!(one_value(&first), Some(Some(&b"hi"[..])));
        assert_eq!(one_value(b"\0\x01\0\0\0\0"), Some(Some(&b""[..])));
        assert_eq!(one_value(b"\xff\xff"), Some(None));
        assert_eq!(one_value(&[&SIGNATURE[..], &[0; 8], b"\xff\xff"].concat()), Some(None));
        for length in (0..row.len()).chain([row.len() + 1]) {
            assert_eq!(one_value(&b"\0\x01\0\0\0\x02hi!"[..length]), None);
        }
        for frame in [&b"\0\x02\0\0\0\x02hi"[..], b"\0\x01\xff\xff\xff\xff", b"\xff\xff\0"] {
            assert_eq!(one_value(frame), None);
        }
    }
}
