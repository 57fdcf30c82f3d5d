//! From a row as the stream has it to a line as the image has it.

use crate::codec::copy_text::{HOLE, NULL, push_escaped};
use crate::codec::key::KeyShape;
use crate::model::change::OldTuple;
use crate::model::{Relation, RowIdentity, Table, Tuple, Value};

/// How the columns of one Relation message lie in a table's image.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// For each column of the image, its place in the stream.
    places: Vec<Option<usize>>,
    /// Number of columns in the stream's tuples.
    width: usize,
    /// What the stream's description has that the image's does not, or the other way round.
    pub differences: Vec<String>,
}

/// A row of the stream does not fit its own Relation message.
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

    /// Appends the line of `tuple`, with holes for what the stream left out.
    pub fn push_line(&self, tuple: &Tuple<'_>, line: &mut Vec<u8>) -> Result<(), WidthDiffers> {
        self.push(tuple, None, line)
    }

    /// Like [`Mapping::push_line`]; what `new` leaves out and `old` has is taken from `old`.
    pub fn push_updated(
        &self,
        new: &Tuple<'_>,
        old: Option<&OldTuple<'_>>,
        line: &mut Vec<u8>,
    ) -> Result<(), WidthDiffers> {
        self.push(new, old, line)
    }

    fn push(
        &self,
        new: &Tuple<'_>,
        old: Option<&OldTuple<'_>>,
        line: &mut Vec<u8>,
    ) -> Result<(), WidthDiffers> {
        let old = match old {
            Some(OldTuple::Key(tuple)) => Some((tuple, false)),
            Some(OldTuple::Full(tuple)) => Some((tuple, true)),
            None => None,
        };
        if new.0.len() != self.width || old.is_some_and(|(tuple, _)| tuple.0.len() != self.width) {
            return Err(WidthDiffers);
        }
        for (number, place) in self.places.iter().enumerate() {
            if number > 0 {
                line.push(b'\t');
            }
            let Some(place) = *place else {
                line.extend_from_slice(NULL);
                continue;
            };
            let value = match (new.0[place], old) {
                // A key tuple is NULL in every column outside the key.
                (Value::Unchanged, Some((old, full))) if full || old.0[place] != Value::Null => old.0[place],
                (value, _) => value,
            };
            match value {
                Value::Null => line.extend_from_slice(NULL),
                Value::Unchanged => line.extend_from_slice(HOLE),
                Value::Text(text) => push_escaped(line, text),
            }
        }
        Ok(())
    }
}

/// The differences that a person should know of; none, if the stream fits the image exactly.
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

/// Whether the stream's rows name an earlier version by what the image is sorted by.
pub fn identity_fits(table: &Table, relation: &Relation) -> bool {
    match &table.identity {
        RowIdentity::WholeRow => relation.replica_identity == b'f' || table.is_insert_only(),
        RowIdentity::Key(columns) => columns.iter().all(|column| {
            let name = table.stream_column(*column);
            relation.columns.iter().any(|column| column.name == name && column.in_identity)
        }),
    }
}

/// The key of a line, or what is wrong.
pub fn key_of<'a>(shape: &KeyShape, line: &[u8], key: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    key.clear();
    shape.push_key(line, key)?;
    Some(key)
}
