//! Gathers the stream's messages into blocks, and does not touch a disk.

use std::mem;
use std::ops::Range;

use super::block::{ENDS_INSIDE, MAX_RAW, STARTS_INSIDE};
use super::peek::{PeekedMessage, peek};
use super::record;
use crate::error::{Error, Result};
use crate::model::{Lsn, PgTime};

/// A block with at least this many bytes of records is full.
const FULL: usize = 512 << 10;

/// The records of a block, not yet compressed. Blocks go to `Writer::write` in the order in which they were taken.
#[derive(Debug)]
pub struct RawBlock {
    pub(super) flags: u8,
    pub(super) before: Lsn,
    pub(super) after: Lsn,
    pub(super) records: u32,
    pub(super) raw: Vec<u8>,
    /// Where Relation messages lie in `raw`.
    pub(super) relations: Vec<Range<usize>>,
    /// Whether the writer must first cut off the parts of a transaction that it has written and that will not go on.
    pub(super) cuts_off: bool,
}

impl RawBlock {
    /// The bytes of the records.
    pub fn raw_len(&self) -> usize {
        self.raw.len()
    }

    /// The frontier once this block is durable.
    pub fn frontier(&self) -> Lsn {
        self.after
    }
}

/// A position up to which all transactions were received whole. They may not be durable yet. No position beyond it may be
/// reported to the server as written. Only a [`BlockBuilder`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Received(Lsn);

impl Received {
    pub fn lsn(self) -> Lsn {
        self.0
    }
}

/// A place in the waiting records at which they can be cut.
#[derive(Clone, Copy, Debug, Default)]
struct CutPoint {
    bytes: usize,
    records: u32,
    frontier: Lsn,
}

#[derive(Clone, Copy, Debug)]
struct Transaction {
    commit_lsn: Lsn,
    /// Whether the history holds the transaction already, so that it is dropped whole.
    repeat: bool,
}

/// Turns messages, as received, into blocks of whole transactions. A transaction larger than a block is handed out in
/// parts, so that memory holds no more than a block and the largest message.
#[derive(Debug)]
pub struct BlockBuilder {
    full: usize,
    waiting: Vec<u8>,
    records: u32,
    relations: Vec<Range<usize>>,
    /// The end of the last complete transaction, idle mark or lone message that waits.
    complete: CutPoint,
    /// The end of the last part of a spanning transaction, while that part waits to be taken.
    tail: Option<CutPoint>,
    /// The frontier after all blocks that were taken.
    taken: Lsn,
    transaction: Option<Transaction>,
    /// Whether parts of the transaction at the start of `waiting` were taken already.
    spanning: bool,
    cuts_off: bool,
    /// Where the last record starts, if it is an idle mark.
    last_idle: Option<usize>,
}

impl BlockBuilder {
    /// Begins at `frontier`, where the journal stands. Transactions that committed before are repeats.
    pub fn new(frontier: Lsn) -> BlockBuilder {
        BlockBuilder::with_size(frontier, FULL)
    }

    /// Begins a builder whose `take_full` hands out a block from `full` bytes of records on.
    pub(crate) fn with_size(frontier: Lsn, full: usize) -> BlockBuilder {
        BlockBuilder {
            full,
            waiting: Vec::with_capacity(full + full / 8),
            records: 0,
            relations: Vec::new(),
            complete: CutPoint { frontier, ..CutPoint::default() },
            tail: None,
            taken: frontier,
            transaction: None,
            spanning: false,
            cuts_off: false,
            last_idle: None,
        }
    }

