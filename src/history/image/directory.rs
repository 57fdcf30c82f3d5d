//! Directories, which know in which pack a block lies.

use std::collections::{BTreeSet, HashMap};

use super::id::BlockId;
use super::pack::PackReader;
use crate::error::Result;
use crate::store::{ObjectKind, Store};

/// Where a stored block lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The pack's name: 32 hexadecimal digits.
    pub pack: String,
    /// Where the stored block begins in the pack.
    pub offset: u64,
    /// The bytes of the stored block, with its header.
    pub stored_len: u64,
}

/// Knows where blocks lie. An answer is a hint, as a block is checked when it is read.
pub trait BlockDirectory: Send + Sync {
    /// Returns where the block lies; `None` if that is not known.
    ///
    /// # Errors
    /// Fails if the directory cannot be read.
    fn locate(&self, id: &BlockId) -> Result<Option<Location>>;
}

/// A directory in memory, made from the lists of all packs in a store. The default is empty.
#[derive(Default)]
pub struct MemoryDirectory {
    /// The names of the packs, each with the bytes of all its blocks.
    packs: Vec<(String, u64)>,
    blocks: HashMap<BlockId, BlockPlace>,
}

/// How much of a pack is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackUse {
    pub name: String,
    /// The stored bytes of all blocks of the pack.
    pub bytes: u64,
    /// The stored bytes of the needed blocks, and their number.
    pub needed: u64,
    pub blocks: u64,
}

struct BlockPlace {
    pack: usize,
    offset: u64,
    stored_len: u32,
}

impl MemoryDirectory {
    /// Reads the lists of all packs in `store`.
    ///
    /// # Errors
    /// `Damaged` at the first pack whose list is damaged, `Unavailable` if the store does not answer.
    pub fn scan(store: &dyn Store) -> Result<MemoryDirectory> {
        let mut directory = MemoryDirectory::default();
        for name in store.list_sorted(ObjectKind::Pack)? {
            let reader = PackReader::open(store, &name)?;
            reader.check_name(&name)?;
            directory.add(&reader);
        }
        Ok(directory)
    }

    /// Reads the lists of the packs in `store` that can be read, and passes over the others.
    pub fn scan_readable(store: &dyn Store) -> MemoryDirectory {
        let mut directory = MemoryDirectory::default();
        for name in store.list_sorted(ObjectKind::Pack).unwrap_or_default() {
            if let Ok(reader) = PackReader::open(store, &name) {
                directory.add(&reader);
            }
        }
        directory
    }

    /// Takes in the blocks of one more pack.
    pub fn add(&mut self, reader: &PackReader) {
        let pack = self.packs.len();
        let bytes = reader.entries().iter().map(|entry| u64::from(entry.stored_len)).sum();
        self.packs.push((reader.name().to_owned(), bytes));
        for entry in reader.entries() {
            let place = BlockPlace { pack, offset: entry.offset, stored_len: entry.stored_len };
            self.blocks.entry(entry.id).or_insert(place);
        }
    }

    /// Returns how much of each pack is needed. A block that lies in several packs is needed of one of them.
    pub fn usage(&self, needed: &BTreeSet<BlockId>) -> Vec<PackUse> {
        let unused = |(name, bytes): &(String, u64)| PackUse {
            name: name.clone(),
            bytes: *bytes,
            needed: 0,
            blocks: 0,
        };
        let mut uses: Vec<_> = self.packs.iter().map(unused).collect();
        for place in needed.iter().filter_map(|id| self.blocks.get(id)) {
            let pack = &mut uses[place.pack];
            (pack.needed, pack.blocks) = (pack.needed + u64::from(place.stored_len), pack.blocks + 1);
        }
        uses
    }

    pub fn holds(&self, id: &BlockId) -> bool {
        self.blocks.contains_key(id)
    }

    /// Returns how many blocks are known.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}

impl BlockDirectory for MemoryDirectory {
    fn locate(&self, id: &BlockId) -> Result<Option<Location>> {
        Ok(self.blocks.get(id).map(|place| Location {
            pack: self.packs[place.pack].0.clone(),
            offset: place.offset,
            stored_len: place.stored_len.into(),
        }))
    }
}
