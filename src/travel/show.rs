//! The changes of one transaction, in the order in which it made them, or the net change of each row.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use super::log::headline;
use super::values::Values;
use super::whole::{Step, WholeRows};
use super::{Operation, Row, Span, key_of, refuse_misfits};
use crate::error::{Error, Result};
use crate::history::journal::TransactionEntry;
use crate::model::{Inexact, Lsn, Moment, RowIdentity, Selection, Table};
use crate::past::{Commit, Reading};

/// One transaction of the history.
pub struct ShownTransaction {
    pub commit: Commit,
    span: Span,
}

/// A change that the transaction made: of a row, of the rows of a table, or of the schema.
pub struct Change {
    pub operation: Operation,
    /// The name of the table, or the headline of the statement that changed the schema.
    pub what: String,
    pub before: Option<Row>,
    pub after: Option<Row>,
}

/// A change in JSON.
#[derive(Serialize)]
pub struct ShownChange<'a> {
    table: &'a str,
    op: Operation,
    key: Values<'a>,
    before: Values<'a>,
    after: Values<'a>,
}

/// The net change of a row.
pub struct NetChange {
    pub before: Option<Row>,
    pub after: Option<Row>,
    /// The places of the first and the last change of the row.
    first: u64,
    last: u64,
}

impl Change {
    pub fn shown(&self) -> ShownChange<'_> {
        ShownChange {
            table: &self.what,
            op: self.operation,
            key: Values::key(self.before.as_ref().or(self.after.as_ref())),
            before: Values::all(self.before.as_ref()),
            after: Values::all(self.after.as_ref()),
        }
    }
}

impl ShownTransaction {
    /// Finds the transaction that a moment names: `xid:N`, or the position at which `log` lists the transaction.
    ///
    /// # Errors
    /// `OutsideWindow` if the history does not hold the transaction; `Usage` if the moment names none.
    pub fn find(reading: &Reading, moment: &Moment) -> Result<ShownTransaction> {
        let (past, next) = match moment {
            Moment::Xid(_) => {
                let past = reading.at(moment, true)?;
                let next = past.next();
                (past, next)
            }
            Moment::Lsn(lsn) => by_position(reading, *lsn)?,
            _ => {
                return Err(Error::usage(
                    "name the transaction as xid:N, or by the LSN that backwhen log prints",
                ));
            }
        };
        let commit = next.ok_or_else(|| Error::outside_window("the transaction is not in the journal"))?;
        let span = Span { past, time: commit.time, until: commit.lsn };
        Ok(ShownTransaction { commit, span })
    }

    /// Hands each change to `take`, in the order in which the transaction made them. Returns what is not exact.
    ///
    /// # Errors
    /// `Damaged` if the history is; those of `take`.
    pub fn changes(
        &self,
        tables: &Selection,
        take: &mut dyn FnMut(Change) -> Result<()>,
    ) -> Result<Vec<Inexact>> {
        refuse_misfits(tables, None, std::slice::from_ref(&self.span))?;
        let selected = self.span.selected(tables)?;
        let wanted = |table: &Table| selected.takes(table);
        let rows = WholeRows::all(&self.span, &wanted);
        let mut removed = HashMap::new();
        rows.follow(&mut |transaction, step| {
            debug_assert_eq!(transaction.end_lsn, self.commit.lsn);
            match step {
                Step::Row { operation: Operation::Ddl, .. } | Step::Commit => {}
                Step::Row { table, operation, before, after } => {
                    if operation == Operation::Truncate {
                        *removed.entry(table.oid).or_insert(0) += 1;
                    }
                    let row = |line| Row::new(table, line);
                    let (before, after) = (before.map(row), after.map(row));
                    take(Change { operation, what: table.display(), before, after })?;
                }
                // The table had no rows.
                Step::Truncate { table } if removed.remove(&table.oid).is_none() => {
                    let what = table.display();
                    take(Change { operation: Operation::Truncate, what, before: None, after: None })?;
                }
                Step::Truncate { .. } => {}
                Step::Definition { change, .. } => {
                    let what = headline(change);
                    take(Change { operation: Operation::Ddl, what, before: None, after: None })?;
                }
            }
            Ok(true)
        })
    }

