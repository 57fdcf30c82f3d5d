//! Compares the history with the source range by range, while capture goes on, and puts right what differs.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::draft::{Draft, publish_beside};
use super::earlier::{self, Earlier};
use super::slot::temporary_snapshot;
use super::snapshot::{self, LockedTables, SourceImage, SourceSnapshot};
use super::take::TableImages;
use super::{Access, begin_checkpoint, finish_packs, new_packs};
use crate::ambient;
use crate::error::Result;
use crate::history::History;
use crate::history::catalog::Catalog;
use crate::history::checkpoint::{Checkpoint, Origin};
use crate::history::resync::Resync;
use crate::model::{Edge, Lsn, Selection, Table};

/// The outcome of comparing the source with the history at one snapshot.
pub struct SourceComparison {
    /// The snapshot's moment.
    pub at: Edge,
    pub epoch: u32,
    pub resync: Resync,
    /// Tables, by oid, that a comparison would tell nothing about, and why.
    pub not_compared: BTreeMap<u32, &'static str>,
    /// The source as it was at that moment, if the history differed.
    pub checkpoint: Option<Checkpoint>,
}

/// Compares every protected table at one snapshot, and records a checkpoint if rows differ: from its position
/// on, the history is what the source is. `reached` waits until the journal holds that position.
///
/// # Errors
/// `Locked` if a checkpoint is being made; `Unavailable` if the source or the disk fails, or if another epoch
/// was begun meanwhile; `Damaged` if the history is; those of `reached`.
pub async fn compare_and_mend(
    access: &Access<'_>,
    history: &History,
    catalog: &Arc<Catalog>,
    reached: impl AsyncFnOnce(Lsn) -> Result<()>,
) -> Result<SourceComparison> {
    let (_locks, epoch) = begin_checkpoint(history, catalog).await?;
    let (identity, epoch) = (history.identity(), epoch.number);
    let selection = Selection::parse(&identity.include, &identity.exclude)?;
    let at_slot = temporary_snapshot(access, history, "resync").await?;
    let opened = SourceSnapshot::hold(access, &identity.slot(), selection, at_slot).await?;
    let lsn = opened.lsn;
    reached(lsn).await?;
    let state = Arc::new(state_at(history, catalog, epoch, lsn).await?);
    let packs = Arc::new(new_packs(history, catalog));
    let (store, scratch) = (history.shared_store(), history.scratch());
    let request = opened.request(access, &store, &scratch, &packs);
    let mut read = snapshot::read_rows(&request, &opened.held, Some(&state)).await?;
    let not_compared = set_aside(&mut read, &opened.held, &state);
    let resync = read.resync.clone().unwrap_or_default();
    let at = Edge { lsn, time: opened.held.time };
    let mut found = SourceComparison { at, epoch, resync, not_compared, checkpoint: None };
    if found.resync.tables.iter().any(|table| table.differs || table.rows_gone + table.rows_new > 0) {
        let described = snapshot::describe(&request, &opened.held).await?;
        let taken = SourceImage::of(opened.held, described, read);
        drop(opened.client);
        let draft = Draft { epoch, lsn, time: taken.time, label: None, base: None, origin: Origin::Source };
        let content = taken.content(finish_packs(packs).await?);
        found.checkpoint = Some(publish_beside(history, catalog, draft, content).await?);
    }
    Ok(found)
}

async fn state_at(history: &History, catalog: &Arc<Catalog>, epoch: u32, lsn: Lsn) -> Result<Earlier> {
    let (history, catalog) = (history.clone(), Arc::clone(catalog));
    ambient::blocking("folding the history", move || earlier::at(&history, &catalog, epoch, lsn)).await
}

/// Names the tables that may differ without a fault. Where single rows of them do, they are put right too.
fn set_aside(read: &mut TableImages, held: &LockedTables, state: &Earlier) -> BTreeMap<u32, &'static str> {
    let mut named = BTreeMap::new();
    let Some(resync) = &mut read.resync else { return named };
    for report in &mut resync.tables {
        let Some(found) = held.protected.get(&report.oid) else { continue };
        if let Some(why) = may_differ(&found.table, state) {
            report.differs = false;
            named.insert(report.oid, why);
        }
    }
    named
}

fn may_differ(table: &Table, state: &Earlier) -> Option<&'static str> {
    match state.table(table.oid) {
        None => Some("not in the history yet"),
        Some(entry) if !(state.comparable)(&entry.table, table) => {
            Some("its definition changed, which capture has yet to take in")
        }
        Some(_) if table.is_insert_only() => Some("inserts only, so the journal does not tell all"),
        Some(_) => None,
    }
}
