//! Converts PostgreSQL's texts to SQLite's values exactly, or leaves them as text.

use std::borrow::Cow;

use rusqlite::ToSql;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};

use crate::codec::copy_text;
use crate::model::Column;

/// The kind of SQLite value for a column's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SqliteForm {
    Integer,
    /// A Boolean as 0 or 1.
    Bool,
    Real,
    /// Text, for all values that must not be converted: also numeric, whose digits SQLite would round.
    Text,
    Blob,
}

impl SqliteForm {
    /// Chooses by the type's oid; the oids of built-in types are fixed (`pg_type.dat`).
    pub fn of(column: &Column) -> SqliteForm {
        match column.type_oid {
            20 | 21 | 23 | 26 => SqliteForm::Integer,
            16 => SqliteForm::Bool,
            700 | 701 => SqliteForm::Real,
            17 => SqliteForm::Blob,
            _ => SqliteForm::Text,
        }
    }

    /// Returns the declared type. A TEXT column never turns text into numbers.
    pub fn affinity(self) -> &'static str {
        match self {
            SqliteForm::Integer | SqliteForm::Bool => "INTEGER",
            SqliteForm::Real => "REAL",
            SqliteForm::Text => "TEXT",
            SqliteForm::Blob => "BLOB",
        }
    }

    /// Returns the value of a column in a COPY line.
    pub fn value(self, column: &[u8]) -> SqliteValue<'_> {
        let Some(text) = copy_text::unescape(column) else { return SqliteValue::Own(Value::Null) };
        let plain = std::str::from_utf8(&text).ok();
        let own = match self {
            SqliteForm::Integer => plain.and_then(|text| text.parse().ok()).map(Value::Integer),
            SqliteForm::Bool => plain.map(|text| Value::Integer((text == "t").into())),
            // NaN and the infinities stay text: SQLite would turn NaN into NULL.
            SqliteForm::Real => plain
                .and_then(|text| text.parse().ok())
                .filter(|number: &f64| number.is_finite())
                .map(Value::Real),
            SqliteForm::Blob => hex(&text).map(Value::Blob),
            SqliteForm::Text => None,
        };
        own.map_or(SqliteValue::Text(text), SqliteValue::Own)
    }
}

/// A value to bind.
pub(super) enum SqliteValue<'a> {
    Own(Value),
    /// Text, or a BLOB if it is no UTF-8.
    Text(Cow<'a, [u8]>),
}

impl ToSql for SqliteValue<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            SqliteValue::Own(value) => value.into(),
            SqliteValue::Text(text) if std::str::from_utf8(text).is_ok() => ValueRef::Text(text),
            SqliteValue::Text(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// Returns the bytes of bytea's hex output.
fn hex(text: &[u8]) -> Option<Vec<u8>> {
    let digits = text.strip_prefix(b"\\x")?;
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = |pair: &[u8]| match pair {
        [high, low] => u8::try_from(digit(*high)? << 4 | digit(*low)?).ok(),
        _ => None,
    };
    digits.chunks(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(form: SqliteForm, column: &[u8]) -> Option<Value> {
        match form.value(column) {
            SqliteValue::Own(value) => Some(value),
            SqliteValue::Text(_) => None,
        }
    }

    #[test]
    fn values_are_exact_or_text() {
        assert_eq!(own(SqliteForm::Integer, b"-9223372036854775808"), Some(Value::Integer(i64::MIN)));
        assert_eq!(own(SqliteForm::Bool, b"t"), Some(Value::Integer(1)));
        assert_eq!(own(SqliteForm::Bool, b"f"), Some(Value::Integer(0)));
        assert_eq!(own(SqliteForm::Real, b"1.5e300"), Some(Value::Real(1.5e300)));
        for text in [&b"NaN"[..], b"Infinity", b"-Infinity"] {
            assert_eq!(own(SqliteForm::Real, text), None);
        }
        assert_eq!(own(SqliteForm::Blob, b"\\\\x00ff"), Some(Value::Blob(vec![0, 255])));
        assert_eq!(own(SqliteForm::Text, b"1.10"), None);
        assert_eq!(own(SqliteForm::Text, b"\\N"), Some(Value::Null));
    }
}
