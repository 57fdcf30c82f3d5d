//! Sort keys of rows: byte strings that are equal for two rows exactly when the rows' identities are equal.
//!
//! The order of keys has a meaning only within backwhen, but integers sort as numbers, so that a recovered primary
//! key index is built from sorted input. Equality compares the exact text, as the stream does: the server sends the
//! old key whenever the key's bytes changed.

use twox_hash::XxHash3_128;

use super::copy_text;
use crate::model::{Column, RowIdentity, Table};

/// A whole row up to this length is its own key; a longer row is cut to this length, and its hash is appended.
const WHOLE_ROW_PREFIX: usize = 48;

/// How the keys of one table's rows are built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyShape {
    /// The key columns, in column order, with their kinds.
    Columns(Vec<(usize, KeyKind)>),
    WholeRow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    Integer,
    Text,
}

/// `pg_type.oid` of int8, int2, int4 and oid: the types in which each value is one integer with one spelling.
const INTEGER_TYPES: [u32; 4] = [20, 21, 23, 26];

impl KeyShape {
    pub fn of(table: &Table) -> KeyShape {
        match &table.identity {
            RowIdentity::WholeRow => KeyShape::WholeRow,
            RowIdentity::Key(columns) => {
                let kind = |column: &usize| (*column, kind_of(table.columns.get(*column)));
                KeyShape::Columns(columns.iter().map(kind).collect())
            }
        }
    }

    /// Appends the key of `line` to `key`. Returns `None` if the line lacks a key column, or has NULL in one.
    pub fn push_key(&self, line: &[u8], key: &mut Vec<u8>) -> Option<()> {
        match self {
            KeyShape::WholeRow => {
                push_whole_row(line, key);
                Some(())
            }
            KeyShape::Columns(wanted) => {
                let mut columns = copy_text::columns(line).enumerate();
                for (number, kind) in wanted {
                    let column = columns.find(|(at, _)| at == number)?.1;
                    push_column(column, *kind, key)?;
                }
                Some(())
            }
        }
    }
}

impl KeyShape {
    /// Appends the values of a key as COPY text, with tabs between them. Returns `None` if it is no key of columns.
    pub fn push_values(&self, mut key: &[u8], text: &mut Vec<u8>) -> Option<()> {
        let KeyShape::Columns(columns) = self else { return None };
        for (number, (_, kind)) in columns.iter().enumerate() {
            if number > 0 {
                text.push(b'\t');
            }
            match kind {
                KeyKind::Integer => {
                    let (bytes, rest) = key.split_first_chunk()?;
                    let value = (u64::from_be_bytes(*bytes) ^ (1 << 63)) as i64;
                    text.extend_from_slice(value.to_string().as_bytes());
                    key = rest;
                }
                KeyKind::Text => {
                    let end = memchr::memchr(b'\t', key)?;
                    text.extend_from_slice(&key[..end]);
                    key = &key[end + 1..];
                }
            }
        }
        key.is_empty().then_some(())
    }
}

fn kind_of(column: Option<&Column>) -> KeyKind {
    match column {
        Some(column) if INTEGER_TYPES.contains(&column.type_oid) => KeyKind::Integer,
        _ => KeyKind::Text,
    }
}

fn push_whole_row(line: &[u8], key: &mut Vec<u8>) {
    if line.len() <= WHOLE_ROW_PREFIX {
        key.extend_from_slice(line);
    } else {
        key.extend_from_slice(&line[..WHOLE_ROW_PREFIX]);
        key.extend_from_slice(&XxHash3_128::oneshot(line).to_be_bytes());
    }
}

/// A column's escaped text contains no raw tab, and a tab byte sorts below all bytes of the text, so a tab ends it.
fn push_column(column: &[u8], kind: KeyKind, key: &mut Vec<u8>) -> Option<()> {
    if column == copy_text::NULL || column == copy_text::HOLE {
        return None;
    }
    match kind {
        KeyKind::Integer => {
            let number = parse_integer(column)?;
            key.extend_from_slice(&((number as u64) ^ (1 << 63)).to_be_bytes());
        }
        KeyKind::Text => {
            key.extend_from_slice(column);
            key.push(b'\t');
        }
    }
    Some(())
}

/// Returns the number that a text spells, if the text is the server's one spelling of that number.
pub(super) fn parse_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    let mut number: i64 = 0;
    for digit in digits {
        let digit = i64::from(digit.checked_sub(b'0').filter(|digit| *digit < 10)?);
        let shifted = number.checked_mul(10)?;
        // Negative numbers are counted downwards, because i64::MIN has no positive counterpart.
        number = if negative { shifted.checked_sub(digit)? } else { shifted.checked_add(digit)? };
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(shape: &KeyShape, line: &str) -> Option<Vec<u8>> {
        let mut key = Vec::new();
        shape.push_key(line.as_bytes(), &mut key).map(|()| key)
    }

    #[test]
    fn integers_sort_as_numbers() {
        let shape = KeyShape::Columns(vec![(1, KeyKind::Integer)]);
        let numbers = ["-9223372036854775808", "-10", "-9", "0", "9", "10", "9223372036854775807"];
        let keys: Vec<_> = numbers.iter().map(|number| key(&shape, &format!("x\t{number}\ty"))).collect();
        assert!(keys.is_sorted() && keys.iter().all(Option::is_some));
    }

    #[test]
    fn the_values_of_a_key_can_be_read_from_it() {
        let columns = vec![(0, KeyKind::Text), (1, KeyKind::Integer), (2, KeyKind::Text)];
        let shape = KeyShape::Columns(columns);
        for line in ["a\\tb\t-9223372036854775808\t", "\t0\tb", "é\t42\t\\\\N"] {
            let (key, mut text) = (key(&shape, line).unwrap(), Vec::new());
            assert_eq!(shape.push_values(&key, &mut text), Some(()));
            assert_eq!(text, line.as_bytes());
            assert_eq!(shape.push_values(&key[..key.len() - 1], &mut text), None, "{line}");
        }
        assert_eq!(KeyShape::WholeRow.push_values(b"a", &mut Vec::new()), None);
    }

    #[test]
    fn composite_keys_do_not_run_into_each_other() {
        let shape = KeyShape::Columns(vec![(0, KeyKind::Text), (1, KeyKind::Text)]);
        assert_ne!(key(&shape, "a\tbc"), key(&shape, "ab\tc"));
        assert_ne!(key(&shape, "a\t"), key(&shape, "\ta"));
        assert!(key(&shape, "a\tz") < key(&shape, "ab\ta"));
    }

    #[test]
    fn a_key_needs_its_columns() {
        let shape = KeyShape::Columns(vec![(1, KeyKind::Integer)]);
        for line in ["1", "1\t\\N", "1\t\\H", "1\tx", "1\t", "1\t99999999999999999999"] {
            assert_eq!(key(&shape, line), None, "{line}");
        }
    }

    #[test]
    fn long_rows_keep_apart() {
        let (one, two) = ("x".repeat(100) + "1", "x".repeat(100) + "2");
        assert_ne!(key(&KeyShape::WholeRow, &one), key(&KeyShape::WholeRow, &two));
        assert_eq!(key(&KeyShape::WholeRow, "short"), Some(b"short".to_vec()));
    }
}
