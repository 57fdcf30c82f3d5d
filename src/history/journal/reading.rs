//! Reads a segment's blocks: each is decompressed, and its records are handed out as events.

use std::collections::VecDeque;
use std::sync::Arc;

use super::block;
use super::fault::SegmentFault;
use super::kept::KeptBlocks;
use super::peek::{PeekedMessage, peek};
use super::place::SegmentBytes;
use super::record::{Record, Records};
use super::sections::BlockExtent;
use crate::error::Result;
use crate::model::{Lsn, PgTime};

pub(super) fn read_entry(bytes: &SegmentBytes, entry: &BlockExtent) -> Result<Vec<u8>> {
    // The footer's lengths are believed only as far as the segment goes.
    let room =
        bytes.len().saturating_sub(entry.offset).min(block::LONGEST_FRAME + u64::from(entry.stored_len));
    let raw = block::read(&*bytes.object, entry.offset, room, entry.digest.as_ref()).and_then(|read| {
        let same = (read.header.raw_len, read.header.stored_len) == (entry.raw_len, entry.stored_len);
        if same { Ok(read.raw) } else { Err(SegmentFault::bad("another block than the footer says")) }
    });
    raw.map_err(|fault| bytes.fault(entry.offset, fault))
}

/// The blocks of a stretch, see [`super::Segment::blocks`].
#[derive(Debug)]
pub struct SegmentBlocks {
    pub(super) bytes: Arc<SegmentBytes>,
    pub(super) parts: VecDeque<Part>,
    pub(super) after: Lsn,
    pub(super) until: Lsn,
    pub(super) kept: Option<Arc<KeptBlocks>>,
}

impl SegmentBlocks {
    /// Keeps the blocks, and takes those that are kept.
    #[must_use]
    pub fn keeping(self, kept: &Arc<KeptBlocks>) -> SegmentBlocks {
        SegmentBlocks { kept: Some(Arc::clone(kept)), ..self }
    }

    fn read(&self, entry: &BlockExtent) -> Result<Arc<Vec<u8>>> {
        let read = || read_entry(&self.bytes, entry);
        match &self.kept {
            Some(kept) => kept.get(self.bytes.name, entry.offset, read),
            None => read().map(Arc::new),
        }
    }
}

/// A block of a stretch.
#[derive(Debug)]
pub(super) enum Part {
    Stored(BlockExtent),
    /// A block in the place of others that are not read. `first` is the position of the transaction that it begins in.
    Made {
        first: Lsn,
        raw: Vec<u8>,
    },
}

impl Part {
    /// The bytes that are read of the segment.
    pub(super) fn stored_len(&self) -> u64 {
        if let Part::Stored(entry) = self { u64::from(entry.stored_len) } else { 0 }
    }
}

impl Iterator for SegmentBlocks {
    type Item = Result<DecodedBlock>;

    fn next(&mut self) -> Option<Self::Item> {
        let (bytes, after, until) = (Arc::clone(&self.bytes), self.after, self.until);
        let block = match self.parts.pop_front()? {
            Part::Made { first, raw } => {
                let raw = Arc::new(raw);
                Ok(DecodedBlock { bytes, offset: 0, first, raw, after, until })
            }
            Part::Stored(entry) => {
                let raw = self.read(&entry);
                let (offset, first) = (entry.offset, entry.first);
                raw.map(|raw| DecodedBlock { bytes, offset, first, raw, after, until })
            }
        };
        if block.is_err() {
            self.parts.clear();
        }
        Some(block)
    }
}

/// A block's records, decompressed.
#[derive(Debug)]
pub struct DecodedBlock {
    bytes: Arc<SegmentBytes>,
    offset: u64,
    first: Lsn,
    raw: Arc<Vec<u8>>,
    after: Lsn,
    until: Lsn,
}

impl DecodedBlock {
    /// Returns the bytes of records, for a queue of blocks that is bounded by bytes.
    pub fn raw_len(&self) -> usize {
        self.raw.len()
    }

    /// Returns the records that were asked for, in order.
    pub fn events(&self) -> Events<'_> {
        self.events_from(self.start())
    }

    /// The place before the block's first record.
    pub fn start(&self) -> Place {
        // A part of a spanning transaction lies at that transaction's position.
        Place { offset: 0, wanted: self.after <= self.first && self.first < self.until, done: false }
    }

    /// The records from a place that [`DecodedBlock::start`] or [`Events::place`] returned for this block.
    pub fn events_from(&self, place: Place) -> Events<'_> {
        let records = Records::from(&self.raw, place.offset);
        Events { block: self, records, wanted: place.wanted, done: place.done }
    }

    /// The `length` bytes before a place, which are those of the last event if it was a message.
    pub fn bytes_before(&self, place: Place, length: usize) -> &[u8] {
        &self.raw[place.offset - length..place.offset]
    }
}

/// The place at which a reader of a block stopped. A place borrows nothing, so a cursor can keep it beside the block.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    offset: usize,
    wanted: bool,
    done: bool,
}

/// One record, borrowed from its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A Relation message that came before the transactions that were asked for, and is in force.
    Relation(&'a [u8]),
    /// A pgoutput message as received.
    Message(&'a [u8]),
    /// Nothing was committed up to `lsn`, as of the server's time `time`.
    Idle { lsn: Lsn, time: PgTime },
}

/// The events of a block, see [`DecodedBlock::events`].
pub struct Events<'a> {
    block: &'a DecodedBlock,
    records: Records<'a>,
    wanted: bool,
    done: bool,
}

impl<'a> Events<'a> {
    /// The place behind the last event that was returned.
    pub fn place(&self) -> Place {
        Place { offset: self.records.offset(), wanted: self.wanted, done: self.done }
    }

    fn message(&mut self, message: &'a [u8]) -> Option<Event<'a>> {
        match message.first() {
            // Only these messages can begin a new position, or count in a stretch that was not asked for.
            Some(b'B' | b'M' | b'R') => {}
            _ => return self.wanted.then_some(Event::Message(message)),
        }
        match peek(message) {
            Some(PeekedMessage::Begin { commit_lsn: position, .. })
            | Some(PeekedMessage::Logical { transactional: false, lsn: position, .. }) => {
                self.done = position >= self.block.until;
                self.wanted = position >= self.block.after;
            }
            Some(PeekedMessage::Relation { .. }) if !self.wanted => return Some(Event::Relation(message)),
            _ => {}
        }
        (self.wanted && !self.done).then_some(Event::Message(message))
    }
}

impl<'a> Iterator for Events<'a> {
    type Item = Result<Event<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.done {
            let event = match self.records.next()? {
                Ok(Record::Relation(message)) => Some(Event::Relation(message)),
                Ok(Record::Idle { lsn, time }) => {
                    self.done = lsn >= self.block.until;
                    (lsn >= self.block.after && !self.done).then_some(Event::Idle { lsn, time })
                }
                Ok(Record::Message(message)) => self.message(message),
                Err(fault) => return Some(Err(self.block.bytes.fault(self.block.offset, fault))),
            };
            if let Some(event) = event {
                return Some(Ok(event));
            }
        }
        None
    }
}
