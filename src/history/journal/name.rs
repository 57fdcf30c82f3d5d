//! The names of segments, and the headers that they begin with.

use super::block;
use super::fault::SegmentFault;
use crate::history::key::{Authorship, SegmentKey};
use crate::model::Lsn;
use crate::store::{Object, ObjectKind, ObjectName};

const OPEN_MAGIC: [u8; 8] = *b"bwjopen\n";
const SEALED_MAGIC: [u8; 8] = *b"bwjseal\n";
pub(super) const VERSION: u32 = 1;
pub(super) const HEADER_LEN: usize = 44;

/// A segment in one of its two forms: an open file of the spool, or, once it is sealed, an object of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentName {
    pub epoch: u32,
    /// The frontier at which the segment starts.
    pub start: Lsn,
    pub sealed: bool,
}

impl SegmentName {
    pub(super) fn open(epoch: u32, start: Lsn) -> SegmentName {
        SegmentName { epoch, start, sealed: false }
    }

    /// Reads the name of a segment from the stem of its file; `None` if no segment has such a name.
    pub(super) fn parse(stem: &str, sealed: bool) -> Option<SegmentName> {
        let (epoch, start) = stem.split_once('-')?;
        let (epoch, start) = (epoch.parse().ok()?, Lsn(u64::from_str_radix(start, 16).ok()?));
        let name = SegmentName { epoch, start, sealed };
        // A name is accepted in one spelling only, so that no segment has two names.
        (name.stem() == stem).then_some(name)
    }

    /// Returns the sealed segment that is this object; `None` if the object is no segment.
    pub fn of_object(name: &ObjectName) -> Option<SegmentName> {
        if name.kind() == ObjectKind::Segment { SegmentName::parse(name.stem(), true) } else { None }
    }

    /// Returns the name of the segment in its sealed form, or in its open form.
    pub fn form(self, sealed: bool) -> SegmentName {
        SegmentName { sealed, ..self }
    }

    /// Returns the name of the object that the segment is in its sealed form.
    pub fn object(&self) -> ObjectName {
        ObjectName::new(ObjectKind::Segment, self.stem())
    }

    pub(super) fn stem(&self) -> String {
        format!("{:04}-{:016x}", self.epoch, self.start.0)
    }

    /// Returns the name of the file, without its folder.
    pub fn file_name(&self) -> String {
        format!("{}.{}", self.stem(), if self.sealed { "seg" } else { "open" })
    }
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

    pub(super) fn read(object: &dyn Object, sealed: bool) -> Result<SegmentHeader, SegmentFault> {
        let mut bytes = [0; HEADER_LEN];
        block::read_exact(object, &mut bytes, 0)?;
        let crc = u32::from_le_bytes(bytes[HEADER_LEN - 4..].try_into().expect("four bytes"));
        let magic = if sealed { &SEALED_MAGIC } else { &OPEN_MAGIC };
        if bytes[..8] != *magic || crc != crc32c::crc32c(&bytes[..HEADER_LEN - 4]) {
            return Err(SegmentFault::bad("the segment's header does not check"));
        }
        match u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes")) {
            VERSION => {}
            0 => return Err(SegmentFault::bad("the segment's version is 0")),
            _ => return Err(SegmentFault::Newer),
        }
        Ok(SegmentHeader {
            history: bytes[12..28].try_into().expect("sixteen bytes"),
            epoch: u32::from_le_bytes(bytes[28..32].try_into().expect("four bytes")),
            start: Lsn(u64::from_le_bytes(bytes[32..40].try_into().expect("eight bytes"))),
        })
    }

    /// Returns the key that the segment's tags are checked with, if the history's key was given. A tag is bound to the
    /// history, the epoch and the start, so that no segment can be put in the place of another one.
    pub(super) fn key(
        &self,
        name: SegmentName,
        authorship: &Authorship,
    ) -> Result<Option<SegmentKey>, SegmentFault> {
        let Some(key) = authorship.key() else { return Ok(None) };
        if !self.agrees_with(name) {
            return Err(SegmentFault::bad("the header names another epoch or start than the file's name"));
        }
        if self.history != key.history() {
            return Err(SegmentFault::bad("it belongs to another history"));
        }
        Ok(Some(key.segment(self.epoch, self.start)))
    }

    /// Whether the segment's name has the epoch and start of the header.
    pub(super) fn agrees_with(&self, name: SegmentName) -> bool {
        (name.epoch, name.start) == (self.epoch, self.start)
    }
}
