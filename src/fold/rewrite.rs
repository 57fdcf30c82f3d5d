//! Rows on their way out: reshaped to the table as it is now, and cut to the columns that are wanted.

use crate::codec::copy_text;
use crate::codec::retell::Doubts;
use crate::error::{Error, Result};
use crate::follow::Reshape;

/// How each line is rewritten before it is handed on.
pub(super) struct Rewrite {
    reshape: Option<Reshape>,
    /// The positions of the columns that are wanted; `None` for all.
    columns: Option<Vec<usize>>,
    reshaped: Vec<u8>,
    projected: Vec<u8>,
    /// The doubts that arose on the way.
    pub doubts: Doubts,
}

impl Rewrite {
    /// `None` if lines stay as they are.
    pub fn new(reshape: Option<Reshape>, columns: Option<&[usize]>) -> Option<Rewrite> {
        let columns = columns.map(<[usize]>::to_vec);
        (reshape.is_some() || columns.is_some()).then(|| Rewrite {
            reshape,
            columns,
            reshaped: Vec::new(),
            projected: Vec::new(),
            doubts: Doubts::default(),
        })
    }

    /// The new line of a row.
    ///
    /// # Errors
    /// `Damaged` if the line lacks a column.
    pub fn rewrite<'a>(&'a mut self, line: &'a [u8]) -> Result<&'a [u8]> {
        let line = match &self.reshape {
            None => line,
            Some(reshape) => {
                self.reshaped.clear();
                reshape.push(line, &mut self.reshaped, &mut self.doubts)?;
                &self.reshaped
            }
        };
        let Some(columns) = &self.columns else { return Ok(line) };
        let values: Vec<_> = copy_text::columns(line).collect();
        self.projected.clear();
        for (number, column) in columns.iter().enumerate() {
            if number > 0 {
                self.projected.push(b'\t');
            }
            let value = values.get(*column);
            let value = value.ok_or_else(|| Error::damaged("a row has fewer columns than its table"))?;
            self.projected.extend_from_slice(value);
        }
        Ok(&self.projected)
    }
}
