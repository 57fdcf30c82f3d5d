//! Image and delta, merged in key order.
//!
//! A block in whose range no key was touched is handed on whole, without being read.

use std::cmp::Ordering;
use std::ops::Range;

use super::delta::{BagDelta, Count, KeyedDelta, Latest};
use crate::codec::copy_text;
use crate::codec::key::KeyShape;
use crate::error::{Error, Result};
use crate::history::image::{self, BlockEntry, Blocks};

/// Takes a table's rows in key order.
pub trait Rows {
    /// Offers a whole block; on `false`, its rows follow one by one.
    ///
    /// # Errors
    /// The receiver's own.
    fn block(&mut self, entry: &BlockEntry) -> Result<bool>;

    /// # Errors
    /// The receiver's own.
    fn row(&mut self, key: &[u8], line: &[u8]) -> Result<()>;

    /// Announces a block of which some rows are gone or replaced. On `true` the block's rows count as
    /// handed on, and what follows is what [`kept`](Rows::kept) and [`gone`](Rows::gone) tell of them, with
    /// the new ones by [`row`](Rows::row) in between; on `false`, all come one by one.
    fn changed_block(&mut self, _entry: &BlockEntry) -> bool {
        false
    }

    /// Whole lines, each with its newline, of the announced block, which stay as they were.
    ///
    /// # Errors
    /// The receiver's own.
    fn kept(&mut self, _lines: &[u8]) -> Result<()> {
        Ok(())
    }

    /// A row of the announced block that is no more.
    fn gone(&mut self, _line: &[u8]) {}
}

/// The rows of one block on their way, some of which are touched.
struct Sifting<'a> {
    rows: &'a mut dyn Rows,
    raw: &'a [u8],
    /// Where the untouched rows begin that were not handed on yet, if they go as a whole.
    kept: Option<usize>,
}

impl<'a> Sifting<'a> {
    fn new(rows: &'a mut dyn Rows, entry: &BlockEntry, raw: &'a [u8]) -> Sifting<'a> {
        let kept = rows.changed_block(entry).then_some(0);
        Sifting { rows, raw, kept }
    }

    /// The line at `at` stays.
    fn keep(&mut self, key: &[u8], at: &Range<usize>) -> Result<()> {
        match self.kept {
            Some(_) => Ok(()),
            None => self.rows.row(key, &self.raw[at.clone()]),
        }
    }

    /// The line at `at` goes.
    fn leave_out(&mut self, at: &Range<usize>) -> Result<()> {
        self.hand_on(at.start)?;
        if let Some(kept) = &mut self.kept {
            // Behind its newline.
            *kept = at.end + 1;
            self.rows.gone(&self.raw[at.clone()]);
        }
        Ok(())
    }

    /// What was kept up to `end` goes before what comes next.
    fn hand_on(&mut self, end: usize) -> Result<()> {
        let Some(start) = self.kept else { return Ok(()) };
        self.kept = Some(end);
        if start < end { self.rows.kept(&self.raw[start..end]) } else { Ok(()) }
    }
}

/// A table's image, ready to be read.
pub struct Base<'a> {
    /// For messages.
    pub table: &'a str,
    pub shape: &'a KeyShape,
    pub index: &'a [BlockEntry],
    pub blocks: &'a Blocks,
}

