//! Packs anew the blocks that are still needed of packs of which little is.
//!
//! A pack is removed as a whole, so one block that a kept checkpoint needs keeps all others with it. An expiry therefore
//! writes the needed blocks of such packs into new packs, and removes the old ones. The new packs are durable before the
//! record names the old ones. A block that lies in two packs after a kill is harmless, since a block is found by its
//! digest, and the next expiry counts it once.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::history::History;
use crate::history::image::{BlockId, MemoryDirectory, PackReader, PackUse, Packs, pack_object, pack_size};
use crate::progress::{Progress, Unit};
use crate::store::ObjectKind;

/// While the blocks that nobody needs have at most the bytes of the needed blocks divided by this, nothing is packed anew.
const SPARE_DIVISOR: u64 = 20;

/// An expiry reads at most the bytes of all packs divided by this in order to pack anew, so that it takes minutes in the
/// largest history. The next expiry goes on.
const READ_DIVISOR: u64 = 50;

/// An expiry of a small history may read as much as this.
const LEAST_READ: u64 = 256 << 20;

/// The packs that an expiry packs anew.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Repacking {
    /// The number of packs that are replaced.
    pub packs: usize,
    /// Bytes of the needed blocks in these packs, which are read and written.
    pub bytes_read: u64,
    /// Bytes of the new packs.
    pub bytes_written: u64,
    /// The names of the packs that are replaced.
    #[serde(skip)]
    pub old: BTreeSet<String>,
    /// All blocks that the history needs.
    #[serde(skip)]
    pub needed: Arc<BTreeSet<BlockId>>,
}

impl Repacking {
    /// Plans which of the packs are packed anew.
    pub fn plan(packs: &[PackUse], needed: BTreeSet<BlockId>) -> Repacking {
        let chosen = choose(packs, LEAST_READ);
        let bytes_read = chosen.iter().map(|pack| pack.needed).sum();
        let blocks: u64 = chosen.iter().map(|pack| pack.blocks).sum();
        Repacking {
            packs: chosen.len(),
            bytes_read,
            bytes_written: if chosen.is_empty() { 0 } else { pack_size(blocks, bytes_read) },
            old: chosen.iter().map(|pack| pack.name.clone()).collect(),
            needed: Arc::new(needed),
        }
    }

    /// Writes the new packs, durable, and returns their names. Nothing is removed.
    ///
    /// # Errors
    /// `Damaged` if a block is; `Unavailable` if the disk does not take a pack.
    pub fn write(&self, history: &History, progress: &dyn Progress) -> Result<BTreeSet<String>> {
        progress.phase("packing anew", self.bytes_read, Unit::Bytes);
        let packs = Packs::new(
            history.shared_store(),
            Arc::new(MemoryDirectory::default()),
            history.identity().cuts(),
        );
        for name in &self.old {
            let reader = PackReader::open(history.store(), &pack_object(name))?;
            for entry in reader.entries().iter().filter(|entry| self.needed.contains(&entry.id)) {
                packs.put_stored(entry, &reader.read_stored(entry)?)?;
                progress.advance(entry.stored_len.into());
            }
        }
        Ok(packs.finish()?.packs.into_iter().collect())
    }

    /// Checks that every needed block lies in a pack that stays.
    ///
    /// # Errors
    /// `Internal` if one does not: then nothing may be removed.
    pub fn check(&self, history: &History, going: &BTreeSet<String>) -> Result<()> {
        let mut missing: BTreeSet<_> = self.needed.iter().collect();
        for name in history.store().list_sorted(ObjectKind::Pack)? {
            if !going.contains(name.stem()) {
                let reader = PackReader::open(history.store(), &name)?;
                for entry in reader.entries() {
                    missing.remove(&entry.id);
                }
            }
        }
        match missing.first() {
            None => Ok(()),
            Some(id) => Err(Error::internal(format!(
                "block {id} would be lost with the packs that are to be removed, so nothing was removed"
            ))),
        }
    }
}

/// Chooses packs to pack anew, those first of which the smallest part is needed: they give back most for the bytes that
/// are read. Packs of which nothing is needed are removed without this.
fn choose(packs: &[PackUse], least_read: u64) -> Vec<&PackUse> {
    let mut candidates: Vec<_> = packs.iter().filter(|pack| pack.needed > 0).collect();
    let all: u64 = candidates.iter().map(|pack| pack.bytes).sum();
    let needed: u64 = candidates.iter().map(|pack| pack.needed).sum();
    let (mut spare, mut left) = (all - needed, least_read.max(all / READ_DIVISOR));
    candidates.retain(|pack| pack.needed < pack.bytes);
    let share = |pack: &PackUse| u128::from(pack.needed) * (1 << 64) / u128::from(pack.bytes);
    candidates.sort_by_key(|pack| (share(pack), pack.name.clone()));
    let mut chosen = Vec::new();
    for pack in candidates {
        if spare <= needed / SPARE_DIVISOR {
            break;
        }
        if pack.needed <= left {
            (spare, left) = (spare - (pack.bytes - pack.needed), left - pack.needed);
            chosen.push(pack);
        }
    }
    chosen
}

#[cfg(test)]
mod tests;
