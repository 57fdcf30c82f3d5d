//! One table at a moment.

use std::sync::Arc;

use super::delta::{Contradiction, Delta, Latest};
use super::range::KeyRange;
use super::rows::TableRows;
use super::source::RowSource;
use crate::codec::key::KeyShape;
use crate::error::{Context, Error, Kind, Result};
use crate::follow::{Reshape, RowChange};
use crate::history::checkpoint::TableEntry;
use crate::history::image::{self, BlockEntry, Blocks, ScratchImages, TableImage};
use crate::model::Table;

/// One table at a moment: its definition, and what its rows are made of.
#[derive(Clone)]
pub struct FoldedTable {
    pub table: Table,
    pub(super) blocks: Blocks,
    pub(super) standing: Standing,
    /// The folder that holds an intermediate image, as long as the table lives.
    pub(super) scratch: Option<Arc<ScratchImages>>,
}

/// The parts from which a table's rows are made.
#[derive(Clone)]
pub(super) enum Standing {
    /// The rows are those of the base's image.
    Untouched(TableImage),
    /// The rows are those of an image, changed by the delta. Then `reshape` makes them rows of the table as it is now.
    Changed {
        image: TableImage,
        delta: Delta,
        reshape: Option<Reshape>,
        /// Whether a value of a row in the image could not be read when its text should have changed.
        is_unreadable: bool,
    },
    /// The table was made or truncated after the base: its rows are those of the delta, and then `reshape` as above.
    Cleared { delta: Delta, reshape: Option<Reshape> },
}

impl FoldedTable {
    pub(super) fn new(entry: &TableEntry, blocks: &Blocks) -> FoldedTable {
        let standing = Standing::Untouched(entry.image);
        FoldedTable { table: entry.table.clone(), blocks: blocks.clone(), standing, scratch: None }
    }

    /// A table that was made after the base, without rows yet.
    pub(super) fn made(table: Table, blocks: &Blocks) -> FoldedTable {
        let standing = Standing::Cleared { delta: Delta::new(KeyShape::of(&table)), reshape: None };
        FoldedTable { table, blocks: blocks.clone(), standing, scratch: None }
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
        let shape = KeyShape::of(&entry.table);
        let key_of = |line: &[u8], key: &mut Vec<u8>| {
            key.clear();
            let keyed = shape.push_key(line, key);
            keyed.ok_or_else(|| Error::internal(format!("a row of {} has no key", entry.table.display())))
        };
        let mut key = Vec::new();
        // All rows go before one comes, since a new row may have the key of an old one.
        for line in gone {
            key_of(line, &mut key)?;
            table.delta().delete(&key);
        }
        for line in new {
            key_of(line, &mut key)?;
            let inserted = table.delta().insert(&key, line);
            inserted
                .context(Kind::Internal, || format!("a row of {} is not whole", entry.table.display()))?;
        }
        Ok(table)
    }

    /// The base's image, if nothing has happened to the table since.
    pub fn untouched(&self) -> Option<&TableImage> {
        match &self.standing {
            Standing::Untouched(image) => Some(image),
            Standing::Changed { .. } | Standing::Cleared { .. } => None,
        }
    }

    fn image(&self) -> Option<&TableImage> {
        match &self.standing {
            Standing::Untouched(image) | Standing::Changed { image, .. } => Some(image),
            Standing::Cleared { .. } => None,
        }
    }

    /// The rows and bytes of the image: an estimate of the table's size.
    pub fn size_hint(&self) -> (u64, u64) {
        self.image().map_or((0, 0), |image| (image.rows, image.bytes))
    }

    /// About how many bytes the table's rows have, or more: those of the image and those of the changes.
    pub fn weight(&self) -> u64 {
        let changes = match &self.standing {
            Standing::Untouched(_) => 0,
            Standing::Changed { delta, .. } | Standing::Cleared { delta, .. } => delta.bytes() as u64,
        };
        self.size_hint().1 + changes
    }

    /// The list of the image's blocks.
    ///
    /// # Errors
    /// `Damaged` if the list is.
    pub fn index(&self) -> Result<Vec<BlockEntry>> {
        self.image().map_or(Ok(Vec::new()), |image| image::read_index(&self.blocks, &image.index))
    }

