//! Images of folded tables: in a checkpoint, and on local disk where a fold's deltas have outgrown memory or where rows
//! were sorted anew.

use std::path::Path;
use std::sync::Arc;

use super::delta::Delta;
use super::range::KeyRange;
use super::rows::{Portion, TableRows};
use super::table::{FoldedTable, Standing};
use crate::codec::key::KeyShape;
use crate::error::{Error, Result};
use crate::history::image::{
    BlockDirectory, BlockId, Blocks, Cuts, ImageBuilder, Location, MemoryDirectory, Packs, ScratchImages,
    Sorter, TableImage,
};

/// Memory for rows that are sorted anew, in bytes.
const SORT_BUDGET: usize = 64 << 20;

impl FoldedTable {
    /// Writes the table's rows as an image. Blocks that have not changed are not copied: the image names them where
    /// they are.
    ///
    /// # Errors
    /// The errors of [`FoldedTable::rows`]; `Unavailable` if the image cannot be written.
    pub fn write_image(self, packs: &Packs) -> Result<TableImage> {
        write(&mut self.rows(KeyRange::all(), None)?, packs)
    }

    /// Writes the table's rows as an intermediate image into `scratch`, in the table's present shape, and goes on from
    /// there with an empty delta. `history` finds the blocks of the history, which are cut by `cuts`.
    pub(super) fn settle(
        &mut self,
        scratch: &Arc<ScratchImages>,
        history: &Arc<impl BlockDirectory + 'static>,
        cuts: Cuts,
    ) -> Result<()> {
        let folder = scratch.path();
        let store = Arc::clone(scratch.store());
        let known = Either(Arc::clone(history) as Arc<_>, Arc::new(MemoryDirectory::scan(&*store)?));
        let packs = Packs::new(Arc::clone(&store), Arc::new(known), cuts);
        let keeps_keys = self.reshape().is_none_or(|reshape| reshape.keeps_keys);
        let was_unreadable = self.is_unreadable();
        let shape = KeyShape::of(&self.table);
        let mut rows = self.take().reshaped_rows(KeyRange::all(), None)?;
        let image = if keeps_keys {
            write(&mut rows, &packs)?
        } else {
            self.sort_anew(&mut rows, &shape, folder, &packs)?
        };
        packs.finish()?;
        let directory = Arc::new(MemoryDirectory::scan(&*store)?);
        self.blocks = Blocks::layered(&Blocks::new(store, directory), &self.blocks);
        self.scratch = Some(Arc::clone(scratch));
        let is_unreadable = was_unreadable || rows.doubts().unreadable;
        self.standing = Standing::Changed { image, delta: Delta::new(shape), reshape: None, is_unreadable };
        Ok(())
    }

    /// The table with its rows, which leaves this one without.
    fn take(&mut self) -> FoldedTable {
        let empty = Standing::Cleared { delta: Delta::new(KeyShape::of(&self.table)), reshape: None };
        FoldedTable {
            table: self.table.clone(),
            blocks: self.blocks.clone(),
            standing: std::mem::replace(&mut self.standing, empty),
            scratch: self.scratch.clone(),
        }
    }

    /// Writes the image of rows whose keys are of another shape than before.
    fn sort_anew(
        &self,
        rows: &mut TableRows,
        shape: &KeyShape,
        scratch: &Path,
        packs: &Packs,
    ) -> Result<TableImage> {
        let mut sorter = Sorter::new(scratch, SORT_BUDGET);
        let mut key = Vec::new();
        while let Some(portion) = rows.next_portion()? {
            let Portion::Row { line, .. } = portion else { continue };
            key.clear();
            let keyed = shape.push_key(line, &mut key);
            keyed.ok_or_else(|| Error::damaged("a row has no value in the key that its table was given"))?;
            sorter.push(&key, line)?;
        }
        let mut sorted = sorter.finish()?;
        let mut image = ImageBuilder::new(packs);
        while let Some((key, line)) = sorted.next_row()? {
            image.push(key, line)?;
        }
        let name = self.table.display();
        image
            .finish()
            .map_err(|error| Error::new(error.kind(), format!("{name}, sorted by its new key: {error}")))
    }
}

fn write(rows: &mut TableRows, packs: &Packs) -> Result<TableImage> {
    let mut image = ImageBuilder::new(packs);
    while let Some(portion) = rows.next_portion()? {
        match portion {
            Portion::Block(entry) => {
                if !image.reuse(entry)? {
                    rows.open_block()?;
                }
            }
            Portion::ChangedBlock(_) => rows.open_block()?,
            Portion::Row { key, line } => image.push(key, line)?,
            // These come only of a block that was not opened.
            Portion::Kept(_) | Portion::Gone(_) => {}
        }
    }
    image.finish()
}

/// Looks for a block in one place, then in another.
struct Either(Arc<dyn BlockDirectory>, Arc<dyn BlockDirectory>);

impl BlockDirectory for Either {
    fn locate(&self, id: &BlockId) -> Result<Option<Location>, Error> {
        match self.0.locate(id)? {
            Some(location) => Ok(Some(location)),
            None => self.1.locate(id),
        }
    }
}
