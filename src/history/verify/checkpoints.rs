//! Manifests, that all they name is there, and that none of them is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Findings;
use super::segments::VerifiedEpoch;
use crate::error::Result;
use crate::history::checkpoint::{Checkpoint, checkpoint_id};
use crate::history::image::{self, BlockDirectory, Blocks, MemoryDirectory, PackReader, TableReader};
use crate::history::{History, inventory};
use crate::progress::{Progress, Unit};
use crate::store::{ObjectKind, ObjectName};

pub(super) fn check(
    history: &History,
    epochs: &[VerifiedEpoch],
    progress: &dyn Progress,
    verified: &mut Findings,
) -> Result<()> {
    let names = history.store().list_sorted(ObjectKind::Checkpoint)?;
    progress.phase("reading manifests", names.len() as u64, Unit::Tables);
    let directory: Arc<dyn BlockDirectory> = Arc::new(directory(history)?);
    let blocks = Blocks::new(history.shared_store(), Arc::clone(&directory));
    let mut there = BTreeSet::new();
    let mut bases = BTreeMap::new();
    for name in names {
        verified.checkpoints += 1;
        verified.bytes += history.store().size(&name)?.unwrap_or(0);
        let id = name.stem().to_owned();
        there.insert(id.clone());
        match history.read_checkpoint(&id) {
            Ok(checkpoint) => {
                links(history, &checkpoint, &blocks, &*directory, verified);
                let bytes = history.store().read(&name).ok().flatten();
                let digest = bytes.map(|bytes| blake3::hash(&bytes).to_hex().to_string());
                verified.sound.push((id.clone(), digest.unwrap_or_default()));
                bases.extend(checkpoint.base.map(|base| (base, id)));
            }
            Err(error) => verified.faults.push(error.to_string()),
        }
        progress.advance(1);
    }
    missing(history, epochs, &there, &bases, verified)
}

/// Where the blocks lie, by the packs that can be read; the others are named already, and what only
/// they hold is missing here.
fn directory(history: &History) -> Result<MemoryDirectory> {
    let mut directory = MemoryDirectory::default();
    for name in history.store().list_sorted(ObjectKind::Pack)? {
        if let Ok(reader) = PackReader::open(history.store(), &name) {
            directory.add(&reader);
        }
    }
    Ok(directory)
}

fn links(
    history: &History,
    checkpoint: &Checkpoint,
    blocks: &Blocks,
    directory: &dyn BlockDirectory,
    verified: &mut Findings,
) {
    let mut fault = |what: String| verified.faults.push(format!("checkpoint {}: {what}", checkpoint.id));
    let archive = ObjectName::new(ObjectKind::Archive, &checkpoint.schema.archive);
    let globals =
        checkpoint.schema.globals.as_ref().map(|globals| ObjectName::new(ObjectKind::Roles, globals));
    let is_missing = |name: &ObjectName| !history.store().holds(name).unwrap_or(false);
    for name in std::iter::once(archive).chain(globals).filter(is_missing) {
        fault(format!("{} is missing", history.store().locate(&name)));
    }
    for entry in &checkpoint.tables {
        let name = entry.table.display();
        if let Err(error) = TableReader::open(blocks, &entry.image) {
            fault(format!("the index of {name}: {error}"));
            continue;
        }
        let Ok(index) = image::read_index(blocks, &entry.image.index) else { continue };
        let missing =
            index.iter().filter(|block| !matches!(directory.locate(&block.id), Ok(Some(_)))).count();
        if missing > 0 {
            fault(format!("{missing} blocks of {name} are missing"));
        }
    }
}

/// Checkpoints that something tells of and that are not there: another one that was folded from it,
/// the epoch that began with it, or what an earlier `verify` saw.
fn missing(
    history: &History,
    epochs: &[VerifiedEpoch],
    there: &BTreeSet<String>,
    bases: &BTreeMap<String, String>,
    verified: &mut Findings,
) -> Result<()> {
    let mut told = BTreeMap::new();
    for (base, folded) in bases {
        told.insert(base.clone(), format!("{folded} was made from it"));
    }
    for VerifiedEpoch { epoch, has_changes } in epochs {
        let begun = *has_changes || there.iter().any(|id| id.starts_with(&format!("{:04}-", epoch.number)));
        if begun {
            told.insert(checkpoint_id(epoch.number, epoch.start), "its epoch began with it".to_owned());
        }
    }
    let mut changed = BTreeSet::new();
    for (evidence, content) in history.evidence()? {
        for (id, digest) in content.checkpoints {
            if verified.sound.iter().any(|(sound, now)| *sound == id && *now != digest) {
                changed.insert((id.clone(), evidence.clone()));
            }
            told.entry(id).or_insert_with(|| format!("{evidence} tells of it"));
        }
    }
    // One that cannot be read is named already.
    let expired = history.expiry().ok().flatten();
    told.retain(|id, _| !expired.as_ref().is_some_and(|it| it.covers_checkpoint(id)));
    for (id, how) in told.into_iter().filter(|(id, _)| !there.contains(id)) {
        let place = history.locate_manifest(&id);
        verified.faults.push(format!("checkpoint {id}: {place} is missing, and {how}"));
    }
    for (id, evidence) in changed {
        let place = history.locate_manifest(&id);
        verified.faults.push(format!("{place}: it is another one than {evidence} tells of"));
    }
    Ok(())
}

/// What keeps a checkpoint from being recovered from: reads all of its blocks and its schema.
///
/// # Errors
/// `Unavailable` if the disk does not list what is there.
pub fn image_fault(history: &History, checkpoint: &Checkpoint) -> Result<Option<String>> {
    let archive = ObjectName::new(ObjectKind::Archive, &checkpoint.schema.archive);
    if let Err(error) = inventory::check(history.store(), &archive, history.authorship()) {
        return Ok(Some(error.to_string()));
    }
    let blocks = Blocks::new(history.shared_store(), Arc::new(directory(history)?));
    for entry in &checkpoint.tables {
        let whole = TableReader::open(&blocks, &entry.image).and_then(|mut reader| {
            while reader.next_block()?.is_some() {}
            Ok(())
        });
        if let Err(error) = whole {
            return Ok(Some(error.to_string()));
        }
    }
    Ok(None)
}
