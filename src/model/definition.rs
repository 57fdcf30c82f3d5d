//! A table as the catalogs describe it, and how its rows can be protected accordingly.

use serde::{Deserialize, Serialize};

use super::schema::{Column, Grade, RowIdentity, Storage, StreamNames, Table};

/// The catalogs' description of one relation that stores rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFacts {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// `pg_class.relpersistence`: `p`ermanent, `u`nlogged or `t`emporary.
    pub persistence: char,
    /// `pg_class.relreplident`: `d`efault, `n`othing, `f`ull or `i`ndex; `v` if it is `f` but the table has a virtual
    /// column, since the server then refuses to publish updates.
    pub replica_identity: char,
    /// `pg_class.relfilenode`.
    pub file: u32,
    /// `attnum` of the key columns of the replica identity's index, without its included columns; `None` if there is
    /// no such index, or if the index is not immediate and valid.
    #[serde(default)]
    pub identity: Option<Vec<i16>>,
    /// Whether the table belongs to an extension.
    #[serde(default)]
    pub of_extension: bool,
    /// The columns in `attnum` order, without dropped ones.
    pub columns: Vec<ColumnFacts>,
    /// `schema` and `name` in the database's own encoding, in hexadecimal, where they are not UTF-8.
    #[serde(default)]
    pub raw_names: Option<(String, String)>,
    /// See [`Table::partition_of`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partition_of: Vec<(String, String)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnFacts {
    /// `pg_attribute.attnum`.
    pub number: i16,
    pub name: String,
    /// `pg_attribute.atttypid`.
    #[serde(rename = "type")]
    pub type_oid: u32,
    /// `pg_attribute.atttypmod`.
    pub modifier: i32,
    /// The type as `format_type` writes it.
    pub type_name: String,
    #[serde(default)]
    pub generated: bool,
    /// The value that rows older than the column have in it, as its type's output function writes it
    /// (`pg_attribute.attmissingval`); `None` for NULL.
    #[serde(default)]
    pub missing: Option<String>,
    /// `missing` in the database's own encoding, in hexadecimal, where it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw_missing: Option<String>,
    /// `pg_attribute.xmin`: the transaction that last changed the definition.
    #[serde(default)]
    pub definer: String,
    /// `name` in the database's own encoding, in hexadecimal, where it is not UTF-8.
    #[serde(default)]
    pub raw_name: Option<String>,
}

/// Makes pairs of the texts of a list: of each schema and name.
pub fn pairs(texts: Vec<String>) -> Vec<(String, String)> {
    let mut texts = texts.into_iter();
    std::iter::from_fn(|| Some((texts.next()?, texts.next()?))).collect()
}

impl TableFacts {
    /// Returns the table as the history records it, with the grade at which the stream can carry it.
    ///
    /// `in_stream` converts a name's bytes in the database's encoding to the spelling that the stream has.
    pub fn table(&self, in_stream: impl Fn(&[u8]) -> String) -> Table {
        let stored: Vec<_> = self.columns.iter().filter(|column| !column.generated).collect();
        let position = |number: &i16| stored.iter().position(|column| column.number == *number);
        let key = self.identity.as_ref().and_then(|numbers| {
            let mut key = numbers.iter().map(position).collect::<Option<Vec<_>>>()?;
            key.sort_unstable();
            Some(key).filter(|key| !key.is_empty())
        });
        let (identity, grade) = match (self.replica_identity, key) {
            ('f', _) => (RowIdentity::WholeRow, Grade::Exact),
            ('d' | 'i', Some(key)) => (RowIdentity::Key(key), Grade::Exact),
            _ => (RowIdentity::WholeRow, Grade::InsertOnly),
        };
        let joined = |part: &dyn Fn(&ColumnFacts) -> String| {
            self.columns.iter().map(part).collect::<Vec<_>>().join(",")
        };
        Table {
            oid: self.oid,
            schema: self.schema.clone(),
            name: self.name.clone(),
            columns: stored.iter().map(|column| column.column()).collect(),
            generated: self.columns.iter().filter(|it| it.generated).map(|it| it.name.clone()).collect(),
            identity,
            grade,
            storage: Storage {
                file: self.file,
                numbers: joined(&|column| column.number.to_string()),
                definers: joined(&|column| column.definer.clone()),
            },
            in_stream: self.stream_names(&stored, in_stream),
            partition_of: self.partition_of.clone(),
        }
    }

