//! The keys that a row had, and where its changes lie.

use std::collections::HashSet;
use std::sync::Arc;

use super::RowKey;
use crate::error::Result;
use crate::follow::{EventKind, Follow, RowChange, Wanted};
use crate::history::journal::ChosenBlocks;
use crate::model::Table;
use crate::past::KeyedRows;
use crate::travel::Span;

/// The rows of a span that have, or once had, a key.
pub struct TrackedRows<'a> {
    key: &'a RowKey,
    pub(super) keys: HashSet<Vec<u8>>,
    blocks: Arc<ChosenBlocks>,
}

impl<'a> TrackedRows<'a> {
    /// Finds the keys that the row, or a row that once had its key, had at any time of the span.
    ///
    /// # Errors
    /// `Damaged` if the history is.
    pub fn find(span: &Span, key: &'a RowKey) -> Result<TrackedRows<'a>> {
        let mut keys = HashSet::from([key.value().to_vec()]);
        loop {
            let sought = KeyedRows {
                table: key.table,
                columns: &key.columns,
                keys: keys.iter().map(Vec::as_slice).collect(),
            };
            let blocks = Arc::new(span.past.blocks_with(span.until, &[sought])?);
            let tracked = TrackedRows { key, keys, blocks };
            let found = tracked.keys_by_moves(span)?;
            // The blocks of some keys hold each move from one of them or to it, so no other move leads to another key.
            if tracked.blocks.is_empty() || found.is_subset(&tracked.keys) {
                return Ok(TrackedRows { keys: found, ..tracked });
            }
            keys = found;
        }
    }

    /// The blocks that hold all changes of these rows.
    pub fn blocks(&self) -> Arc<ChosenBlocks> {
        Arc::clone(&self.blocks)
    }

    /// Follows the span; of the rows, only the tracked ones may be believed.
    ///
    /// # Errors
    /// `Damaged` if the journal is.
    pub fn follow<'b>(&self, span: &Span, wanted: Wanted<'b>) -> Result<Follow<'b>> {
        Ok(span.past.follow(span.until, wanted)?.reading_only(&self.blocks))
    }

    /// Whether a change is one of a tracked row.
    pub fn holds(&self, table: &Table, change: &RowChange<'_>) -> bool {
        let (old, new) = change.sides();
        let mut keys = old.into_iter().chain(new).filter_map(|row| self.key.of(table, row.line));
        keys.any(|key| self.keys.contains(&key))
    }

    /// Goes forward from each row that has the key, and then back to the keys that such rows had before.
    fn keys_by_moves(&self, span: &Span) -> Result<HashSet<Vec<u8>>> {
        let wanted = |table: &Table| table.oid == self.key.table;
        let mut tracked = HashSet::from([self.key.value().to_vec()]);
        let mut present = tracked.clone();
        let mut moves = Vec::new();
        let mut follow = self.follow(span, &wanted)?;
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
}
