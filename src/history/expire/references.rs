//! What checkpoints need: the packs that hold their blocks, their archives and lists of roles.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::history::checkpoint::Checkpoint;
use crate::history::image::{BlockDirectory, BlockId, Blocks, read_index};

/// Names of objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Without their ending.
    pub packs: BTreeSet<String>,
    /// As `DIGEST.dump` and `DIGEST.sql`.
    pub schemas: BTreeSet<String>,
    /// All blocks. Checkpoints share most of theirs, and each block is looked up once.
    pub blocks: BTreeSet<BlockId>,
}

impl References {
    /// Takes in all that a checkpoint needs.
    ///
    /// # Errors
    /// `Damaged` if a block is missing, or an index cannot be read.
    pub fn add(
        &mut self,
        checkpoint: &Checkpoint,
        blocks: &Blocks,
        directory: &dyn BlockDirectory,
    ) -> Result<()> {
        let schema = &checkpoint.schema;
        self.schemas.insert(format!("{}.dump", schema.archive));
        self.schemas.extend(schema.globals.iter().map(|globals| format!("{globals}.sql")));
        for entry in &checkpoint.tables {
            let index = entry.image.index;
            if !self.blocks.insert(index) {
                continue;
            }
            let missing = |id: BlockId| {
                Error::damage_met(format_args!(
                    "block {id} of {} in checkpoint {} is missing",
                    entry.table.display(),
                    checkpoint.id
                ))
            };
            self.packs.insert(directory.locate(&index)?.ok_or_else(|| missing(index))?.pack);
            for block in read_index(blocks, &index)? {
                if self.blocks.insert(block.id) {
                    let place = directory.locate(&block.id)?.ok_or_else(|| missing(block.id))?;
                    self.packs.insert(place.pack);
                }
            }
        }
        Ok(())
    }
}
