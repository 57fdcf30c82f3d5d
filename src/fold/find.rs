//! The rows of a folded table that have certain keys.

use std::collections::BTreeSet;

use super::table::Standing;
use super::{FoldedTable, KeyRange};
use crate::error::Result;

impl FoldedTable {
    /// Hands the key and the line of each row with one of the `keys` to `take`, in key order. Of the image, only the
    /// blocks are read that may hold such a row.
    ///
    /// # Errors
    /// The errors of [`FoldedTable::rows`] and of `take`.
    pub fn find(
        mut self,
        keys: &BTreeSet<Vec<u8>>,
        mut take: impl FnMut(&[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        let Some(first) = keys.first() else { return Ok(()) };
        if let Standing::Changed { delta, .. } | Standing::Cleared { delta, .. } = &mut self.standing {
            delta.keep_only(keys);
        }
        let mut rows = self.rows(KeyRange::between(first, None), None)?;
        rows.keep_only(keys);
        while let Some((key, line)) = rows.next_row()? {
            if keys.contains(key) {
                take(key, line)?;
            }
        }
        Ok(())
    }
}
