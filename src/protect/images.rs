//! Images of folded tables.

use std::sync::Mutex;

use crate::error::{Error, Result};
use crate::fold::FoldedTable;
use crate::history::checkpoint::TableEntry;
use crate::history::image::{Packs, TableImage};
use crate::model::Table;
use crate::progress::{Progress, Unit};

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
    folded.write_image(packs)
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

/// Whether rows of one are rows of the other: then an image can be carried on.
pub(super) fn same_shape(before: &Table, now: &Table) -> bool {
    before.columns == now.columns
        && before.identity == now.identity
        && before.grade == now.grade
        && !before.storage.was_rewritten(&now.storage)
}
