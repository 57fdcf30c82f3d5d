//! Finds the touched rows that stand in the way of a plan: they refer to what would go, they took what is to come back, or
//! they are gone although they are needed.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use super::changed::{ChangedRows, RowId};
use super::plan::{Goals, positions, values};
use super::table::{ChangedTable, TouchedRow};
use crate::model::RowIdentity;
use crate::source::amend::{ForeignKey, LiveSchema, UniqueKey};

/// The rule for rows that cannot be put back alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConflictRule {
    /// Change nothing
    Refuse,
    /// Leave these rows as they are
    Skip,
    /// Put back what is in their way, too
    Cascade,
}

/// A row that cannot be put back alone, and a row in its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub row: RowId,
    pub other: RowId,
    /// The transactions that put the other row in the way, by their numbers.
    pub transactions: Vec<u32>,
    pub why: String,
}

/// A conflict as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConflictReport {
    pub table: String,
    pub key: BTreeMap<String, String>,
    pub why: String,
    /// The transactions that are in the way.
    pub xids: Vec<u64>,
}

impl Conflict {
    pub fn report(&self, changed: &ChangedRows) -> ConflictReport {
        let (table, key) = name_of(changed, self.row);
        let xid = |number: &u32| changed.xid(*number);
        ConflictReport {
            table,
            key,
            why: self.why.clone(),
            xids: self.transactions.iter().map(xid).collect(),
        }
    }
}

/// A row's table and key, for people.
pub fn name_of(changed: &ChangedRows, id: RowId) -> (String, BTreeMap<String, String>) {
    let Some(table) = changed.tables[&id.table].table() else { return Default::default() };
    let row = changed.row(id);
    let line = row.last().or(row.first()).map(AsRef::as_ref).unwrap_or_default();
    let RowIdentity::Key(columns) = &table.identity else { return (table.display(), BTreeMap::new()) };
    let texts: Vec<_> = crate::codec::copy_text::columns(line).collect();
    let text = |at: &usize| {
        let value = crate::codec::copy_text::unescape(texts.get(*at).copied().unwrap_or_default());
        (table.columns[*at].name.clone(), String::from_utf8_lossy(&value.unwrap_or_default()).into_owned())
    };
    (table.display(), columns.iter().map(text).collect())
}

/// A row that was touched, as it is and as it will be.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    id: RowId,
    row: &'a TouchedRow,
    now: Option<&'a [u8]>,
    /// The line after the plan.
    after: Option<&'a [u8]>,
    is_planned: bool,
}

impl Candidate<'_> {
    /// Whether the plan changes the values of some columns.
    fn changes(&self, at: &[usize]) -> bool {
        value(self.now, at) != value(self.after, at)
    }
}

/// Looks for rows in the way of the goals.
pub fn conflicts(changed: &ChangedRows, goals: &Goals, schema: &LiveSchema) -> Vec<Conflict> {
    let rows = Rows { changed, goals };
    let mut found = Vec::new();
    for key in &schema.foreign_keys {
        rows.children_in_the_way(key, &mut found);
        rows.parents_that_are_gone(key, &mut found);
    }
    for key in &schema.unique_keys {
        rows.taken_values(key, &mut found);
    }
    found
}

struct Rows<'a> {
    changed: &'a ChangedRows,
    goals: &'a Goals,
}

impl<'a> Rows<'a> {
    /// The touched rows of a table, with the positions of some columns.
    fn of(&self, oid: u32, columns: &[String]) -> Option<(&'a ChangedTable, Vec<usize>, Vec<Candidate<'a>>)> {
        let table = self.changed.tables.get(&oid).filter(|it| it.obstacle.is_none())?;
        let at = positions(table.now.as_deref()?, columns)?;
        let first = RowId { table: oid, row: 0 };
        let mut goals = self.goals.range(first..=RowId { row: usize::MAX, ..first }).peekable();
        let candidate = |(row, touched): (usize, &'a TouchedRow)| {
            let id = RowId { table: oid, row };
            let goal = goals.next_if(|(at, _)| **at == id).map(|(_, goal)| goal);
            let now = touched.last().map(AsRef::as_ref);
            let after = goal.map_or(now, |goal| goal.as_deref());
            Candidate { id, row: touched, now, after, is_planned: goal.is_some() }
        };
        Some((table, at, table.rows.iter().enumerate().map(candidate).collect()))
    }

