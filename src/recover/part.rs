//! A part of the rows: those that meet a condition, and the rows to which they refer.

use serde::Serialize;

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
