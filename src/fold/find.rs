//! The rows of a folded table that have certain keys.

use super::table::Standing;
use super::{FoldedTable, KeyRange};
use crate::error::Result;

impl FoldedTable {
    /// Hands the key and the line of each row to `take`, in key order.
    ///
    /// # Errors
    /// The errors of [`FoldedTable::rows`] and of `take`.
    pub fn each(self, mut take: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
        let mut rows = self.rows(KeyRange::all(), None)?;
        while let Some((key, line)) = rows.next_row()? {
            take(key, line)?;
        }
        Ok(())
    }

    /// Hands the key and the line of each row with one of the sorted `keys` to `take`, in key order. Of the image,
    /// only the blocks are read that may hold such a row.
    ///
    /// # Errors
    /// The errors of [`FoldedTable::rows`] and of `take`.
    pub fn find<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        mut take: impl FnMut(&[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        let Some(first) = keys.first() else { return Ok(()) };
        let standing = match &self.standing {
            Standing::Untouched(image) => Standing::Untouched(*image),
            Standing::Changed { image, delta, reshape, is_unreadable } => Standing::Changed {
                image: *image,
                delta: delta.only(keys),
                reshape: reshape.clone(),
                is_unreadable: *is_unreadable,
            },
            Standing::Cleared { delta, reshape } => {
                Standing::Cleared { delta: delta.only(keys), reshape: reshape.clone() }
            }
        };
        let (table, blocks, scratch) = (self.table.clone(), self.blocks.clone(), self.scratch.clone());
        let mut rows = FoldedTable { table, blocks, standing, scratch }
            .rows(KeyRange::between(first.as_ref(), None), None)?;
        rows.keep_only(keys);
        let mut passed = 0;
        while let Some((key, line)) = rows.next_row()? {
            passed += keys[passed..].iter().take_while(|it| it.as_ref() < key).count();
            if keys.get(passed).is_some_and(|it| it.as_ref() == key) {
                take(key, line)?;
            }
        }
        Ok(())
    }
}
