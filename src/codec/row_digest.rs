//! Digests of rows that a PostgreSQL server can make as well, so that two sides can compare rows without
//! sending them.
//!
//! A row's **form** is its columns' texts as the server's `format('%L')` quotes them, with commas between:
//! `'1','it''s',NULL`. No two rows share one. Its hash is the first half of the form's SHA-256, as two
//! numbers of 64 bits. Rows fall into **ranges** of that hash; a range's digest is made of the number of
//! its rows and the sums of both numbers, so the order does not matter and equal rows count.
//! The same in SQL: `source::digests`.

use sha2::{Digest, Sha256};

use super::copy_text;

/// Bytes of a range's digest.
pub const DIGEST: usize = 16;

/// The first 128 bits of the SHA-256 of a row's form, as two big-endian numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowHash {
    pub high: i64,
    pub low: i64,
}

/// The sum of the rows of a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RangeSum {
    pub rows: u64,
    high: i128,
    low: i128,
}

/// Hashes the rows of one table.
#[derive(Debug)]
pub struct RowHasher {
    /// A table without columns has lines that look like one empty text.
    has_columns: bool,
    form: Vec<u8>,
}

impl RowHash {
    /// Which of 2^`bits` ranges the row falls into; `bits` is 1 to 31.
    pub fn range(self, bits: u32) -> usize {
        (self.high as u64 >> (64 - bits)) as usize
    }
}

impl RowHasher {
    pub fn new(columns: usize) -> RowHasher {
        RowHasher { has_columns: columns > 0, form: Vec::new() }
    }

    /// Hashes a row, given as a line of COPY text.
    pub fn hash(&mut self, line: &[u8]) -> RowHash {
        self.form.clear();
        if self.has_columns {
            push_form(line, &mut self.form);
        }
        let hash = Sha256::digest(&self.form);
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&hash[at..at + 8]);
            i64::from_be_bytes(bytes)
        };
        RowHash { high: number(0), low: number(8) }
    }
}

impl RangeSum {
    pub fn add(&mut self, row: RowHash) {
        self.rows += 1;
        self.high += i128::from(row.high);
        self.low += i128::from(row.low);
    }

    /// Takes away a row that was counted.
    pub fn remove(&mut self, row: RowHash) {
        self.rows = self.rows.saturating_sub(1);
        self.high -= i128::from(row.high);
        self.low -= i128::from(row.low);
    }

    /// The first half of the SHA-256 of `rows high low` in decimal; zeros if there is no row.
    pub fn digest(&self) -> [u8; DIGEST] {
        let mut digest = [0; DIGEST];
        if self.rows > 0 {
            let text = format!("{} {} {}", self.rows, self.high, self.low);
            digest.copy_from_slice(&Sha256::digest(text.as_bytes())[..DIGEST]);
        }
        digest
    }
}

fn push_form(line: &[u8], form: &mut Vec<u8>) {
    for (number, column) in copy_text::columns(line).enumerate() {
        if number > 0 {
            form.push(b',');
        }
        match copy_text::unescape(column) {
            None => form.extend_from_slice(b"NULL"),
            Some(value) => push_quoted(&value, form),
        }
    }
}

/// As the server's `quote_literal` does it.
fn push_quoted(value: &[u8], form: &mut Vec<u8>) {
    if memchr::memchr(b'\\', value).is_some() {
        form.push(b'E');
    }
    form.push(b'\'');
    let mut clean = 0;
    for at in memchr::memchr2_iter(b'\'', b'\\', value) {
        form.extend_from_slice(&value[clean..=at]);
        form.push(value[at]);
        clean = at + 1;
    }
    form.extend_from_slice(&value[clean..]);
    form.push(b'\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(line: &[u8]) -> String {
        let mut form = Vec::new();
        push_form(line, &mut form);
        String::from_utf8(form).unwrap()
    }

    #[test]
    fn null_and_empty_and_what_looks_like_them_have_forms_of_their_own() {
        assert_eq!(form(b"1\tit's\t\\N"), "'1','it''s',NULL");
        assert_eq!(form(b"\t\\\\N\tNULL"), "'',E'\\\\N','NULL'");
        assert_eq!(form(b"a\\tb\\\\'"), "E'a\tb\\\\'''");
        assert_ne!(form(b"a','b"), form(b"a\tb"));
    }

    #[test]
    fn a_sum_knows_neither_order_nor_what_was_taken_away() {
        let mut hasher = RowHasher::new(2);
        let (one, two) = (hasher.hash(b"1\ta"), hasher.hash(b"2\tb"));
        let sum = |rows: &[RowHash]| {
            let mut sum = RangeSum::default();
            rows.iter().for_each(|row| sum.add(*row));
            sum
        };
        assert_eq!(sum(&[one, two]), sum(&[two, one]));
        assert_ne!(sum(&[one, one]).digest(), sum(&[one]).digest());
        let mut less = sum(&[one, two, two]);
        less.remove(two);
        assert_eq!(less, sum(&[one, two]));
        less.remove(one);
        less.remove(two);
        assert_eq!(less.digest(), RangeSum::default().digest());
    }

    #[test]
    fn ranges_are_the_first_bits() {
        let row = RowHash { high: i64::MIN | 1, low: 0 };
        assert_eq!((row.range(1), row.range(4)), (1, 8));
        assert_eq!(RowHash { high: -1, low: 0 }.range(18), (1 << 18) - 1);
    }
}
