//! JSON objects of the history. Each begins with a digest of itself, so that a flipped bit in a
//! number is damage that has a name, not another number.
//!
//! ```text
//! {
//!   "digest": "64 hexadecimal digits: BLAKE3 of all bytes after this line",
//!   "format": 1,
//!   ...
//! ```

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{SIGNED_FORMAT, files};
use crate::error::{Context, Error, Kind, Result};

const BEFORE_DIGEST: &[u8] = b"{\n  \"digest\": \"";
const AFTER_DIGEST: &[u8] = b"\",\n";

/// Reads an object of the history; `None` if there is none.
///
/// # Errors
/// `Refused` if a newer backwhen wrote it, `Damaged` if it cannot be read as what it should be.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).context(Kind::Unavailable, || format!("cannot read {}", path.display()));
        }
    };
    // First of all, since a newer format may keep its digest elsewhere.
    refuse_newer(path, &bytes)?;
    if !agrees_with_digest(&bytes) {
        return Err(Error::damaged(format!(
            "{} is damaged: its digest does not agree with its bytes; bring it back from a copy of the history with `backwhen repair`",
            path.display()
        )));
    }
    serde_json::from_slice(&bytes)
        .map(Some)
        .context(Kind::Damaged, || format!("{} is damaged", path.display()))
}

fn refuse_newer(path: &Path, bytes: &[u8]) -> Result<()> {
    #[derive(Deserialize)]
    struct Versioned {
        format: u32,
    }
    match serde_json::from_slice(bytes) {
        Ok(Versioned { format }) if format > SIGNED_FORMAT => Err(Error::refused(format!(
            "{} has format {format}, this backwhen knows up to {SIGNED_FORMAT}; update backwhen",
            path.display()
        ))),
        // What is no JSON at all has no digest that agrees either.
        _ => Ok(()),
    }
}

fn agrees_with_digest(bytes: &[u8]) -> bool {
    let parts = bytes.strip_prefix(BEFORE_DIGEST).and_then(|rest| rest.split_at_checked(64));
    let Some((digest, rest)) = parts else { return false };
    let content = rest.strip_prefix(AFTER_DIGEST);
    content.is_some_and(|content| blake3::hash(content).to_hex().as_bytes() == digest)
}

/// Writes an object of the history, durable.
///
/// # Errors
/// `Unavailable` if the disk does not take it.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    files::write_new(
        path,
        &encode(value).context(Kind::Internal, || format!("cannot write {}", path.display()))?,
    )
}

fn encode<T: Serialize>(value: &T) -> serde_json::Result<Vec<u8>> {
    let pretty = serde_json::to_vec_pretty(value)?;
    // An object with at least one field is written as `{`, a line's end, and its fields.
    let mut content = pretty.strip_prefix(b"{\n").unwrap_or(&pretty).to_vec();
    content.push(b'\n');
    Ok(with_digest(&content))
}

/// The whole object whose bytes behind the line of the digest are `content`.
pub(super) fn with_digest(content: &[u8]) -> Vec<u8> {
    let digest = blake3::hash(content).to_hex();
    [BEFORE_DIGEST, digest.as_bytes(), AFTER_DIGEST, content].concat()
}

#[cfg(test)]
mod tests {
    use super::super::FORMAT;
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Example {
        format: u32,
        rows: u64,
    }

    #[test]
    fn every_flipped_bit_is_damage_or_a_newer_format() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("object.json");
        write_json(&path, &Example { format: FORMAT, rows: 12_345 }).unwrap();
        let whole = fs::read(&path).unwrap();
        assert_eq!(read_json(&path).unwrap(), Some(Example { format: FORMAT, rows: 12_345 }));
        assert!(serde_json::from_slice::<serde_json::Value>(&whole).is_ok(), "still plain JSON");
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                fs::write(&path, bytes).unwrap();
                let kind = read_json::<Example>(&path).unwrap_err().kind();
                assert!(matches!(kind, Kind::Damaged | Kind::Refused), "byte {at}, bit {bit}: {kind:?}");
            }
        }
    }

    #[test]
    fn a_newer_format_is_refused_before_its_digest_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("object.json");
        fs::write(&path, b"{ \"format\": 99 }").unwrap();
        let error = read_json::<Example>(&path).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.message().contains("update backwhen"), "{error}");
    }
}
