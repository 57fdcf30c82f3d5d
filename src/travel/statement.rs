//! SQL statements that make, take back or bring back changes of single rows.

use crate::codec::copy_text::{self, sql_literal};
use crate::error::{Result, one_line};
use crate::model::schema::quote_ident;
use crate::model::{Column, RowIdentity, Table};

use super::{Row, key_columns};

/// The change of one row from one state to another. `None` stands for no row.
pub struct RowChange<'a> {
    pub from: Option<&'a Row>,
    pub to: Option<&'a Row>,
}

/// Begins a script, before the settings under which values mean what they mean in the history.
const BEGINNING: &str = "-- Written by backwhen. Read it, then apply it with: psql --no-psqlrc --file FILE
\\set ON_ERROR_STOP on
-- A statement that does not change exactly one row ends the script, and nothing is changed: division by zero.
\\set one 'SELECT 1 / (:ROW_COUNT = 1)::int AS changed'
-- Triggers fire as for any statement: disable those whose effects are among these changes.
BEGIN;
";

/// The statements that lead from one state of the rows to another.
#[derive(Default)]
pub struct Script {
    statements: Vec<Statement>,
    /// Remarks for whoever reads the script.
    pub notes: Vec<String>,
    /// Whether a row must be found with all of its values, and not by its key alone.
    is_exact: bool,
}

struct Statement {
    place: u64,
    kind: Kind,
    table: u32,
    sql: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Insert,
    Update,
    Delete,
}

impl Script {
    /// A script that changes no row that has changed since.
    pub fn exact() -> Script {
        Script { is_exact: true, ..Script::default() }
    }

    /// Adds the change of a row, in the columns of the table as `now` has them. Changes are made in the order of their
    /// places.
    ///
    /// # Errors
    /// `Refused` if a value is no UTF-8.
    pub fn add(&mut self, place: u64, now: &Table, change: &RowChange<'_>) -> Result<()> {
        let kind = match (change.from, change.to) {
            (None, _) => Kind::Insert,
            (_, None) => Kind::Delete,
            _ => Kind::Update,
        };
        let statement = change.statement(now, self.is_exact)?;
        self.statements.extend(statement.map(|sql| Statement { place, kind, table: now.oid, sql }));
        Ok(())
    }

    /// The script as text, which begins with `settings`; if it goes back in time, the last change comes first.
    ///
    /// A foreign key removes rows after the row that they refer to, and a table is usually made after the tables that it
    /// refers to. So neighbouring inserts come in the order in which their tables were made, and neighbouring deletes in
    /// the reverse of it.
    pub fn text(mut self, backwards: bool, settings: &str) -> String {
        self.statements.sort_by_key(|it| if backwards { u64::MAX - it.place } else { it.place });
        for run in self.statements.chunk_by_mut(|a, b| a.kind == b.kind) {
            match run[0].kind {
                Kind::Insert => run.sort_by_key(|it| it.table),
                Kind::Delete => run.sort_by_key(|it| u32::MAX - it.table),
                Kind::Update => {}
            }
        }
        let notes = self.notes.iter().map(|note| format!("-- {}\n", one_line(note)));
        let statements = self.statements.iter().map(|it| format!("{}\n:one \\gset\n", it.sql));
        let body: String = notes.chain(statements).collect();
        format!("{BEGINNING}{settings}SET CONSTRAINTS ALL DEFERRED;\n{body}COMMIT;\n")
    }
}

impl RowChange<'_> {
    /// The statement; `None` if there is nothing to do.
    fn statement(&self, now: &Table, is_exact: bool) -> Result<Option<String>> {
        Ok(match (self.from, self.to) {
            (None, None) => None,
            (None, Some(to)) => Some(insert(now, to)? + ";"),
            (Some(from), None) => {
                Some(format!("DELETE FROM {} WHERE {};", now.quoted(), condition(now, from, is_exact)?))
            }
            (Some(from), Some(to)) => update(now, from, to, is_exact)?,
        })
    }
}

