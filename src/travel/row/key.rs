//! The key of a row, as a person names it.

use crate::codec::copy_text;
use crate::codec::key::KeyShape;
use crate::error::{Error, Result};
use crate::model::{Column, Table};
use crate::past::{Past, Reading};
use crate::travel::{Spans, key_columns};

/// The values of some columns of a table, which tell one of its rows from the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowKey {
    /// The table's oid.
    pub table: u32,
    pub(super) columns: Vec<Column>,
    /// The columns' values as COPY text, separated by tabs.
    value: Vec<u8>,
}

impl RowKey {
    /// Finds the table where the spans end, or where the last one begins if the table was dropped in it, and reads the
    /// key; for a partitioned table, one key for each partition.
    ///
    /// # Errors
    /// `Usage` if not exactly one table matches, or if the text is no key of it; `Damaged` if the history is.
    pub fn find(reading: &Reading, spans: &Spans, table: &str, key: &str) -> Result<Vec<RowKey>> {
        RowKey::in_each(&RowKey::tables(reading, spans, table)?, table, key)
    }

    fn in_each(tables: &[Table], name: &str, key: &str) -> Result<Vec<RowKey>> {
        let root = tables.first().and_then(|table| table.partition_of.last());
        if root.is_some() && tables.iter().all(|table| table.partition_of.last() == root) {
            return tables.iter().map(|table| RowKey::parse(table, key)).collect();
        }
        Ok(vec![RowKey::in_one_of(tables, name, key)?])
    }

    fn tables(reading: &Reading, spans: &Spans, table: &str) -> Result<Vec<Table>> {
        let last = spans.spans.last().ok_or_else(|| Error::outside_window("nothing is held yet"))?;
        let pattern = [table.to_owned()];
        let end = reading.before(last.past.base().epoch, last.until)?;
        let chosen = end.choose(&pattern).or_else(|error| last.past.choose(&pattern).map_err(|_| error))?;
        Ok(chosen.tables)
    }

    /// Reads `TABLE=KEY` for a table as it was at a moment; for a partitioned table, one key for each partition.
    ///
    /// # Errors
    /// `Usage` if not exactly one table matches, or if the text is no key of it; `Damaged` if the history is.
    pub fn at(past: &Past, text: &str) -> Result<Vec<RowKey>> {
        let (table, key) = RowKey::split(text)?;
        RowKey::in_each(&past.choose(&[table.to_owned()])?.tables, table, key)
    }

    /// Splits `TABLE=KEY`.
    ///
    /// # Errors
    /// `Usage` if the text is not of this form.
    pub fn split(text: &str) -> Result<(&str, &str)> {
        text.split_once('=')
            .ok_or_else(|| Error::usage("--key names a table and a key, as orders=42 or orders=a=1,b=x"))
    }

    fn in_one_of(tables: &[Table], name: &str, key: &str) -> Result<RowKey> {
        match tables {
            [table] => RowKey::parse(table, key),
            tables => {
                let names: Vec<_> = tables.iter().map(Table::display).collect();
                Err(Error::usage(format!("{name} can be several tables; name one of: {}", names.join(", "))))
            }
        }
    }

    /// Reads `42`, or `a=1,b=x`; a value with a comma stands in single quotes.
    ///
    /// # Errors
    /// `Usage` if the text does not name the columns of the table's key.
    pub fn parse(table: &Table, text: &str) -> Result<RowKey> {
        let key = key_columns(table);
        let named = named_values(text);
        let is_column = |name: &String| table.columns.iter().any(|column| column.name == *name);
        let named = match (named, &key[..]) {
            (Some(named), _) if named.iter().any(|(name, _)| is_column(name)) => named,
            (_, [column]) => vec![(table.columns[*column].name.clone(), text.to_owned())],
            _ => return Err(wrong(table, &key)),
        };
        let mut places = Vec::new();
        for (name, value) in named {
            let place = table.columns.iter().position(|column| column.name == name);
            places.push((place.ok_or_else(|| wrong(table, &key))?, value));
        }
        places.sort();
        let given: Vec<_> = places.iter().map(|(place, _)| *place).collect();
        if (!key.is_empty() && given != key) || given.is_empty() {
            return Err(wrong(table, &key));
        }
        let mut value = Vec::new();
        for (number, (_, text)) in places.iter().enumerate() {
            if number > 0 {
                value.push(b'\t');
            }
            copy_text::push_escaped(&mut value, text.as_bytes());
        }
        let columns = given.into_iter().map(|place| table.columns[place].clone()).collect();
        Ok(RowKey { table: table.oid, columns, value })
    }

    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// The values that a row has in the key's columns; `None` if the table lacks one, or if the line does.
    pub fn of(&self, table: &Table, line: &[u8]) -> Option<Vec<u8>> {
        let columns: Vec<_> = copy_text::columns(line).collect();
        let mut value = Vec::new();
        for (number, wanted) in self.columns.iter().enumerate() {
            let column = columns.get(place(table, wanted)?).filter(|column| **column != copy_text::HOLE)?;
            if number > 0 {
                value.push(b'\t');
            }
            value.extend_from_slice(column);
        }
        Some(value)
    }

