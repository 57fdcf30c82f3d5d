//! Blocks: a checked header and a compressed run of records. See FORMAT.md.

use std::cell::RefCell;
use std::io::Read;

use super::columns;
use super::fault::SegmentFault;
use crate::history::key::{Digest, Tag};
use crate::model::Lsn;
use crate::store::Object;

pub(super) const HEADER_LEN: usize = 48;
pub(super) const MAGIC: [u8; 4] = *b"BWjb";
/// A block with a tag has version 3, and a block whose records are turned has version 2; all other blocks are written as
/// in version 1.
const VERSION: u8 = 3;
const TURNED_VERSION: u8 = 2;

pub(super) const STARTS_INSIDE: u8 = 1;
pub(super) const ENDS_INSIDE: u8 = 2;
/// The payload is what `columns::turn` made of the records.
pub(super) const TURNED: u8 = 4;
/// A tag follows the payload, as in the open segments of a history with a key.
pub(super) const TAGGED: u8 = 8;
const TAG_LEN: usize = 32;
/// The most bytes of a block that are not its payload.
pub(super) const LONGEST_FRAME: u64 = (HEADER_LEN + TAG_LEN) as u64;

/// The most bytes of records in a block: a single message can be 1 GiB, and at most a block's worth of other messages
/// comes before it. A header that names more is refused.
pub(super) const MAX_RAW: usize = (1 << 30) + (64 << 20);

/// For a block of at most this many bytes, memory is taken as the header says; for a longer one, memory grows with the
/// bytes that really come out.
const BELIEVED: usize = 8 << 20;

thread_local! {
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockHeader {
    pub(super) flags: u8,
    pub(super) raw_len: u32,
    pub(super) stored_len: u32,
    pub(super) before: Lsn,
    pub(super) after: Lsn,
    /// Bytes of the file that were synced when this block was written.
    pub(super) synced: u64,
    pub(super) records: u32,
    pub(super) crc: u32,
}

impl BlockHeader {
    pub(super) fn starts_inside(&self) -> bool {
        self.flags & STARTS_INSIDE != 0
    }

    pub(super) fn ends_inside(&self) -> bool {
        self.flags & ENDS_INSIDE != 0
    }

    pub(super) fn turned(&self) -> bool {
        self.flags & TURNED != 0
    }

    fn is_tagged(&self) -> bool {
        self.flags & TAGGED != 0
    }

    fn tag_len(&self) -> usize {
        if self.is_tagged() { TAG_LEN } else { 0 }
    }

    /// Header, payload and tag together, in bytes.
    pub(super) fn whole_len(&self) -> u64 {
        HEADER_LEN as u64 + u64::from(self.stored_len) + self.tag_len() as u64
    }

    /// Returns the digest of the header and the payload, which a block's tag, or the footer of its segment, vouches for.
    pub(super) fn digest(&self, payload: &[u8]) -> Digest {
        self.hasher().update(payload).finalize()
    }

    fn hasher(&self) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.checked_bytes());
        hasher
    }

    fn checked_bytes(&self) -> [u8; HEADER_LEN - 4] {
        let mut out = [0; HEADER_LEN - 4];
        out[..4].copy_from_slice(&MAGIC);
        out[4] = match (self.is_tagged(), self.turned()) {
            (true, _) => VERSION,
            (false, true) => TURNED_VERSION,
            (false, false) => 1,
        };
        out[5] = self.flags;
        out[8..12].copy_from_slice(&self.raw_len.to_le_bytes());
        out[12..16].copy_from_slice(&self.stored_len.to_le_bytes());
        out[16..24].copy_from_slice(&self.before.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.after.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.synced.to_le_bytes());
        out[40..44].copy_from_slice(&self.records.to_le_bytes());
        out
    }

    /// Sets the checksum over this header, `payload` and the tag, if the header says that there is one, and
    /// returns the header's bytes.
    pub(super) fn seal(&mut self, payload: &[u8], tag: Option<&Tag>) -> [u8; HEADER_LEN] {
        let checked = self.checked_bytes();
        self.crc = crc32c::crc32c_append(crc32c::crc32c(&checked), payload);
        if let Some(tag) = tag {
            self.crc = crc32c::crc32c_append(self.crc, tag.as_bytes());
        }
        let mut out = [0; HEADER_LEN];
        out[..HEADER_LEN - 4].copy_from_slice(&checked);
        out[HEADER_LEN - 4..].copy_from_slice(&self.crc.to_le_bytes());
        out
    }
}

