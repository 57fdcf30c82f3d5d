//! A part of the rows: those that meet a condition, and the rows to which they refer.

use serde::Serialize;

use crate::error::{Error, Result};
use crate::model::Table;

/// The choice of rows in the chosen tables.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RowFilter {
    /// A condition in SQL; `None` if all rows are wanted.
    pub condition: Option<String>,
    /// Whether the rows to which the wanted ones refer are wanted, too.
    pub with_references: bool,
    /// The tables that are recovered only because rows refer to them.
    pub referenced: Vec<String>,
}

/// The rows of a table that are wanted, and the others.
#[derive(Clone, Debug, Serialize)]
pub struct TablePart {
    pub table: String,
    pub rows: u64,
    /// The rows that the table had besides.
    pub left_out: u64,
}

/// A table's wanted rows, and the digests of both parts.
pub struct SplitTable {
    pub part: TablePart,
    pub kept: u128,
    pub left_out: u128,
}

/// The tables in which wanted rows are looked for, and the question that is asked of each.
pub struct Search<'a> {
    pub condition: Option<&'a str>,
    pub with_references: bool,
    pub tables: Vec<&'a Table>,
}

/// A condition on the rows that are loaded of some tables of a past that is thrown away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Narrowing {
    /// The pattern of the tables.
    pub pattern: String,
    /// The condition in SQL.
    pub condition: String,
}

impl Narrowing {
    /// Parses `TABLE: CONDITION`. A colon in double quotes belongs to the name of the table.
    ///
    /// # Errors
    /// `Usage` if one of the two is missing.
    pub fn parse(text: &str) -> Result<Narrowing> {
        let mut quoted = false;
        let colon = text.char_indices().find(|(_, letter)| {
            quoted ^= *letter == '"';
            *letter == ':' && !quoted
        });
        let (pattern, condition) = colon.map_or((text, ""), |(at, _)| (&text[..at], &text[at + 1..]));
        let (pattern, condition) = (pattern.trim().to_owned(), condition.trim().to_owned());
        // A cast is no name of a table.
        if pattern.is_empty() || condition.is_empty() || condition.starts_with(':') {
            return Err(Error::usage(format!(
                "--where {text:?} does not say which table is meant; write it as in --where 'orders: customer_id = 42'"
            )));
        }
        Ok(Narrowing { pattern, condition })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_comes_after_its_table() {
        let parsed = |text| Narrowing::parse(text).map(|it| (it.pattern, it.condition)).ok();
        let both = |pattern: &str, condition: &str| Some((pattern.to_owned(), condition.to_owned()));
        assert_eq!(parsed("orders: a::text = ':'"), both("orders", "a::text = ':'"));
        assert_eq!(parsed("\"odd: name\".t:a = 1"), both("\"odd: name\".t", "a = 1"));
        for wrong in ["a = 1", "a::int = 1", ": a = 1", "orders:", ""] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }
}
