//! The replication stream itself: it receives the server's messages, and sends status updates back.

use std::time::Duration;

use bytes::BufMut;
use postgres_protocol::message::backend::{
    COPY_DATA_TAG, ERROR_RESPONSE_TAG, Message, NOTICE_RESPONSE_TAG, NOTIFICATION_RESPONSE_TAG,
    PARAMETER_STATUS_TAG, READY_FOR_QUERY_TAG,
};
use postgres_protocol::message::frontend;

use super::fault::{Operation, StreamFault};
use super::wire::Wire;
use crate::ambient;
use crate::connect::ServerFault;
use crate::error::{Error, Result};
use crate::history::journal::{Confirmable, Received};
use crate::model::{Lsn, PgTime};

/// How long to read what the server still sends after it was told to stop.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The SQLSTATE of the warning `skipped loading publication`: object not in prerequisite state.
const SKIPPED_PUBLICATION: &str = "55000";

/// One message of the stream; its bytes lie in the read buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum StreamMessage<'a> {
    /// Output of the plugin that begins at this position.
    Data { start: Lsn, bytes: &'a [u8] },
    /// The server is alive and has sent everything up to `wal_end`.
    Keepalive { wal_end: Lsn, time: PgTime, reply_requested: bool },
}

/// The stream of a slot's changes, made by [`super::ReplicationClient::start`]. Take messages with
/// [`ReplicationStream::next`] until there is none, then wait with [`ReplicationStream::fill`]. Dropping the stream
/// ends the connection.
pub struct ReplicationStream {
    wire: Wire,
    place: String,
    slot: String,
    silence: Duration,
}

impl ReplicationStream {
    pub(super) fn new(wire: Wire, place: String, slot: String, silence: Duration) -> ReplicationStream {
        ReplicationStream { wire, place, slot, silence }
    }

    /// The same as [`super::ReplicationClient::silence`].
    pub fn silence(&self) -> Duration {
        self.silence
    }

    /// Waits until more bytes have arrived. Cancel-safe.
    ///
    /// # Errors
    /// `Unavailable` if the connection breaks.
    pub async fn fill(&mut self) -> Result<()> {
        let outcome = self.wire.read().await;
        outcome.map_err(|error| self.explain(StreamFault::Broken(error)))
    }

    /// Takes the next message that has arrived completely, without waiting.
    ///
    /// # Errors
    /// With [`StreamFault`] as cause, if the server complained or ended the stream.
    // Not an iterator: each message borrows the buffer.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<StreamMessage<'_>>> {
        loop {
            match self.wire.take() {
                Ok(None) => return Ok(None),
                Ok(Some(COPY_DATA_TAG)) => break,
                Ok(Some(tag)) => self.aside(tag)?,
                Err(error) => return Err(self.explain(StreamFault::Broken(error))),
            }
        }
        match read_message(self.wire.body()) {
            Some(message) => Ok(Some(message)),
            None => Err(Error::unavailable(format!(
                "{} sent a message in the stream that is none of the protocol's; look at what runs between",
                self.place
            ))),
        }
    }

    /// Sends a status update: which position has been received, and which is durable here and will never be needed from
    /// the server again. With `answer`, the server is asked to reply. Cancel-safe: unsent bytes are sent first the next
    /// time.
    ///
    /// # Errors
    /// `Unavailable` if the connection breaks.
    pub async fn send_status(
        &mut self,
        received: Received,
        confirmable: Confirmable,
        answer: bool,
    ) -> Result<()> {
        self.send_positions(received, confirmable.lsn(), answer).await
    }

    /// Sends a status update that names no durable position, and leaves the slot where it is. A server that shuts down waits
    /// until everything that it has sent is durable here or, if the last update named no such position, received.
    ///
    /// # Errors
    /// `Unavailable` if the connection breaks.
    pub async fn send_received(&mut self, received: Received) -> Result<()> {
        self.send_positions(received, Lsn::ZERO, false).await
    }

    async fn send_positions(&mut self, received: Received, flushed: Lsn, answer: bool) -> Result<()> {
        // pg_stat_replication shows the time; the server decides nothing by it.
        let now = PgTime::from_utc(ambient::now());
        let outcome = async {
            self.wire.queue(|out| {
                let status = status_message(received.lsn(), flushed, now, answer);
                frontend::CopyData::new(&status[..]).map(|data| data.write(out))
            })?;
            self.wire.flush().await
        };
        let outcome = outcome.await;
        outcome.map_err(|error| self.explain(StreamFault::Broken(error)))
    }

    /// Ends the stream in good order, so that the slot is free at once. Changes that the server still sends are
    /// discarded: they were not confirmed, and come again.
    ///
    /// # Errors
    /// `Unavailable` if the connection was broken already.
    pub async fn stop(mut self) -> Result<()> {
        let outcome = async {
            self.wire.queue(|out| {
                frontend::copy_done(out);
                Ok(())
            })?;
            self.wire.flush().await
        };
        let outcome = outcome.await;
        outcome.map_err(|error| self.explain(StreamFault::Broken(error)))?;
        // A server with much to send would go on for long; the end of the connection stops it too.
        let _ = tokio::time::timeout(LAST_WORDS, self.drain()).await;
        Ok(())
    }

    async fn drain(&mut self) {
        loop {
            match self.wire.take() {
                Ok(Some(READY_FOR_QUERY_TAG | ERROR_RESPONSE_TAG)) | Err(_) => break,
                Ok(Some(_)) => {}
                Ok(None) if self.wire.read().await.is_err() => break,
                Ok(None) => {}
            }
        }
        let goodbye = self.wire.queue(|out| {
            frontend::terminate(out);
            Ok(())
        });
        if goodbye.is_ok() && self.wire.flush().await.is_ok() {
            self.wire.close().await;
        }
    }

    /// Handles a message that carries no data: the end of the stream, an error, or a notice.
    fn aside(&self, tag: u8) -> Result<()> {
        match tag {
            ERROR_RESPONSE_TAG | NOTICE_RESPONSE_TAG => {
                let message = self.wire.parse().map_err(|error| self.explain(StreamFault::Broken(error)))?;
                self.complaint(&message).map_or(Ok(()), |fault| Err(self.explain(fault)))
            }
            PARAMETER_STATUS_TAG | NOTIFICATION_RESPONSE_TAG => Ok(()),
            _ => Err(self.explain(StreamFault::Ended)),
        }
    }

    fn complaint(&self, message: &Message) -> Option<StreamFault> {
        match message {
            Message::ErrorResponse(body) => {
                Some(StreamFault::sort(ServerFault::from_fields(body.fields()), Operation::Stream))
            }
            Message::NoticeResponse(body) => {
                let notice = ServerFault::from_fields(body.fields());
                tracing::debug!("{} {:?}: {notice}", self.place, self.slot);
                skipped_publication(notice)
            }
            _ => None,
        }
    }

    fn explain(&self, fault: StreamFault) -> Error {
        fault.explain(&self.place, Some(&self.slot))
    }
}

