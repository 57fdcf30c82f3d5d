//! Keeps a copy of an open segment up to date while its writer goes on.

use super::block;
use super::increments::IncrementChain;
use super::name::SegmentName;
use super::place::{Journal, SegmentBytes};
use super::walk::{Tail, Walk, WalkedBlock, WalkedTo, walk, walk_from};
use super::writer::Durable;
use crate::error::{Context, Error, Kind, Result};
use crate::history::key::SegmentKey;
use crate::model::Lsn;
use crate::store::{Object, Store};

/// The end of the last complete transaction of an open segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenSegmentEnd {
    pub bytes: u64,
    /// The frontier at that end.
    pub end: Lsn,
}

/// A position up to which a copy has the journal of an epoch, and an image of that epoch to recover from. Only a standing
/// copy makes one, after the store has taken all objects up to there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopiedEnd {
    epoch: u32,
    end: Lsn,
}

impl CopiedEnd {
    pub(in crate::history) fn new(epoch: u32, end: Lsn) -> CopiedEnd {
        CopiedEnd { epoch, end }
    }

    pub fn epoch(self) -> u32 {
        self.epoch
    }

    pub fn lsn(self) -> Lsn {
        self.end
    }
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
    if copy.is_remote() {
        return FollowedSegment::begin(original, &*copy.store, name)?.follow(original, &*copy.store, None);
    }
    let (bytes, walked) = look(original, name)?;
    // Copied bytes must not vanish from the original: a power cut could take bytes that only the kernel of its writer has,
    // and other bytes would then be written in their place.
    original.spool.sync(&name.stem())?;
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

/// An open segment whose copy in an object store is kept up to date. What was sent is not looked at again.
pub struct FollowedSegment {
    name: SegmentName,
    chain: IncrementChain,
    walked: WalkedTo,
    key: Option<SegmentKey>,
}

impl FollowedSegment {
    /// Finds what the store has of an open segment, and compares it.
    ///
    /// # Errors
    /// Fails as [`mirror`] does.
    pub fn begin(original: &Journal, store: &dyn Store, name: SegmentName) -> Result<FollowedSegment> {
        let bytes = original.open(name)?;
        let (header, key) = bytes.begin(&original.authorship)?;
        let chain = IncrementChain::find(store, name, &*bytes.object)?;
        Ok(FollowedSegment { name, chain, walked: WalkedTo::start(header.start), key })
    }

    pub fn name(&self) -> SegmentName {
        self.name
    }

    /// The number of objects that the segment's copy consists of.
    pub fn increments(&self) -> usize {
        self.chain.count()
    }

    /// Puts what the store lacks up to the last complete transaction or, if `durable` is given, up to that position, which the
    /// writer is known to have synced. Otherwise the segment is synced first, since copied bytes must not vanish from the
    /// original: a power cut could take bytes that only the kernel has, and other bytes would be written in their place.
    ///
    /// # Errors
    /// Fails as [`mirror`] does.
    pub fn follow(
        &mut self,
        original: &Journal,
        store: &dyn Store,
        durable: Option<Durable>,
    ) -> Result<Mirrored> {
        let bytes = original.open(self.name)?;
        let mut walk =
            checked(&bytes, walk_from(&*bytes.object, self.walked, bytes.len(), self.key.as_ref()))?;
        match durable {
            None => original.spool.sync(&self.name.stem())?,
            Some(durable) if durable.lsn() < walk.frontier => {
                let ends = walk.blocks.iter().filter(|block| !block.header.ends_inside());
                let last = ends.take_while(|block| block.header.after <= durable.lsn()).last();
                let len = last.map_or(self.walked.offset(), |block| block.offset + block.header.whole_len());
                walk = checked(&bytes, walk_from(&*bytes.object, self.walked, len, self.key.as_ref()))?;
            }
            Some(_) => {}
        }
        let sent = self.chain.send(store, &*bytes.object, walk.complete_len)?;
        self.walked = walk.end();
        Ok(Mirrored { bytes: sent, end: walk.frontier })
    }
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
    let walk = checked(&bytes, walk(&*bytes.object, header.start, bytes.len(), key.as_ref()))?;
    Ok((bytes, walk))
}

fn checked(bytes: &SegmentBytes, walk: Walk) -> Result<Walk> {
    match walk.tail {
        Tail::Whole | Tail::Incomplete | Tail::Torn => Ok(walk),
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
        target.write_at(&[&bytes], *offset)?;
    }
    target.sync()
}
