//! Reads the rows of some keys out of a folded table.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;

use crate::error::Result;
use crate::fold::{FoldedTable, KeyRange, Portion};
use crate::history::image::BlockEntry;

/// A row as a line of COPY text, without its newline.
pub type Line = Box<[u8]>;

/// Rows by their sort keys. Equal rows of a table without a key have one key.
pub type RowsByKey = HashMap<Box<[u8]>, Vec<Line>>;

/// The keys whose rows are asked for.
pub enum Keys {
    All,
    Some(BTreeSet<Box<[u8]>>),
}

impl Keys {
    fn contains(&self, key: &[u8]) -> bool {
        match self {
            Keys::All => true,
            Keys::Some(keys) => keys.contains(key),
        }
    }

    /// Whether a block may hold a row of one of the keys. Equal rows may lie in two blocks, so the next block's first
    /// key counts too.
    fn touch(&self, index: &[BlockEntry], block: &BlockEntry) -> bool {
        let Keys::Some(keys) = self else { return true };
        let next = index.partition_point(|it| it.first_key <= block.first_key);
        let mut from = keys.range::<[u8], _>((Bound::Included(&*block.first_key), Bound::Unbounded));
        match (from.next(), index.get(next)) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(key), Some(next)) => **key <= *next.first_key,
        }
    }
}

/// Returns the rows of these keys. Only the blocks that may hold one of them, and those that changed, are read.
///
/// # Errors
/// `Damaged` if a block is, or if the journal contradicts the image.
pub fn rows_of(table: FoldedTable, keys: &Keys) -> Result<RowsByKey> {
    let mut found = RowsByKey::new();
    if matches!(keys, Keys::Some(keys) if keys.is_empty()) {
        return Ok(found);
    }
    let index = table.index()?;
    let mut rows = table.rows(KeyRange::all(), None)?;
    while let Some(portion) = rows.next_portion()? {
        let opens = match portion {
            Portion::Block(block) | Portion::ChangedBlock(block) => keys.touch(&index, block),
            Portion::Row { key, line } => {
                if keys.contains(key) {
                    found.entry(key.into()).or_default().push(line.into());
                }
                false
            }
            Portion::Kept(_) | Portion::Gone(_) => false,
        };
        if opens {
            rows.open_block()?;
        }
    }
    Ok(found)
}