/// The statement that makes a row be so, whether or not there is another row with its key.
///
/// # Errors
/// `Refused` if a value is no UTF-8.
pub fn bring_back(row: &Row) -> Result<String> {
    let (table, insert) = (&*row.table, insert(&row.table, row)?);
    let key = key_columns(table);
    if key.is_empty() {
        return Ok(insert + ";");
    }
    let name = |column: &usize| quote_ident(&table.columns[*column].name);
    let names: Vec<_> = key.iter().map(name).collect();
    let others: Vec<_> = (0..table.columns.len()).filter(|column| !key.contains(column)).collect();
    let sets: Vec<_> =
        others.iter().map(|column| format!("{} = EXCLUDED.{}", name(column), name(column))).collect();
    let action =
        if sets.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", sets.join(", ")) };
    Ok(format!("{insert} ON CONFLICT ({}) DO {action};", names.join(", ")))
}

/// The columns of the table as it is now, each with the value that the row has there.
fn values<'a>(now: &'a Table, row: &'a Row) -> Result<Vec<(&'a Column, String)>> {
    let held: Vec<_> = row.table.columns.iter().zip(copy_text::columns(&row.line)).collect();
    let mut values = Vec::new();
    for column in &now.columns {
        if let Some((_, text)) = held.iter().find(|(then, _)| column.is_same_as(then)) {
            values.push((column, sql_literal(now, text)?));
        }
    }
    Ok(values)
}

fn insert(now: &Table, row: &Row) -> Result<String> {
    let values = values(now, row)?;
    if values.is_empty() {
        return Ok(format!("INSERT INTO {} DEFAULT VALUES", now.quoted()));
    }
    let names: Vec<_> = values.iter().map(|(column, _)| quote_ident(&column.name)).collect();
    let values: Vec<_> = values.into_iter().map(|(_, value)| value).collect();
    let (table, names, values) = (now.quoted(), names.join(", "), values.join(", "));
    Ok(format!("INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE VALUES ({values})"))
}

fn update(now: &Table, from: &Row, to: &Row, is_exact: bool) -> Result<Option<String>> {
    let (before, after) = (values(now, from)?, values(now, to)?);
    let changed = after.into_iter().filter(|it| !before.contains(it));
    let sets: Vec<_> =
        changed.map(|(column, value)| format!("{} = {value}", quote_ident(&column.name))).collect();
    if sets.is_empty() {
        return Ok(None);
    }
    let condition = condition(now, from, is_exact)?;
    Ok(Some(format!("UPDATE {} SET {} WHERE {condition};", now.quoted(), sets.join(", "))))
}

/// The condition that only this row fulfils; if `is_exact`, only as long as it is so.
fn condition(now: &Table, row: &Row, is_exact: bool) -> Result<String> {
    let values = values(now, row)?;
    let join = |parts: Vec<String>| if parts.is_empty() { "true".to_owned() } else { parts.join(" AND ") };
    // Not every type has an operator of equality, but each has a text.
    let is_so = |(column, value): &(&Column, String)| {
        let text = format!("{value}::{}::text", column.type_name);
        format!("{}::text IS NOT DISTINCT FROM {text}", quote_ident(&column.name))
    };
    match &now.identity {
        RowIdentity::Key(_) if is_exact => Ok(join(values.iter().map(is_so).collect())),
        RowIdentity::Key(key) => {
            let is_key = |(column, _): &&(&Column, String)| {
                key.iter().any(|place| now.columns[*place].is_same_as(column))
            };
            let part =
                |(column, value): &(&Column, String)| format!("{} = {value}", quote_ident(&column.name));
            Ok(join(values.iter().filter(is_key).map(part).collect()))
        }
        // The statement means one of several equal rows.
        RowIdentity::WholeRow => {
            let parts = join(values.iter().map(is_so).collect());
            Ok(format!("ctid = (SELECT ctid FROM {} WHERE {parts} LIMIT 1)", now.quoted()))
        }
    }
}
