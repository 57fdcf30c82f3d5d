//! Turns the rows of the stream into lines with keys, in buffers that are used for one row after the other.

use super::event::Row;
use super::mapping::{Mapping, WidthDiffers};
use super::retelling::LateValues;
use crate::codec::copy_text;
use crate::codec::key::KeyShape;
use crate::codec::retell::Doubts;
use crate::model::change::OldTuple;
use crate::model::{Table, Tuple};

/// A row's line and key.
#[derive(Debug, Default)]
pub(super) struct RowBuffer {
    line: Vec<u8>,
    key: Vec<u8>,
}

/// Why a row of the stream is not one of its table's.
#[derive(Debug, thiserror::Error)]
pub(super) enum RowFault {
    #[error(transparent)]
    Width(#[from] WidthDiffers),
    #[error("a row of {0} does not tell which row it was before")]
    NoKey(String),
    #[error("a row that was given to {0} does not fit it")]
    DoesNotFit(String),
}

impl RowBuffer {
    pub fn row(&self) -> Row<'_> {
        Row { key: &self.key, line: &self.line }
    }
}

/// How the rows of one table are read, as the stream last described it.
#[derive(Debug)]
pub(super) struct RowReader<'a> {
    pub table: &'a Table,
    pub shape: &'a KeyShape,
    pub mapping: &'a Mapping,
    /// How values change that come after a statement that changed the text of their types' values.
    pub late: Option<LateValues>,
    pub doubts: Doubts,
}

impl RowReader<'_> {
    /// Reads a row as it is after a change. A value that `new` leaves out is taken from `old`, where that has it.
    pub fn read_new(
        &mut self,
        new: &Tuple<'_>,
        old: Option<&OldTuple<'_>>,
        into: &mut RowBuffer,
    ) -> Result<(), RowFault> {
        into.line.clear();
        self.mapping.push_new(new, old, &mut into.line)?;
        self.finish(into)
    }

    /// Reads what the stream carries of a row before a change.
    pub fn read_old(&mut self, old: &OldTuple<'_>, into: &mut RowBuffer) -> Result<(), RowFault> {
        into.line.clear();
        self.mapping.push_old(old, &mut into.line)?;
        self.finish(into)
    }

    /// A table without a key needs the row before an update, since nothing else names it.
    pub fn check_names_old_row(&self) -> Result<(), RowFault> {
        match self.shape {
            KeyShape::Columns(_) => Ok(()),
            KeyShape::WholeRow => Err(RowFault::NoKey(self.table.display())),
        }
    }

    fn finish(&mut self, into: &mut RowBuffer) -> Result<(), RowFault> {
        if let Some(late) = &self.late {
            late.correct(&mut into.line, &mut self.doubts);
        }
        into.key.clear();
        let keyed = self.shape.push_key(&into.line, &mut into.key);
        keyed.ok_or_else(|| RowFault::NoKey(self.table.display()))
    }
}

/// Rows that a statement gave to a table, of which some may still be unread.
#[derive(Debug, Default)]
pub(super) struct GivenRows {
    /// The lines, each with its newline.
    lines: Vec<u8>,
    at: usize,
    shape: Option<KeyShape>,
    late: Option<LateValues>,
    pub doubts: Doubts,
}

impl GivenRows {
    pub fn new(lines: &[u8], table: &Table, late: Option<LateValues>) -> GivenRows {
        let shape = Some(KeyShape::of(table));
        GivenRows { lines: lines.to_vec(), at: 0, shape, late, doubts: Doubts::default() }
    }

    /// Reads the next row; returns false behind the last one.
    pub fn read_next(&mut self, table: &Table, into: &mut RowBuffer) -> Result<bool, RowFault> {
        let Some(shape) = self.shape.as_ref().filter(|_| self.at < self.lines.len()) else {
            return Ok(false);
        };
        let rest = &self.lines[self.at..];
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        self.at += end + 1;
        into.line.clear();
        into.line.extend_from_slice(&rest[..end]);
        if let Some(late) = &self.late {
            late.correct(&mut into.line, &mut self.doubts);
        }
        into.key.clear();
        let fits = copy_text::columns(&into.line).count() == table.columns.len().max(1);
        if fits && shape.push_key(&into.line, &mut into.key).is_some() {
            return Ok(true);
        }
        Err(RowFault::DoesNotFit(table.display()))
    }
}
