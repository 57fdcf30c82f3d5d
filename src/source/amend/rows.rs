//! The rows that are to change, and the lines in which they are sent.

use std::collections::HashMap;

use bytes::Bytes;

use super::parking::Parking;
use super::statements::Acts;
use crate::codec::copy_text;
use crate::model::Table;

/// Rows are sent in chunks of about this many bytes.
const PIECE: usize = 256 * 1024;

/// A table and the rows of it that change.
#[derive(Clone, Debug)]
pub struct AmendedTable {
    pub table: Table,
    pub rows: Vec<AmendedRow>,
    /// The place where updated rows that take each other's unique values wait for their turn.
    pub parking: Option<Parking>,
}

/// One row: the line that must be there now, and the line that shall be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AmendedRow {
    pub act: Act,
    pub now: Option<Box<[u8]>>,
    pub then: Option<Box<[u8]>>,
    /// Whether the row waits in the parking place while another row takes its unique value.
    pub parks: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Insert,
    Update,
    /// The row is deleted and inserted again, since another row takes a unique value of it.
    Replace,
    Delete,
}

impl Act {
    fn word(self) -> &'static str {
        match self {
            Act::Insert => "insert",
            Act::Update => "update",
            Act::Replace => "replace",
            Act::Delete => "delete",
        }
    }
}

impl AmendedTable {
    pub(super) fn count(&self, acts: &[Act]) -> i64 {
        self.rows.iter().filter(|row| acts.contains(&row.act)).count() as i64
    }

    pub(super) fn acts(&self) -> Acts {
        Acts {
            delete: self.count(&[Act::Delete, Act::Replace]) > 0,
            update: self.count(&[Act::Update]) > 0,
            insert: self.count(&[Act::Insert, Act::Replace]) > 0,
        }
    }

    /// The positions of the columns that an update changes in some row.
    pub(super) fn changed_columns(&self) -> Vec<usize> {
        let mut changed = vec![false; self.table.columns.len()];
        for row in self.rows.iter().filter(|row| row.act == Act::Update) {
            let (Some(now), Some(then)) = (&row.now, &row.then) else { continue };
            let pairs = copy_text::columns(now).zip(copy_text::columns(then));
            pairs.zip(&mut changed).for_each(|((now, then), changed)| *changed |= now != then);
        }
        let parks = self.rows.iter().any(|row| row.parks);
        let parked = self.parking.filter(|_| parks).map(|parking| parking.column);
        (0..changed.len()).filter(|at| changed[*at] || parked == Some(*at)).collect()
    }

    /// The lines of one of the temporary tables: a number, the kind of change, a count among equal rows, the row.
    pub(super) fn lines(&self, then: bool) -> Vec<Bytes> {
        let mut pieces = Vec::new();
        let mut piece = Vec::new();
        let mut equal = HashMap::<&[u8], i64>::new();
        for (number, row) in self.rows.iter().enumerate() {
            let Some(line) = (if then { &row.then } else { &row.now }) else { continue };
            let nth = equal.entry(line).or_default();
            *nth += 1;
            let nth = if row.parks { PARKED } else { *nth };
            piece.extend_from_slice(format!("{number}\t{}\t{nth}", row.act.word()).as_bytes());
            if !self.table.columns.is_empty() {
                piece.push(b'\t');
                piece.extend_from_slice(line);
            }
            piece.push(b'\n');
            if piece.len() >= PIECE {
                pieces.push(std::mem::take(&mut piece).into());
            }
        }
        pieces.push(piece.into());
        pieces
    }
}

/// The number among equal rows that marks a row that waits.
const PARKED: i64 = -1;
