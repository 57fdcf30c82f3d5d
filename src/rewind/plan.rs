//! The rows that are to change, and how each change is carried out.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Serialize;

use super::changed::{ChangedRows, RowId};
use super::table::{ChangedTable, Line};
use crate::codec::copy_text;
use crate::codec::key::KeyShape;
use crate::error::{Error, Result};
use crate::model::Table;
use crate::source::amend::{Act, AmendedRow, AmendedTable, LiveSchema, UniqueKey};
use crate::travel::Row;
use crate::travel::statement::{RowChange, Script};

/// The rows that are to change, each with the line that it shall have; `None` if it shall not be there.
pub type Goals = BTreeMap<RowId, Option<Line>>;

/// The number of rows that change in a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableCount {
    pub table: String,
    pub inserted: u64,
    pub deleted: u64,
    pub updated: u64,
}

/// A table's changes, and the touched row behind each of them.
#[derive(Clone, Debug)]
pub struct PlannedTable {
    pub amended: AmendedTable,
    pub rows: Vec<RowId>,
}

impl PlannedTable {
    /// Adds a statement for each row to a script: deletes first, then updates, and inserts last, so that unique values are
    /// free when they are taken.
    ///
    /// # Errors
    /// `Refused` if a value is no UTF-8.
    pub fn add_to(&self, script: &mut Script) -> Result<()> {
        let table = Arc::new(self.amended.table.clone());
        for AmendedRow { act, now, then, .. } in &self.amended.rows {
            let row = |line: &Option<Line>| line.as_deref().map(|line| Row::new(&table, line));
            let (from, to) = (row(now), row(then));
            let (from, to) = (from.as_ref(), to.as_ref());
            match act {
                Act::Delete => script.add(0, &table, &RowChange { from, to: None })?,
                Act::Update => script.add(1, &table, &RowChange { from, to })?,
                Act::Insert => script.add(2, &table, &RowChange { from: None, to })?,
                Act::Replace => {
                    script.add(0, &table, &RowChange { from, to: None })?;
                    script.add(2, &table, &RowChange { from: None, to })?;
                }
            }
        }
        Ok(())
    }

    pub fn count(&self) -> TableCount {
        let count =
            |acts: &[Act]| self.amended.rows.iter().filter(|row| acts.contains(&row.act)).count() as u64;
        TableCount {
            table: self.amended.table.display(),
            inserted: count(&[Act::Insert]),
            deleted: count(&[Act::Delete]),
            updated: count(&[Act::Update, Act::Replace]),
        }
    }
}

/// Finds the lines that the touched rows shall have to be as they were at the moment.
pub fn rewind_goals(changed: &ChangedRows) -> Goals {
    let goal = |(id, table, row): (RowId, &ChangedTable, &super::table::TouchedRow)| {
        let restored = table.restored(row);
        (table.now.is_some() && restored.as_deref() != row.last()).then_some((id, restored))
    };
    changed.rows().filter_map(goal).collect()
}

/// Sorts the goals by tables, and decides how each row is changed.
///
/// # Errors
/// `Refused` if rows cannot take each other's unique values.
pub fn planned_tables(
    changed: &ChangedRows,
    goals: &Goals,
    schema: &LiveSchema,
) -> Result<Vec<PlannedTable>> {
    let change =
        |(id, then): (&RowId, &Option<Line>)| (*id, changed.row(*id).last().map(Line::from), then.clone());
    planned_changes(changed, goals.iter().map(change), schema)
}

/// Sorts changes by tables: each row with the line that it has, and with the line that it shall have.
///
/// # Errors
/// `Refused` if rows cannot take each other's unique values.
pub fn planned_changes(
    changed: &ChangedRows,
    changes: impl Iterator<Item = Change>,
    schema: &LiveSchema,
) -> Result<Vec<PlannedTable>> {
    let mut tables = BTreeMap::<u32, Vec<Change>>::new();
    for change in changes {
        tables.entry(change.0.table).or_default().push(change);
    }
    let plan = |(oid, rows): (u32, Vec<_>)| {
        let Some(table) = changed.tables[&oid].now.as_deref() else { return Ok(None) };
        let rows = if changed.tables[&oid].is_keyed() { by_key(table, rows) } else { split(rows) };
        let mut planned = PlannedTable {
            rows: rows.iter().map(|(id, ..)| *id).collect(),
            amended: AmendedTable { table: table.clone(), rows: Vec::new(), parking: None },
        };
        planned.amended.rows = rows.into_iter().filter_map(|(_, now, then)| amended(now, then)).collect();
        make_way(&mut planned.amended, schema)?;
        Ok((!planned.rows.is_empty()).then_some(planned))
    };
    tables.into_iter().filter_map(|table| plan(table).transpose()).collect()
}

fn amended(now: Option<Line>, then: Option<Line>) -> Option<AmendedRow> {
    let act = match (&now, &then) {
        (None, Some(_)) => Act::Insert,
        (Some(_), None) => Act::Delete,
        (Some(_), Some(_)) => Act::Update,
        (None, None) => return None,
    };
    Some(AmendedRow { act, now, then, parks: false })
}

