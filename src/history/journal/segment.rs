//! Reads a segment, open or sealed, while a writer may be appending to it or sealing it.

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::block;
use super::counts::{ChangeCount, Counts};
use super::fault::{self, SegmentFault};
use super::footer::{self, Footer};
use super::index::Index;
use super::lookup::{ChangeIndex, ChangeIndexBuilder, FilterForm, SoughtRows};
use super::name::{SegmentHeader, SegmentName};
use super::parts::Parts;
use super::peek::peek;
use super::place::{Journal, SegmentBytes};
use super::reading::{Event, Part, SegmentBlocks, read_entry};
use super::record::{Record, Records};
use super::relations::Relations;
use super::sections::encode_blocks;
use super::summary::{SegmentSummary, TransactionEntry};
use super::walk::{Tail, WalkedBlock, WalkedTo, walk_from};
use crate::error::{Kind, Result};
use crate::history::key::{Digest, digest_of};
use crate::model::Lsn;

/// A reader reads an open segment at most this often if it seems damaged, as its writer may be cutting it just then.
const LOOKS: u32 = 3;

/// A segment as it was when it was opened. Of an open segment, only the part up to its last complete transaction counts.
#[derive(Debug)]
pub struct Segment {
    bytes: Arc<SegmentBytes>,
    header: SegmentHeader,
    footer: Footer,
    in_force_at_end: Relations,
    /// How far an open segment was read.
    growth: Option<Growth>,
    /// The number, with its epoch, of the last transaction of an open segment that told sequences.
    number: Option<u64>,
}

/// The end of an open segment, from which its reader can go on when the segment has grown.
#[derive(Clone, Debug)]
struct Growth {
    index: Index,
    end: WalkedTo,
}

impl Segment {
    /// Opens the segment in either form, whichever `name` says, since an open segment may be sealed at any moment. With a
    /// key, no record is believed that was not written by a holder of the key, neither now nor when it is read later.
    ///
    /// # Errors
    /// `Damaged` if its bytes or tags do not check, `Refused` if it is of a newer version, `Unavailable`
    /// if it is not there or cannot be read.
    pub fn open(journal: &Journal, name: SegmentName) -> Result<Segment> {
        let segment = Segment::open_either(journal, name)?;
        // Tests count these lines.
        tracing::trace!("opened {}", segment.place());
        Ok(segment)
    }

    fn open_either(journal: &Journal, name: SegmentName) -> Result<Segment> {
        let (open, sealed) = (name.form(false), name.form(true));
        if journal.holds(sealed)? {
            match Segment::open_sealed(journal, sealed) {
                Err(error) if error.kind() == Kind::Damaged && journal.holds(open)? => {}
                result => return result,
            }
        }
        match Segment::open_unsealed(journal, open) {
            // The segment was sealed, and the open file removed, since the look above.
            Err(error) if error.kind() == Kind::Unavailable && journal.holds(sealed)? => {
                Segment::open_sealed(journal, sealed)
            }
            result => result,
        }
    }

    pub(super) fn open_sealed(journal: &Journal, name: SegmentName) -> Result<Segment> {
        let bytes = journal.open(name)?;
        let (header, key) = bytes.begin(&journal.authorship)?;
        let (footer, _) = footer::read_checked(&bytes, key.as_ref())?;
        let mut in_force_at_end = Relations::default();
        let bytes = Arc::new(bytes);
        let mut segment = Segment {
            bytes,
            header,
            footer,
            in_force_at_end: Relations::default(),
            growth: None,
            number: None,
        };
        segment.relations().for_each(|message| {
            in_force_at_end.tell(message);
        });
        segment.in_force_at_end = in_force_at_end;
        Ok(segment)
    }

    pub(super) fn open_unsealed(journal: &Journal, name: SegmentName) -> Result<Segment> {
        let mut looks = 1;
        loop {
            match Segment::scan(journal, name) {
                // The writer may have cut off an unfinished transaction while the file was read.
                Err(error) if error.kind() == Kind::Damaged && looks < LOOKS => {
                    thread::sleep(Duration::from_millis(20));
                    looks += 1;
                }
                result => return result,
            }
        }
    }

