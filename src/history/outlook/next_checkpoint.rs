//! How much room the next checkpoint needs, before it is made.

use std::collections::BTreeMap;

use crate::history::checkpoint::Checkpoint;
use crate::history::image::TYPICAL_BLOCK;
use crate::history::timeline::Stretch;

/// How the rows of a table changed since its image was made.
#[derive(Default)]
struct Changes {
    rows: u64,
    is_truncated: bool,
}

/// Estimates, rather too high, the bytes that the next checkpoint of an epoch adds to the history. `base` is the epoch's newest
/// one, from which the next one goes on.
pub fn next_checkpoint_bytes(base: &Checkpoint, stretch: &Stretch) -> u64 {
    let (mut came, mut changes) = (0, BTreeMap::<u32, Changes>::new());
    for segment in stretch.segments_between(base.lsn, stretch.frontier()) {
        came += segment.summary.raw_bytes;
        for counts in &segment.summary.relations {
            let changes = changes.entry(counts.oid).or_default();
            changes.rows += counts.inserts + counts.updates + counts.deletes;
            changes.is_truncated |= counts.truncates > 0;
        }
    }
    let tables = base
        .tables
        .iter()
        .map(|entry| (entry.image.bytes, changes.remove(&entry.table.oid).unwrap_or_default()));
    estimate(tables, came, base.bytes_total)
}

/// `tables` are the sizes of the images before compression, with the changes since; `came` are the bytes of all these changes,
/// and `stored` those of all blocks now.
///
/// Each change makes one block new at most, and no table makes more bytes new than it has. Rows that came are stored too.
fn estimate(tables: impl Iterator<Item = (u64, Changes)>, came: u64, stored: u64) -> u64 {
    let (mut all, mut anew) = (0, came);
    for (image, changes) in tables {
        all += image;
        anew += if changes.is_truncated { 0 } else { changes.rows.saturating_mul(TYPICAL_BLOCK).min(image) };
    }
    // Blocks are compressed about as well as those of the checkpoint before, and no worse than not at all.
    let ratio = if all == 0 { 1.0 } else { (stored as f64 / all as f64).min(1.0) };
    (anew as f64 * ratio).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(image: u64, rows: u64) -> (u64, Changes) {
        (image, Changes { rows, is_truncated: false })
    }

    #[test]
    fn a_change_costs_a_block_and_a_table_no_more_than_all_of_it() {
        let block = TYPICAL_BLOCK;
        let large = || table(1000 * block, 3);
        assert_eq!(estimate([large()].into_iter(), 0, 1000 * block), 3 * block);
        assert_eq!(estimate([large()].into_iter(), 0, 500 * block), 3 * block / 2, "compressed by half");
        assert_eq!(estimate([table(10, 3)].into_iter(), 7, 10), 17);
        assert_eq!(estimate([table(10, 0)].into_iter(), 0, 10), 0);
        let truncated = (1000 * block, Changes { rows: 3, is_truncated: true });
        assert_eq!(estimate([truncated].into_iter(), 40, 1000 * block), 40);
        assert_eq!(estimate(std::iter::empty(), 40, 0), 40);
    }
}
