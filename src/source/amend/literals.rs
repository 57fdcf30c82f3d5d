//! Few rows of many tables, all in one temporary table.
//!
//! A typed temporary table for each live table takes some milliseconds, which is most of the time of a small change in
//! many tables. So few rows are sent as texts: each is the literal of a row of its live table, which the statements cast,
//! so the server reads each value by its column's type.

use bytes::Bytes;
use tokio_postgres::Client;

use super::rows::AmendedTable;
use crate::codec::copy_text;
use crate::connect::server_error;
use crate::error::{Error, Result};

/// With more rows than this in all tables together, each table gets typed temporary tables with statistics.
const FEW: usize = 2000;

/// A table with more columns than this always sends literals: a typed temporary table has each column twice, and its rows
/// must fit a page of 8 KiB, in which a value of a fixed size may take 64 bytes.
const MOST_TYPED_COLUMNS: usize = 60;

pub const MAKE: &str = "
CREATE TEMPORARY TABLE IF NOT EXISTS backwhen_rows (place int4, number int8, act text, nth int8, now text, later text)";
pub const CLEAR: &str = "DELETE FROM pg_temp.backwhen_rows";
pub const COPY: &str = "COPY pg_temp.backwhen_rows FROM STDIN";
pub const ANALYZE: &str = "ANALYZE pg_temp.backwhen_rows (place, number)";

/// The query for the columns of the row literals of some row types, in order: the place of the type, and whether the server
/// computes the column. A recovered table has another oid than the source's, and other numbers of columns.
fn fields(row_types: &[&str]) -> String {
    let place = |(place, name): (usize, &&str)| {
        format!("({place}, pg_catalog.pg_typeof(NULL::{name})::pg_catalog.oid)")
    };
    let places: Vec<_> = row_types.iter().enumerate().map(place).collect();
    format!(
        "SELECT p.place, a.attgenerated <> '' FROM (VALUES {}) AS p (place, type) \
           JOIN pg_catalog.pg_type t ON t.oid = p.type JOIN pg_catalog.pg_attribute a ON a.attrelid = t.typrelid \
          WHERE a.attnum > 0 AND NOT a.attisdropped ORDER BY p.place, a.attnum",
        places.join(", ")
    )
}

/// Whether the rows are sent as literals. A row that waits for its turn has another value meanwhile, which only a typed
/// table can hold.
pub fn are_few(tables: &[&AmendedTable]) -> bool {
    let rows: usize = tables.iter().map(|it| it.rows.len()).sum();
    let is_wide = tables.iter().any(|it| it.table.columns.len() > MOST_TYPED_COLUMNS);
    (rows <= FEW || is_wide) && tables.iter().all(|it| it.parking.is_none())
}

/// Returns what COPY takes. `row_types` are the tables' names as SQL has them.
///
/// # Errors
/// `Unavailable` if the server fails, or if a table has other columns than the history has.
pub async fn lines(session: &Client, row_types: &[&str], tables: &[&AmendedTable]) -> Result<Bytes> {
    let mut fields = vec![Vec::new(); tables.len()];
    if tables.is_empty() {
        return Ok(Bytes::new());
    }
    let mut stored = vec![0..; tables.len()];
    let found = session.query(&self::fields(row_types), &[]).await;
    for row in found.map_err(|error| server_error("cannot read the columns", error))? {
        let place = row.get::<_, i32>(0) as usize;
        let is_computed: bool = row.get(1);
        fields[place].push(if is_computed { None } else { stored[place].next() });
    }
    let mut lines = Vec::new();
    for (place, (amended, fields)) in tables.iter().zip(&fields).enumerate() {
        if fields.iter().flatten().count() != amended.table.columns.len() {
            let name = amended.table.display();
            return Err(Error::unavailable(format!("the columns of {name} are being changed; try again")));
        }
        let mut heads = amended.heads();
        for row in &amended.rows {
            lines.extend_from_slice(format!("{place}\t").as_bytes());
            heads(row, &mut lines);
            for line in [&row.now, &row.then] {
                lines.push(b'\t');
                match line {
                    Some(line) => push_row_literal(line, fields, &mut lines),
                    None => lines.extend_from_slice(copy_text::NULL),
                }
            }
            lines.push(b'\n');
        }
    }
    Ok(lines.into())
}

/// Appends a line as the literal of a row with these fields, escaped for COPY. A field without a position is NULL: the
/// server computes it.
fn push_row_literal(line: &[u8], fields: &[Option<usize>], out: &mut Vec<u8>) {
    let values: Vec<&[u8]> = copy_text::columns(line).collect();
    out.push(b'(');
    for (number, at) in fields.iter().enumerate() {
        if number > 0 {
            out.push(b',');
        }
        let value = at.and_then(|at| values.get(at)).filter(|value| **value != copy_text::NULL);
        if let Some(value) = value {
            out.push(b'"');
            push_quoted(value, out);
            out.push(b'"');
        }
    }
    out.push(b')');
}

/// Quotes and backslashes are doubled in a row's literal, and COPY doubles backslashes already.
fn push_quoted(value: &[u8], out: &mut Vec<u8>) {
    let mut bytes = value.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => out.extend_from_slice(b"\"\""),
            b'\\' => match bytes.next() {
                Some(b'\\') => out.extend_from_slice(b"\\\\\\\\"),
                escaped => out.extend([b'\\'].iter().chain(escaped)),
            },
            byte => out.push(*byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_becomes_the_literal_of_a_row() {
        let fields = [Some(0), None, Some(1), Some(2), Some(3)];
        let mut out = Vec::new();
        push_row_literal(br#"a"b	\N	c\\d\te	"#, &fields, &mut out);
        assert_eq!(String::from_utf8_lossy(&out), r#"("a""b",,,"c\\\\d\te","")"#);
    }
}
