//! Decides where a table's rows are cut into blocks.
//!
//! Whether a block may end after a row depends on that row alone: on the hash of its key, and on the length of its line.
//! Who could reckon that hash could reckon the lengths of the blocks of rows that he knows, and look for them among encrypted
//! ones: so a history has a hash of its own.
//! Together with the bytes since the block's start, this makes every cut a function of the block's own rows. So a change of
//! rows in one block moves no boundary of a block that starts at the same row as before. The one exception is the cut at
//! the hard maximum, which looks at the row that follows.

use twox_hash::XxHash3_64;

/// No block ends with fewer bytes than this, unless the table or the hard maximum ends it.
pub const MIN: usize = 64 << 10;
/// A block with at least this many bytes ends at the next change of key, whatever the hash says.
pub const ENOUGH: usize = 768 << 10;
/// A block of more than one row never has more bytes than this.
pub const MAX: usize = 1 << 20;
/// The expected number of bytes between [`MIN`] and the cut.
const SPREAD: u64 = 192 << 10;

/// The expected number of bytes of a block.
pub const TYPICAL: u64 = MIN as u64 + SPREAD;

/// The hash that decides in a history where blocks may end.
#[derive(Clone, Copy)]
pub enum Cuts {
    /// The same in all histories that were begun before they had one each.
    Common,
    /// Under this key. It is one for all copies of the history, so that they share blocks.
    Keyed([u8; 32]),
}

impl Cuts {
    fn hash(&self, key: &[u8]) -> u64 {
        match self {
            Cuts::Common => XxHash3_64::oneshot(key),
            Cuts::Keyed(secret) => {
                let hash = blake3::keyed_hash(secret, key);
                u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
            }
        }
    }
}

/// Follows one block from its start.
pub struct Cutter {
    cuts: Cuts,
    len: usize,
    due: bool,
}

impl Cutter {
    pub fn new(cuts: Cuts) -> Cutter {
        Cutter { cuts, len: 0, due: false }
    }

    /// Whether the block ends before a row. `same_key` tells whether the row before has the same key, and `line_len` does
    /// not count the newline.
    pub fn ends_before(&self, same_key: bool, line_len: usize) -> bool {
        self.ends_at_key(same_key) || (self.len > 0 && self.len.saturating_add(line_len) >= MAX)
    }

    /// Whether the block ends before a row of unknown length; false if that depends on the length.
    pub fn ends_at_key(&self, same_key: bool) -> bool {
        self.due && !same_key
    }

    /// Takes a row into the block.
    pub fn take(&mut self, key: &[u8], line_len: usize) {
        self.len += line_len + 1;
        // A longer row makes a cut likelier, so that the bytes between cuts do not depend on the length of rows.
        self.due = self.len >= ENOUGH
            || (self.len >= MIN
                && self.cuts.hash(key) < (u64::MAX / SPREAD).saturating_mul(line_len as u64 + 1));
    }

    /// Begins the next block.
    pub fn restart(&mut self) {
        *self = Cutter::new(self.cuts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(rows: impl Iterator<Item = (u64, usize)>) -> Vec<usize> {
        lengths_by(Cuts::Common, rows)
    }

    fn lengths_by(cuts: Cuts, rows: impl Iterator<Item = (u64, usize)>) -> Vec<usize> {
        let mut cutter = Cutter::new(cuts);
        let (mut lengths, mut last) = (Vec::new(), None);
        for (key, line_len) in rows {
            if cutter.ends_before(last == Some(key), line_len) {
                lengths.push(cutter.len);
                cutter.restart();
            }
            cutter.take(&key.to_be_bytes(), line_len);
            last = Some(key);
        }
        lengths
    }

    #[test]
    fn blocks_are_a_quarter_mebibyte_on_average_whatever_the_rows() {
        for line_len in [20, 300, 5_000, 20_000] {
            let lengths = lengths((0..80_000_000 / line_len as u64).map(|key| (key, line_len)));
            assert!(lengths.iter().all(|&len| (MIN..=ENOUGH + line_len).contains(&len)));
            let average = lengths.iter().sum::<usize>() / lengths.len();
            assert!((200 << 10..320 << 10).contains(&average), "{average} with rows of {line_len}");
        }
    }

    #[test]
    fn another_key_cuts_the_same_rows_elsewhere_and_as_often() {
        let rows = || (0..400_000).map(|key| (key, 100));
        let all =
            [Cuts::Common, Cuts::Keyed([1; 32]), Cuts::Keyed([2; 32])].map(|cuts| lengths_by(cuts, rows()));
        for (number, lengths) in all.iter().enumerate() {
            let average = lengths.iter().sum::<usize>() / lengths.len();
            assert!((200 << 10..320 << 10).contains(&average), "{average}");
            for others in &all[..number] {
                let shared = lengths.iter().filter(|len| others.contains(len)).count();
                // Lengths are multiples of 101 bytes, some of which are met by chance.
                assert!(shared < lengths.len() / 4, "{shared} of {} lengths are the same", lengths.len());
            }
        }
    }

    #[test]
    fn equal_keys_stay_together_up_to_the_hard_maximum() {
        assert!(lengths((0..100).map(|_| (1, 9_999))).is_empty());
        let lengths = lengths((0..1_000).map(|_| (1, 9_999)));
        assert!(lengths.iter().all(|&len| len == MAX / 10_000 * 10_000));
    }

    #[test]
    fn a_row_beyond_the_maximum_stands_alone() {
        let rows = [(1, 10), (2, MAX), (3, 5 * MAX), (4, 10), (5, MAX - 1), (6, 1)];
        assert_eq!(lengths(rows.into_iter()), [11, MAX + 1, 5 * MAX + 1, 11, MAX]);
    }
}
