//! The rows of a folded table, image and delta merged, in key order and one portion at a time.
//!
//! A block of the image in whose range no key was touched is offered as a whole, without being read.

use std::ops::Range;

use super::delta::Delta;
use super::moved::fill_moved;
use super::range::KeyRange;
use super::rewrite::Rewrite;
use super::source::RowSource;
use super::touched::{Meeting, Mismatch, Replacement, TouchedKeys};
use crate::codec::key::KeyShape;
use crate::codec::retell::Doubts;
use crate::error::{Error, Result};
use crate::follow::Reshape;
use crate::history::image::{self, BlockEntry};

/// A portion of a table's rows.
#[derive(Debug)]
pub enum Portion<'a> {
    /// A block of the image, of which all rows belong to the table as they are. [`TableRows::read_block`] reads the
    /// block. After [`TableRows::open_block`], the rows come one by one instead.
    Block(&'a BlockEntry),
    /// A block of which some rows are gone or replaced. The portions that follow say what is kept of the block, what is
    /// gone and what is new. After [`TableRows::open_block`], the rows come one by one instead.
    ChangedBlock(&'a BlockEntry),
    /// Whole lines of the changed block, each with its newline, which stay.
    Kept(&'a [u8]),
    /// A row of the changed block that is no longer there.
    Gone(&'a [u8]),
    /// A row that is in no block that was offered.
    Row { key: &'a [u8], line: &'a [u8] },
}

/// A cursor over the rows of a folded table.
pub struct TableRows {
    source: RowSource,
    shape: KeyShape,
    range: KeyRange,
    /// The touched keys in the range.
    touched: TouchedKeys,
    /// The next block, or the one that is read, and the end of the blocks that may hold rows of the range.
    block: usize,
    end: usize,
    state: State,
    rewrite: Option<Rewrite>,
    /// A row whose left-out values were filled in.
    filled: Vec<u8>,
}

enum State {
    Between,
    /// The next block was offered as a whole.
    Offered,
    Reading(OpenBlock),
}

/// A block of which the rows are read.
struct OpenBlock {
    raw: Vec<u8>,
    /// The place in `raw` of the present line, without its newline, and the line's key.
    line: Range<usize>,
    /// The offset in `raw` at which the next line begins.
    next: usize,
    key: Vec<u8>,
    step: Step,
    /// The offset in `raw` of the first line that stays and was not handed on yet. `None` if the rows come one by one.
    kept: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The present line has been dealt with.
    NextLine,
    /// The present line is before us.
    AtLine,
    /// The present line is gone. The delta may have another row in its place.
    Replace,
    /// There are no more lines.
    NoLines,
}

/// The kind of a portion whose content the cursor holds.
#[derive(Clone)]
enum Found {
    Block,
    ChangedBlock,
    Kept(Range<usize>),
    Gone,
    Line,
    /// The row of the touched key at this place.
    New(usize),
    /// The same, with values from the image.
    Filled(usize),
}

impl TableRows {
    pub(super) fn new(
        source: RowSource,
        delta: Delta,
        range: KeyRange,
        reshape: Option<Reshape>,
        columns: Option<&[usize]>,
    ) -> Result<TableRows> {
        let shape = delta.shape().clone();
        let mut touched = TouchedKeys::new(delta, &range);
        fill_moved(&source, &shape, &mut touched)?;
        let (from, is_keyed) = (range.from(), matches!(shape, KeyShape::Columns(_)));
        // Equal rows of a table without a key may fill the end of one block and the start of the next.
        let before = |entry: &BlockEntry| *entry.first_key < *from || (is_keyed && *entry.first_key == *from);
        let block = source.index.partition_point(before).saturating_sub(1);
        let end = source.index.partition_point(|entry| !range.ends_before(&entry.first_key));
        let rewrite = Rewrite::new(reshape, columns);
        let (state, filled) = (State::Between, Vec::new());
        Ok(TableRows { source, shape, range, touched, block, end, state, rewrite, filled })
    }

    /// Passes over all blocks of a table without a key that hold no row with one of the keys. A block that is left may hold
    /// other rows.
    pub(super) fn keep_only<K: AsRef<[u8]>>(&mut self, keys: &[K]) {
        let index = &self.source.index;
        let mut kept = vec![false; index.len()];
        for key in keys.iter().map(AsRef::as_ref) {
            let end = index.partition_point(|entry| *entry.first_key <= *key);
            // Equal rows may fill the end of one block and the start of the next.
            let start = index.partition_point(|entry| *entry.first_key < *key);
            kept[start.saturating_sub(1)..end].fill(true);
        }
        let mut kept = kept.into_iter();
        self.source.index.retain(|_| kept.next() == Some(true));
        (self.block, self.end) = (0, self.source.index.len());
    }

    /// The next portion; `None` behind the last one.
    ///
    /// # Errors
    /// `Damaged` if a block is, or if the journal contradicts the image.
    #[inline]
    pub fn next_portion(&mut self) -> Result<Option<Portion<'_>>> {
        match self.next_found()? {
            None => Ok(None),
            Some(found) => self.portion(found).map(Some),
        }
    }

    /// The key and the line of the next row; `None` behind the last one. Blocks that were not asked for as a whole are
    /// opened.
    ///
    /// # Errors
    /// The errors of [`TableRows::next_portion`].
    pub fn next_row(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        let found = loop {
            match self.next_found()? {
                None => return Ok(None),
                Some(Found::Block | Found::ChangedBlock) => self.open_block()?,
                Some(Found::Kept(_) | Found::Gone) => {}
                Some(found) => break found,
            }
        };
        match self.portion(found)? {
            Portion::Row { key, line } => Ok(Some((key, line))),
            _ => Err(Error::internal("a row of a table is a portion of another kind")),
        }
    }

    #[inline]
    fn next_found(&mut self) -> Result<Option<Found>> {
        loop {
            let found = match &mut self.state {
                State::Between if self.block < self.end => self.begin_block()?,
                State::Between => match self.touched.next_new(None).map_err(|it| self.source.fault(it))? {
                    None => return Ok(None),
                    Some(place) => Some(Found::New(place)),
                },
                State::Offered => self.end_block(),
                State::Reading(_) => self.read()?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    /// Reads the block that was offered, as lines that each end with a newline.
    ///
    /// # Errors
    /// `Damaged` if the block is.
    pub fn read_block(&self) -> Result<Vec<u8>> {
        self.source.blocks.get(&self.source.index[self.block].id)
    }

    /// Makes the rows of the block that was offered come one by one.
    ///
    /// # Errors
    /// `Damaged` if the block is.
    pub fn open_block(&mut self) -> Result<()> {
        match &mut self.state {
            State::Between => {}
            State::Offered => self.state = State::Reading(self.open(false)?),
            State::Reading(open) => open.kept = None,
        }
        Ok(())
    }

    /// The doubts that arose when rows from before a schema change were reshaped.
    pub(super) fn doubts(&self) -> Doubts {
        self.rewrite.as_ref().map(|rewrite| rewrite.doubts.clone()).unwrap_or_default()
    }

    /// The first key of the block after the present one.
    fn bound(&self) -> Option<&[u8]> {
        self.source.index.get(self.block + 1).map(|after| &*after.first_key)
    }

    fn begin_block(&mut self) -> Result<Option<Found>> {
        let (is_touched, is_whole) = (self.touched.belong_before(self.bound()), self.is_whole());
        if is_whole && !is_touched {
            self.state = State::Offered;
            return Ok(Some(Found::Block));
        }
        self.state = State::Reading(self.open(is_whole)?);
        Ok(is_whole.then_some(Found::ChangedBlock))
    }

    /// Whether all rows of the present block belong to the range, and stay as they are.
    fn is_whole(&self) -> bool {
        let entry = &self.source.index[self.block];
        self.rewrite.is_none()
            && !self.range.begins_after(&entry.first_key)
            && match (self.range.to(), self.bound(), &self.shape) {
                (None, _, _) => true,
                (Some(_), None, _) => false,
                (Some(to), Some(bound), KeyShape::Columns(_)) => bound <= to,
                // The block's last rows may be equal to the next block's first one.
                (Some(to), Some(bound), KeyShape::WholeRow) => bound < to,
            }
    }

    fn open(&self, sifts: bool) -> Result<OpenBlock> {
        let raw = image::read_rows(&self.source.blocks, &self.source.index[self.block])?;
        Ok(OpenBlock {
            raw,
            line: 0..0,
            next: 0,
            key: Vec::new(),
            step: Step::NextLine,
            kept: sifts.then_some(0),
        })
    }

    fn end_block(&mut self) -> Option<Found> {
        self.block += 1;
        self.state = State::Between;
        None
    }

    /// Reads on in the open block, up to the next portion or to the block's end.
    fn read(&mut self) -> Result<Option<Found>> {
        let TableRows { source, shape, range, touched, block, state, filled, .. } = self;
        let State::Reading(open) = state else { return Ok(None) };
        loop {
            let found = match open.step {
                Step::NextLine => {
                    open.pass_on(shape, range, touched).ok_or_else(|| source.keyless(*block))?;
                    None
                }
                Step::AtLine => open.compare(touched).map_err(|it| source.fault(it))?,
                Step::Replace => open.replace(touched, filled).map_err(|it| source.fault(it))?,
                Step::NoLines => {
                    if let Some(kept) = open.take_kept(open.raw.len()) {
                        return Ok(Some(kept));
                    }
                    let bound = source.index.get(*block + 1).map(|after| &*after.first_key);
                    match touched.next_new(bound).map_err(|it| source.fault(it))? {
                        Some(place) => return Ok(Some(Found::New(place))),
                        None => return Ok(self.end_block()),
                    }
                }
            };
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    #[inline]
    fn portion(&mut self, found: Found) -> Result<Portion<'_>> {
        let TableRows { source, touched, block, state, rewrite, filled, .. } = self;
        let (key, line) = match (found, state) {
            (Found::Block, _) => return Ok(Portion::Block(&source.index[*block])),
            (Found::ChangedBlock, _) => return Ok(Portion::ChangedBlock(&source.index[*block])),
            (Found::Kept(range), State::Reading(open)) => return Ok(Portion::Kept(&open.raw[range])),
            (Found::Gone, State::Reading(open)) => return Ok(Portion::Gone(&open.raw[open.line.clone()])),
            (Found::Line, State::Reading(open)) => (&*open.key, &open.raw[open.line.clone()]),
            (Found::New(place), _) => touched.row(place)?,
            (Found::Filled(place), _) => (touched.key(place), &**filled),
            _ => return Err(Error::internal("a portion of a table's rows has no content")),
        };
        let line = match rewrite {
            Some(rewrite) => rewrite.rewrite(line)?,
            None => line,
        };
        Ok(Portion::Row { key, line })
    }
}

impl OpenBlock {
    /// Goes on to the next line; returns whether there is one, or `None` if it has no key.
    #[inline]
    fn next_line(&mut self, shape: &KeyShape) -> Option<bool> {
        let rest = &self.raw[self.next..];
        if rest.is_empty() {
            return Some(false);
        }
        let length = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        self.line = self.next..self.next + length;
        self.next = self.line.end + 1;
        self.key.clear();
        shape.push_key(&self.raw[self.line.clone()], &mut self.key)?;
        Some(true)
    }

    /// Goes on to the next line in the range, past those that stay and go on together. `None` if a line has no key.
    #[inline]
    fn pass_on(&mut self, shape: &KeyShape, range: &KeyRange, touched: &TouchedKeys) -> Option<()> {
        let next = touched.next_key();
        self.step = loop {
            if !self.next_line(shape)? || range.ends_before(&self.key) {
                break Step::NoLines;
            }
            let stays = self.kept.is_some() && next.is_none_or(|next| *next > *self.key);
            if !stays && !range.begins_after(&self.key) {
                break Step::AtLine;
            }
        };
        Some(())
    }

    /// Compares the present line with the next touched key.
    #[inline]
    fn compare(&mut self, touched: &mut TouchedKeys) -> std::result::Result<Option<Found>, Mismatch> {
        match touched.meet(&self.key) {
            Meeting::Stays => {
                self.step = Step::NextLine;
                Ok(self.kept.is_none().then_some(Found::Line))
            }
            Meeting::After => match self.take_kept(self.line.start) {
                None => Ok(touched.next_new(Some(&self.key))?.map(Found::New)),
                kept => Ok(kept),
            },
            meeting => {
                if let Some(kept) = self.take_kept(self.line.start) {
                    return Ok(Some(kept));
                }
                self.step = if meeting == Meeting::Replaced { Step::Replace } else { Step::NextLine };
                if meeting == Meeting::OneLess {
                    touched.take_one();
                }
                Ok(self.kept.as_mut().map(|kept| {
                    // The lines that stay go on behind this one's newline.
                    *kept = self.line.end + 1;
                    Found::Gone
                }))
            }
        }
    }

    /// Returns the delta's row in place of the present line.
    fn replace(
        &mut self,
        touched: &mut TouchedKeys,
        filled: &mut Vec<u8>,
    ) -> std::result::Result<Option<Found>, Mismatch> {
        self.step = Step::NextLine;
        Ok(match touched.replace(&self.raw[self.line.clone()], filled)? {
            Replacement::None => None,
            Replacement::Whole(place) => Some(Found::New(place)),
            Replacement::Filled(place) => Some(Found::Filled(place)),
        })
    }

    /// The lines before `end` that stay and were not handed on yet.
    fn take_kept(&mut self, end: usize) -> Option<Found> {
        let start = self.kept?;
        self.kept = Some(start.max(end));
        (start < end).then_some(Found::Kept(start..end))
    }
}
