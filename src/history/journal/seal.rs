//! Rewrites a finished open segment as a sealed one: large, well-compressed blocks and a footer.

use std::io::Write;

use super::block::{BlockHeader, TAGGED, TURNED};
use super::builder::{BlockBuilder, RawBlock};
use super::columns;
use super::fault::SegmentFault;
use super::footer::{self, Footer};
use super::index::Index;
use super::name::SegmentName;
use super::place::Journal;
use super::record::{Record, Records};
use super::segment::Segment;
use super::summary::SegmentSummary;
use super::verify;
use crate::ambient;
use crate::error::{Context, Error, Kind, Result};
use crate::history::key::{SegmentKey, Tag};
use crate::store::{NewFile, ObjectKind};

/// A sealed block is full with this many bytes of records. Smaller blocks compress less, and of larger ones more is read for
/// a single row.
const BLOCK: usize = 2 << 20;
const LEVEL: i32 = 6;

/// Seals a finished open segment, which is one with a later segment behind it or of an epoch that is over, and removes the
/// open file. An unfinished transaction at its end is left out. If the segment has a valid sealed form already, only the
/// open file is removed. A segment that holds nothing stays open.
///
/// # Errors
/// `Refused` if the history's key was not given. `Damaged` if the open segment is damaged, or if it ends before the next
/// one starts; then nothing is removed. `Unavailable` if the store does not take the sealed segment.
pub fn seal(journal: &Journal, name: SegmentName) -> Result<SegmentSummary> {
    let (open, sealed) = (name.form(false), name.form(true));
    journal.authorship.check_may_write(journal.locate(sealed).as_ref())?;
    if journal.holds(sealed)? {
        match verify::check_digest(&*journal.store, &sealed.object(), &journal.authorship) {
            Ok(footer) => {
                must_cover(&footer, journal, open)?;
                journal.remove(open)?;
                return Ok(footer.summary);
            }
            // The open file still holds everything; the bad copy makes room for a good one.
            Err(error) if error.kind() == Kind::Damaged && journal.holds(open)? => journal.remove(sealed)?,
            Err(error) => return Err(error),
        }
    }
    let segment = Segment::open_unsealed(journal, open)?;
    must_reach_the_next(journal, &segment)?;
    if segment.summary().end == segment.summary().start {
        return Ok(segment.summary().clone());
    }
    ambient::pass("seal.write")?;
    let summary = write(&segment, journal)?;
    ambient::pass("seal.written")?;
    journal.remove(open)?;
    Ok(summary)
}

/// Checks that the sealed form reaches as far as the open one, which may be removed only then. An open file that cannot be
/// read proves nothing.
///
/// # Errors
/// `Internal` if the open file reaches further.
pub(super) fn must_cover(sealed: &Footer, journal: &Journal, name: SegmentName) -> Result<()> {
    match Segment::open_unsealed(journal, name.form(false)) {
        Ok(segment) if segment.summary().end > sealed.summary.end => Err(Error::internal(format!(
            "{} reaches further than its sealed copy; both are kept, please report this",
            segment.place()
        ))),
        _ => Ok(()),
    }
}

/// Checks that a finished segment ends where the next one starts. A segment that ends earlier has lost its end.
fn must_reach_the_next(journal: &Journal, segment: &Segment) -> Result<()> {
    let summary = segment.summary();
    let names = journal.list()?.into_iter();
    let later = names.filter(|name| name.epoch == summary.epoch && name.start > summary.start);
    match later.map(|name| name.start).min() {
        Some(next) if next != summary.end => Err(Error::damage_met(format_args!(
            "{} ends at {}, but the next segment starts at {next}: its end is missing",
            segment.place(),
            summary.end
        ))),
        _ => Ok(()),
    }
}

/// Reads the open segment, and puts its records into the store as a sealed segment.
fn write(segment: &Segment, journal: &Journal) -> Result<SegmentSummary> {
    let (start, name) = (segment.header().start, segment.name().form(true));
    let key = segment.header().key(name, &journal.authorship);
    let key = key.map_err(|fault| fault.at(&journal.locate(name), 0))?;
    let mut out = SealedOutput::create(journal, name, key)?;
    out.write(&segment.header().encode(true))?;

    let mut index = Index::new(segment.header().epoch, start);
    for message in &segment.footer().relations_at_start {
        index.relation_at_start(message).map_err(|fault| fault.at(segment.place(), 0))?;
    }
    let size = ambient::test_number("BACKWHEN_TEST_SEALED_BLOCK").map_or(BLOCK, |size| size as usize);
    let mut builder = BlockBuilder::with_size(start, size);
    let mut compressor = compressor(LEVEL)?;
    let bad = |offset: u64| move |fault: SegmentFault| fault.at(segment.place(), offset);
    for (number, entry) in segment.footer().blocks.iter().enumerate() {
        let raw = segment.raw_block(number)?;
        for record in Records::new(&raw) {
            match record.map_err(bad(entry.offset))? {
                Record::Message(message) => builder.push(message)?,
                Record::Idle { lsn, time } => builder.push_idle(lsn, time)?,
                Record::Relation(_) => {}
            }
            while let Some(block) = builder.take_full() {
                put_block(&mut out, &mut compressor, &mut index, &block)?;
            }
        }
    }
    while let Some(block) = builder.take_complete() {
        put_block(&mut out, &mut compressor, &mut index, &block)?;
    }
    let (footer, _) = index.finish();
    must_equal(segment, &footer)?;
    let file = out.finish(&footer)?;
    journal.store.put_file(&name.object(), file)?;
    Ok(footer.summary)
}

