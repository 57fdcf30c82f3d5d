//! Checkpoint + the journal after it up to a moment → the rows at that moment.
//!
//! The journal is read once. For each row that it touches only the last version is kept, beside
//! the table's image; image and delta are merged when the rows are wanted. Where the deltas outgrow
//! their budget, the largest is merged into an intermediate image on local disk and begun anew, so
//! memory is bounded whatever the length of the journal.

mod apply;
mod definitions;
mod delta;
mod mapping;
mod merge;
mod naming;
mod reshape;
mod retelling;
mod stride;
mod sum;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;

pub use definitions::{tables_after, untold_tables};
pub use merge::Rows;
pub use retelling::is_of_values;
pub use stride::Image as ImageRows;
pub use sum::Sum;

use crate::codec::key::KeyShape;
use crate::error::{Context, Error, Kind, Result};
use crate::history::catalog::Catalog;
use crate::history::checkpoint::{Checkpoint, TableEntry};
use crate::history::definitions::SchemaKnown;
use crate::history::image::{self, BlockEntry, Blocks, TableImage};
use crate::history::journal::DecodedBlock;
use crate::history::timeline::SegmentView;
use crate::model::SequenceState;
use crate::model::{Inexact, Lsn, Table};
use crate::progress::{Progress, Unit};
use crate::signal::DefinitionChange;
use crate::signal::key::MessageKey;
use apply::Applier;
use delta::{BagDelta, KeyedDelta};
use merge::Base;
use reshape::{Reshape, Reshaped};

/// Decompressed blocks that may wait for the decoder.
const BLOCKS_WAITING: usize = 4;

/// What to fold.
pub struct Request<'a> {
    pub catalog: &'a Arc<Catalog>,
    /// The blocks of the base's images.
    pub blocks: &'a Blocks,
    pub base: &'a Checkpoint,
    /// The transactions that committed from the base's position to before this one.
    pub until: Lsn,
    /// Where the definitions matter: before `until`, if that is only the first commit after a time.
    pub definitions_at: Lsn,
    /// The segments that hold them and what comes after, in order.
    pub segments: &'a [SegmentView],
    /// Tells our own messages in the journal from others.
    pub key: &'a MessageKey,
    /// Tables that matter; the others are left out.
    pub wanted: &'a dyn Fn(&Table) -> bool,
    /// Bytes that all deltas together may take.
    pub budget: usize,
    /// Where a folder for intermediate images is made.
    pub scratch: &'a Path,
    pub progress: &'a dyn Progress,
}

/// The database at a moment, as images with what happened since.
pub struct Folded {
    pub tables: Vec<FoldedTable>,
    pub sequences: Vec<SequenceState>,
    /// The sequences were read no earlier than this; before `until` if no sample follows it.
    pub sequences_sampled: Lsn,
    /// By oid: those that were set back between the moment and that sample.
    pub sequences_set_back: BTreeSet<u32>,
    pub transactions: u64,
    /// Rows inserted, updated or deleted by those transactions.
    pub changes: u64,
    /// Whether heartbeats, up to the first one after the moment, saw a change of definitions that nothing
    /// had told of.
    pub definitions: SchemaKnown,
    /// What the source's triggers told of them, between the base and the moment.
    pub definition_changes: Vec<DefinitionChange>,
    pub inexact: Vec<Inexact>,
    /// Holds the intermediate images until the rows are read.
    _scratch: Option<Arc<TempDir>>,
}

/// One table at a moment.
pub struct FoldedTable {
    pub table: Table,
    /// As the base, or a later intermediate image, has it.
    image: TableImage,
    blocks: Blocks,
    /// Of the image and the delta; that of `table` once `reshape` is applied.
    shape: KeyShape,
    delta: Delta,
    /// Truncated since the image: nothing of it counts any more.
    cleared: bool,
    touched: bool,
    /// From the lines of image and delta to those of `table`.
    reshape: Option<Reshape>,
    /// On the way to `table`'s lines a value could not be read.
    unreadable: bool,
    /// The table is gone by now.
    dropped: bool,
}

