//! Reads the rows of some keys out of a folded table.

use std::collections::{BTreeSet, HashMap};

use crate::error::Result;
use crate::fold::{FoldedTable, KeyRange};

/// A row as a line of COPY text, without its newline.
pub type Line = Box<[u8]>;

/// Rows by their sort keys. Equal rows of a table without a key have one key.
pub type RowsByKey = HashMap<Vec<u8>, Vec<Line>>;

/// The keys whose rows are asked for.
pub enum Keys {
    All,
    Some(BTreeSet<Vec<u8>>),
}

/// Returns the rows of these keys.
///
/// # Errors
/// `Damaged` if a block is, or if the journal contradicts the image.
pub fn rows_of(table: FoldedTable, keys: &Keys) -> Result<RowsByKey> {
    let mut found = RowsByKey::new();
    let mut take = |key: &[u8], line: &[u8]| {
        found.entry(key.to_vec()).or_default().push(line.into());
        Ok(())
    };
    match keys {
        Keys::Some(keys) => table.find(keys, take)?,
        Keys::All => {
            let mut rows = table.rows(KeyRange::all(), None)?;
            while let Some((key, line)) = rows.next_row()? {
                take(key, line)?;
            }
        }
    }
    Ok(found)
}
