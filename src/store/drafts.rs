//! The local folder in which objects are made for a store that takes only complete ones.

use std::path::PathBuf;

use super::{NewFile, ObjectKind, files};
use crate::error::Result;

/// The drafts of one store. They lie in the clear, also those of a store that encrypts.
#[derive(Debug)]
pub(super) struct Drafts {
    folder: PathBuf,
}

impl Drafts {
    pub fn new(folder: PathBuf) -> Drafts {
        Drafts { folder }
    }

    /// Begins a draft of an object of a kind.
    ///
    /// # Errors
    /// `Unavailable` if the disk does not take the folder or the file.
    pub fn begin(&self, kind: ObjectKind) -> Result<NewFile> {
        files::create_folder(&self.folder)?;
        NewFile::create(&self.folder.join(name(kind)))
    }

    /// Removes the drafts of a kind that killed processes have left.
    pub fn remove_unfinished(&self, kind: ObjectKind) {
        files::remove_temporaries_of(&self.folder, &name(kind));
    }
}

fn name(kind: ObjectKind) -> String {
    format!("draft.{}", kind.place().1)
}
