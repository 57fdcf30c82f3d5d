//! The protocol's frames to and from the server: a tag, a length, a body.

use std::io;

use bytes::{Buf, BytesMut};
use postgres_protocol::message::backend::{Header, Message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::connect::guard::LoginBudget;
use crate::connect::transport::Transport;

/// How much room is made for one read.
const RESERVE: usize = 256 * 1024;
/// With less room than this left, more is made.
const LOW: usize = 64 * 1024;
/// A length field alone makes at most this much room: a larger frame gets its room as its bytes arrive.
const LARGEST_RESERVE: usize = 16 * 1024 * 1024;
/// A frame longer than this is refused: PostgreSQL's own limit for one message is a little lower.
const LARGEST_FRAME: usize = 0x4000_0000;

/// `CopyBothResponse`, which `postgres-protocol` does not know.
pub const COPY_BOTH_TAG: u8 = b'W';

/// One message of the startup, or one that answers a command.
pub enum Answer {
    Message(Message),
    CopyBoth,
}

/// A connection that is read and written in frames. Every method is cancel-safe: a read loses no bytes, and a write
/// that was cut short continues with the next write.
pub struct Wire {
    transport: Transport,
    input: BytesMut,
    output: BytesMut,
    /// Length of the current frame at the front of `input`; the frame is dropped when the next one is taken.
    current: usize,
    /// Limits what the server may send before it is authenticated; `None` after the login.
    login: Option<LoginBudget>,
}

impl Wire {
    /// Wraps a connection whose login is still to come.
    pub fn new(transport: Transport) -> Wire {
        Wire {
            transport,
            input: BytesMut::new(),
            output: BytesMut::new(),
            current: 0,
            login: Some(LoginBudget::default()),
        }
    }

    /// Ends the limits of the login: from here on the server is trusted, and may send messages of any length.
    pub fn logged_in(&mut self) {
        self.login = None;
    }

    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Waits until more bytes have arrived.
    ///
    /// # Errors
    /// `UnexpectedEof` if the server has closed the connection.
    pub async fn read(&mut self) -> io::Result<()> {
        self.drop_current();
        if self.input.is_empty() && self.input.capacity() > LARGEST_RESERVE {
            // The buffer of one huge value should not stay allocated for the rest of the stream.
            self.input = BytesMut::new();
        }
        if self.input.capacity() - self.input.len() < LOW {
            let missing = self.header()?.map_or(0, |(_, length)| length.saturating_sub(self.input.len()));
            self.input.reserve(missing.clamp(RESERVE, LARGEST_RESERVE));
        }
        match self.transport.read_buf(&mut self.input).await? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")),
            _ => Ok(()),
        }
    }

    /// Makes the next complete frame the current one and returns its tag.
    ///
    /// # Errors
    /// `InvalidData` if the bytes are no frame.
    pub fn take(&mut self) -> io::Result<Option<u8>> {
        self.drop_current();
        match self.header()? {
            Some((tag, length)) if self.input.len() >= length => {
                self.current = length;
                if let Some(budget) = &mut self.login {
                    budget.spend(length);
                }
                Ok(Some(tag))
            }
            _ => Ok(None),
        }
    }

    /// Returns the body of the current frame.
    pub fn body(&self) -> &[u8] {
        self.input.get(5..self.current).unwrap_or_default()
    }

    /// Parses the current frame as one of the messages that `postgres-protocol` knows.
    ///
    /// # Errors
    /// `InvalidData` if the frame is none of them.
    pub fn parse(&self) -> io::Result<Message> {
        let mut frame = BytesMut::from(&self.input[..self.current]);
        Message::parse(&mut frame)?
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "half a message"))
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// Fails if the connection breaks, or its bytes are no message.
    pub async fn answer(&mut self) -> io::Result<Answer> {
        loop {
            match self.take()? {
                Some(COPY_BOTH_TAG) => return Ok(Answer::CopyBoth),
                Some(_) => return self.parse().map(Answer::Message),
                None => self.read().await?,
            }
        }
    }

    /// Adds a message to the bytes that the next [`Wire::flush`] sends.
    ///
    /// # Errors
    /// Fails if the message cannot be written, such as a text with a zero byte.
    pub fn queue(&mut self, write: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> io::Result<()> {
        let before = self.output.len();
        let outcome = write(&mut self.output);
        if outcome.is_err() {
            self.output.truncate(before);
        }
        outcome
    }

    /// Sends all queued messages.
    ///
    /// # Errors
    /// Fails if the connection breaks.
    pub async fn flush(&mut self) -> io::Result<()> {
        while self.output.has_remaining() {
            self.transport.write_buf(&mut self.output).await?;
        }
        self.transport.flush().await
    }

    /// Closes the connection.
    pub async fn close(&mut self) {
        // A connection that is broken already cannot be closed any further.
        let _ = self.transport.shutdown().await;
    }

    fn drop_current(&mut self) {
        self.input.advance(std::mem::take(&mut self.current));
    }

    /// Parses the tag and the length, tag included, of the frame at the front of the input.
    fn header(&self) -> io::Result<Option<(u8, usize)>> {
        let Some(header) = Header::parse(&self.input)? else { return Ok(None) };
        let length = usize::try_from(header.len()).unwrap_or(usize::MAX).saturating_add(1);
        if length > LARGEST_FRAME {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a message is longer than any that PostgreSQL sends",
            ));
        }
        if let Some(budget) = &self.login {
            budget.admit(length)?;
        }
        Ok(Some((header.tag(), length)))
    }
}
