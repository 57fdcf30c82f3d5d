//! Where a history lies: in a local folder, or in an object store.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::key::Key;
use super::{History, Identity};
use crate::error::{Error, Result};
use crate::store::sealed::{self, Secrecy};
use crate::store::{
    BlockCache, Folder, LocalFolder, ObjectKind, ObjectName, Role, Store, StoreAddress, layout,
};

/// The place of a history, as a person names it.
#[derive(Clone, Debug)]
pub enum HistoryPlace {
    /// A local folder in which the open segment grows.
    Folder {
        root: PathBuf,
        /// How an encrypted history is opened; `None` for one that is not encrypted.
        secrecy: Option<Secrecy>,
    },
    /// Objects under a prefix of a bucket, or dispersed over several stores. What is no object lies in the local folder `cache`,
    /// which may be deleted.
    Remote {
        address: StoreAddress,
        cache: PathBuf,
        /// Keeps what is read of the objects, for a command that need not see them as they lie in the store.
        blocks: Option<Arc<BlockCache>>,
        secrecy: Secrecy,
    },
    /// An encrypted copy in a folder, whose open segment lies there in increments, as in an object store.
    SealedFolder { root: PathBuf, cache: PathBuf, secrecy: Secrecy },
}

impl HistoryPlace {
    /// Opens the history there, as [`History::open`] does.
    ///
    /// # Errors
    /// Fails as [`History::open`] does.
    pub fn history(&self, key: Option<&Key>) -> Result<History> {
        if let HistoryPlace::Folder { .. } = self {
            return History::open(&self.local_folder()?, key);
        }
        let store = self.store()?;
        let (identity, authorship) = Identity::read(&*store, &self.to_string(), key)?;
        History::fetched(self.local_folder()?, store, self.to_string(), identity, authorship)
    }

    /// Returns the local folder, the history itself or the cache, with the key of what is encrypted.
    ///
    /// # Errors
    /// `Refused` if the history in the folder is encrypted, and the identity does not open it; `Unavailable` if the folder
    /// cannot be read.
    pub fn local_folder(&self) -> Result<LocalFolder> {
        let opened = match self {
            HistoryPlace::Folder { secrecy: None, .. } => None,
            HistoryPlace::Folder { root, secrecy: Some(secrecy) } => {
                Some(secrecy.find(&Folder::new(root), &self.to_string())?)
            }
            HistoryPlace::SealedFolder { secrecy, .. } | HistoryPlace::Remote { secrecy, .. } => {
                secrecy.found().cloned()
            }
        };
        Ok(match opened {
            Some(opened) => LocalFolder::sealed(self.local(), opened),
            None => LocalFolder::plain(self.local()),
        })
    }

    /// Returns the local folder of a history that this process writes. What is encrypted is encrypted with a key that the
    /// own identity vouches for.
    ///
    /// # Errors
    /// Fails as [`HistoryPlace::local_folder`] does; `Refused` too if it is not sure who has made the key.
    pub fn local_folder_to_write(&self) -> Result<LocalFolder> {
        if let HistoryPlace::Folder { root, secrecy: Some(secrecy) } = self {
            let place = self.to_string();
            sealed::check_is_own(&secrecy.find(&Folder::new(root), &place)?, &place)?;
        }
        self.local_folder()
    }

    /// Returns the folder for a new history; one that is to be encrypted gets its key now.
    ///
    /// # Errors
    /// `Usage` if it is to be encrypted and no identity is named, or one inside of it; `Refused` if something lies there, or
    /// if it is not sure who has made the key; `Locked` if another process begins a history there.
    pub fn new_folder(&self) -> Result<LocalFolder> {
        let HistoryPlace::Folder { root, secrecy: Some(secrecy) } = self else { return self.local_folder() };
        let place = self.to_string();
        let folder = Folder::new(root);
        // A folder of something else stays as it is.
        History::refuse_taken(root, &folder)?;
        layout::make_locks(root)?;
        let _lease = folder.lease(Role::Capture, "init")?;
        History::refuse_taken(root, &folder)?;
        secrecy.refuse_an_identity_in(root)?;
        Ok(LocalFolder::sealed(root, secrecy.begin(&folder, &place)?))
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
            HistoryPlace::Folder { root, .. } => Ok(Arc::new(Folder::new(root))),
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
            HistoryPlace::Folder { secrecy, .. } => secrecy.as_ref(),
            HistoryPlace::SealedFolder { secrecy, .. } | HistoryPlace::Remote { secrecy, .. } => {
                Some(secrecy)
            }
        }
    }

    /// The local folder: the history itself, or the cache.
    pub fn local(&self) -> &Path {
        match self {
            HistoryPlace::Folder { root, .. } => root,
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
            HistoryPlace::Folder { root, .. } | HistoryPlace::SealedFolder { root, .. } => {
                root.display().fmt(f)
            }
            HistoryPlace::Remote { address, .. } => address.fmt(f),
        }
    }
}
