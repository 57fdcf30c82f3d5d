//! The changes since a moment: all touched rows of all tables, as the journal tells them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::table::{ChangedTable, TouchedRow, UnreadRows};
use crate::error::{Error, Result};
use crate::follow::{Event, EventKind, Follow, RowChange, TableChange, Transaction};
use crate::history::timeline::with_epoch;
use crate::model::{Inexact, Lsn, Table};
use crate::past::{Past, Reading};

/// The most bytes of changed rows that are held in memory. More are refused.
const MOST_BYTES: usize = 1 << 30;

/// A rough cost in bytes of a touched row beyond its lines.
const ROW_OVERHEAD: usize = 200;

/// Names one of the touched rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId {
    pub table: u32,
    pub row: usize,
}

/// The rows that were touched from a moment up to a later position.
pub struct ChangedRows {
    /// The moment.
    past: Arc<Past>,
    until: Lsn,
    /// A transaction that is passed over, by its number without the epoch.
    passed_over: Option<u32>,
    keeps_all: bool,
    /// The tables whose changes matter; `None` for all.
    wanted: Option<HashSet<u32>>,
    /// The position up to which is read; `None` for the end of the history.
    limit: Option<Lsn>,
    /// The cursor, which stands at `until`.
    follow: Option<Follow<'static>>,
    pub transactions: Vec<Transaction>,
    /// The number, with its epoch, of a transaction near these.
    near: Option<u64>,
    /// By oid.
    pub tables: BTreeMap<u32, ChangedTable>,
    pub inexact: Vec<Inexact>,
    /// The schema changes: the transaction's number, and the command.
    pub definitions: Vec<(u32, String)>,
    bytes: usize,
}

impl ChangedRows {
    /// Nothing has been read yet. With `keeps_all`, every version of a row is kept, as an undo needs it.
    pub fn since(past: Arc<Past>, keeps_all: bool, wanted: Option<HashSet<u32>>) -> ChangedRows {
        ChangedRows {
            until: past.until(),
            passed_over: None,
            keeps_all,
            wanted,
            limit: None,
            follow: None,
            transactions: Vec::new(),
            near: None,
            tables: BTreeMap::new(),
            inexact: past.base().inexact.clone(),
            definitions: Vec::new(),
            bytes: 0,
            past,
        }
    }

    /// The same moment, of which nothing has been read.
    pub fn nothing(&self) -> ChangedRows {
        let nothing = ChangedRows::since(Arc::clone(&self.past), self.keeps_all, self.wanted.clone());
        ChangedRows { limit: self.limit, ..nothing }
    }

    /// Reads only transactions that committed before a position.
    pub fn up_to(mut self, limit: Lsn) -> ChangedRows {
        self.limit = Some(limit);
        self
    }

    /// Passes over the transactions before `until` and over the transaction `xid`, which together changed nothing.
    pub fn pass_over(&mut self, until: Lsn, xid: u64) {
        self.until = until;
        self.passed_over = Some(xid as u32);
    }

    /// The position up to which the journal has been read.
    pub fn until(&self) -> Lsn {
        self.until
    }

    pub fn row(&self, id: RowId) -> &TouchedRow {
        &self.tables[&id.table].rows[id.row]
    }

    pub fn rows(&self) -> impl Iterator<Item = (RowId, &ChangedTable, &TouchedRow)> {
        let told = self.tables.iter().filter(|(_, table)| table.obstacle.is_none());
        told.flat_map(|(oid, table)| {
            let id = |row| RowId { table: *oid, row };
            table.rows.iter().enumerate().map(move |(number, row)| (id(number), table, row))
        })
    }

    /// Reads on, up to the end of the history as `reading` has it. Returns whether anything of the wanted tables changed.
    ///
    /// # Errors
    /// `Damaged` if the journal or an image is; `Refused` if more changed than memory should hold.
    pub fn advance(&mut self, reading: &Reading) -> Result<bool> {
        self.past.check_is_followed()?;
        let stretch = reading.stretch(self.past.stretch().epoch.number)?;
        let until = self.limit.unwrap_or(stretch.frontier()).max(self.until);
        self.near = self.near.or_else(|| stretch.number_near(until));
        let mut follow = match self.follow.take() {
            Some(mut follow) => {
                follow.go_on(&stretch.segments, until);
                follow
            }
            None => {
                let blocks =
                    self.past.blocks_that_change(self.until..until, &|table| self.wants(table.oid))?;
                // The same as the moment's own past, unless a part of the journal is passed over.
                let past = reading.forward(self.past.base().clone(), self.until)?;
                past.follow(until, &|_| true)?.reading_only(&blocks)
            }
        };
        let mut has_changed = false;
        while let Some(event) = follow.next_event()? {
            has_changed |= self.take(&event)?;
        }
        self.inexact = self.past.base().inexact.iter().cloned().chain(follow.inexact()).collect();
        (self.until, self.follow) = (until, Some(follow));
        self.complete()?;
        Ok(has_changed)
    }

