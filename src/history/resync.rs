//! The result of a resynchronisation, which is kept with the checkpoint that was made by it.

use serde::{Deserialize, Serialize};

use crate::model::Lsn;

/// How a checkpoint was made that is a state of the history, corrected by a comparison with the source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resync {
    /// The state of the history that was compared; `None` if there was none to compare, so that all tables were read whole.
    pub with: Option<ComparedPosition>,
    /// Why there was no state to compare.
    #[serde(default)]
    pub without: Option<String>,
    /// The tables, sorted by oid.
    pub tables: Vec<TableResync>,
    /// Tables of the history that the source no longer has.
    pub gone: Vec<String>,
}

/// A state of the history: all transactions that committed before a position of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComparedPosition {
    pub epoch: u32,
    pub lsn: Lsn,
}

/// The comparison of one table. A changed row counts as a row that is gone and a row that is new.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableResync {
    pub oid: u32,
    pub table: String,
    /// The number of rows on the source, at the snapshot.
    pub rows: u64,
    /// The digest of these rows, as in [`TableDigest`](super::evidence::TableDigest).
    pub digest: String,
    /// Ranges of hashes of rows that were compared by digest, and how many of them differed.
    pub ranges: u64,
    pub ranges_differed: u64,
    /// Rows of the history that the source does not have, and rows of the source that it had not.
    pub rows_gone: u64,
    pub rows_new: u64,
    /// Whether anything differed. If the table was read whole, nothing more is known.
    pub differs: bool,
    /// Bytes of digests, places and rows that the source sent.
    pub bytes_read: u64,
    /// Bytes of all rows of the table as text, which the source would have sent if the table had been read whole.
    pub bytes: u64,
    /// Why the table was read whole. Differing rows are not counted then.
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
