//! The versions of one row: what it was, from when to when, and by which transactions.

mod key;
mod lives;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use serde::Serialize;

use super::values::Values;
use super::{Row, Span, Spans};
use crate::error::Result;
use crate::fold::KeyRange;
use crate::follow::{EventKind, RowChange};
use crate::model::{Inexact, Lsn, Table};
use crate::past::{Commit, Past, RECOVERY_BUDGET};
use crate::progress::Silent;

pub use key::RowKey;
use lives::Lives;

/// How a version came to be, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Turn {
    /// The row was there at the checkpoint where the span begins.
    Checkpoint,
    Insert,
    Update,
    Delete,
    Truncate,
    Ddl,
    /// No transaction tells what happened here: the history has a gap, or lost changes were corrected.
    Gap,
}

/// A version of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub from: Instant,
    /// `None` if the row is still so.
    pub to: Option<Instant>,
    pub turn: Turn,
    /// How the version ended.
    pub ended: Option<Turn>,
    pub row: Row,
}

/// A commit, or a position at which no transaction is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Instant {
    pub lsn: Lsn,
    pub time: crate::model::PgTime,
    pub xid: Option<u32>,
}

impl Instant {
    /// The last transaction that a past includes; the position where it ends if the history does not hold one.
    pub fn of(past: &Past) -> Instant {
        match past.last() {
            Some(last) if last.lsn > past.base().lsn => last.into(),
            _ => Instant { lsn: past.until(), time: past.base().time, xid: None },
        }
    }
}

impl From<Commit> for Instant {
    fn from(commit: Commit) -> Instant {
        Instant { lsn: commit.lsn, time: commit.time, xid: Some(commit.xid) }
    }
}

/// A version in JSON.
#[derive(Serialize)]
pub struct ShownVersion<'a> {
    table: String,
    from: Instant,
    to: Option<Instant>,
    op: Turn,
    ended: Option<Turn>,
    key: Values<'a>,
    row: Values<'a>,
}

impl Version {
    pub fn shown(&self) -> ShownVersion<'_> {
        ShownVersion {
            table: self.row.table.display(),
            from: self.from,
            to: self.to,
            op: self.turn,
            ended: self.ended,
            key: Values::key(Some(&self.row)),
            row: Values::all(Some(&self.row)),
        }
    }
}

/// Asks for all versions of the row that has, or once had, a key.
pub struct RowHistory<'a> {
    pub key: &'a RowKey,
    pub spans: &'a Spans,
}

impl RowHistory<'_> {
    /// Hands the versions to `take`, in the order in which they ended. Returns what of them is not exact.
    ///
    /// # Errors
    /// `Damaged` if the history is; `Refused` if several rows have the key at the same time; those of `take`.
    pub fn list(&self, take: &mut dyn FnMut(Version) -> Result<()>) -> Result<Vec<Inexact>> {
        let mut inexact = Vec::new();
        for (number, span) in self.spans.spans.iter().enumerate() {
            let ends_in_gap = number + 1 < self.spans.spans.len();
            self.in_span(span, ends_in_gap, &mut inexact, take)?;
        }
        Ok(inexact)
    }

    fn in_span(
        &self,
        span: &Span,
        ends_in_gap: bool,
        inexact: &mut Vec<Inexact>,
        take: &mut dyn FnMut(Version) -> Result<()>,
    ) -> Result<()> {
        let wanted = |table: &Table| table.oid == self.key.table;
        let mut lives = Lives::new(self.key, self.tracked(span)?);
        self.look_up(span, &mut lives)?;
        let mut follow = span.past.follow(span.until, &wanted)?;
        let mut time = span.time;
        while let Some(event) = follow.next_event()? {
            time = event.transaction.time;
            match event.kind {
                EventKind::Row { table, change } => lives.change(table, change)?,
                EventKind::Truncate { tables, .. } if !tables.is_empty() => lives.clear(Turn::Truncate),
                EventKind::Replace { .. } => lives.clear(Turn::Ddl),
                EventKind::Definition { tables, .. } => {
                    tables.iter().try_for_each(|change| lives.define(change))?;
                }
                EventKind::Commit => lives.commit(super::commit(event.transaction).into(), take)?,
                _ => {}
            }
        }
        inexact.extend(follow.inexact());
        if ends_in_gap {
            lives.clear(Turn::Gap);
            lives.commit(Instant { lsn: span.until, time, xid: None }, take)?;
        }
        lives.finish(take)
    }

    /// Finds the keys that the row, or a row that once had its key, had at any time of the span: forward from each
    /// row that has the key, and then back to the keys that such rows had before.
    fn tracked(&self, span: &Span) -> Result<HashSet<Vec<u8>>> {
        let wanted = |table: &Table| table.oid == self.key.table;
        let mut tracked = HashSet::from([self.key.value().to_vec()]);
        let mut present = tracked.clone();
        let mut moves = Vec::new();
        let mut follow = span.past.follow(span.until, &wanted)?;
        while let Some(event) = follow.next_event()? {
            let EventKind::Row { table, change } = event.kind else { continue };
            let RowChange::Update { old: Some(old), new } = change else { continue };
            let (from, to) = (self.key.of(table, old.line), self.key.of(table, new.line));
            if let (Some(from), Some(to)) = (from, to)
                && from != to
            {
                if present.contains(&from) {
                    present.insert(to.clone());
                    tracked.insert(to.clone());
                }
                moves.push((from, to));
            }
        }
        let mut earlier = HashSet::from([self.key.value().to_vec()]);
        for (from, to) in moves.into_iter().rev() {
            if earlier.contains(&to) {
                tracked.insert(from.clone());
                earlier.insert(from);
            }
        }
        Ok(tracked)
    }

    /// Finds the rows that have one of the tracked keys where the span begins.
    fn look_up(&self, span: &Span, lives: &mut Lives<'_>) -> Result<()> {
        let past = &span.past;
        let from = Instant { lsn: past.until(), time: span.time, xid: None };
        let wanted = |table: &Table| table.oid == self.key.table;
        if !past.tables()?.iter().any(wanted) {
            return Ok(());
        }
        for folded in past.fold(&wanted, RECOVERY_BUDGET, &past.history().scratch(), &Silent)?.tables {
            let table = Arc::new(folded.table.clone());
            let keys: Option<BTreeSet<_>> = lives.keys().map(|key| self.key.sort_key(&table, key)).collect();
            match keys {
                Some(keys) => folded.find(&keys, |_, line| lives.begin(&table, line, from))?,
                None => {
                    let mut rows = folded.rows(KeyRange::all(), None)?;
                    while let Some((_, line)) = rows.next_row()? {
                        lives.begin(&table, line, from)?;
                    }
                }
            }
        }
        Ok(())
    }
}
