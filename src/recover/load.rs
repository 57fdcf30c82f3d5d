//! Loads the rows of a folded history into a sink, and reads them back.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::sink::{Contents, Sink, in_one_transaction};
use crate::connect::ServerFault;
use crate::error::{Context, Error, Kind, Result};
use crate::fold::{FoldedTable, KeyRange, Portion, Tally};
use crate::history::evidence::TableDigest;
use crate::model::{Inexact, Table};
use crate::progress::{Progress, Unit};

/// Rows are handed to the sink in chunks of about this many bytes.
const PIECE: usize = 256 << 10;

/// How many chunks of a table may wait for the sink.
pub(super) const PIECES_WAITING: usize = 8;

/// Tables of at most this many bytes are loaded together: their rows wait in memory.
const SMALL: u64 = 64 << 10;

/// The indexes of a table of at least this many bytes are built by sessions of their own, while the table is read back.
const WORTH_SESSIONS: u64 = 4 << 20;

/// The result of loading one or more tables.
pub(super) struct LoadOutcome {
    pub rows: u64,
    /// Whether the rows that were read back have the digests of the rows that were sent.
    pub proved: bool,
    pub digests: Vec<TableDigest>,
    pub inexact: Vec<Inexact>,
    /// Tables without any row yet, and why the sink refused theirs.
    pub refused: Vec<(Table, Error)>,
}

impl LoadOutcome {
    pub fn empty() -> LoadOutcome {
        LoadOutcome { rows: 0, proved: true, digests: Vec::new(), inexact: Vec::new(), refused: Vec::new() }
    }

    pub fn add(&mut self, more: LoadOutcome) {
        self.rows += more.rows;
        self.proved &= more.proved;
        self.digests.extend(more.digests);
        self.refused.extend(more.refused);
    }

    fn add_table(&mut self, table: LoadedTable) {
        match table {
            LoadedTable::Whole { digest, proved } => {
                self.rows += digest.rows;
                self.proved &= proved;
                self.digests.push(digest);
            }
            LoadedTable::Refused(table, error) => self.refused.push((*table, error)),
        }
    }
}

/// Loads large tables, `jobs` at a time, the largest first, and small ones together beside them, reads each table back, and
/// builds its indexes. Tables whose rows the sink refuses are returned. Values of a table in `retyped` may read differently from how
/// they were written, so only the number of such a table's rows is compared.
///
/// # Errors
/// `Damaged` if the history is, `Internal` if the sink does not hold the rows that it was sent, or the sink's own
/// error.
pub(super) async fn load_all(
    tables: Vec<FoldedTable>,
    jobs: usize,
    progress: &Arc<dyn Progress>,
    sink: &Arc<Sink>,
    retyped: &BTreeSet<String>,
) -> Result<LoadOutcome> {
    let bytes = tables.iter().map(|table| table.size_hint().1).sum();
    progress.phase("loading", bytes, Unit::Bytes);
    let small_sessions = match sink.sessions_for_few() {
        0 => 0,
        _ if jobs <= 1 => 1,
        sessions => sessions.max(jobs),
    };
    let loader = Loader {
        sink: Arc::clone(sink),
        progress: Arc::clone(progress),
        free: Arc::new(Semaphore::new(jobs.max(1))),
        small: Arc::new(Semaphore::new(small_sessions.max(1))),
        building: Arc::new(Semaphore::new(jobs.max(1))),
        retyped: Arc::new(retyped.clone()),
    };
    let mut loading = JoinSet::new();
    for batch in batches(tables, small_sessions) {
        let loader = loader.clone();
        loading.spawn(async move {
            let permits = if matches!(batch, Batch::Small(_)) { &loader.small } else { &loader.free };
            let _permit = Arc::clone(permits).acquire_owned().await.map_err(|_| Error::interrupted())?;
            loader.load(batch).await
        });
    }
    // The tasks alone hold the sink, which is given up when the last one has ended.
    drop(loader);
    let mut loaded = LoadOutcome::empty();
    while let Some(done) = loading.join_next().await {
        let done = done.context(Kind::Internal, || "a loading task failed".into()).and_then(|done| done);
        match done {
            Ok(tables) => tables.into_iter().for_each(|table| loaded.add_table(table)),
            Err(error) => {
                // Every task must have dropped the sink before the sink is abandoned.
                loading.shutdown().await;
                return Err(error);
            }
        }
    }
    Ok(loaded)
}

/// The tables that one task loads.
enum Batch {
    Large(Box<FoldedTable>),
    Small(Vec<FoldedTable>),
}

