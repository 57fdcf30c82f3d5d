//! Follows transactions with whole rows: what the stream leaves out of a row comes from the history.
//!
//! Without REPLICA IDENTITY FULL, the stream tells only the key of a row before a change. So the span is followed twice:
//! the first time finds out which rows are needed, then these rows are looked up at the moment before the span, and the
//! second time each change is applied to them.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::row::TrackedRows;
use super::{Operation, Span, key_of};
use crate::codec::copy_text;
use crate::error::{Error, Result};
use crate::fold::AskedRows;
use crate::follow::{Event, EventKind, Follow, Reshape, RowChange, TableChange, Transaction, Wanted};
use crate::history::journal::ChosenBlocks;
use crate::model::{Inexact, Lsn, RowIdentity, Table};
use crate::signal::DefinitionChange;

/// With more bytes of keys than this, a span is cut in two at the next commit.
const KEYS_BUDGET: usize = 64 << 20;

/// One step of a transaction.
pub enum Step<'a> {
    /// A row was written or removed. A row that a TRUNCATE removed comes only if it was asked for.
    Row {
        table: &'a Arc<Table>,
        operation: Operation,
        before: Option<&'a [u8]>,
        after: Option<&'a [u8]>,
    },
    /// All rows of a table were removed.
    Truncate {
        table: &'a Arc<Table>,
    },
    Definition {
        change: &'a DefinitionChange,
        tables: &'a [TableChange],
    },
    Commit,
}

/// How a span is followed.
pub struct WholeRows<'a> {
    pub span: &'a Span,
    pub wanted: Wanted<'a>,
    /// Whether rows are wanted whole. Otherwise a row is what the stream carries of it, perhaps with holes.
    pub whole: bool,
    /// Whether the rows that a TRUNCATE removes are wanted one by one.
    pub truncated: bool,
    /// The rows that are wanted; without them, all.
    pub only: Option<&'a TrackedRows<'a>>,
    /// The blocks that need to be read.
    pub blocks: Arc<ChosenBlocks>,
}

impl<'a> WholeRows<'a> {
    /// All rows of the wanted tables, whole, also those that a TRUNCATE removes.
    pub fn all(span: &'a Span, wanted: Wanted<'a>) -> WholeRows<'a> {
        WholeRows { span, wanted, whole: true, truncated: true, only: None, blocks: Arc::default() }
    }
}

/// Takes the steps of transactions; returns whether the next transaction is wanted too.
pub type Visitor<'a> = dyn FnMut(&Transaction, Step<'_>) -> Result<bool> + 'a;

/// The rows that are needed of one table.
#[derive(Default)]
struct Needed {
    keys: BTreeSet<Vec<u8>>,
    /// Whether all rows are, because the table has been given another key.
    all: bool,
    /// Whether each change must be known, because the table is truncated later.
    truncated: bool,
}

impl Needed {
    fn asked(&self) -> AskedRows<&Vec<u8>> {
        if self.all { AskedRows::All } else { AskedRows::Keys(self.keys.iter().collect()) }
    }
}

/// The state of one table's rows at some point of the span.
#[derive(Default)]
struct TableState {
    /// Rows by key; `None` if there is no such row.
    rows: HashMap<Vec<u8>, Option<Vec<u8>>>,
    /// Whether all changed rows are kept, and not only those whose keys are in `rows`.
    keeps_all: bool,
    /// How many more (or fewer) there are of a row that is told from others only by its bytes.
    counts: HashMap<Vec<u8>, (i64, Vec<u8>)>,
    /// How rows from before the span become rows of the table as it is now.
    reshape: Option<Reshape>,
    is_cleared: bool,
    /// Whether `rows` has all rows of the table.
    holds_all: bool,
}

