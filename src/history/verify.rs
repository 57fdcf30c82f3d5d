//! Reads every object of a history and names every fault.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::error::{Context, Kind, Result};
use crate::history::History;
use crate::history::checkpoint::Checkpoint;
use crate::history::epoch::Epoch;
use crate::history::image::{self, Blocks, FolderDirectory, PackReader};
use crate::history::journal::{self, SegmentFile};
use crate::history::timeline;
use crate::model::Lsn;
use crate::progress::{Progress, Unit};

/// What was read, and what is wrong with it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verified {
    pub checkpoints: usize,
    pub packs: usize,
    pub segments: usize,
    pub schemas: usize,
    pub bytes: u64,
    /// One line a fault, each naming the object.
    pub faults: Vec<String>,
}

/// What a capture once said to be durable. The end of an open segment that was cut off looks like
/// one that was never written; only this tells them apart.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    pub epoch: u32,
    pub durable: Lsn,
}

/// Reads everything. Faults of objects are found, not returned as errors. `acknowledged`, if known,
/// was read before this is called: a capture that runs makes more durable meanwhile.
///
/// # Errors
/// `Unavailable` if the disk does not list what is there.
pub fn verify(
    history: &History,
    acknowledged: Option<Acknowledged>,
    progress: &dyn Progress,
) -> Result<Verified> {
    let mut verified = Verified::default();
    packs(history, progress, &mut verified)?;
    segments(history, acknowledged, progress, &mut verified)?;
    schemas(history, progress, &mut verified)?;
    manifests(history, progress, &mut verified)?;
    Ok(verified)
}

fn packs(history: &History, progress: &dyn Progress, verified: &mut Verified) -> Result<()> {
    let paths = image::pack_files(&history.packs_folder())?;
    progress.phase("reading packs", paths.iter().map(|path| size(path)).sum(), Unit::Bytes);
    for path in paths {
        verified.packs += 1;
        verified.bytes += size(&path);
        match image::verify_pack(&path) {
            Ok(check) => verified.faults.extend(check.faults),
            Err(error) => verified.faults.push(error.to_string()),
        }
        progress.advance(size(&path));
    }
    Ok(())
}

fn segments(
    history: &History,
    acknowledged: Option<Acknowledged>,
    progress: &dyn Progress,
    verified: &mut Verified,
) -> Result<()> {
    let files = journal::list(&history.journal_folder())?;
    progress.phase("reading segments", files.iter().map(|file| size(&file.path)).sum(), Unit::Bytes);
    let mut ends = Vec::new();
    for file in &files {
        verified.segments += 1;
        verified.bytes += size(&file.path);
        match journal::verify_segment(&file.path) {
            Ok(report) => {
                let place = file.path.display();
                verified.faults.extend(report.faults.iter().map(|fault| format!("{place}: {fault}")));
            }
            Err(error) => verified.faults.push(error.to_string()),
        }
        let segment = journal::Segment::open(&file.path).ok();
        let range = segment.map(|segment| (segment.summary().start, segment.summary().end));
        ends.push((file, range));
        progress.advance(size(&file.path));
    }
    match history.epochs() {
        Ok(epochs) => {
            let known = epochs.len() as u32;
            if let Some(orphan) = files.iter().map(|file| file.epoch).filter(|&number| number > known).min() {
                verified.faults.push(timeline::missing_epoch(history, orphan).to_string());
            }
            joints(epochs, &ends, acknowledged, verified);
        }
        Err(error) => verified.faults.push(error.to_string()),
    }
    Ok(())
}

