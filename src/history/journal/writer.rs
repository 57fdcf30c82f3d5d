//! Appends blocks to the open segment. Only the sync of this writer makes a position durable.

use super::builder::RawBlock;
use super::name::{SegmentHeader, SegmentName};
use super::place::Journal;
use super::relations::Relations;
use super::seal::{self, BlockFrame};
use crate::ambient;
use crate::error::{Context, Error, Kind, Result};
use crate::history::key::{SegmentKey, Tag};
use crate::model::Lsn;
use crate::store::Growing;

/// The open segment is finished with at least this many bytes of records. The number is low, because an open segment takes
/// twice the room of a sealed one, and is read whole when it is opened.
pub(super) const ROLL_AT: u64 = 16 << 20;
pub(super) const LEVEL: i32 = 1;
/// A compression buffer of more bytes than this is freed after use; a smaller one is kept.
const KEPT: usize = 4 << 20;

/// A position up to which the journal is on disk. Only the journal's sync makes one; with the seam it becomes
/// [`Confirmable`](super::Confirmable).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Durable(Lsn);

impl Durable {
    pub fn lsn(self) -> Lsn {
        self.0
    }

    #[cfg(test)]
    pub(super) fn of_test(lsn: Lsn) -> Durable {
        Durable(lsn)
    }
}

/// The key and the earlier tags that the next block's tag is computed from.
pub(super) struct TagChain {
    pub(super) key: SegmentKey,
    /// The tag of the last block.
    pub(super) last: Tag,
    /// The tag of the last block up to the last complete transaction.
    pub(super) complete: Tag,
}

impl TagChain {
    pub(super) fn new(key: SegmentKey, last: Tag) -> TagChain {
        TagChain { key, last, complete: last }
    }
}

/// The one writer of a journal. The caller holds the role of the capture.
pub struct Writer {
    pub(super) journal: Journal,
    pub(super) header: SegmentHeader,
    pub(super) file: Growing,
    pub(super) len: u64,
    /// The bytes of the open segment up to the last complete transaction.
    pub(super) complete_len: u64,
    pub(super) synced: u64,
    /// The bytes of records in this segment.
    pub(super) raw: u64,
    pub(super) frontier: Lsn,
    /// Whether the open segment ends inside a transaction.
    pub(super) inside: bool,
    pub(super) relations: Relations,
    /// The Relation messages of the transaction that the open segment ends inside.
    pub(super) unfinished: Vec<Vec<u8>>,
    pub(super) roll_at: u64,
    pub(super) compressor: zstd::bulk::Compressor<'static>,
    pub(super) stored: Vec<u8>,
    /// The chain of tags, in a history with a key.
    pub(super) chain: Option<TagChain>,
    /// Whether a write or sync has failed. The content of the open segment is then unknown until it is opened again.
    pub(super) broken: bool,
}

impl Writer {
    /// Sets the size, in bytes of records, at which `roll` finishes the open segment.
    pub fn set_roll_at(&mut self, bytes: u64) {
        self.roll_at = bytes;
    }

    pub fn epoch(&self) -> u32 {
        self.header.epoch
    }

    /// Returns the frontier that was written so far, durable or not.
    pub fn frontier(&self) -> Lsn {
        self.frontier
    }

