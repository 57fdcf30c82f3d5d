//! How much room the next checkpoint needs, before it is made.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::history::History;
use crate::history::image::TYPICAL_BLOCK;
use crate::history::journal::RelationCounts;
use crate::history::timeline::Stretch;

/// An estimate, rather too high, of the bytes that the next checkpoint adds to a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointSize {
    pub bytes: u64,
}

/// The size of a table's image, in bytes before compression, and how often its rows changed since.
struct ChangedTable {
    image: u64,
    changes: u64,
    is_truncated: bool,
}

impl CheckpointSize {
    /// Estimates the checkpoint that goes on from the newest one of an epoch. `None` if there is none.
    ///
    /// # Errors
    /// `Damaged` if the newest checkpoint's manifest is.
    pub fn next(history: &History, stretch: &Stretch) -> Result<Option<CheckpointSize>> {
        let Some(newest) = stretch.checkpoints.last() else { return Ok(None) };
        let base = history.read_checkpoint(&newest.id)?;
        let since: Vec<_> = stretch.segments_between(newest.lsn, stretch.frontier()).collect();
        let mut counts: BTreeMap<u32, Vec<&RelationCounts>> = BTreeMap::new();
        for of_table in since.iter().flat_map(|segment| &segment.summary.relations) {
            counts.entry(of_table.oid).or_default().push(of_table);
        }
        let tables = base.tables.iter().map(|entry| {
            let counts = counts.get(&entry.table.oid).map(Vec::as_slice).unwrap_or_default();
            ChangedTable {
                image: entry.image.bytes,
                changes: counts.iter().map(|it| it.inserts + it.updates + it.deletes).sum(),
                is_truncated: counts.iter().any(|it| it.truncates > 0),
            }
        });
        let came = since.iter().map(|segment| segment.summary.raw_bytes).sum();
        Ok(Some(CheckpointSize { bytes: estimate(tables, came, base.bytes_total) }))
    }
}

/// Each change makes one block new at most, and no table more bytes than it has. What came in rows comes in blocks too.
fn estimate(tables: impl Iterator<Item = ChangedTable>, came: u64, stored: u64) -> u64 {
    let (mut all, mut anew) = (0, came);
    for table in tables {
        all += table.image;
        let blocks = table.changes.saturating_mul(TYPICAL_BLOCK).min(table.image);
        anew += if table.is_truncated { 0 } else { blocks };
    }
    // Blocks are compressed about as well as those of the checkpoint before, and no worse than not at all.
    let ratio = if all == 0 { 1.0 } else { (stored as f64 / all as f64).min(1.0) };
    (anew as f64 * ratio).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(image: u64, changes: u64) -> ChangedTable {
        ChangedTable { image, changes, is_truncated: false }
    }

    #[test]
    fn a_change_costs_a_block_and_a_table_no_more_than_all_of_it() {
        let block = TYPICAL_BLOCK;
        let large = || table(1000 * block, 3);
        assert_eq!(estimate([large()].into_iter(), 0, 1000 * block), 3 * block);
        assert_eq!(estimate([large()].into_iter(), 0, 500 * block), 3 * block / 2, "compressed by half");
        assert_eq!(estimate([table(10, 3)].into_iter(), 7, 10), 17);
        assert_eq!(estimate([table(10, 0)].into_iter(), 0, 10), 0);
        let truncated = ChangedTable { is_truncated: true, ..large() };
        assert_eq!(estimate([truncated].into_iter(), 40, 1000 * block), 40);
        assert_eq!(estimate(std::iter::empty(), 40, 0), 40);
    }
}
