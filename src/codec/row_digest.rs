//! Digests of rows that a PostgreSQL server can compute as well, so that two sides can compare rows without sending
//! them.
//!
//! A row's **form** is its columns' texts as the server's `format('%L')` quotes them, separated by commas:
//! `'1','it''s',NULL`. No two different rows have the same form. A row's hash is the first half of the form's
//! SHA-256, as two numbers of 64 bits. Rows are divided into **ranges** by that hash; a range's digest is computed
//! from the number of its rows and the sums of both numbers, so the order of rows does not matter and equal rows are
//! counted. `source::digests` computes the same in SQL.

use sha2::{Digest, Sha256};

use super::copy_text;

/// The length of a range's digest in bytes.
pub const DIGEST: usize = 16;

/// The first 128 bits of the SHA-256 of a row's form, as two big-endian numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowHash {
    pub high: i64,
    pub low: i64,
}

/// The number of a range's rows and the sums of their hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RangeSum {
    pub rows: u64,
    high: i128,
    low: i128,
}

/// Hashes the rows of one table.
#[derive(Debug)]
pub struct RowHasher {
    /// Whether the table has no columns: its lines look like lines with one empty text.
    has_columns: bool,
    form: Vec<u8>,
}

impl RowHash {
    /// Returns which of 2^`bits` ranges the row falls into; `bits` is 1 to 31.
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

    /// Subtracts a row that was added.
    pub fn remove(&mut self, row: RowHash) {
        self.rows = self.rows.saturating_sub(1);
        self.high -= i128::from(row.high);
        self.low -= i128::from(row.low);
    }

    /// Returns the first half of the SHA-256 of `rows high low` in decimal, or zeros if the range has no rows.
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

/// Quotes a value as the server's `quote_literal` does.
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