    /// Compresses and appends a block. It is durable only after `sync`.
    ///
    /// # Errors
    /// `Unavailable` if the disk does not take it; the writer must then be opened again.
    /// `Internal` if blocks come out of order.
    pub fn write(&mut self, block: RawBlock) -> Result<()> {
        self.check()?;
        if block.cuts_off {
            self.cut()?;
        }
        let starts_inside = block.flags & super::block::STARTS_INSIDE != 0;
        if block.before != self.frontier || starts_inside != self.inside {
            return Err(Error::internal(format!(
                "a block that starts at {} came when the journal stood at {}; please report this",
                block.before, self.frontier
            )));
        }
        self.stored.clear();
        self.stored.reserve(zstd::zstd_safe::compress_bound(block.raw.len()));
        self.compressor
            .compress_to_buffer(&block.raw, &mut self.stored)
            .context(Kind::Internal, || "cannot compress a block".into())?;
        let chain = self.chain.as_ref().map(|chain| (&chain.key, &chain.last));
        let BlockFrame { header, bytes, tag } =
            seal::frame(&block, block.flags, &self.stored, self.synced, chain)?;
        if let Some(tag) = &tag {
            self.stored.extend_from_slice(tag.as_bytes());
        }
        let written = self.file.write_at(&[&bytes, &self.stored], self.len);
        self.done(written, "write")?;
        if let (Some(chain), Some(tag)) = (&mut self.chain, tag) {
            chain.last = tag;
        }
        if self.stored.capacity() > KEPT {
            self.stored = Vec::new();
        }
        self.len += header.whole_len();
        self.raw += block.raw.len() as u64;
        self.note_relations(&block);
        self.inside = header.ends_inside();
        if !self.inside {
            self.complete_len = self.len;
            self.frontier = block.after;
            if let Some(chain) = &mut self.chain {
                chain.complete = chain.last;
            }
        }
        Ok(())
    }

    /// Waits until everything that was written is on disk.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails. The writer must then be opened again, as the state after a failed sync is unknown.
    pub fn sync(&mut self) -> Result<Durable> {
        self.check()?;
        if self.synced < self.len {
            let synced = self.file.sync();
            self.done(synced, "sync")?;
            self.synced = self.len;
        }
        Ok(Durable(self.frontier))
    }

    /// Finishes the open segment if it is large enough and holds no unfinished transaction, and starts the next one, which
    /// is durable when this returns. Returns the finished segment, which is to be sealed with `seal`, perhaps in another
    /// thread.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub fn roll(&mut self) -> Result<Option<SegmentName>> {
        if self.raw < self.roll_at { Ok(None) } else { self.roll_now() }
    }

    /// Finishes the open segment as `roll` does, whatever its size. An open segment that holds nothing stays open.
    ///
    /// # Errors
    /// Fails as `roll` does.
    pub fn roll_now(&mut self) -> Result<Option<SegmentName>> {
        if self.inside || self.frontier == self.header.start {
            return Ok(None);
        }
        self.sync()?;
        ambient::pass("journal.roll")?;
        let header = SegmentHeader { start: self.frontier, ..self.header };
        let next = Writer::create(&self.journal, header, self.relations.clone())?;
        let finished = std::mem::replace(self, Writer { roll_at: self.roll_at, ..next });
        ambient::pass("journal.rolled")?;
        Ok(Some(finished.name()))
    }

    fn name(&self) -> SegmentName {
        SegmentName::open(self.header.epoch, self.header.start)
    }

    fn place(&self) -> String {
        self.journal.locate(self.name())
    }

    /// Cuts off the parts of a transaction that will not go on.
    fn cut(&mut self) -> Result<()> {
        if !self.inside {
            return Ok(());
        }
        // Cutting syncs, so that no crash can bring the old bytes back behind new ones.
        let cut = self.file.cut(self.complete_len);
        self.done(cut, "cut")?;
        self.len = self.complete_len;
        self.synced = self.len;
        self.inside = false;
        self.unfinished.clear();
        if let Some(chain) = &mut self.chain {
            chain.last = chain.complete;
        }
        Ok(())
    }

    fn note_relations(&mut self, block: &RawBlock) {
        let ends_inside = block.flags & super::block::ENDS_INSIDE != 0;
        if !ends_inside {
            for message in self.unfinished.drain(..) {
                self.relations.tell(&message);
            }
        }
        for range in &block.relations {
            let message = &block.raw[range.clone()];
            if ends_inside {
                self.unfinished.push(message.to_vec());
            } else {
                self.relations.tell(message);
            }
        }
    }

    fn check(&self) -> Result<()> {
        if self.broken {
            return Err(Error::unavailable(format!(
                "an earlier write to {} failed; start capture again",
                self.place()
            )));
        }
        Ok(())
    }

    fn done(&mut self, result: std::io::Result<()>, what: &str) -> Result<()> {
        self.broken |= result.is_err();
        result.context(Kind::Unavailable, || format!("cannot {what} {}", self.place()))
    }
}
