//! The keys of a table that were touched since its image, in order, as the rows of the image pass by them.

use std::cmp::Ordering;

use super::delta::{Bytes, Delta, Latest};
use super::range::KeyRange;
use crate::codec::copy_text;
use crate::error::{Error, Result};

/// The journal contradicts the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Mismatch {
    #[error("a changed row is not in the image")]
    ChangedRowMissing,
    #[error("a deleted row is not in the image")]
    DeletedRowMissing,
    #[error("a moved row is not in the image")]
    MovedRowMissing,
    #[error("a row's earlier version has other columns")]
    ColumnsDiffer,
    #[error("a moved row's earlier version has other columns")]
    MovedColumnsDiffer,
}

/// How a row of the image stands to the next touched key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meeting {
    /// The row was not touched.
    Stays,
    /// The touched key comes before the row.
    After,
    /// The row is gone. The delta may have another one in its place.
    Replaced,
    /// The row is one of several equal ones, and there is one less of them.
    OneLess,
}

/// The row that stands in place of one of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replacement {
    None,
    /// The row of the touched key at this place.
    Whole(usize),
    /// The same, with values from the image.
    Filled(usize),
}

/// The touched keys of a range, of which those before `next` have been dealt with.
pub(super) struct TouchedKeys {
    pub rows: Vec<(Bytes, Latest)>,
    next: usize,
}

impl TouchedKeys {
    pub fn new(delta: Delta, range: &KeyRange) -> TouchedKeys {
        let mut rows = delta.into_sorted();
        rows.truncate(rows.partition_point(|(key, _)| !range.ends_before(key)));
        rows.drain(..rows.partition_point(|(key, _)| range.begins_after(key)));
        TouchedKeys { rows, next: 0 }
    }

    /// The first key that has not been dealt with.
    pub fn next_key(&self) -> Option<&[u8]> {
        self.rows.get(self.next).map(|(key, _)| &**key)
    }

    /// Whether a key belongs to the block of the image whose keys are before `bound`.
    pub fn belong_before(&self, bound: Option<&[u8]>) -> bool {
        match (self.rows.get(self.next), bound) {
            (None, _) => false,
            (Some(_), None) => true,
            // Rows that are equal to the first one of the next block may stand in this one too.
            (Some((key, latest)), Some(bound)) => **key < *bound || (**key == *bound && is_fewer(latest)),
        }
    }

    /// The place of the next row that the image does not hold and that comes before `bound`.
    pub fn next_new(&mut self, bound: Option<&[u8]>) -> Result<Option<usize>, Mismatch> {
        while let Some((key, latest)) = self.rows.get_mut(self.next) {
            if bound.is_some_and(|bound| **key >= *bound) {
                break;
            }
            match latest {
                Latest::Row(_) => {
                    self.next += 1;
                    return Ok(Some(self.next - 1));
                }
                Latest::Patch { .. } => return Err(Mismatch::ChangedRowMissing),
                Latest::Counted(count) if count.change < 0 => return Err(Mismatch::DeletedRowMissing),
                Latest::Counted(count) if count.change > 0 => {
                    count.change -= 1;
                    return Ok(Some(self.next));
                }
                // The row came and went since the image.
                Latest::Gone | Latest::Counted(_) => self.next += 1,
            }
        }
        Ok(None)
    }

    /// A row of the image passes by.
    #[inline]
    pub fn meet(&self, key: &[u8]) -> Meeting {
        let Some((touched, latest)) = self.rows.get(self.next) else { return Meeting::Stays };
        match ((**touched).cmp(key), latest) {
            (Ordering::Greater, _) => Meeting::Stays,
            (Ordering::Less, _) => Meeting::After,
            (Ordering::Equal, Latest::Counted(_)) if is_fewer(latest) => Meeting::OneLess,
            (Ordering::Equal, Latest::Counted(_)) => Meeting::Stays,
            (Ordering::Equal, _) => Meeting::Replaced,
        }
    }

    /// One of the equal rows has gone.
    pub fn take_one(&mut self) {
        if let Some((_, Latest::Counted(count))) = self.rows.get_mut(self.next) {
            count.change += 1;
        }
    }

    /// The row in place of `line`, which the image has under the next touched key. A row with holes is filled from
    /// `line` into `filled`.
    pub fn replace(&mut self, line: &[u8], filled: &mut Vec<u8>) -> Result<Replacement, Mismatch> {
        let place = self.next;
        self.next += 1;
        match &self.rows[place].1 {
            Latest::Row(_) => Ok(Replacement::Whole(place)),
            Latest::Patch { line: new, .. } => {
                *filled = copy_text::fill_holes(new, line).ok_or(Mismatch::ColumnsDiffer)?;
                Ok(Replacement::Filled(place))
            }
            Latest::Gone | Latest::Counted(_) => Ok(Replacement::None),
        }
    }

    pub fn key(&self, place: usize) -> &[u8] {
        &self.rows[place].0
    }

    /// The key and line of the row at a place.
    pub fn row(&self, place: usize) -> Result<(&[u8], &[u8])> {
        let (key, latest) = &self.rows[place];
        match latest {
            Latest::Row(line) => Some((&**key, &**line)),
            Latest::Counted(count) => count.line.as_deref().map(|line| (&**key, line)),
            Latest::Gone | Latest::Patch { .. } => None,
        }
        .ok_or_else(|| Error::internal("an added row has no bytes"))
    }
}

fn is_fewer(latest: &Latest) -> bool {
    matches!(latest, Latest::Counted(count) if count.change < 0)
}
