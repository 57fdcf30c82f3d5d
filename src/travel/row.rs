//! The versions of one row: what it was, from when to when, and by which transactions.

mod key;
mod lives;
mod tracked;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::Serialize;

use super::values::Values;
use super::{Row, Span, Spans};
use crate::error::Result;
use crate::fold::AskedRows;
use crate::follow::EventKind;
use crate::model::{Inexact, Lsn, Table};
use crate::past::{Commit, Past};

pub use key::RowKey;
use lives::Lives;
pub use tracked::TrackedRows;

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
    pub xid: Option<u64>,
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
        let tracked = TrackedRows::find(span, self.key)?;
        let mut lives = Lives::new(self.key, tracked.keys.clone());
        self.look_up(span, &mut lives)?;
        let mut follow = tracked.follow(span, &wanted)?;
        while let Some(event) = follow.next_event()? {
            match event.kind {
                EventKind::Row { table, change } => lives.change(table, change)?,
                EventKind::Truncate { tables, .. } if !tables.is_empty() => lives.clear(Turn::Truncate),
                EventKind::Replace { .. } => lives.clear(Turn::Ddl),
                EventKind::Definition { tables, .. } => {
                    tables.iter().try_for_each(|change| lives.define(change))?;
                }
                EventKind::Commit => lives.commit(span.past.commit(event.transaction).into(), take)?,
                _ => {}
            }
        }
        inexact.extend(follow.inexact());
        if ends_in_gap {
            lives.clear(Turn::Gap);
            lives.commit(Instant { lsn: span.until, time: span.last_time()?, xid: None }, take)?;
        }
        lives.finish(take)
    }

    /// Finds the rows that have one of the tracked keys where the span begins.
    fn look_up(&self, span: &Span, lives: &mut Lives<'_>) -> Result<()> {
        let from = Instant { lsn: span.past.until(), time: span.time, xid: None };
        let Some(table) = span.past.tables()?.into_iter().find(|table| table.oid == self.key.table) else {
            return Ok(());
        };
        let keys: Option<BTreeSet<_>> = lives.keys().map(|key| self.key.sort_key(&table, key)).collect();
        let asked = keys.map_or(AskedRows::All, |keys| AskedRows::Keys(keys.into_iter().collect()));
        let asked = HashMap::from([(table.oid, asked)]);
        for folded in span.past.fold_asked(&asked)? {
            let table = Arc::new(folded.table.clone());
            folded.each_of(&asked[&table.oid], |_, line| lives.begin(&table, line, from))?;
        }
        Ok(())
    }
}
