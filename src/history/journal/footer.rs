//! A sealed segment's footer and trailer. See FORMAT.md.

use std::sync::Arc;

use super::block;
use super::fault::SegmentFault;
use super::lookup::ChangeIndex;
use super::place::SegmentBytes;
use super::record::ByteReader;
use super::sections::{
    BlockExtent, decode_blocks, decode_digests, decode_relation_messages, decode_relations,
    decode_transactions, encode_blocks, encode_digests, encode_relation_messages, encode_relations,
    encode_transactions,
};
use super::summary::{SegmentSummary, TransactionEntry};
use crate::error::{Context, Kind, Result};
use crate::history::key::{Authorship, Digest, SegmentKey, Tag, digest_of};
use crate::store::{Object, ObjectName, Store};

pub(super) const TRAILER_LEN: usize = 64;
const MAGIC: [u8; 8] = *b"bwjends\n";
const VERSION: u32 = 1;
const LEVEL: i32 = 9;
/// A section with more bytes than this is refused. The transactions of any segment need far fewer.
const MOST_SECTION: usize = 256 << 20;
/// The number of bytes of the trailer before the segment's digest.
const BEFORE_DIGEST: usize = 24;

const SUMMARY: u32 = 1;
const TRANSACTIONS: u32 = 2;
pub(super) const RELATIONS_AT_START: u32 = 3;
const BLOCKS: u32 = 4;
pub(super) const RELATION_MESSAGES: u32 = 5;
const DIGESTS: u32 = 6;
const TAG: u32 = 7;
const COUNTS: u32 = 8;
const FILTERS: u32 = 9;
const CHANGES_TAG: u32 = 10;
// Earlier versions do not know the sections from here on. They make an index of their own.
pub(super) const FILTERS_HEAD: u32 = 11;
/// The pages are stored as they are, so that each can be read alone.
pub(super) const PAGES: u32 = 12;
pub(super) const LOOKUP_CHECK: u32 = 13;
/// The sections that the tag vouches for.
const TAGGED: std::ops::RangeInclusive<u32> = SUMMARY..=DIGESTS;

/// The content of a segment, and the places of its blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    pub summary: SegmentSummary,
    /// The transactions, in commit order.
    pub transactions: Vec<TransactionEntry>,
    /// The Relation messages in force at the start, as received.
    pub relations_at_start: Vec<Vec<u8>>,
    pub blocks: Vec<BlockExtent>,
    /// The Relation messages within the segment, as received, each with the number of its block.
    pub relation_messages: Vec<(u32, Vec<u8>)>,
    /// The index of the changes; `None` in a segment that an earlier version sealed.
    pub changes: Option<Arc<ChangeIndex>>,
}

impl Footer {
    /// Whether this footer, which was made from the blocks, is the one that the segment has.
    pub(super) fn agrees_with(mut self, found: &Footer) -> bool {
        self.changes = self.changes.filter(|_| found.changes.is_some());
        self == *found
    }

    /// Estimates how many bytes the footer takes in memory.
    pub fn memory(&self) -> usize {
        let relations = self.relations_at_start.iter().chain(self.relation_messages.iter().map(|(_, it)| it));
        size_of_val(&self.transactions[..])
            + size_of_val(&self.blocks[..])
            + relations.map(|message| message.len() + size_of::<Vec<u8>>()).sum::<usize>()
            + self.changes.as_ref().map_or(0, |changes| changes.counts.len() + changes.filters.len())
    }
}

/// The trailer's pointers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trailer {
    pub(super) footer_offset: u64,
    pub(super) footer_len: u64,
    crc: u32,
    pub(super) digest: [u8; 32],
}

/// Reads a sealed segment's footer, and none of its blocks.
///
/// # Errors
/// `Damaged` if header, footer or trailer do not check, or no holder of the key wrote them, `Refused` if they
/// are of a newer version, `Unavailable` if the segment cannot be opened.
pub fn read_footer(store: &dyn Store, name: &ObjectName, authorship: &Authorship) -> Result<Footer> {
    let bytes = SegmentBytes::sealed(store, name)?;
    let (_, key) = bytes.begin(authorship)?;
    Ok(read_checked(&bytes, key.as_ref())?.0)
}

/// Reads the footer and the trailer of a sealed segment.
///
/// # Errors
/// Fails as [`read_footer`] does.
pub(super) fn read_checked(bytes: &SegmentBytes, key: Option<&SegmentKey>) -> Result<(Footer, Trailer)> {
    read(&*bytes.object, bytes.len(), key).map_err(|(offset, fault)| bytes.fault(offset, fault))
}

