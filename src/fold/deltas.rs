//! Folds the changes of the journal into a delta for each table.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::FoldInput;
use super::delta::FastMap;
use super::table::FoldedTable;
use crate::codec::copy_text;
use crate::error::Result;
use crate::follow::{Event, EventKind, Follow, Row, RowChange, TableChange, undecodable};
use crate::history::catalog::Catalog;
use crate::history::image::{Blocks, Cuts, ScratchImages};
use crate::model::{Lsn, Table};

/// The keys of rows that are asked for, by table.
pub type SoughtKeys = BTreeMap<u32, BTreeSet<Vec<u8>>>;

/// The tables with what has changed since the base.
pub(super) struct Deltas<'a> {
    /// By oid.
    tables: FastMap<u32, FoldedTable>,
    blocks: Blocks,
    catalog: Arc<Catalog>,
    cuts: Cuts,
    /// The bytes that all deltas together may take.
    budget: usize,
    /// The folder under which the scratch folder is made.
    scratch_parent: &'a Path,
    /// The folder for intermediate images, made when it is first needed.
    scratch: Option<Arc<ScratchImages>>,
    /// The rows that are asked for; `None` for all.
    sought: Option<&'a SoughtKeys>,
    /// The keys that sought rows had before, without being sought, where the rows lack values.
    pub origins: SoughtKeys,
    /// Rows inserted, updated or deleted so far.
    pub changes: u64,
}

impl<'a> Deltas<'a> {
    pub fn new(input: &FoldInput<'a>) -> Deltas<'a> {
        let blocks = input.blocks.clone();
        let wanted = input.base.tables.iter().filter(|entry| (input.wanted)(&entry.table));
        Deltas {
            tables: wanted.map(|entry| (entry.table.oid, FoldedTable::new(entry, &blocks))).collect(),
            blocks,
            catalog: Arc::clone(input.catalog),
            cuts: input.cuts,
            budget: input.budget,
            scratch_parent: input.scratch,
            scratch: None,
            sought: input.rows_only.as_ref().and_then(|rows| rows.sought),
            origins: SoughtKeys::new(),
            changes: 0,
        }
    }

    /// Takes an event.
    ///
    /// # Errors
    /// `Damaged` if the event contradicts the rows before it.
    #[inline]
    pub fn take(&mut self, event: &Event<'_>) -> Result<()> {
        match &event.kind {
            EventKind::Row { table, change } => self.apply(table, *change, event.transaction.lsn)?,
            EventKind::Truncate { tables, .. } => tables.iter().for_each(|table| self.truncate(table)),
            EventKind::Replace { table } => self.truncate(table),
            EventKind::Definition { tables, .. } => tables.iter().for_each(|change| self.define(change)),
            _ => {}
        }
        Ok(())
    }

    #[inline]
    fn apply(&mut self, table: &Table, change: RowChange<'_>, at: Lsn) -> Result<()> {
        if !matches!(change, RowChange::Given { .. }) {
            self.changes += 1;
        }
        // Once a key is missing among those that are sought, the fold only finds out which others are.
        if self.sought.is_some() && (self.passes_over(table.oid, &change) || !self.origins.is_empty()) {
            return Ok(());
        }
        let Some(folded) = self.tables.get_mut(&table.oid) else { return Ok(()) };
        // A change is of the table as it is now, so the rows before it must be too.
        if folded.reshape().is_some() {
            folded.settle(scratch(&mut self.scratch, self.scratch_parent)?, &self.catalog, self.cuts)?;
        }
        folded.apply(change).map_err(|contradiction| undecodable(contradiction, at))
    }

    /// Whether a change concerns no row that is sought, or one of which another key must be sought first.
    fn passes_over(&mut self, table: u32, change: &RowChange<'_>) -> bool {
        let Some(keys) = self.sought.and_then(|sought| sought.get(&table)) else { return true };
        let (old, new) = change.sides();
        let is_sought = |row: &Row<'_>| keys.contains(row.key);
        if let (Some(old), Some(new)) = (old, new.filter(is_sought))
            && !is_sought(&old)
            && copy_text::has_hole(new.line)
        {
            self.origins.entry(table).or_default().insert(old.key.to_vec());
            return true;
        }
        !old.iter().chain(&new).any(is_sought)
    }

    fn truncate(&mut self, table: &Table) {
        if let Some(folded) = self.tables.get_mut(&table.oid) {
            folded.truncate();
        }
    }

    fn define(&mut self, change: &TableChange) {
        match change {
            TableChange::Create { table } => {
                self.tables.insert(table.oid, FoldedTable::made(Table::clone(table), &self.blocks));
            }
            TableChange::Alter { now, reshape, .. } => {
                if let Some(folded) = self.tables.get_mut(&now.oid) {
                    folded.alter(now, reshape.clone());
                }
            }
            TableChange::Rewrite { now, .. } => {
                if let Some(folded) = self.tables.get_mut(&now.oid) {
                    folded.table = Table::clone(now);
                    folded.truncate();
                }
            }
            TableChange::Drop { table } => drop(self.tables.remove(&table.oid)),
        }
    }

    /// Writes the tables with the largest deltas into intermediate images while all deltas together are too large.
    ///
    /// # Errors
    /// `Unavailable` if an image cannot be written; `Damaged` if a block is.
    pub fn keep_within_budget(&mut self) -> Result<()> {
        while self.tables.values().map(FoldedTable::delta_bytes).sum::<usize>() > self.budget {
            let largest = self.tables.values_mut().max_by_key(|table| table.delta_bytes());
            let Some(table) = largest.filter(|table| table.delta_bytes() > 0) else { return Ok(()) };
            table.settle(scratch(&mut self.scratch, self.scratch_parent)?, &self.catalog, self.cuts)?;
        }
        Ok(())
    }

    /// The tables, in the order of their oids. Tables that must be sorted before they can be read are written into
    /// intermediate images, and so are those of which it must be known whether all values can be read.
    ///
    /// # Errors
    /// The errors of [`Deltas::keep_within_budget`].
    pub fn finish(mut self, follow: &mut Follow<'_>) -> Result<Vec<FoldedTable>> {
        for table in self.tables.values_mut() {
            if table.reshape().is_some_and(|it| !it.keeps_keys || it.retells()) {
                table.settle(scratch(&mut self.scratch, self.scratch_parent)?, &self.catalog, self.cuts)?;
            }
            if table.is_unreadable() {
                follow.note_unreadable(table.table.oid);
            }
        }
        let mut tables: Vec<_> = self.tables.into_values().collect();
        tables.sort_by_key(|table| table.table.oid);
        Ok(tables)
    }
}

fn scratch<'b>(made: &'b mut Option<Arc<ScratchImages>>, parent: &Path) -> Result<&'b Arc<ScratchImages>> {
    match made {
        Some(scratch) => Ok(scratch),
        none => Ok(none.insert(Arc::new(ScratchImages::new(parent)?))),
    }
}
