//! Where a history lies: in a local folder, or in an object store.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::key::Key;
use super::{History, Identity};
use crate::error::{Error, Result};
use crate::store::sealed::{self, Secrecy};
use crate::store::{BlockCache, Folder, ObjectKind, ObjectName, Store, StoreAddress, layout};

/// The place of a history, as a person names it.
#[derive(Clone, Debug)]
pub enum HistoryPlace {
    Folder(PathBuf),
    /// Objects under a prefix of a bucket, or dispersed over several stores. What is no object lies in the local folder `cache`,
    /// which may be deleted.
    Remote {
        address: StoreAddress,
        cache: PathBuf,
        /// Keeps what is read of the objects, for a command that need not see them as they lie in the store.
        blocks: Option<Arc<BlockCache>>,
        secrecy: Secrecy,
    },
    /// An encrypted copy in a folder. Nothing lies there in the clear, so it is treated as one in an object store.
    SealedFolder {
        root: PathBuf,
        cache: PathBuf,
        secrecy: Secrecy,
    },
}

impl HistoryPlace {
    /// Opens the history there, as [`History::open`] does.
    ///
    /// # Errors
    /// Fails as [`History::open`] does.
    pub fn history(&self, key: Option<&Key>) -> Result<History> {
        if let HistoryPlace::Folder(root) = self {
            return History::open(root, key);
        }
        let store = self.store()?;
        let (identity, authorship) = Identity::read(&*store, &self.to_string(), key)?;
        History::fetched(self.local(), store, self.to_string(), identity, authorship)
    }

    /// Returns the store for the objects there, to be read. The folder for what is no object is made, if it is missing.
    ///
    /// # Errors
    /// `Usage` if the object store cannot be used, `Unavailable` if the disk does not take the folder, `Refused` if the copy is
    /// encrypted and the identity does not open it, or if it ought to be encrypted and is not.
    pub fn store(&self) -> Result<Arc<dyn Store>> {
        let inner = self.outer_store()?;
        match self.secrecy() {
            Some(secrecy) => secrecy.open(inner, &self.to_string(), layout::scratch(self.local())),
            None => Ok(inner),
        }
    }

    /// Returns the store for a copy that is made there, or brought up to date.
    ///
    /// # Errors
    /// Fails as [`HistoryPlace::store`] does; `Refused` too if it is not sure who has made the key.
    pub fn store_to_copy(&self) -> Result<Arc<dyn Store>> {
        if let HistoryPlace::SealedFolder { root, .. } = self {
            refuse_strangers(root)?;
            layout::make_folders(root)?;
        }
        let inner = self.outer_store()?;
        match self.secrecy() {
            Some(secrecy) => secrecy.open_to_copy(inner, &self.to_string(), layout::scratch(self.local())),
            None => Ok(inner),
        }
    }

    /// Returns the store beneath the encryption, in which the wrapped keys lie.
    ///
    /// # Errors
    /// `Usage` if the object store cannot be used, `Unavailable` if the disk does not take the folder.
    pub fn outer_store(&self) -> Result<Arc<dyn Store>> {
        match self {
            HistoryPlace::Folder(root) => Ok(Arc::new(Folder::new(root))),
            HistoryPlace::SealedFolder { root, cache, .. } => {
                layout::make_cache(cache)?;
                Ok(Arc::new(Folder::new(root)))
            }
            HistoryPlace::Remote { address, cache, blocks, .. } => {
                layout::make_cache(cache)?;
                address.store(&layout::scratch(cache), blocks.as_ref())
            }
        }
    }

    /// How the objects there are kept from others; `None` for a folder that is not encrypted.
    pub fn secrecy(&self) -> Option<&Secrecy> {
        match self {
            HistoryPlace::Folder(_) => None,
            HistoryPlace::SealedFolder { secrecy, .. } | HistoryPlace::Remote { secrecy, .. } => {
                Some(secrecy)
            }
        }
    }

    /// The local folder: the history itself, or the cache.
    pub fn local(&self) -> &Path {
        match self {
            HistoryPlace::Folder(root) => root,
            HistoryPlace::Remote { cache, .. } | HistoryPlace::SealedFolder { cache, .. } => cache,
        }
    }

    /// The folders on this machine in which objects of a dispersed history lie.
    pub fn folders(&self) -> Vec<&Path> {
        match self {
            HistoryPlace::Remote { address, .. } => address.folders(),
            _ => Vec::new(),
        }
    }

    /// Whether the place is an object store.
    pub fn is_remote(&self) -> bool {
        matches!(self, HistoryPlace::Remote { .. })
    }

    /// Whether the history's own files lie there as they are, so that its open segment grows there.
    pub fn is_plain_folder(&self) -> bool {
        matches!(self, HistoryPlace::Folder(_))
    }
}

/// # Errors
/// `Refused` if the folder holds other files, and no copy.
fn refuse_strangers(root: &Path) -> Result<()> {
    let folder: &dyn Store = &Folder::new(root);
    if sealed::is_encrypted(folder)? || folder.holds(&ObjectName::only(ObjectKind::Identity))? {
        return Ok(());
    }
    layout::first_stranger(root)?.map_or(Ok(()), |stranger| {
        Err(Error::refused(format!(
            "{} is not empty (it holds {stranger}); name a new folder for the copy",
            root.display()
        )))
    })
}

/// The path or the URL.
impl fmt::Display for HistoryPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HistoryPlace::Folder(root) | HistoryPlace::SealedFolder { root, .. } => root.display().fmt(f),
            HistoryPlace::Remote { address, .. } => address.fmt(f),
        }
    }
}
