//! The image that a table's rows are read from.

use std::sync::Arc;

use super::touched::Mismatch;
use crate::error::{Error, SEE_ALL_DAMAGE};
use crate::history::image::{BlockEntry, Blocks, ScratchImages};

/// A table's image, without the changes since.
pub(super) struct RowSource {
    /// The table's name, for messages.
    pub table: String,
    pub index: Vec<BlockEntry>,
    pub blocks: Blocks,
    /// The folder that holds intermediate images, as long as they are read.
    pub _scratch: Option<Arc<ScratchImages>>,
}

impl RowSource {
    pub fn fault(&self, mismatch: Mismatch) -> Error {
        Error::damaged(format!(
            "the journal and the checkpoint's image of {} contradict each other: {mismatch}{SEE_ALL_DAMAGE} --prove",
            self.table
        ))
    }

    pub fn keyless(&self, block: usize) -> Error {
        Error::damaged(format!("a row of {} in block {} has no key", self.table, self.index[block].id))
    }
}
