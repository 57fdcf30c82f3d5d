//! How the history and the source were brought together again: kept with the checkpoint that came of it.

use serde::{Deserialize, Serialize};

use crate::model::Lsn;

/// What a checkpoint was made of, where it is a state of the history put right by the source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resync {
    /// The history's state that was compared; none where it could not be had, and all was read.
    pub with: Option<ComparedPosition>,
    /// Why it could not be had.
    #[serde(default)]
    pub without: Option<String>,
    /// By oid.
    pub tables: Vec<TableResync>,
    /// Tables of the history that the source has no more.
    pub gone: Vec<String>,
}

/// A state of the history: all that committed before a position of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComparedPosition {
    pub epoch: u32,
    pub lsn: Lsn,
}

/// One table's share. A row that has changed counts as one that is gone and one that is new.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableResync {
    pub oid: u32,
    pub table: String,
    /// Of the source, at the snapshot.
    pub rows: u64,
    /// Of those rows, as in [`TableDigest`](super::evidence::TableDigest).
    pub digest: String,
    /// Ranges of hashes of rows that were compared by digest, and how many of them differed.
    pub ranges: u64,
    pub ranges_differed: u64,
    /// Rows of the history that the source does not have, and rows of the source that it had not.
    pub rows_gone: u64,
    pub rows_new: u64,
    /// Something differed; where the table was read whole that alone is known.
    pub differs: bool,
    /// Bytes of digests, places and rows that the source sent.
    pub bytes_read: u64,
    /// Bytes of all rows of the table as text: what reading it whole would have sent.
    pub bytes: u64,
    /// Why it was read whole; then no differing rows are counted.
    #[serde(default)]
    pub read_whole: Option<String>,
}

impl Resync {
    pub fn bytes_read(&self) -> u64 {
        self.tables.iter().map(|table| table.bytes_read).fold(0, u64::saturating_add)
    }

    pub fn bytes(&self) -> u64 {
        self.tables.iter().map(|table| table.bytes).fold(0, u64::saturating_add)
    }

    pub fn rows_gone(&self) -> u64 {
        self.tables.iter().map(|table| table.rows_gone).fold(0, u64::saturating_add)
    }

    pub fn rows_new(&self) -> u64 {
        self.tables.iter().map(|table| table.rows_new).fold(0, u64::saturating_add)
    }

    /// Tables in which something differed.
    pub fn differing(&self) -> impl Iterator<Item = &TableResync> {
        self.tables.iter().filter(|table| table.differs)
    }

    /// In one line, for the log.
    pub fn summary(&self) -> String {
        let whole = self.tables.iter().filter(|table| table.read_whole.is_some()).count();
        format!(
            "{} tables compared and {whole} read whole; {} rows of the history were gone and {} new; the source \
             sent {} bytes for {} bytes of rows",
            self.tables.len() - whole,
            self.rows_gone(),
            self.rows_new(),
            self.bytes_read(),
            self.bytes()
        )
    }
}
