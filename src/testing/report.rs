//! The report of a reset.

use std::time::Duration;

/// The work that a reset did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Reset {
    pub how: HowReset,
    /// The rows that were inserted, updated or deleted. A database that was recovered anew counts none.
    pub rows: u64,
    pub took: Duration,
    /// The parts of the database that a reset does not put back.
    pub not_reset: Vec<String>,
}

/// How a database was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HowReset {
    /// Rows and sequences went back in place, if they had changed at all.
    InPlace,
    /// Objects that a test had made were dropped, and the rest went back in place.
    Dropped,
    /// The database was recovered anew.
    Anew,
}
