//! Reads every byte of a segment, and names every fault.

use super::block;
use super::fault::{self, SegmentFault};
use super::footer::{self, Footer};
use super::index::Index;
use super::name::{HEADER_LEN, SegmentHeader, SegmentName};
use super::place::{Journal, SegmentBytes};
use super::summary::SegmentSummary;
use super::walk::{Tail, WalkedBlock, walk};
use crate::error::Result;
use crate::history::key::{Authorship, SegmentKey};
use crate::store::{Object, ObjectName, Store};

/// The findings of reading a whole segment.
#[derive(Clone, Debug)]
pub struct SegmentReport {
    /// The bytes of the segment.
    pub bytes: u64,
    /// The summary of the segment, if all of it could be read.
    pub summary: Option<SegmentSummary>,
    /// The bytes behind an open segment's last complete transaction. They are no fault, as the next capture cuts them off.
    pub unfinished_bytes: u64,
    /// The faults, a sentence for each with the offset in bytes; empty if the segment is sound.
    pub faults: Vec<String>,
}

impl SegmentReport {
    fn fault(&mut self, offset: u64, fault: SegmentFault) {
        self.faults.push(match fault {
            SegmentFault::Bad(what) => format!("at byte {offset}: {what}"),
            SegmentFault::Newer => format!("at byte {offset}: written by a newer backwhen"),
        });
    }
}

/// Reads every byte of a segment of either form.
///
/// # Errors
/// `Unavailable` if the segment cannot be opened, `Refused` if it is of a newer version. Damage is no error here, but is
/// named in the report.
pub fn verify_segment(journal: &Journal, name: SegmentName) -> Result<SegmentReport> {
    let bytes = journal.open(name)?;
    let mut report =
        SegmentReport { bytes: bytes.len(), summary: None, unfinished_bytes: 0, faults: Vec::new() };
    match bytes.header() {
        Err(SegmentFault::Newer) => return Err(fault::newer(&bytes.place)),
        Err(fault) => report.fault(0, fault),
        Ok(header) => {
            if !header.agrees_with(name) {
                report.fault(
                    0,
                    SegmentFault::bad("the header names another epoch or start than the file's name"),
                );
            }
            // The bytes of a segment under a wrong name are read all the same.
            let key = header.key(name, &journal.authorship).ok().flatten();
            if name.sealed {
                verify_sealed(&*bytes.object, &header, key.as_ref(), &mut report);
            } else {
                verify_open(&*bytes.object, &header, key.as_ref(), &mut report);
            }
        }
    }
    Ok(report)
}

fn verify_open(
    object: &dyn Object,
    header: &SegmentHeader,
    key: Option<&SegmentKey>,
    report: &mut SegmentReport,
) {
    let walk = walk(object, header.start, report.bytes, key);
    report.unfinished_bytes = walk.len - walk.complete_len;
    match walk.tail {
        Tail::Damaged { offset, what } => report.fault(offset, SegmentFault::Bad(what)),
        Tail::Newer => report.fault(walk.complete_len, SegmentFault::Newer),
        Tail::Whole | Tail::Incomplete | Tail::Torn => {}
    }
    let mut index = Index::new(header.epoch, header.start);
    for WalkedBlock { offset, digest, .. } in walk.blocks {
        let read = block::read(object, offset, walk.complete_len - offset, digest.as_ref())
            .and_then(|read| index.block(offset, &read.header, &read.raw, digest));
        if let Err(fault) = read {
            report.fault(offset, fault);
            return;
        }
    }
    report.summary = Some(index.finish().0.summary);
}

fn verify_sealed(
    object: &dyn Object,
    header: &SegmentHeader,
    key: Option<&SegmentKey>,
    report: &mut SegmentReport,
) {
    let (footer, trailer) = match footer::read(object, report.bytes, key) {
        Ok(found) => found,
        Err((offset, fault)) => {
            report.fault(offset, fault);
            // Without a footer the blocks can still be walked, to say how far they are sound.
            verify_blocks(object, header, report.bytes, None, report);
            return;
        }
    };
    if digest(object, report.bytes) != Ok(trailer.digest) {
        report.fault(0, SegmentFault::bad("the file's digest does not agree with its bytes"));
    }
    verify_blocks(object, header, trailer.footer_offset, Some(&footer), report);
    report.summary = Some(footer.summary);
}

