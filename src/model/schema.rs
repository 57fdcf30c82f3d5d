//! The properties of a table that keeping and rebuilding its rows needs.

use serde::{Deserialize, Serialize};

/// A table as it stood when an image of it was read.
///
/// Only columns with stored values are listed: dropped and generated columns never reach the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// `pg_class.oid`: identifies the table in the stream, and survives renames.
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// The columns in `attnum` order.
    pub columns: Vec<Column>,
    /// The names of generated columns, which are computed again on recovery and never stored.
    #[serde(default)]
    pub generated: Vec<String>,
    pub identity: RowIdentity,
    pub grade: Grade,
    #[serde(default)]
    pub storage: Storage,
    /// The names as the stream spells them, if the database's encoding makes that spelling different.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_stream: Option<StreamNames>,
    /// The partitioned tables above a partition, with their schemas: the nearest first. Empty for other tables, and in
    /// what was recorded before backwhen knew of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partition_of: Vec<(String, String)>,
}

/// A table's names in the stream; see [`Table::in_stream`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamNames {
    pub schema: String,
    pub name: String,
    /// The columns' names, as many as [`Table::columns`].
    pub columns: Vec<String>,
}

/// How the server stored a table's rows. `ALTER TABLE` can change values in all rows, and the stream carries nothing
/// of that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// `pg_class.relfilenode`: changes with every rewrite, also with rewrites that keep the values.
    pub file: u32,
    /// `pg_attribute.attnum` of the columns: a column that is dropped and added again has another number.
    pub numbers: String,
    /// `pg_attribute.xmin` of the columns: the transactions that last changed their definitions.
    pub definers: String,
}

impl Storage {
    /// Whether the rows may have been given other values between this state and `now`. TRUNCATE, VACUUM FULL and
    /// CLUSTER change only the file; a new default changes only the definition.
    pub fn was_rewritten(&self, now: &Storage) -> bool {
        self.numbers != now.numbers || (self.file != now.file && self.definers != now.definers)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    /// `pg_attribute.attnum`: a renamed column keeps its number, a column that is dropped and added again does not. 0
    /// where a manifest of an early version lacks the number.
    #[serde(default)]
    pub number: i16,
    /// `pg_attribute.atttypid`.
    pub type_oid: u32,
    /// `pg_attribute.atttypmod`.
    pub type_modifier: i32,
    /// The type as `format_type` writes it, for people and for sinks with other types.
    pub type_name: String,
}

impl Column {
    /// Whether this is the column that `earlier` was, under whichever name. A column is known by its number; where an
    /// early manifest lacks the number, the name decides.
    pub fn is_same_as(&self, earlier: &Column) -> bool {
        match earlier.number {
            0 => self.name == earlier.name,
            number => self.number == number,
        }
    }
}

/// How one row is told from another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowIdentity {
    /// Unique values of these columns (indexes into [`Table::columns`], in column order): the
    /// primary key, or the index of `REPLICA IDENTITY USING INDEX`.
    Key(Vec<usize>),
    /// The whole row, byte by byte; equal rows are told apart only by their number.
    WholeRow,
}

/// How completely a table's past can be recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grade {
    /// Every change is in the stream.
    Exact,
    /// The stream carries only inserts and truncates: the table has no replica identity.
    InsertOnly,
}

impl Table {
    pub fn is_insert_only(&self) -> bool {
        self.grade == Grade::InsertOnly
    }

    /// Whether the key's columns exist, and each column has its name in the stream.
    pub fn is_sound(&self) -> bool {
        let key = match &self.identity {
            RowIdentity::Key(columns) => columns.iter().all(|column| *column < self.columns.len()),
            RowIdentity::WholeRow => true,
        };
        let named = |names: &StreamNames| names.columns.len() == self.columns.len();
        key && self.in_stream.as_ref().is_none_or(named)
    }

    /// Returns schema and name as a Relation message spells them.
    pub fn stream_name(&self) -> (&str, &str) {
        match &self.in_stream {
            Some(names) => (&names.schema, &names.name),
            None => (&self.schema, &self.name),
        }
    }

    /// Returns a column's name as a Relation message spells it.
    pub fn stream_column(&self, number: usize) -> &str {
        match self.in_stream.as_ref().and_then(|names| names.columns.get(number)) {
            Some(name) => name,
            None => &self.columns[number].name,
        }
    }

    /// Returns `schema.name`, quoted as SQL needs it.
    pub fn quoted(&self) -> String {
        format!("{}.{}", quote_ident(&self.schema), quote_ident(&self.name))
    }

    /// Returns `schema.name` for people; it is not safe in SQL.
    pub fn display(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// Returns `"a", "b"`: the columns as a COPY or SELECT list; empty for a table without columns.
    pub fn quoted_columns(&self) -> String {
        let names: Vec<_> = self.columns.iter().map(|column| quote_ident(&column.name)).collect();
        names.join(", ")
    }
}

/// Quotes an identifier, always.
pub fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Returns a string literal that reads the same under either setting of `standard_conforming_strings`.
pub fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_strings_cannot_leave_their_quotes() {
        assert_eq!(quote_ident(r#"a"; DROP TABLE x; --"#), r#""a""; DROP TABLE x; --""#);
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal(r"\'; --"), r"E'\\''; --'");
    }
}
