//! Turns the journal's messages into events.
//!
//! A message is interpreted in two steps, because an event borrows what the first step has read:
//! [`Interpreter::interpret`] says what was found, and [`Interpreter::event`] shows it.

use std::sync::Arc;

use super::event::{Event, EventKind, RowChange, TableChange, Transaction};
use super::row::{GivenRows, RowBuffer, RowFault, RowReader};
use super::shapes::Shapes;
use super::signals::{self, PlainSignal, Signal};
use super::{Wanted, undecodable};
use crate::codec::retell::Doubts;
use crate::error::{Error, Result};
use crate::history::checkpoint::Checkpoint;
use crate::model::{Lsn, Message, Table};
use crate::signal::key::{MessageKey, transaction_of};
use crate::signal::{DefinitionChange, RowsSignal};

/// The kind of an event whose content the interpreter holds. A place is the description of the row's relation.
#[derive(Clone, Copy)]
pub(super) enum Found {
    Inserted { place: usize },
    Updated { place: usize, has_old: bool },
    Deleted { place: usize },
    Given,
    Replaced,
    Truncated { restarts_sequences: bool },
    Defined,
    Signalled,
    Committed,
}

pub(super) struct Interpreter<'a> {
    key: MessageKey,
    pub shapes: Shapes<'a>,
    transaction: Transaction,
    /// Events of transactions that committed before this position are not shown.
    pub shown_from: Lsn,
    /// Whether the end of the range has been passed, so that rows are no longer read.
    is_beyond: bool,
    /// The schema changes of the transaction so far.
    changes: Vec<DefinitionChange>,
    /// The effect of the last schema change on the tables that are followed.
    table_changes: Vec<TableChange>,
    new: RowBuffer,
    old: RowBuffer,
    truncated: Vec<Arc<Table>>,
    /// The table that a statement gave rows, and the rows.
    given: Option<(Arc<Table>, GivenRows)>,
    signal: Option<PlainSignal>,
}