/// Divides tables into batches: large ones singly, the largest first, then small ones together, as many for each of the
/// `small_sessions`. Without such sessions all tables are large.
fn batches(mut tables: Vec<FoldedTable>, small_sessions: usize) -> Vec<Batch> {
    tables.sort_by_key(|table| std::cmp::Reverse(table.size_hint().1));
    let (small, large): (Vec<_>, Vec<_>) =
        tables.into_iter().partition(|table| small_sessions > 0 && table.weight() <= SMALL);
    let mut batches: Vec<_> = large.into_iter().map(|table| Batch::Large(Box::new(table))).collect();
    let together = in_one_transaction(small.len(), small_sessions);
    let mut small = small.into_iter().peekable();
    while small.peek().is_some() {
        batches.push(Batch::Small(small.by_ref().take(together).collect()));
    }
    batches
}

/// A table that is loaded and read back, or that has no row because the sink refused one.
enum LoadedTable {
    Whole { digest: TableDigest, proved: bool },
    Refused(Box<Table>, Error),
}

/// Loads tables one after the other or together.
#[derive(Clone)]
struct Loader {
    sink: Arc<Sink>,
    progress: Arc<dyn Progress>,
    /// A permit for each large table that may be loaded at the same time.
    free: Arc<Semaphore>,
    /// A permit for each batch of small tables.
    small: Arc<Semaphore>,
    /// A permit for each index that may be built while its table is read back.
    building: Arc<Semaphore>,
    retyped: Arc<BTreeSet<String>>,
}

impl Loader {
    async fn load(&self, batch: Batch) -> Result<Vec<LoadedTable>> {
        match batch {
            Batch::Large(table) => Ok(vec![self.load_large(*table).await?]),
            Batch::Small(tables) => self.load_small(tables).await,
        }
    }

    async fn load_large(&self, folded: FoldedTable) -> Result<LoadedTable> {
        let (table, is_worth) = (folded.table.clone(), folded.weight() >= WORTH_SESSIONS);
        let (pieces, receiver) = mpsc::channel(PIECES_WAITING);
        let progress = Arc::clone(&self.progress);
        let feeding = tokio::task::spawn_blocking(move || feed(folded, pieces, &*progress));
        let taken = self.sink.load(&table, receiver).await;
        let fed = feeding.await.context(Kind::Internal, || "a feeding thread failed".into())?;
        // If the sink fails first, the feeder only knows that its receiver is gone, so the sink's error is the one to
        // return.
        let sent = match (taken, fed) {
            (Ok(()), fed) => fed?,
            (Err(_), Err(error)) if error.kind() != Kind::Interrupted => return refused(table, error),
            (Err(error), _) => return refused(table, error),
        };
        // A permit is free only if no table waits for it; free permits help to read this table back.
        let helping: Vec<_> =
            std::iter::from_fn(|| Arc::clone(&self.free).try_acquire_owned().ok()).collect();
        let reading = self.sink.read_back(&table, 1 + helping.len());
        let (held, indexed) = if is_worth {
            tokio::try_join!(reading, self.sink.index_beside_readers((&table, sent.rows), &self.building))?
        } else {
            (reading.await?, Vec::new())
        };
        drop(helping);
        let loaded = self.compare(&table, &sent, held)?;
        self.sink.index(&[&table], &indexed).await?;
        Ok(loaded)
    }

    /// Loads small tables together; if the sink refuses a row, one after the other.
    async fn load_small(&self, tables: Vec<FoldedTable>) -> Result<Vec<LoadedTable>> {
        let mut collected = Vec::new();
        for folded in tables {
            let table = folded.table.clone();
            let (rows, sent) = self.collect(folded).await?;
            collected.push((table, rows, sent));
        }
        let rows: Vec<_> = collected.iter().map(|(table, rows, _)| (table, rows.clone())).collect();
        let mut loaded = Vec::new();
        if !self.sink.load_few(&rows).await? {
            for (table, rows, sent) in collected {
                loaded.push(self.load_collected(table, rows, &sent).await?);
            }
            return Ok(loaded);
        }
        let tables: Vec<_> = collected.iter().map(|(table, ..)| table).collect();
        let held = self.sink.read_back_few(&tables).await?;
        for ((table, _, sent), held) in collected.iter().zip(held) {
            loaded.push(self.compare(table, sent, Some(held))?);
        }
        self.sink.index(&tables, &[]).await?;
        Ok(loaded)
    }

