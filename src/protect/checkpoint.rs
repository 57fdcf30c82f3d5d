//! Takes checkpoints from the source, whole or as far as the history does not know it.

use std::sync::Arc;
use std::time::Duration;

use super::draft::{Content, Draft, publish_beside};
use super::images::{images, same_shape};
use super::slot::temporary_snapshot;
use super::snapshot::{self, SourceImage};
use super::{Access, begin_checkpoint, finish_packs, new_packs};
use crate::ambient;
use crate::connect::Session;
use crate::error::{Error, Result};
use crate::follow::is_of_values;
use crate::history::History;
use crate::history::catalog::Catalog;
use crate::history::checkpoint::{Checkpoint, Origin};
use crate::history::image::Packs;
use crate::model::{Lsn, Selection, Table};
use crate::past::{CHECKPOINT_BUDGET, Reading};
use crate::source::inspect;
use crate::source::publication::Publications;
use crate::source::slot::SlotFacts;
use crate::source::snapshot::Snapshot;

/// How long a checkpoint is begun anew for, if other sessions truncate or alter what it is about to read.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pause before a checkpoint is begun anew.
const PAUSE: Duration = Duration::from_millis(300);

/// Takes a checkpoint from the source, at the exact position of a snapshot, through a temporary
/// slot. Where another session is at work on what is to be read, a new snapshot is tried.
///
/// # Errors
/// `Locked` if a checkpoint is being made; `Refused` if changes are missing between the journal's end and now, because the
/// slot or the publications are gone; `Unavailable` if the source or the disk fails, or if other sessions are at work for
/// longer than a minute.
pub async fn from_source(
    access: &Access<'_>,
    history: &History,
    catalog: &Arc<Catalog>,
    label: Option<&str>,
) -> Result<Checkpoint> {
    let (_locks, epoch) = begin_checkpoint(history, catalog).await?;
    must_continue(access, history, catalog).await?;
    let begun = ambient::instant();
    let (taken, lsn, packs) = loop {
        let (client, snapshot, lsn) = temporary_snapshot(access, history, "checkpoint").await?;
        ambient::pass("checkpoint.snapshot")?;
        let packs = Arc::new(new_packs(history, catalog));
        let taken = take(access, history, &snapshot, lsn, &packs, &|_| true).await;
        // The snapshot was needed until here.
        drop(client);
        match taken {
            Err(error) if snapshot::was_disturbed(&error) && begun.elapsed() < PATIENCE => {
                tracing::info!("{error}");
                tokio::time::sleep(PAUSE).await;
            }
            taken => break (taken?, lsn, packs),
        }
    };
    let label = label.map(str::to_owned);
    let draft =
        Draft { epoch: epoch.number, lsn, time: taken.time, label, base: None, origin: Origin::Source };
    let content = taken.content(finish_packs(packs).await?);
    publish_beside(history, catalog, draft, content).await
}

/// Refuses a checkpoint that does not follow from the one before it by the journal, as after `backwhen drop`.
async fn must_continue(access: &Access<'_>, history: &History, catalog: &Arc<Catalog>) -> Result<()> {
    let (history_, catalog) = (history.clone(), Arc::clone(catalog));
    let reading = ambient::blocking("reading the newest checkpoint", move || {
        let newest = catalog.checkpoints()?.pop().map(|row| history_.read_checkpoint(&row.id)).transpose()?;
        Ok(newest.into_iter().flat_map(|newest| newest.tables).map(|entry| entry.table.oid).collect())
    });
    let tables: Vec<u32> = reading.await?;
    let slot = history.identity().slot();
    let session = Session::connect_utf8(access.source, "checkpoint").await?;
    inspect::check_cluster(&session, &history.identity().source.system_identifier).await?;
    let publications = Publications::of_slot(&slot);
    let lacking = publications.lacking(&session, &tables).await?;
    let what = match (SlotFacts::read(&session, &slot).await?.exists, lacking.is_empty()) {
        (true, true) => return Ok(()),
        (false, _) => format!("replication slot {slot} is gone from the source"),
        (true, false) => format!("backwhen's publications do not carry all of {}", lacking.join(", ")),
    };
    Err(Error::refused(format!(
        "{what}, so changes are missing before a checkpoint that would be taken now; begin a new epoch with: backwhen capture"
    )))
}

