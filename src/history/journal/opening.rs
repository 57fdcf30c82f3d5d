//! Opens the journal for its writer: makes an open segment, or mends and opens the one that is there.

use super::builder::RawBlock;
use super::name::{SegmentHeader, SegmentName};
use super::newest::{self, NewestSegment, find};
use super::place::Journal;
use super::record;
use super::recovery::{RecoveryAction, decide};
use super::relations::Relations;
use super::seal;
use super::segment::Segment;
use super::writer::{Durable, LEVEL, ROLL_AT, TagChain, Writer};
use crate::error::{Context, Error, Kind, Result};
use crate::history::key::{SegmentKey, Tag};
use crate::model::Lsn;

/// The state in which the writer found the journal, and what it has mended.
#[derive(Clone, Debug)]
pub struct RecoveredJournal {
    /// The end of the journal, at which a `BlockBuilder` begins.
    pub frontier: Lsn,
    /// The same position, as the journal is on disk up to there.
    pub durable: Durable,
    /// The Relation messages in force at the frontier, as received.
    pub relations: Vec<Vec<u8>>,
    /// The number of bytes that were cut off behind the last complete transaction.
    pub truncated_bytes: u64,
    /// How an interruption was mended, a sentence for each step, for the log.
    pub repaired: Vec<String>,
    /// Finished segments that wait for `seal`, oldest first.
    pub unsealed: Vec<SegmentName>,
}

impl Writer {
    /// Opens an epoch's journal for appending, after mending the traces of a crash. A journal without a segment of this
    /// epoch gets one that starts at `frontier_if_new`.
    ///
    /// # Errors
    /// `Damaged` if acknowledged bytes are bad or were not written by a holder of the key, `Refused` if the key was not
    /// given, or if segments are of a newer version or of another history, `Unavailable` if the disk fails.
    pub fn open(
        journal: &Journal,
        history: [u8; 16],
        epoch: u32,
        frontier_if_new: Lsn,
    ) -> Result<(Writer, RecoveredJournal)> {
        let first = SegmentName::open(epoch, frontier_if_new);
        journal.authorship.check_may_write(journal.locate(first).as_ref())?;
        journal.spool.prepare()?;
        let found = find(journal, history, epoch)?;
        let case = decide(found.open, found.sealed);
        let name = found.name.unwrap_or(first);
        let place = journal.locate(name);
        let header = SegmentHeader { history, epoch, start: frontier_if_new };
        let note = |what: &str| vec![format!("{place} {what}: {}", case.why)];
        let (mut writer, mut repaired) = match case.action {
            RecoveryAction::Create => (Writer::create(journal, header, Relations::default())?, Vec::new()),
            RecoveryAction::ContinueSealed => {
                (Writer::continue_sealed(journal, header, name)?, note("continued"))
            }
            RecoveryAction::RemoveOpen => {
                if let Some(footer) = &found.footer {
                    seal::must_cover(footer, journal, name)?;
                }
                journal.remove(name.form(false))?;
                (Writer::continue_sealed(journal, header, name)?, note("removed"))
            }
            RecoveryAction::Append => (Writer::append(journal, &found)?, Vec::new()),
            RecoveryAction::Cut => (Writer::append(journal, &found)?, note("cut off")),
            RecoveryAction::RemoveSealed => {
                journal.remove(name.form(true))?;
                (Writer::append(journal, &found)?, note("taken instead of its sealed copy"))
            }
            RecoveryAction::Damaged => {
                let message = format!("cannot append to the journal: {}", case.why);
                return Err(match found.fault {
                    Some(fault) => Error::damaged(message).caused_by(fault),
                    None => Error::damaged(format!("{message}; see {place}")),
                });
            }
            RecoveryAction::Newer => return Err(super::fault::newer(&place)),
            RecoveryAction::Foreign => return Err(newest::foreign(&place)),
        };
        let truncated_bytes = found.walk.as_ref().map_or(0, |walk| match case.action {
            RecoveryAction::Append | RecoveryAction::Cut | RecoveryAction::RemoveSealed => {
                walk.len - walk.complete_len
            }
            _ => 0,
        });
        if truncated_bytes > 0 {
            repaired.push(format!("{truncated_bytes} bytes behind {} cut off", writer.frontier));
        }
        let recovered = RecoveredJournal {
            frontier: writer.frontier,
            durable: writer.sync()?,
            relations: writer.relations.to_vec(),
            truncated_bytes,
            repaired,
            unsealed: found.unsealed,
        };
        Ok((writer, recovered))
    }

