//! Intermediate images: how a fold goes on when its deltas have outgrown memory.

use std::path::Path;
use std::sync::Arc;

use super::reshape::{Reshape, Reshaped};
use super::{Delta, FoldedTable};
use crate::codec::key::KeyShape;
use crate::codec::retell::Doubts;
use crate::error::{Error, Result};
use crate::fold::merge::Rows;
use crate::history::image::{
    self, BlockDirectory, BlockEntry, BlockId, Blocks, ImageBuilder, Location, MemoryDirectory, Packs,
    Sorter, TableImage,
};

/// Memory for rows that are sorted anew, in bytes.
const SORT_BUDGET: usize = 64 << 20;

/// Merges a table's delta into an intermediate image under `scratch`, in the table's present shape,
/// and empties it.
///
/// Blocks that the delta does not touch are not copied: the image names them where they are.
pub(super) fn merge_delta(
    table: &mut FoldedTable,
    scratch: &Path,
    history: &Arc<impl BlockDirectory + 'static>,
) -> Result<()> {
    let store = image::scratch_store(scratch);
    let known = Either(Arc::clone(history) as Arc<_>, Arc::new(MemoryDirectory::scan(&*store)?));
    let packs = Packs::new(Arc::clone(&store), Arc::new(known));
    let shape = KeyShape::of(&table.table);
    let reshape = table.reshape.take();
    let full = FoldedTable {
        table: table.table.clone(),
        image: table.image,
        blocks: table.blocks.clone(),
        shape: std::mem::replace(&mut table.shape, shape.clone()),
        delta: std::mem::replace(&mut table.delta, Delta::of(&shape)),
        cleared: table.cleared,
        touched: true,
        reshape: None,
        unreadable: false,
        dropped: false,
    };
    let mut doubts = Doubts::default();
    table.image = match reshape {
        Some(reshape) if !reshape.keeps_keys => {
            sort_anew(full, &reshape, &shape, scratch, &packs, &mut doubts)?
        }
        reshape => {
            let mut image = Image(ImageBuilder::new(&packs));
            match reshape {
                Some(reshape) => {
                    let mut reshaped = Reshaped::new(&reshape, &mut image);
                    full.emit_unshaped(&mut reshaped)?;
                    doubts = reshaped.doubts;
                }
                None => full.emit_unshaped(&mut image)?,
            }
            image.0.finish()?
        }
    };
    table.unreadable |= doubts.unreadable;
    packs.finish()?;
    let directory = Arc::new(MemoryDirectory::scan(&*store)?);
    table.blocks = Blocks::layered(&Blocks::new(store, directory), &table.blocks);
    table.cleared = false;
    // The history's image is not this one.
    table.touched = true;
    Ok(())
}

/// The image of a table whose rows have other keys now.
fn sort_anew(
    full: FoldedTable,
    reshape: &Reshape,
    shape: &KeyShape,
    scratch: &Path,
    packs: &Packs,
    doubts: &mut Doubts,
) -> Result<TableImage> {
    let name = full.table.display();
    let mut sorting = Sorting {
        reshape,
        shape,
        sorter: Sorter::new(scratch, SORT_BUDGET),
        line: Vec::new(),
        key: Vec::new(),
        doubts,
    };
    full.emit_unshaped(&mut sorting)?;
    let mut sorted = sorting.sorter.finish()?;
    let mut image = ImageBuilder::new(packs);
    while let Some((key, line)) = sorted.next_row()? {
        image.push(key, line)?;
    }
    image
        .finish()
        .map_err(|error| Error::new(error.kind(), format!("{name}, sorted by its new key: {error}")))
}

/// Rows on their way into the order of their new keys.
struct Sorting<'a> {
    reshape: &'a Reshape,
    shape: &'a KeyShape,
    sorter: Sorter,
    line: Vec<u8>,
    key: Vec<u8>,
    doubts: &'a mut Doubts,
}

impl Rows for Sorting<'_> {
    fn block(&mut self, _entry: &BlockEntry) -> Result<bool> {
        Ok(false)
    }

    fn row(&mut self, _key: &[u8], line: &[u8]) -> Result<()> {
        self.line.clear();
        self.key.clear();
        self.reshape.push(line, &mut self.line, self.doubts)?;
        let keyed = self.shape.push_key(&self.line, &mut self.key);
        keyed.ok_or_else(|| Error::damaged("a row has no value in the key that its table was given"))?;
        self.sorter.push(&self.key, &self.line)
    }
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
