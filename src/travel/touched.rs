//! The rows that the transactions of a span touched, by table.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Span;
use crate::codec::key::KeyShape;
use crate::error::Result;
use crate::fold::AskedRows;
use crate::follow::{EventKind, Reshape, Row, RowChange, TableChange};
use crate::model::{Inexact, Selection, Table};
use crate::past::Past;
use crate::signal::DefinitionChange;

/// Beyond so many bytes of touched keys in one table, its rows are compared one after the other instead.
const KEYS_LIMIT: usize = 64 << 20;

/// The changes of one table's rows and columns.
pub struct TouchedTable {
    /// The table where the span begins and where it ends; `None` if it did not exist then.
    pub before: Option<Arc<Table>>,
    pub now: Option<Arc<Table>>,
    /// The keys of the touched rows, each with the places of the first and the last change in the span.
    pub keys: BTreeMap<Vec<u8>, (u64, u64)>,
    key_bytes: usize,
    /// Whether any row may differ.
    pub whole: bool,
    /// Whether the rows were given other keys.
    pub rekeyed: bool,
    /// How rows from before become rows of the table as it is now.
    pub reshape: Option<Reshape>,
    /// The place of the last change that concerned all rows.
    pub replaced_at: u64,
}

/// The changes in a span.
#[derive(Default)]
pub struct Touched {
    /// By oid.
    pub tables: BTreeMap<u32, TouchedTable>,
    pub definitions: Vec<DefinitionChange>,
    pub inexact: Vec<Inexact>,
}

impl Touched {
    /// # Errors
    /// `Damaged` if the journal is.
    pub fn between(span: &Span, selection: &Selection) -> Result<Touched> {
        let selected = span.selected(selection)?;
        let wanted = |table: &Table| selected.takes(table);
        let mut touched = Touched::default();
        let mut follow = span.past.follow(span.until, &wanted)?;
        let mut place = 0;
        while let Some(event) = follow.next_event()? {
            place += 1;
            match event.kind {
                EventKind::Row { change: RowChange::Given { .. }, .. } => {}
                EventKind::Row { table, change } => touched.table(table).touch(&change, place),
                EventKind::Truncate { tables, .. } => {
                    tables.iter().for_each(|table| touched.table(table).replace(place));
                }
                EventKind::Replace { table } => touched.table(table).replace(place),
                EventKind::Definition { change, tables } => {
                    touched.definitions.push(change.clone());
                    tables.iter().for_each(|change| touched.define(change, place));
                }
                _ => {}
            }
        }
        touched.inexact = follow.inexact().collect();
        drop(follow);
        touched.correct(span, &wanted)?;
        Ok(touched)
    }

    /// All rows of the tables at two moments between which no transaction is known. A table is known by its oid, and its
    /// columns by their numbers.
    ///
    /// # Errors
    /// `Damaged` if the journal is.
    pub fn across_gap(earlier: &Past, later: &Past, selection: &Selection) -> Result<Touched> {
        let tables = |past: &Past| Ok(past.tables()?.into_iter().map(|it| (it.oid, Arc::new(it))).collect());
        let (mut before, now): (BTreeMap<u32, Arc<Table>>, BTreeMap<u32, Arc<Table>>) =
            (tables(earlier)?, tables(later)?);
        let takes = |table: &Arc<Table>| selection.takes(&table.schema, &table.name);
        let mut touched = Touched::default();
        for (oid, now) in now {
            let change = match before.remove(&oid) {
                Some(before) if !takes(&before) && !takes(&now) => continue,
                Some(before)
                    if before.columns == now.columns && KeyShape::of(&before) == KeyShape::of(&now) =>
                {
                    touched.table(&now).replace(0);
                    continue;
                }
                Some(before) => TableChange::Rewrite { before, now },
                None if takes(&now) => TableChange::Create { table: now },
                None => continue,
            };
            touched.define(&change, 0);
        }
        for table in before.into_values().filter(takes) {
            touched.define(&TableChange::Drop { table }, 0);
        }
        Ok(touched)
    }

    /// Rows that were corrected in the span may differ although no transaction touched them.
    fn correct(&mut self, span: &Span, wanted: &dyn Fn(&Table) -> bool) -> Result<()> {
        let tables = span.past.tables()?;
        for (oid, _) in span.past.corrections(span.until)?.into_iter().flat_map(|(_, tables)| tables) {
            let known = tables.iter().find(|table| table.oid == oid && wanted(table));
            if let Some(known) = known {
                self.table(&Arc::new(known.clone())).whole = true;
            } else if let Some(touched) = self.tables.get_mut(&oid) {
                touched.whole = true;
            }
        }
        Ok(())
    }

    fn table(&mut self, table: &Arc<Table>) -> &mut TouchedTable {
        self.tables.entry(table.oid).or_insert_with(|| TouchedTable::new(Some(Arc::clone(table))))
    }

    fn define(&mut self, change: &TableChange, place: u64) {
        match change {
            TableChange::Create { table } => {
                // A table that the stream did not carry for a while is the same table.
                let touched = self.tables.entry(table.oid).or_insert_with(|| TouchedTable::new(None));
                touched.replace(place);
                touched.now = Some(Arc::clone(table));
            }
            TableChange::Drop { table } => {
                let touched = self.table(table);
                touched.replace(place);
                touched.now = None;
            }
            TableChange::Rewrite { before, now } => {
                let touched = self.table(before);
                touched.replace(place);
                touched.alter(now, Some(Reshape::by_number(before, now)));
                touched.rekeyed |= KeyShape::of(before) != KeyShape::of(now);
            }
            TableChange::Alter { before, now, reshape } => {
                self.table(before).alter(now, reshape.clone());
            }
        }
    }
}

impl TouchedTable {
    fn new(table: Option<Arc<Table>>) -> TouchedTable {
        TouchedTable {
            before: table.clone(),
            now: table,
            keys: BTreeMap::new(),
            key_bytes: 0,
            whole: false,
            rekeyed: false,
            reshape: None,
            replaced_at: 0,
        }
    }

    fn touch(&mut self, change: &RowChange<'_>, place: u64) {
        let (old, new) = change.sides();
        for Row { key, .. } in old.into_iter().chain(new) {
            match self.keys.get_mut(key) {
                Some((_, last)) => *last = place,
                None if self.key_bytes > KEYS_LIMIT => self.whole = true,
                None => {
                    self.key_bytes += key.len() + 64;
                    self.keys.insert(key.to_vec(), (place, place));
                }
            }
        }
    }

    fn replace(&mut self, place: u64) {
        (self.whole, self.replaced_at) = (true, place);
    }

    fn alter(&mut self, now: &Arc<Table>, reshape: Option<Reshape>) {
        self.rekeyed |= reshape.as_ref().is_some_and(|reshape| !reshape.keeps_keys);
        self.reshape = match (self.reshape.take(), reshape) {
            (Some(before), Some(next)) => Some(before.then(next)),
            (before, next) => before.or(next),
        };
        self.now = Some(Arc::clone(now));
    }

    /// The rows that may differ.
    pub fn asked(&self) -> AskedRows<&[u8]> {
        match self.whole || self.rekeyed {
            true => AskedRows::All,
            false => AskedRows::Keys(self.keys.keys().map(Vec::as_slice).collect()),
        }
    }

    /// The first and the last place at which a row was changed.
    pub fn places(&self, key: &[u8]) -> (u64, u64) {
        self.keys.get(key).copied().unwrap_or((self.replaced_at, self.replaced_at))
    }
}
