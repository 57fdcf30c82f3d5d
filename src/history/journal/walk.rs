//! Walks the blocks of an open segment without decompressing them, to find how far the segment is sound.

use super::block::{self, BlockHeader};
use super::fault::SegmentFault;
use super::name::HEADER_LEN;
use crate::history::key::{Digest, SegmentKey, Tag};
use crate::model::Lsn;
use crate::store::Object;

/// How an open segment ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// The segment ends after a complete transaction.
    Whole,
    /// The segment ends with parts of a transaction whose end never came.
    Incomplete,
    /// The segment ends with bytes of which nothing shows that they were ever synced.
    Torn,
    /// The segment has a bad block that had been synced.
    Damaged { offset: u64, what: String },
    /// The segment has a block in a version that this program does not know.
    Newer,
}

#[derive(Debug)]
pub(super) struct Walk {
    /// The blocks up to the last complete transaction.
    pub(super) blocks: Vec<WalkedBlock>,
    /// The bytes of the segment up to the last complete transaction.
    pub(super) complete_len: u64,
    /// The frontier at the last complete transaction.
    pub(super) frontier: Lsn,
    /// The bytes of the segment when it was walked.
    pub(super) len: u64,
    pub(super) tail: Tail,
    /// The tag of the last block up to the last complete transaction.
    last_tag: Tag,
}

/// A place behind a complete transaction, from which a walk can go on.
#[derive(Clone, Copy, Debug)]
pub(super) struct WalkedTo {
    offset: u64,
    frontier: Lsn,
    last_tag: Tag,
}

impl WalkedTo {
    /// The place behind the header of a segment that begins at `start`.
    pub(super) fn start(start: Lsn) -> WalkedTo {
        WalkedTo { offset: HEADER_LEN as u64, frontier: start, last_tag: SegmentKey::no_block() }
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }
}

#[derive(Debug)]
pub(super) struct WalkedBlock {
    pub(super) offset: u64,
    pub(super) header: BlockHeader,
    /// The digest that a holder of the key vouches for, if the walk had the key.
    pub(super) digest: Option<Digest>,
}

impl Walk {
    /// Returns the tag of the last block up to the last complete transaction.
    pub(super) fn last_tag(&self) -> Tag {
        self.last_tag
    }

    pub(super) fn end(&self) -> WalkedTo {
        WalkedTo { offset: self.complete_len, frontier: self.frontier, last_tag: self.last_tag }
    }
}

/// Walks the first `len` bytes of an open segment whose header is sound. With a key, a sound block without a tag of the
/// key is damage.
pub(super) fn walk(object: &dyn Object, start: Lsn, len: u64, key: Option<&SegmentKey>) -> Walk {
    walk_from(object, WalkedTo::start(start), len, key)
}

/// Walks an open segment from the place where an earlier walk ended.
pub(super) fn walk_from(object: &dyn Object, from: WalkedTo, len: u64, key: Option<&SegmentKey>) -> Walk {
    let WalkedTo { offset, frontier, last_tag } = from;
    let mut walk =
        Walk { blocks: Vec::new(), complete_len: offset, frontier, len, tail: Tail::Whole, last_tag };
    let mut parts = Vec::new();
    let mut at = offset;
    let mut last_tag = last_tag;
    while at < len {
        let block = match check(object, at, len, key, &mut last_tag) {
            Ok(Ok(block)) => block,
            Ok(Err(what)) => {
                walk.tail = Tail::Damaged { offset: at, what };
                return walk;
            }
            Err(SegmentFault::Newer) => {
                walk.tail = Tail::Newer;
                return walk;
            }
            Err(SegmentFault::Bad(what)) => {
                walk.tail = judge(object, at, len, what);
                return walk;
            }
        };
        // A block with a sound checksum is no torn write, so a writer has put this one here against the rules.
        let header = block.header;
        if header.before != walk.frontier || header.starts_inside() == parts.is_empty() {
            let what = "a sound block that does not go on where the one before it ended".into();
            walk.tail = Tail::Damaged { offset: at, what };
            return walk;
        }
        parts.push(block);
        at += header.whole_len();
        if !header.ends_inside() {
            walk.blocks.append(&mut parts);
            walk.last_tag = last_tag;
            walk.complete_len = at;
            walk.frontier = header.after;
        }
    }
    if !parts.is_empty() {
        walk.tail = Tail::Incomplete;
    }
    walk
}

/// Checks the block at `at`. The inner error is about a block whose bytes are sound, but that no holder of the key wrote.
fn check(
    object: &dyn Object,
    at: u64,
    len: u64,
    key: Option<&SegmentKey>,
    last_tag: &mut Tag,
) -> Result<Result<WalkedBlock, String>, SegmentFault> {
    let Some(key) = key else {
        let header = block::check(object, at, len - at)?;
        return Ok(Ok(WalkedBlock { offset: at, header, digest: None }));
    };
    let (header, proof) = block::check_with_proof(object, at, len - at)?;
    let tag = key.block_tag(last_tag, &proof.digest);
    if proof.tag != Some(tag) {
        return Ok(Err(key.not_ours()));
    }
    *last_tag = tag;
    Ok(Ok(WalkedBlock { offset: at, header, digest: Some(proof.digest) }))
}

/// Judges whether the bad bytes at `bad` were synced once, which a sound block behind them may tell.
fn judge(object: &dyn Object, bad: u64, len: u64, what: String) -> Tail {
    let mut at = bad + 1;
    while let Some(found) = find_magic(object, at, len) {
        match block::check(object, found, len - found) {
            Ok(header) if header.synced > bad => return Tail::Damaged { offset: bad, what },
            Ok(header) => at = found + header.whole_len(),
            Err(_) => at = found + 1,
        }
    }
    Tail::Torn
}

/// Returns where the next magic word of a block lies, at or after `at`.
fn find_magic(object: &dyn Object, mut at: u64, len: u64) -> Option<u64> {
    let mut chunk = vec![0; 64 << 10];
    while at + block::MAGIC.len() as u64 <= len {
        let size = chunk.len().min((len - at) as usize);
        block::read_exact(object, &mut chunk[..size], at).ok()?;
        if let Some(found) = chunk[..size].windows(block::MAGIC.len()).position(|bytes| bytes == block::MAGIC)
        {
            return Some(at + found as u64);
        }
        // A magic can lie across two chunks.
        at += (size - (block::MAGIC.len() - 1)) as u64;
    }
    None
}