    /// Opens the segment as it is now. Of a segment that is still written to, only what came since is read.
    ///
    /// # Errors
    /// The errors of [`Segment::open`].
    pub fn reopen(&self, journal: &Journal) -> Result<Segment> {
        let name = self.name();
        match &self.growth {
            Some(growth) if !journal.holds(name.form(true))? => {
                Segment::scan_on(journal, name, growth.clone()).or_else(|_| Segment::open(journal, name))
            }
            _ => Segment::open(journal, name),
        }
    }

    /// Reads the open form once, without regard to its writer.
    pub(super) fn scan(journal: &Journal, name: SegmentName) -> Result<Segment> {
        let growth = Growth { index: Index::new(name.epoch, name.start), end: WalkedTo::start(name.start) };
        Segment::scan_on(journal, name, growth)
    }

    fn scan_on(journal: &Journal, name: SegmentName, from: Growth) -> Result<Segment> {
        let bytes = journal.open(name)?;
        let (header, key) = bytes.begin(&journal.authorship)?;
        let walk = walk_from(&*bytes.object, from.end, bytes.len(), key.as_ref());
        let end = walk.end();
        match walk.tail {
            Tail::Whole | Tail::Incomplete | Tail::Torn => {}
            Tail::Damaged { offset, what } => return Err(bytes.fault(offset, SegmentFault::Bad(what))),
            Tail::Newer => return Err(fault::newer(&bytes.place)),
        }
        let mut index = from.index;
        for WalkedBlock { offset, digest, .. } in walk.blocks {
            block::read(&*bytes.object, offset, walk.complete_len - offset, digest.as_ref())
                .and_then(|read| index.block(offset, &read.header, &read.raw, digest))
                .map_err(|fault| bytes.fault(offset, fault))?;
        }
        let (growth, number) = (Some(Growth { index: index.clone(), end }), index.number());
        let (footer, in_force_at_end) = index.finish();
        Ok(Segment { bytes: Arc::new(bytes), header, footer, in_force_at_end, growth, number })
    }

    /// The segment's name, in the form in which it was opened.
    pub fn name(&self) -> SegmentName {
        self.bytes.name
    }

    /// Says where the segment lies, for messages.
    pub fn place(&self) -> &str {
        &self.bytes.place
    }

    /// How many bytes the segment had when it was opened.
    pub fn size(&self) -> u64 {
        self.bytes.len()
    }

    pub fn is_sealed(&self) -> bool {
        self.bytes.name.sealed
    }

    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    pub fn summary(&self) -> &SegmentSummary {
        &self.footer.summary
    }

    /// The number, with its epoch, of the last transaction of an open segment that told sequences.
    pub fn last_number(&self) -> Option<u64> {
        self.number
    }

    /// Returns the transactions in commit order.
    pub fn transactions(&self) -> &[TransactionEntry] {
        &self.footer.transactions
    }

    /// Returns the footer; for an open segment, the footer that it would get if it were sealed now.
    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    /// Makes the index of changes from the blocks of a segment that an earlier version sealed without one.
    ///
    /// # Errors
    /// `Damaged` for a bad block.
    pub fn index_changes(&self) -> Result<ChangeIndex> {
        self.index_changes_in(FilterForm::default())
    }

    pub(super) fn index_changes_in(&self, form: FilterForm) -> Result<ChangeIndex> {
        let mut changes = ChangeIndexBuilder::new(form);
        self.footer.relations_at_start.iter().for_each(|message| changes.relation(message));
        for (number, entry) in self.footer.blocks.iter().enumerate() {
            let raw = self.raw_block(number)?;
            for record in Records::new(&raw) {
                let record = record.map_err(|fault| self.bytes.fault(entry.offset, fault))?;
                if let Record::Message(message) = record
                    && let Some(peeked) = peek(message)
                {
                    changes.message(message, &peeked);
                }
            }
            changes.end_block();
        }
        Ok(changes.finish())
    }

