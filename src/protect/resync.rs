//! Reads of the source only what differs from a state of the history.
//!
//! For each table both sides digest the same ranges of hashes of rows, each its own rows: the source by SQL.
//! Of the ranges that differ the source tells each row's place and hash, and of these only the rows that the
//! history does not have are read. In the end the ranges are digested again: what does not add up is read
//! whole, so that nothing rests on the two sides finding the same.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::earlier::Earlier;
use super::images::image_of;
use super::ranges::{Differing, Ranges};
use super::take::{SourceReading, TableImages, read_tables};
use crate::ambient;
use crate::codec::row_digest::RowHasher;
use crate::error::{Context, Error, Kind, Result};
use crate::fold::FoldedTable;
use crate::history::checkpoint::TableEntry;
use crate::history::image::{Packs, TableImage, lines};
use crate::history::resync::{Resync, TableResync};
use crate::model::Table;
use crate::progress::Unit;
use crate::source::digests::{self, CTID_AND_HASH, Ctid, RangeDigests};
use crate::source::inspect::FoundTable;
use crate::source::snapshot::SnapshotReader;

/// A table of so few bytes is not worth a thought about what is cheaper.
const SMALL: u64 = 1 << 20;

/// The number of row places that are held in memory.
const MOST_PLACES: u64 = 4 << 20;

/// The bytes of differing rows that are held in memory, for each side.
const MOST_BYTES: u64 = 128 << 20;

/// Pieces of rows that may wait to be taken in.
const PIECES_WAITING: usize = 8;

/// Reads `tables` as the snapshot shows them. They must be locked by then.
///
/// # Errors
/// `Unavailable` if the source or the disk fails.
pub(super) async fn read_differences(
    reading: &SourceReading<'_>,
    earlier: &Arc<Earlier>,
    tables: &[&FoundTable],
) -> Result<TableImages> {
    let compared = compare(reading, earlier, tables).await?;
    let of =
        |compared: &Compared| tables.iter().copied().find(|found| found.table.oid == compared.report.oid);
    let whole: Vec<_> = compared.iter().filter(|it| it.image.is_none()).filter_map(of).collect();
    let mut read = read_tables(reading, &whole).await?;
    let mut reports = Vec::new();
    for Compared { mut report, table, image } in compared {
        let image = match image {
            Some(image) => {
                read.push(TableEntry { table, image });
                image
            }
            None => whole_image(&read, &mut report, earlier)?,
        };
        (report.rows, report.bytes, report.digest) = (image.rows, image.bytes, image.digest.to_string());
        reports.push(report);
    }
    read.sort_by_key(|entry| entry.table.oid);
    reports.sort_by_key(|report| report.oid);
    let is_gone = |entry: &&TableEntry| !tables.iter().any(|found| found.table.oid == entry.table.oid);
    let gone = earlier.tables.iter().filter(is_gone).map(|entry| entry.table.display()).collect();
    let resync = Resync { with: Some(earlier.at), without: None, tables: reports, gone };
    ambient::pass("resync.compared")?;
    Ok(TableImages { tables: read, resync: Some(resync) })
}

fn whole_image(read: &[TableEntry], report: &mut TableResync, earlier: &Earlier) -> Result<TableImage> {
    let entry = read.iter().find(|entry| entry.table.oid == report.oid);
    let image = entry.ok_or_else(|| Error::internal(format!("{} was not read", report.table)))?.image;
    let before = earlier.table(report.oid).map(|entry| entry.image);
    report.differs = before.is_none_or(|it| (it.rows, it.digest) != (image.rows, image.digest));
    report.bytes_read = report.bytes_read.saturating_add(image.bytes);
    Ok(image)
}

/// A table that was compared.
struct Compared {
    table: Table,
    report: TableResync,
    /// `None` if the table has to be read whole.
    image: Option<TableImage>,
}

/// The state that all comparing tasks share.
struct Side {
    earlier: Arc<Earlier>,
    packs: Arc<Packs>,
    waiting: Mutex<Vec<Table>>,
}