    pub(super) fn create(journal: &Journal, header: SegmentHeader, relations: Relations) -> Result<Writer> {
        let name = SegmentName::open(header.epoch, header.start);
        let mut chain = chain(&header, journal, SegmentKey::no_block())?;
        let mut compressor = seal::compressor(LEVEL)?;
        let mut bytes = header.encode(false).to_vec();
        let block = relations_block(header.start, &relations)?;
        if let Some(block) = &block {
            let stored = compressor
                .compress(&block.raw)
                .context(Kind::Internal, || "cannot compress a block".into())?;
            let keyed = chain.as_ref().map(|chain| (&chain.key, &chain.last));
            let frame = seal::frame(block, block.flags, &stored, 0, keyed)?;
            bytes.extend(frame.bytes);
            bytes.extend(stored);
            if let (Some(chain), Some(tag)) = (&mut chain, frame.tag) {
                bytes.extend(tag.as_bytes());
                *chain = TagChain::new(chain.key.clone(), tag);
            }
        }
        let len = bytes.len() as u64;
        journal.spool.begin(&name.stem(), &bytes, len)?;
        Ok(Writer {
            journal: journal.clone(),
            file: journal.spool.append(&name.stem())?,
            len,
            complete_len: len,
            synced: len,
            raw: 0,
            frontier: header.start,
            header,
            inside: false,
            relations,
            unfinished: Vec::new(),
            roll_at: roll_at(),
            compressor,
            stored: Vec::new(),
            chain,
            broken: false,
        })
    }

    fn continue_sealed(journal: &Journal, header: SegmentHeader, name: SegmentName) -> Result<Writer> {
        let segment = Segment::open_sealed(journal, name.form(true))?;
        let start = segment.summary().end;
        if start == segment.summary().start {
            return Err(Error::internal(format!("{} is sealed, but holds nothing", segment.place())));
        }
        let relations = segment.in_force_at_end().clone();
        Writer::create(journal, SegmentHeader { start, ..header }, relations)
    }

    /// Opens the open segment that was found, and cuts off the bytes behind its last complete transaction.
    fn append(journal: &Journal, found: &NewestSegment) -> Result<Writer> {
        let (Some(name), Some(walk)) = (found.name, &found.walk) else {
            return Err(Error::internal("an open segment was decided on that was not walked"));
        };
        let segment = Segment::open_unsealed(journal, name)?;
        let file = journal.spool.append(&name.stem())?;
        // Cutting syncs too: bytes that a killed process wrote may not have reached the disk yet.
        file.cut(walk.complete_len)
            .context(Kind::Unavailable, || format!("cannot cut {}", segment.place()))?;
        Ok(Writer {
            journal: journal.clone(),
            header: *segment.header(),
            file,
            len: walk.complete_len,
            complete_len: walk.complete_len,
            synced: walk.complete_len,
            raw: walk.blocks.iter().map(|block| u64::from(block.header.raw_len)).sum(),
            frontier: walk.frontier,
            inside: false,
            relations: segment.in_force_at_end().clone(),
            unfinished: Vec::new(),
            roll_at: roll_at(),
            compressor: seal::compressor(LEVEL)?,
            stored: Vec::new(),
            chain: chain(segment.header(), journal, walk.last_tag())?,
            broken: false,
        })
    }
}

fn chain(header: &SegmentHeader, journal: &Journal, last: Tag) -> Result<Option<TagChain>> {
    let name = SegmentName::open(header.epoch, header.start);
    let key = header.key(name, &journal.authorship).map_err(|fault| fault.at(&journal.locate(name), 0))?;
    Ok(key.map(|key| TagChain::new(key, last)))
}

/// Returns the bytes of records at which a segment is finished. A test may ask for smaller segments.
fn roll_at() -> u64 {
    crate::ambient::test_number("BACKWHEN_TEST_ROLL_AT").unwrap_or(ROLL_AT)
}

/// Makes the first block of a segment: the relations in force, so that the segment can be decoded alone.
fn relations_block(start: Lsn, relations: &Relations) -> Result<Option<RawBlock>> {
    if relations.len() == 0 {
        return Ok(None);
    }
    let mut raw = Vec::new();
    for message in relations.messages() {
        record::put_relation(&mut raw, message);
    }
    let records = u32::try_from(relations.len()).context(Kind::Internal, || "too many relations".into())?;
    let block = RawBlock {
        flags: 0,
        before: start,
        after: start,
        records,
        raw,
        relations: Vec::new(),
        cuts_off: false,
    };
    Ok(Some(block))
}
