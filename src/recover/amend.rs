//! A change of recovered rows, by a caller, before the database gets its name.

use std::future::Future;
use std::pin::Pin;

use crate::connect::Conninfo;
use crate::error::Result;

/// Changes rows of a recovered database that nobody knows yet. Its constraints and triggers are there.
pub trait Amend: Send + Sync {
    /// Returns how each table's rows changed as a whole.
    fn amend<'a>(&'a self, target: &'a Conninfo) -> Amending<'a>;
}

/// The future of [`Amend::amend`].
pub type Amending<'a> = Pin<Box<dyn Future<Output = Result<Vec<TableChange>>> + Send + 'a>>;

/// How a table's rows changed as a whole.
#[derive(Clone, Copy, Debug)]
pub struct TableChange {
    /// The table's oid in the history.
    pub table: u32,
    /// The number of rows that came, less those that went.
    pub rows: i64,
    /// Added to the digest of the rows, modulo 2^128.
    pub digest: u128,
    /// Whether the changed rows were read back by their keys, so that the others need not be read.
    pub is_read_back: bool,
}
