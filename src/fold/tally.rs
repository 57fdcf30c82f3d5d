//! A folded table as a number of rows and a digest.

use super::{FoldedTable, KeyRange, Portion};
use crate::error::Result;
use crate::history::image::{BlockEntry, RowsDigest};

/// The number of some rows, and their digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub rows: u64,
    pub digest: RowsDigest,
}

impl FoldedTable {
    /// Counts and digests the table's rows. Blocks of the image that have not changed are not read.
    ///
    /// # Errors
    /// The errors of [`FoldedTable::rows`].
    pub fn tally(self) -> Result<Tally> {
        if let Some(image) = self.untouched() {
            return Ok(Tally { rows: image.rows, digest: image.digest });
        }
        let mut tally = Tally::default();
        let mut rows = self.rows(KeyRange::all(), None)?;
        while let Some(portion) = rows.next_portion()? {
            tally.take(&portion);
        }
        Ok(tally)
    }
}

impl Tally {
    /// Adds one row.
    pub fn add(&mut self, line: &[u8]) {
        self.rows += 1;
        self.digest.add(line);
    }

    /// Counts a portion of a table's rows.
    pub fn take(&mut self, portion: &Portion<'_>) {
        match portion {
            Portion::Block(entry) | Portion::ChangedBlock(entry) => self.add_block(entry),
            Portion::Kept(_) => {}
            Portion::Gone(line) => {
                self.rows = self.rows.saturating_sub(1);
                self.digest.remove(line);
            }
            Portion::Row { line, .. } => self.add(line),
        }
    }

    fn add_block(&mut self, entry: &BlockEntry) {
        // A hostile index may claim any number.
        self.rows = self.rows.saturating_add(entry.rows);
        self.digest.merge(entry.digest);
    }
}
