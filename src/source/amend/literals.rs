//! Few rows of many tables, all in one temporary table.
//!
//! A typed temporary table for each live table takes some milliseconds, which is most of the time of a small change in
//! many tables. So few rows are sent as texts: each is the literal of a row of its live table, which the statements cast,
//! so the server reads each value by its column's type.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio_postgres::Client;

use super::rows::AmendedTable;
use crate::codec::copy_text;
use crate::connect::server_error;
use crate::error::Result;

/// With more rows than this in all tables together, each table gets typed temporary tables with statistics.
const FEW: usize = 2000;

pub const MAKE: &str = "
CREATE TEMPORARY TABLE IF NOT EXISTS backwhen_rows (place int4, is_then bool, number int8, act text, nth int8, line text)";
pub const CLEAR: &str = "DELETE FROM pg_temp.backwhen_rows";
pub const COPY: &str = "COPY pg_temp.backwhen_rows FROM STDIN";
pub const ANALYZE: &str = "ANALYZE pg_temp.backwhen_rows (place, is_then, number)";

/// The columns of a row's literal, also those that the server computes.
const FIELDS: &str = "
SELECT attrelid, attnum FROM pg_catalog.pg_attribute
 WHERE attrelid = ANY ($1) AND attnum > 0 AND NOT attisdropped ORDER BY attrelid, attnum";

/// Whether the rows are sent as literals. A row that waits for its turn has another value meanwhile, which only a typed
/// table can hold.
pub fn are_few(tables: &[&AmendedTable]) -> bool {
    tables.iter().map(|it| it.rows.len()).sum::<usize>() <= FEW
        && tables.iter().all(|it| it.parking.is_none())
}

/// Returns what COPY takes.
///
/// # Errors
/// `Unavailable` if the server fails.
pub async fn lines(session: &Client, tables: &[&AmendedTable]) -> Result<Vec<Bytes>> {
    let oids: Vec<u32> = tables.iter().map(|it| it.table.oid).collect();
    let found = session.query(FIELDS, &[&oids]).await;
    let mut fields = BTreeMap::<u32, Vec<i16>>::new();
    for row in found.map_err(|error| server_error("cannot read the columns", error))? {
        fields.entry(row.get(0)).or_default().push(row.get(1));
    }
    let mut lines = Vec::new();
    for (place, amended) in tables.iter().enumerate() {
        let position = |number: &i16| amended.table.columns.iter().position(|it| it.number == *number);
        let fields: Vec<_> = fields.get(&amended.table.oid).into_iter().flatten().map(position).collect();
        for then in [false, true] {
            amended.each_line(then, |head, line| {
                lines.extend_from_slice(format!("{place}\t{then}\t{head}\t").as_bytes());
                push_row_literal(line, &fields, &mut lines);
                lines.push(b'\n');
            });
        }
    }
    Ok(vec![lines.into()])
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
