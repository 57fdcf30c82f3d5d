//! The history's side of a comparison: one table's image in ranges of hashes of its rows.

use super::earlier::Earlier;
use crate::codec::row_digest::{RangeSum, RowHash, RowHasher};
use crate::error::Result;
use crate::history::checkpoint::TableEntry;
use crate::history::image::{TableReader, lines};
use crate::source::digests::{Ctid, RangeDigests};

/// Rows that a range holds on average, up to twice as many. With fewer more digests are sent, with more the
/// places of more rows: at one differing row in ten thousand both cost about the same.
const ROWS_A_RANGE: u64 = 64;

/// 2^18 ranges: 4 MiB of digests, and some 50 MB of memory on the server.
const MOST_BITS: u32 = 18;

/// The logarithm of the number of ranges for a table of so many rows.
pub(super) fn bits_for(rows: u64) -> u32 {
    (rows / ROWS_A_RANGE).max(1).ilog2().clamp(1, MOST_BITS)
}

/// A table's ranges as the history has them.
pub(super) struct Ranges {
    pub bits: u32,
    sums: Vec<RangeSum>,
}

/// Rows that only one side has.
#[derive(Default)]
pub(super) struct Differing {
    /// The history's, as lines.
    pub gone: Vec<Vec<u8>>,
    /// The source's.
    pub places: Vec<Ctid>,
}

impl Ranges {
    /// # Errors
    /// `Damaged` if a block is.
    pub fn of(earlier: &Earlier, entry: &TableEntry) -> Result<Ranges> {
        let bits = bits_for(entry.image.rows);
        let mut sums = vec![RangeSum::default(); 1 << bits];
        each_row(earlier, entry, &mut |row, _| sums[row.range(bits)].add(row))?;
        Ok(Ranges { bits, sums })
    }

    pub fn len(&self) -> u64 {
        self.sums.len() as u64
    }

    /// The numbers of the ranges that the source digests otherwise.
    pub fn differing(&self, source: &RangeDigests) -> Vec<usize> {
        let pairs = self.sums.iter().zip(source.each()).enumerate();
        pairs.filter(|(_, (mine, theirs))| mine.digest() != **theirs).map(|(number, _)| number).collect()
    }

    /// Counts the history's rows that lie in no range of this list.
    pub fn rows_outside(&self, ranges: &[usize]) -> u64 {
        let inside: u64 = ranges.iter().map(|range| self.sums[*range].rows).sum();
        let all: u64 = self.sums.iter().map(|sum| sum.rows).sum();
        all.saturating_sub(inside)
    }

    /// Which rows of those ranges only one side has; takes the history's own out of the sums. None if
    /// these are more than `limit` bytes.
    ///
    /// # Errors
    /// `Damaged` if a block is.
    pub fn split(
        &mut self,
        earlier: &Earlier,
        entry: &TableEntry,
        ranges: &[usize],
        source: Vec<(i64, Ctid)>,
        limit: u64,
    ) -> Result<Option<Differing>> {
        let mut wanted = vec![false; self.sums.len()];
        ranges.iter().for_each(|range| wanted[*range] = true);
        let mut theirs = Theirs::of(source);
        let (bits, sums) = (self.bits, &mut self.sums);
        let (mut gone, mut bytes) = (Vec::new(), 0);
        each_row(earlier, entry, &mut |row, line| {
            if wanted[row.range(bits)] && !theirs.take(row.high) {
                sums[row.range(bits)].remove(row);
                bytes += line.len() as u64;
                if bytes <= limit {
                    gone.push(line.to_vec());
                }
            }
        })?;
        Ok((bytes <= limit).then(|| Differing { gone, places: theirs.left() }))
    }

    /// Takes in a row of the source.
    pub fn add(&mut self, row: RowHash) {
        self.sums[row.range(self.bits)].add(row);
    }
}

/// The source's rows of the ranges that differ, each to be met once.
struct Theirs {
    /// Sorted.
    rows: Vec<(i64, Ctid)>,
    /// The number of rows with the present hash that have been met.
    met: Vec<u32>,
}

impl Theirs {
    fn of(mut rows: Vec<(i64, Ctid)>) -> Theirs {
        rows.sort_unstable_by_key(|(high, _)| *high);
        Theirs { met: vec![0; rows.len()], rows }
    }

    /// Whether there is one more row of this hash.
    fn take(&mut self, high: i64) -> bool {
        let first = self.rows.partition_point(|(other, _)| *other < high);
        let Some(met) = self.met.get_mut(first) else { return false };
        let there = self.rows.get(first + *met as usize).is_some_and(|(other, _)| *other == high);
        *met += u32::from(there);
        there
    }

    /// The places of the rows that were not met.
    fn left(self) -> Vec<Ctid> {
        let mut left = Vec::new();
        let mut at = 0;
        for same in self.rows.chunk_by(|(one, _), (other, _)| one == other) {
            left.extend(same[self.met[at] as usize..].iter().map(|(_, place)| *place));
            at += same.len();
        }
        left
    }
}

fn each_row(earlier: &Earlier, entry: &TableEntry, row: &mut dyn FnMut(RowHash, &[u8])) -> Result<()> {
    let mut hasher = RowHasher::new(entry.table.columns.len());
    let mut reader = TableReader::open(&earlier.blocks, &entry.image)?;
    while let Some((_, raw)) = reader.next_block()? {
        for line in lines(&raw) {
            row(hasher.hash(line), line);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_few_rows_and_are_not_too_many() {
        assert_eq!([0, 1, 300, 10_000_000, u64::MAX / 2].map(bits_for), [1, 1, 2, 17, 18]);
    }

    #[test]
    fn equal_rows_are_met_as_often_as_they_are_there() {
        let place = |number: u32| Ctid { page: number, line: 1 };
        let mut theirs = Theirs::of(vec![(7, place(1)), (-3, place(2)), (7, place(3)), (9, place(4))]);
        assert_eq!([7, 8, -3, -3].map(|high| theirs.take(high)), [true, false, true, false]);
        let left = theirs.left();
        assert_eq!(left.len(), 2);
        assert!(left.contains(&place(4)) && !left.contains(&place(2)));
    }
}
