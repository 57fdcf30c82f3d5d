//! The rows that are to change, and how each change is carried out.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde::Serialize;

use super::changed::{ChangedRows, RowId};
use super::table::{ChangedTable, Line};
use crate::codec::copy_text;
use crate::codec::key::KeyShape;
use crate::error::{Error, Result};
use crate::model::{RowIdentity, Table};
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
        (table.now.is_some() && restored.as_ref() != row.last()).then_some((id, restored))
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
    let change = |(id, then): (&RowId, &Option<Line>)| (*id, changed.row(*id).last().cloned(), then.clone());
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
    let RowIdentity::Key(at) = &table.identity else { return rows };
    let keeps_key = |(_, now, then): &Change| {
        let (Some(now), Some(then)) = (now, then) else { return false };
        values(now, at) == values(then, at)
    };
    let (mut changes, others): (Vec<_>, Vec<_>) = rows.into_iter().partition(keeps_key);
    changes.extend(exchanged(table, others));
    changes.retain(|(_, now, then)| now != then);
    changes
}

/// The rows of which the key changes, or that come or go, as pairs of what stands under a key and what shall stand there.
fn exchanged(table: &Table, rows: Vec<Change>) -> Vec<Change> {
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

/// The values of some columns of a line, by their positions, with tabs between them; `None` if one of them is NULL.
pub fn values<'a>(line: &'a [u8], at: &[usize]) -> Option<Cow<'a, [u8]>> {
    let is_value = |value: &&[u8]| *value != copy_text::NULL;
    if let [at] = at {
        return copy_text::columns(line).nth(*at).filter(is_value).map(Cow::Borrowed);
    }
    let columns: Vec<_> = copy_text::columns(line).collect();
    let found: Option<Vec<_>> = at.iter().map(|at| columns.get(*at).copied().filter(is_value)).collect();
    found.map(|values| Cow::Owned(values.join(&b'\t')))
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
        let value = |line| values(line, &at);
        let updated = amended.rows.iter().enumerate().filter_map(|(number, row)| {
            let (now, then) = (row.now.as_deref().map(value)?, row.then.as_deref().map(value)?);
            (row.act == Act::Update && now != then).then_some((number, now, then))
        });
        let updated: Vec<_> = updated.collect();
        let taken: HashSet<_> = updated.iter().filter_map(|(.., then)| then.as_ref()).collect();
        let is_taken = |now: &Option<_>| now.as_ref().is_some_and(|now| taken.contains(now));
        let in_the_way: Vec<usize> =
            updated.iter().filter(|(_, now, _)| is_taken(now)).map(|(number, ..)| *number).collect();
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
