//! Intermediate images: how a fold goes on when its deltas have outgrown memory.

use std::path::Path;
use std::sync::Arc;

use super::delta::{BagDelta, KeyedDelta};
use super::{Delta, FoldedTable};
use crate::error::{Error, Result};
use crate::fold::merge::Rows;
use crate::history::image::{
    BlockDirectory, BlockEntry, BlockId, Blocks, FolderDirectory, ImageBuilder, Location, Packs,
};

/// Merges a table's delta into an intermediate image under `scratch`, and empties it.
///
/// Blocks that the delta does not touch are not copied: the image names them where they are.
pub(super) fn merge_delta(
    table: &mut FoldedTable,
    scratch: &Path,
    history: &Arc<impl BlockDirectory + 'static>,
) -> Result<()> {
    let empty = match &table.delta {
        Delta::Keyed(_) => Delta::Keyed(KeyedDelta::default()),
        Delta::Bag(_) => Delta::Bag(BagDelta::default()),
    };
    let known = Either(Arc::clone(history) as Arc<_>, Arc::new(FolderDirectory::scan(scratch)?));
    let packs = Packs::create(scratch, Arc::new(known))?;
    let full = FoldedTable {
        table: table.table.clone(),
        image: table.image,
        blocks: table.blocks.clone(),
        shape: table.shape.clone(),
        delta: std::mem::replace(&mut table.delta, empty),
        cleared: table.cleared,
        touched: true,
    };
    let mut image = Image(ImageBuilder::new(&packs));
    full.emit(&mut image)?;
    table.image = image.0.finish()?;
    packs.finish()?;
    let directory = Arc::new(FolderDirectory::scan(scratch)?);
    table.blocks = Blocks::layered(&Blocks::new(scratch, directory), &table.blocks);
    table.cleared = false;
    Ok(())
}

/// Rows that become an image, sharing its untouched blocks.
pub struct Image<'a>(pub ImageBuilder<'a>);

impl Rows for Image<'_> {
    fn block(&mut self, entry: &BlockEntry) -> Result<bool> {
        self.0.reuse(entry)
    }

    fn row(&mut self, key: &[u8], line: &[u8]) -> Result<()> {
        self.0.push(key, line)
    }
}

/// Looks in one place, then in another.
struct Either(Arc<dyn BlockDirectory>, Arc<dyn BlockDirectory>);

impl BlockDirectory for Either {
    fn locate(&self, id: &BlockId) -> Result<Option<Location>, Error> {
        match self.0.locate(id)? {
            Some(location) => Ok(Some(location)),
            None => self.1.locate(id),
        }
    }
}