async fn compare(
    reading: &SourceReading<'_>,
    earlier: &Arc<Earlier>,
    tables: &[&FoundTable],
) -> Result<Vec<Compared>> {
    reading.progress.phase("comparing tables", tables.len() as u64, Unit::Tables);
    let waiting = tables.iter().map(|found| found.table.clone()).collect();
    let side = Arc::new(Side {
        earlier: Arc::clone(earlier),
        packs: Arc::clone(reading.packs),
        waiting: Mutex::new(waiting),
    });
    let (done, mut news) = mpsc::unbounded_channel();
    let mut workers = JoinSet::new();
    for _ in 0..reading.jobs.clamp(1, tables.len().max(1)) {
        let reader = reading.snapshot.reader(reading.source, "resync").await?;
        digests::prepare(&reader).await?;
        let (side, done) = (Arc::clone(&side), done.clone());
        workers.spawn(async move {
            while let Some(table) = side.next() {
                let compared = side.compare(&reader, table).await;
                // Nobody listens any more after another's error.
                if done.send(compared).is_err() {
                    return;
                }
            }
        });
    }
    drop(done);
    let mut all = Vec::new();
    while let Some(compared) = news.recv().await {
        all.push(compared?);
        reading.progress.advance(1);
    }
    while let Some(worker) = workers.join_next().await {
        worker.context(Kind::Internal, || "a comparing task failed".into())?;
    }
    Ok(all)
}

/// Why a comparison came to no end.
enum Stop {
    /// The table is to be read whole.
    Whole(String),
    Failed(Error),
}

impl Side {
    fn next(&self) -> Option<Table> {
        self.waiting.lock().ok()?.pop()
    }

    async fn compare(self: &Arc<Self>, reader: &SnapshotReader, table: Table) -> Result<Compared> {
        let mut report = TableResync { oid: table.oid, table: table.display(), ..TableResync::default() };
        let image = match self.bring_together(reader, &table, &mut report).await {
            Ok(image) => Some(image),
            Err(Stop::Whole(why)) => {
                tracing::info!("{} is read whole: {why}", table.display());
                report.read_whole = Some(why);
                (report.rows_gone, report.rows_new) = (0, 0);
                None
            }
            Err(Stop::Failed(error)) => return Err(error),
        };
        report.differs = report.rows_gone + report.rows_new > 0;
        Ok(Compared { table, report, image })
    }

    /// The image of the table as the source has it, made of what the history has and the rows that differ.
    async fn bring_together(
        self: &Arc<Self>,
        reader: &SnapshotReader,
        table: &Table,
        report: &mut TableResync,
    ) -> Result<TableImage, Stop> {
        let entry = self.entry(table).map_err(Stop::Whole)?;
        let bits = super::ranges::bits_for(entry.image.rows);
        let summing = self.in_thread(&entry, |side, entry| Ranges::of(&side.earlier, entry));
        let (source, ranges) = tokio::join!(digests::of_ranges(reader, table, bits), summing);
        let (source, ranges) = (asked(source)?, ranges?);
        let differing = ranges.differing(&source);
        (report.ranges, report.ranges_differed) = (ranges.len(), differing.len() as u64);
        report.bytes_read = source.bytes();
        if differing.is_empty() {
            return self.replace(&entry, Differing::default(), Vec::new()).await;
        }
        pays(&ranges, &differing, &source, &entry.image).map_err(Stop::Whole)?;
        let (placed, bytes) = asked(digests::of_rows(reader, table, bits, &differing).await)?;
        report.bytes_read += bytes;
        let (mut ranges, found) = self.split(&entry, ranges, differing.clone(), placed).await?;
        let new = self.fetch(reader, table, &found.places, &mut ranges).await?;
        report.bytes_read += new.iter().map(|line| line.len() as u64 + 1).sum::<u64>();
        if !ranges.differing(&source).is_empty() {
            return Err(Stop::Whole("the digests did not add up with the rows that were read".into()));
        }
        (report.rows_gone, report.rows_new) = (found.gone.len() as u64, new.len() as u64);
        self.replace(&entry, found, new).await
    }

    /// The table as the source describes it, with the rows that the history has.
    fn entry(&self, table: &Table) -> Result<TableEntry, String> {
        let known = self.earlier.table(table.oid).ok_or("the history does not have it yet")?;
        if (self.earlier.comparable)(&known.table, table) {
            Ok(TableEntry { table: table.clone(), image: known.image })
        } else {
            Err("its definition changed".into())
        }
    }