    /// Whether a row has this key.
    pub fn is_of(&self, table: &Table, line: &[u8]) -> bool {
        self.of(table, line).is_some_and(|value| value == self.value)
    }

    /// The sort key of the table's row that has these values; `None` if the columns are not the table's key.
    pub(super) fn sort_key(&self, table: &Table, value: &[u8]) -> Option<Vec<u8>> {
        let shape = KeyShape::of(table);
        let KeyShape::Columns(_) = shape else { return None };
        let mut columns = vec![copy_text::HOLE; table.columns.len()];
        for (wanted, value) in self.columns.iter().zip(copy_text::columns(value)) {
            *columns.get_mut(place(table, wanted)?)? = value;
        }
        let mut key = Vec::new();
        shape.push_key(&columns.join(&b'\t'), &mut key)?;
        Some(key)
    }
}

fn place(table: &Table, wanted: &Column) -> Option<usize> {
    table.columns.iter().position(|column| column.is_same_as(wanted))
}

/// Splits `a=1,b='x,y'`; `None` if the text is not of this form.
fn named_values(text: &str) -> Option<Vec<(String, String)>> {
    let mut values = Vec::new();
    let mut rest = text;
    loop {
        let (name, after) = rest.split_once('=')?;
        let (value, after) = match after.strip_prefix('\'') {
            Some(quoted) => {
                let mut end = quoted.find('\'')?;
                while quoted[end + 1..].starts_with('\'') {
                    end += 2 + quoted[end + 2..].find('\'')?;
                }
                (quoted[..end].replace("''", "'"), &quoted[end + 1..])
            }
            None => {
                let end = after.find(',').unwrap_or(after.len());
                (after[..end].to_owned(), &after[end..])
            }
        };
        values.push((name.trim().to_owned(), value));
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None => return after.is_empty().then_some(values),
        }
    }
}

fn wrong(table: &Table, key: &[usize]) -> Error {
    let names: Vec<_> = key.iter().map(|column| format!("{}=…", table.columns[*column].name)).collect();
    let name = table.display();
    Error::usage(if names.is_empty() {
        format!(
            "{name} has no key in the history; name columns that tell the row from others, as column=value,…"
        )
    } else {
        format!("the key of {name} is written as {}", names.join(","))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(key: Option<&[usize]>) -> Table {
        let column = |(number, name): (i16, &str)| {
            serde_json::json!({"name": name, "number": number, "type_oid": 25, "type_modifier": -1,
                               "type_name": "text"})
        };
        let columns = [(1, "a"), (2, "b"), (3, "c")].map(column);
        let identity = key.map_or(serde_json::json!("whole_row"), |key| serde_json::json!({ "key": key }));
        let table = serde_json::json!({"oid": 1, "schema": "public", "name": "t", "columns": columns,
                                       "identity": identity, "grade": "exact"});
        serde_json::from_value(table).unwrap()
    }

    #[test]
    fn keys_are_read_as_people_write_them() {
        let value = |key: Option<&[usize]>, text: &str| {
            RowKey::parse(&table(key), text).map(|key| String::from_utf8(key.value).unwrap()).ok()
        };
        assert_eq!(value(Some(&[0]), "42").as_deref(), Some("42"));
        assert_eq!(value(Some(&[0]), "a=42").as_deref(), Some("42"));
        assert_eq!(value(Some(&[0]), "x=42").as_deref(), Some("x=42"));
        assert_eq!(value(Some(&[0, 1]), "b='x,''y',a=1").as_deref(), Some("1\tx,'y"));
        assert_eq!(value(None, "c=tab\there").as_deref(), Some("tab\\there"));
        for (key, text) in
            [(Some(&[0, 1][..]), "42"), (Some(&[0, 1]), "a=1"), (Some(&[0]), "b=1"), (None, "42")]
        {
            assert_eq!(value(key, text), None, "{text}");
        }
    }

    #[test]
    fn a_key_is_found_in_rows_by_the_numbers_of_its_columns() {
        let key = RowKey::parse(&table(Some(&[1])), "x").unwrap();
        assert!(key.is_of(&table(None), b"1\tx\t2") && !key.is_of(&table(None), b"x\t1\t2"));
        let mut later = table(Some(&[0]));
        later.columns.remove(0);
        later.columns[0].name = "renamed".into();
        assert!(key.is_of(&later, b"x\t2"));
        assert_eq!(key.sort_key(&later, b"x").as_deref(), Some(&b"x\t"[..]));
    }
}
