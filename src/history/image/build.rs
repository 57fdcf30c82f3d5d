//! Builds a table's image from its sorted rows.

use super::cut::{self, Cutter};
use super::digest::RowsDigest;
use super::id::BlockKind;
use super::index::{self, BlockEntry, TableImage};
use super::read::count_lines;
use super::write::Packs;
use crate::error::{Error, Result};

/// The longest line, in bytes: PostgreSQL builds none that is longer.
pub const MAX_LINE: usize = 1 << 30;

/// Cuts sorted rows into blocks and puts them into packs.
///
/// The image depends only on the rows and their keys, and not on the way in which it is built: taking the untouched blocks
/// of an older image with [`ImageBuilder::reuse`], and pushing the rows of the touched blocks, gives the same index as
/// pushing all rows. The one exception are blocks that the hard maximum has cut (keys shared by a mebibyte of rows, or
/// single rows that large): some blocks may then be cut elsewhere, and hold the same rows. A block is touched if a row was
/// inserted, deleted or updated whose key the block covers ([`index::covering`]).
pub struct ImageBuilder<'a> {
    packs: &'a Packs,
    cutter: Cutter,
    /// The lines of the open block.
    raw: Vec<u8>,
    rows: u64,
    digest: RowsDigest,
    first_key: Vec<u8>,
    /// The key of the last row; `None` before the first row.
    last_key: Option<Vec<u8>>,
    entries: Vec<BlockEntry>,
}

impl<'a> ImageBuilder<'a> {
    pub fn new(packs: &'a Packs) -> ImageBuilder<'a> {
        ImageBuilder {
            packs,
            cutter: Cutter::new(packs.cuts()),
            raw: Vec::new(),
            rows: 0,
            digest: RowsDigest::default(),
            first_key: Vec::new(),
            last_key: None,
            entries: Vec::new(),
        }
    }

    /// Takes the next row. `line` is COPY text without its newline.
    ///
    /// Rows with equal keys must come in a fixed order, such as that of their lines.
    ///
    /// # Errors
    /// `Internal` if the key is before the last one, `Refused` if the line is too long; otherwise it fails as
    /// [`Packs::put`] does. After an error the builder must not be used.
    pub fn push(&mut self, key: &[u8], line: &[u8]) -> Result<()> {
        if line.len() > MAX_LINE {
            return Err(Error::refused(format!(
                "a row has {} bytes; at most {MAX_LINE} can be kept",
                line.len()
            )));
        }
        let same_key = self.see_key(key)?;
        if self.cutter.ends_before(same_key, line.len()) {
            self.close_block()?;
        }
        if self.rows == 0 {
            self.first_key.clear();
            self.first_key.extend_from_slice(key);
        }
        self.raw.extend_from_slice(line);
        self.raw.push(b'\n');
        self.rows += 1;
        self.digest.add(line);
        self.cutter.take(key, line.len());
        Ok(())
    }

    /// Takes a whole block of an older image of the same table, if the rows would be cut into the same block. Otherwise it
    /// returns false, and the caller pushes the block's rows.
    ///
    /// # Errors
    /// Fails as [`ImageBuilder::push`] does.
    pub fn reuse(&mut self, entry: &BlockEntry) -> Result<bool> {
        if !self.begins_block(entry) || !self.packs.share(&entry.id)? {
            return Ok(false);
        }
        self.see_key(&entry.first_key)?;
        self.close_block()?;
        self.entries.push(entry.clone());
        Ok(true)
    }

    /// Ends the table and stores its index.
    ///
    /// # Errors
    /// Fails as [`Packs::put`] does.
    pub fn finish(mut self) -> Result<TableImage> {
        self.close_block()?;
        let index = self.packs.put(BlockKind::Index, &index::encode(&self.entries))?;
        let mut image = TableImage { index, rows: 0, bytes: 0, digest: RowsDigest::default() };
        for entry in &self.entries {
            image.rows += entry.rows;
            image.bytes += entry.raw_len;
            image.digest.merge(entry.digest);
        }
        Ok(image)
    }

    /// Whether the first row of `entry` would begin a block.
    fn begins_block(&self, entry: &BlockEntry) -> bool {
        let same_key = self.last_key.as_deref() == Some(&entry.first_key);
        let line_len = if entry.rows == 1 { entry.raw_len.saturating_sub(1) as usize } else { 0 };
        self.rows == 0 || self.cutter.ends_before(same_key, line_len)
    }

    /// Notes the key of the next row, and returns whether the row before has the same key.
    fn see_key(&mut self, key: &[u8]) -> Result<bool> {
        let Some(last) = &mut self.last_key else {
            self.last_key = Some(key.to_vec());
            return Ok(false);
        };
        match key.cmp(last) {
            std::cmp::Ordering::Less => {
                Err(Error::internal("the rows of an image did not come in the order of their keys"))
            }
            std::cmp::Ordering::Equal => Ok(true),
            std::cmp::Ordering::Greater => {
                last.clear();
                last.extend_from_slice(key);
                Ok(false)
            }
        }
    }

    /// Puts the open block into the packs, if it has rows.
    fn close_block(&mut self) -> Result<()> {
        self.cutter.restart();
        if self.rows == 0 {
            return Ok(());
        }
        if count_lines(&self.raw) != self.rows {
            return Err(Error::internal("a row of an image holds a newline, which COPY text does not"));
        }
        let id = self.packs.put(BlockKind::Rows, &self.raw)?;
        self.entries.push(BlockEntry {
            id,
            rows: std::mem::take(&mut self.rows),
            raw_len: self.raw.len() as u64,
            digest: std::mem::take(&mut self.digest),
            first_key: std::mem::take(&mut self.first_key),
        });
        // The memory of one huge row is not kept for the rest of the table.
        self.raw.clear();
        self.raw.shrink_to(2 * cut::MAX);
        Ok(())
    }
}
