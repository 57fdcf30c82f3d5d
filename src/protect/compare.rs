//! Compares the history with the live source, both at one position.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Access;
use super::images::same_shape;
use super::slot::temporary_snapshot;
use super::snapshot::{LockedTables, hold};
use crate::ambient;
use crate::connect::Session;
use crate::error::{Context, Error, Kind, Result};
use crate::fold::Tally;
use crate::history::History;
use crate::history::checkpoint::Checkpoint;
use crate::history::evidence::TableDigest;
use crate::history::image::lines;
use crate::model::schema_digests::SchemaDigests;
use crate::model::{Edge, Lsn, Selection, Table};
use crate::past::{CHECKPOINT_BUDGET, Past, Reading};
use crate::pgtools;
use crate::progress::{Silent, Unit};
use crate::source::inspect::{self, FoundTable};
use crate::source::publication::Publications;
use crate::source::snapshot::{Pages, Snapshot, copy};

/// A table is read in ranges of so many pages (64 MiB), so that several sessions can share it.
const RANGE_PAGES: u32 = 8192;

/// Pieces of rows that may wait between a session and a digest.
const PIECES_WAITING: usize = 8;

/// The result of comparing the history with the source.
pub struct Comparison {
    /// The history at that moment.
    pub past: Past,
    /// The snapshot's moment.
    pub at: Edge,
    /// Tables that were compared, as the source has them.
    pub tables: Vec<TableDigest>,
    /// Tables whose rows differ, with their numbers.
    pub differences: Vec<String>,
    /// Tables that could not be compared, and why.
    pub not_compared: Vec<String>,
    /// The source's definitions at that moment; `None` if they were being changed.
    pub schema: Option<SchemaDigests>,
}

/// Reads every protected table of the source under one snapshot, and compares it with the fold of the
/// history up to the snapshot's position. `reached` waits until the journal holds that position.
///
/// # Errors
/// `Unavailable` if the source or the disk fails; `Damaged` if the history is; those of `reached`.
pub async fn with_source(
    access: &Access<'_>,
    history: &History,
    reached: impl AsyncFnOnce(Lsn) -> Result<()>,
) -> Result<Comparison> {
    let identity = history.identity();
    let history_ = history.clone();
    let reading = ambient::blocking("reading the newest epoch", move || history_.current_epoch());
    let epoch = reading.await?.number;
    let (client, snapshot, lsn) = temporary_snapshot(access, history, "check").await?;
    let selection = Selection::parse(&identity.include, &identity.exclude)?;
    let publications = Publications::of_slot(&identity.slot());
    let LockedTables { holder, time, protected, .. } =
        hold(access, &snapshot, &publications, &selection).await?;
    let schema = digests(access, &holder).await?;
    let read = read(access, &snapshot, protected.values().cloned().collect()).await?;
    drop((holder, client));
    reached(lsn).await?;
    let history = history.clone();
    let folding = ambient::blocking("folding the history", move || fold_at(&history, epoch, lsn));
    let (past, folded) = folding.await?;
    let base = past.base().clone();
    let mut comparison = Comparison {
        past,
        at: Edge { lsn, time },
        tables: Vec::new(),
        differences: Vec::new(),
        not_compared: Vec::new(),
        schema,
    };
    comparison.fill(&base, &folded, &protected, &read);
    Ok(comparison)
}

/// The source's definitions under the snapshot of `holder`. The server tells expressions as they are now, so that nothing
/// is known of them if they were changed meanwhile.
async fn digests(access: &Access<'_>, holder: &Session) -> Result<Option<SchemaDigests>> {
    let now = Session::connect_utf8(access.source, "check").await?;
    let digests = pgtools::schema_digests(&now).await;
    let settled = inspect::fingerprint(&now).await? == inspect::fingerprint(holder).await?;
    Ok(digests.ok().filter(|_| settled))
}

impl Comparison {
    fn fill(
        &mut self,
        base: &Checkpoint,
        folded: &BTreeMap<u32, Tally>,
        protected: &BTreeMap<u32, FoundTable>,
        read: &BTreeMap<u32, Tally>,
    ) {
        for (oid, found) in protected {
            let name = found.table.display();
            let source = read.get(oid).copied().unwrap_or_default();
            if let Some(why) = incomparable(base, &found.table) {
                self.not_compared.push(format!("{name}: {why}"));
                continue;
            }
            let held = folded.get(oid).copied().unwrap_or_default();
            let digest = source.digest.to_string();
            self.tables.push(TableDigest { table: name.clone(), rows: source.rows, digest });
            if held != source {
                let rows = format!("{} rows in the history, {} in the source", held.rows, source.rows);
                self.differences.push(format!("{name} ({rows})"));
            }
        }
        for entry in base.tables.iter().filter(|entry| !protected.contains_key(&entry.table.oid)) {
            self.not_compared.push(format!("{}: not in the source any more", entry.table.display()));
        }
    }
}