/// Takes a checkpoint that reads from the source only what is new or has changed its shape, and
/// folds the rest. It waits, by calling `reached`, until the journal holds the snapshot's position.
///
/// # Errors
/// As [`from_source`].
pub async fn refresh(
    access: &Access<'_>,
    history: &History,
    catalog: &Arc<Catalog>,
    reached: impl AsyncFnOnce(Lsn) -> Result<()>,
) -> Result<Checkpoint> {
    let (_locks, epoch) = begin_checkpoint(history, catalog).await?;
    let (client, snapshot, lsn) = temporary_snapshot(access, history, "checkpoint").await?;
    let packs = Arc::new(new_packs(history, catalog));
    // The journal then tells what of the new shapes is known already.
    reached(lsn).await?;
    let (history_, catalog_, number) = (history.clone(), Arc::clone(catalog), epoch.number);
    let reading = ambient::blocking("reading the newest checkpoint", move || {
        let reading = Reading::by_catalog(&history_, &catalog_)?;
        let checkpoints = &reading.stretch(number)?.checkpoints;
        let newest = checkpoints.iter().rfind(|row| row.lsn <= lsn);
        let newest = newest.ok_or_else(|| Error::refused("there is no checkpoint to go on from"))?;
        let past = reading.forward(history_.read_checkpoint(&newest.id)?, lsn)?;
        let told = past.tables_told_in_full()?;
        Ok((Arc::new(past), told))
    });
    let (past, told) = reading.await?;
    let changed = |found: &crate::source::inspect::FoundTable| {
        !told.iter().any(|table| table.oid == found.table.oid && same_shape(table, &found.table))
    };
    let taken = take(access, history, &snapshot, lsn, &packs, &changed).await?;
    drop(client);
    let SourceImage { mut tables, protected, schema, sequences, time, .. } = taken;
    let kept: Vec<u32> =
        protected.keys().copied().filter(|oid| !tables.iter().any(|entry| entry.table.oid == *oid)).collect();
    let (past_, packs_) = (Arc::clone(&past), Arc::clone(&packs));
    let folding = ambient::blocking("folding the history", move || {
        let wanted = |table: &Table| kept.contains(&table.oid);
        let (scratch, silent) = (past_.history().scratch(), crate::progress::Silent);
        let folded = past_.fold(&wanted, CHECKPOINT_BUDGET, &scratch, &silent)?;
        // All else, and the schema, was read just now.
        let names: Vec<_> = folded.tables.iter().map(|it| it.table.display()).collect();
        let mut inexact = folded.inexact;
        inexact.retain(|it| is_of_values(it) && names.contains(&it.what));
        Ok((images(folded.tables, &packs_, &silent)?, inexact))
    });
    let (folded, inexact) = folding.await?;
    for mut entry in folded {
        // Names may have changed; the shape has not.
        if let Some(found) = protected.get(&entry.table.oid) {
            entry.table = found.table.clone();
        }
        tables.push(entry);
    }
    tables.sort_by_key(|entry| entry.table.oid);
    let base = Some(past.base().id.clone());
    let draft = Draft { epoch: epoch.number, lsn, time, label: None, base, origin: Origin::Source };
    let stats = finish_packs(packs).await?;
    let content = Content { tables, schema, sequences, inexact, stats, resync: None };
    publish_beside(history, catalog, draft, content).await
}

async fn take(
    access: &Access<'_>,
    history: &History,
    snapshot: &Snapshot,
    lsn: Lsn,
    packs: &Arc<Packs>,
    read: &(dyn Fn(&crate::source::inspect::FoundTable) -> bool + Sync),
) -> Result<SourceImage> {
    let identity = history.identity();
    let request = snapshot::Request {
        access,
        snapshot,
        lsn,
        publications: &Publications::of_slot(&identity.slot()),
        selection: &Selection::parse(&identity.include, &identity.exclude)?,
        read,
        store: &history.shared_store(),
        scratch: &history.scratch(),
        packs,
    };
    snapshot::take(&request).await
}
