//! Loads the rows of a folded history into a sink, and reads them back.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::sink::{Contents, Sink};
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
    pub fn add(&mut self, more: LoadOutcome) {
        self.rows += more.rows;
        self.proved &= more.proved;
        self.digests.extend(more.digests);
        self.refused.extend(more.refused);
    }
}

/// Loads tables, `jobs` at a time, the largest first, and reads each table back. Tables whose rows the sink refuses are
/// returned. Values of a table in `retyped` may read differently from how they were written, so only the number of such a
/// table's rows is compared.
///
/// # Errors
/// `Damaged` if the history is, `Internal` if the sink does not hold the rows that it was sent, or the sink's own
/// error.
pub(super) async fn load_all(
    mut tables: Vec<FoldedTable>,
    jobs: usize,
    progress: &Arc<dyn Progress>,
    sink: &Arc<Sink>,
    retyped: &BTreeSet<String>,
) -> Result<LoadOutcome> {
    tables.sort_by_key(|table| std::cmp::Reverse(table.size_hint().1));
    let bytes = tables.iter().map(|table| table.size_hint().1).sum();
    progress.phase("loading", bytes, Unit::Bytes);
    let free = Arc::new(Semaphore::new(jobs.max(1)));
    let mut loading = JoinSet::new();
    for table in tables {
        let (free, sink, progress) = (Arc::clone(&free), Arc::clone(sink), Arc::clone(progress));
        let is_retyped = retyped.contains(&table.table.display());
        loading.spawn(async move {
            let _permit = Arc::clone(&free).acquire_owned().await.map_err(|_| Error::interrupted())?;
            let (of, loaded) = (table.table.clone(), load(table, &sink, progress, &free, is_retyped).await);
            match loaded {
                Err(error) if ServerFault::of(&error).is_some_and(ServerFault::is_refusal) => {
                    Ok(Err((of, error)))
                }
                loaded => loaded.map(Ok),
            }
        });
    }
    let mut loaded =
        LoadOutcome { rows: 0, proved: true, digests: Vec::new(), inexact: Vec::new(), refused: Vec::new() };
    while let Some(done) = loading.join_next().await {
        let done = done.context(Kind::Internal, || "a loading task failed".into()).and_then(|done| done);
        match done {
            Ok(Err(refused)) => loaded.refused.push(refused),
            Ok(Ok((table, proved))) => {
                loaded.rows += table.rows;
                loaded.proved &= proved;
                loaded.digests.push(table);
            }
            Err(error) => {
                // Every task must have dropped the sink before the sink is abandoned.
                loading.shutdown().await;
                return Err(error);
            }
        }
    }
    Ok(loaded)
}

/// Loads one table and compares the rows that the sink then holds with the rows that were sent.
async fn load(
    folded: FoldedTable,
    sink: &Sink,
    progress: Arc<dyn Progress>,
    free: &Arc<Semaphore>,
    is_retyped: bool,
) -> Result<(TableDigest, bool)> {
    let table = folded.table.clone();
    let (pieces, receiver) = mpsc::channel(PIECES_WAITING);
    let feeding = tokio::task::spawn_blocking(move || feed(folded, pieces, &*progress));
    let taken = sink.load(&table, receiver).await;
    let fed = feeding.await.context(Kind::Internal, || "a feeding thread failed".into())?;
    // If the sink fails first, the feeder only knows that its receiver is gone, so the sink's error is the one to
    // return.
    let sent = match (taken, fed) {
        (Ok(()), fed) => fed?,
        (Err(_), Err(error)) if error.kind() != Kind::Interrupted => return Err(error),
        (Err(error), _) => return Err(error),
    };
    // A permit is free only if no table waits for it; free permits help to read this table back.
    let helping: Vec<_> = std::iter::from_fn(|| Arc::clone(free).try_acquire_owned().ok()).collect();
    let held = sink.read_back(&table, 1 + helping.len()).await?;
    drop(helping);
    let loaded = TableDigest { table: table.display(), rows: sent.rows, digest: sent.digest.to_string() };
    let Some(Contents { rows, digest }) = held else { return Ok((loaded, false)) };
    let differs = digest.is_some_and(|digest| digest != sent.digest.0);
    if rows == sent.rows && differs && is_retyped {
        return Ok((loaded, false));
    }
    if rows != sent.rows || differs {
        return Err(Error::internal(format!(
            "{} does not hold what was recovered: {rows} rows instead of {}, or other bytes; please report this",
            table.display(),
            sent.rows
        )));
    }
    Ok((loaded, digest.is_some()))
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
