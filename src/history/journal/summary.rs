//! The summary of a segment, which stands in its footer and in the catalog.

use serde::{Deserialize, Serialize};

use crate::model::{Lsn, PgTime};

/// The numbers of a segment, from its footer; for an open segment, from reading all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentSummary {
    pub epoch: u32,
    /// The frontier at which the segment starts.
    pub start: Lsn,
    /// The frontier at which the segment ends, so far.
    pub end: Lsn,
    pub first_commit: Option<Lsn>,
    pub last_commit: Option<Lsn>,
    #[serde(with = "micros")]
    pub min_time: Option<PgTime>,
    /// The latest commit time. The last transaction may have an earlier one, if the clock stepped back.
    #[serde(with = "micros")]
    pub max_time: Option<PgTime>,
    pub transactions: u64,
    /// The number of pgoutput messages of every kind.
    pub messages: u64,
    /// The bytes of these messages.
    pub raw_bytes: u64,
    /// The counts of each table, in the order of the oids.
    pub relations: Vec<RelationCounts>,
    pub marks: Vec<Mark>,
    /// The commit LSNs of the transactions that tell schema changes, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub definitions: Vec<Lsn>,
    /// The commit LSNs of the transactions that tell the server's roles, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<Lsn>,
    /// The commit LSNs of the transactions that tell digests of the definitions, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub digests: Vec<Lsn>,
    pub sequences: SequenceSamples,
    pub clock_steps: ClockSteps,
    pub relation_changes: Vec<RelationChange>,
    pub last_idle: Option<IdleMark>,
    /// The BLAKE3 digest of the messages, which sealing does not change.
    pub content: String,
}

/// How many rows changed in one table. The names are the last ones of the stream; bytes that are no UTF-8 show as U+FFFD.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelationCounts {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub inserts: u64,
    pub updates: u64,
    pub deletes: u64,
    pub truncates: u64,
}

/// A named moment, just after the transaction that carries the mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub name: String,
    /// The commit LSN of the transaction.
    pub lsn: Lsn,
    pub end_lsn: Lsn,
    #[serde(with = "micros")]
    pub time: PgTime,
    pub xid: u32,
}

/// How often sequences were sampled. The samples themselves are found by reading the segment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceSamples {
    pub count: u64,
    /// The commit LSN of the last sample's transaction.
    pub last_lsn: Option<Lsn>,
    /// The JSON of the last sample; `None` if it is no UTF-8.
    pub last: Option<String>,
}

/// Steps of the clock back: transactions whose commit time is earlier than that of a transaction before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockSteps {
    pub count: u64,
    pub largest_micros: u64,
}

/// A change of a table: the stream described it differently than before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelationChange {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub commit_lsn: Lsn,
}

/// Nothing was committed up to `lsn`, as of the server's time `time`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdleMark {
    pub lsn: Lsn,
    #[serde(with = "micros")]
    pub time: PgTime,
}

/// The place of one transaction in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionEntry {
    pub commit_lsn: Lsn,
    pub end_lsn: Lsn,
    pub xid: u32,
    pub time: PgTime,
    /// The number, within the segment, of the block that holds the Begin message.
    pub block: u32,
}

/// Writes times as the server counts them, so that every value is read back, however odd the clock is.
mod micros {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::model::PgTime;

    pub(super) trait Micros: Sized {
        type Plain: Serialize + for<'de> Deserialize<'de>;
        fn plain(&self) -> Self::Plain;
        fn from_plain(plain: Self::Plain) -> Self;
    }

    impl Micros for PgTime {
        type Plain = i64;
        fn plain(&self) -> i64 {
            self.0
        }
        fn from_plain(plain: i64) -> PgTime {
            PgTime(plain)
        }
    }

    impl Micros for Option<PgTime> {
        type Plain = Option<i64>;
        fn plain(&self) -> Option<i64> {
            self.map(|time| time.0)
        }
        fn from_plain(plain: Option<i64>) -> Option<PgTime> {
            plain.map(PgTime)
        }
    }

    pub(super) fn serialize<T: Micros, S: Serializer>(time: &T, serializer: S) -> Result<S::Ok, S::Error> {
        time.plain().serialize(serializer)
    }

    pub(super) fn deserialize<'de, T: Micros, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        T::Plain::deserialize(deserializer).map(T::from_plain)
    }
}
