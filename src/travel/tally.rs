//! Counts the changes of one transaction, as far as they are asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::row::RowKey;
use super::whole::Step;
use super::{Condition, Operation, SelectedTables};
use crate::codec::copy_text;
use crate::error::Result;
use crate::follow::TableChange;
use crate::history::journal::ChangeCount;
use crate::model::{Lsn, PgTime, Selection, Table};
use crate::past::Commit;
use crate::signal::DefinitionChange;

/// The transactions that are asked for. What is counted of a transaction is what passes the filter.
#[derive(Default)]
pub struct Filter {
    pub tables: Selection,
    /// The operations that are asked for; without any, all of them.
    pub operations: Vec<Operation>,
    pub condition: Option<Condition>,
    /// The rows of which one must have been changed: one row, or one of each partition. Without any, all rows.
    pub keys: Vec<RowKey>,
    /// How many rows must have been changed at least.
    pub min_rows: u64,
}

/// A transaction, and what passed the filter of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LoggedTransaction {
    /// The position just after the commit: as a moment, the state that the transaction left.
    pub lsn: Lsn,
    pub time: PgTime,
    pub xid: u64,
    /// Rows inserted, updated and deleted. How many rows a TRUNCATE removed is not counted.
    pub rows: u64,
    /// The bytes of these rows, as far as the stream carries their values.
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

impl TableCounts {
    fn of(&mut self, operation: Operation) -> &mut u64 {
        match operation {
            Operation::Insert => &mut self.inserts,
            Operation::Update => &mut self.updates,
            Operation::Truncate => &mut self.truncates,
            Operation::Delete | Operation::Ddl => &mut self.deletes,
        }
    }
}

impl Filter {
    /// Whether changes of a table are asked for, as far as they are known by the table alone.
    pub(super) fn takes(&self, table: &Table, selected: &SelectedTables<'_>) -> bool {
        selected.takes(table) && self.takes_key(|key| key.table == table.oid)
    }

    fn takes_key(&self, is_meant: impl Fn(&RowKey) -> bool) -> bool {
        self.keys.is_empty() || self.keys.iter().any(is_meant)
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
            if is_true && self.takes_key(|key| key.table == table.oid && key.is_of(table, line)) {
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
        let no_row = self.condition.is_none() && self.keys.is_empty();
        no_row && (self.tables.takes_all() || !tables.is_empty())
    }

    pub(super) fn passes(&self, found: &LoggedTransaction) -> bool {
        let is_something = found.rows > 0
            || !found.definitions.is_empty()
            || found.tables.iter().any(|counts| counts.truncates > 0);
        is_something && found.rows >= self.min_rows
    }
}

/// Counts what one transaction did.
#[derive(Default)]
pub(super) struct TransactionTally {
    tables: BTreeMap<u32, TableCounts>,
    definitions: Vec<String>,
    rows: u64,
    bytes: u64,
}

impl TransactionTally {
    pub(super) fn add(&mut self, filter: &Filter, step: Step<'_>) -> Result<()> {
        match step {
            Step::Row { operation: Operation::Ddl, .. } | Step::Commit => {}
            Step::Row { table, operation, before, after } => {
                if !filter.wants(operation) || !filter.takes_row(table, [before, after])? {
                    return Ok(());
                }
                self.rows += 1;
                self.bytes += [before, after].into_iter().flatten().map(size).sum::<u64>();
                *self.counts(table).of(operation) += 1;
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

    /// Adds changes of one kind that the transaction made in a table.
    pub(super) fn add_counts(
        &mut self,
        filter: &Filter,
        table: &Arc<Table>,
        operation: Operation,
        found: &ChangeCount,
    ) {
        if !filter.wants(operation) {
            return;
        }
        let counts = self.counts(table);
        *counts.of(operation) += found.count;
        if operation != Operation::Truncate {
            self.rows += found.count;
            self.bytes += found.bytes;
        }
    }

    fn counts(&mut self, table: &Arc<Table>) -> &mut TableCounts {
        let counts = self.tables.entry(table.oid).or_default();
        if counts.table.is_empty() {
            counts.table = table.display();
        }
        counts
    }

    /// Returns the transaction, and begins the next one.
    pub(super) fn finish(&mut self, commit: Commit) -> Option<LoggedTransaction> {
        let TransactionTally { tables, definitions, rows, bytes } = std::mem::take(self);
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

/// The bytes of a row's values, without those that the stream leaves out.
fn size(line: &[u8]) -> u64 {
    let is_told = |column: &&[u8]| ![copy_text::HOLE, copy_text::NULL].contains(column);
    let values = copy_text::columns(line).filter(is_told).filter_map(copy_text::unescape);
    values.map(|value| value.len() as u64).sum()
}
