//! A state of the history, as images that the source is compared with.

use std::sync::Arc;

use super::forward::fold_to_end;
use super::images::{images, same_shape};
use super::new_packs;
use crate::ambient;
use crate::error::{Error, Kind, Result};
use crate::history::History;
use crate::history::catalog::Catalog;
use crate::history::checkpoint::TableEntry;
use crate::history::image::Blocks;
use crate::history::resync::ComparedPosition;
use crate::model::{Lsn, Table};
use crate::past::{CHECKPOINT_BUDGET, Reading};
use crate::progress::Silent;

/// See the module.
pub(super) struct Earlier {
    pub at: ComparedPosition,
    pub tables: Vec<TableEntry>,
    pub blocks: Blocks,
    /// Whether a table's rows may be compared with those of the source's table.
    pub comparable: fn(&Table, &Table) -> bool,
}

impl Earlier {
    pub fn table(&self, oid: u32) -> Option<&TableEntry> {
        self.tables.iter().find(|entry| entry.table.oid == oid)
    }
}

/// The end of the newest epoch that has an image, kept as a checkpoint of that epoch: whoever has to begin
/// again finds it. Where the journal is damaged, the newest checkpoint as it is: what it lacks differs from
/// the source, and is read.
///
/// # Errors
/// `Refused` if there is no checkpoint; `Locked` if one is being made; `Damaged` if the history is.
pub(super) fn latest(history: &History, catalog: &Arc<Catalog>) -> Result<Earlier> {
    let _lock = history.lock_checkpoint()?;
    let reading = Reading::by_catalog(history, catalog)?;
    let stretch = reading.timeline().stretches.iter().rfind(|stretch| !stretch.checkpoints.is_empty());
    let none = || Error::refused("the history has no checkpoint that can be read");
    let stretch = stretch.ok_or_else(none)?;
    let newest = stretch.checkpoints.last().ok_or_else(none)?;
    let mut state = history.read_checkpoint(&newest.id)?;
    if stretch.frontier() > state.lsn {
        match fold_to_end(&reading, state.clone(), None, &Silent) {
            Ok(folded) => state = folded,
            Err(error) if error.kind() == Kind::Damaged => {
                tracing::warn!("the source is compared with checkpoint {}, as {error}", state.id);
            }
            Err(error) => return Err(error),
        }
    }
    ambient::pass("resync.folded")?;
    Ok(Earlier {
        at: ComparedPosition { epoch: state.epoch, lsn: state.lsn },
        tables: state.tables,
        blocks: reading.blocks(),
        comparable: same_lines,
    })
}

/// An epoch, which must be the current one, as of a position that the journal holds. Only its blocks are
/// kept.
///
/// # Errors
/// As [`latest`]; `Unavailable` if another epoch was begun.
pub(super) fn at(history: &History, catalog: &Arc<Catalog>, epoch: u32, lsn: Lsn) -> Result<Earlier> {
    let reading = Reading::by_catalog(history, catalog)?;
    let stretch = reading.timeline().current()?;
    if stretch.epoch.number != epoch {
        return Err(Error::unavailable("continuity was lost meanwhile; see: backwhen list gaps"));
    }
    let newest = stretch.checkpoints.iter().rfind(|row| row.lsn <= lsn);
    let newest = newest.ok_or_else(|| {
        Error::refused(
            "there is no checkpoint to compare with; take one with: backwhen checkpoint --from-source",
        )
    })?;
    let past = reading.forward(history.read_checkpoint(&newest.id)?, lsn)?;
    let folded = past.fold(&|_| true, CHECKPOINT_BUDGET, &history.scratch(), &Silent)?;
    let packs = new_packs(history, catalog);
    let tables = images(folded.tables, &packs, &Silent)?;
    packs.finish()?;
    catalog.synchronise(history)?;
    Ok(Earlier {
        at: ComparedPosition { epoch: stretch.epoch.number, lsn },
        tables,
        blocks: reading.blocks(),
        comparable: same_shape,
    })
}

/// Rows are compared as lines, so it matters how many columns these have and where the key is, and nothing
/// else: whatever else has changed shows as rows that differ.
fn same_lines(before: &Table, now: &Table) -> bool {
    use crate::codec::key::KeyShape;
    before.columns.len() == now.columns.len() && KeyShape::of(before) == KeyShape::of(now)
}
