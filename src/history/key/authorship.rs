//! Tags on objects, and whether the tags are checked.
//!
//! Every tag is a keyed BLAKE3 hash under a key that is bound to the history's id. The input of a tag begins with the kind
//! of the object, then comes the object's name, then a digest of its content. So no object can be put in the place of
//! another one, nor into another history.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::model::Lsn;

/// A keyed hash. Comparing two tags takes the same time wherever they differ.
pub type Tag = blake3::Hash;
/// A hash, without a key, of the bytes that a tag vouches for.
pub type Digest = blake3::Hash;

/// Returns one digest of several contents.
pub(in crate::history) fn digest_of<'a>(contents: impl Iterator<Item = &'a [u8]>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for content in contents {
        // The length is hashed too, so that no byte can pass from one content to the next.
        hasher.update(&(content.len() as u64).to_le_bytes()).update(content);
    }
    hasher.finalize()
}

/// Whether a history's objects prove who wrote them.
#[derive(Clone, Debug)]
pub enum Authorship {
    /// The history has no key.
    Unkeyed,
    /// The history has a key, and it was not given: tags are not checked, and nothing can be written.
    Unchecked,
    /// The history has a key, and it was given: every object is checked, and every new object is tagged.
    Keyed(HistoryKey),
}

/// A key for the objects of one history.
#[derive(Clone)]
pub struct HistoryKey {
    secret: [u8; 32],
    history: [u8; 16],
    file: Arc<Path>,
}

/// A key for one segment of the journal.
#[derive(Clone)]
pub struct SegmentKey {
    secret: [u8; 32],
    file: Arc<Path>,
}

impl Authorship {
    pub(super) fn keyed(secret: [u8; 32], history: [u8; 16], file: Arc<Path>) -> Authorship {
        Authorship::Keyed(HistoryKey { secret, history, file })
    }

    /// Whether a key was given, so that only objects are believed that a holder of the key wrote.
    pub fn is_checked(&self) -> bool {
        matches!(self, Authorship::Keyed(_))
    }

    /// # Errors
    /// `Refused` if the history has a key and it was not given, so that a new object could not be tagged.
    pub fn check_may_write(&self, path: &Path) -> Result<()> {
        match self {
            Authorship::Unchecked => Err(needs_key(&format!("cannot write {}", path.display()))),
            Authorship::Unkeyed | Authorship::Keyed(_) => Ok(()),
        }
    }

    pub(in crate::history) fn key(&self) -> Option<&HistoryKey> {
        match self {
            Authorship::Keyed(key) => Some(key),
            Authorship::Unkeyed | Authorship::Unchecked => None,
        }
    }

    /// Returns the tag for a row of the catalog, if the catalog's rows need one.
    pub(in crate::history) fn row_tag(&self, row: &[u8]) -> Option<Tag> {
        self.key().map(|key| key.tag(b"catalog row\0", row))
    }
}

/// The error of a command that would write to a history whose key it was not given.
pub fn needs_key(what: &str) -> Error {
    Error::refused(format!("{what}: this history has a key; name the key's file with --key-file"))
}

impl HistoryKey {
    pub(in crate::history) fn history(&self) -> [u8; 16] {
        self.history
    }

    /// Returns the tag for the object `name` (`epochs/0001.json`), of whose content `digest` is the hash.
    pub(in crate::history) fn object_tag(&self, name: &str, digest: &Digest) -> Tag {
        self.tag(b"object\0", &[name.as_bytes(), b"\0", digest.as_bytes()].concat())
    }

    pub(in crate::history) fn segment(&self, epoch: u32, start: Lsn) -> SegmentKey {
        let place = [&epoch.to_le_bytes()[..], &start.0.to_le_bytes()].concat();
        let secret = *self.tag(b"segment\0", &place).as_bytes();
        SegmentKey { secret, file: Arc::clone(&self.file) }
    }

    fn tag(&self, kind: &[u8], content: &[u8]) -> Tag {
        tag(&self.secret, &[kind, content])
    }
}

impl SegmentKey {
    /// Returns the tag for a block of an open segment, which the tag of the last block binds to all blocks before.
    pub(in crate::history) fn block_tag(&self, previous: &Tag, digest: &Digest) -> Tag {
        tag(&self.secret, &[b"block\0", previous.as_bytes(), digest.as_bytes()])
    }

    /// Returns the value that stands for the tag before the first block.
    pub(in crate::history) fn no_block() -> Tag {
        Tag::from_bytes([0; 32])
    }

    /// Returns the tag for a sealed segment's footer.
    pub(in crate::history) fn footer_tag(&self, digest: &Digest) -> Tag {
        tag(&self.secret, &[b"footer\0", digest.as_bytes()])
    }

    /// Returns the tag for a sealed segment's index of changes.
    pub(in crate::history) fn changes_tag(&self, digest: &Digest) -> Tag {
        tag(&self.secret, &[b"changes\0", digest.as_bytes()])
    }

    /// Returns the tag for the parts of a sealed segment's footer that a lookup of rows reads.
    pub(in crate::history) fn lookup_tag(&self, digest: &Digest) -> Tag {
        tag(&self.secret, &[b"lookup\0", digest.as_bytes()])
    }

    /// Says what is wrong with a block or footer whose tag is missing or false, for a sentence about that block or footer.
    pub(in crate::history) fn not_ours(&self) -> String {
        format!("it was not written by a holder of the key {}", self.file.display())
    }
}

fn tag(secret: &[u8; 32], parts: &[&[u8]]) -> Tag {
    let mut hasher = blake3::Hasher::new_keyed(secret);
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

impl fmt::Debug for HistoryKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "HistoryKey({})", self.file.display())
    }
}

impl fmt::Display for HistoryKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.file.display())
    }
}

impl fmt::Debug for SegmentKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SegmentKey({})", self.file.display())
    }
}
