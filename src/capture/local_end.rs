//! The end of what is durable in the journal, as the thread that writes the journal tells the standing copies.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::history::journal::Durable;
use crate::signal;

/// Where the prefix of a logical message of pgoutput begins: behind its type, its flags and its position.
const PREFIX_AT: usize = 10;

/// Shared by the writer of the journal and the threads of the standing copies.
#[derive(Default)]
pub struct LocalEnd {
    state: Mutex<LocalState>,
    news: Condvar,
    /// Counts the messages that are no heartbeats.
    changes: AtomicU64,
    wants_roll: AtomicBool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalState {
    /// The epoch that is written, and the end of what is durable there; `None` until something was written.
    pub durable: Option<(u32, Durable)>,
    /// Whether the capture ends, and nothing more is written.
    pub ends: bool,
}

impl LocalEnd {
    fn state(&self) -> MutexGuard<'_, LocalState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn now(&self) -> LocalState {
        *self.state()
    }

    pub fn announce(&self, epoch: u32, durable: Durable) {
        self.state().durable = Some((epoch, durable));
        self.news.notify_all();
    }

    /// Says that the capture ends, once everything that it wrote is durable.
    pub fn end(&self) {
        self.state().ends = true;
        self.news.notify_all();
    }

    /// Waits until something changes, but no longer than `limit`.
    pub fn wait(&self, known: LocalState, limit: Duration) -> LocalState {
        let waited = self.news.wait_timeout_while(self.state(), limit, |state| *state == known);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Notes a message of the stream. Heartbeats alone may wait longer for their copy than what users do.
    pub fn heed(&self, message: &[u8]) {
        let is_change = match message.first() {
            Some(b'I' | b'U' | b'D' | b'T') => true,
            Some(b'M') => {
                let begins = |prefix: &str| message[PREFIX_AT..].starts_with(prefix.as_bytes());
                message.len() > PREFIX_AT && !begins(signal::HEARTBEAT) && !begins(signal::SEQUENCES)
            }
            _ => false,
        };
        if is_change {
            self.hurry();
        }
    }

    /// Has the copies brought up to date as soon as if a user had changed something.
    pub fn hurry(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Asks the writer to finish the open segment, of which the copy has become too many objects.
    pub fn want_roll(&self) {
        self.wants_roll.store(true, Ordering::Relaxed);
    }

    pub fn take_roll(&self) -> bool {
        self.wants_roll.swap(false, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_are_no_changes_and_everything_of_users_is() {
        let logical = |prefix: &str| [b"M\x01\0\0\0\0\0\0\0\x09", prefix.as_bytes(), b"\0\0\0\0\0"].concat();
        let end = LocalEnd::default();
        for quiet in
            [&b"B\0"[..], b"C", b"R", b"", b"M", &logical(signal::HEARTBEAT), &logical(signal::SEQUENCES)]
        {
            end.heed(quiet);
        }
        assert_eq!(end.changes(), 0);
        for change in [&b"I\0"[..], b"U", b"D", b"T", &logical(signal::MARK), &logical("application")] {
            end.heed(change);
        }
        assert_eq!(end.changes(), 6);
    }
}