    async fn split(
        self: &Arc<Self>,
        entry: &TableEntry,
        mut ranges: Ranges,
        differing: Vec<usize>,
        placed: Vec<(i64, Ctid)>,
    ) -> Result<(Ranges, Differing), Stop> {
        let splitting = self.in_thread(entry, move |side, entry| {
            let found = ranges.split(&side.earlier, entry, &differing, placed, MOST_BYTES)?;
            Ok((ranges, found))
        });
        let (ranges, found) = splitting.await?;
        Ok((ranges, found.ok_or_else(|| Stop::Whole("too many of its rows differ".into()))?))
    }

    /// The rows at those places, which the ranges take in.
    async fn fetch(
        &self,
        reader: &SnapshotReader,
        table: &Table,
        places: &[Ctid],
        ranges: &mut Ranges,
    ) -> Result<Vec<Vec<u8>>, Stop> {
        let (sender, pieces) = mpsc::channel::<Bytes>(PIECES_WAITING);
        let taking = async {
            // SourceImage along, so that the other side notices when this one has had enough.
            let mut pieces = pieces;
            let mut hasher = RowHasher::new(table.columns.len());
            let (mut new, mut bytes) = (Vec::new(), 0);
            while let Some(piece) = pieces.recv().await {
                bytes += piece.len() as u64;
                if bytes > MOST_BYTES {
                    return None;
                }
                for line in lines(&piece) {
                    ranges.add(hasher.hash(line));
                    new.push(line.to_vec());
                }
            }
            Some(new)
        };
        let copying = async {
            let copied = digests::copy_ctids(reader, table, places, &sender).await;
            drop(sender);
            copied
        };
        let (copied, new) = tokio::join!(copying, taking);
        let new = new.ok_or_else(|| Stop::Whole("too many of its rows differ".into()))?;
        copied.map_err(Stop::Failed)?;
        Ok(new)
    }

    async fn replace(
        self: &Arc<Self>,
        entry: &TableEntry,
        found: Differing,
        new: Vec<Vec<u8>>,
    ) -> Result<TableImage, Stop> {
        let replacing = self.in_thread(entry, move |side, entry| {
            let table = FoldedTable::replaced(entry, &side.earlier.blocks, &found.gone, &new)?;
            image_of(table, &side.packs)
        });
        replacing.await
    }

    /// Reads the history in a thread of its own; where that is damaged, the source serves instead.
    async fn in_thread<T: Send + 'static>(
        self: &Arc<Self>,
        entry: &TableEntry,
        work: impl FnOnce(&Side, &TableEntry) -> Result<T> + Send + 'static,
    ) -> Result<T, Stop> {
        let (side, entry) = (Arc::clone(self), entry.clone());
        let done = ambient::blocking("comparing a table", move || work(&side, &entry)).await;
        done.map_err(|error| match error.kind() {
            Kind::Damaged => Stop::Whole(format!("the history's image is damaged: {error}")),
            _ => Stop::Failed(error),
        })
    }
}

/// Whatever the server has against it: if it is gone, it will not be read whole either.
fn asked<T>(answer: Result<T>) -> Result<T, Stop> {
    answer.map_err(|error| Stop::Whole(error.to_string()))
}

/// Whether it pays to ask for single rows.
fn pays(
    ranges: &Ranges,
    differing: &[usize],
    source: &RangeDigests,
    image: &TableImage,
) -> Result<(), String> {
    // Equal ranges have equally many rows.
    let places = source.rows.saturating_sub(ranges.rows_outside(differing));
    let bytes = match image.rows {
        0 => 0,
        rows => u128::from(image.bytes) * u128::from(source.rows) / u128::from(rows),
    };
    let to_read = places.saturating_mul(CTID_AND_HASH as u64);
    if places > MOST_PLACES || (u128::from(to_read) > bytes / 2 && to_read > SMALL) {
        return Err(format!("{} of its {} ranges differ", differing.len(), ranges.len()));
    }
    Ok(())
}
