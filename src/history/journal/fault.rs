//! Faults of bytes, before it is known in which segment the bytes lie.

use crate::error::Error;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SegmentFault {
    /// The bytes are sound, but in a version that this program does not know.
    Newer,
    Bad(String),
}

impl SegmentFault {
    pub(super) fn bad(what: impl Into<String>) -> SegmentFault {
        SegmentFault::Bad(what.into())
    }

    /// The error for a person: the segment, the offset in bytes, the fault, and the next command.
    pub(super) fn at(self, place: &str, offset: u64) -> Error {
        match self {
            SegmentFault::Newer => newer(place),
            SegmentFault::Bad(what) => {
                Error::damage_met(format_args!("{place} is damaged at byte {offset}: {what}"))
            }
        }
    }
}

pub(super) fn newer(place: &str) -> Error {
    Error::refused(format!("{place} was written by a newer backwhen; update backwhen"))
}
