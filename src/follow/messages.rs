//! The journal's messages in commit order, one at a time.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::event::Transaction;
use crate::error::{Context, Error, Kind, Result};
use crate::history::journal::{ChosenBlocks, DecodedBlock, Event, Place, Segment};
use crate::history::timeline::SegmentView;
use crate::model::{Lsn, PgTime};

/// The number of decompressed blocks that may wait for the reader.
const BLOCKS_WAITING: usize = 4;

/// A cursor over the raw messages of the transactions that committed between two positions.
pub(super) struct Messages {
    segments: Vec<SegmentView>,
    after: Lsn,
    until: Lsn,
    only: Arc<ChosenBlocks>,
    /// `None` until the first message is asked for.
    decompression: Option<Decompression>,
    block: Option<JournalBlock>,
    place: Option<Place>,
    /// The position of the last transaction's entry in the segment's list, plus one: transactions come in that order.
    next_entry: usize,
    blocks_read: u64,
}

/// A message as the server sent it.
pub(super) enum RawMessage<'a> {
    /// A Relation message from before the transactions that were asked for. It is in force.
    InForce(&'a [u8]),
    InTransaction(&'a [u8]),
}

impl Messages {
    /// The messages of the transactions whose commits lie from `after` to before `until`.
    pub fn new(segments: &[SegmentView], after: Lsn, until: Lsn) -> Messages {
        let holds = |view: &&SegmentView| view.summary.start < until && view.summary.end > after;
        Messages {
            segments: segments.iter().filter(holds).cloned().collect(),
            after,
            until,
            only: Arc::default(),
            decompression: None,
            block: None,
            place: None,
            next_entry: 0,
            blocks_read: 0,
        }
    }

    /// Reads only some blocks of some segments. A segment of which no block is read is not opened either.
    pub fn only(mut self, blocks: &ChosenBlocks) -> Messages {
        let only = Arc::make_mut(&mut self.only);
        for (name, chosen) in blocks {
            let known = only.entry(*name).or_insert_with(|| chosen.clone());
            known.retain(|number| chosen.binary_search(number).is_ok());
        }
        self.segments.retain(|view| only.get(&view.name).is_none_or(|chosen| !chosen.is_empty()));
        self
    }

    /// The number of blocks from which messages have been returned so far.
    pub fn blocks_read(&self) -> u64 {
        self.blocks_read
    }

    /// The next message; `None` behind the last one.
    ///
    /// # Errors
    /// `Damaged` if a block is.
    pub fn next_message(&mut self) -> Result<Option<RawMessage<'_>>> {
        // A message cannot be returned from inside a loop that may replace the block, so its length is noted first.
        let (length, in_force) = loop {
            match self.next_in_block().transpose()? {
                Some(found) => break found,
                None => {
                    if !self.next_block()? {
                        return Ok(None);
                    }
                }
            }
        };
        let (Some(block), Some(place)) = (&self.block, self.place) else { return Ok(None) };
        let bytes = block.decoded.bytes_before(place, length);
        Ok(Some(if in_force { RawMessage::InForce(bytes) } else { RawMessage::InTransaction(bytes) }))
    }

    /// The length of the block's next message, and whether the message is from before the transactions.
    #[inline]
    fn next_in_block(&mut self) -> Option<Result<(usize, bool)>> {
        let (block, place) = (self.block.as_ref()?, self.place?);
        let mut events = block.decoded.events_from(place);
        let found = loop {
            match events.next()? {
                Ok(Event::Message(bytes)) => break Ok((bytes.len(), false)),
                Ok(Event::Relation(bytes)) => break Ok((bytes.len(), true)),
                Ok(Event::Idle { .. }) => {}
                Err(error) => break Err(error),
            }
        };
        self.place = Some(events.place());
        Some(found)
    }

    fn next_block(&mut self) -> Result<bool> {
        let decompression = match &mut self.decompression {
            Some(started) => started,
            none => {
                let segments = std::mem::take(&mut self.segments);
                none.insert(Decompression::start(segments, self.after, self.until, Arc::clone(&self.only))?)
            }
        };
        let Some(next) = decompression.next_block()? else {
            (self.block, self.place) = (None, None);
            return Ok(false);
        };
        if self.block.as_ref().is_none_or(|block| !Arc::ptr_eq(&block.segment, &next.segment)) {
            self.next_entry = 0;
        }
        self.place = Some(next.decoded.start());
        self.block = Some(next);
        self.blocks_read += 1;
        Ok(true)
    }

    /// The transaction that begins with the message that was just returned.
    ///
    /// # Errors
    /// `Damaged` if its segment does not list it.
    pub fn transaction(&mut self, lsn: Lsn, time: PgTime, xid: u32) -> Result<Transaction> {
        let entries = self.block.as_ref().map_or(&[][..], |block| block.segment.transactions());
        if entries.get(self.next_entry).is_none_or(|entry| entry.commit_lsn != lsn) {
            self.next_entry = entries.partition_point(|entry| entry.commit_lsn < lsn);
        }
        let entry = entries.get(self.next_entry).filter(|entry| entry.commit_lsn == lsn);
        let end_lsn = entry.map(|entry| entry.end_lsn).ok_or_else(|| {
            Error::damage_met(format_args!(
                "the transaction at {lsn} is not in its segment's list of transactions"
            ))
        })?;
        self.next_entry += 1;
        Ok(Transaction { lsn, end_lsn, time, xid })
    }
}