    /// Returns the transactions in commit order, each with its counts in `changes`, the index of this segment. A transaction
    /// has none if the index is cut short.
    pub fn counted_transactions<'a>(
        &'a self,
        changes: &'a ChangeIndex,
    ) -> impl Iterator<Item = (&'a TransactionEntry, Option<Vec<ChangeCount>>)> {
        let mut counts = changes.counts();
        let transactions = self.footer.transactions.iter();
        transactions.map(move |entry| (entry, counts.as_mut().and_then(Counts::next_transaction)))
    }

    /// Returns the numbers of the blocks that hold schema changes, and of the blocks that hold changes of the wanted tables
    /// in transactions that committed within a range. `changes` is the index of this segment.
    pub fn blocks_that_change(
        &self,
        changes: &ChangeIndex,
        commits: &Range<Lsn>,
        is_wanted: &dyn Fn(u32) -> bool,
    ) -> Vec<u32> {
        let mut chosen: BTreeSet<_> = changes.blocks_with(&SoughtRows::none()).into_iter().collect();
        for (entry, changed) in self.counted_transactions(changes) {
            // A transaction of which the counts tell nothing is read.
            let matters = changed.is_none_or(|changed| changed.iter().any(|it| is_wanted(it.oid)));
            if matters && commits.contains(&entry.commit_lsn) {
                chosen.insert(entry.block);
                let behind = self.footer.blocks.iter().zip(0..).skip(entry.block as usize + 1);
                let goes_on = behind.take_while(|(block, _)| block.first == entry.commit_lsn);
                chosen.extend(goes_on.map(|(_, number)| number));
            }
        }
        chosen.into_iter().collect()
    }

    /// Returns a digest of the segment's content and of the places of its blocks.
    pub fn blocks_digest(&self) -> Digest {
        let blocks = encode_blocks(&self.footer.blocks);
        digest_of([self.footer.summary.content.as_bytes(), &blocks].into_iter())
    }

    /// Returns the Relation messages that are in force at the start, or come within the segment.
    pub fn relations(&self) -> impl Iterator<Item = &Vec<u8>> {
        let within = self.footer.relation_messages.iter().map(|(_, message)| message);
        self.footer.relations_at_start.iter().chain(within)
    }

    /// Returns the Relation messages in force at the end of the segment, as received.
    pub fn relations_at_end(&self) -> impl Iterator<Item = &[u8]> {
        self.in_force_at_end.messages()
    }

    pub(super) fn in_force_at_end(&self) -> &Relations {
        &self.in_force_at_end
    }

    /// Returns the decompressed blocks that hold positions from `after` to before `until`, behind a block that is made of the
    /// Relation messages in force before them. Other blocks are not read. The iterator borrows nothing, so it can work in
    /// another thread than the one that decodes.
    pub fn blocks(&self, after: Lsn, until: Lsn) -> SegmentBlocks {
        self.some_blocks(after, until, |_| true)
    }

    /// Returns only some of these blocks. What the others tell of relations, and of the beginning and the end of
    /// transactions in the blocks that are read, comes in their place.
    pub fn some_blocks(&self, after: Lsn, until: Lsn, is_wanted: impl Fn(u32) -> bool) -> SegmentBlocks {
        let parts = Parts::of(&self.footer, after, until).choose(is_wanted);
        // Tests count these bytes.
        let bytes: u64 = parts.iter().map(Part::stored_len).sum();
        tracing::trace!("reading {bytes} of {} bytes of {}", self.size(), self.place());
        SegmentBlocks { bytes: Arc::clone(&self.bytes), parts, after, until, kept: None }
    }

    /// Hands over, in order, every record at positions from `after` to before `until`: the whole transactions with such
    /// commit LSNs, and idle marks. Every Relation message before and between them is handed over too.
    ///
    /// # Errors
    /// `Damaged` for a bad block; otherwise the error of the visitor.
    pub fn read(
        &self,
        after: Lsn,
        until: Lsn,
        visitor: &mut dyn FnMut(Event<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        for block in self.blocks(after, until) {
            let block = block?;
            for event in block.events() {
                if visitor(event?)?.is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Reads the records of one block.
    pub(super) fn raw_block(&self, number: usize) -> Result<Vec<u8>> {
        read_entry(&self.bytes, &self.footer.blocks[number])
    }
}
