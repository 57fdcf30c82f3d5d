//! The JSON objects of a history. Each begins with a digest of its own content, so that a flipped bit in a number is
//! found to be damage, and is not taken for another number.
//!
//! ```text
//! {
//!   "digest": "64 hexadecimal digits: BLAKE3 of all bytes after this line",
//!   "tag": "in a history with a key: its tag for the object's name and all bytes after this line",
//!   "format": 1,
//!   ...
//! ```

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::key::{Authorship, HistoryKey, Tag};
use super::{FORMAT, KEYED_FORMAT, THINNED_FORMAT};
use crate::error::{Context, Error, Kind, Result};
use crate::store::{ObjectKind, ObjectName, Store, sealed};

const BEFORE_DIGEST: &[u8] = b"{\n  \"digest\": \"";
const AFTER_DIGEST: &[u8] = b"\",\n";
const BEFORE_TAG: &[u8] = b"  \"tag\": \"";

/// Reads an object without a check who wrote it; `None` if there is no such object.
///
/// # Errors
/// `Refused` if a newer backwhen wrote it, `Damaged` if it cannot be read as what it should be.
pub fn read_json<T: DeserializeOwned>(store: &dyn Store, name: &ObjectName) -> Result<Option<T>> {
    read_object(store, name, &Authorship::Unkeyed)
}

/// Reads an object of the history; `None` if there is no such object.
///
/// # Errors
/// `Refused` if a newer backwhen wrote it, `Damaged` if it cannot be read as what it should be, or if
/// a key was given and the object was not written by a holder of it.
pub fn read_object<T: DeserializeOwned>(
    store: &dyn Store,
    name: &ObjectName,
    authorship: &Authorship,
) -> Result<Option<T>> {
    let Some(bytes) = store.read(name)? else { return Ok(None) };
    let place = || store.locate(name);
    if sealed::is_envelope(&bytes) {
        return Err(sealed::needs_identity(store, &place()));
    }
    // The version is checked first, since a newer format may have its digest elsewhere.
    refuse_newer(store, name, &bytes)?;
    if !agrees_with_digest(&bytes) {
        return Err(Error::damaged(format!(
            "{} is damaged: its digest does not agree with its bytes; bring it back from a copy of the history with `backwhen repair`",
            place()
        )));
    }
    if let Some(key) = authorship.key()
        && !is_tagged(&bytes, name, key)
    {
        return Err(Error::damaged(format!(
            "{} was not written by a holder of the key {key}; bring it back from a copy of the history with `backwhen repair`",
            place()
        )));
    }
    serde_json::from_slice(&bytes).map(Some).context(Kind::Damaged, || format!("{} is damaged", place()))
}

fn refuse_newer(store: &dyn Store, name: &ObjectName, bytes: &[u8]) -> Result<()> {
    #[derive(Deserialize)]
    struct Versioned {
        format: u32,
    }
    // A key, and signed messages, change the format of `history.json` alone; single checkpoints that of records alone.
    let known = match name.kind() {
        ObjectKind::Identity => KEYED_FORMAT,
        ObjectKind::Expiry => THINNED_FORMAT,
        _ => FORMAT,
    };
    match serde_json::from_slice(bytes) {
        Ok(Versioned { format }) if format > known => Err(Error::refused(format!(
            "{} has format {format}, this backwhen knows up to {known}; update backwhen",
            store.locate(name)
        ))),
        // Bytes that are no JSON have no digest that agrees either.
        _ => Ok(()),
    }
}

fn agrees_with_digest(bytes: &[u8]) -> bool {
    let parts = bytes.strip_prefix(BEFORE_DIGEST).and_then(|rest| rest.split_at_checked(64));
    let Some((digest, rest)) = parts else { return false };
    let content = rest.strip_prefix(AFTER_DIGEST);
    content.is_some_and(|content| blake3::hash(content).to_hex().as_bytes() == digest)
}

