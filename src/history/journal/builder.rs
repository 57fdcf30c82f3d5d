//! Gathers the stream's messages into blocks; knows no disk.

use std::mem;
use std::ops::Range;

use super::block::{ENDS_INSIDE, MAX_RAW, STARTS_INSIDE};
use super::peek::{Peek, peek};
use super::record;
use crate::error::{Error, Result};
use crate::model::{Lsn, PgTime};

/// Bytes of records at which a block is full.
const FULL: usize = 512 << 10;

/// A block's records, not yet compressed; goes to `Writer::write`, in the order it was taken.
#[derive(Debug)]
pub struct RawBlock {
    pub(super) flags: u8,
    pub(super) before: Lsn,
    pub(super) after: Lsn,
    pub(super) records: u32,
    pub(super) raw: Vec<u8>,
    /// Where Relation messages lie in `raw`.
    pub(super) relations: Vec<Range<usize>>,
    /// The transaction whose parts were written last will not go on: cut them off first.
    pub(super) cuts_off: bool,
}

impl RawBlock {
    /// Bytes of records.
    pub fn raw_len(&self) -> usize {
        self.raw.len()
    }

    /// The frontier once this block is durable.
    pub fn frontier(&self) -> Lsn {
        self.after
    }
}

/// A position up to which everything was received whole, and may not be durable yet: never beyond it may be reported
/// to the server as written. Only a [`BlockBuilder`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Received(Lsn);

impl Received {
    pub fn lsn(self) -> Lsn {
        self.0
    }
}

/// A place in the waiting records at which they can be cut.
#[derive(Clone, Copy, Debug, Default)]
struct Cut {
    bytes: usize,
    records: u32,
    frontier: Lsn,
}

#[derive(Clone, Copy, Debug)]
struct Transaction {
    commit_lsn: Lsn,
    /// The history holds it already: it is dropped whole.
    repeat: bool,
}

/// Turns messages, as received, into blocks of whole transactions. A transaction larger than a
/// block is handed out in parts, so memory stays within a block and the largest message.
#[derive(Debug)]
pub struct BlockBuilder {
    full: usize,
    waiting: Vec<u8>,
    records: u32,
    relations: Vec<Range<usize>>,
    /// After the last complete transaction, idle mark or lone message that waits.
    complete: Cut,
    /// After the last part of a spanning transaction, while that waits to be taken.
    tail: Option<Cut>,
    /// The frontier after all blocks taken.
    taken: Lsn,
    transaction: Option<Transaction>,
    /// Parts of the transaction at the start of `waiting` were taken.
    spanning: bool,
    cuts_off: bool,
    /// Where the last record starts, if it is an idle mark.
    last_idle: Option<usize>,
}

impl BlockBuilder {
    /// `frontier`: where the journal stands; transactions that committed before it are repeats.
    pub fn new(frontier: Lsn) -> BlockBuilder {
        BlockBuilder::with_size(frontier, FULL)
    }

    /// `full`: bytes of records from which `take_full` hands out a block.
    pub(crate) fn with_size(frontier: Lsn, full: usize) -> BlockBuilder {
        BlockBuilder {
            full,
            waiting: Vec::with_capacity(full + full / 8),
            records: 0,
            relations: Vec::new(),
            complete: Cut { frontier, ..Cut::default() },
            tail: None,
            taken: frontier,
            transaction: None,
            spanning: false,
            cuts_off: false,
            last_idle: None,
        }
    }

    /// Takes one pgoutput message. Call `take_full` until it gives nothing, after every message
    /// or every few: that is what bounds memory.
    ///
    /// # Errors
    /// `Internal` for what the protocol does not allow, such as Commit without Begin; the message
    /// is then not taken.
    pub fn push(&mut self, message: &[u8]) -> Result<()> {
        let Some(peeked) = peek(message) else {
            return Err(nonsense("a message that is unknown or cut short", message));
        };
        match (peeked, self.transaction) {
            (Peek::Begin { commit_lsn, .. }, None) => {
                let repeat = commit_lsn < self.complete.frontier;
                self.append(message, repeat)?;
                self.transaction = Some(Transaction { commit_lsn, repeat });
            }
            (Peek::Begin { .. }, Some(_)) => return Err(nonsense("Begin inside a transaction", message)),
            (Peek::Commit { commit_lsn, end_lsn }, Some(open)) if commit_lsn == open.commit_lsn => {
                if end_lsn < commit_lsn {
                    return Err(nonsense("Commit that ends before it starts", message));
                }
                self.append(message, open.repeat)?;
                self.commit(open, end_lsn);
            }
            (Peek::Commit { .. }, _) => return Err(nonsense("Commit without its Begin", message)),
            (Peek::Logical { transactional: false, lsn, .. }, None) => {
                if lsn >= self.complete.frontier {
                    self.append(message, false)?;
                    self.complete_here(self.complete.frontier);
                }
            }
            (_, None) => return Err(nonsense("a change outside a transaction", message)),
            (peeked, Some(open)) => {
                let start = self.waiting.len();
                self.append(message, open.repeat)?;
                if matches!(peeked, Peek::Relation { .. }) && !open.repeat {
                    let end = self.waiting.len();
                    debug_assert!(end - start > message.len());
                    self.relations.push(end - message.len()..end);
                }
            }
        }
        Ok(())
    }

