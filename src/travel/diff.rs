//! The net difference between two moments: the rows that were added, removed or changed.
//!
//! The journal between the moments tells which rows were touched; only these are looked up at both moments. So a row that
//! was changed and changed back is no difference, and the cost does not depend on the size of the database.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use super::log::headline;
use super::merge::{Lines, side_by_side};
use super::touched::{Touched, TouchedTable};
use super::values::Values;
use super::{Condition, Row, Span, refuse_misfits};
use crate::error::Result;
use crate::fold::FoldedTable;
use crate::model::{Inexact, Lsn, PgTime, Selection, Table};
use crate::past::Past;

/// Two moments. If a gap lies between them, all rows of both are compared.
pub struct Difference<'a> {
    pub earlier: Past,
    pub later: Past,
    /// Whether the question goes back in time, from the later moment to the earlier one.
    pub backwards: bool,
    pub tables: &'a Selection,
    pub condition: Option<&'a Condition>,
}

/// The kind of a row's difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RowOperation {
    Added,
    Removed,
    Changed,
}

/// One row that differs.
pub struct RowDifference {
    pub operation: RowOperation,
    pub before: Option<Row>,
    pub after: Option<Row>,
    /// The row's place in the order in which the differences can be made.
    pub place: u64,
}

/// A row that differs, in JSON.
#[derive(Serialize)]
pub struct ShownDifference<'a> {
    table: String,
    op: RowOperation,
    key: Values<'a>,
    before: Values<'a>,
    after: Values<'a>,
}

/// How many rows of a table differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableDifference {
    pub table: String,
    pub added: u64,
    pub removed: u64,
    pub changed: u64,
}

/// A statement that changed the schema between the moments.
#[derive(Clone, Debug, Serialize)]
pub struct ChangedDefinition {
    pub lsn: Lsn,
    pub time: PgTime,
    pub xid: u64,
    pub what: String,
}

/// The difference as a whole.
pub struct Summary {
    pub tables: Vec<TableDifference>,
    pub definitions: Vec<ChangedDefinition>,
    pub inexact: Vec<Inexact>,
}

impl RowDifference {
    /// The table at the second moment, if the row is there; else at the first.
    pub fn table(&self) -> Option<&Table> {
        self.after.as_ref().or(self.before.as_ref()).map(|row| &*row.table)
    }

    pub fn shown(&self) -> ShownDifference<'_> {
        ShownDifference {
            table: self.table().map(Table::display).unwrap_or_default(),
            op: self.operation,
            key: Values::key(self.after.as_ref().or(self.before.as_ref())),
            before: Values::all(self.before.as_ref()),
            after: Values::all(self.after.as_ref()),
        }
    }
}

impl Difference<'_> {
    /// Finds what differs, and hands each row to `take`, by table and key.
    ///
    /// # Errors
    /// `Damaged` if the history is; `Usage` if no table fits the condition; those of `take`.
    pub fn find(self, take: &mut dyn FnMut(&RowDifference) -> Result<()>) -> Result<Summary> {
        let Difference { earlier, later, backwards, tables: selection, condition } = self;
        let has_gap = earlier.base().epoch != later.base().epoch || earlier.check_is_followed().is_err();
        let end = later.until();
        let until = if has_gap { earlier.until() } else { end };
        let span = |past: Past, until| Span { time: past.base().time, past, until };
        let spans = [span(earlier, until), span(later, end)];
        refuse_misfits(selection, condition, &spans)?;
        let [first, last] = &spans;
        let mut touched = match has_gap {
            true => Touched::across_gap(&first.past, &last.past, selection)?,
            false => Touched::between(first, selection)?,
        };
        touched.tables.retain(|_, it| it.whole || !it.keys.is_empty());
        if let Some(condition) = condition {
            touched.tables.retain(|_, it| it.fits(condition));
        }
        let mut before = fold(&first.past, &touched, |it| it.before.is_some())?;
        let mut after = fold(&last.past, &touched, |it| it.now.is_some())?;
        let mut tables = Vec::new();
        let mut named: Vec<_> = touched.tables.iter().collect();
        named.sort_by_key(|(_, it)| it.table().map(|table| (table.schema.clone(), table.name.clone())));
        for (oid, it) in named {
            let Some(table) = it.table() else { continue };
            let mut compared = Compared { touched: it, backwards, condition, take, counts: counts_of(table) };
            side_by_side(it, before.remove(oid), after.remove(oid), &mut |key, lines| {
                compared.add(key, lines)
            })?;
            let counts = compared.counts;
            if counts.added + counts.removed + counts.changed > 0 {
                tables.push(counts);
            }
        }
        let definitions = touched.definitions.iter().map(|change| ChangedDefinition {
            lsn: change.end_lsn,
            time: change.time,
            xid: change.xid,
            what: headline(change),
        });
        Ok(Summary { tables, definitions: definitions.collect(), inexact: touched.inexact })
    }
}

