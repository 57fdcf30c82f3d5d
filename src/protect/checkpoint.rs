//! Makes checkpoints: folded from the history, or read from the source.

use std::sync::{Arc, Mutex};

use super::slot::temporary_snapshot;
use super::snapshot::{self, Taken};
use super::{Access, begin_checkpoint, create_packs, finish_packs, scratch};
use crate::ambient;
use crate::error::{Error, Result};
use crate::fold::{self, FoldedTable, ImageRows};
use crate::history::catalog::Catalog;
use crate::history::checkpoint::{self, Checkpoint, Inexact, Origin, SchemaFacts, TableEntry};
use crate::history::image::{ImageBuilder, PackStats, Packs, TableImage};
use crate::history::resync::Resync;
use crate::history::{FORMAT, History};
use crate::model::{Lsn, PgTime, Selection, Table};
use crate::past::{CHECKPOINT_BUDGET, Reading};
use crate::progress::{Progress, Unit};
use crate::source::publication::Publications;
use crate::source::sequences::Sample;
use crate::source::snapshot::Snapshot;

/// Folds the newest checkpoint and the journal after it into a new one. The source is not asked.
///
/// Where nothing was committed since, and no label is wanted, that checkpoint is the answer.
///
/// # Errors
/// `Locked` if a checkpoint is being made; `Damaged` if the history is.
pub fn fold_newest(
    history: &History,
    catalog: &Arc<Catalog>,
    label: Option<&str>,
    progress: &dyn Progress,
) -> Result<Checkpoint> {
    let _lock = history.lock_checkpoint()?;
    let reading = Reading::by_catalog(history, catalog)?;
    let stretch = reading.timeline().current()?;
    let newest = stretch.checkpoints.last().ok_or_else(|| {
        Error::refused(
            "there is no checkpoint to fold from; take one with: backwhen checkpoint --from-source",
        )
    })?;
    let base = history.read_checkpoint(&newest.id)?;
    if stretch.frontier() <= base.lsn && label.is_none() {
        return Ok(base);
    }
    fold_to_end(&reading, base, label, progress)
}

/// Folds a checkpoint with all of its epoch that comes after it into a new one. The checkpoints are locked.
pub(super) fn fold_to_end(
    reading: &Reading,
    base: Checkpoint,
    label: Option<&str>,
    progress: &dyn Progress,
) -> Result<Checkpoint> {
    let (history, catalog) = (reading.history(), reading.catalog());
    let until = reading.stretch(base.epoch)?.frontier();
    let past = reading.forward(base, until)?;
    let folded = past.fold(&|_| true, CHECKPOINT_BUDGET, &scratch(history), progress)?;
    let packs = Packs::create(&history.packs_folder(), Arc::clone(catalog) as Arc<_>)?;
    let sequences = Sample { sampled: folded.sequences_sampled, sequences: folded.sequences };
    let mut inexact = folded.inexact;
    inexact.extend(folded.definitions.inexact());
    let base = past.base();
    let mut schema = base.schema.clone();
    schema.since.extend(folded.definition_changes);
    schema.globals = past.roles()?.map(str::to_owned);
    let tables = images(folded.tables, &packs, progress)?;
    ambient::pass("checkpoint.image")?;
    let draft = Draft {
        epoch: base.epoch,
        lsn: until.max(base.lsn),
        time: past.latest_time(),
        label: label.map(str::to_owned),
        base: Some(base.id.clone()),
        origin: Origin::Fold,
    };
    let content = Content { tables, schema, sequences, inexact, stats: packs.finish()?, resync: None };
    publish(history, catalog, draft, content)
}

/// Turns folded tables into images, a table a thread at a time.
pub(super) fn images(
    tables: Vec<FoldedTable>,
    packs: &Packs,
    progress: &dyn Progress,
) -> Result<Vec<TableEntry>> {
    progress.phase("writing images", tables.len() as u64, Unit::Tables);
    let threads = std::thread::available_parallelism().map_or(2, usize::from).min(tables.len().max(1));
    let mut tables = tables;
    // The largest last, because the queue is popped from its end.
    tables.sort_by_key(|table| table.size_hint());
    let queue = Mutex::new(tables);
    let next = || queue.lock().ok().and_then(|mut queue| queue.pop());
    let work = || -> Result<Vec<TableEntry>> {
        let mut entries = Vec::new();
        while let Some(folded) = next() {
            let table = folded.table.clone();
            let image = image_of(folded, packs)?;
            progress.advance(1);
            entries.push(TableEntry { table, image });
        }
        Ok(entries)
    };
    let mut entries = Vec::new();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            entries.extend(worker.join().map_err(|_| Error::internal("a folding thread failed"))??);
        }
        Ok::<(), Error>(())
    })?;
    entries.sort_by_key(|entry| entry.table.oid);
    Ok(entries)
}

/// Turns a folded table into an image; one that nothing happened to is taken as it is.
pub(super) fn image_of(folded: FoldedTable, packs: &Packs) -> Result<TableImage> {
    if let Some(image) = folded.untouched() {
        count_shared(&folded, packs)?;
        return Ok(*image);
    }
    let mut rows = ImageRows(ImageBuilder::new(packs));
    folded.emit(&mut rows)?;
    rows.0.finish()
}

/// Counts an untouched table's blocks as used once more.
fn count_shared(folded: &FoldedTable, packs: &Packs) -> Result<()> {
    for block in folded.index()? {
        if !packs.share(&block.id)? {
            return Err(Error::damaged(format!(
                "block {} of {} is missing",
                block.id,
                folded.table.display()
            )));
        }
    }
    Ok(())
}