/// Reads the footer of a segment of `len` bytes. Fails with the offset of the fault and the fault itself.
pub(super) fn read(
    object: &dyn Object,
    len: u64,
    key: Option<&SegmentKey>,
) -> Result<(Footer, Trailer), (u64, SegmentFault)> {
    let (bytes, trailer) = read_bytes(object, len)?;
    let footer = Footer::decode(&bytes, key).map_err(|fault| (trailer.footer_offset, fault))?;
    Ok((footer, trailer))
}

/// Reads the footer's bytes, and checks their checksum.
pub(super) fn read_bytes(object: &dyn Object, len: u64) -> Result<(Vec<u8>, Trailer), (u64, SegmentFault)> {
    let trailer_at = len.saturating_sub(TRAILER_LEN as u64);
    let (trailer, head) = read_trailer(object, len).map_err(|fault| (trailer_at, fault))?;
    let at = trailer.footer_offset;
    // The footer is no longer than the segment: `read_trailer` has compared the two.
    let mut bytes = vec![0; trailer.footer_len as usize];
    block::read_exact(object, &mut bytes, at).map_err(|fault| (at, fault))?;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes), &head);
    if crc != trailer.crc {
        return Err((at, SegmentFault::bad("the footer's checksum does not agree")));
    }
    Ok((bytes, trailer))
}

pub(super) fn read_trailer(object: &dyn Object, len: u64) -> Result<(Trailer, [u8; 20]), SegmentFault> {
    let at = len
        .checked_sub(TRAILER_LEN as u64)
        .ok_or_else(|| SegmentFault::bad("too short for a sealed segment"))?;
    let mut bytes = [0; TRAILER_LEN];
    block::read_exact(object, &mut bytes, at)?;
    if bytes[56..] != MAGIC {
        return Err(SegmentFault::bad("the end of a sealed segment is missing"));
    }
    let mut fields = ByteReader::new(&bytes);
    let trailer = (|| {
        Some((
            Trailer {
                footer_offset: fields.u64()?,
                footer_len: fields.u64()?,
                crc: {
                    fields.u32()?;
                    fields.u32()?
                },
                digest: fields.take(32)?.try_into().ok()?,
            },
            bytes[..20].try_into().ok()?,
        ))
    })();
    let (trailer, head): (Trailer, [u8; 20]) = trailer.expect("64 bytes hold the fields");
    if trailer.footer_offset.checked_add(trailer.footer_len) != Some(at) {
        return Err(SegmentFault::bad("the trailer points outside the file"));
    }
    match u32::from_le_bytes(head[16..].try_into().expect("four bytes")) {
        VERSION => Ok((trailer, head)),
        0 => Err(SegmentFault::bad("the trailer's version is 0")),
        // Only a checksum in that unknown layout could tell a newer version from damage.
        _ => Err(SegmentFault::Newer),
    }
}

