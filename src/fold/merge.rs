//! Image and delta, merged in key order.
//!
//! A block in whose range no key was touched is handed on whole, without being read.

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
        let mut delta = delta.iter().peekable();
        self.each_row(number, &mut |key, line| {
            while let Some((new, latest)) = delta.next_if(|(new, _)| **new < *key) {
                self.emit(new, latest, rows)?;
            }
            match delta.next_if(|(touched, _)| **touched == *key) {
                None => rows.row(key, line),
                Some((_, Latest::Gone)) => Ok(()),
                Some((_, Latest::Row(new))) => rows.row(key, new),
                Some((_, Latest::Patch { line: new, .. })) => {
                    let filled = copy_text::fill_holes(new, line)
                        .ok_or_else(|| self.contradiction("a row's earlier version has other columns"))?;
                    rows.row(key, &filled)
                }
            }
        })?;
        delta.try_for_each(|(key, latest)| self.emit(key, latest, rows))
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
        let mut key = Vec::new();
        for line in image::lines(&raw) {
            key.clear();
            self.shape.push_key(line, &mut key).ok_or_else(|| {
                Error::damaged(format!(
                    "a row of {} in block {} has no key",
                    self.table, self.index[number].id
                ))
            })?;
            row(&key, line)?;
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