/// A header as it lies in a segment, whose checksum is not checked yet.
struct UncheckedHeader {
    bytes: [u8; HEADER_LEN],
    header: BlockHeader,
}

impl UncheckedHeader {
    /// Reads the header at `offset`. `room` is the number of bytes from there to the end of the stretch where blocks can
    /// lie.
    fn read(object: &dyn Object, offset: u64, room: u64) -> Result<UncheckedHeader, SegmentFault> {
        if room < HEADER_LEN as u64 {
            return Err(SegmentFault::bad("a block's header is cut short"));
        }
        let mut bytes = [0; HEADER_LEN];
        read_exact(object, &mut bytes, offset)?;
        if bytes[..4] != MAGIC {
            return Err(SegmentFault::bad("no block begins here"));
        }
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let header = BlockHeader {
            flags: bytes[5],
            raw_len: u32_at(8),
            stored_len: u32_at(12),
            before: Lsn(u64_at(16)),
            after: Lsn(u64_at(24)),
            synced: u64_at(32),
            records: u32_at(40),
            crc: u32_at(44),
        };
        if header.whole_len() > room {
            return Err(SegmentFault::bad("a block is cut short"));
        }
        Ok(UncheckedHeader { bytes, header })
    }

    /// Checks the header. `crc` is the checksum of the payload, appended to the checksum of the header.
    fn check(self, crc: u32) -> Result<BlockHeader, SegmentFault> {
        if crc != self.header.crc {
            return Err(SegmentFault::bad("a block's checksum does not agree"));
        }
        if self.bytes[4] > VERSION {
            return Err(SegmentFault::Newer);
        }
        let sound = self.bytes[..HEADER_LEN - 4] == self.header.checked_bytes()
            && self.header.flags <= STARTS_INSIDE | ENDS_INSIDE | TURNED | TAGGED
            && self.header.raw_len as usize <= MAX_RAW
            && self.header.before <= self.header.after;
        if sound {
            Ok(self.header)
        } else {
            Err(SegmentFault::bad("a block's header holds impossible values"))
        }
    }

    fn header_crc(&self) -> u32 {
        crc32c::crc32c(&self.bytes[..HEADER_LEN - 4])
    }
}

/// Checks the block at `offset` without keeping its payload.
pub(super) fn check(object: &dyn Object, offset: u64, room: u64) -> Result<BlockHeader, SegmentFault> {
    checked(UncheckedHeader::read(object, offset, room)?, object, offset, |_| {}).map(|(header, _)| header)
}

/// The digest and the tag of a block, which prove who wrote it.
pub(super) struct BlockProof {
    pub(super) digest: Digest,
    /// `None` in a block that bears no tag.
    pub(super) tag: Option<Tag>,
}

/// Checks the block as [`check`] does, and returns the proof of its author, which is taken from the very same bytes.
pub(super) fn check_with_proof(
    object: &dyn Object,
    offset: u64,
    room: u64,
) -> Result<(BlockHeader, BlockProof), SegmentFault> {
    let unchecked = UncheckedHeader::read(object, offset, room)?;
    let mut hasher = unchecked.header.hasher();
    let (header, tag) = checked(unchecked, object, offset, |payload| {
        hasher.update(payload);
    })?;
    Ok((header, BlockProof { digest: hasher.finalize(), tag }))
}