/// Whether an object of these bytes, under this name, bears the tag that only a holder of the key can make.
fn is_tagged(bytes: &[u8], name: &ObjectName, key: &HistoryKey) -> bool {
    let before = BEFORE_DIGEST.len() + 64 + AFTER_DIGEST.len();
    let parts = bytes.get(before..).and_then(|rest| rest.strip_prefix(BEFORE_TAG));
    let Some((tag, rest)) = parts.and_then(|rest| rest.split_at_checked(64)) else { return false };
    let Some(content) = rest.strip_prefix(AFTER_DIGEST) else { return false };
    Tag::from_hex(tag).is_ok_and(|tag| tag == key.object_tag(&name.to_string(), &blake3::hash(content)))
}

/// Writes an object without a tag, durable.
///
/// # Errors
/// `Unavailable` if the disk does not take it.
pub fn write_json<T: Serialize>(store: &dyn Store, name: &ObjectName, value: &T) -> Result<()> {
    write_object(store, name, value, &Authorship::Unkeyed)
}

/// Writes an object of the history, durable.
///
/// # Errors
/// `Unavailable` if the disk does not take it, `Refused` if the history has a key and it was not given.
pub fn write_object<T: Serialize>(
    store: &dyn Store,
    name: &ObjectName,
    value: &T,
    authorship: &Authorship,
) -> Result<()> {
    authorship.check_may_write(store.locate(name).as_ref())?;
    let content = encode(value).context(Kind::Internal, || format!("cannot write {}", store.locate(name)))?;
    match authorship.key() {
        None => store.put_new(name, &with_digest(&content)),
        Some(key) => store.put_new(name, &with_digest(&with_tag(&content, name, key))),
    }
}

fn encode<T: Serialize>(value: &T) -> serde_json::Result<Vec<u8>> {
    let pretty = serde_json::to_vec_pretty(value)?;
    // An object with at least one field is written as `{`, a line's end, and its fields.
    let mut content = pretty.strip_prefix(b"{\n").unwrap_or(&pretty).to_vec();
    content.push(b'\n');
    Ok(content)
}

fn with_tag(content: &[u8], name: &ObjectName, key: &HistoryKey) -> Vec<u8> {
    let tag = key.object_tag(&name.to_string(), &blake3::hash(content)).to_hex();
    [BEFORE_TAG, tag.as_bytes(), AFTER_DIGEST, content].concat()
}

