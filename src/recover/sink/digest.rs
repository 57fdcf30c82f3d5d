//! The digest of a table's rows, which does not depend on their order.

use twox_hash::XxHash3_128;

/// Finds the lines of a text that comes in pieces cut anywhere.
#[derive(Clone, Debug, Default)]
pub struct LineSplitter {
    /// The beginning of a line whose end has not arrived yet.
    open: Vec<u8>,
}

impl LineSplitter {
    /// Calls `take` with each line that ends in the next piece, without its newline.
    pub fn split(&mut self, mut bytes: &[u8], mut take: impl FnMut(&[u8])) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            if self.open.is_empty() {
                take(&bytes[..end]);
            } else {
                self.open.extend_from_slice(&bytes[..end]);
                take(&self.open);
                self.open.clear();
            }
            bytes = &bytes[end + 1..];
        }
        self.open.extend_from_slice(bytes);
    }
}

/// The hash of a row, given as its line of COPY text.
pub fn row_hash(line: &[u8]) -> u128 {
    XxHash3_128::oneshot(line)
}

/// Counts lines of COPY text and adds up their hashes modulo 2^128, so that the number of rows matters but their
/// order does not. The text may come in pieces cut anywhere.
#[derive(Clone, Debug, Default)]
pub struct RowDigest {
    rows: u64,
    sum: u128,
    lines: LineSplitter,
}

impl RowDigest {
    pub fn update(&mut self, bytes: &[u8]) {
        self.lines.split(bytes, |line| {
            self.rows += 1;
            self.sum = self.sum.wrapping_add(row_hash(line));
        });
    }

    /// Returns the number of whole lines, and their digest.
    pub fn finish(self) -> (u64, u128) {
        (self.rows, self.sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(pieces: &[&[u8]]) -> (u64, u128) {
        let mut digest = RowDigest::default();
        pieces.iter().for_each(|piece| digest.update(piece));
        digest.finish()
    }

    #[test]
    fn neither_order_nor_cuts_matter_but_numbers_do() {
        let whole = digest(&[b"a\tb\nc\td\n\n"]);
        assert_eq!(whole.0, 3);
        assert_eq!(digest(&[b"\nc\t", b"d\na\t", b"b", b"\n"]), whole);
        assert_ne!(digest(&[b"a\tb\na\tb\nc\td\n\n"]), whole);
        assert_eq!(digest(&[b"x\n"]).1, XxHash3_128::oneshot(b"x"));
    }
}