impl WholeRows<'_> {
    /// Hands each step of the span's transactions to `visit`, in order. Returns what of it is not exact.
    ///
    /// # Errors
    /// `Damaged` if the history is; those of `visit`.
    pub fn follow(&self, visit: &mut Visitor<'_>) -> Result<Vec<Inexact>> {
        let mut inexact = Vec::new();
        let mut rest: Option<Span> = None;
        loop {
            let blocks = Arc::clone(&self.blocks);
            let part = WholeRows { span: rest.as_ref().unwrap_or(self.span), blocks, ..*self };
            let (needed, reached) =
                if self.whole { part.survey()? } else { (HashMap::new(), self.span.until) };
            let goes_on = part.follow_with(part.look_up(needed)?, reached, visit, &mut inexact)?;
            if !goes_on || reached >= self.span.until {
                return Ok(inexact);
            }
            let past = self.span.past.reading().before(self.span.past.base().epoch, reached)?;
            rest = Some(Span { past, time: self.span.time, until: self.span.until });
        }
    }

    fn journal(&self, until: Lsn) -> Result<Follow<'_>> {
        Ok(self.span.past.follow(until, self.wanted)?.reading_only(&self.blocks))
    }

    fn passes_over(&self, table: &Table, change: &RowChange<'_>) -> bool {
        self.only.is_some_and(|only| !only.holds(table, change))
    }

    /// Finds out which rows are needed, and up to which position they fit into memory.
    fn survey(&self) -> Result<(HashMap<u32, Needed>, Lsn)> {
        let mut needed: HashMap<u32, Needed> = HashMap::new();
        let mut bytes = 0;
        let mut follow = self.journal(self.span.until)?;
        while let Some(event) = follow.next_event()? {
            match event.kind {
                EventKind::Row { table, change } if self.passes_over(table, &change) => {}
                EventKind::Row { table, change } => {
                    if let Some(key) = unknown_before(table, &change)
                        && needed.entry(table.oid).or_default().keys.insert(key.to_vec())
                    {
                        bytes += key.len() + table.columns.len() * 16;
                    }
                }
                EventKind::Truncate { tables, .. } if self.truncated => {
                    tables.iter().for_each(|table| needed.entry(table.oid).or_default().truncated = true);
                }
                EventKind::Definition { tables, .. } => {
                    for change in tables {
                        if let TableChange::Alter { now, reshape: Some(reshape), .. } = change {
                            let is_keyed = now.identity != RowIdentity::WholeRow;
                            needed.entry(now.oid).or_default().all |= is_keyed && !reshape.keeps_keys;
                        }
                    }
                }
                EventKind::Commit if bytes > KEYS_BUDGET => return Ok((needed, event.transaction.end_lsn)),
                _ => {}
            }
        }
        Ok((needed, self.span.until))
    }

    /// Looks the rows up as they are before the span.
    fn look_up(&self, needed: HashMap<u32, Needed>) -> Result<HashMap<u32, TableState>> {
        let mut states = HashMap::new();
        let wanted = needed.iter().filter(|(_, it)| it.all || !it.keys.is_empty());
        let asked: HashMap<u32, _> = wanted.map(|(oid, it)| (*oid, it.asked())).collect();
        for (oid, it) in &needed {
            let rows = it.keys.iter().map(|key| (key.clone(), None)).collect();
            let (keeps_all, holds_all) = (it.all || it.truncated, it.all);
            let state = TableState { rows, keeps_all, holds_all, ..TableState::default() };
            states.insert(*oid, state);
        }
        for table in self.span.past.fold_asked(&asked)? {
            let oid = table.table.oid;
            let state = states.entry(oid).or_default();
            table.each_of(&asked[&oid], |key, line| {
                state.rows.insert(key.to_vec(), Some(line.to_vec()));
                Ok(())
            })?;
        }
        Ok(states)
    }

    fn follow_with(
        &self,
        mut states: HashMap<u32, TableState>,
        until: Lsn,
        visit: &mut Visitor<'_>,
        inexact: &mut Vec<Inexact>,
    ) -> Result<bool> {
        let mut follow = self.journal(until)?;
        while let Some(Event { transaction, kind }) = follow.next_event()? {
            match kind {
                EventKind::Row { table, change } if self.passes_over(table, &change) => {}
                EventKind::Row { table, change } => {
                    if !self.whole {
                        let (old, new) = change.sides();
                        let (before, after) = (old.map(|row| row.line), new.map(|row| row.line));
                        let operation = operation(&change);
                        visit(transaction, Step::Row { table, operation, before, after })?;
                        continue;
                    }
                    let state = states.entry(table.oid).or_default();
                    let before = state.before(table, &change, transaction)?;
                    let (operation, after) = state.apply(table, change, before.as_deref())?;
                    let (before, after) = (before.as_deref(), after.as_deref());
                    visit(transaction, Step::Row { table, operation, before, after })?;
                }
                EventKind::Truncate { tables, .. } => {
                    for table in tables {
                        let state = states.entry(table.oid).or_default();
                        if self.truncated {
                            self.truncate(table, state, transaction, visit)?;
                        }
                        state.clear();
                        visit(transaction, Step::Truncate { table })?;
                    }
                }
                EventKind::Replace { table } => states.entry(table.oid).or_default().clear(),
                EventKind::Definition { change, tables } => {
                    for change in tables {
                        define(&mut states, change)?;
                    }
                    visit(transaction, Step::Definition { change, tables })?;
                }
                EventKind::Commit if !visit(transaction, Step::Commit)? => return Ok(false),
                _ => {}
            }
        }
        inexact.extend(follow.inexact());
        Ok(true)
    }

    /// Hands on the rows that a TRUNCATE removes.
    fn truncate(
        &self,
        table: &Arc<Table>,
        state: &mut TableState,
        transaction: &Transaction,
        visit: &mut Visitor<'_>,
    ) -> Result<()> {
        let mut remove = |line: &[u8]| {
            let (operation, before) = (Operation::Truncate, Some(line));
            visit(transaction, Step::Row { table, operation, before, after: None })
        };
        if state.reshape.is_some() && table.identity == RowIdentity::WholeRow {
            return Err(Error::refused(format!(
                "the transaction at {} altered and truncated {}, which has no key, so its rows cannot be told one by \
                 one; leave the table out with --table",
                transaction.lsn,
                table.display()
            )));
        }
        if !state.is_cleared && !state.holds_all {
            for folded in self.span.past.fold_tables(&|it| it.oid == table.oid)? {
                folded.each(|key, line| {
                    if state.stays(key) {
                        remove(&reshaped(state.reshape.as_ref(), line)?)?;
                    }
                    Ok(())
                })?;
            }
        }
        for line in state.rows.values().flatten() {
            remove(line)?;
        }
        for (count, line) in state.counts.values() {
            for _ in 0..*count {
                remove(line)?;
            }
        }
        Ok(())
    }
}