/// Reads the blocks one after the other, and compares their content with the footer.
fn verify_blocks(
    object: &dyn Object,
    header: &SegmentHeader,
    end: u64,
    footer: Option<&Footer>,
    report: &mut SegmentReport,
) {
    let mut index = Index::new(header.epoch, header.start);
    if let Some(changes) = footer.and_then(|it| it.changes.as_ref()) {
        index = index.in_form_of(changes);
    }
    let mut index = Some(index);
    if let (Some(index), Some(footer)) = (&mut index, footer) {
        for message in &footer.relations_at_start {
            if let Err(fault) = index.relation_at_start(message) {
                report.fault(end, fault);
            }
        }
    }
    let has_digests = footer.is_some_and(|it| it.blocks.iter().any(|block| block.digest.is_some()));
    let mut at = HEADER_LEN as u64;
    while at < end {
        let (next, fault) = match block::read(object, at, end - at, None) {
            Ok(read) => {
                let digest = has_digests.then(|| read.digest());
                let take = |index: &mut Index| index.block(at, &read.header, &read.raw, digest).err();
                (Some(at + read.header.whole_len()), index.as_mut().and_then(take))
            }
            Err(fault) => (next_block(footer, at), Some(fault)),
        };
        if let Some(fault) = fault {
            report.fault(at, fault);
            // From here on each block is checked by itself only.
            index = None;
        }
        let Some(next) = next else { return };
        at = next;
    }
    if let (Some(index), Some(footer)) = (index, footer)
        && !index.finish().0.agrees_with(footer)
    {
        report.fault(end, SegmentFault::bad("the footer does not agree with the blocks"));
    }
}

fn next_block(footer: Option<&Footer>, after: u64) -> Option<u64> {
    footer?.blocks.iter().map(|block| block.offset).find(|&offset| offset > after)
}

/// Returns the digest of a sealed segment of `len` bytes, which its trailer should have.
fn digest(object: &dyn Object, len: u64) -> Result<[u8; 32], SegmentFault> {
    let mut hasher = blake3::Hasher::new();
    let end = footer::digested_len(len);
    let mut chunk = vec![0; 1 << 20];
    let mut at = 0;
    while at < end {
        let size = chunk.len().min((end - at) as usize);
        block::read_exact(object, &mut chunk[..size], at)?;
        hasher.update(&chunk[..size]);
        at += size as u64;
    }
    Ok(*hasher.finalize().as_bytes())
}

/// Checks every byte of a sealed segment against its digest and, with a key, against the digests and tags that a holder of
/// the key wrote. Returns the footer.
///
/// # Errors
/// `Damaged` if a byte does not agree, `Refused` for a newer version, `Unavailable` if the segment is not there.
pub fn check_digest(store: &dyn Store, name: &ObjectName, authorship: &Authorship) -> Result<Footer> {
    let bytes = SegmentBytes::sealed(store, name)?;
    let (header, key) = bytes.begin(authorship)?;
    let (footer, trailer) = footer::read_checked(&bytes, key.as_ref())?;
    if !header.agrees_with(bytes.name)
        || (footer.summary.epoch, footer.summary.start) != (header.epoch, header.start)
    {
        return Err(bytes.fault(0, SegmentFault::bad("it is another segment than its name says")));
    }
    if digest(&*bytes.object, bytes.len()).map_err(|fault| bytes.fault(0, fault))? != trailer.digest {
        return Err(bytes.fault(0, SegmentFault::bad("the file's digest does not agree with its bytes")));
    }
    if key.is_some() {
        check_blocks(&*bytes.object, &footer, bytes.len())
            .map_err(|(offset, fault)| bytes.fault(offset, fault))?;
    }
    Ok(footer)
}

/// Checks that the blocks are the blocks which the footer vouches for, as a holder of the key wrote it.
fn check_blocks(object: &dyn Object, footer: &Footer, len: u64) -> Result<(), (u64, SegmentFault)> {
    for entry in &footer.blocks {
        let at = entry.offset;
        let (_, proof) =
            block::check_with_proof(object, at, len.saturating_sub(at)).map_err(|fault| (at, fault))?;
        if Some(proof.digest) != entry.digest {
            return Err((at, SegmentFault::bad("another block than its segment vouches for")));
        }
    }
    Ok(())
}
