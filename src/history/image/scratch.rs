//! Intermediate images, which go with the process.

use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;

use crate::ambient;
use crate::error::{Context, Kind, Result};
use crate::store::{Store, sealed};

/// A folder for the packs of intermediate images. Only this process can read them, and the folder goes with the value.
#[derive(Debug)]
pub struct ScratchImages {
    folder: TempDir,
    store: Arc<dyn Store>,
}

impl ScratchImages {
    /// Makes an empty folder in `parent`.
    ///
    /// # Errors
    /// `Unavailable` if the folder cannot be made, `Internal` without randomness.
    pub fn new(parent: &Path) -> Result<ScratchImages> {
        let folder = ambient::private_folder(parent, "backwhen-fold-")
            .context(Kind::Unavailable, || format!("cannot make a scratch folder in {}", parent.display()))?;
        Ok(ScratchImages { store: sealed::unreadable_elsewhere(folder.path())?, folder })
    }

    /// The folder, for rows that are sorted.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }
}
