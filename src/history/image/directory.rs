//! Where blocks lie.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::id::BlockId;
use super::pack::{self, PackReader};
use crate::error::{Context, Kind, Result};

/// Where a stored block lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The pack's name: 32 hexadecimal digits.
    pub pack: String,
    /// Where the stored block begins in the pack.
    pub offset: u64,
    /// Its bytes in the pack, with its header.
    pub stored_len: u64,
}

/// Knows where blocks lie. The answer is a hint: whoever reads the block checks it.
pub trait BlockDirectory: Send + Sync {
    /// Where the block lies, if it is known.
    ///
    /// # Errors
    /// Those of the place that is asked.
    fn locate(&self, id: &BlockId) -> Result<Option<Location>>;
}

/// A directory in memory, made from the lists of all packs in a folder. The default is empty.
#[derive(Default)]
pub struct FolderDirectory {
    packs: Vec<String>,
    blocks: HashMap<BlockId, Place>,
}

struct Place {
    pack: usize,
    offset: u64,
    stored_len: u32,
}

impl FolderDirectory {
    /// Reads the lists of all packs in `folder`; a folder that is not there holds none.
    ///
    /// # Errors
    /// `Damaged` at the first pack whose list is, `Unavailable` if the disk does not read.
    pub fn scan(folder: &Path) -> Result<FolderDirectory> {
        let mut directory = FolderDirectory::default();
        for path in pack_files(folder)? {
            let reader = PackReader::open(&path)?;
            reader.check_name(&path)?;
            directory.add(&reader);
        }
        Ok(directory)
    }

    /// Takes in the blocks of one more pack.
    pub fn add(&mut self, reader: &PackReader) {
        let pack = self.packs.len();
        self.packs.push(reader.name().to_owned());
        for entry in reader.entries() {
            let place = Place { pack, offset: entry.offset, stored_len: entry.stored_len };
            self.blocks.entry(entry.id).or_insert(place);
        }
    }

    /// How many blocks are known.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}

impl BlockDirectory for FolderDirectory {
    fn locate(&self, id: &BlockId) -> Result<Option<Location>> {
        Ok(self.blocks.get(id).map(|place| Location {
            pack: self.packs[place.pack].clone(),
            offset: place.offset,
            stored_len: place.stored_len.into(),
        }))
    }
}

/// The pack files in a folder, sorted by name; a folder that is not there holds none.
///
/// # Errors
/// `Unavailable` if the folder cannot be read.
pub fn pack_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let message = || format!("cannot read folder {}", folder.display());
    let listing = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing.context(Kind::Unavailable, message)?,
    };
    let mut paths = Vec::new();
    for entry in listing {
        let path = entry.context(Kind::Unavailable, message)?.path();
        if path.extension().is_some_and(|extension| extension == pack::EXTENSION) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