    /// The net change of each row, and the statements that changed the schema.
    ///
    /// # Errors
    /// The errors of [`ShownTransaction::changes`].
    pub fn net(&self, tables: &Selection) -> Result<(Vec<NetChange>, Vec<String>)> {
        let mut net = Net::default();
        self.changes(tables, &mut |change| net.add(change))?;
        let mut rows = net.rows;
        rows.retain(|row| row.before != row.after);
        Ok((rows, net.definitions))
    }
}

/// Finds the transaction that ends at a position, or whose commit record lies there.
fn by_position(reading: &Reading, lsn: Lsn) -> Result<(crate::past::Past, Option<Commit>)> {
    for stretch in reading.timeline().stretches.iter().rev() {
        for view in stretch.segments_between(Lsn::ZERO, Lsn::MAX) {
            if !(view.summary.start..=view.summary.end).contains(&lsn) {
                continue;
            }
            let segment = view.open()?;
            let named = |is_meant: &dyn Fn(&TransactionEntry) -> bool| {
                segment.transactions().iter().find(|entry| is_meant(entry)).copied()
            };
            let found =
                named(&|entry| entry.end_lsn == lsn).or_else(|| named(&|entry| entry.commit_lsn == lsn));
            if let Some(entry) = found {
                let past = reading.before(stretch.epoch.number, entry.commit_lsn)?;
                return Ok((past, Some(Commit::of(stretch, &entry))));
            }
        }
    }
    Err(Error::outside_window(format!(
        "no transaction ends at {lsn}; see the positions of transactions with: backwhen log"
    )))
}

impl NetChange {
    /// The place of the change among the others. A row is inserted where it was first written, so that what refers to it
    /// comes later, and removed where it was last written.
    pub fn place(&self) -> u64 {
        if self.before.is_none() { self.first } else { self.last }
    }

    /// The table as it is after the transaction, as far as the row knows it.
    pub fn table(&self) -> Option<&Arc<Table>> {
        self.after.as_ref().or(self.before.as_ref()).map(|row| &row.table)
    }
}

/// Adds up the changes of each row.
#[derive(Default)]
struct Net {
    rows: Vec<NetChange>,
    /// The places in `rows` of the rows by table and present key.
    present: HashMap<(u32, Vec<u8>), usize>,
    definitions: Vec<String>,
    place: u64,
}

impl Net {
    fn add(&mut self, change: Change) -> Result<()> {
        self.place += 1;
        let Change { operation, what, before, after } = change;
        if operation == Operation::Ddl {
            self.definitions.push(what);
            return Ok(());
        }
        let key = |row: &Option<Row>| {
            let keyed = row.as_ref().filter(|row| row.table.identity != RowIdentity::WholeRow);
            keyed.map(|row| Ok::<_, Error>((row.table.oid, key_of(&row.table, &row.line)?))).transpose()
        };
        let (old, new) = (key(&before)?, key(&after)?);
        // A row that was removed and written anew is a changed row.
        let known = old.as_ref().or(new.as_ref()).and_then(|key| self.present.get(key).copied());
        let place = known.unwrap_or(self.rows.len());
        match self.rows.get_mut(place) {
            Some(row) => (row.after, row.last) = (after, self.place),
            None => self.rows.push(NetChange { before, after, first: self.place, last: self.place }),
        }
        if let (Some(old), Some(new)) = (&old, &new)
            && old != new
        {
            self.present.remove(old);
        }
        if let Some(key) = new.or(old) {
            self.present.insert(key, place);
        }
        Ok(())
    }
}
