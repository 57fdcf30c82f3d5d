//! Frames to and from the server: a tag, a length, a body.

use std::io;

use bytes::{Buf, BytesMut};
use postgres_protocol::message::backend::{Header, Message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::connect::guard::LoginBudget;
use crate::connect::transport::Transport;

/// Room made for one read.
const RESERVE: usize = 256 * 1024;
/// Below this much room, more is made.
const LOW: usize = 64 * 1024;
/// At most this much is set aside on the word of a length field alone.
const LARGEST_RESERVE: usize = 16 * 1024 * 1024;
/// PostgreSQL's own limit for one message, and some.
const LARGEST_FRAME: usize = 0x4000_0000;

/// `CopyBothResponse`, which `postgres-protocol` does not know.
pub const COPY_BOTH_TAG: u8 = b'W';

/// One message of the startup or of a command.
pub enum Answer {
    Message(Message),
    CopyBoth,
}

/// A connection as frames. Every method is cancel-safe: a read loses nothing, and a write that was
/// cut short goes on with the next one.
pub struct Wire {
    transport: Transport,
    input: BytesMut,
    output: BytesMut,
    /// Bytes at the front of `input` that the current frame takes; dropped when the next is taken.
    current: usize,
    /// Until the login is through.
    login: Option<LoginBudget>,
}

impl Wire {
    /// The login is yet to come.
    pub fn new(transport: Transport) -> Wire {
        Wire {
            transport,
            input: BytesMut::new(),
            output: BytesMut::new(),
            current: 0,
            login: Some(LoginBudget::default()),
        }
    }

    /// From here on the server is believed, and may send messages of any length.
    pub fn logged_in(&mut self) {
        self.login = None;
    }

    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Waits until more bytes have come.
    ///
    /// # Errors
    /// `UnexpectedEof`, if the server has closed the connection.
    pub async fn read(&mut self) -> io::Result<()> {
        self.drop_current();
        if self.input.is_empty() && self.input.capacity() > LARGEST_RESERVE {
            // One huge value should not hold its memory for the rest of the stream.
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

    /// Makes the next complete frame the current one and gives its tag.
    ///
    /// # Errors
    /// `InvalidData`, if the bytes are no frame.
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

    /// The body of the current frame.
    pub fn body(&self) -> &[u8] {
        self.input.get(5..self.current).unwrap_or_default()
    }

    /// The current frame as one of the messages that `postgres-protocol` knows.
    ///
    /// # Errors
    /// `InvalidData`, if it is none.
    pub fn parse(&self) -> io::Result<Message> {
        let mut frame = BytesMut::from(&self.input[..self.current]);
        Message::parse(&mut frame)?
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "half a message"))
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// If the connection breaks, or its bytes are no message.
    pub async fn answer(&mut self) -> io::Result<Answer> {
        loop {
            match self.take()? {
                Some(COPY_BOTH_TAG) => return Ok(Answer::CopyBoth),
                Some(_) => return self.parse().map(Answer::Message),
                None => self.read().await?,
            }
        }
    }

    /// Adds a message to what the next [`Wire::flush`] sends.
    ///
    /// # Errors
    /// If the message cannot be written, such as a text with a zero byte.
    pub fn queue(&mut self, write: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> io::Result<()> {
        let before = self.output.len();
        let outcome = write(&mut self.output);
        if outcome.is_err() {
            self.output.truncate(before);
        }
        outcome
    }

    /// # Errors
    /// If the connection breaks.
    pub async fn flush(&mut self) -> io::Result<()> {
        while self.output.has_remaining() {
            self.transport.write_buf(&mut self.output).await?;
        }
        self.transport.flush().await
    }

    /// Says goodbye to the peer's socket.
    pub async fn close(&mut self) {
        // A connection that is broken already is as closed as can be.
        let _ = self.transport.shutdown().await;
    }

    fn drop_current(&mut self) {
        self.input.advance(std::mem::take(&mut self.current));
    }

    /// Tag and length, tag included, of the frame that begins the input.
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