    fn wants(&self, oid: u32) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| wanted.contains(&oid))
    }

    /// Returns whether the event concerns a wanted table.
    fn take(&mut self, event: &Event<'_>) -> Result<bool> {
        if self.passed_over == Some(event.transaction.xid) {
            return Ok(false);
        }
        match &event.kind {
            EventKind::Row { table, .. } if !self.wants(table.oid) => return Ok(false),
            EventKind::Row { table, change } => {
                let transaction = self.transaction(event.transaction);
                self.count(*change)?;
                let keeps_all = self.keeps_all;
                self.table(table).apply(*change, transaction, keeps_all)?;
            }
            EventKind::Truncate { tables, .. } => {
                let transaction = self.transaction(event.transaction);
                let wanted: Vec<_> = tables.iter().filter(|table| self.wants(table.oid)).collect();
                wanted.into_iter().for_each(|table| self.table(table).empty(transaction));
            }
            EventKind::Definition { tables, change } => {
                let place = event.transaction;
                let transaction = self.transaction(place);
                self.definitions.push((transaction, change.signal.tag.clone()));
                tables.iter().for_each(|change| self.define(change, place));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// A transaction's number on the server, with its epoch if a heartbeat tells it.
    pub fn xid(&self, number: u32) -> u64 {
        let xid = self.transactions[number as usize].xid;
        self.near.map_or(xid.into(), |near| with_epoch(xid, near))
    }

    /// The numbers of the transactions that committed at these positions.
    pub fn numbers(&self, positions: &BTreeSet<Lsn>) -> BTreeSet<u32> {
        let at = |(number, it): (usize, &Transaction)| positions.contains(&it.lsn).then_some(number as u32);
        self.transactions.iter().enumerate().filter_map(at).collect()
    }

    fn transaction(&mut self, transaction: &Transaction) -> u32 {
        if self.transactions.last().map(|it| it.lsn) != Some(transaction.lsn) {
            self.transactions.push(*transaction);
        }
        (self.transactions.len() - 1) as u32
    }

    fn count(&mut self, change: RowChange<'_>) -> Result<()> {
        let bytes = match change {
            RowChange::Insert { new } | RowChange::Given { new } | RowChange::Update { new, .. } => {
                new.line.len() + 2 * new.key.len()
            }
            RowChange::Delete { old } => 2 * old.key.len(),
        };
        self.bytes += bytes + ROW_OVERHEAD;
        if self.bytes > MOST_BYTES {
            return Err(Error::refused(format!(
                "more than {} MiB of rows changed since that moment, which is more than can be put back in place; use: \
                 backwhen recover --to MOMENT --into TARGET",
                MOST_BYTES >> 20
            )));
        }
        Ok(())
    }

    fn table(&mut self, table: &Arc<Table>) -> &mut ChangedTable {
        self.tables.entry(table.oid).or_insert_with(|| ChangedTable::new(table))
    }

    fn define(&mut self, change: &TableChange, place: &Transaction) {
        match change {
            TableChange::Create { table } => {
                self.tables.insert(table.oid, ChangedTable::made(table));
            }
            TableChange::Alter { before, now, reshape } => self.table(before).alter(now, reshape.as_ref()),
            TableChange::Rewrite { before, now } => {
                let table = self.table(before);
                table.alter(now, None);
                let why = format!("transaction {} ({}) rewrote all of its rows", place.xid, place.lsn);
                table.obstacle.get_or_insert(why);
            }
            TableChange::Drop { table } => self.table(table).now = None,
        }
    }

    /// Reads the touched rows as they were at the moment.
    fn complete(&mut self) -> Result<()> {
        let told = self.tables.iter().filter(|(_, table)| table.obstacle.is_none());
        let mut unread: HashMap<u32, UnreadRows> = told.map(|(oid, table)| (*oid, table.unread())).collect();
        let asked = unread.iter().filter(|(_, rows)| !rows.is_empty());
        let asked: HashMap<u32, _> = asked.map(|(oid, rows)| (*oid, rows.asked())).collect();
        for folded in self.past.fold_asked(&asked)? {
            let oid = folded.table.oid;
            let (Some(table), Some(rows)) = (self.tables.get_mut(&oid), unread.get_mut(&oid)) else {
                continue;
            };
            folded.each_of(&asked[&oid], |key, line| {
                table.take_first(rows, key, line);
                Ok(())
            })?;
        }
        unread.iter().try_for_each(|(oid, rows)| match self.tables.get_mut(oid) {
            Some(table) => table.complete(rows),
            None => Ok(()),
        })
    }
}