impl Base<'_> {
    /// Hands on the rows of the image with `delta` applied.
    ///
    /// # Errors
    /// `Damaged` if a block is, or if the delta contradicts the image; the receiver's own.
    pub fn merge_keyed(&self, delta: KeyedDelta, rows: &mut dyn Rows) -> Result<()> {
        let mut delta = delta.into_sorted();
        self.fill_moved(&mut delta)?;
        let mut next = 0;
        for number in 0..self.index.len() {
            let end = match self.index.get(number + 1) {
                Some(after) => next + delta[next..].partition_point(|(key, _)| **key < *after.first_key),
                None => delta.len(),
            };
            if next == end {
                self.pass(number, rows)?;
            } else {
                self.join_keyed(number, &delta[next..end], rows)?;
            }
            next = end;
        }
        if self.index.is_empty() {
            for (key, latest) in &delta {
                self.emit(key, latest, rows)?;
            }
        }
        Ok(())
    }

    fn pass(&self, number: usize, rows: &mut dyn Rows) -> Result<()> {
        let entry = &self.index[number];
        if rows.block(entry)? {
            return Ok(());
        }
        self.each_row(number, &mut |key, line| rows.row(key, line))
    }

    fn join_keyed(&self, number: usize, delta: &[(Box<[u8]>, Latest)], rows: &mut dyn Rows) -> Result<()> {
        let raw = image::read_rows(self.blocks, &self.index[number])?;
        let mut sifting = Sifting::new(rows, &self.index[number], &raw);
        let mut delta = delta.iter().peekable();
        self.each_line(number, &raw, &mut |key, at| {
            loop {
                let Some((touched, latest)) = delta.peek() else { return sifting.keep(key, &at) };
                match (**touched).cmp(key) {
                    Ordering::Greater => return sifting.keep(key, &at),
                    Ordering::Equal => {
                        delta.next();
                        sifting.leave_out(&at)?;
                        return self.replace(key, &raw[at], latest, sifting.rows);
                    }
                    Ordering::Less => {
                        delta.next();
                        sifting.hand_on(at.start)?;
                        self.emit(touched, latest, sifting.rows)?;
                    }
                }
            }
        })?;
        sifting.hand_on(raw.len())?;
        delta.try_for_each(|(key, latest)| self.emit(key, latest, rows))
    }

    /// A touched key under which the image holds `line`.
    fn replace(&self, key: &[u8], line: &[u8], latest: &Latest, rows: &mut dyn Rows) -> Result<()> {
        match latest {
            Latest::Gone => Ok(()),
            Latest::Row(new) => rows.row(key, new),
            Latest::Patch { line: new, .. } => {
                let filled = copy_text::fill_holes(new, line)
                    .ok_or_else(|| self.contradiction("a row's earlier version has other columns"))?;
                rows.row(key, &filled)
            }
        }
    }

    /// A touched key that the image does not hold.
    fn emit(&self, key: &[u8], latest: &Latest, rows: &mut dyn Rows) -> Result<()> {
        match latest {
            Latest::Row(line) => rows.row(key, line),
            // Inserted and deleted since the image.
            Latest::Gone => Ok(()),
            Latest::Patch { .. } => Err(self.contradiction("a changed row is not in the image")),
        }
    }

    /// Fills the rows whose left-out values lie under another key.
    fn fill_moved(&self, delta: &mut [(Box<[u8]>, Latest)]) -> Result<()> {
        let origin = |delta: &[(Box<[u8]>, Latest)], at: usize| match &delta[at].1 {
            Latest::Patch { origin: Some(origin), .. } => Some(origin.clone()),
            _ => None,
        };
        let mut wanted: Vec<_> =
            (0..delta.len()).filter_map(|at| origin(delta, at).map(|origin| (origin, at))).collect();
        wanted.sort_unstable();
        let mut wanted = wanted.into_iter().peekable();
        while let Some((first, _)) = wanted.peek() {
            let number =
                self.block_of(first).ok_or_else(|| self.contradiction("a moved row is not in the image"))?;
            let bound = self.index.get(number + 1).map(|after| after.first_key.clone());
            self.each_row(number, &mut |key, line| {
                while let Some((_, at)) = wanted.next_if(|(origin, _)| **origin == *key) {
                    if let Latest::Patch { line: new, .. } = &delta[at].1 {
                        let filled = copy_text::fill_holes(new, line).ok_or_else(|| {
                            self.contradiction("a moved row's earlier version has other columns")
                        })?;
                        delta[at].1 = Latest::Row(filled.into());
                    }
                }
                Ok(())
            })?;
            // Whoever is still here and belongs to this block was not in it.
            if wanted.peek().is_some_and(|(origin, _)| bound.as_ref().is_none_or(|bound| **origin < **bound))
            {
                return Err(self.contradiction("a moved row is not in the image"));
            }
        }
        Ok(())
    }

    fn block_of(&self, key: &[u8]) -> Option<usize> {
        self.index.partition_point(|entry| *entry.first_key <= *key).checked_sub(1)
    }

    /// Hands on the rows of the image with `delta` applied.
    ///
    /// # Errors
    /// As [`Base::merge_keyed`].
    pub fn merge_bag(&self, delta: BagDelta, rows: &mut dyn Rows) -> Result<()> {
        let mut walk = BagWalk { base: self, delta: delta.into_sorted(), at: 0 };
        for number in 0..self.index.len() {
            let bound = self.index.get(number + 1).map(|after| &*after.first_key);
            if walk.touches(bound) {
                self.each_row(number, &mut |key, line| walk.row(key, line, rows))?;
                walk.finish_before(bound, rows)?;
            } else {
                self.pass(number, rows)?;
            }
        }
        walk.finish_before(None, rows)
    }

    fn each_row(&self, number: usize, row: &mut dyn FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
        let raw = image::read_rows(self.blocks, &self.index[number])?;
        self.each_line(number, &raw, &mut |key, at| row(key, &raw[at]))
    }

    /// The keys of a block's rows, and where in `raw` their lines are.
    fn each_line(
        &self,
        number: usize,
        raw: &[u8],
        row: &mut dyn FnMut(&[u8], Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let mut key = Vec::new();
        let mut start = 0;
        for line in image::lines(raw) {
            let at = start..start + line.len();
            start = at.end + 1;
            key.clear();
            self.shape.push_key(line, &mut key).ok_or_else(|| {
                Error::damaged(format!(
                    "a row of {} in block {} has no key",
                    self.table, self.index[number].id
                ))
            })?;
            row(&key, at)?;
        }
        Ok(())
    }

    fn contradiction(&self, what: &str) -> Error {
        Error::damaged(format!(
            "the journal and the checkpoint's image of {} contradict each other: {what}; \
             check them with: backwhen verify --prove",
            self.table
        ))
    }
}