    async fn collect(&self, folded: FoldedTable) -> Result<(Bytes, Tally)> {
        let (pieces, mut receiver) = mpsc::channel(PIECES_WAITING);
        let progress = Arc::clone(&self.progress);
        let feeding = tokio::task::spawn_blocking(move || feed(folded, pieces, &*progress));
        let mut rows = Vec::new();
        while let Some(piece) = receiver.recv().await {
            rows.extend_from_slice(&piece?);
        }
        let sent = feeding.await.context(Kind::Internal, || "a feeding thread failed".into())??;
        Ok((rows.into(), sent))
    }

    async fn load_collected(&self, table: Table, rows: Bytes, sent: &Tally) -> Result<LoadedTable> {
        let (pieces, receiver) = mpsc::channel(1);
        pieces.send(Ok(rows)).await.map_err(|_| Error::interrupted())?;
        drop(pieces);
        if let Err(error) = self.sink.load(&table, receiver).await {
            return refused(table, error);
        }
        let held = self.sink.read_back(&table, 1).await?;
        let loaded = self.compare(&table, sent, held)?;
        self.sink.index(&[&table], &[]).await?;
        Ok(loaded)
    }

    /// Compares the rows that the sink holds with the rows that were sent.
    fn compare(&self, table: &Table, sent: &Tally, held: Option<Contents>) -> Result<LoadedTable> {
        let name = table.display();
        let is_retyped = self.retyped.contains(&name);
        let digest = TableDigest { table: name, rows: sent.rows, digest: sent.digest.to_string() };
        let Some(Contents { rows, digest: held }) = held else {
            return Ok(LoadedTable::Whole { digest, proved: false });
        };
        let differs = held.is_some_and(|held| held != sent.digest.0);
        if rows == sent.rows && differs && is_retyped {
            return Ok(LoadedTable::Whole { digest, proved: false });
        }
        if rows != sent.rows || differs {
            return Err(Error::internal(format!(
                "{} does not hold what was recovered: {rows} rows instead of {}, or other bytes; please report this",
                digest.table, sent.rows
            )));
        }
        Ok(LoadedTable::Whole { digest, proved: held.is_some() })
    }
}

/// Returns the table as refused, if it is the server that refuses its rows.
fn refused(table: Table, error: Error) -> Result<LoadedTable> {
    if ServerFault::of(&error).is_some_and(ServerFault::is_refusal) {
        Ok(LoadedTable::Refused(Box::new(table), error))
    } else {
        Err(error)
    }
}

pub(super) fn feed(
    folded: FoldedTable,
    pieces: mpsc::Sender<Result<Bytes>>,
    progress: &dyn Progress,
) -> Result<Tally> {
    let piece = Vec::with_capacity(PIECE * 2);
    let mut feeder = Feeder { pieces, piece, sent: Tally::default(), progress };
    match feeder.feed(folded) {
        Ok(()) => Ok(feeder.sent),
        Err(error) => {
            // The sink must see the error, or it would take the rows sent so far for the whole table.
            let said = Error::new(error.kind(), error.to_string());
            let _ = feeder.pieces.blocking_send(Err(said));
            Err(error)
        }
    }
}

/// Sends rows to a sink and digests them on the way.
struct Feeder<'a> {
    pieces: mpsc::Sender<Result<Bytes>>,
    piece: Vec<u8>,
    sent: Tally,
    progress: &'a dyn Progress,
}

impl Feeder<'_> {
    fn feed(&mut self, folded: FoldedTable) -> Result<()> {
        let mut rows = folded.rows(KeyRange::all(), None)?;
        while let Some(portion) = rows.next_portion()? {
            self.sent.take(&portion);
            match portion {
                // A block that has not changed goes from the disk to the sink as it is.
                Portion::Block(_) => {
                    self.flush()?;
                    self.send(rows.read_block()?)?;
                }
                Portion::ChangedBlock(_) | Portion::Gone(_) => {}
                Portion::Kept(lines) => self.put(&[lines])?,
                Portion::Row { line, .. } => self.put(&[line, b"\n"])?,
            }
        }
        self.flush()
    }

    fn put(&mut self, parts: &[&[u8]]) -> Result<()> {
        parts.iter().for_each(|part| self.piece.extend_from_slice(part));
        if self.piece.len() >= PIECE { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE * 2));
        self.send(piece)
    }

    fn send(&mut self, piece: Vec<u8>) -> Result<()> {
        self.progress.advance(piece.len() as u64);
        self.pieces.blocking_send(Ok(piece.into())).map_err(|_| Error::interrupted())
    }
}
