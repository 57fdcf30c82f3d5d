//! Limits of a copy of a database, each said by name.

use serde::{Deserialize, Serialize};

/// What is said of a column whose values may read differently from how they were written.
pub const RETYPED: &str = "was given another type without a rewrite";

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