/// From version 18 on, the server leaves out the changes of a missing publication and only warns. The history would get
/// a hole that nobody notices, so the warning is a fault.
pub(super) fn skipped_publication(notice: ServerFault) -> Option<StreamFault> {
    (notice.sqlstate == SKIPPED_PUBLICATION).then_some(StreamFault::PublicationMissing(notice))
}

/// Parses the body of a CopyData message: `XLogData` or `Primary keepalive message`.
fn read_message(body: &[u8]) -> Option<StreamMessage<'_>> {
    match body.split_first()? {
        (b'w', rest) => {
            let (start, rest) = take_number(rest)?;
            let (_wal_end, rest) = take_number(rest)?;
            let (_time, bytes) = take_number(rest)?;
            Some(StreamMessage::Data { start: Lsn(start), bytes })
        }
        (b'k', rest) => {
            let (wal_end, rest) = take_number(rest)?;
            let (time, rest) = take_number(rest)?;
            let reply_requested = *rest.first()? != 0;
            Some(StreamMessage::Keepalive {
                wal_end: Lsn(wal_end),
                time: PgTime(time.cast_signed()),
                reply_requested,
            })
        }
        _ => None,
    }
}

fn take_number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*number), rest))
}

/// Builds a `Standby status update`: the positions written, flushed and applied, the time, and whether an answer is
/// wanted.
fn status_message(received: Lsn, durable: Lsn, now: PgTime, answer: bool) -> [u8; 34] {
    let mut message = [0; 34];
    let mut out = &mut message[..];
    out.put_u8(b'r');
    out.put_u64(received.0);
    out.put_u64(durable.0);
    out.put_u64(durable.0);
    out.put_i64(now.0);
    out.put_u8(answer.into());
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_data_and_keepalives() {
        let mut body = vec![b'w'];
        body.extend([0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 1]);
        body.extend(b"xyz");
        assert_eq!(read_message(&body), Some(StreamMessage::Data { start: Lsn(9), bytes: b"xyz" }));
        let keepalive = [b'k', 0, 0, 0, 0, 0, 0, 1, 0, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        let expected =
            StreamMessage::Keepalive { wal_end: Lsn(256), time: PgTime(-1), reply_requested: true };
        assert_eq!(read_message(&keepalive), Some(expected));
    }

    #[test]
    fn half_a_message_is_none() {
        let keepalive = [b'k', 0, 0, 0, 0, 0, 0, 1, 0, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        for length in 0..keepalive.len() {
            assert_eq!(read_message(&keepalive[..length]), None);
        }
        assert_eq!(read_message(b"?12345678"), None);
    }

    #[test]
    fn confirms_only_what_is_durable() {
        let message = status_message(Lsn(3), Lsn(2), PgTime(1), false);
        assert_eq!(
            message[..25],
            [b'r', 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2]
        );
        assert_eq!(message[33], 0);
        assert_eq!(status_message(Lsn(3), Lsn(2), PgTime(1), true)[33], 1);
    }
}
