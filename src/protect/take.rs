//! Reads tables from the source, in parallel, into images.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use crate::codec::key::KeyShape;
use crate::connect::Conninfo;
use crate::error::{Context, Error, Kind, Result};
use crate::history::checkpoint::TableEntry;
use crate::history::image::{ImageBuilder, Packs, Sorter, TableImage, lines};
use crate::history::resync::Resync;
use crate::model::Table;
use crate::progress::{Progress, Unit};
use crate::source::inspect::FoundTable;
use crate::source::snapshot::{Pages, Snapshot, copy};

/// A table is read in ranges of so many pages (64 MiB), so that several sessions can share it.
const RANGE_PAGES: u32 = 8192;

/// Memory of all sorters together, in bytes; more is spilled to disk.
const SORT_BUDGET: usize = 256 << 20;

/// Pieces of rows that may wait between a session and a sorter.
const PIECES_WAITING: usize = 8;

/// The rows of tables as the snapshot shows them.
pub(super) struct TableImages {
    pub tables: Vec<TableEntry>,
    pub resync: Option<Resync>,
}

/// The connection and the settings by which tables are read.
pub struct SourceReading<'a> {
    pub source: &'a Conninfo,
    pub snapshot: &'a Snapshot,
    pub packs: &'a Arc<Packs>,
    /// A folder for sorted runs that do not fit into memory.
    pub scratch: &'a Path,
    /// Sessions that read at the same time.
    pub jobs: usize,
    pub progress: &'a dyn Progress,
}

/// Reads `tables` as the snapshot shows them. They must be locked by then.
///
/// # Errors
/// `Unavailable` if the source or the disk fails.
pub async fn read_tables(reading: &SourceReading<'_>, tables: &[&FoundTable]) -> Result<Vec<TableEntry>> {
    reading.progress.phase("reading tables", tables.len() as u64, Unit::Tables);
    let jobs = reading.jobs.max(1);
    let queue = Arc::new(Queue {
        waiting: Mutex::new(State {
            tables: tables.iter().map(|found| (*found).clone()).collect(),
            current: None,
        }),
        packs: Arc::clone(reading.packs),
        scratch: reading.scratch.to_owned(),
        budget: SORT_BUDGET / (jobs + 1),
        builders: Mutex::default(),
    });
    let mut workers = JoinSet::new();
    for _ in 0..jobs.min(total_ranges(tables)) {
        let reader = reading.snapshot.reader(reading.source, "checkpoint").await?;
        let queue = Arc::clone(&queue);
        workers.spawn(async move {
            while let Some(range) = queue.next()? {
                copy(&reader, &range.table, range.pages, &range.rows).await?;
            }
            Ok::<(), Error>(())
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker.context(Kind::Internal, || "a reading task failed".into())??;
    }
    let builders = std::mem::take(&mut *queue.builders()?);
    let mut entries = Vec::with_capacity(builders.len());
    for (table, image) in builders {
        let image = image.await.context(Kind::Internal, || "a sorting thread failed".into())??;
        reading.progress.advance(1);
        entries.push(TableEntry { table, image });
    }
    Ok(entries)
}

fn total_ranges(tables: &[&FoundTable]) -> usize {
    tables.iter().map(|found| Pages::split(found.pages, RANGE_PAGES).len()).sum()
}

/// The ranges that are still to be read. A table's sorter is started with its first range and
/// ends when the last of its ranges is read.
struct Queue {
    waiting: Mutex<State>,
    packs: Arc<Packs>,
    scratch: PathBuf,
    budget: usize,
    builders: Mutex<Vec<(Table, JoinHandle<Result<TableImage>>)>>,
}

struct State {
    tables: VecDeque<FoundTable>,
    current: Option<Current>,
}

struct Current {
    table: Arc<Table>,
    ranges: VecDeque<Pages>,
    rows: mpsc::Sender<Bytes>,
}

struct Range {
    table: Arc<Table>,
    pages: Pages,
    rows: mpsc::Sender<Bytes>,
}

impl Queue {
    fn next(&self) -> Result<Option<Range>> {
        let mut state = self.waiting.lock().map_err(|_| Error::internal("a reading task failed"))?;
        if state.current.is_none() {
            let Some(found) = state.tables.pop_front() else { return Ok(None) };
            state.current = Some(self.start(found)?);
        }
        let Some(current) = state.current.as_mut() else { return Ok(None) };
        let pages = current.ranges.pop_front().unwrap_or(Pages::ALL);
        let range = Range { table: Arc::clone(&current.table), pages, rows: current.rows.clone() };
        if current.ranges.is_empty() {
            state.current = None;
        }
        Ok(Some(range))
    }

    fn start(&self, found: FoundTable) -> Result<Current> {
        let (rows, receiver) = mpsc::channel(PIECES_WAITING);
        let (table, packs, scratch, budget) =
            (found.table.clone(), Arc::clone(&self.packs), self.scratch.clone(), self.budget);
        let builder = tokio::task::spawn_blocking(move || build(&table, receiver, &packs, &scratch, budget));
        self.builders()?.push((found.table.clone(), builder));
        let ranges = Pages::split(found.pages, RANGE_PAGES).into();
        Ok(Current { table: Arc::new(found.table), ranges, rows })
    }

    fn builders(&self) -> Result<std::sync::MutexGuard<'_, Vec<(Table, JoinHandle<Result<TableImage>>)>>> {
        self.builders.lock().map_err(|_| Error::internal("a reading task failed"))
    }
}

/// Sorts rows by key and cuts them into blocks.
fn build(
    table: &Table,
    mut rows: mpsc::Receiver<Bytes>,
    packs: &Packs,
    scratch: &Path,
    budget: usize,
) -> Result<TableImage> {
    let shape = KeyShape::of(table);
    let mut sorter = Sorter::new(scratch, budget);
    let mut key = Vec::new();
    while let Some(piece) = rows.blocking_recv() {
        for line in lines(&piece) {
            key.clear();
            let keyed = shape.push_key(line, &mut key);
            keyed.ok_or_else(|| Error::internal(format!("a row of {} has no key", table.display())))?;
            sorter.push(&key, line)?;
        }
    }
    let mut sorted = sorter.finish()?;
    let mut builder = ImageBuilder::new(packs);
    while let Some((key, line)) = sorted.next_row()? {
        builder.push(key, line)?;
    }
    builder.finish()
}