/// The whole object whose bytes behind the line of the digest are `content`.
pub(super) fn with_digest(content: &[u8]) -> Vec<u8> {
    let digest = blake3::hash(content).to_hex();
    [BEFORE_DIGEST, digest.as_bytes(), AFTER_DIGEST, content].concat()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::history::key::Key;
    use crate::store::Folder;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Example {
        format: u32,
        rows: u64,
    }

    #[test]
    fn every_flipped_bit_is_damage_or_a_newer_format() {
        let folder = tempfile::tempdir().unwrap();
        let (store, name) = (Folder::new(folder.path()), ObjectName::only(ObjectKind::CopyIntent));
        let path = folder.path().join("copy.json");
        write_json(&store, &name, &Example { format: FORMAT, rows: 12_345 }).unwrap();
        let whole = fs::read(&path).unwrap();
        assert_eq!(read_json(&store, &name).unwrap(), Some(Example { format: FORMAT, rows: 12_345 }));
        assert!(serde_json::from_slice::<serde_json::Value>(&whole).is_ok(), "still plain JSON");
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                fs::write(&path, bytes).unwrap();
                let kind = read_json::<Example>(&store, &name).unwrap_err().kind();
                assert!(matches!(kind, Kind::Damaged | Kind::Refused), "byte {at}, bit {bit}: {kind:?}");
            }
        }
    }

    #[test]
    fn a_newer_format_is_refused_before_its_digest_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let (store, name) = (Folder::new(folder.path()), ObjectName::only(ObjectKind::CopyIntent));
        let path = folder.path().join("copy.json");
        fs::write(&path, b"{ \"format\": 99 }").unwrap();
        let error = read_json::<Example>(&store, &name).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.message().contains("update backwhen"), "{error}");
    }
    fn key(folder: &Path, name: &str) -> Key {
        Key::for_new_history(&folder.join(name), &folder.join("history")).unwrap()
    }

    #[test]
    fn a_tag_is_for_one_key_one_history_and_one_name() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("history");
        fs::create_dir_all(root.join("epochs")).unwrap();
        fs::create_dir_all(root.join("expired")).unwrap();
        let (ours, foreign) = (key(folder.path(), "key"), key(folder.path(), "foreign"));
        let authorship = ours.authorship([1; 16]);
        let (store, name) = (Folder::new(&root), ObjectName::epoch(1));
        let example = Example { format: FORMAT, rows: 12 };
        write_object(&store, &name, &example, &authorship).unwrap();
        let read =
            |name: &ObjectName, authorship: &Authorship| read_object::<Example>(&store, name, authorship);
        assert_eq!(read(&name, &authorship).unwrap().unwrap(), example);
        assert_eq!(read(&name, &Authorship::Unchecked).unwrap().unwrap(), example, "readable without a key");
        for other in [foreign.authorship([1; 16]), ours.authorship([2; 16])] {
            assert_eq!(read(&name, &other).unwrap_err().kind(), Kind::Damaged);
        }
        let bytes = store.read(&name).unwrap().unwrap();
        let others = [
            ObjectName::epoch(2),
            ObjectName::new(ObjectKind::Expiry, "0001"),
            ObjectName::only(ObjectKind::Identity),
        ];
        for name in others {
            store.put_new(&name, &bytes).unwrap();
            let error = read(&name, &authorship).unwrap_err();
            assert!(error.message().contains("not written by a holder of the key"), "{name}: {error}");
        }
    }

    #[test]
    fn no_digest_made_anew_replaces_the_tag() {
        let folder = tempfile::tempdir().unwrap();
        let (store, name) = (Folder::new(folder.path()), ObjectName::only(ObjectKind::CopyIntent));
        let authorship = key(folder.path(), "key").authorship([1; 16]);
        let path = folder.path().join("copy.json");
        write_object(&store, &name, &Example { format: FORMAT, rows: 12 }, &authorship).unwrap();
        let whole = fs::read(&path).unwrap();
        let content = &whole[BEFORE_DIGEST.len() + 64 + AFTER_DIGEST.len()..];
        let untagged = &content[BEFORE_TAG.len() + 64 + AFTER_DIGEST.len()..];
        for at in 0..content.len() {
            let mut changed = content.to_vec();
            changed[at] ^= 1;
            fs::write(&path, with_digest(&changed)).unwrap();
            let kind = read_object::<Example>(&store, &name, &authorship).unwrap_err().kind();
            assert!(matches!(kind, Kind::Damaged | Kind::Refused), "byte {at}: {kind:?}");
        }
        fs::write(&path, with_digest(untagged)).unwrap();
        assert!(read_json::<Example>(&store, &name).is_ok());
        assert_eq!(read_object::<Example>(&store, &name, &authorship).unwrap_err().kind(), Kind::Damaged);
    }

    #[test]
    fn nothing_is_written_to_a_history_whose_key_is_not_given() {
        let folder = tempfile::tempdir().unwrap();
        let (store, name) = (Folder::new(folder.path()), ObjectName::only(ObjectKind::CopyIntent));
        let path = folder.path().join("copy.json");
        let written =
            write_object(&store, &name, &Example { format: FORMAT, rows: 1 }, &Authorship::Unchecked);
        assert_eq!(written.unwrap_err().kind(), Kind::Refused);
        assert!(!path.exists());
    }
}
