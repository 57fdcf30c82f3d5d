//! The values of a row for people and programs: by the names of the columns, as text or NULL.

use std::borrow::Cow;

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::{Row, key_columns};
use crate::codec::copy_text;
use crate::model::Table;

/// Values of a row by column, in the order of the columns. Without a row there are none.
pub struct Values<'a> {
    row: Option<(&'a Table, &'a [u8])>,
    /// Whether only the columns of the key are meant.
    key_only: bool,
}

impl<'a> Values<'a> {
    pub fn all(row: Option<&'a Row>) -> Values<'a> {
        Values { row: row.map(|row| (&*row.table, &*row.line)), key_only: false }
    }

    /// The values of the key, by which the row is told from others; none if only the whole row does that.
    pub fn key(row: Option<&'a Row>) -> Values<'a> {
        Values { key_only: true, ..Values::all(row) }
    }

    /// Each column's name with its value.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Option<Cow<'a, str>>)> {
        let key_only = self.key_only;
        self.row.into_iter().flat_map(move |(table, line)| {
            let key = key_columns(table);
            let named = table.columns.iter().zip(copy_text::columns(line)).enumerate();
            let wanted = named.filter(move |(number, _)| !key_only || key.contains(number));
            wanted.map(|(_, (column, text))| (column.name.as_str(), text_of(text)))
        })
    }
}

/// A value as text; `None` for NULL. Bytes that are no UTF-8 show as U+FFFD.
pub fn text_of(column: &[u8]) -> Option<Cow<'_, str>> {
    copy_text::unescape(column).map(|value| match value {
        Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
    })
}

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in self.iter() {
            map.serialize_entry(name, &value)?;
        }
        map.end()
    }
}
