//! The key that shows who wrote a history. See docs/architecture/key.md.
//!
//! A key is 32 random bytes in a file outside the history. A holder of the key puts keyed tags on the objects that decide
//! a recovery, and checks the tags when it reads them. Somebody who can write to the history's folder and lacks the key
//! cannot make such a tag.

mod authorship;
#[expect(clippy::disallowed_methods, reason = "a key file lies outside of every history")]
mod file;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use authorship::{Authorship, needs_key};
pub(super) use authorship::{Digest, HistoryKey, SegmentKey, Tag, digest_of};

/// The content of a key file, and where the file lies.
#[derive(Clone)]
pub struct Key {
    secret: [u8; 32],
    file: Arc<Path>,
}

impl Key {
    fn new(secret: [u8; 32], file: PathBuf) -> Key {
        Key { secret, file: file.into() }
    }

    #[cfg(test)]
    pub(super) fn of_byte(byte: u8) -> Key {
        Key::new([byte; 32], PathBuf::from("test.key"))
    }

    /// Returns a public name of the key: 16 hexadecimal digits, from which nothing about the key can be learnt.
    pub fn id(&self) -> String {
        let digest = blake3::keyed_hash(&self.secret, b"backwhen key id");
        digest.to_hex()[..16].to_owned()
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Returns the authorship that tags and checks the objects of the history whose id is `history`.
    pub fn authorship(&self, history: [u8; 16]) -> Authorship {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        hasher.update(b"backwhen history objects\0").update(&history);
        Authorship::keyed(*hasher.finalize().as_bytes(), history, Arc::clone(&self.file))
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Key({})", self.id())
    }
}