/// What a checkpoint is, apart from what it holds.
pub(super) struct Draft {
    pub epoch: u32,
    pub lsn: Lsn,
    pub time: PgTime,
    pub label: Option<String>,
    /// The id of the checkpoint that it was folded from.
    pub base: Option<String>,
    pub origin: Origin,
}

/// What it holds.
pub(super) struct Content {
    pub tables: Vec<TableEntry>,
    pub schema: SchemaFacts,
    pub sequences: Sample,
    pub inexact: Vec<Inexact>,
    pub stats: PackStats,
    pub resync: Option<Resync>,
}

impl Content {
    /// All that a snapshot showed.
    pub(super) fn of(taken: Taken, stats: PackStats) -> Content {
        let Taken { tables, schema, sequences, resync, .. } = taken;
        Content { tables, schema, sequences, inexact: Vec::new(), stats, resync }
    }
}

pub(super) fn publish(
    history: &History,
    catalog: &Catalog,
    draft: Draft,
    content: Content,
) -> Result<Checkpoint> {
    let id = history.free_checkpoint_id(draft.epoch, draft.lsn);
    let checkpoint = manifest(id, draft, content);
    ambient::pass("checkpoint.publish")?;
    checkpoint::publish(history.store(), &checkpoint, history.authorship())?;
    ambient::pass("checkpoint.published")?;
    catalog.synchronise(history)?;
    Ok(checkpoint)
}

/// The same in a thread of its own, beside a stream.
pub(super) async fn publish_beside(
    history: &History,
    catalog: &Arc<Catalog>,
    draft: Draft,
    content: Content,
) -> Result<Checkpoint> {
    let (history, catalog) = (history.clone(), Arc::clone(catalog));
    let publishing = move || publish(&history, &catalog, draft, content);
    ambient::blocking("publishing a checkpoint", publishing).await
}

pub(super) fn manifest(id: String, draft: Draft, content: Content) -> Checkpoint {
    Checkpoint {
        format: FORMAT,
        id,
        epoch: draft.epoch,
        lsn: draft.lsn,
        time: draft.time,
        label: draft.label,
        origin: draft.origin,
        base: draft.base,
        tables: content.tables,
        schema: content.schema,
        sequences: content.sequences.sequences,
        sequences_sampled: content.sequences.sampled,
        bytes_new: content.stats.bytes_new,
        bytes_total: content.stats.bytes_new + content.stats.bytes_shared,
        inexact: content.inexact,
        resync: content.resync,
    }
}

/// Takes a checkpoint from the source, at the exact position of a snapshot, through a temporary
/// slot.
///
/// # Errors
/// `Locked` if a checkpoint is being made; `Unavailable` if the source or the disk fails.
pub async fn from_source(
    access: &Access<'_>,
    history: &History,
    catalog: &Arc<Catalog>,
    label: Option<&str>,
) -> Result<Checkpoint> {
    let (_locks, epoch) = begin_checkpoint(history, catalog).await?;
    let (client, snapshot, lsn) = temporary_snapshot(access, history, "checkpoint").await?;
    let packs = create_packs(history.root(), Arc::clone(catalog) as Arc<_>).await?;
    let taken = take(access, history, &snapshot, lsn, &packs, &|_| true).await?;
    // The snapshot was needed until here.
    drop(client);
    let label = label.map(str::to_owned);
    let draft =
        Draft { epoch: epoch.number, lsn, time: taken.time, label, base: None, origin: Origin::Source };
    let content = Content::of(taken, finish_packs(packs).await?);
    publish_beside(history, catalog, draft, content).await
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
    let packs = create_packs(history.root(), Arc::clone(catalog) as Arc<_>).await?;
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
    let Taken { mut tables, protected, schema, sequences, time, .. } = taken;
    let kept: Vec<u32> =
        protected.keys().copied().filter(|oid| !tables.iter().any(|entry| entry.table.oid == *oid)).collect();
    let (past_, packs_) = (Arc::clone(&past), Arc::clone(&packs));
    let folding = ambient::blocking("folding the history", move || {
        let wanted = |table: &Table| kept.contains(&table.oid);
        let (scratch, silent) = (scratch(past_.history()), crate::progress::Silent);
        let folded = past_.fold(&wanted, CHECKPOINT_BUDGET, &scratch, &silent)?;
        // All else, and the schema, was read just now.
        let names: Vec<_> = folded.tables.iter().map(|it| it.table.display()).collect();
        let mut inexact = folded.inexact;
        inexact.retain(|it| fold::is_of_values(it) && names.contains(&it.what));
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

/// Whether rows of one are rows of the other: then an image can be carried on.
pub(super) fn same_shape(before: &Table, now: &Table) -> bool {
    before.columns == now.columns
        && before.identity == now.identity
        && before.grade == now.grade
        && !before.storage.was_rewritten(&now.storage)
}

async fn take(
    access: &Access<'_>,
    history: &History,
    snapshot: &Snapshot,
    lsn: Lsn,
    packs: &Arc<Packs>,
    read: &(dyn Fn(&crate::source::inspect::FoundTable) -> bool + Sync),
) -> Result<Taken> {
    let identity = history.identity();
    let request = snapshot::Request {
        access,
        snapshot,
        lsn,
        publications: &Publications::of_slot(&identity.slot()),
        selection: &Selection::parse(&identity.include, &identity.exclude)?,
        read,
        root: history.root(),
        packs,
    };
    snapshot::take(&request).await
}
