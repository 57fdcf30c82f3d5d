//! Keeps a copy of an open segment up to date while its writer goes on.

use super::block;
use super::increments;
use super::name::SegmentName;
use super::place::{Journal, SegmentBytes};
use super::walk::{Tail, Walk, WalkedBlock, walk};
use crate::error::{Context, Error, Kind, Result};
use crate::model::Lsn;
use crate::store::Object;

/// The end of the last complete transaction of an open segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenSegmentEnd {
    pub bytes: u64,
    /// The frontier at that end.
    pub end: Lsn,
}

/// The outcome of [`mirror`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mirrored {
    /// The bytes that the copy lacked.
    pub bytes: u64,
    /// The frontier at the end of the copy.
    pub end: Lsn,
}

/// Brings the copy of an open segment up to the original's last complete transaction. The copy is a valid open segment at every instant: it is made whole, and grows as the original
/// did, in steps of which each is durable before the next one is written.
///
/// # Errors
/// `Damaged` if either is damaged, `Refused` if the copy is not a beginning of the original, `Unavailable` if
/// the original is not there (it may have been sealed just now) or the disk fails.
pub fn mirror(original: &Journal, copy: &Journal, name: SegmentName) -> Result<Mirrored> {
    let (bytes, walked) = look(original, name)?;
    // Copied bytes must not vanish from the original: a power cut could take bytes that only the kernel of its writer has,
    // and other bytes would then be written in their place.
    original.spool.sync(&name.stem())?;
    if copy.is_remote() {
        let bytes = increments::send(&*copy.store, name, &*bytes.object, walked.complete_len)?;
        return Ok(Mirrored { bytes, end: walked.frontier });
    }
    if !copy.holds(name)? {
        copy.spool.begin(&name.stem(), &*bytes.object, walked.complete_len)?;
        return Ok(Mirrored { bytes: walked.complete_len, end: walked.frontier });
    }
    let (held, known) = look(copy, name)?;
    if known.complete_len > walked.complete_len
        || !same_beginning(&*bytes.object, &*held.object, known.complete_len)?
    {
        return Err(Error::refused(format!(
            "{} is not a beginning of {}: the two histories have gone separate ways; copy to a new folder",
            held.place, bytes.place
        )));
    }
    let grown = grow(&*bytes.object, &walked, copy, name, &known);
    grown.context(Kind::Unavailable, || format!("cannot copy {} to {}", bytes.place, held.place))?;
    Ok(Mirrored { bytes: walked.complete_len - known.complete_len, end: walked.frontier })
}

/// Finds where the last complete transaction of an open segment ends, without reading records.
///
/// # Errors
/// `Damaged` if synced bytes are bad, `Unavailable` if the segment cannot be read.
pub fn open_segment_end(journal: &Journal, name: SegmentName) -> Result<OpenSegmentEnd> {
    look(journal, name).map(|(_, walk)| OpenSegmentEnd { bytes: walk.complete_len, end: walk.frontier })
}

fn look(journal: &Journal, name: SegmentName) -> Result<(SegmentBytes, Walk)> {
    let bytes = journal.open(name)?;
    let (header, key) = bytes.begin(&journal.authorship)?;
    let walk = walk(&*bytes.object, header.start, bytes.len(), key.as_ref());
    match walk.tail {
        Tail::Whole | Tail::Incomplete | Tail::Torn => Ok((bytes, walk)),
        Tail::Damaged { offset, what } => Err(bytes.fault(offset, super::fault::SegmentFault::Bad(what))),
        Tail::Newer => Err(super::fault::newer(&bytes.place)),
    }
}

fn same_beginning(one: &dyn Object, other: &dyn Object, len: u64) -> Result<bool> {
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    while at < len {
        let size = left.len().min((len - at) as usize);
        for (file, chunk) in [(one, &mut left), (other, &mut right)] {
            let read = block::read_exact(file, &mut chunk[..size], at);
            read.map_err(|_| Error::unavailable("a segment became shorter while it was copied; try again"))?;
        }
        if left[..size] != right[..size] {
            return Ok(false);
        }
        at += size as u64;
    }
    Ok(true)
}

/// Appends the blocks that the copy lacks. A sound block tells how many bytes had been synced when it was written, so no
/// block may reach the disk before these bytes.
fn grow(
    original: &dyn Object,
    walked: &Walk,
    copy: &Journal,
    name: SegmentName,
    known: &Walk,
) -> std::io::Result<()> {
    let target = copy.spool.append(&name.stem()).map_err(std::io::Error::other)?;
    if known.len > known.complete_len {
        target.cut(known.complete_len)?;
    }
    let mut synced = known.complete_len;
    let mut bytes = Vec::new();
    let missing = walked.blocks.iter().filter(|block| block.offset >= known.complete_len);
    for WalkedBlock { offset, header, .. } in missing {
        if header.synced > synced {
            target.sync()?;
            synced = *offset;
        }
        bytes.resize(header.whole_len() as usize, 0);
        block::read_exact(original, &mut bytes, *offset)
            .map_err(|_| std::io::Error::other("the segment became shorter while it was copied"))?;
        target.write_at(&bytes, *offset)?;
    }
    target.sync()
}