    /// Returns `None` if the stream spells all names as backwhen does.
    fn stream_names(
        &self,
        stored: &[&ColumnFacts],
        in_stream: impl Fn(&[u8]) -> String,
    ) -> Option<StreamNames> {
        let spell = |raw: &Option<String>, name: &String| match raw.as_deref().and_then(from_hex) {
            Some(bytes) => in_stream(&bytes),
            None => name.clone(),
        };
        let (schema, name) = match &self.raw_names {
            Some((schema, name)) => (Some(schema.clone()), Some(name.clone())),
            None => (None, None),
        };
        let names = StreamNames {
            schema: spell(&schema, &self.schema),
            name: spell(&name, &self.name),
            columns: stored.iter().map(|column| spell(&column.raw_name, &column.name)).collect(),
        };
        let same = names.schema == self.schema
            && names.name == self.name
            && stored.iter().zip(&names.columns).all(|(column, name)| column.name == *name);
        (!same).then_some(names)
    }
}

impl ColumnFacts {
    /// Returns the value that rows older than the column have in it, in the bytes of the database's encoding.
    pub fn missing_bytes(&self) -> Option<Vec<u8>> {
        let raw = self.raw_missing.as_deref().and_then(from_hex);
        raw.or_else(|| self.missing.as_ref().map(|text| text.as_bytes().to_vec()))
    }

    fn column(&self) -> Column {
        Column {
            name: self.name.clone(),
            number: self.number,
            type_oid: self.type_oid,
            type_modifier: self.modifier,
            type_name: self.type_name.clone(),
        }
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(replica_identity: char, identity: Option<Vec<i16>>) -> TableFacts {
        let column = |number, name: &str, generated| ColumnFacts {
            number,
            name: name.into(),
            generated,
            ..ColumnFacts::default()
        };
        TableFacts {
            oid: 1,
            schema: "public".into(),
            name: "shop".into(),
            persistence: 'p',
            replica_identity,
            identity,
            // Column 2 was dropped.
            columns: vec![column(1, "a", false), column(3, "g", true), column(4, "b", false)],
            ..TableFacts::default()
        }
    }

    fn graded(replica_identity: char, identity: Option<Vec<i16>>) -> (RowIdentity, Grade) {
        let table = facts(replica_identity, identity).table(|_| unreachable!());
        (table.identity, table.grade)
    }

    #[test]
    fn a_key_is_counted_among_the_stored_columns() {
        assert_eq!(graded('d', Some(vec![4, 1])), (RowIdentity::Key(vec![0, 1]), Grade::Exact));
        assert_eq!(graded('i', Some(vec![4])), (RowIdentity::Key(vec![1]), Grade::Exact));
    }

    #[test]
    fn without_a_key_only_the_whole_row_tells() {
        assert_eq!(graded('f', Some(vec![1])), (RowIdentity::WholeRow, Grade::Exact));
        for without in [graded('n', None), graded('d', None), graded('i', Some(vec![3]))] {
            assert_eq!(without, (RowIdentity::WholeRow, Grade::InsertOnly));
        }
    }

    #[test]
    fn names_are_spelt_twice_only_where_they_differ() {
        let mut facts = facts('f', None);
        assert_eq!(facts.table(|_| unreachable!()).in_stream, None);
        facts.columns[0].raw_name = Some("e4".into());
        let names = facts.table(|bytes| format!("{bytes:?}")).in_stream.unwrap();
        assert_eq!(names.columns, ["[228]", "b"]);
        assert_eq!(names.name, "shop");
    }
}
