//! Takes the rows of a COPY out of a session's bytes before `tokio_postgres` sees them. It would build a message for
//! each row and pass that message between tasks, which costs several times the work that backwhen does on a row.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::guard::LoginWatch;

/// The number of bytes that one read asks for.
const BUFFER: usize = 64 << 10;

/// The messages of a COPY … TO STDOUT: `CopyOutResponse` before the rows, `CopyData` with a row, and `CopyDone` after the
/// rows.
const BEGIN: u8 = b'H';
const ROW: u8 = b'd';
const END: u8 = b'c';

/// A message's type and its length, which counts itself.
const HEAD: usize = 5;

/// A part of a COPY's output, as a receiver gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyPart<'a> {
    /// Rows, in pieces cut anywhere.
    Rows(&'a [u8]),
    End,
}

type Taker = Box<dyn FnMut(CopyPart<'_>) + Send>;

/// The receiver of a session's rows, while there is one.
#[derive(Clone, Default)]
pub struct Tap {
    taker: Arc<Mutex<Option<Taker>>>,
}

/// Rows go to the receiver for as long as this value lives.
pub struct TapLease<'a>(&'a Tap);

impl Tap {
    /// Passes the rows that arrive from now on to `taker`. The session sees no message of a COPY meanwhile.
    pub fn open(&self, taker: impl FnMut(CopyPart<'_>) + Send + 'static) -> TapLease<'_> {
        *self.taker() = Some(Box::new(taker));
        TapLease(self)
    }

    fn taker(&self) -> MutexGuard<'_, Option<Taker>> {
        self.taker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TapLease<'_> {
    fn drop(&mut self) {
        *self.0.taker() = None;
    }
}

/// A transport that passes on everything except the rows that a receiver takes.
pub struct TappedTransport<S> {
    stream: S,
    tap: Tap,
    messages: Messages,
    /// Checks the server's messages until the login has succeeded.
    watch: Option<LoginWatch>,
    buffer: Box<[u8]>,
    /// The part of the buffer that was read but not examined yet.
    from: usize,
    to: usize,
}

impl<S> TappedTransport<S> {
    /// `stream` is at the beginning of a message of the server.
    pub fn new(stream: S, tap: Tap) -> TappedTransport<S> {
        let buffer = vec![0; BUFFER].into_boxed_slice();
        TappedTransport { stream, tap, messages: Messages::default(), watch: None, buffer, from: 0, to: 0 }
    }

    /// Wraps `stream` before a login, which `watch` may break off.
    pub fn guarded(stream: S, tap: Tap, watch: LoginWatch) -> TappedTransport<S> {
        TappedTransport { watch: Some(watch), ..TappedTransport::new(stream, tap) }
    }

    pub fn inner(&self) -> &S {
        &self.stream
    }
}

/// Follows the server's messages through a stream of bytes.
#[derive(Default)]
struct Messages {
    /// The number of bytes of the current message's head that have arrived.
    head: usize,
    length: [u8; 4],
    /// The number of bytes of the message's body that are still to come.
    body: usize,
    /// The type of the current message, if the message goes to the receiver.
    taken: Option<u8>,
}

impl Messages {
    /// Processes the beginning of `bytes`, or all of them if `out` has room; returns how many it processed.
    fn sift(&mut self, bytes: &[u8], taker: &mut Option<Taker>, out: &mut ReadBuf<'_>) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            if self.head == 0 {
                self.taken =
                    Some(bytes[at]).filter(|kind| taker.is_some() && matches!(*kind, BEGIN | ROW | END));
            }
            let want = if self.head < HEAD { 1 } else { self.body };
            let room = if self.taken.is_some() { usize::MAX } else { out.remaining() };
            let some = &bytes[at..][..want.min(bytes.len() - at).min(room)];
            if some.is_empty() && want > 0 {
                break;
            }
            match (self.taken, taker.as_mut()) {
                (None, _) => out.put_slice(some),
                (Some(ROW), Some(taker)) if self.head == HEAD => taker(CopyPart::Rows(some)),
                // These bytes are a head, or tell of columns, or the receiver is gone: the session is given up.
                (Some(_), _) => {}
            }
            self.pass(some);
            if self.head == 0
                && self.taken == Some(END)
                && let Some(taker) = taker.as_mut()
            {
                taker(CopyPart::End);
            }
            at += some.len();
        }
        at
    }

    fn pass(&mut self, bytes: &[u8]) {
        if self.head == HEAD {
            self.body -= bytes.len();
        } else {
            if self.head > 0 {
                self.length[self.head - 1] = bytes[0];
            }
            self.head += 1;
            let length = u32::from_be_bytes(self.length) as usize;
            self.body = if self.head == HEAD { length.saturating_sub(self.length.len()) } else { 0 };
        }
        if self.head == HEAD && self.body == 0 {
            self.head = 0;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TappedTransport<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = out.filled().len();
        loop {
            let mut taker = this.tap.taker();
            this.from += this.messages.sift(&this.buffer[this.from..this.to], &mut taker, out);
            drop(taker);
            if out.filled().len() > before || out.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let mut read = ReadBuf::new(&mut this.buffer);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
            (this.from, this.to) = (0, read.filled().len());
            if this.to == 0 {
                return Poll::Ready(Ok(()));
            }
            if let Some(watch) = &mut this.watch
                && watch.look(&this.buffer[..this.to])?
            {
                this.watch = None;
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TappedTransport<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind], &(body.len() as u32 + 4).to_be_bytes()[..], body].concat()
    }

    /// Reads `bytes`, `size` at a time; returns the bytes that passed and the bytes that the receiver took.
    async fn read(bytes: &[u8], size: usize, wanted: bool) -> (Vec<u8>, Vec<u8>) {
        let (mut server, stream) = tokio::io::duplex(size);
        let (tap, taken) = (Tap::default(), Arc::new(Mutex::new(Vec::new())));
        let into = Arc::clone(&taken);
        let take = move |part: CopyPart<'_>| match part {
            CopyPart::Rows(rows) => into.lock().unwrap().extend_from_slice(rows),
            CopyPart::End => into.lock().unwrap().extend_from_slice(b"end\n"),
        };
        let taking = wanted.then(|| tap.open(take));
        let mut tapped = TappedTransport::new(stream, tap.clone());
        let mut passed = Vec::new();
        let reading = async {
            let mut buffer = vec![0; size];
            loop {
                match tapped.read(&mut buffer).await.unwrap() {
                    0 => break,
                    some => passed.extend_from_slice(&buffer[..some]),
                }
            }
        };
        let writing = async {
            server.write_all(bytes).await.unwrap();
            server.shutdown().await.unwrap();
        };
        tokio::join!(reading, writing);
        drop(taking);
        let taken = taken.lock().unwrap().clone();
        (passed, taken)
    }

    #[tokio::test]
    async fn rows_are_taken_and_all_else_passes_however_it_is_cut() {
        let rest = [message(b'H', b"\0\0\0"), message(b'c', b""), message(b'C', b"COPY 3\0")];
        let rows = [&b"1\tone\n"[..], b"", b"2\td\n"].map(|row| message(b'd', row)).concat();
        let all = [&rest[0], &rows, &rest[1], &rest[2]].map(|part| &part[..]).concat();
        for size in 1..=all.len() {
            let passed = rest[2].clone();
            assert_eq!(read(&all, size, true).await, (passed, b"1\tone\n2\td\nend\n".to_vec()), "{size}");
            assert_eq!(read(&all, size, false).await, (all.clone(), Vec::new()), "{size}");
        }
    }
}