fn operation(change: &RowChange<'_>) -> Operation {
    match change {
        RowChange::Insert { .. } => Operation::Insert,
        RowChange::Given { .. } => Operation::Ddl,
        RowChange::Update { .. } => Operation::Update,
        RowChange::Delete { .. } => Operation::Delete,
    }
}

/// The key of the row before a change; `None` if there was no row.
fn key_before<'a>(change: &RowChange<'a>) -> Option<&'a [u8]> {
    match change {
        RowChange::Insert { .. } | RowChange::Given { .. } => None,
        RowChange::Update { old, new } => Some(old.unwrap_or(*new).key),
        RowChange::Delete { old } => Some(old.key),
    }
}

/// The key of the row before a change, if the change does not tell all of it.
fn unknown_before<'a>(table: &Table, change: &RowChange<'a>) -> Option<&'a [u8]> {
    let row = match change {
        RowChange::Update { old, new } => {
            let known =
                old.is_some_and(|old| !copy_text::has_hole(old.line)) && !copy_text::has_hole(new.line);
            if known { None } else { Some(old.unwrap_or(*new)) }
        }
        RowChange::Delete { old } => copy_text::has_hole(old.line).then_some(*old),
        RowChange::Insert { .. } | RowChange::Given { .. } => None,
    };
    row.filter(|_| table.identity != RowIdentity::WholeRow).map(|row| row.key)
}

fn define(states: &mut HashMap<u32, TableState>, change: &TableChange) -> Result<()> {
    match change {
        TableChange::Create { table } => states.entry(table.oid).or_default().clear(),
        TableChange::Drop { table } => drop(states.remove(&table.oid)),
        TableChange::Alter { now, reshape: Some(reshape), .. } => {
            states.entry(now.oid).or_default().alter(now, reshape)?;
        }
        TableChange::Alter { .. } | TableChange::Rewrite { .. } => {}
    }
    Ok(())
}