/// What one segment ends with the next begins with, and the last one with what was durable; or
/// something is missing. `ends`: start and end of each segment that could be read.
fn joints(
    epochs: Vec<Epoch>,
    ends: &[(&SegmentFile, Option<(Lsn, Lsn)>)],
    acknowledged: Option<Acknowledged>,
    verified: &mut Verified,
) {
    for epoch in epochs {
        // None after a segment that cannot be read: it is named, what follows it is not to blame.
        let mut reached = Some(epoch.start);
        let mut last = format!("the journal of epoch {}", epoch.number);
        for (file, range) in ends.iter().filter(|(file, _)| file.epoch == epoch.number) {
            let place = file.path.display();
            if let (Some((start, _)), Some(expected)) = (range, reached)
                && *start != expected
            {
                verified
                    .faults
                    .push(format!("{place}: the segment before it is missing, from {expected} to {start}"));
            }
            reached = range.map(|(_, end)| end);
            last = place.to_string();
        }
        let durable = acknowledged.filter(|it| it.epoch == epoch.number).map(|it| it.durable);
        if let (Some(durable), Some(end)) = (durable, reached)
            && end < durable
        {
            verified
                .faults
                .push(format!("{last}: ends at {end}, but everything up to {durable} had been durable"));
        }
    }
}

fn schemas(history: &History, progress: &dyn Progress, verified: &mut Verified) -> Result<()> {
    progress.phase("reading schemas", 0, Unit::Bytes);
    let folder = history.schemas_folder();
    let entries =
        fs::read_dir(&folder).context(Kind::Unavailable, || format!("cannot read {}", folder.display()))?;
    for path in entries.filter_map(|entry| entry.ok()).map(|entry| entry.path()) {
        let extension = path.extension().and_then(|extension| extension.to_str());
        if !matches!(extension, Some("dump" | "sql")) {
            continue;
        }
        verified.schemas += 1;
        verified.bytes += size(&path);
        if !is_named_for_its_bytes(&path) {
            verified.faults.push(format!("{}: its digest is not its name", path.display()));
        }
    }
    Ok(())
}

fn is_named_for_its_bytes(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    fs::read(path).is_ok_and(|bytes| blake3::hash(&bytes).to_hex().as_str() == stem)
}

/// Manifests, and that all they name is there.
fn manifests(history: &History, progress: &dyn Progress, verified: &mut Verified) -> Result<()> {
    let folder = history.root().join("checkpoints");
    let entries =
        fs::read_dir(&folder).context(Kind::Unavailable, || format!("cannot read {}", folder.display()))?;
    let mut paths: Vec<_> = entries.filter_map(|entry| entry.ok()).map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    progress.phase("reading manifests", paths.len() as u64, Unit::Tables);
    let mut directory = FolderDirectory::default();
    for path in image::pack_files(&history.packs_folder())? {
        // A pack that cannot be opened is named already; what only it holds is missing here.
        if let Ok(reader) = PackReader::open(&path) {
            directory.add(&reader);
        }
    }
    let directory: Arc<dyn image::BlockDirectory> = Arc::new(directory);
    let blocks = Blocks::new(&history.packs_folder(), Arc::clone(&directory));
    for path in paths {
        verified.checkpoints += 1;
        verified.bytes += size(&path);
        let id = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        match history.read_checkpoint(&id) {
            Ok(checkpoint) => links(history, &checkpoint, &blocks, &*directory, verified),
            Err(error) => verified.faults.push(error.to_string()),
        }
        progress.advance(1);
    }
    Ok(())
}

fn links(
    history: &History,
    checkpoint: &Checkpoint,
    blocks: &Blocks,
    directory: &dyn image::BlockDirectory,
    verified: &mut Verified,
) {
    let archive = history.schemas_folder().join(format!("{}.dump", checkpoint.schema.archive));
    if !archive.exists() {
        verified.faults.push(format!("checkpoint {}: {} is missing", checkpoint.id, archive.display()));
    }
    for entry in &checkpoint.tables {
        let name = entry.table.display();
        let index = match image::read_index(blocks, &entry.image.index) {
            Ok(index) => index,
            Err(error) => {
                verified.faults.push(format!("checkpoint {}: the index of {name}: {error}", checkpoint.id));
                continue;
            }
        };
        let missing =
            index.iter().filter(|block| !matches!(directory.locate(&block.id), Ok(Some(_)))).count();
        if missing > 0 {
            verified
                .faults
                .push(format!("checkpoint {}: {missing} blocks of {name} are missing", checkpoint.id));
        }
        let rows: u64 = index.iter().map(|block| block.rows).sum();
        if rows != entry.image.rows {
            verified.faults.push(format!(
                "checkpoint {}: the index of {name} has another number of rows",
                checkpoint.id
            ));
        }
    }
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}