fn put_block(
    out: &mut SealedOutput,
    compressor: &mut zstd::bulk::Compressor<'_>,
    index: &mut Index,
    block: &RawBlock,
) -> Result<()> {
    let turned = columns::turn(&block.raw);
    let flags = block.flags | if turned.is_some() { TURNED } else { 0 };
    let payload = turned.as_ref().unwrap_or(&block.raw);
    let stored = compressor.compress(payload).context(Kind::Internal, || "cannot compress a block".into())?;
    let BlockFrame { header, bytes, .. } = frame(block, flags, &stored, 0, None)?;
    let digest = out.key.is_some().then(|| header.digest(&stored));
    index.block(out.len, &header, &block.raw, digest).map_err(|fault| fault.at(&out.place, out.len))?;
    out.write(&bytes)?;
    out.write(&stored)
}

pub(super) fn compressor(level: i32) -> Result<zstd::bulk::Compressor<'static>> {
    zstd::bulk::Compressor::new(level).context(Kind::Internal, || "cannot set up compression".into())
}

/// The frame of a block: the header before its payload, and the tag behind it.
pub(super) struct BlockFrame {
    pub(super) header: BlockHeader,
    /// The bytes of the header.
    pub(super) bytes: [u8; super::block::HEADER_LEN],
    /// The tag that follows the payload, in a history with a key.
    pub(super) tag: Option<Tag>,
}

/// Makes the frame of a block whose payload is `stored`. The block gets a tag if `chain` is given, which is a key and the
/// tag of the block before.
pub(super) fn frame(
    block: &RawBlock,
    flags: u8,
    stored: &[u8],
    synced: u64,
    chain: Option<(&SegmentKey, &Tag)>,
) -> Result<BlockFrame> {
    let len = |bytes: &[u8]| {
        u32::try_from(bytes.len()).context(Kind::Internal, || "a block is larger than blocks can be".into())
    };
    let mut header = BlockHeader {
        flags: if chain.is_some() { flags | TAGGED } else { flags },
        raw_len: len(&block.raw)?,
        stored_len: len(stored)?,
        before: block.before,
        after: block.after,
        synced,
        records: block.records,
        crc: 0,
    };
    let tag = chain.map(|(key, previous)| key.block_tag(previous, &header.digest(stored)));
    let bytes = header.seal(stored, tag.as_ref());
    Ok(BlockFrame { header, bytes, tag })
}

/// Checks that the sealed segment has the content of the open one, which is removed afterwards.
fn must_equal(segment: &Segment, sealed: &Footer) -> Result<()> {
    let of = |footer: &Footer| {
        let summary = &footer.summary;
        (summary.content.clone(), summary.end, summary.transactions, summary.last_idle)
    };
    if of(segment.footer()) == of(sealed) {
        return Ok(());
    }
    Err(Error::internal(format!(
        "sealing {} would change it; it is left open, please report this",
        segment.place()
    )))
}

/// The sealed segment that is being written, with its running length and digest.
struct SealedOutput {
    file: NewFile,
    place: String,
    len: u64,
    digest: blake3::Hasher,
    key: Option<SegmentKey>,
}

impl SealedOutput {
    fn create(journal: &Journal, name: SegmentName, key: Option<SegmentKey>) -> Result<SealedOutput> {
        let file = journal.store.draft(ObjectKind::Segment)?;
        Ok(SealedOutput { file, place: journal.locate(name), len: 0, digest: blake3::Hasher::new(), key })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all(bytes);
        written.context(Kind::Unavailable, || format!("cannot write {}", self.place))?;
        self.len += bytes.len() as u64;
        self.digest.update(bytes);
        Ok(())
    }

    fn finish(mut self, footer: &Footer) -> Result<NewFile> {
        let bytes = footer.encode(self.key.as_ref())?;
        let head = footer::trailer_head(self.len, &bytes);
        self.write(&bytes)?;
        self.write(&head)?;
        let digest = *self.digest.finalize().as_bytes();
        self.write(&footer::trailer_tail(digest))?;
        Ok(self.file)
    }
}