    /// Notes that nothing was committed up to `lsn`, at the server's time `time`. A position
    /// before the frontier says nothing new and is passed over.
    ///
    /// # Errors
    /// `Internal` inside a transaction, unless it is a repeat.
    pub fn push_idle(&mut self, lsn: Lsn, time: PgTime) -> Result<()> {
        match self.transaction {
            Some(Transaction { repeat: false, .. }) => {
                return Err(Error::internal("an idle mark inside a transaction; please report this"));
            }
            // What follows a repeat may be a repeat too: the mark must not reach past it.
            Some(_) => return Ok(()),
            None if lsn < self.complete.frontier => return Ok(()),
            None => {}
        }
        if let Some(start) = self.last_idle {
            self.waiting.truncate(start);
            self.records -= 1;
        }
        let start = self.waiting.len();
        record::put_idle(&mut self.waiting, lsn, time);
        self.records += 1;
        self.complete_here(lsn);
        self.last_idle = Some(start);
        Ok(())
    }

    /// The highest position up to which everything was received whole.
    pub fn received(&self) -> Received {
        Received(self.complete.frontier)
    }

    /// Bytes of records that wait to be taken.
    pub fn pending_bytes(&self) -> usize {
        self.waiting.len()
    }

    pub fn in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// All complete transactions that wait, for the flush timer. Call it until it gives nothing:
    /// the end of a spanning transaction makes a block of its own.
    pub fn take_complete(&mut self) -> Option<RawBlock> {
        if let Some(tail) = self.tail.take() {
            let block = self.take(tail, STARTS_INSIDE);
            self.spanning = false;
            return Some(block);
        }
        (self.complete.bytes > 0).then(|| self.take(self.complete, 0))
    }

    /// A block, if enough waits for one: complete transactions, or else a part of the one that is
    /// coming in. Call it until it gives nothing.
    pub fn take_full(&mut self) -> Option<RawBlock> {
        if self.waiting.len() < self.full {
            return None;
        }
        if let Some(block) = self.take_complete() {
            return Some(block);
        }
        let all = Cut { bytes: self.waiting.len(), records: self.records, frontier: self.taken };
        let flags = if self.spanning { STARTS_INSIDE | ENDS_INSIDE } else { ENDS_INSIDE };
        self.spanning = true;
        Some(self.take(all, flags))
    }

    /// Forgets the transaction that is coming in, after its connection broke. Parts of it that
    /// were taken are cut off by the writer when the next block reaches it.
    pub fn abandon_transaction(&mut self) {
        if self.transaction.take().is_none() {
            return;
        }
        // A spanning transaction that still comes in is all that waits.
        if self.spanning && self.tail.is_none() {
            self.spanning = false;
            self.cuts_off = true;
        }
        self.waiting.truncate(self.complete.bytes);
        self.records = self.complete.records;
        self.relations.retain(|range| range.end <= self.complete.bytes);
        self.last_idle = None;
    }

    fn append(&mut self, message: &[u8], repeat: bool) -> Result<()> {
        if repeat {
            return Ok(());
        }
        if self.waiting.len() + message.len() > MAX_RAW - 16 {
            return Err(Error::internal("more than a block's worth of messages waits; please report this"));
        }
        record::put_message(&mut self.waiting, message);
        self.records += 1;
        self.last_idle = None;
        Ok(())
    }

    fn commit(&mut self, open: Transaction, end_lsn: Lsn) {
        self.transaction = None;
        if open.repeat {
            return;
        }
        self.complete_here(end_lsn);
        if self.spanning && self.tail.is_none() {
            self.tail = Some(self.complete);
        }
    }

    fn complete_here(&mut self, frontier: Lsn) {
        self.complete = Cut { bytes: self.waiting.len(), records: self.records, frontier };
    }

    fn take(&mut self, cut: Cut, flags: u8) -> RawBlock {
        let rest = &self.waiting[cut.bytes..];
        let mut waiting = Vec::with_capacity(rest.len() + self.full + self.full / 8);
        waiting.extend_from_slice(rest);
        let mut raw = mem::replace(&mut self.waiting, waiting);
        raw.truncate(cut.bytes);

        let later = self.relations.partition_point(|range| range.end <= cut.bytes);
        let mut relations = self.relations.split_off(later);
        for range in &mut relations {
            *range = range.start - cut.bytes..range.end - cut.bytes;
        }
        mem::swap(&mut relations, &mut self.relations);

        let before = mem::replace(&mut self.taken, cut.frontier);
        self.records -= cut.records;
        self.complete.bytes = self.complete.bytes.saturating_sub(cut.bytes);
        self.complete.records = self.complete.records.saturating_sub(cut.records);
        self.last_idle = self.last_idle.and_then(|start| start.checked_sub(cut.bytes));
        let cuts_off = mem::take(&mut self.cuts_off);
        RawBlock { flags, before, after: cut.frontier, records: cut.records, raw, relations, cuts_off }
    }
}

fn nonsense(what: &str, message: &[u8]) -> Error {
    let tag = message.first().copied().unwrap_or(b'?');
    Error::internal(format!(
        "the server sent {what} (a {:?} of {} bytes); nothing was lost, please report this",
        char::from(tag),
        message.len()
    ))
}