/// A decompressed block, and the segment that holds it.
struct JournalBlock {
    segment: Arc<Segment>,
    decoded: DecodedBlock,
}

/// A thread that decompresses blocks while the reader decodes their messages.
struct Decompression {
    /// `None` once the thread has ended.
    blocks: Option<Receiver<Result<JournalBlock>>>,
    thread: Option<JoinHandle<()>>,
}

impl Decompression {
    fn start(
        segments: Vec<SegmentView>,
        after: Lsn,
        until: Lsn,
        only: Arc<ChosenBlocks>,
    ) -> Result<Decompression> {
        let (sender, blocks) = sync_channel(BLOCKS_WAITING);
        let work = move || decompress(&segments, after, until, &only, &sender);
        let thread = std::thread::Builder::new().name("journal".into()).spawn(work);
        let thread = thread.context(Kind::Unavailable, || "cannot start a thread".into())?;
        Ok(Decompression { blocks: Some(blocks), thread: Some(thread) })
    }

    /// The next block; `None` behind the last one.
    fn next_block(&mut self) -> Result<Option<JournalBlock>> {
        if let Some(received) = self.blocks.as_ref().and_then(|blocks| blocks.recv().ok()) {
            return received.map(Some);
        }
        // The blocks also end if the thread panicked, and then the last ones are missing.
        match self.end() {
            Ok(()) => Ok(None),
            Err(_) => Err(Error::internal("the thread that reads the journal failed; please report this")),
        }
    }

    fn end(&mut self) -> std::thread::Result<()> {
        self.blocks = None;
        self.thread.take().map_or(Ok(()), JoinHandle::join)
    }
}

impl Drop for Decompression {
    /// Waits for the thread, so that nothing reads the history once its reader is gone.
    fn drop(&mut self) {
        let _ = self.end();
    }
}

fn decompress(
    segments: &[SegmentView],
    after: Lsn,
    until: Lsn,
    only: &ChosenBlocks,
    sender: &SyncSender<Result<JournalBlock>>,
) {
    for view in segments {
        let segment = match view.open() {
            Ok(segment) => segment,
            Err(error) => return drop(sender.send(Err(error))),
        };
        for block in view.blocks(&segment, after, until, only.get(&view.name)) {
            let block = block.map(|decoded| JournalBlock { segment: Arc::clone(&segment), decoded });
            // The reader is gone if nobody receives the block.
            if sender.send(block).is_err() {
                return;
            }
        }
    }
}