    /// The rows with keys in `range`, in key order. Of each row the `columns` come, by their positions in
    /// [`Table::columns`]; without `columns`, all of them. Only the blocks of the image are read that may hold such
    /// rows.
    ///
    /// # Errors
    /// `Damaged` if a block is, or if the journal contradicts the image.
    pub fn rows(self, range: KeyRange, columns: Option<&[usize]>) -> Result<TableRows> {
        if self.reshape().is_some_and(|reshape| !reshape.keeps_keys) {
            return Err(Error::internal("a table with another key was not sorted anew"));
        }
        self.reshaped_rows(range, columns)
    }

    /// The rows under the keys that they had before they were reshaped.
    pub(super) fn reshaped_rows(self, range: KeyRange, columns: Option<&[usize]>) -> Result<TableRows> {
        let source = self.source()?;
        let (delta, reshape) = match self.standing {
            Standing::Untouched(_) => (Delta::new(KeyShape::of(&self.table)), None),
            Standing::Changed { delta, reshape, .. } | Standing::Cleared { delta, reshape } => {
                (delta, reshape)
            }
        };
        TableRows::new(source, delta, range, reshape, columns)
    }

    /// The image, without the changes since.
    pub(super) fn source(&self) -> Result<RowSource> {
        let (index, blocks, _scratch) = (self.index()?, self.blocks.clone(), self.scratch.clone());
        Ok(RowSource { table: self.table.display(), index, blocks, _scratch })
    }

    /// Whether the changes alone tell which row has a key, or that there is none.
    pub fn settles(&self, key: &[u8]) -> bool {
        match &self.standing {
            Standing::Untouched(_) => false,
            Standing::Changed { delta, .. } => delta.latest(key).is_some_and(Latest::needs_no_image),
            Standing::Cleared { .. } => true,
        }
    }

    /// Takes the later states of rows that were folded from a later part of the same journal.
    pub fn adopt(&mut self, later: FoldedTable) {
        if let Standing::Changed { delta, .. } = later.standing {
            self.delta().adopt(delta);
        }
    }

    pub(super) fn reshape(&self) -> Option<&Reshape> {
        match &self.standing {
            Standing::Untouched(_) => None,
            Standing::Changed { reshape, .. } | Standing::Cleared { reshape, .. } => reshape.as_ref(),
        }
    }

    pub(super) fn is_unreadable(&self) -> bool {
        matches!(self.standing, Standing::Changed { is_unreadable: true, .. })
    }

    pub(super) fn delta_bytes(&self) -> usize {
        match &self.standing {
            Standing::Untouched(_) => 0,
            Standing::Changed { delta, .. } | Standing::Cleared { delta, .. } => delta.bytes(),
        }
    }

    #[inline]
    pub(super) fn apply(&mut self, change: RowChange<'_>) -> std::result::Result<(), Contradiction> {
        self.delta().apply(change)
    }

    #[inline]
    fn delta(&mut self) -> &mut Delta {
        self.delta_and_reshape().0
    }

    /// The table is changed from here on, if it was not yet.
    #[inline]
    fn delta_and_reshape(&mut self) -> (&mut Delta, &mut Option<Reshape>) {
        if let Standing::Untouched(image) = self.standing {
            let delta = Delta::new(KeyShape::of(&self.table));
            self.standing = Standing::Changed { image, delta, reshape: None, is_unreadable: false };
        }
        match &mut self.standing {
            Standing::Changed { delta, reshape, .. } | Standing::Cleared { delta, reshape } => {
                (delta, reshape)
            }
            Standing::Untouched(_) => unreachable!("an untouched table was changed above"),
        }
    }

    /// No row from before counts any more, so there is nothing to reshape either.
    pub(super) fn truncate(&mut self) {
        self.standing = Standing::Cleared { delta: Delta::new(KeyShape::of(&self.table)), reshape: None };
    }

    /// The table is `now` from here on, and its rows from before are reshaped.
    pub(super) fn alter(&mut self, now: &Table, reshape: Option<Reshape>) {
        if matches!(&self.standing, Standing::Cleared { delta, .. } if delta.is_empty()) {
            self.table = now.clone();
            return self.truncate();
        }
        if let Some(reshape) = reshape {
            // The delta's keys are those of the table as it was before.
            let (_, pending) = self.delta_and_reshape();
            *pending = Some(match pending.take() {
                Some(before) => before.then(reshape),
                None => reshape,
            });
        }
        self.table = now.clone();
    }
}
