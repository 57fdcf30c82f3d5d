//! Turns a row's values in the stream into a line of its table.

use crate::codec::copy_text::{HOLE, NULL, push_escaped};
use crate::model::change::OldTuple;
use crate::model::{Relation, RowIdentity, Table, Tuple, Value};

/// How the columns of a Relation message correspond to those of a table.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// For each column of the table: the column's position in the stream's tuples.
    places: Vec<Option<usize>>,
    /// The number of columns in the stream's tuples.
    width: usize,
    /// The differences between the table and the Relation message, for people.
    pub differences: Vec<String>,
}

/// A tuple of the stream does not fit its own Relation message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a row has another number of columns than its table")]
pub struct WidthDiffers;

impl Mapping {
    pub fn of(table: &Table, relation: &Relation) -> Mapping {
        let place = |name: &str| relation.columns.iter().position(|column| column.name == name);
        let places: Vec<_> =
            (0..table.columns.len()).map(|number| place(table.stream_column(number))).collect();
        Mapping { differences: differences(table, relation, &places), places, width: relation.columns.len() }
    }

    /// Appends the line of a row after a change, with a hole for each value that the stream leaves out. A value that
    /// `new` leaves out and `old` has is taken from `old`.
    ///
    /// # Errors
    /// Fails if a tuple has another number of columns than the Relation message.
    pub fn push_new(
        &self,
        new: &Tuple<'_>,
        old: Option<&OldTuple<'_>>,
        line: &mut Vec<u8>,
    ) -> Result<(), WidthDiffers> {
        let old = match old {
            Some(OldTuple::Key(tuple)) => Some((self.checked(tuple)?, false)),
            Some(OldTuple::Full(tuple)) => Some((self.checked(tuple)?, true)),
            None => None,
        };
        let new = self.checked(new)?;
        self.push(line, NULL, |place| match (new[place], old) {
            // A key tuple is NULL in every column outside the key.
            (Value::Unchanged, Some((old, full))) if full || old[place] != Value::Null => old[place],
            (value, _) => value,
        });
        Ok(())
    }

    /// Appends the line of a row before a change, with a hole for each value that the stream does not carry.
    ///
    /// # Errors
    /// Fails if the tuple has another number of columns than the Relation message.
    pub fn push_old(&self, old: &OldTuple<'_>, line: &mut Vec<u8>) -> Result<(), WidthDiffers> {
        match old {
            OldTuple::Full(tuple) => {
                let values = self.checked(tuple)?;
                self.push(line, NULL, |place| values[place]);
            }
            OldTuple::Key(tuple) => {
                let values = self.checked(tuple)?;
                // A column of a key cannot be NULL: the column is outside the key.
                self.push(line, HOLE, |place| match values[place] {
                    Value::Null => Value::Unchanged,
                    value => value,
                });
            }
        }
        Ok(())
    }

    fn checked<'a, 'b>(&self, tuple: &'b Tuple<'a>) -> Result<&'b [Value<'a>], WidthDiffers> {
        if tuple.0.len() == self.width { Ok(&tuple.0) } else { Err(WidthDiffers) }
    }

    /// `absent` stands in the columns that the stream does not have.
    fn push<'a>(&self, line: &mut Vec<u8>, absent: &[u8], value: impl Fn(usize) -> Value<'a>) {
        for (number, place) in self.places.iter().enumerate() {
            if number > 0 {
                line.push(b'\t');
            }
            match place.map(&value) {
                None => line.extend_from_slice(absent),
                Some(Value::Null) => line.extend_from_slice(NULL),
                Some(Value::Unchanged) => line.extend_from_slice(HOLE),
                Some(Value::Text(text)) => push_escaped(line, text),
            }
        }
    }
}

/// The differences that a person should know of; none if the Relation message fits the table exactly.
fn differences(table: &Table, relation: &Relation, places: &[Option<usize>]) -> Vec<String> {
    let mut found = Vec::new();
    if table.stream_name() != (&relation.schema, &relation.name) {
        found.push(format!("renamed to {}.{}", relation.schema, relation.name));
    }
    for (column, place) in table.columns.iter().zip(places) {
        match place.map(|place| &relation.columns[place]) {
            None => found.push(format!("column {} dropped or renamed", column.name)),
            Some(now) if now.type_oid != column.type_oid || now.type_modifier != column.type_modifier => {
                found.push(format!("column {} changed its type", column.name));
            }
            Some(_) => {}
        }
    }
    let known = |name: &str| (0..table.columns.len()).any(|number| table.stream_column(number) == name);
    for column in &relation.columns {
        // A published generated column is computed again on recovery.
        if !known(&column.name) && !table.generated.contains(&column.name) {
            found.push(format!("column {} added or renamed", column.name));
        }
    }
    found
}

/// Whether the stream names the row before a change by the key that the table's rows are sorted by.
pub fn identity_fits(table: &Table, relation: &Relation) -> bool {
    match &table.identity {
        RowIdentity::WholeRow => relation.replica_identity == b'f' || table.is_insert_only(),
        RowIdentity::Key(columns) => columns.iter().all(|column| {
            let name = table.stream_column(*column);
            relation.columns.iter().any(|column| column.name == name && column.in_identity)
        }),
    }
}
