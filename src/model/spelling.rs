//! Identifiers for statements that are sent along with rows that are not in UTF-8.

use super::Table;
use super::schema::quote_ident;

/// A table's names as SQL, in ASCII where the database's encoding is different from the statement's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spelled {
    /// The table as `schema.name`.
    pub table: String,
    /// The columns as `a, b`, for SELECT.
    pub list: String,
    /// The columns one by one.
    pub each: Vec<String>,
    /// The columns as `(a, b)` after a space, for COPY. Empty for a table without stored columns: COPY then reads and
    /// writes an empty line for a row, and leaves generated columns out by itself.
    pub columns: String,
}

impl Spelled {
    /// `encoding` is PostgreSQL's name of the database's encoding.
    pub fn of(table: &Table, encoding: &str) -> Spelled {
        let spell = |name: &str| spell(name, encoding);
        let columns: Vec<_> = table.columns.iter().map(|column| spell(&column.name)).collect();
        Spelled {
            table: format!("{}.{}", spell(&table.schema), spell(&table.name)),
            list: columns.join(", "),
            columns: if columns.is_empty() { String::new() } else { format!(" ({})", columns.join(", ")) },
            each: columns,
        }
    }
}

/// Quotes an identifier, in ASCII where the database's encoding is different from the statement's.
pub fn spell(name: &str, encoding: &str) -> String {
    // In SQL_ASCII the server converts nothing, so names are the bytes that were read as UTF-8.
    if matches!(encoding, "UTF8" | "SQL_ASCII") { quote_ident(name) } else { escaped_ident(name) }
}

/// Quotes an identifier in ASCII, whichever letters it contains.
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
