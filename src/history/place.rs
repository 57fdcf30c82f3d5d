//! Where a history lies: in a local folder, or in an object store.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::key::Key;
use super::{History, Identity};
use crate::error::Result;
use crate::store::{BlockCache, Folder, Store, StoreAddress, layout};

/// The place of a history, as a person names it.
#[derive(Clone, Debug)]
pub enum HistoryPlace {
    Folder(PathBuf),
    /// Objects under a prefix of a bucket, or dispersed over several stores. What is no object lies in the local folder `cache`, which may be deleted.
    Remote {
        address: StoreAddress,
        cache: PathBuf,
        /// Keeps what is read of the objects, for a command that need not see them as they lie in the store.
        blocks: Option<Arc<BlockCache>>,
    },
}

impl HistoryPlace {
    /// Opens the history there, as [`History::open`] does.
    ///
    /// # Errors
    /// Fails as [`History::open`] does.
    pub fn history(&self, key: Option<&Key>) -> Result<History> {
        let HistoryPlace::Remote { cache, .. } = self else { return History::open(self.local(), key) };
        let store = self.store()?;
        let (identity, authorship) = Identity::read(&*store, &self.to_string(), key)?;
        History::fetched(cache, store, self.to_string(), identity, authorship)
    }

    /// Returns the store for the objects there. The folder for what is no object is made, if it is missing.
    ///
    /// # Errors
    /// `Usage` if the object store cannot be used, `Unavailable` if the disk does not take the folder.
    pub fn store(&self) -> Result<Arc<dyn Store>> {
        match self {
            HistoryPlace::Folder(root) => Ok(Arc::new(Folder::new(root))),
            HistoryPlace::Remote { address, cache, blocks } => {
                layout::make_cache(cache)?;
                address.store(&layout::scratch(cache), blocks.as_ref())
            }
        }
    }

    /// The local folder: the history itself, or the cache.
    pub fn local(&self) -> &Path {
        match self {
            HistoryPlace::Folder(root) => root,
            HistoryPlace::Remote { cache, .. } => cache,
        }
    }

    pub fn is_remote(&self) -> bool {
        matches!(self, HistoryPlace::Remote { .. })
    }
}

/// The path or the URL.
impl fmt::Display for HistoryPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HistoryPlace::Folder(root) => root.display().fmt(f),
            HistoryPlace::Remote { address, .. } => address.fmt(f),
        }
    }
}
