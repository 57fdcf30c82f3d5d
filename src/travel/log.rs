//! The transactions between two moments, with the number of rows that each changed.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use serde::Serialize;

use super::row::RowKey;
use super::whole::{Step, WholeRows};
use super::{Condition, Operation, Span, Spans, commit};
use crate::codec::copy_text;
use crate::error::{Error, Result};
use crate::follow::{TableChange, Transaction};
use crate::model::{Inexact, Lsn, PgTime, Selection, Table};
use crate::past::Reading;
use crate::signal::DefinitionChange;

/// The transactions that are asked for. What is counted of a transaction is what passes the filter.
#[derive(Default)]
pub struct Filter {
    pub tables: Selection,
    /// The operations that are asked for; without any, all of them.
    pub operations: Vec<Operation>,
    pub condition: Option<Condition>,
    /// The row that must have been changed.
    pub key: Option<RowKey>,
    /// How many rows must have been changed at least.
    pub min_rows: u64,
}

/// The order in which transactions are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// In commit order.
    Oldest,
    /// In the reverse of commit order.
    Newest,
    /// By the number of rows, the largest one first.
    Largest,
}

/// A transaction, and what passed the filter of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LoggedTransaction {
    /// The position just after the commit: as a moment, the state that the transaction left.
    pub lsn: Lsn,
    pub time: PgTime,
    pub xid: u32,
    /// Rows inserted, updated and deleted. How many rows a TRUNCATE removed is not counted.
    pub rows: u64,
    /// The bytes of these rows, as COPY text and as far as the stream carries them.
    pub bytes: u64,
    pub tables: Vec<TableCounts>,
    /// The commands that changed the schema, with the names of the objects.
    pub definitions: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TableCounts {
    pub table: String,
    pub inserts: u64,
    pub updates: u64,
    pub deletes: u64,
    pub truncates: u64,
}

/// Lists transactions.
pub struct Log<'a> {
    pub filter: &'a Filter,
    pub order: Order,
    pub limit: Option<u64>,
}

impl Log<'_> {
    /// Hands the transactions of the spans to `take`, one after the other. Returns what of them is not exact.
    ///
    /// # Errors
    /// `Damaged` if the history is; `Usage` if the condition does not fit the tables; those of `take`.
    pub fn list(
        &self,
        spans: &Spans,
        take: &mut dyn FnMut(LoggedTransaction) -> Result<()>,
    ) -> Result<Vec<Inexact>> {
        let limit = usize::try_from(self.limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        let mut inexact = Vec::new();
        match self.order {
            Order::Oldest => {
                let mut taken = 0;
                for span in &spans.spans {
                    self.each(span, &mut inexact, &mut |found| {
                        taken += 1;
                        take(found)?;
                        Ok(taken < limit)
                    })?;
                    if taken >= limit {
                        break;
                    }
                }
            }
            Order::Newest => self.newest(spans, limit, &mut inexact, take)?,
            Order::Largest => {
                let mut largest = BTreeMap::new();
                for span in &spans.spans {
                    self.each(span, &mut inexact, &mut |found| {
                        largest.insert((u64::MAX - found.rows, span.past.base().epoch, found.lsn), found);
                        if largest.len() > limit {
                            largest.pop_last();
                        }
                        Ok(true)
                    })?;
                }
                largest.into_values().try_for_each(take)?;
            }
        }
        inexact.sort_by(|a, b| (&a.what, &a.why).cmp(&(&b.what, &b.why)));
        inexact.dedup();
        Ok(inexact)
    }

    /// Lists the newest transactions. The parts between checkpoints are read from the last one back, until there are
    /// enough transactions.
    fn newest(
        &self,
        spans: &Spans,
        limit: usize,
        inexact: &mut Vec<Inexact>,
        take: &mut dyn FnMut(LoggedTransaction) -> Result<()>,
    ) -> Result<()> {
        let mut left = limit;
        for span in spans.spans.iter().rev() {
            let (epoch, from) = (span.past.base().epoch, span.past.until());
            let inside = |lsn: &Lsn| from < *lsn && *lsn < span.until;
            let mut bounds: Vec<_> = span.past.stretch().checkpoints.iter().map(|row| row.lsn).collect();
            bounds.retain(inside);
            let mut until = span.until;
            for start in bounds.into_iter().rev().chain([from]) {
                let part = Span { past: span.past.reading().before(epoch, start)?, time: span.time, until };
                let mut newest = VecDeque::new();
                self.each(&part, inexact, &mut |found| {
                    newest.push_back(found);
                    if newest.len() > left {
                        newest.pop_front();
                    }
                    Ok(true)
                })?;
                left -= newest.len();
                newest.into_iter().rev().try_for_each(&mut *take)?;
                if left == 0 {
                    return Ok(());
                }
                until = start;
            }
        }
        Ok(())
    }

    /// Hands each transaction of a span that passes the filter to `take`, until `take` wants no more.
    fn each(
        &self,
        span: &Span,
        inexact: &mut Vec<Inexact>,
        take: &mut dyn FnMut(LoggedTransaction) -> Result<bool>,
    ) -> Result<()> {
        let filter = self.filter;
        let selected = span.selected(&filter.tables)?;
        let wanted = |table: &Table| filter.takes(table, &selected);
        let whole = filter.condition.is_some() || filter.key.is_some();
        let mut tally = TransactionTally::default();
        let rows = WholeRows { span, wanted: &wanted, whole, truncated: false };
        let found = rows.follow(&mut |transaction, step| {
            let Step::Commit = step else {
                tally.add(filter, step)?;
                return Ok(true);
            };
            match tally.finish(transaction).filter(|found| filter.passes(found)) {
                Some(found) => take(found),
                None => Ok(true),
            }
        })?;
        inexact.extend(found);
        Ok(())
    }
}