enum Delta {
    Keyed(KeyedDelta),
    Bag(BagDelta),
}

/// Reads the journal once and folds it over the base.
///
/// # Errors
/// `Damaged` if the journal or the image is, or if they contradict each other.
pub fn fold(request: &Request<'_>) -> Result<Folded> {
    let mut applier = Applier::new(request, request.blocks);
    request.progress.phase("folding", 0, Unit::Transactions);
    let (after, until) = (request.base.lsn, request.until);
    each_block(request, after, until, &mut |block| {
        let before = applier.transactions;
        for event in block.events() {
            applier.event(event?)?;
        }
        request.progress.advance(applier.transactions - before);
        applier.keep_within_budget(request)?;
        Ok(true)
    })?;
    // A sequence is known at a moment by its first sample after it, and so are the definitions.
    each_block(request, until, Lsn::MAX, &mut |block| {
        if applier.knows_all() {
            return Ok(false);
        }
        for event in block.events() {
            applier.look_after(event?)?;
            // What comes later is no news of this moment.
            if applier.knows_all() {
                return Ok(false);
            }
        }
        Ok(true)
    })?;
    applier.finish()
}

/// Decompresses blocks in one thread while `visit` decodes them in this one; `visit` returns
/// whether to go on.
fn each_block(
    request: &Request<'_>,
    after: Lsn,
    until: Lsn,
    visit: &mut dyn FnMut(DecodedBlock) -> Result<bool>,
) -> Result<()> {
    // The others hold no transaction between the two.
    let holds = |view: &&SegmentView| view.summary.start < until && view.summary.end > after;
    let segments = request.segments.iter().filter(holds);
    let (sender, receiver) = std::sync::mpsc::sync_channel(BLOCKS_WAITING);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for view in segments {
                let blocks = match view.open() {
                    Ok(segment) => segment.blocks(after, until),
                    Err(error) => return drop(sender.send(Err(error))),
                };
                for block in blocks {
                    // The other side stopped: it has what it wanted, or failed.
                    if sender.send(block).is_err() {
                        return;
                    }
                }
            }
        });
        // Taken by value, so that the reader sees it go when this side returns early.
        let receiver = receiver;
        for block in &receiver {
            if !visit(block?)? {
                break;
            }
        }
        drop(receiver);
        Ok(())
    })
}

impl FoldedTable {
    /// The image to take as it is, if nothing happened to the table.
    pub fn untouched(&self) -> Option<&TableImage> {
        (!self.touched && !self.cleared && self.reshape.is_none()).then_some(&self.image)
    }

    /// Rows and bytes of the image: a guess at how much there is to hand on.
    pub fn size_hint(&self) -> (u64, u64) {
        if self.cleared { (0, 0) } else { (self.image.rows, self.image.bytes) }
    }

    /// The raw lines of a whole block.
    ///
    /// # Errors
    /// `Damaged` if it is.
    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// The blocks of the image, as far as they still count.
    ///
    /// # Errors
    /// `Damaged` if the index is.
    pub fn index(&self) -> Result<Vec<BlockEntry>> {
        if self.cleared { Ok(Vec::new()) } else { image::read_index(&self.blocks, &self.image.index) }
    }

    /// Hands on the table's rows in key order.
    ///
    /// # Errors
    /// `Damaged` if a block is, or if the journal contradicts the image; the receiver's own.
    pub fn emit(mut self, rows: &mut dyn Rows) -> Result<()> {
        match self.reshape.take() {
            None => self.emit_unshaped(rows),
            Some(reshape) if reshape.keeps_keys => self.emit_unshaped(&mut Reshaped::new(&reshape, rows)),
            Some(_) => Err(Error::internal("a table with another key was not sorted anew")),
        }
    }

