//! Keeps a copy of an open segment up to date while its writer goes on.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use super::block;
use super::name::SegmentHeader;
use super::segment::open_file;
use super::walk::{Tail, Walk, WalkedBlock, walk};
use crate::error::{Context, Error, Kind, Result};
use crate::history::key::Authorship;
use crate::model::Lsn;
use crate::store::files::{Growing, NewFile};

/// What an open segment holds up to its last complete transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub bytes: u64,
    /// The frontier there.
    pub end: Lsn,
}

/// Brings the copy of an open segment up to the original's last complete transaction, and returns the
/// bytes that were added. The copy is a valid open segment at every instant: it is made whole, and
/// grows as the original did, in steps that were each durable before the next was written.
///
/// # Errors
/// `Damaged` if either is, `Refused` if the copy is not a beginning of the original, `Unavailable` if
/// the original is not there (it may have been sealed just now) or the disk fails.
pub fn mirror(original: &Path, copy: &Path, authorship: &Authorship) -> Result<u64> {
    let (file, walked) = look(original, authorship)?;
    // What is copied must not vanish from the original: a power cut could take what only its writer's
    // kernel has, and other bytes would then be written in its place.
    file.sync_all().context(Kind::Unavailable, || format!("cannot sync {}", original.display()))?;
    if !copy.exists() {
        let mut new = NewFile::create(copy)?;
        let copied = std::io::copy(&mut (&file).take(walked.complete_len), &mut new);
        copied.and_then(|_| new.flush()).context(Kind::Unavailable, || not_copied(original, copy))?;
        new.publish()?;
        return Ok(walked.complete_len);
    }
    let (held, known) = look(copy, authorship)?;
    if known.complete_len > walked.complete_len || !same_beginning(&file, &held, known.complete_len)? {
        return Err(Error::refused(format!(
            "{} is not a beginning of {}: the two histories have gone separate ways; copy to a new folder",
            copy.display(),
            original.display()
        )));
    }
    grow(&file, &walked, copy, &known).context(Kind::Unavailable, || not_copied(original, copy))?;
    Ok(walked.complete_len - known.complete_len)
}

/// Reads an open segment, without its records.
///
/// # Errors
/// `Damaged` if what had been synced is bad, `Unavailable` if it cannot be read.
pub fn held(path: &Path, authorship: &Authorship) -> Result<Held> {
    look(path, authorship).map(|(_, walk)| Held { bytes: walk.complete_len, end: walk.frontier })
}

fn look(path: &Path, authorship: &Authorship) -> Result<(File, Walk)> {
    let (file, len) = open_file(path)?;
    let header = SegmentHeader::read(&file, false).map_err(|fault| fault.at(path, 0))?;
    let key = header.key(path, authorship).map_err(|fault| fault.at(path, 0))?;
    let walk = walk(&file, header.start, len, key.as_ref());
    match walk.tail {
        Tail::Whole | Tail::Incomplete | Tail::Torn => Ok((file, walk)),
        Tail::Damaged { offset, what } => Err(super::fault::Fault::Bad(what).at(path, offset)),
        Tail::Newer => Err(super::fault::newer(path)),
    }
}

fn same_beginning(one: &File, other: &File, len: u64) -> Result<bool> {
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

/// Appends the blocks that the copy lacks. A sound block tells how much had been synced when it was
/// written; so none may reach the disk before what it vouches for.
fn grow(file: &File, walked: &Walk, copy: &Path, known: &Walk) -> std::io::Result<()> {
    let target = Growing::open(copy).map_err(std::io::Error::other)?;
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
        block::read_exact(file, &mut bytes, *offset)
            .map_err(|_| std::io::Error::other("the segment became shorter while it was copied"))?;
        target.write_at(&bytes, *offset)?;
    }
    target.sync()
}

fn not_copied(from: &Path, to: &Path) -> String {
    format!("cannot copy {} to {}", from.display(), to.display())
}
