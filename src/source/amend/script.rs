//! Changes of rows as SQL, for people to review and to run by hand.

use std::fmt::Write;

use super::rows::{Act, AmendedRow, AmendedTable};
use crate::codec::copy_text;
use crate::model::Table;
use crate::model::schema::{quote_ident, quote_literal};

/// The changes as a script with one statement for each row. Each statement names all values that the row must have now, and a
/// statement that finds no such row changes nothing.
pub fn script(tables: &[AmendedTable]) -> String {
    let mut text = String::from(
        "-- Made by backwhen. Triggers fire here, and each statement that reports 0 rows met a row that has changed since.\n\
         -- backwhen ... --apply does the same under locks, without triggers, and all or nothing.\n\
         SET search_path = ''; SET datestyle = 'ISO, MDY'; SET timezone = 'UTC'; SET row_security = off;\n\
         BEGIN; SET CONSTRAINTS ALL DEFERRED;\n",
    );
    let each = |acts: &[Act], text: &mut String| {
        for AmendedTable { table, rows, .. } in tables {
            for row in rows.iter().filter(|row| acts.contains(&row.act)) {
                push_row(text, table, row, acts == [Act::Insert, Act::Replace]);
            }
        }
    };
    each(&[Act::Delete, Act::Replace], &mut text);
    each(&[Act::Update], &mut text);
    each(&[Act::Insert, Act::Replace], &mut text);
    text.push_str("COMMIT;\n");
    text
}

fn push_row(text: &mut String, table: &Table, row: &AmendedRow, inserts: bool) {
    let now = row.now.as_deref().map(|line| literals(table, line)).unwrap_or_default();
    let then = row.then.as_deref().map(|line| literals(table, line)).unwrap_or_default();
    let name = |at: usize| quote_ident(&table.columns[at].name);
    let is_so = |at: usize| format!("{}::text IS NOT DISTINCT FROM {}::text", name(at), now[at]);
    let found: Vec<_> = (0..now.len()).map(is_so).collect();
    let found = found.join(" AND ");
    let quoted = table.quoted();
    let written = match row.act {
        Act::Update => {
            let set = (0..now.len()).filter(|at| now[*at] != then[*at]);
            let set: Vec<_> = set.map(|at| format!("{} = {}", name(at), then[at])).collect();
            writeln!(text, "UPDATE ONLY {quoted} SET {} WHERE {found};", set.join(", "))
        }
        Act::Insert | Act::Replace if inserts => writeln!(
            text,
            "INSERT INTO {quoted} ({}) OVERRIDING SYSTEM VALUE VALUES ({});",
            table.quoted_columns(),
            then.join(", ")
        ),
        _ => writeln!(text, "DELETE FROM ONLY {quoted} WHERE {found};"),
    };
    // Writing into a String cannot fail.
    let _ = written;
}

fn literals(table: &Table, line: &[u8]) -> Vec<String> {
    let literal = |(value, column): (&[u8], &crate::model::Column)| match copy_text::unescape(value) {
        None => "NULL".to_owned(),
        Some(value) => {
            format!("{}::{}", quote_literal(&String::from_utf8_lossy(&value)), column.type_name)
        }
    };
    copy_text::columns(line).zip(&table.columns).map(literal).collect()
}