    /// Hands on the rows as image and delta have them.
    fn emit_unshaped(self, rows: &mut dyn Rows) -> Result<()> {
        let index = self.index()?;
        let name = self.table.display();
        let base = Base { table: &name, shape: &self.shape, index: &index, blocks: &self.blocks };
        match self.delta {
            Delta::Keyed(delta) => base.merge_keyed(delta, rows),
            Delta::Bag(delta) => base.merge_bag(delta, rows),
        }
    }

    fn new(entry: &TableEntry, blocks: &Blocks) -> FoldedTable {
        let shape = KeyShape::of(&entry.table);
        FoldedTable {
            table: entry.table.clone(),
            image: entry.image,
            blocks: blocks.clone(),
            delta: Delta::of(&shape),
            shape,
            cleared: false,
            touched: false,
            reshape: None,
            unreadable: false,
            dropped: false,
        }
    }

    /// The rows of an image without some and with others, given as lines.
    ///
    /// # Errors
    /// `Internal` if a line is no row of the table.
    pub fn replaced(
        entry: &TableEntry,
        blocks: &Blocks,
        gone: &[Vec<u8>],
        new: &[Vec<u8>],
    ) -> Result<FoldedTable> {
        let mut table = FoldedTable::new(entry, blocks);
        let shape = table.shape.clone();
        let key_of = |line: &[u8], key: &mut Vec<u8>| {
            key.clear();
            let keyed = shape.push_key(line, key);
            keyed.ok_or_else(|| Error::internal(format!("a row of {} has no key", entry.table.display())))
        };
        let mut key = Vec::new();
        // First all that goes: what comes may have the same key.
        for line in gone {
            key_of(line, &mut key)?;
            match &mut table.delta {
                Delta::Keyed(delta) => delta.delete(&key),
                Delta::Bag(delta) => delta.delete(&key),
            }
        }
        for line in new {
            key_of(line, &mut key)?;
            let inserted = match &mut table.delta {
                Delta::Keyed(delta) => delta.insert(&key, line),
                Delta::Bag(delta) => delta.insert(&key, line),
            };
            inserted
                .context(Kind::Internal, || format!("a row of {} is not whole", entry.table.display()))?;
        }
        table.touched = !gone.is_empty() || !new.is_empty();
        Ok(table)
    }

    /// A table that was made after the base, without rows yet.
    fn made(table: Table, blocks: &Blocks) -> FoldedTable {
        let image = TableImage::default();
        FoldedTable { cleared: true, ..FoldedTable::new(&TableEntry { table, image }, blocks) }
    }

    fn delta_bytes(&self) -> usize {
        match &self.delta {
            Delta::Keyed(delta) => delta.bytes(),
            Delta::Bag(delta) => delta.bytes(),
        }
    }

    /// Nothing that was there counts any more, so there is nothing to reshape either.
    fn truncate(&mut self) {
        self.cleared = true;
        self.reshape = None;
        self.unreadable = false;
        self.shape = KeyShape::of(&self.table);
        self.delta = Delta::of(&self.shape);
    }
}

impl Delta {
    fn of(shape: &KeyShape) -> Delta {
        match shape {
            KeyShape::Columns(_) => Delta::Keyed(KeyedDelta::default()),
            KeyShape::WholeRow => Delta::Bag(BagDelta::default()),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Delta::Keyed(delta) => delta.bytes() == 0,
            Delta::Bag(delta) => delta.bytes() == 0,
        }
    }
}

fn scratch_folder(parent: &Path) -> Result<TempDir> {
    crate::ambient::private_folder(parent, "backwhen-fold-")
        .context(Kind::Unavailable, || format!("cannot make a scratch folder in {}", parent.display()))
}

/// A journal that cannot be decoded.
fn undecodable(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>, at: Lsn) -> Error {
    Error::damaged(format!("the transaction at {at} in the journal cannot be decoded")).caused_by(cause)
}

/// What differs between a table's image and the stream's description of it, for people.
pub fn differences(table: &Table, relation: &crate::model::Relation) -> Vec<String> {
    mapping::Mapping::of(table, relation).differences
}