/// Walks a bag's delta along the image. Equal rows may fill the end of one block and the start of
/// the next ones, so a key is finished only when a later key is certain to be next.
struct BagWalk<'a> {
    base: &'a Base<'a>,
    delta: Vec<(Box<[u8]>, Count)>,
    at: usize,
}

impl BagWalk<'_> {
    fn touches(&self, bound: Option<&[u8]>) -> bool {
        match (self.delta.get(self.at), bound) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some((key, count)), Some(bound)) => **key < *bound || (**key == *bound && count.change < 0),
        }
    }

    fn row(&mut self, key: &[u8], line: &[u8], rows: &mut dyn Rows) -> Result<()> {
        self.finish_before(Some(key), rows)?;
        match self.delta.get_mut(self.at) {
            Some((touched, count)) if **touched == *key && count.change < 0 => {
                count.change += 1;
                Ok(())
            }
            _ => rows.row(key, line),
        }
    }

    /// Emits what was added under keys before `bound`.
    fn finish_before(&mut self, bound: Option<&[u8]>, rows: &mut dyn Rows) -> Result<()> {
        while let Some((key, count)) = self.delta.get(self.at) {
            if bound.is_some_and(|bound| **key >= *bound) {
                break;
            }
            if count.change < 0 {
                return Err(self.base.contradiction("a deleted row is not in the image"));
            }
            for _ in 0..count.change {
                let line =
                    count.line.as_deref().ok_or_else(|| Error::internal("an added row has no bytes"))?;
                rows.row(key, line)?;
            }
            self.at += 1;
        }
        Ok(())
    }
}