fn incomparable(base: &Checkpoint, table: &Table) -> Option<String> {
    let Some(entry) = base.table(table.oid) else {
        return Some(format!("not in checkpoint {} yet", base.id));
    };
    if table.is_insert_only() {
        return Some("inserts only, so the journal does not tell all".to_owned());
    }
    let why = format!("its definition changed since checkpoint {}", base.id);
    (!same_shape(&entry.table, table)).then_some(why)
}

/// Each table's rows at `lsn`, by oid, as the history has them.
fn fold_at(history: &History, epoch: u32, lsn: Lsn) -> Result<(Past, BTreeMap<u32, Tally>)> {
    let reading = Reading::open(history)?;
    let newest = reading.stretch(epoch)?.checkpoints.iter().rfind(|row| row.lsn <= lsn);
    let newest = newest.ok_or_else(|| Error::refused("there is no checkpoint to compare from"))?;
    let past = reading.forward(history.read_checkpoint(&newest.id)?, lsn)?;
    let folded = past.fold(&|_| true, CHECKPOINT_BUDGET, &history.scratch(), &Silent)?;
    let sums = folded.tables.into_iter().map(|table| Ok((table.table.oid, table.tally()?)));
    let sums = sums.collect::<Result<_>>()?;
    Ok((past, sums))
}

/// Ranges that are still to be read, and the sums of those that were.
struct SourceSums {
    ranges: Mutex<Vec<(FoundTable, Pages)>>,
    sums: Mutex<BTreeMap<u32, Tally>>,
}

impl SourceSums {
    fn next(&self) -> Option<(FoundTable, Pages)> {
        self.ranges.lock().ok()?.pop()
    }

    fn add(&self, oid: u32, more: Tally) -> Result<()> {
        let mut sums = self.sums.lock().map_err(|_| Error::internal("a reading task failed"))?;
        let sum = sums.entry(oid).or_default();
        sum.rows += more.rows;
        sum.digest.merge(more.digest);
        Ok(())
    }
}

/// Each table's rows, by oid, as the snapshot shows them. The tables must be locked.
async fn read(
    access: &Access<'_>,
    snapshot: &Snapshot,
    tables: Vec<FoundTable>,
) -> Result<BTreeMap<u32, Tally>> {
    access.progress.phase("reading tables", tables.len() as u64, Unit::Tables);
    let split = |found: FoundTable| {
        let ranges = Pages::split(found.pages, RANGE_PAGES);
        ranges.into_iter().map(move |pages| (found.clone(), pages))
    };
    let ranges: Vec<_> = tables.into_iter().flat_map(split).collect();
    let jobs = access.jobs.clamp(1, ranges.len().max(1));
    let reading = Arc::new(SourceSums { ranges: Mutex::new(ranges), sums: Mutex::default() });
    let mut workers = JoinSet::new();
    for _ in 0..jobs {
        let reader = snapshot.reader(access.source, "check").await?;
        let reading = Arc::clone(&reading);
        workers.spawn(async move {
            while let Some((found, pages)) = reading.next() {
                let (pieces, rows) = mpsc::channel(PIECES_WAITING);
                let (copied, sum) = tokio::join!(
                    async {
                        let copied = copy(&reader, &found.table, pages, &pieces).await;
                        drop(pieces);
                        copied
                    },
                    digest(rows)
                );
                copied?;
                reading.add(found.table.oid, sum)?;
            }
            Ok::<(), Error>(())
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker.context(Kind::Internal, || "a reading task failed".into())??;
    }
    let sums = reading.sums.lock().map_err(|_| Error::internal("a reading task failed"))?;
    Ok(sums.clone())
}

async fn digest(mut rows: mpsc::Receiver<Bytes>) -> Tally {
    let mut sum = Tally::default();
    while let Some(piece) = rows.recv().await {
        for line in lines(&piece) {
            sum.add(line);
        }
    }
    sum
}
