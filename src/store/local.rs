//! The local folder of a history: the history itself, or the cache of one that lies elsewhere; and what lies there that is
//! no object.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::folder::Folder;
use super::sealed::{DataCipher, OpenedKey, Sealed, StoreKey};
use super::{Spool, Store, files, layout};
use crate::error::{Context, Error, Kind, Result};

/// A local folder, and the key with which all in it is encrypted, if it is.
#[derive(Clone, Debug)]
pub struct LocalFolder {
    root: PathBuf,
    opened: Option<OpenedKey>,
}

impl LocalFolder {
    /// A folder in which everything lies as it is.
    pub fn plain(root: &Path) -> LocalFolder {
        LocalFolder { root: root.to_owned(), opened: None }
    }

    /// A folder in which everything is encrypted.
    pub fn sealed(root: &Path, opened: OpenedKey) -> LocalFolder {
        LocalFolder { root: root.to_owned(), opened: Some(opened) }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The key with which all is encrypted, as the identity has found it.
    pub fn opened(&self) -> Option<&OpenedKey> {
        self.opened.as_ref()
    }

    fn key(&self) -> Option<&StoreKey> {
        self.opened.as_ref().map(|opened| &opened.key)
    }

    /// The objects of the history that lies in the folder.
    pub fn store(&self) -> Arc<dyn Store> {
        let folder = Arc::new(Folder::new(&self.root));
        match self.key() {
            Some(key) => Arc::new(Sealed::new(folder, key, self.scratch())),
            None => folder,
        }
    }

    /// The open segments of the history that lies in the folder.
    pub fn spool(&self) -> Spool {
        match self.key() {
            Some(key) => Spool::sealed(&self.root, key),
            None => Spool::new(&self.root),
        }
    }

    /// The folder for files that are gone with the process.
    pub fn scratch(&self) -> PathBuf {
        layout::scratch(&self.root)
    }

    /// The file in which `capture` says how it goes.
    pub fn live_state(&self) -> VolatileFile {
        self.volatile(layout::live_state(&self.root))
    }

    /// The file that keeps the catalog of an encrypted history from one command to the next.
    pub fn sealed_catalog(&self) -> Option<VolatileFile> {
        self.key().map(|_| self.volatile(layout::sealed_catalog(&self.root)))
    }

    fn volatile(&self, path: PathBuf) -> VolatileFile {
        VolatileFile { path, cipher: self.key().map(StoreKey::beside) }
    }
}

/// A file that is no object: it is replaced as a whole, and nothing is lost with it.
#[derive(Clone)]
pub struct VolatileFile {
    path: PathBuf,
    /// The cipher of an encrypted history.
    cipher: Option<DataCipher>,
}

impl VolatileFile {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The subject that an encrypted file vouches for, so that none stands in for another one.
    fn subject(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Reads a text; `None` if there is none of at most `most` bytes, or none that the key opens.
    pub fn read_text(&self, most: u64) -> Option<Vec<u8>> {
        let bytes = files::read_unfollowed(&self.path, most).ok()?;
        let Some(cipher) = &self.cipher else { return Some(bytes) };
        cipher.open_text(&self.subject(), &STANDARD_NO_PAD.decode(bytes.trim_ascii_end()).ok()?)
    }

    /// Replaces a text as [`files::replace_volatile`] does.
    ///
    /// # Errors
    /// `Unavailable` if the disk does not take it.
    pub fn replace_text(&self, text: &[u8]) -> Result<()> {
        let Some(cipher) = &self.cipher else { return files::replace_volatile(&self.path, text) };
        let sealed = STANDARD_NO_PAD.encode(cipher.seal_text(&self.subject(), text)?);
        files::replace_volatile(&self.path, sealed.as_bytes())
    }

    /// Reads a file of any size; `None` if there is none.
    ///
    /// # Errors
    /// `Damaged` if the key does not open it, `Unavailable` if the disk does not read.
    pub fn read(&self) -> Result<Option<Vec<u8>>> {
        let failed = || format!("cannot read {}", self.path.display());
        let bytes = match files::read_unfollowed(&self.path, u64::MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.context(Kind::Unavailable, failed)?,
        };
        let Some(cipher) = &self.cipher else { return Ok(Some(bytes)) };
        let opened = cipher.open_text(&self.subject(), &bytes);
        opened
            .map(Some)
            .ok_or_else(|| Error::damaged(format!("the key does not open {}", self.path.display())))
    }

    /// Replaces a file of any size, whole or not at all, without waiting for the disk.
    ///
    /// # Errors
    /// `Unavailable` if the disk does not take it.
    pub fn replace(&self, bytes: &[u8]) -> Result<()> {
        match &self.cipher {
            Some(cipher) => files::replace_cache(&self.path, &cipher.seal_text(&self.subject(), bytes)?),
            None => files::replace_cache(&self.path, bytes),
        }
    }
}

impl fmt::Debug for VolatileFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VolatileFile({})", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volatile_file_of_an_encrypted_history_is_read_by_its_key_alone_and_only_as_itself() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("live")).unwrap();
        let plain = LocalFolder::plain(root.path());
        let sealed = LocalFolder::sealed(root.path(), OpenedKey::of_byte(1));
        let other = LocalFolder::sealed(root.path(), OpenedKey::of_byte(2));
        sealed.live_state().replace_text(b"CANARY").unwrap();
        assert_eq!(sealed.live_state().read_text(1 << 20).unwrap(), b"CANARY");
        assert_eq!(other.live_state().read_text(1 << 20), None);
        let stored = plain.live_state().read_text(1 << 20).unwrap();
        assert!(!stored.windows(6).any(|it| it == b"CANARY"));
        let catalog = sealed.sealed_catalog().unwrap();
        assert_eq!(catalog.read().unwrap(), None);
        catalog.replace(b"CANARY").unwrap();
        assert_eq!(catalog.read().unwrap().unwrap(), b"CANARY");
        assert_eq!(other.sealed_catalog().unwrap().read().unwrap_err().kind(), Kind::Damaged);
        // Another file of the same key in its place.
        let text = STANDARD_NO_PAD.decode(stored.trim_ascii_end()).unwrap();
        std::fs::write(catalog.path(), text).unwrap();
        assert_eq!(catalog.read().unwrap_err().kind(), Kind::Damaged);
        // A state that an earlier capture left in the clear is not believed.
        plain.live_state().replace_text(b"{}").unwrap();
        assert_eq!(sealed.live_state().read_text(1 << 20), None);
        assert_eq!(plain.live_state().read_text(1 << 20).unwrap().trim_ascii_end(), b"{}");
    }
}
