//! Verifies manifests, that the objects which they name are there, and that no manifest is missing.

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

/// Returns where the blocks lie in the packs that can be read. Damaged packs are named already, and blocks that only they
/// hold are missing here.
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

/// Finds checkpoints that are missing although a checkpoint that was folded from them, the epoch that began with them, or
/// earlier evidence names them.
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
    // A pin that cannot be read is named with the other objects.
    for pin in history.pins().unwrap_or_default() {
        told.entry(pin.checkpoint).or_insert_with(|| format!("it is pinned ({})", pin.reason));
    }
    // A record that cannot be read is named already.
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

/// Reads all blocks of a checkpoint and its schema, and names the first fault that keeps a recovery from using it.
///
/// # Errors
/// `Unavailable` if the store cannot be listed.
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