impl TableState {
    /// All rows are gone.
    fn clear(&mut self) {
        self.rows.values_mut().for_each(|row| *row = None);
        self.counts.clear();
        self.is_cleared = true;
    }

    /// The row before a change.
    fn before(
        &self,
        table: &Table,
        change: &RowChange<'_>,
        transaction: &Transaction,
    ) -> Result<Option<Vec<u8>>> {
        let Some(key) = key_before(change) else { return Ok(None) };
        let (old, _) = change.sides();
        if let Some(told) = old.map(|old| old.line).filter(|line| !copy_text::has_hole(line)) {
            return Ok(Some(told.to_vec()));
        }
        let held = self.rows.get(key).and_then(Option::as_ref);
        held.cloned().map(Some).ok_or_else(|| {
            Error::damaged(format!(
                "the history does not hold a row of {} that the transaction at {} changed; check it with: backwhen \
                 verify --prove",
                table.display(),
                transaction.lsn
            ))
        })
    }

    /// Applies a change, and returns the row after it.
    fn apply(
        &mut self,
        table: &Table,
        change: RowChange<'_>,
        before: Option<&[u8]>,
    ) -> Result<(Operation, Option<Vec<u8>>)> {
        let old = key_before(&change);
        let (_, new) = change.sides();
        let after = match new {
            None => None,
            Some(new) if copy_text::has_hole(new.line) => {
                let filled = before.and_then(|before| copy_text::fill_holes(new.line, before));
                let why =
                    || Error::damaged(format!("a row of {} has other columns than before", table.display()));
                Some(filled.ok_or_else(why)?)
            }
            Some(new) => Some(new.line.to_vec()),
        };
        let is_bag = table.identity == RowIdentity::WholeRow;
        if is_bag && self.keeps_all {
            before.zip(old).into_iter().for_each(|(line, key)| self.count(key, line, -1));
            after.iter().zip(new).for_each(|(line, new)| self.count(new.key, line, 1));
        } else if !is_bag {
            old.into_iter().for_each(|key| self.put(key, None));
            new.into_iter().for_each(|new| self.put(new.key, after.as_deref()));
        }
        Ok((operation(&change), after))
    }

    fn put(&mut self, key: &[u8], line: Option<&[u8]>) {
        match self.rows.get_mut(key) {
            Some(row) => *row = line.map(<[u8]>::to_vec),
            None if self.keeps_all => drop(self.rows.insert(key.to_vec(), line.map(<[u8]>::to_vec))),
            None => {}
        }
    }

    fn count(&mut self, key: &[u8], line: &[u8], change: i64) {
        match self.counts.entry(key.to_vec()) {
            Entry::Occupied(mut entry) => entry.get_mut().0 += change,
            Entry::Vacant(entry) => drop(entry.insert((change, line.to_vec()))),
        }
    }

    /// Whether a row from before the span is still there and was not changed. One of several equal rows is asked for once.
    fn stays(&mut self, key: &[u8]) -> bool {
        if let Some((count, _)) = self.counts.get_mut(key)
            && *count < 0
        {
            *count += 1;
            return false;
        }
        !self.rows.contains_key(key)
    }

    /// The rows become those of the table as it is now.
    fn alter(&mut self, now: &Table, reshape: &Reshape) -> Result<()> {
        let mut rows = HashMap::with_capacity(self.rows.len());
        for (key, line) in self.rows.drain() {
            let line = line.map(|line| reshape.reshaped(&line)).transpose()?;
            let key = match &line {
                Some(line) if !reshape.keeps_keys => key_of(now, line)?,
                _ => key,
            };
            rows.insert(key, line);
        }
        self.rows = rows;
        for (_, line) in self.counts.values_mut() {
            *line = reshape.reshaped(line)?;
        }
        self.reshape = Some(match self.reshape.take() {
            Some(before) => before.then(reshape.clone()),
            None => reshape.clone(),
        });
        Ok(())
    }
}

/// A line after a schema change.
pub fn reshaped(reshape: Option<&Reshape>, line: &[u8]) -> Result<Vec<u8>> {
    reshape.map_or_else(|| Ok(line.to_vec()), |reshape| reshape.reshaped(line))
}
