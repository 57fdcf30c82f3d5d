//! The rows that are to change, and the lines in which they are sent.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use twox_hash::XxHash3_128;

use crate::codec::copy_text;
use crate::model::{RowIdentity, Table};

/// The number of rows that are sent at once: the server reads some while the next ones are written down.
const ROWS_AT_ONCE: usize = 1000;

/// A guess of the bytes of a row that is sent.
const ROW_BYTES: usize = 128;

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
    pub now: Option<Arc<[u8]>>,
    pub then: Option<Arc<[u8]>>,
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

    /// The lines of the temporary table, in pieces: a number, the kind of change, a count among equal rows, the row as it must
    /// be now, and the row as it shall be. Of an updated row, only the columns in `changed` are sent as they shall be.
    pub(super) fn lines(&self, changed: &[usize]) -> impl Iterator<Item = Bytes> {
        let columns = self.table.columns.len();
        let mut heads = self.heads();
        self.rows.chunks(ROWS_AT_ONCE).map(move |rows| {
            let mut piece = Vec::with_capacity(rows.len() * ROW_BYTES);
            for row in rows {
                heads(row, &mut piece);
                push_row(row.now.as_deref(), columns, &mut piece);
                match (row.act, &row.then) {
                    (Act::Update, Some(then)) => push_columns(then, changed, &mut piece),
                    (_, then) => push_row(then.as_deref(), columns, &mut piece),
                }
                piece.push(b'\n');
            }
            piece.into()
        })
    }

    /// Returns what appends the first columns of each row, one after the other: its number, the kind of change, and a count
    /// among equal rows.
    pub(super) fn heads<'a>(&self) -> impl FnMut(&'a AmendedRow, &mut Vec<u8>) + use<'a> {
        let mut equal = HashMap::<&[u8], i64>::new();
        let is_keyed = matches!(self.table.identity, RowIdentity::Key(_));
        let mut numbers = 0..;
        move |row, out| {
            let nth = match &row.now {
                _ if row.parks => PARKED,
                Some(now) if !is_keyed => *equal.entry(now).and_modify(|nth| *nth += 1).or_insert(1),
                _ => 1,
            };
            let number: u64 = numbers.next().unwrap_or_default();
            // Writing into memory does not fail.
            let _ = write!(out, "{number}\t{}\t{nth}", row.act.word());
        }
    }
}

/// Appends the columns of a row of COPY text, each behind a tab. Without a row, they are NULL.
fn push_row(line: Option<&[u8]>, count: usize, out: &mut Vec<u8>) {
    match line {
        // A line of a table without columns is empty, too.
        Some(line) if count > 0 => {
            out.push(b'\t');
            out.extend_from_slice(line);
        }
        _ => (0..count).for_each(|_| out.extend_from_slice(b"\t\\N")),
    }
}

/// Appends the columns of a line of COPY text, each behind a tab. A column that is not among the `sent` is NULL.
fn push_columns(line: &[u8], sent: &[usize], out: &mut Vec<u8>) {
    for (at, value) in copy_text::columns(line).enumerate() {
        out.push(b'\t');
        out.extend_from_slice(if sent.contains(&at) { value } else { copy_text::NULL });
    }
}

/// The number among equal rows that marks a row that waits.
const PARKED: i64 = -1;
