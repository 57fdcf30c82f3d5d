//! Takes the rows of a COPY out of a session's bytes, before `tokio_postgres` would make a message of its
//! own of each and hand it from task to task, which costs several times what is done with a row here.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::guard::LoginWatch;

/// Bytes that are read at a time.
const BUFFER: usize = 64 << 10;

/// The type of the message that holds a row, `CopyData`.
const ROW: u8 = b'd';

/// A message's type and its length, which counts itself.
const HEAD: usize = 5;

type Taker = Box<dyn FnMut(&[u8]) + Send>;

/// Where the rows of a session go, while somebody wants them.
#[derive(Clone, Default)]
pub struct Tap {
    taker: Arc<Mutex<Option<Taker>>>,
}

/// Rows are taken for as long as this lives.
pub struct Taking<'a>(&'a Tap);

impl Tap {
    /// Gives the rows that come from now on to `taker`, in pieces cut anywhere.
    pub fn open(&self, taker: impl FnMut(&[u8]) + Send + 'static) -> Taking<'_> {
        *self.taker() = Some(Box::new(taker));
        Taking(self)
    }

    fn taker(&self) -> MutexGuard<'_, Option<Taker>> {
        self.taker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        *self.0.taker() = None;
    }
}

/// A transport that lets everything pass but the rows that are wanted.
pub struct Tapped<S> {
    stream: S,
    tap: Tap,
    messages: Messages,
    /// Until the login is through.
    watch: Option<LoginWatch>,
    buffer: Box<[u8]>,
    /// What of the buffer was read and not looked at yet.
    from: usize,
    to: usize,
}

impl<S> Tapped<S> {
    /// `stream` is at the beginning of a message of the server.
    pub fn new(stream: S, tap: Tap) -> Tapped<S> {
        let buffer = vec![0; BUFFER].into_boxed_slice();
        Tapped { stream, tap, messages: Messages::default(), watch: None, buffer, from: 0, to: 0 }
    }

    /// The same, with a login to come that `watch` may break off.
    pub fn guarded(stream: S, tap: Tap, watch: LoginWatch) -> Tapped<S> {
        Tapped { watch: Some(watch), ..Tapped::new(stream, tap) }
    }

    pub fn inner(&self) -> &S {
        &self.stream
    }
}

/// Follows the server's messages through a stream of bytes.
#[derive(Default)]
struct Messages {
    /// How much of the present message's head there was.
    head: usize,
    length: [u8; 4],
    /// Bytes of its body that are still to come.
    body: usize,
    /// It goes to the taker.
    taken: bool,
}

impl Messages {
    /// Deals with the beginning of `bytes`, all of it if `out` has room; returns how much.
    fn sift(&mut self, bytes: &[u8], taker: &mut Option<Taker>, out: &mut ReadBuf<'_>) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            if self.head == 0 {
                self.taken = bytes[at] == ROW && taker.is_some();
            }
            let want = if self.head < HEAD { 1 } else { self.body };
            let room = if self.taken { usize::MAX } else { out.remaining() };
            let some = &bytes[at..][..want.min(bytes.len() - at).min(room)];
            if some.is_empty() && want > 0 {
                break;
            }
            match (self.taken, taker.as_mut()) {
                (false, _) => out.put_slice(some),
                (true, Some(taker)) if self.head == HEAD => taker(some),
                // Its head, or nobody wants it any more: the session is given up.
                (true, _) => {}
            }
            self.pass(some);
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

impl<S: AsyncRead + Unpin> AsyncRead for Tapped<S> {
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

impl<S: AsyncWrite + Unpin> AsyncWrite for Tapped<S> {
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

    /// Reads `bytes`, `size` at a time; what passed, what was taken.
    async fn read(bytes: &[u8], size: usize, wanted: bool) -> (Vec<u8>, Vec<u8>) {
        let (mut server, stream) = tokio::io::duplex(size);
        let (tap, taken) = (Tap::default(), Arc::new(Mutex::new(Vec::new())));
        let into = Arc::clone(&taken);
        let taking = wanted.then(|| tap.open(move |row| into.lock().unwrap().extend_from_slice(row)));
        let mut tapped = Tapped::new(stream, tap.clone());
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
            assert_eq!(read(&all, size, true).await, (rest.concat(), b"1\tone\n2\td\n".to_vec()), "{size}");
            assert_eq!(read(&all, size, false).await, (all.clone(), Vec::new()), "{size}");
        }
    }
}