    /// Takes one pgoutput message. The caller bounds memory by calling `take_full` after every few messages, until it
    /// returns nothing.
    ///
    /// # Errors
    /// `Internal` for a message that the protocol does not allow, such as Commit without Begin; the message is then not
    /// taken.
    pub fn push(&mut self, message: &[u8]) -> Result<()> {
        let Some(peeked) = peek(message) else {
            return Err(nonsense("a message that is unknown or cut short", message));
        };
        match (peeked, self.transaction) {
            (PeekedMessage::Begin { commit_lsn, .. }, None) => {
                let repeat = commit_lsn < self.complete.frontier;
                self.append(message, repeat)?;
                self.transaction = Some(Transaction { commit_lsn, repeat });
            }
            (PeekedMessage::Begin { .. }, Some(_)) => {
                return Err(nonsense("Begin inside a transaction", message));
            }
            (PeekedMessage::Commit { commit_lsn, end_lsn }, Some(open)) if commit_lsn == open.commit_lsn => {
                if end_lsn < commit_lsn {
                    return Err(nonsense("Commit that ends before it starts", message));
                }
                self.append(message, open.repeat)?;
                self.commit(open, end_lsn);
            }
            (PeekedMessage::Commit { .. }, _) => return Err(nonsense("Commit without its Begin", message)),
            (PeekedMessage::Logical { transactional: false, lsn, .. }, None) => {
                if lsn >= self.complete.frontier {
                    self.append(message, false)?;
                    self.complete_here(self.complete.frontier);
                }
            }
            (_, None) => return Err(nonsense("a change outside a transaction", message)),
            (peeked, Some(open)) => {
                let start = self.waiting.len();
                self.append(message, open.repeat)?;
                if matches!(peeked, PeekedMessage::Relation { .. }) && !open.repeat {
                    let end = self.waiting.len();
                    debug_assert!(end - start > message.len());
                    self.relations.push(end - message.len()..end);
                }
            }
        }
        Ok(())
    }

    /// Notes that nothing was committed up to `lsn`, at the server's time `time`. A position before the frontier says
    /// nothing new, and is passed over.
    ///
    /// # Errors
    /// `Internal` inside a transaction, unless it is a repeat.
    pub fn push_idle(&mut self, lsn: Lsn, time: PgTime) -> Result<()> {
        match self.transaction {
            Some(Transaction { repeat: false, .. }) => {
                return Err(Error::internal("an idle mark inside a transaction; please report this"));
            }
            // The transaction after a repeat may be a repeat too, and the mark must not reach past it.
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

    /// Returns the highest position up to which all transactions were received whole.
    pub fn received(&self) -> Received {
        Received(self.complete.frontier)
    }

    /// Returns the bytes of records that wait to be taken.
    pub fn pending_bytes(&self) -> usize {
        self.waiting.len()
    }

    pub fn in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// Takes all complete transactions that wait, for the flush timer. The caller repeats this until nothing is returned, as
    /// the end of a spanning transaction makes a block of its own.
    pub fn take_complete(&mut self) -> Option<RawBlock> {
        if let Some(tail) = self.tail.take() {
            let block = self.take(tail, STARTS_INSIDE);
            self.spanning = false;
            return Some(block);
        }
        (self.complete.bytes > 0).then(|| self.take(self.complete, 0))
    }

    /// Whether [`BlockBuilder::take_complete`] has a block to return.
    pub fn has_complete(&self) -> bool {
        self.tail.is_some() || self.complete.bytes > 0
    }

    /// Takes a block if enough records wait for one: complete transactions, or a part of the transaction that is coming in.
    /// The caller repeats this until nothing is returned.
    pub fn take_full(&mut self) -> Option<RawBlock> {
        if self.waiting.len() < self.full {
            return None;
        }
        if let Some(block) = self.take_complete() {
            return Some(block);
        }
        let all = CutPoint { bytes: self.waiting.len(), records: self.records, frontier: self.taken };
        let flags = if self.spanning { STARTS_INSIDE | ENDS_INSIDE } else { ENDS_INSIDE };
        self.spanning = true;
        Some(self.take(all, flags))
    }

    /// Forgets the transaction that is coming in, after its connection broke. The writer cuts off parts of that transaction
    /// that were taken when the next block reaches it.
    pub fn abandon_transaction(&mut self) {
        if self.transaction.take().is_none() {
            return;
        }
        // Nothing waits but a spanning transaction that is still coming in.
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
        self.complete = CutPoint { bytes: self.waiting.len(), records: self.records, frontier };
    }

    fn take(&mut self, cut: CutPoint, flags: u8) -> RawBlock {
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