    /// A parent's value goes, and a row refers to it.
    fn children_in_the_way(&self, key: &ForeignKey, found: &mut Vec<Conflict>) {
        let parents: Vec<_> =
            key.parents.iter().filter_map(|oid| self.of(*oid, &key.parent_columns)).collect();
        let mut lost = HashMap::new();
        for (_, at, rows) in &parents {
            let goes = |row: &&Candidate<'_>| row.is_planned && row.changes(at);
            lost.extend(rows.iter().filter(goes).filter_map(|row| Some((value(row.now, at)?, row.id))));
        }
        if lost.is_empty() {
            return;
        }
        for (_, at, rows) in &parents {
            for there in rows.iter().filter_map(|row| value(row.after, at)) {
                lost.remove(&there);
            }
        }
        for (table, at, rows) in key.children.iter().filter_map(|it| self.of(it.oid, &key.child_columns)) {
            let name = table.table().map_or_else(String::new, |table| table.display());
            for row in &rows {
                let Some(parent) = value(row.after, &at).and_then(|value| lost.get(&value)) else { continue };
                let why = format!("a row of {name} refers to it ({})", key.name);
                found.push(conflict(*parent, row, why));
            }
        }
    }

    /// A row is to come back, and the row that it refers to is gone.
    fn parents_that_are_gone(&self, key: &ForeignKey, found: &mut Vec<Conflict>) {
        let (mut there, mut gone) = (HashSet::new(), HashMap::<_, Candidate<'_>>::new());
        let mut name = String::new();
        for (table, at, rows) in key.parents.iter().filter_map(|oid| self.of(*oid, &key.parent_columns)) {
            name = table.table().map_or_else(String::new, |table| table.display());
            for row in rows {
                there.extend(value(row.after, &at));
                // A value that goes only by the plan has its conflicts on the parent's side.
                let last = value(row.now, &at);
                let values =
                    row.row.versions.iter().filter_map(|version| value(version.line.as_deref(), &at));
                gone.extend(values.filter(|value| last.as_ref() != Some(value)).map(|value| (value, row)));
            }
        }
        gone.retain(|value, _| !there.contains(value));
        if gone.is_empty() {
            return;
        }
        for (_, at, rows) in key.children.iter().filter_map(|it| self.of(it.oid, &key.child_columns)) {
            for row in rows.iter().filter(|row| row.is_planned) {
                let Some(parent) = value(row.after, &at).and_then(|value| gone.get(&value)) else { continue };
                if parent.id != row.id {
                    let why = format!("the row of {name} that it refers to is gone ({})", key.name);
                    found.push(conflict(row.id, parent, why));
                }
            }
        }
    }

    /// A row is to have a unique value that another one took.
    fn taken_values(&self, key: &UniqueKey, found: &mut Vec<Conflict>) {
        let Some((_, at, rows)) = self.of(key.table, &key.columns) else { return };
        let (changing, others): (Vec<&Candidate<'_>>, Vec<_>) = rows.iter().partition(|row| row.changes(&at));
        if changing.is_empty() {
            return;
        }
        let holders = others.into_iter().filter_map(|row| Some((value(row.after, &at)?, row)));
        let holders: HashMap<Cow<'_, [u8]>, &Candidate<'_>> = holders.collect();
        for row in changing {
            let Some(holder) = value(row.after, &at).and_then(|value| holders.get(&value)) else { continue };
            let why = format!("another row took its unique value ({})", key.name);
            found.push(conflict(row.id, holder, why));
        }
    }
}

fn conflict(row: RowId, other: &Candidate<'_>, why: String) -> Conflict {
    Conflict { row, other: other.id, transactions: other.row.transactions().collect(), why }
}

/// The values of some columns as one text; `None` if there is no row, or a NULL.
fn value<'a>(line: Option<&'a [u8]>, at: &[usize]) -> Option<Cow<'a, [u8]>> {
    values(line?, at)
}
