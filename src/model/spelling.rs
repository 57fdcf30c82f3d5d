//! Identifiers for statements among rows that are not in UTF-8.

use super::Table;
use super::schema::quote_ident;

/// A table's names as SQL, in ASCII where the database's encoding is another than the statement's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spelled {
    /// `schema.name`.
    pub table: String,
    /// `a, b`, for SELECT.
    pub list: String,
    /// The same, one by one.
    pub each: Vec<String>,
    /// `(a, b)` after a space. Empty for a table without stored columns: COPY then takes and gives
    /// an empty line for a row, and leaves generated columns out by itself.
    pub columns: String,
}

impl Spelled {
    /// `encoding` is the database's, by PostgreSQL's name.
    pub fn of(table: &Table, encoding: &str) -> Spelled {
        // In SQL_ASCII nothing is converted, so names are the bytes that were read as UTF-8.
        let escape = !matches!(encoding, "UTF8" | "SQL_ASCII");
        let spell = |name: &str| if escape { escaped_ident(name) } else { quote_ident(name) };
        let columns: Vec<_> = table.columns.iter().map(|column| spell(&column.name)).collect();
        Spelled {
            table: format!("{}.{}", spell(&table.schema), spell(&table.name)),
            list: columns.join(", "),
            columns: if columns.is_empty() { String::new() } else { format!(" ({})", columns.join(", ")) },
            each: columns,
        }
    }
}

/// A quoted identifier in ASCII, whatever letters it holds.
fn escaped_ident(name: &str) -> String {
    if name.is_ascii() {
        return quote_ident(name);
    }
    let mut text = String::from("U&\"");
    for letter in name.chars() {
        match letter {
            '"' => text.push_str("\"\""),
            '\\' => text.push_str("\\\\"),
            letter if letter.is_ascii() => text.push(letter),
            letter => text.push_str(&format!("\\+{:06x}", u32::from(letter))),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_spelled_in_ascii() {
        assert_eq!(escaped_ident("a\"b"), "\"a\"\"b\"");
        assert_eq!(escaped_ident("é\\\""), "U&\"\\+0000e9\\\\\"\"\"");
    }
}
