//! Reads a segment, open or sealed, while a writer may be appending to it or sealing it.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::block;
use super::fault::{self, SegmentFault};
use super::footer::{self, Footer};
use super::index::Index;
use super::name::{SegmentHeader, SegmentName};
use super::place::{Journal, SegmentBytes};
use super::reading::{Event, SegmentBlocks, read_entry};
use super::record;
use super::relations::Relations;
use super::summary::{SegmentSummary, TransactionEntry};
use super::walk::{Tail, WalkedBlock, walk};
use crate::error::{Kind, Result};
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
        let within = footer.relation_messages.iter().map(|(_, message)| message);
        for message in footer.relations_at_start.iter().chain(within) {
            in_force_at_end.tell(message);
        }
        Ok(Segment { bytes: Arc::new(bytes), header, footer, in_force_at_end })
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

    /// Reads the open form once, without regard to its writer.
    pub(super) fn scan(journal: &Journal, name: SegmentName) -> Result<Segment> {
        let bytes = journal.open(name)?;
        let (header, key) = bytes.begin(&journal.authorship)?;
        let walk = walk(&*bytes.object, header.start, bytes.len(), key.as_ref());
        match walk.tail {
            Tail::Whole | Tail::Incomplete | Tail::Torn => {}
            Tail::Damaged { offset, what } => return Err(bytes.fault(offset, SegmentFault::Bad(what))),
            Tail::Newer => return Err(fault::newer(&bytes.place)),
        }
        let mut index = Index::new(header.epoch, header.start);
        for WalkedBlock { offset, digest, .. } in walk.blocks {
            block::read(&*bytes.object, offset, walk.complete_len - offset, digest.as_ref())
                .and_then(|read| index.block(offset, &read.header, &read.raw, digest))
                .map_err(|fault| bytes.fault(offset, fault))?;
        }
        let (footer, in_force_at_end) = index.finish();
        Ok(Segment { bytes: Arc::new(bytes), header, footer, in_force_at_end })
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

    /// Returns the transactions in commit order.
    pub fn transactions(&self) -> &[TransactionEntry] {
        &self.footer.transactions
    }

    /// Returns the footer; for an open segment, the footer that it would get if it were sealed now.
    pub fn footer(&self) -> &Footer {
        &self.footer
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
        let blocks = &self.footer.blocks;
        let from = blocks.partition_point(|block| block.last < after);
        let to = blocks.partition_point(|block| block.first < until).max(from);
        let entries = VecDeque::from(blocks[from..to].to_vec());
        let mut relations = Vec::new();
        let skipped = self.footer.relation_messages.iter().take_while(|(block, _)| (*block as usize) < from);
        for message in self.footer.relations_at_start.iter().chain(skipped.map(|(_, message)| message)) {
            record::put_relation(&mut relations, message);
        }
        SegmentBlocks { bytes: Arc::clone(&self.bytes), relations: Some(relations), entries, after, until }
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