/// Folds the touched tables that exist at the moment, by oid.
fn fold(
    past: &Past,
    touched: &Touched,
    exists: impl Fn(&TouchedTable) -> bool,
) -> Result<HashMap<u32, FoldedTable>> {
    let asked = touched.tables.iter().filter(|(_, table)| exists(table));
    let asked = asked.map(|(oid, table)| (*oid, table.asked())).collect();
    Ok(past.fold_asked(&asked)?.into_iter().map(|table| (table.table.oid, table)).collect())
}

fn counts_of(table: &Table) -> TableDifference {
    TableDifference { table: table.display(), added: 0, removed: 0, changed: 0 }
}

impl TouchedTable {
    fn table(&self) -> Option<&Arc<Table>> {
        self.now.as_ref().or(self.before.as_ref())
    }

    fn fits(&self, condition: &Condition) -> bool {
        self.table().is_some_and(|table| condition.fits(table))
    }
}

/// Compares the rows of one table.
struct Compared<'a> {
    touched: &'a TouchedTable,
    backwards: bool,
    condition: Option<&'a Condition>,
    take: &'a mut dyn FnMut(&RowDifference) -> Result<()>,
    counts: TableDifference,
}

impl Compared<'_> {
    /// The lines that a key has before and after.
    fn add(&mut self, key: &[u8], lines: Lines) -> Result<()> {
        let Lines { mut before, mut after } = lines;
        before.retain(|line| match after.iter().position(|other| *other == line.now()) {
            Some(same) => {
                after.swap_remove(same);
                false
            }
            None => true,
        });
        let (first, last) = self.touched.places(key);
        let mut before = before.into_iter();
        let mut after = after.into_iter();
        loop {
            let (old, new) = (before.next(), after.next());
            let place = match (&old, &new) {
                (None, None) => return Ok(()),
                (None, Some(_)) => first,
                (Some(_), _) => last,
            };
            self.differ(old.map(|line| line.then), new, place)?;
        }
    }

    fn differ(&mut self, old: Option<Vec<u8>>, new: Option<Vec<u8>>, place: u64) -> Result<()> {
        let row = |(table, line): (&Arc<Table>, _)| Row { table: Arc::clone(table), line };
        let mut before = self.touched.before.as_ref().zip(old).map(row);
        let mut after = self.touched.now.as_ref().zip(new).map(row);
        if self.backwards {
            std::mem::swap(&mut before, &mut after);
        }
        if let Some(condition) = self.condition {
            let mut is_asked_for = false;
            for row in before.iter().chain(&after) {
                is_asked_for |= condition.is_true(&row.table, &row.line)?;
            }
            if !is_asked_for {
                return Ok(());
            }
        }
        let operation = match (&before, &after) {
            (None, _) => RowOperation::Added,
            (_, None) => RowOperation::Removed,
            _ => RowOperation::Changed,
        };
        match operation {
            RowOperation::Added => self.counts.added += 1,
            RowOperation::Removed => self.counts.removed += 1,
            RowOperation::Changed => self.counts.changed += 1,
        }
        (self.take)(&RowDifference { operation, before, after, place })
    }
}
