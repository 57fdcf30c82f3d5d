//! Reads blocks and tables by name.

use std::sync::{Arc, Mutex, PoisonError};

use super::digest::RowsDigest;
use super::directory::BlockDirectory;
use super::id::BlockId;
use super::index::{self, BlockEntry, TableImage};
use super::pack::{self, PackFile};
use crate::error::{Error, Result};
use crate::store::Store;

/// With more packs of one store open than this, the one that was used longest ago is closed.
const OPEN_FILES: usize = 32;

/// Reads blocks from the packs of one store, or of several in turn. A clone is cheap, and can be used in another thread. A
/// block is believed only if its digest proves it.
#[derive(Clone)]
pub struct Blocks {
    layers: Vec<Arc<Layer>>,
}

struct Layer {
    store: Arc<dyn Store>,
    directory: Arc<dyn BlockDirectory>,
    /// The open packs, of which the most recently used stands last.
    open: Mutex<Vec<(String, Arc<PackFile>)>>,
}

impl Blocks {
    /// Makes a reader of the blocks in the packs of `store`, which it finds through `directory`. Nothing is read yet.
    pub fn new(store: Arc<dyn Store>, directory: Arc<dyn BlockDirectory>) -> Blocks {
        let layer = Layer { store, directory, open: Mutex::default() };
        Blocks { layers: vec![Arc::new(layer)] }
    }

    /// Makes a reader of the blocks of both; `first` is asked first.
    pub fn layered(first: &Blocks, second: &Blocks) -> Blocks {
        Blocks { layers: first.layers.iter().chain(&second.layers).cloned().collect() }
    }

    /// Reads the raw bytes of a block.
    ///
    /// # Errors
    /// `Damaged` if the block is missing or damaged, naming the block and its pack; `Unavailable` if the store does not
    /// answer; or an error of the directory.
    pub fn get(&self, id: &BlockId) -> Result<Vec<u8>> {
        for layer in &self.layers {
            if let Some(location) = layer.directory.locate(id)? {
                let file = layer.file(&location.pack)?;
                return file.read_block(id, location.offset, location.stored_len).map(|(_, raw)| raw);
            }
        }
        let places: Vec<_> = self.layers.iter().map(|layer| layer.place()).collect();
        Err(Error::damage_met(format_args!("block {id} is in none of {}", places.join(" or "))))
    }
}

impl Layer {
    /// Says where the packs lie, for messages.
    fn place(&self) -> String {
        self.store.locate(&pack::object("*"))
    }

    fn file(&self, pack: &str) -> Result<Arc<PackFile>> {
        if !pack::is_name(pack) {
            return Err(Error::damage_met(format_args!(
                "the catalog names a pack that cannot be one of {}",
                self.place()
            )));
        }
        if let Some(file) = self.cached(pack) {
            return Ok(file);
        }
        let file = Arc::new(PackFile::open(&*self.store, &pack::object(pack))?);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= OPEN_FILES {
            open.remove(0);
        }
        open.push((pack.to_owned(), file.clone()));
        Ok(file)
    }

    fn cached(&self, pack: &str) -> Option<Arc<PackFile>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let at = open.iter().rposition(|(name, _)| name == pack)?;
        let used = open.remove(at);
        let file = used.1.clone();
        open.push(used);
        Some(file)
    }
}

/// Reads the list of a table's blocks, in the order of their keys.
///
/// # Errors
/// Fails as [`Blocks::get`] does; `Damaged` if the block is no index.
pub fn read_index(blocks: &Blocks, id: &BlockId) -> Result<Vec<BlockEntry>> {
    index::decode(&blocks.get(id)?).map_err(|fault| {
        Error::damage_met(format_args!("block {id} is not the list of a table's blocks")).caused_by(fault)
    })
}

/// Reads the lines of one block, each with its newline.
///
/// # Errors
/// Fails as [`Blocks::get`] does; `Damaged` if the block is not as the entry says.
pub fn read_rows(blocks: &Blocks, entry: &BlockEntry) -> Result<Vec<u8>> {
    let raw = blocks.get(&entry.id)?;
    let whole = raw.last().is_none_or(|&byte| byte == b'\n');
    if !whole || raw.len() as u64 != entry.raw_len || count_lines(&raw) != entry.rows {
        return Err(Error::damage_met(format_args!(
            "block {} does not hold the rows that its table's index says",
            entry.id
        )));
    }
    Ok(raw)
}

/// Counts the lines of `raw`, each of which ends with a newline.
pub fn count_lines(raw: &[u8]) -> u64 {
    // Each stretch is so short that its count fits a byte, which lets the compiler vectorise.
    raw.chunks(192)
        .map(|stretch| u64::from(stretch.iter().fold(0u8, |count, &byte| count + u8::from(byte == b'\n'))))
        .sum()
}

/// Returns the lines of a block's raw bytes, without their newlines.
pub fn lines(raw: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = raw;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let line = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or_default();
        Some(line)
    })
}

/// Reads a table block by block.
pub struct TableReader<'a> {
    blocks: &'a Blocks,
    entries: std::vec::IntoIter<BlockEntry>,
}

impl<'a> TableReader<'a> {
    /// Reads the table's index and checks its sums against `image`.
    ///
    /// # Errors
    /// Fails as [`read_index`] does; `Damaged` if the sums differ.
    pub fn open(blocks: &'a Blocks, image: &TableImage) -> Result<TableReader<'a>> {
        let entries = read_index(blocks, &image.index)?;
        let (mut rows, mut bytes, mut digest) = (0u64, 0u64, RowsDigest::default());
        for entry in &entries {
            rows = rows.wrapping_add(entry.rows);
            bytes = bytes.wrapping_add(entry.raw_len);
            digest.merge(entry.digest);
        }
        if (rows, bytes, digest) != (image.rows, image.bytes, image.digest) {
            return Err(Error::damage_met(format_args!(
                "the index {} does not add up to the rows of its table",
                image.index
            )));
        }
        Ok(TableReader { blocks, entries: entries.into_iter() })
    }

    /// Reads the next block's entry and its lines, each with its newline.
    ///
    /// # Errors
    /// Fails as [`read_rows`] does.
    pub fn next_block(&mut self) -> Result<Option<(BlockEntry, Vec<u8>)>> {
        match self.entries.next() {
            Some(entry) => read_rows(self.blocks, &entry).map(|raw| Some((entry, raw))),
            None => Ok(None),
        }
    }
}
