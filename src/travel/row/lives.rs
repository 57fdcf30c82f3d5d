//! The lives of the rows that once had a key: each from an insert to a delete, in versions.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Instant, RowKey, Turn, Version};
use crate::codec::copy_text;
use crate::error::{Error, Result};
use crate::follow::{RowChange, TableChange};
use crate::model::Table;
use crate::travel::Row;
use crate::travel::values::Values;
use crate::travel::whole::reshaped;

/// The rows that have one of the tracked keys now.
pub(super) struct Lives<'a> {
    key: &'a RowKey,
    tracked: HashSet<Vec<u8>>,
    present: HashMap<Vec<u8>, Life>,
    /// Lives that ended in the present transaction, and whose key another row has taken.
    ended: Vec<Life>,
}

/// The life of one row, from its insert or the beginning of the span on.
#[derive(Default)]
struct Life {
    /// The row at this point of the transaction; `None` if it is gone.
    now: Option<Row>,
    /// The last thing that happened to the row in the present transaction.
    turn: Option<Turn>,
    /// The version that the last transaction left.
    version: Option<Version>,
    /// Versions that ended before the row got the key that is asked for.
    held: Vec<Version>,
    /// Whether the row has, or had, the key that is asked for.
    is_asked_for: bool,
}

impl<'a> Lives<'a> {
    pub fn new(key: &'a RowKey, tracked: HashSet<Vec<u8>>) -> Lives<'a> {
        Lives { key, tracked, present: HashMap::new(), ended: Vec::new() }
    }

    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.tracked.iter().map(Vec::as_slice)
    }

    /// A row is there where the span begins.
    pub fn begin(&mut self, table: &Arc<Table>, line: &[u8], from: Instant) -> Result<()> {
        let Some(key) = self.tracked_key(table, line) else { return Ok(()) };
        let row = Row::new(table, line);
        let version = Version { from, to: None, turn: Turn::Checkpoint, ended: None, row: row.clone() };
        let is_asked_for = key == self.key.value();
        let life = Life { now: Some(row), version: Some(version), is_asked_for, ..Life::default() };
        match self.present.insert(key, life) {
            None => Ok(()),
            Some(_) => Err(self.several(table)),
        }
    }

    pub fn change(&mut self, table: &Arc<Table>, change: RowChange<'_>) -> Result<()> {
        match change {
            RowChange::Insert { new } => self.put(table, new.line, None, Turn::Insert),
            RowChange::Given { new } => self.put(table, new.line, None, Turn::Ddl),
            RowChange::Delete { old } => {
                let life = self.tracked_key(table, old.line).and_then(|key| self.present.get_mut(&key));
                if let Some(life) = life {
                    (life.now, life.turn) = (None, Some(Turn::Delete));
                }
                Ok(())
            }
            RowChange::Update { old, new } => {
                let key = self.tracked_key(table, old.map_or(new.line, |old| old.line));
                let life = key.and_then(|key| self.present.remove(&key));
                let before = life.as_ref().and_then(|life| life.now.as_ref()).map(|row| row.line.clone());
                let told = old.map(|old| old.line).filter(|line| !copy_text::has_hole(line));
                let before = before.as_deref().or(told);
                let line = if copy_text::has_hole(new.line) {
                    before.and_then(|before| copy_text::fill_holes(new.line, before))
                } else {
                    Some(new.line.to_vec())
                };
                match line {
                    Some(line) => self.put(table, &line, life, Turn::Update),
                    // A row that nobody follows.
                    None => Ok(()),
                }
            }
        }
    }