impl<'a> Interpreter<'a> {
    pub fn new(base: &Checkpoint, key: &MessageKey, wanted: Wanted<'a>, named: &[Table]) -> Interpreter<'a> {
        Interpreter {
            key: key.clone(),
            shapes: Shapes::new(base, wanted, named),
            transaction: Transaction { lsn: base.lsn, end_lsn: base.lsn, time: base.time, xid: 0 },
            shown_from: Lsn::ZERO,
            is_beyond: false,
            changes: Vec::new(),
            table_changes: Vec::new(),
            new: RowBuffer::default(),
            old: RowBuffer::default(),
            truncated: Vec::new(),
            given: None,
            signal: None,
        }
    }

    pub fn go_beyond(&mut self) {
        self.is_beyond = true;
        self.table_changes.clear();
    }

    pub fn is_beyond(&self) -> bool {
        self.is_beyond
    }

    /// Whether a message needs to be decoded.
    #[inline]
    pub fn reads(&self, message: &[u8]) -> bool {
        match message.first() {
            Some(b'I' | b'U' | b'D') => !self.is_beyond && self.is_shown(),
            Some(b'B' | b'M' | b'T' | b'C') => true,
            _ => !self.is_beyond,
        }
    }

    /// Whether the events of the present transaction are asked for.
    #[inline]
    pub fn is_shown(&self) -> bool {
        self.transaction.lsn >= self.shown_from
    }

    pub fn undecodable(&self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        undecodable(cause, self.transaction.lsn)
    }

    pub fn begin(&mut self, transaction: Transaction) {
        self.transaction = transaction;
        self.changes.clear();
        if !self.is_beyond {
            self.shapes.begin();
        }
    }

    pub fn doubt(&mut self, table: u32, doubts: &Doubts) {
        self.shapes.doubt(table, doubts, self.transaction.xid);
    }

    /// Interprets a message other than Begin; `None` if it is no event.
    #[inline]
    pub fn interpret(&mut self, message: Message<'_>) -> Result<Option<Found>> {
        match message {
            Message::Begin { .. } | Message::Origin | Message::Type => Ok(None),
            Message::Commit { .. } => Ok(Some(Found::Committed)),
            Message::Relation(relation) => {
                self.shapes.describe(relation, self.transaction.lsn);
                Ok(None)
            }
            Message::Insert { relation, new } => {
                let place = self.row(relation, |reader, row, _| reader.read_new(&new, None, row))?;
                Ok(place.map(|place| Found::Inserted { place }))
            }
            Message::Update { relation, old: None, new } => {
                let place = self.row(relation, |reader, row, _| {
                    reader.read_new(&new, None, row)?;
                    reader.check_names_old_row()
                })?;
                Ok(place.map(|place| Found::Updated { place, has_old: false }))
            }
            Message::Update { relation, old: Some(old), new } => {
                let place = self.row(relation, |reader, row, old_row| {
                    reader.read_new(&new, Some(&old), row)?;
                    reader.read_old(&old, old_row)
                })?;
                Ok(place.map(|place| Found::Updated { place, has_old: true }))
            }
            Message::Delete { relation, old } => {
                let place = self.row(relation, |reader, _, old_row| reader.read_old(&old, old_row))?;
                Ok(place.map(|place| Found::Deleted { place }))
            }
            Message::Truncate { relations, restart_identity, .. } => {
                Ok(self.truncate(&relations, restart_identity))
            }
            Message::Logical { prefix, content, transactional, .. } => {
                Ok(self.logical(prefix, content, transactional))
            }
        }
    }

    /// Reads a row of a relation into the buffers. Returns the relation's place; `None` if nobody wants the row.
    #[inline]
    fn row(
        &mut self,
        relation: u32,
        read: impl FnOnce(&mut RowReader<'_>, &mut RowBuffer, &mut RowBuffer) -> std::result::Result<(), RowFault>,
    ) -> Result<Option<usize>> {
        let at = self.transaction.lsn;
        let Some((place, mut reader)) = self.shapes.reader(relation, at)? else { return Ok(None) };
        read(&mut reader, &mut self.new, &mut self.old).map_err(|fault| undecodable(fault, at))?;
        if !reader.doubts.is_empty() {
            let doubts = std::mem::take(&mut reader.doubts);
            self.doubt(relation, &doubts);
        }
        Ok(Some(place))
    }

    fn truncate(&mut self, relations: &[u32], restarts_sequences: bool) -> Option<Found> {
        self.truncated.clear();
        self.truncated.extend(relations.iter().filter_map(|oid| self.shapes.table(*oid)).cloned());
        (!self.truncated.is_empty()).then_some(Found::Truncated { restarts_sequences })
    }

    fn logical(&mut self, prefix: &[u8], content: &[u8], transactional: bool) -> Option<Found> {
        match signals::read(&self.key, &self.transaction, prefix, content, &self.changes)? {
            Signal::Definition(signal) if transactional => {
                let Transaction { lsn, end_lsn, time, xid } = self.transaction;
                let xid = transaction_of(content).unwrap_or(xid.into());
                let mut change = DefinitionChange { lsn, end_lsn, time, xid, signal: *signal };
                if !self.is_beyond {
                    self.table_changes = self.shapes.define(&mut change.signal, lsn);
                }
                self.changes.push(change);
                Some(Found::Defined)
            }
            Signal::Rows(rows) if transactional && !self.is_beyond => self.give(&rows),
            Signal::Plain(signal) => {
                self.note(&signal);
                self.signal = Some(signal);
                Some(Found::Signalled)
            }
            Signal::Definition(_) | Signal::Rows(_) => None,
        }
    }

    fn note(&mut self, signal: &PlainSignal) {
        let Transaction { lsn, xid, .. } = self.transaction;
        match signal {
            PlainSignal::Sequences(sample) => self.shapes.began(xid, sample.sampled),
            PlainSignal::Roles(_) if !self.is_beyond => self.shapes.say_roles_changed(lsn),
            _ => {}
        }
    }

    fn give(&mut self, rows: &RowsSignal<'_>) -> Option<Found> {
        let table = Arc::clone(self.shapes.table(rows.table)?);
        let given = GivenRows::new(rows.lines, &table, self.shapes.late(table.oid));
        self.given = Some((table, given));
        rows.first.then_some(Found::Replaced)
    }

    /// Whether a statement gave rows to a table that have not all been read.
    #[inline]
    pub fn has_given_rows(&self) -> bool {
        self.given.is_some()
    }

    /// The next of these rows.
    pub fn next_given_row(&mut self) -> Result<Option<Found>> {
        let Some((table, rows)) = &mut self.given else { return Ok(None) };
        let is_read = rows.read_next(table, &mut self.new);
        if is_read.map_err(|fault| undecodable(fault, self.transaction.lsn))? {
            return Ok(Some(Found::Given));
        }
        let (oid, doubts) = (table.oid, std::mem::take(&mut rows.doubts));
        self.given = None;
        self.doubt(oid, &doubts);
        Ok(None)
    }

    /// Shows what the last message was found to be.
    #[inline]
    pub fn event(&self, found: Found) -> Result<Event<'_>> {
        let kind =
            self.kind(found).ok_or_else(|| Error::internal("an event of the journal has no content"))?;
        Ok(Event { transaction: &self.transaction, kind })
    }

    #[inline]
    fn kind(&self, found: Found) -> Option<EventKind<'_>> {
        let (old, new) = (self.old.row(), self.new.row());
        Some(match found {
            Found::Inserted { place } => self.row_event(place, RowChange::Insert { new })?,
            Found::Updated { place, has_old } => {
                self.row_event(place, RowChange::Update { old: has_old.then_some(old), new })?
            }
            Found::Deleted { place } => self.row_event(place, RowChange::Delete { old })?,
            Found::Given => {
                EventKind::Row { table: &self.given.as_ref()?.0, change: RowChange::Given { new } }
            }
            Found::Replaced => EventKind::Replace { table: &self.given.as_ref()?.0 },
            Found::Truncated { restarts_sequences } => {
                EventKind::Truncate { tables: &self.truncated, restarts_sequences }
            }
            Found::Defined => {
                EventKind::Definition { change: self.changes.last()?, tables: &self.table_changes }
            }
            Found::Signalled => self.signal.as_ref()?.event(),
            Found::Committed => EventKind::Commit,
        })
    }

    fn row_event<'b>(&'b self, place: usize, change: RowChange<'b>) -> Option<EventKind<'b>> {
        Some(EventKind::Row { table: self.shapes.table_at(place)?, change })
    }
}