/// Returns the trailer's bytes before the digest, for a footer at `offset`.
pub(super) fn trailer_head(offset: u64, footer: &[u8]) -> [u8; BEFORE_DIGEST] {
    let mut out = [0; BEFORE_DIGEST];
    out[..8].copy_from_slice(&offset.to_le_bytes());
    out[8..16].copy_from_slice(&(footer.len() as u64).to_le_bytes());
    out[16..20].copy_from_slice(&VERSION.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(footer), &out[..20]);
    out[20..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Returns the trailer's bytes from the digest on.
pub(super) fn trailer_tail(digest: [u8; 32]) -> [u8; TRAILER_LEN - BEFORE_DIGEST] {
    let mut out = [0; TRAILER_LEN - BEFORE_DIGEST];
    out[..32].copy_from_slice(&digest);
    out[32..].copy_from_slice(&MAGIC);
    out
}

/// Returns how many of the `len` bytes of a sealed segment its digest covers.
pub(super) fn digested_len(len: u64) -> u64 {
    len.saturating_sub((TRAILER_LEN - BEFORE_DIGEST) as u64)
}

impl Footer {
    /// # Errors
    /// `Internal` if zstd or JSON fail, for which there is no known reason.
    pub(super) fn encode(&self, key: Option<&SegmentKey>) -> Result<Vec<u8>> {
        let summary = serde_json::to_vec(&self.summary)
            .context(Kind::Internal, || "cannot write a segment's summary".into())?;
        let mut sections = vec![
            (SUMMARY, summary),
            (TRANSACTIONS, encode_transactions(self.summary.start, &self.transactions)),
            (RELATIONS_AT_START, encode_relations(&self.relations_at_start)),
            (BLOCKS, encode_blocks(&self.blocks)),
            (RELATION_MESSAGES, encode_relation_messages(&self.relation_messages)),
        ];
        if let Some(key) = key {
            sections.push((DIGESTS, encode_digests(&self.blocks)));
            let contents = sections.iter().map(|(_, raw)| raw.as_slice());
            sections.push((TAG, footer_tag(key, contents).as_bytes().to_vec()));
        }
        if let Some(changes) = &self.changes {
            sections.push((COUNTS, changes.counts.clone()));
            match changes.head_and_pages() {
                Some((head, pages)) => {
                    let check = lookup_check(key, [&sections[2].1, &sections[4].1, head]);
                    sections.push((FILTERS_HEAD, head.to_vec()));
                    sections.push((LOOKUP_CHECK, check));
                    sections.push((PAGES, pages.to_vec()));
                }
                None => sections.push((FILTERS, changes.filters.clone())),
            }
            // Earlier versions check the other tag, and know nothing of these sections.
            let tag = key.map(|key| changes.tag(key));
            sections.extend(tag.map(|tag| (CHANGES_TAG, tag.as_bytes().to_vec())));
        }
        let mut out = (sections.len() as u32).to_le_bytes().to_vec();
        let mut payloads = Vec::new();
        for (id, raw) in &sections {
            // Filters are as good as random.
            let stored = match *id {
                PAGES => raw.clone(),
                id => zstd::bulk::compress(raw, if id == FILTERS { 1 } else { LEVEL })
                    .context(Kind::Internal, || "cannot compress a segment's footer".into())?,
            };
            out.extend(id.to_le_bytes());
            out.extend((raw.len() as u64).to_le_bytes());
            out.extend((stored.len() as u64).to_le_bytes());
            payloads.extend(stored);
        }
        out.extend(payloads);
        Ok(out)
    }

    /// Decodes a footer. With a key, a footer that no holder of the key wrote is refused.
    pub(super) fn decode(bytes: &[u8], key: Option<&SegmentKey>) -> Result<Footer, SegmentFault> {
        let sections = Sections::checked(bytes, key)?;
        let summary: SegmentSummary = serde_json::from_slice(&sections.get(SUMMARY)?)
            .map_err(|error| SegmentFault::bad(format!("the summary is no SegmentSummary ({error})")))?;
        let mut footer = Footer {
            transactions: decode_transactions(summary.start, &sections.get(TRANSACTIONS)?)
                .ok_or_else(short)?,
            relations_at_start: decode_relations(&sections.get(RELATIONS_AT_START)?).ok_or_else(short)?,
            blocks: decode_blocks(&sections.get(BLOCKS)?).ok_or_else(short)?,
            relation_messages: decode_relation_messages(&sections.get(RELATION_MESSAGES)?)
                .ok_or_else(short)?,
            changes: sections.changes(key)?.map(Arc::new),
            summary,
        };
        if footer.changes.as_ref().is_some_and(|changes| !changes.is_sound(footer.blocks.len())) {
            return Err(short());
        }
        if sections.has(DIGESTS) {
            decode_digests(&sections.get(DIGESTS)?, &mut footer.blocks).ok_or_else(short)?;
        }
        Ok(footer)
    }

    /// Decodes the Relation messages and the index of a footer without the sections that a lookup reads alone.
    pub(super) fn decode_lookup(
        bytes: &[u8],
        key: Option<&SegmentKey>,
    ) -> Result<Option<(Vec<Vec<u8>>, ChangeIndex)>, SegmentFault> {
        let sections = Sections::checked(bytes, key)?;
        let Some(changes) = sections.changes(key)? else { return Ok(None) };
        let mut relations = decode_relations(&sections.get(RELATIONS_AT_START)?).ok_or_else(short)?;
        let within = decode_relation_messages(&sections.get(RELATION_MESSAGES)?).ok_or_else(short)?;
        relations.extend(within.into_iter().map(|(_, message)| message));
        Ok(Some((relations, changes)))
    }
}

fn short() -> SegmentFault {
    SegmentFault::bad("a section of the footer is cut short")
}

/// Returns the tag over the contents of the sections before the tag, in the order of their ids.
fn footer_tag<'a>(key: &SegmentKey, contents: impl Iterator<Item = &'a [u8]>) -> Tag {
    key.footer_tag(&digest_of(contents))
}

/// The check of the sections that a lookup reads: those of the relations, and the head of the filters.
pub(super) fn lookup_check(key: Option<&SegmentKey>, sections: [&[u8]; 3]) -> Vec<u8> {
    let digest: Digest = digest_of(sections.into_iter());
    key.map_or(*digest.as_bytes(), |key| *key.lookup_tag(&digest).as_bytes()).to_vec()
}

/// The id, the raw length and the stored bytes of each section.
struct Sections<'a>(Vec<(u32, u64, &'a [u8])>);

