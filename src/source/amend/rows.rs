//! The rows that are to change, and the lines in which they are sent.

use std::collections::HashMap;

use bytes::Bytes;
use twox_hash::XxHash3_128;

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

/// A column in which rows wait, and what they hold there meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parking {
    pub column: usize,
    pub value: FreeValue,
}

/// A value that no row has or shall have, and that differs from row to row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreeValue {
    Null,
    /// A number above all others.
    Number,
    /// The text of a random UUID.
    Text,
    Uuid,
}

impl FreeValue {
    /// The values that a column can hold while its row waits; `None` if no such value of the type is known.
    pub(super) fn of(type_oid: u32, takes_null: bool) -> Option<FreeValue> {
        const INT8: u32 = 20;
        const INT2: u32 = 21;
        const INT4: u32 = 23;
        const TEXT: u32 = 25;
        const VARCHAR: u32 = 1043;
        const NUMERIC: u32 = 1700;
        const UUID: u32 = 2950;
        match type_oid {
            _ if takes_null => Some(FreeValue::Null),
            INT2 | INT4 | INT8 | NUMERIC => Some(FreeValue::Number),
            TEXT | VARCHAR => Some(FreeValue::Text),
            UUID => Some(FreeValue::Uuid),
            _ => None,
        }
    }
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

/// The number of some rows, and the sum of the digests of their lines modulo 2^128.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldRows {
    rows: u64,
    digest: u128,
}

impl HeldRows {
    pub fn add(&mut self, line: &[u8]) {
        self.rows += 1;
        self.digest = self.digest.wrapping_add(XxHash3_128::oneshot(line));
    }
}

/// The kinds of change that a table needs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Acts {
    pub delete: bool,
    pub update: bool,
    pub insert: bool,
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
        self.each_line(then, |head, line| {
            piece.extend_from_slice(head.as_bytes());
            if !self.table.columns.is_empty() {
                piece.push(b'\t');
                piece.extend_from_slice(line);
            }
            piece.push(b'\n');
            if piece.len() >= PIECE {
                pieces.push(std::mem::take(&mut piece).into());
            }
        });
        pieces.push(piece.into());
        pieces
    }

    /// Hands on each row: a number, the kind of change and a count among equal rows, and its line.
    pub(super) fn each_line<'a>(&'a self, then: bool, mut take: impl FnMut(&str, &'a [u8])) {
        let mut equal = HashMap::<&[u8], i64>::new();
        for (number, row) in self.rows.iter().enumerate() {
            let Some(line) = (if then { &row.then } else { &row.now }) else { continue };
            let nth = equal.entry(line).or_default();
            *nth += 1;
            let nth = if row.parks { PARKED } else { *nth };
            take(&format!("{number}\t{}\t{nth}", row.act.word()), line);
        }
    }
}

/// The number among equal rows that marks a row that waits.
const PARKED: i64 = -1;
