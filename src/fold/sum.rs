//! A folded table as a number of rows and a digest.

use super::{FoldedTable, Rows};
use crate::error::Result;
use crate::history::image::{BlockEntry, RowsDigest};

/// Rows, counted and digested.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub rows: u64,
    pub digest: RowsDigest,
}

impl FoldedTable {
    /// How many rows the table has, and their digest.
    ///
    /// # Errors
    /// As [`FoldedTable::emit`].
    pub fn sum(self) -> Result<Sum> {
        if let Some(image) = self.untouched() {
            return Ok(Sum { rows: image.rows, digest: image.digest });
        }
        let mut sum = Sum::default();
        self.emit(&mut sum)?;
        Ok(sum)
    }
}

impl Rows for Sum {
    fn block(&mut self, entry: &BlockEntry) -> Result<bool> {
        Ok(self.changed_block(entry))
    }

    fn row(&mut self, _key: &[u8], line: &[u8]) -> Result<()> {
        self.rows += 1;
        self.digest.add(line);
        Ok(())
    }

    fn changed_block(&mut self, entry: &BlockEntry) -> bool {
        // A hostile index may claim any number.
        self.rows = self.rows.saturating_add(entry.rows);
        self.digest.merge(entry.digest);
        true
    }

    fn gone(&mut self, line: &[u8]) {
        self.rows = self.rows.saturating_sub(1);
        self.digest.remove(line);
    }
}
