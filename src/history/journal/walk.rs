//! Walks an open segment's blocks without decompressing them, to find how far it is sound.

use std::fs::File;

use super::block::{self, BlockHeader};
use super::fault::Fault;
use super::name::HEADER_LEN;
use crate::model::Lsn;

/// How an open segment ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// After a complete transaction.
    Whole,
    /// With parts of a transaction whose end never came.
    Incomplete,
    /// With bytes that were never synced: nothing shows that they were.
    Torn,
    /// A bad block that had been synced.
    Damaged { offset: u64, what: String },
    /// A block in a version that is not known here.
    Newer,
}

#[derive(Debug)]
pub(super) struct Walk {
    /// Offsets and headers of the blocks up to the last complete transaction.
    pub(super) blocks: Vec<(u64, BlockHeader)>,
    /// Bytes of the file up to there.
    pub(super) complete_len: u64,
    /// The frontier there.
    pub(super) frontier: Lsn,
    /// Bytes of the file when it was walked.
    pub(super) len: u64,
    pub(super) tail: Tail,
}

/// Walks the first `len` bytes of a file whose header is sound.
pub(super) fn walk(file: &File, start: Lsn, len: u64) -> Walk {
    let mut walk =
        Walk { blocks: Vec::new(), complete_len: HEADER_LEN as u64, frontier: start, len, tail: Tail::Whole };
    let mut parts = Vec::new();
    let mut at = HEADER_LEN as u64;
    while at < len {
        let header = match block::check(file, at, len - at) {
            Ok(header) => header,
            Err(Fault::Newer) => {
                walk.tail = Tail::Newer;
                return walk;
            }
            Err(Fault::Bad(what)) => {
                walk.tail = judge(file, at, len, what);
                return walk;
            }
        };
        // A sound checksum is no torn write: such a block was written here, but not by these rules.
        if header.before != walk.frontier || header.starts_inside() == parts.is_empty() {
            let what = "a sound block that does not go on where the one before it ended".into();
            walk.tail = Tail::Damaged { offset: at, what };
            return walk;
        }
        parts.push((at, header));
        at += header.whole_len();
        if !header.ends_inside() {
            walk.blocks.append(&mut parts);
            walk.complete_len = at;
            walk.frontier = header.after;
        }
    }
    if !parts.is_empty() {
        walk.tail = Tail::Incomplete;
    }
    walk
}

/// Whether the bad bytes at `bad` were once synced: a sound block behind them may tell.
fn judge(file: &File, bad: u64, len: u64, what: String) -> Tail {
    let mut at = bad + 1;
    while let Some(found) = find_magic(file, at, len) {
        match block::check(file, found, len - found) {
            Ok(header) if header.synced > bad => return Tail::Damaged { offset: bad, what },
            Ok(header) => at = found + header.whole_len(),
            Err(_) => at = found + 1,
        }
    }
    Tail::Torn
}

/// Where the next block's magic lies, at or after `at`.
fn find_magic(file: &File, mut at: u64, len: u64) -> Option<u64> {
    let mut chunk = vec![0; 64 << 10];
    while at + block::MAGIC.len() as u64 <= len {
        let size = chunk.len().min((len - at) as usize);
        block::read_exact(file, &mut chunk[..size], at).ok()?;
        if let Some(found) = chunk[..size].windows(block::MAGIC.len()).position(|bytes| bytes == block::MAGIC)
        {
            return Some(at + found as u64);
        }
        // A magic can lie across two chunks.
        at += (size - (block::MAGIC.len() - 1)) as u64;
    }
    None
}
