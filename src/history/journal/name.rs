//! Segment files: their names, their headers, and which of them lie in a folder.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::block;
use super::fault::Fault;
use crate::error::{Context, Kind, Result};
use crate::history::key::{Authorship, SegmentKey};
use crate::model::Lsn;
use crate::store::{ObjectKind, ObjectName};

pub(super) const OPEN: &str = "open";
pub(super) const SEALED: &str = "seg";

const OPEN_MAGIC: [u8; 8] = *b"bwjopen\n";
const SEALED_MAGIC: [u8; 8] = *b"bwjseal\n";
pub(super) const VERSION: u32 = 1;
pub(super) const HEADER_LEN: usize = 44;

/// A segment in a journal's folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentFile {
    pub epoch: u32,
    /// The frontier at which the segment starts.
    pub start: Lsn,
    pub path: PathBuf,
    pub sealed: bool,
}

impl SegmentFile {
    /// The name of the segment as an object, which it is once it is sealed.
    pub fn object(&self) -> ObjectName {
        ObjectName::new(ObjectKind::Segment, stem(self.epoch, self.start))
    }
}

/// The segments in a folder, by epoch and start; of a segment in both forms, the sealed one.
///
/// # Errors
/// `Unavailable` if the folder cannot be read; a folder that is not there holds nothing.
pub fn list(folder: &Path) -> Result<Vec<SegmentFile>> {
    let mut files = list_all(folder)?;
    // Sealed ones sort first within a segment.
    files.sort_by_key(|file| (file.epoch, file.start, !file.sealed));
    files.dedup_by_key(|file| (file.epoch, file.start));
    Ok(files)
}

/// Every segment file, also both forms of one; unsorted. Other names are passed over.
///
/// # Errors
/// As [`list`].
pub fn list_all(folder: &Path) -> Result<Vec<SegmentFile>> {
    let failed = || format!("cannot read folder {}", folder.display());
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(Kind::Unavailable, failed)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.context(Kind::Unavailable, failed)?.path();
        files.extend(parse(&path));
    }
    Ok(files)
}

/// What a path's name says, if it is a segment's.
pub fn parse(path: &Path) -> Option<SegmentFile> {
    let (stem, ending) = path.file_name()?.to_str()?.split_once('.')?;
    let sealed = match ending {
        SEALED => true,
        OPEN => false,
        _ => return None,
    };
    let (epoch, start) = stem.split_once('-')?;
    let (epoch, start) = (epoch.parse().ok()?, Lsn(u64::from_str_radix(start, 16).ok()?));
    // Only the one way of writing a name counts, so that no segment has two.
    (self::stem(epoch, start) == stem).then(|| SegmentFile { epoch, start, path: path.to_owned(), sealed })
}

pub(super) fn path(folder: &Path, epoch: u32, start: Lsn, ending: &str) -> PathBuf {
    folder.join(format!("{}.{ending}", stem(epoch, start)))
}

fn stem(epoch: u32, start: Lsn) -> String {
    format!("{epoch:04}-{:016x}", start.0)
}

/// The first bytes of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub history: [u8; 16],
    pub epoch: u32,
    pub start: Lsn,
}

impl SegmentHeader {
    pub(super) fn encode(&self, sealed: bool) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..8].copy_from_slice(if sealed { &SEALED_MAGIC } else { &OPEN_MAGIC });
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..28].copy_from_slice(&self.history);
        out[28..32].copy_from_slice(&self.epoch.to_le_bytes());
        out[32..40].copy_from_slice(&self.start.0.to_le_bytes());
        let crc = crc32c::crc32c(&out[..HEADER_LEN - 4]);
        out[HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(super) fn read(file: &File, sealed: bool) -> Result<SegmentHeader, Fault> {
        let mut bytes = [0; HEADER_LEN];
        block::read_exact(file, &mut bytes, 0)?;
        let crc = u32::from_le_bytes(bytes[HEADER_LEN - 4..].try_into().expect("four bytes"));
        let magic = if sealed { &SEALED_MAGIC } else { &OPEN_MAGIC };
        if bytes[..8] != *magic || crc != crc32c::crc32c(&bytes[..HEADER_LEN - 4]) {
            return Err(Fault::bad("the segment's header does not check"));
        }
        match u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes")) {
            VERSION => {}
            0 => return Err(Fault::bad("the segment's version is 0")),
            _ => return Err(Fault::Newer),
        }
        Ok(SegmentHeader {
            history: bytes[12..28].try_into().expect("sixteen bytes"),
            epoch: u32::from_le_bytes(bytes[28..32].try_into().expect("four bytes")),
            start: Lsn(u64::from_le_bytes(bytes[32..40].try_into().expect("eight bytes"))),
        })
    }

    /// What the segment's tags are checked with, if the key was given. A tag is bound to the history, the
    /// epoch and the start, so that no segment can be put in another's place.
    pub(super) fn key(&self, path: &Path, authorship: &Authorship) -> Result<Option<SegmentKey>, Fault> {
        let Some(key) = authorship.key() else { return Ok(None) };
        if !self.agrees_with(path) {
            return Err(Fault::bad("the header names another epoch or start than the file's name"));
        }
        if self.history != key.history() {
            return Err(Fault::bad("it belongs to another history"));
        }
        Ok(Some(key.segment(self.epoch, self.start)))
    }

    /// Whether the file's name says the same; a file by another name is taken at its header's word
    /// only by whoever asks for it by path.
    pub(super) fn agrees_with(&self, path: &Path) -> bool {
        parse(path).is_some_and(|name| (name.epoch, name.start) == (self.epoch, self.start))
    }
}

/// The id of the history that a segment's header names; none if the header does not check.
pub fn history_of(path: &Path) -> Option<[u8; 16]> {
    let sealed = parse(path)?.sealed;
    SegmentHeader::read(&File::open(path).ok()?, sealed).ok().map(|header| header.history)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_segments_in_order_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "0002-0000000000000010.open",
            "0001-0000000000000020.open",
            "0001-0000000000000020.seg",
            "0001-0000000000000003.seg",
            "0001-0000000000000030.seg.77.tmp",
            "1-30.seg",
            "0001-00000000000000AB.seg",
            "notes.txt",
        ] {
            fs::write(folder.path().join(name), b"").unwrap();
        }
        let found: Vec<_> =
            list(folder.path()).unwrap().into_iter().map(|f| (f.epoch, f.start.0, f.sealed)).collect();
        assert_eq!(found, [(1, 3, true), (1, 0x20, true), (2, 0x10, false)]);
        assert!(list(&folder.path().join("absent")).unwrap().is_empty());
    }
}
