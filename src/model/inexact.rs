//! Limits of a copy of a database, each said by name.

use serde::{Deserialize, Serialize};

/// The words about a column whose values may read differently from how they were written.
pub const RETYPED: &str = "was given another type without a rewrite";

/// Returns a note about this many insert-only tables, with the command that mends them.
pub fn insert_only_note(tables: usize) -> Option<String> {
    let (which, their) = match tables {
        0 => return None,
        1 => ("1 table is".to_owned(), "its"),
        more => (format!("{more} tables are"), "their"),
    };
    Some(format!(
        "{which} insert-only: {their} updates and deletes are not in the history; to have them recorded from now on: \
         backwhen init --full-identity"
    ))
}

/// A table whose rows are not in the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    pub table: String,
    pub reason: String,
}

/// A part of the database that cannot be brought back exactly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inexact {
    /// The part: a table, a sequence, `large objects`, `roles`.
    pub what: String,
    pub why: String,
}

impl Inexact {
    /// Whether the part is a table whose values may read differently from how they were written, as a column was given
    /// another type. A manifest keeps only the words, so the words decide.
    pub fn is_retyped(&self) -> bool {
        self.why.contains(RETYPED)
    }
}