    /// A row has this line from here on.
    fn put(&mut self, table: &Arc<Table>, line: &[u8], life: Option<Life>, turn: Turn) -> Result<()> {
        // No row that is asked for ever has another key.
        let Some(key) = self.tracked_key(table, line) else { return Ok(()) };
        let before = self.present.remove(&key);
        if before.as_ref().is_some_and(|before| before.now.is_some()) {
            return Err(self.several(table));
        }
        let (mut life, turn) = match (life, before) {
            (Some(life), before) => {
                self.ended.extend(before);
                (life, turn)
            }
            // A row that was removed and written anew in one transaction was changed.
            (None, Some(before)) if before.turn.is_some() && before.version.is_some() => {
                (before, if turn == Turn::Insert { Turn::Update } else { turn })
            }
            (None, before) => {
                self.ended.extend(before);
                (Life::default(), turn)
            }
        };
        life.now = Some(Row::new(table, line));
        life.turn = Some(if life.turn == Some(Turn::Insert) { Turn::Insert } else { turn });
        life.is_asked_for |= key == self.key.value();
        self.present.insert(key, life);
        Ok(())
    }

    /// All rows are gone.
    pub fn clear(&mut self, turn: Turn) {
        for life in self.present.values_mut() {
            (life.now, life.turn) = (None, Some(turn));
        }
    }

    /// A statement changed the table.
    pub fn define(&mut self, change: &TableChange) -> Result<()> {
        match change {
            TableChange::Create { .. } => {}
            TableChange::Drop { table } if table.oid == self.key.table => self.clear(Turn::Ddl),
            TableChange::Alter { now, reshape, .. } if now.oid == self.key.table => {
                for life in self.present.values_mut() {
                    let Some(row) = &mut life.now else { continue };
                    *row = Row { table: Arc::clone(now), line: reshaped(reshape.as_ref(), &row.line)? };
                    life.turn = life.turn.or(Some(Turn::Ddl));
                }
            }
            TableChange::Drop { .. } | TableChange::Alter { .. } | TableChange::Rewrite { .. } => {}
        }
        Ok(())
    }

    /// The transaction ends: what differs from before is a version.
    pub fn commit(&mut self, at: Instant, take: &mut dyn FnMut(Version) -> Result<()>) -> Result<()> {
        let mut ended = std::mem::take(&mut self.ended);
        let mut versions = Vec::new();
        for life in ended.iter_mut().chain(self.present.values_mut()) {
            life.commit(at, &mut versions);
        }
        self.present.retain(|_, life| life.now.is_some());
        versions.sort_by_key(|version| version.from.lsn);
        versions.into_iter().try_for_each(take)
    }

    /// The span ends: the versions that are still there have no end.
    pub fn finish(self, take: &mut dyn FnMut(Version) -> Result<()>) -> Result<()> {
        let lives = self.present.into_values().filter(|life| life.is_asked_for);
        let mut versions: Vec<_> = lives.flat_map(|life| life.held.into_iter().chain(life.version)).collect();
        versions.sort_by_key(|version| version.from.lsn);
        versions.into_iter().try_for_each(take)
    }

    fn tracked_key(&self, table: &Table, line: &[u8]) -> Option<Vec<u8>> {
        self.key.of(table, line).filter(|key| self.tracked.contains(key))
    }

    fn several(&self, table: &Table) -> Error {
        Error::refused(format!(
            "several rows of {} have this key at the same time; name more columns, as column=value,…",
            table.display()
        ))
    }
}

impl Life {
    /// The transaction ends. Versions that are known to be asked for and have ended go to `versions`.
    fn commit(&mut self, at: Instant, versions: &mut Vec<Version>) {
        let Some(turn) = self.turn.take() else { return };
        let same = |version: &Version| {
            let now = Values::all(self.now.as_ref());
            self.now.is_some() && now.iter().eq(Values::all(Some(&version.row)).iter())
        };
        if self.version.as_ref().is_some_and(same) {
            return;
        }
        if let Some(version) = self.version.take() {
            self.held.push(Version { to: Some(at), ended: Some(turn), ..version });
        }
        let begin = |row: &Row| Version { from: at, to: None, turn, ended: None, row: row.clone() };
        self.version = self.now.as_ref().map(begin);
        if self.is_asked_for {
            versions.append(&mut self.held);
        }
    }
}
