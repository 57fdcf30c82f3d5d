//! Makes checkpoints: folded from the history, or read from the source.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::snapshot::{self, Taken};
use super::{Access, begin_checkpoint, create_packs, finish_packs, scratch};
use crate::ambient;
use crate::error::{Error, Result};
use crate::fold::{self, Folded, FoldedTable, ImageRows};
use crate::history::catalog::Catalog;
use crate::history::checkpoint::{self, Checkpoint, Inexact, Origin, SchemaFacts, TableEntry};
use crate::history::definitions::changes_in;
use crate::history::image::{ImageBuilder, PackStats, Packs, TableImage};
use crate::history::resync::Resync;
use crate::history::roles;
use crate::history::timeline::{Stretch, Timeline};
use crate::history::{FORMAT, History};
use crate::model::{Lsn, PgTime, Selection, Table};
use crate::progress::{Progress, Unit};
use crate::source::publication::Publications;
use crate::source::sequences::Sample;
use crate::source::snapshot::Snapshot;
use crate::source::stream::ReplicationClient;

/// Memory for the deltas of a fold, in bytes.
pub const FOLD_BUDGET: usize = 320 << 20;

/// How long a slot may wait for running transactions to end.
pub const SLOT_WAIT: std::time::Duration = std::time::Duration::from_secs(60);

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
    catalog.synchronise(history)?;
    let timeline = Timeline::read(history, catalog)?;
    let stretch = timeline.current()?;
    let newest = stretch.checkpoints.last().ok_or_else(|| {
        Error::refused(
            "there is no checkpoint to fold from; take one with: backwhen checkpoint --from-source",
        )
    })?;
    let base = history.read_checkpoint(&newest.id)?;
    if stretch.frontier() <= base.lsn && label.is_none() {
        return Ok(base);
    }
    fold_to_end(history, catalog, stretch, base, label, progress)
}

/// Folds a checkpoint with all of its epoch that comes after it into a new one. The checkpoints are locked.
pub(super) fn fold_to_end(
    history: &History,
    catalog: &Arc<Catalog>,
    stretch: &Stretch,
    base: Checkpoint,
    label: Option<&str>,
    progress: &dyn Progress,
) -> Result<Checkpoint> {
    let until = stretch.frontier();
    let folded = fold_to(history, catalog, stretch, &base, until, &|_| true, progress)?;
    let packs = Packs::create(&history.packs_folder(), Arc::clone(catalog) as Arc<_>)?;
    let sequences = Sample { sampled: folded.sequences_sampled, sequences: folded.sequences };
    let mut inexact = folded.inexact;
    inexact.extend(folded.definitions.inexact());
    let mut schema = base.schema.clone();
    schema.since.extend(folded.definition_changes);
    schema.globals = roles::globals_at(history, stretch, &base, until.max(base.lsn))?;
    let tables = images(folded.tables, &packs, progress)?;
    ambient::pass("checkpoint.image")?;
    let time = stretch
        .segments_between(base.lsn, until)
        .filter_map(|segment| segment.summary.max_time)
        .max()
        .map_or(base.time, |time| time.max(base.time));
    let draft = Draft {
        epoch: base.epoch,
        lsn: until.max(base.lsn),
        time,
        label: label.map(str::to_owned),
        base: Some(base.id),
        origin: Origin::Fold,
    };
    let content = Content { tables, schema, sequences, inexact, stats: packs.finish()?, resync: None };
    publish(history, catalog, draft, content)
}

pub(super) fn fold_to(
    history: &History,
    catalog: &Arc<Catalog>,
    stretch: &Stretch,
    base: &Checkpoint,
    until: Lsn,
    wanted: &dyn Fn(&Table) -> bool,
    progress: &dyn Progress,
) -> Result<Folded> {
    let after = stretch.segments.iter().filter(|segment| segment.summary.end > base.lsn);
    let segments: Vec<PathBuf> = after.map(|segment| segment.file.path.clone()).collect();
    fold::fold(&fold::Request {
        catalog,
        packs_folder: &history.packs_folder(),
        base,
        until,
        definitions_at: until,
        segments: &segments,
        key: &history.identity().message_key(),
        authorship: history.authorship(),
        wanted,
        budget: FOLD_BUDGET,
        scratch: &scratch(history),
        progress,
    })
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
    checkpoint::publish(history.root(), &checkpoint, history.authorship())?;
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
        catalog_.synchronise(&history_)?;
        let newest = catalog_.checkpoints()?.into_iter().rfind(|row| row.epoch == number && row.lsn <= lsn);
        let newest = newest.ok_or_else(|| Error::refused("there is no checkpoint to go on from"))?;
        let base = history_.read_checkpoint(&newest.id)?;
        let told = told_tables(&history_, &catalog_, &base, lsn)?;
        Ok((base, told))
    });
    let (base, told) = reading.await?;
    let changed = |found: &crate::source::inspect::FoundTable| {
        !told.iter().any(|table| table.oid == found.table.oid && same_shape(table, &found.table))
    };
    let taken = take(access, history, &snapshot, lsn, &packs, &changed).await?;
    drop(client);
    let Taken { mut tables, protected, schema, sequences, time, .. } = taken;
    let kept: Vec<u32> =
        protected.keys().copied().filter(|oid| !tables.iter().any(|entry| entry.table.oid == *oid)).collect();
    let (history_, catalog_) = (history.clone(), Arc::clone(catalog));
    let (base_, packs_) = (base.clone(), Arc::clone(&packs));
    let folding = ambient::blocking("folding the history", move || {
        let timeline = Timeline::read(&history_, &catalog_)?;
        let wanted = |table: &Table| kept.contains(&table.oid);
        let silent = crate::progress::Silent;
        let folded = fold_to(&history_, &catalog_, timeline.current()?, &base_, lsn, &wanted, &silent)?;
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
    let draft =
        Draft { epoch: epoch.number, lsn, time, label: None, base: Some(base.id), origin: Origin::Source };
    let stats = finish_packs(packs).await?;
    let content = Content { tables, schema, sequences, inexact, stats, resync: None };
    publish_beside(history, catalog, draft, content).await
}

/// The tables as the base and the source's triggers describe them at a position; those of which
/// they do not tell all are left out.
fn told_tables(history: &History, catalog: &Catalog, base: &Checkpoint, at: Lsn) -> Result<Vec<Table>> {
    let timeline = Timeline::read(history, catalog)?;
    let changes = changes_in(timeline.current()?, &history.identity().message_key(), base.lsn, at)?;
    let before: Vec<_> = base.tables.iter().map(|entry| entry.table.clone()).collect();
    let untold = fold::untold_tables(&before, &changes);
    let mut tables = fold::tables_after(&before, &changes);
    tables.retain(|table| !untold.contains(&table.oid));
    Ok(tables)
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

/// A snapshot whose position is known exactly, because a slot began there. The slot goes with the
/// connection.
pub(super) async fn temporary_snapshot(
    access: &Access<'_>,
    history: &History,
    purpose: &str,
) -> Result<(ReplicationClient, Snapshot, Lsn)> {
    let mut client = ReplicationClient::connect(access.source, &format!("backwhen {purpose}")).await?;
    let identity = client.identify_system().await?;
    crate::source::inspect::same_cluster(
        &history.identity().source.system_identifier,
        &identity.system_identifier,
    )?;
    let name = format!("{}_{purpose}", history.identity().slot());
    let slot = client.create_temporary_slot(&name, SLOT_WAIT).await?;
    Ok((client, Snapshot { name: slot.snapshot }, slot.consistent_point))
}
