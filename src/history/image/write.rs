//! Writes blocks into packs, each block once.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard};

use super::block;
use super::cut::Cuts;
use super::directory::BlockDirectory;
use super::id::{BlockId, BlockKind};
use super::pack::{self, PackEntry};
use crate::error::{Context, Error, Kind, Result};
use crate::store::{NewFile, ObjectKind, Store};

/// A pack with at least this many bytes takes no more blocks.
const FULL: u64 = 64 << 20;

/// The numbers of blocks that were stored, and of blocks that were there already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackStats {
    /// The names of the new packs.
    pub packs: Vec<String>,
    /// The number of blocks that were stored.
    pub blocks_new: u64,
    /// The stored bytes of these blocks.
    pub bytes_new: u64,
    /// The number of blocks that were there already, counted once for each use.
    pub blocks_shared: u64,
    /// The stored bytes of these blocks, counted likewise.
    pub bytes_shared: u64,
}

/// Writes packs into one store. Several threads may put blocks at once: each compresses its own blocks, and they append in
/// turn.
///
/// No block may be named elsewhere before [`Packs::finish`]. If the value is dropped before, the open pack vanishes; full
/// packs may stay as harmless orphans, whose blocks a later scan of the packs finds again.
pub struct Packs {
    store: Arc<dyn Store>,
    known: Arc<dyn BlockDirectory>,
    cuts: Cuts,
    state: Mutex<PacksState>,
}

#[derive(Default)]
struct PacksState {
    open: Option<OpenPack>,
    /// The blocks that were put so far, with the number of their stored bytes.
    stored: HashMap<BlockId, u32>,
    stats: PackStats,
    failed: bool,
}

impl Packs {
    /// Begins to write packs into `store`. Blocks in `known` are not stored again, so `known` must only name blocks that
    /// the readers of these packs can reach too: for a history's packs, those in the same store.
    /// The history's images are cut by `cuts`.
    pub fn new(store: Arc<dyn Store>, known: Arc<dyn BlockDirectory>, cuts: Cuts) -> Packs {
        Packs { store, known, cuts, state: Mutex::default() }
    }

    /// The rule by which images are cut whose blocks are put here.
    pub fn cuts(&self) -> Cuts {
        self.cuts
    }

    /// Stores a block, unless it is stored already.
    ///
    /// # Errors
    /// `Unavailable` if the store does not take the block, `Refused` if it is too long, or an error of the directory.
    pub fn put(&self, kind: BlockKind, raw: &[u8]) -> Result<BlockId> {
        let id = BlockId::of(raw);
        if self.share(&id)? {
            return Ok(id);
        }
        let stored = block::encode(kind, &id, raw)?;
        let full = self.append(id, kind, raw.len() as u32, &stored)?;
        if let Some(full) = full {
            self.publish(full)?;
        }
        Ok(id)
    }

    /// Stores a block as another pack has it, unless it is stored already.
    ///
    /// # Errors
    /// Fails as [`Packs::put`] does.
    pub fn put_stored(&self, entry: &PackEntry, stored: &[u8]) -> Result<()> {
        if self.share(&entry.id)? {
            return Ok(());
        }
        let full = self.append(entry.id, entry.kind, entry.raw_len, stored)?;
        full.map_or(Ok(()), |full| self.publish(full))
    }

    /// Counts one more use of a block that is stored already; false if it is not.
    ///
    /// # Errors
    /// Fails if the directory does.
    pub fn share(&self, id: &BlockId) -> Result<bool> {
        let mine = self.state()?.stored.get(id).map(|&len| u64::from(len));
        let stored_len = match mine {
            Some(stored_len) => Some(stored_len),
            None => self.known.locate(id)?.map(|location| location.stored_len),
        };
        if let Some(stored_len) = stored_len {
            self.state()?.stats.add_shared(stored_len);
        }
        Ok(stored_len.is_some())
    }

    /// Makes all blocks that were put durable. Only now may a block be named elsewhere.
    ///
    /// # Errors
    /// `Unavailable` if the store does not take the last pack.
    pub fn finish(self) -> Result<PackStats> {
        let open = self.state()?.open.take();
        if let Some(open) = open {
            self.publish(open)?;
        }
        let mut state = self.state()?;
        Ok(std::mem::take(&mut state.stats))
    }

    /// Returns the state. It fails if a write has failed, as blocks that were put before may then be lost.
    fn state(&self) -> Result<MutexGuard<'_, PacksState>> {
        match self.state.lock() {
            Ok(state) if !state.failed => Ok(state),
            _ => Err(Error::unavailable(format!(
                "writing {} failed before; mend the disk and start again",
                self.store.locate(&pack::object("*"))
            ))),
        }
    }

    /// Appends a stored block, and returns the pack if it is full now.
    fn append(&self, id: BlockId, kind: BlockKind, raw_len: u32, stored: &[u8]) -> Result<Option<OpenPack>> {
        let mut guard = self.state()?;
        let state = &mut *guard;
        // Another thread may have put the same block meanwhile.
        if state.stored.contains_key(&id) {
            state.stats.add_shared(stored.len() as u64);
            return Ok(None);
        }
        if state.open.is_none() {
            state.open = Some(OpenPack::create(&*self.store)?);
        }
        let open = state.open.as_mut().expect("made above");
        if let Err(error) = open.append(id, kind, raw_len, stored) {
            state.failed = true;
            return Err(error);
        }
        state.stored.insert(id, stored.len() as u32);
        state.stats.blocks_new += 1;
        state.stats.bytes_new += stored.len() as u64;
        Ok(if open.end >= FULL { state.open.take() } else { None })
    }

    /// Puts a full pack into the store. Syncing takes long, so the state is not locked meanwhile.
    fn publish(&self, open: OpenPack) -> Result<()> {
        let published = open.publish(&*self.store);
        let mut state = self.state()?;
        match published {
            Ok(name) => state.stats.packs.push(name),
            Err(error) => {
                state.failed = true;
                return Err(error);
            }
        }
        Ok(())
    }
}

impl PackStats {
    fn add_shared(&mut self, stored_len: u64) {
        self.blocks_shared += 1;
        self.bytes_shared += stored_len;
    }
}

/// The pack that takes blocks.
struct OpenPack {
    file: NewFile,
    end: u64,
    entries: Vec<PackEntry>,
}

impl OpenPack {
    fn create(store: &dyn Store) -> Result<OpenPack> {
        let mut file = store.draft(ObjectKind::Pack)?;
        write(&mut file, &pack::HEAD)?;
        Ok(OpenPack { file, end: pack::HEAD.len() as u64, entries: Vec::new() })
    }

    fn append(&mut self, id: BlockId, kind: BlockKind, raw_len: u32, stored: &[u8]) -> Result<()> {
        write(&mut self.file, stored)?;
        self.entries.push(PackEntry { id, kind, offset: self.end, stored_len: stored.len() as u32, raw_len });
        self.end += stored.len() as u64;
        Ok(())
    }

    /// Makes the pack durable under its name, and returns the name. A pack of that name that is there already has the
    /// same blocks, and this one is thrown away.
    fn publish(mut self, store: &dyn Store) -> Result<String> {
        let (list, tail) = pack::encode_list(&self.entries);
        write(&mut self.file, &list)?;
        write(&mut self.file, &tail)?;
        let name = pack::name(&list);
        store.put_content(&pack::object(&name), self.file)?;
        Ok(name)
    }
}

fn write(file: &mut NewFile, bytes: &[u8]) -> Result<()> {
    let written = file.write_all(bytes);
    written
        .context(Kind::Unavailable, || format!("cannot write {}; is the disk full?", file.path().display()))
}
