//! Where the history lies that a command works on: a folder, or a copy in an object store.

use std::path::PathBuf;
use std::sync::Arc;

use super::secrecy::{EncryptionOptions, NewHistoryOptions};
use super::{Command, Surroundings};
use crate::error::{Error, Result};
use crate::history::{History, HistoryPlace};
use crate::store::sealed::{self, NewCopy, Secrecy};
use crate::store::{BlockCache, Folder, StoreAddress, layout};

/// Whether a command must see each byte as it lies in the object store, and so neither reads nor fills the cache of
/// blocks.
pub(super) fn reads_past_the_cache(command: &Command) -> bool {
    matches!(command, Command::Verify(_) | Command::Copy(_) | Command::Repair(_) | Command::Expire(_))
}

impl Surroundings {
    /// The place of the history, whether or not there is one yet.
    pub(super) fn history_place(&self) -> Result<HistoryPlace> {
        self.place(self.named_history()?)
    }

    fn named_history(&self) -> Result<&str> {
        self.history.as_deref().ok_or_else(|| {
            Error::usage("no history is named; name its folder with --history or BACKWHEN_HISTORY")
        })
    }

    /// The place that a person has named by a path or a URL, to be read.
    pub(super) fn place(&self, text: &str) -> Result<HistoryPlace> {
        self.place_with(text, Secrecy::new(self.identities.clone(), NewCopy::default(), Vec::new()))
    }

    /// The folder of a history that is begun, as these options want it.
    ///
    /// # Errors
    /// `Usage` if the history is to be encrypted and no identity is named; `Refused` if an encrypted one was begun there, and
    /// another kind is wanted now.
    pub(super) fn place_of_new_history(&self, options: &NewHistoryOptions) -> Result<HistoryPlace> {
        let text = self.named_history()?;
        let place = self.place_with(text, options.secrecy(self.identities.clone())?)?;
        match (place, options.wants_encryption()) {
            (HistoryPlace::Folder { root, secrecy: None }, true) => {
                Ok(HistoryPlace::Folder { root, secrecy: Some(options.secrecy(self.identities.clone())?) })
            }
            (HistoryPlace::Folder { root, secrecy: Some(_) }, false) if !History::is_at(&root)? => {
                Err(Error::refused(format!(
                    "{} holds the keys of an encrypted history that was not begun to its end; go on with backwhen init --encrypt, \
                     or name a new folder",
                    root.display()
                )))
            }
            (place, _) => self.folder_of("init", place),
        }
    }

    /// The place of a copy that is made, or brought up to date, as these options want it.
    pub(super) fn place_of_copy(&self, text: &str, options: &EncryptionOptions) -> Result<HistoryPlace> {
        self.place_with(text, options.secrecy(self.identities.clone())?)
    }

    fn place_with(&self, text: &str, secrecy: Secrecy) -> Result<HistoryPlace> {
        let folder = match StoreAddress::folder(text)? {
            None => (!StoreAddress::is_one(text)).then(|| text.into()),
            folder => folder,
        };
        if let Some(root) = folder {
            let is_encrypted = sealed::is_encrypted(&Folder::new(&root))?;
            if is_encrypted && layout::grows_in_place(&root)? {
                return Ok(HistoryPlace::Folder { root, secrecy: Some(secrecy) });
            }
            if secrecy.new_copy != NewCopy::Encrypted && !is_encrypted {
                return Ok(HistoryPlace::Folder { root, secrecy: None });
            }
            let path = std::path::absolute(&root).unwrap_or_else(|_| root.clone());
            let cache = self.cache_of(&path.display().to_string())?.1;
            return Ok(HistoryPlace::SealedFolder { root, cache, secrecy });
        }
        let address = StoreAddress::parse(text)?;
        let (cache, own) = self.cache_of(&address.to_string())?;
        let blocks = self.cache_size > 0;
        let blocks = blocks.then(|| Arc::new(BlockCache::new(&cache.join("blocks"), self.cache_size)));
        Ok(HistoryPlace::Remote { address, cache: own, blocks, secrecy })
    }

    /// The folder for the catalogs of histories that lie elsewhere, and the one for the history at `place` in it.
    fn cache_of(&self, place: &str) -> Result<(PathBuf, PathBuf)> {
        let cache = self.cache.clone().or_else(default_cache).ok_or_else(|| {
            Error::usage("there is no HOME for the cache of an encrypted copy, or of one in an object store; name a folder with --cache")
        })?;
        let digest = blake3::hash(place.as_bytes()).to_hex();
        let own = cache.join(&digest[..16]);
        Ok((cache, own))
    }

    /// The folder of the history, whether or not it exists yet, for a command that cannot work in an object store.
    pub(super) fn history_folder(&self, command: &str) -> Result<HistoryPlace> {
        self.folder_of(command, self.history_place()?)
    }

    /// The folder of the history that a capture is to write, which may be an encrypted copy until now.
    pub(super) fn growing_folder(&self, command: &str) -> Result<HistoryPlace> {
        match self.history_place()? {
            HistoryPlace::SealedFolder { root, secrecy, .. } => {
                Ok(HistoryPlace::Folder { root, secrecy: Some(secrecy) })
            }
            place => self.folder_of(command, place),
        }
    }

    fn folder_of(&self, command: &str, place: HistoryPlace) -> Result<HistoryPlace> {
        match place {
            HistoryPlace::Folder { .. } => Ok(place),
            place => Err(Error::usage(format!(
                "backwhen {command} works on the folder that capture writes, and {place} {}; name the \
                 folder with --history, and bring the copy up to date with: backwhen copy --to {place}",
                if place.is_remote() {
                    "lies in an object store"
                } else {
                    "is an encrypted copy, which becomes such a folder once a capture was started in it"
                }
            ))),
        }
    }

    /// Opens the history in its folder, for a command that cannot work in an object store.
    pub(super) fn local_history(&self, command: &str) -> Result<History> {
        self.history_folder(command)?;
        self.history()
    }
}

/// The folder for the catalogs of histories in object stores, unless --cache names another one.
fn default_cache() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|it| !it.is_empty()).map(PathBuf::from);
    let caches = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
    Some(caches.join("backwhen"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn a_file_url_names_a_folder_of_this_machine() {
        let place = |text: &str| Surroundings::default().place(text);
        for text in ["file:///srv/history", "file://localhost/srv/history", "/srv/history"] {
            assert_eq!(place(text).unwrap().to_string(), "/srv/history", "{text}");
        }
        for text in ["file://", "file://srv/history", "file://localhostx/a", "file:///a%20b", "file:///a?b"] {
            assert_eq!(place(text).unwrap_err().kind(), Kind::Usage, "{text}");
        }
    }
}
