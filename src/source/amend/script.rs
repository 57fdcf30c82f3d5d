//! Changes of rows as SQL, for people to review and to run by hand.

use std::fmt::Write;

use super::rows::{Act, AmendedRow, AmendedTable};
use crate::codec::copy_text::{self, sql_literal};
use crate::connect::set_local_statements;
use crate::error::Result;
use crate::model::Table;
use crate::model::schema::quote_ident;

/// The changes as a script with one statement for each row. Each statement names all values that the row must have now, and a
/// statement that finds no such row changes nothing.
///
/// # Errors
/// `Refused` if a value is no UTF-8.
pub fn script(tables: &[AmendedTable]) -> Result<String> {
    let mut text = format!(
        "-- Made by backwhen. Triggers fire here, and each statement that reports 0 rows met a row that has changed since.\n\
         -- backwhen ... --apply does the same under locks, without triggers, and all or nothing.\n\
         BEGIN;\n{}SET CONSTRAINTS ALL DEFERRED;\n",
        set_local_statements()
    );
    for acts in [&[Act::Delete, Act::Replace][..], &[Act::Update], &[Act::Insert, Act::Replace]] {
        for AmendedTable { table, rows, .. } in tables {
            for row in rows.iter().filter(|row| acts.contains(&row.act)) {
                push_row(&mut text, table, row, acts.contains(&Act::Insert))?;
            }
        }
    }
    text.push_str("COMMIT;\n");
    Ok(text)
}

fn push_row(text: &mut String, table: &Table, row: &AmendedRow, inserts: bool) -> Result<()> {
    let literals = |line: &Option<Box<[u8]>>| {
        let texts = line.as_deref().map(|line| literals(table, line)).transpose();
        texts.map(Option::unwrap_or_default)
    };
    let (now, then) = (literals(&row.now)?, literals(&row.then)?);
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
    Ok(())
}

fn literals(table: &Table, line: &[u8]) -> Result<Vec<String>> {
    let literal = |(text, column): (&[u8], &crate::model::Column)| {
        let literal = sql_literal(table, text)?;
        Ok(if text == copy_text::NULL { literal } else { format!("{literal}::{}", column.type_name) })
    };
    copy_text::columns(line).zip(&table.columns).map(literal).collect()
}
