//! Rows as lines of COPY's text format, the only form in which rows are stored.
//!
//! A line holds the columns' escaped texts, separated by tabs, without the newline. Because tab, newline and
//! backslash inside a value are always escaped, a raw tab always ends a column. Source: PostgreSQL documentation,
//! COPY, "Text Format".

use std::borrow::Cow;

use crate::error::{Error, Result};
use crate::model::Table;
use crate::model::schema::quote_literal;

/// How COPY writes NULL.
pub const NULL: &[u8] = b"\\N";

/// Stands for a value that the stream left out (unchanged, stored out of line) until the value is filled in from the
/// row's earlier version. COPY itself never writes this text.
pub const HOLE: &[u8] = b"\\H";

/// Appends `value` to `line`, escaped exactly as the server's COPY TO escapes it.
pub fn push_escaped(line: &mut Vec<u8>, value: &[u8]) {
    let mut clean = 0;
    for (at, byte) in value.iter().enumerate() {
        let Some(letter) = escape_letter(*byte) else { continue };
        line.extend_from_slice(&value[clean..at]);
        line.extend_from_slice(&[b'\\', letter]);
        clean = at + 1;
    }
    line.extend_from_slice(&value[clean..]);
}

fn escape_letter(byte: u8) -> Option<u8> {
    match byte {
        b'\\' => Some(b'\\'),
        8 => Some(b'b'),
        9 => Some(b't'),
        10 => Some(b'n'),
        11 => Some(b'v'),
        12 => Some(b'f'),
        13 => Some(b'r'),
        _ => None,
    }
}

/// Returns one column's value as an SQL literal, for scripts. `table` is named in the error.
///
/// # Errors
/// `Refused` if the value is no UTF-8.
pub fn sql_literal(table: &Table, column: &[u8]) -> Result<String> {
    let Some(value) = unescape(column) else { return Ok("NULL".to_owned()) };
    std::str::from_utf8(&value).map(quote_literal).map_err(|_| {
        Error::refused(format!(
            "a value of {} is no UTF-8, so it cannot stand in a script; use: backwhen recover --table",
            table.display()
        ))
    })
}

/// Returns the value that one column's text stands for; `None` for NULL.
pub fn unescape(column: &[u8]) -> Option<Cow<'_, [u8]>> {
    if column == NULL {
        return None;
    }
    if !column.contains(&b'\\') {
        return Some(Cow::Borrowed(column));
    }
    let mut value = Vec::with_capacity(column.len());
    let mut bytes = column.iter();
    while let Some(byte) = bytes.next() {
        if *byte != b'\\' {
            value.push(*byte);
            continue;
        }
        value.push(match bytes.next() {
            Some(b'b') => 8,
            Some(b't') => 9,
            Some(b'n') => 10,
            Some(b'v') => 11,
            Some(b'f') => 12,
            Some(b'r') => 13,
            Some(other) => *other,
            None => b'\\',
        });
    }
    Some(Cow::Owned(value))
}

/// Returns the columns of a line. A table without columns has lines with one empty column.
pub fn columns(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let line = rest?;
        let end = memchr::memchr(b'\t', line).unwrap_or(line.len());
        rest = line.get(end + 1..);
        Some(&line[..end])
    })
}

/// Whether some column of the line is a [`HOLE`].
pub fn has_hole(line: &[u8]) -> bool {
    // A backslash before the H may itself be escaped, so whole columns are compared.
    memchr::memchr(b'\\', line).is_some() && columns(line).any(|column| column == HOLE)
}

/// Returns `line` with each hole filled from the same column of `earlier`.
///
/// Returns `None` if the lines have different numbers of columns, which means that the schema changed between the
/// two.
pub fn fill_holes(line: &[u8], earlier: &[u8]) -> Option<Vec<u8>> {
    let mut filled = Vec::with_capacity(line.len().max(earlier.len()));
    let mut earlier = columns(earlier);
    for (number, column) in columns(line).enumerate() {
        let old = earlier.next()?;
        if number > 0 {
            filled.push(b'\t');
        }
        filled.extend_from_slice(if column == HOLE { old } else { column });
    }
    earlier.next().is_none().then_some(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_as_the_server_does_and_back() {
        let value = b"a\\b\tc\nd\re\x08f\x0bg\x0ch\\N\\.\xff";
        let mut line = Vec::new();
        push_escaped(&mut line, value);
        assert_eq!(line, b"a\\\\b\\tc\\nd\\re\\bf\\vg\\fh\\\\N\\\\.\xff");
        assert_eq!(unescape(&line).unwrap().as_ref(), value);
        assert_eq!(unescape(NULL), None);
        assert_eq!(unescape(b"").unwrap().as_ref(), b"");
    }

    #[test]
    fn fills_only_holes() {
        let filled = fill_holes(b"1\t\\H\t\\N\t\\\\H", b"0\told\tx\ty");
        assert_eq!(filled.as_deref(), Some(&b"1\told\t\\N\t\\\\H"[..]));
        assert_eq!(fill_holes(b"1\t\\H", b"1"), None);
        assert_eq!(fill_holes(b"1", b"1\t2"), None);
    }

    #[test]
    fn a_value_that_looks_like_a_hole_is_none() {
        let mut line = Vec::new();
        push_escaped(&mut line, b"\\H");
        assert!(!has_hole(&line));
        assert!(has_hole(b"1\t\\H"));
    }
}