/// A row, the line that it has, and the line that it shall have.
pub type Change = (RowId, Option<Line>, Option<Line>);

/// Pairs the row that has a key now with the row that shall have it, though they may be two rows: other tables refer to the
/// key, so the row under it must be updated, not deleted. The rows without a partner change their keys, go or come.
fn by_key(table: &Table, rows: Vec<Change>) -> Vec<Change> {
    let shape = KeyShape::of(table);
    let key_of = |line: &Option<Line>| {
        let mut key = Vec::new();
        shape.push_key(line.as_deref()?, &mut key).map(|()| key)
    };
    let mut coming = HashMap::new();
    for (number, (.., then)) in rows.iter().enumerate() {
        coming.extend(key_of(then).map(|key| (key, number)));
    }
    let (mut goes, mut comes) = (vec![true; rows.len()], vec![true; rows.len()]);
    let mut changes = Vec::with_capacity(rows.len());
    for (number, (id, now, _)) in rows.iter().enumerate() {
        let Some(with) = key_of(now).and_then(|key| coming.get(&key).copied()) else { continue };
        (goes[number], comes[with]) = (false, false);
        changes.push((*id, now.clone(), rows[with].2.clone()));
    }
    for (number, (id, now, then)) in rows.into_iter().enumerate() {
        let (now, then) = (now.filter(|_| goes[number]), then.filter(|_| comes[number]));
        changes.push((id, now, then));
    }
    changes.retain(|(_, now, then)| now != then);
    changes
}

/// A row without a key is changed by deleting it and inserting another. Equal rows that go and come cancel each other.
fn split(rows: Vec<Change>) -> Vec<Change> {
    let mut coming = HashMap::<Line, Vec<RowId>>::new();
    for (id, _, then) in &rows {
        if let Some(then) = then {
            coming.entry(then.clone()).or_default().push(*id);
        }
    }
    let mut parts = Vec::new();
    for (id, now, _) in rows {
        let Some(now) = now else { continue };
        if coming.get_mut(&now).and_then(Vec::pop).is_none() {
            parts.push((id, Some(now), None));
        }
    }
    let new = coming
        .into_iter()
        .flat_map(|(line, ids)| ids.into_iter().map(move |id| (id, None, Some(line.clone()))));
    parts.extend(new);
    parts.sort_by_key(|(id, ..)| *id);
    parts
}

/// The values of some columns of a line, by their positions; `None` if one of them is NULL.
pub fn values<'a>(line: &'a [u8], at: &[usize]) -> Option<Vec<&'a [u8]>> {
    let columns: Vec<_> = copy_text::columns(line).collect();
    let value = |at: &usize| columns.get(*at).copied().filter(|value| *value != copy_text::NULL);
    at.iter().map(value).collect()
}

/// The positions of columns by their names; `None` if one is not stored.
pub fn positions(table: &Table, names: &[String]) -> Option<Vec<usize>> {
    names.iter().map(|name| table.columns.iter().position(|column| column.name == *name)).collect()
}

/// Updated rows that take each other's unique values are replaced, or wait with another value in the column.
fn make_way(amended: &mut AmendedTable, schema: &LiveSchema) -> Result<()> {
    let can_be_replaced = schema.rows_can_be_replaced(amended.table.oid);
    for key in schema.unique_keys.iter().filter(|key| key.table == amended.table.oid && key.is_immediate) {
        let Some(at) = positions(&amended.table, &key.columns) else { continue };
        let value = |line: &Option<Line>| {
            line.as_deref().and_then(|line| values(line, &at)).map(|them| them.join(&b'\t'))
        };
        let updated = |row: &&AmendedRow| row.act == Act::Update && value(&row.now) != value(&row.then);
        let taken: std::collections::HashSet<_> =
            amended.rows.iter().filter(updated).filter_map(|row| value(&row.then)).collect();
        let waiting = amended.rows.iter().enumerate().filter(|(_, row)| updated(row));
        let in_the_way: Vec<usize> = waiting
            .filter(|(_, row)| value(&row.now).is_some_and(|it| taken.contains(&it)))
            .map(|(number, _)| number)
            .collect();
        if !can_be_replaced && !in_the_way.is_empty() {
            let parking = schema.parking(&amended.table, key);
            // Only one column can be the place to wait.
            if parking.is_none() || amended.parking.is_some_and(|other| Some(other) != parking) {
                return Err(no_way(&amended.table, key));
            }
            amended.parking = parking;
        }
        for number in in_the_way {
            if can_be_replaced {
                amended.rows[number].act = Act::Replace;
            } else {
                amended.rows[number].parks = true;
            }
        }
    }
    Ok(())
}

fn no_way(table: &Table, key: &UniqueKey) -> Error {
    Error::refused(format!(
        "rows of {} take each other's unique values ({}), and while foreign keys refer to the table, none of these columns can \
         hold another value meanwhile; leave the table out with --table, or exchange the values by hand first",
        table.display(),
        key.name
    ))
}