impl<'a> Sections<'a> {
    fn decode(bytes: &'a [u8]) -> Option<Sections<'a>> {
        let mut bytes = ByteReader::new(bytes);
        let count = bytes.u32()? as usize;
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push((bytes.u32()?, bytes.u64()?, usize::try_from(bytes.u64()?).ok()?));
        }
        let mut sections = Vec::new();
        for (id, raw_len, stored_len) in entries {
            sections.push((id, raw_len, bytes.take(stored_len)?));
        }
        bytes.is_empty().then_some(Sections(sections))
    }

    /// Reads the sections. With a key, sections that no holder of the key wrote are refused.
    fn checked(bytes: &'a [u8], key: Option<&SegmentKey>) -> Result<Sections<'a>, SegmentFault> {
        let sections = Sections::decode(bytes);
        let sections = sections.ok_or_else(|| SegmentFault::bad("the footer's table is cut short"))?;
        key.map_or(Ok(()), |key| sections.check_tag(key))?;
        Ok(sections)
    }

    fn has(&self, id: u32) -> bool {
        self.0.iter().any(|section| section.0 == id)
    }

    fn check_tag(&self, key: &SegmentKey) -> Result<(), SegmentFault> {
        let not_ours = || SegmentFault::bad(key.not_ours());
        if !self.has(TAG) || !self.has(DIGESTS) {
            return Err(not_ours());
        }
        let contents: Vec<_> = TAGGED.map(|id| self.get(id)).collect::<Result<_, _>>()?;
        let expected = footer_tag(key, contents.iter().map(Vec::as_slice));
        let tag = Tag::from_slice(&self.get(TAG)?).map_err(|_| not_ours())?;
        if tag == expected { Ok(()) } else { Err(not_ours()) }
    }

    /// The index of changes. With a key, one that no holder of the key wrote is refused.
    fn changes(&self, key: Option<&SegmentKey>) -> Result<Option<ChangeIndex>, SegmentFault> {
        let changes = if !self.has(COUNTS) {
            return Ok(None);
        } else if self.has(FILTERS_HEAD) {
            ChangeIndex::of_pages(self.get(COUNTS)?, &self.get(FILTERS_HEAD)?, &self.get(PAGES)?)
        } else if self.has(FILTERS) {
            ChangeIndex { counts: self.get(COUNTS)?, filters: self.get(FILTERS)? }
        } else {
            return Ok(None);
        };
        if let Some(key) = key
            && Tag::from_slice(&self.get(CHANGES_TAG)?).ok() != Some(changes.tag(key))
        {
            return Err(SegmentFault::bad(key.not_ours()));
        }
        Ok(Some(changes))
    }

    fn get(&self, id: u32) -> Result<Vec<u8>, SegmentFault> {
        let &(_, raw_len, stored) = self
            .0
            .iter()
            .find(|section| section.0 == id)
            .ok_or_else(|| SegmentFault::bad(format!("section {id} of the footer is missing")))?;
        stored_section(id, raw_len, stored)
    }
}

/// Returns the content of a section that lies in the footer as `stored`.
pub(super) fn stored_section(id: u32, raw_len: u64, stored: &[u8]) -> Result<Vec<u8>, SegmentFault> {
    let raw_len = usize::try_from(raw_len).ok().filter(|&len| len <= MOST_SECTION);
    let raw_len = raw_len.filter(|len| id != PAGES || *len == stored.len());
    let raw_len = raw_len.ok_or_else(|| SegmentFault::bad("a section's length is impossible"))?;
    if id == PAGES { Ok(stored.to_vec()) } else { block::decompress(stored, raw_len) }
}