impl Filter {
    /// Refuses a condition that fits no table.
    ///
    /// # Errors
    /// `Usage` if no table at the end of the last span has the columns; `Damaged` if the history is.
    pub fn check(&self, reading: &Reading, spans: &Spans) -> Result<()> {
        let (Some(condition), Some(last)) = (&self.condition, spans.spans.last()) else { return Ok(()) };
        let end = reading.before(last.past.base().epoch, last.until)?;
        let tables = last.past.tables()?.into_iter().chain(end.tables()?);
        let none = HashSet::new();
        if tables.into_iter().any(|table| self.takes(&table, &none) && condition.fits(&table)) {
            return Ok(());
        }
        Err(Error::usage(
            "no table has all columns that --where names; see the tables with: backwhen show schema --at latest",
        ))
    }

    /// Whether changes of a table are asked for, as far as they are known by the table alone.
    fn takes(&self, table: &Table, selected: &HashSet<u32>) -> bool {
        (selected.contains(&table.oid) || self.tables.takes(&table.schema, &table.name))
            && self.key.as_ref().is_none_or(|key| key.table == table.oid)
    }

    fn wants(&self, operation: Operation) -> bool {
        self.operations.is_empty() || self.operations.contains(&operation)
    }

    /// Whether one of the rows before and after a change is asked for.
    fn takes_row(&self, table: &Table, rows: [Option<&[u8]>; 2]) -> Result<bool> {
        if self.condition.as_ref().is_some_and(|condition| !condition.fits(table)) {
            return Ok(false);
        }
        for line in rows.into_iter().flatten() {
            let is_true =
                self.condition.as_ref().map_or(Ok(true), |condition| condition.is_true(table, line))?;
            if is_true && self.key.as_ref().is_none_or(|key| key.is_of(table, line)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A TRUNCATE removes every row, also those that are asked for.
    fn wants_truncate(&self, table: &Table) -> bool {
        self.wants(Operation::Truncate) && self.condition.as_ref().is_none_or(|it| it.fits(table))
    }

    /// Changes of the schema have no rows, and belong to a table only if they change one that is asked for.
    fn wants_definition(&self, tables: &[TableChange]) -> bool {
        let no_row = self.condition.is_none() && self.key.is_none();
        no_row && (self.tables.takes_all() || !tables.is_empty())
    }

    fn passes(&self, found: &LoggedTransaction) -> bool {
        let is_something = found.rows > 0
            || !found.definitions.is_empty()
            || found.tables.iter().any(|counts| counts.truncates > 0);
        is_something && found.rows >= self.min_rows
    }
}

/// Counts what one transaction did.
#[derive(Default)]
struct TransactionTally {
    tables: BTreeMap<u32, TableCounts>,
    definitions: Vec<String>,
    rows: u64,
    bytes: u64,
}

impl TransactionTally {
    fn add(&mut self, filter: &Filter, step: Step<'_>) -> Result<()> {
        match step {
            Step::Row { operation: Operation::Ddl, .. } | Step::Commit => {}
            Step::Row { table, operation, before, after } => {
                if !filter.wants(operation) || !filter.takes_row(table, [before, after])? {
                    return Ok(());
                }
                self.rows += 1;
                self.bytes += [before, after].into_iter().flatten().map(size).sum::<u64>();
                let counts = self.counts(table);
                match operation {
                    Operation::Insert => counts.inserts += 1,
                    Operation::Update => counts.updates += 1,
                    _ => counts.deletes += 1,
                }
            }
            Step::Truncate { table } if filter.wants_truncate(table) => self.counts(table).truncates += 1,
            Step::Definition { change, tables } if filter.wants(Operation::Ddl) => {
                if filter.wants_definition(tables) {
                    self.definitions.push(headline(change));
                }
            }
            Step::Truncate { .. } | Step::Definition { .. } => {}
        }
        Ok(())
    }

    fn counts(&mut self, table: &Arc<Table>) -> &mut TableCounts {
        let counts = self.tables.entry(table.oid).or_default();
        if counts.table.is_empty() {
            counts.table = table.display();
        }
        counts
    }

    /// Returns the transaction, and begins the next one.
    fn finish(&mut self, transaction: &Transaction) -> Option<LoggedTransaction> {
        let TransactionTally { tables, definitions, rows, bytes } = std::mem::take(self);
        let commit = commit(transaction);
        (rows > 0 || !tables.is_empty() || !definitions.is_empty()).then(|| LoggedTransaction {
            lsn: commit.lsn,
            time: commit.time,
            xid: commit.xid,
            rows,
            bytes,
            tables: tables.into_values().collect(),
            definitions,
        })
    }
}

/// The command and the first object that it made, changed or dropped.
pub fn headline(change: &DefinitionChange) -> String {
    let signal = &change.signal;
    let made = signal.objects.iter().map(|object| object.identity.as_str());
    let dropped = signal.dropped_identities.iter().map(|(_, identity)| identity.as_str());
    let named = signal.dropped_names.iter().map(String::as_str);
    match made.chain(dropped).chain(named).find(|name| !name.is_empty()) {
        Some(name) => format!("{} {name}", signal.tag),
        None => signal.tag.clone(),
    }
}

/// The bytes of a row, without those that the stream leaves out.
fn size(line: &[u8]) -> u64 {
    copy_text::columns(line)
        .filter(|column| *column != copy_text::HOLE)
        .map(|column| column.len() as u64)
        .sum()
}
