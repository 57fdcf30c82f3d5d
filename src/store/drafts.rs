//! The local folder in which objects are made for a store that takes only complete ones.

use std::path::PathBuf;

use super::{NewFile, ObjectKind, files, layout};
use crate::error::Result;

/// The drafts of one store.
#[derive(Debug)]
pub(super) struct Drafts {
    folder: PathBuf,
    is_veiled: bool,
}

impl Drafts {
    /// The drafts of a store that does not encrypt.
    pub fn new(folder: PathBuf) -> Drafts {
        Drafts { folder, is_veiled: false }
    }

    /// The drafts of a store that encrypts, which nobody else can read either.
    pub fn veiled(folder: PathBuf) -> Drafts {
        Drafts { folder, is_veiled: true }
    }

    /// Begins a draft of an object of a kind.
    ///
    /// # Errors
    /// `Unavailable` if the disk does not take the folder or the file.
    pub fn begin(&self, kind: ObjectKind) -> Result<NewFile> {
        files::create_folder(&self.folder)?;
        let path = self.folder.join(name(kind));
        match (self.is_veiled, kind) {
            (false, _) => NewFile::create(&path),
            // pg_dump writes these by their path.
            (true, ObjectKind::Archive | ObjectKind::Roles) => NewFile::create_in_memory(&path),
            (true, _) => NewFile::create_veiled(&path),
        }
    }

    /// Removes the drafts of a kind that killed processes have left.
    pub fn remove_unfinished(&self, kind: ObjectKind) {
        files::remove_temporaries_of(&self.folder, &name(kind));
    }
}

fn name(kind: ObjectKind) -> String {
    format!("{}{}", layout::DRAFT, kind.place().1)
}
