//! Decompressed blocks that are kept for the next time, since a question about few rows reads the same blocks several times.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::name::SegmentName;
use crate::error::Result;

/// The most bytes of blocks that are kept. The first ones stay: each time, the blocks are read in the
/// same order.
const MOST_BYTES: usize = 32 << 20;

/// Decompressed blocks by segment and offset. They are those of one [`Segments`](crate::history::segments::Segments), in
/// which a segment never changes.
#[derive(Debug, Default)]
pub struct KeptBlocks(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    blocks: BTreeMap<(SegmentName, u64), Arc<Vec<u8>>>,
    bytes: usize,
}

impl KeptBlocks {
    /// Returns the records of the block at `offset`, which are read if they are not kept.
    ///
    /// # Errors
    /// The errors of `read`.
    pub(super) fn get(
        &self,
        name: SegmentName,
        offset: u64,
        read: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Arc<Vec<u8>>> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().blocks.get(&(name, offset)) {
            return Ok(Arc::clone(known));
        }
        let raw = Arc::new(read()?);
        let mut kept = lock();
        if kept.bytes + raw.len() <= MOST_BYTES {
            kept.bytes += raw.len();
            kept.blocks.insert((name, offset), Arc::clone(&raw));
        }
        Ok(raw)
    }
}