fn checked(
    unchecked: UncheckedHeader,
    object: &dyn Object,
    offset: u64,
    mut see: impl FnMut(&[u8]),
) -> Result<(BlockHeader, Option<Tag>), SegmentFault> {
    let mut crc = unchecked.header_crc();
    let mut at = offset + HEADER_LEN as u64;
    let end = at + u64::from(unchecked.header.stored_len);
    let mut chunk = vec![0; (end - at).min(1 << 20) as usize];
    while at < end {
        let len = chunk.len().min((end - at) as usize);
        read_exact(object, &mut chunk[..len], at)?;
        crc = crc32c::crc32c_append(crc, &chunk[..len]);
        see(&chunk[..len]);
        at += len as u64;
    }
    let mut tag = [0; TAG_LEN];
    let tag = &mut tag[..unchecked.header.tag_len()];
    read_exact(object, tag, end)?;
    let header = unchecked.check(crc32c::crc32c_append(crc, tag))?;
    Ok((header, Tag::from_slice(tag).ok()))
}

/// A block's header and its records, checked and decompressed.
pub(super) struct ReadBlock {
    pub(super) header: BlockHeader,
    pub(super) raw: Vec<u8>,
    stored: Vec<u8>,
}

impl ReadBlock {
    /// See [`BlockHeader::digest`].
    pub(super) fn digest(&self) -> Digest {
        self.header.digest(&self.stored[..self.header.stored_len as usize])
    }
}

/// Reads the block at `offset`. If `expected` is given, a block with another digest is not decompressed.
pub(super) fn read(
    object: &dyn Object,
    offset: u64,
    room: u64,
    expected: Option<&Digest>,
) -> Result<ReadBlock, SegmentFault> {
    let unchecked = UncheckedHeader::read(object, offset, room)?;
    // The block is no longer than the segment: `read` has compared its length with the room.
    let mut stored = vec![0; unchecked.header.stored_len as usize + unchecked.header.tag_len()];
    read_exact(object, &mut stored, offset + HEADER_LEN as u64)?;
    let crc = crc32c::crc32c_append(unchecked.header_crc(), &stored);
    let mut block = ReadBlock { header: unchecked.check(crc)?, raw: Vec::new(), stored };
    if expected.is_some_and(|expected| *expected != block.digest()) {
        return Err(SegmentFault::bad("another block than its segment vouches for"));
    }
    let (payload, raw_len) =
        (&block.stored[..block.header.stored_len as usize], block.header.raw_len as usize);
    block.raw =
        if block.header.turned() { turned_back(payload, raw_len)? } else { decompress(payload, raw_len)? };
    Ok(block)
}

fn turned_back(stored: &[u8], raw_len: usize) -> Result<Vec<u8>, SegmentFault> {
    let bad = || SegmentFault::bad("turned records do not turn back");
    if raw_len > columns::LARGEST {
        return Err(bad());
    }
    let turned = decompress_at_once(stored, raw_len + columns::EXCESS).map_err(|_| bad())?;
    columns::turn_back(&turned, raw_len).ok_or_else(bad)
}

/// Decompresses to exactly `raw_len` bytes. Memory grows with the bytes that really come out.
pub(super) fn decompress(stored: &[u8], raw_len: usize) -> Result<Vec<u8>, SegmentFault> {
    let bad = || SegmentFault::bad("compressed bytes do not decompress to their length");
    let raw = if raw_len <= BELIEVED {
        decompress_at_once(stored, raw_len).map_err(|_| bad())?
    } else {
        let mut raw = Vec::with_capacity(BELIEVED);
        let decoder = zstd::Decoder::new(stored).map_err(|_| bad())?;
        decoder.take((raw_len as u64).saturating_add(1)).read_to_end(&mut raw).map_err(|_| bad())?;
        raw
    };
    if raw.len() == raw_len { Ok(raw) } else { Err(bad()) }
}

/// Making a context takes longer than decompressing a small block, so each thread keeps one.
fn decompress_at_once(stored: &[u8], most: usize) -> std::io::Result<Vec<u8>> {
    DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Some(zstd::bulk::Decompressor::new()?);
        }
        slot.as_mut().expect("made above").decompress(stored, most)
    })
}

pub(super) fn read_exact(object: &dyn Object, into: &mut [u8], offset: u64) -> Result<(), SegmentFault> {
    object.read_exact_at(into, offset).map_err(|error| SegmentFault::bad(format!("cannot be read ({error})")))
}
