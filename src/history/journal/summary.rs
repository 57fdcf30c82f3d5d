//! What a segment says about itself.

use serde::{Deserialize, Serialize};

use crate::model::{Lsn, PgTime};

/// A segment in numbers, from its footer or, for an open one, by reading it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentSummary {
    pub epoch: u32,
    /// The frontier at which the segment starts.
    pub start: Lsn,
    /// The frontier at which it ends, so far.
    pub end: Lsn,
    pub first_commit: Option<Lsn>,
    pub last_commit: Option<Lsn>,
    #[serde(with = "micros")]
    pub min_time: Option<PgTime>,
    /// The latest commit time; not the last transaction's, if the clock stepped back.
    #[serde(with = "micros")]
    pub max_time: Option<PgTime>,
    pub transactions: u64,
    /// pgoutput messages of every kind.
    pub messages: u64,
    /// Bytes of those messages.
    pub raw_bytes: u64,
    /// By table, in the order of their ids.
    pub relations: Vec<RelationCounts>,
    pub marks: Vec<Mark>,
    /// The commit LSNs of transactions with messages of definition changes, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub definitions: Vec<Lsn>,
    /// The same of transactions that tell of the server's roles.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<Lsn>,
    pub sequences: SequenceSamples,
    pub clock_steps: ClockSteps,
    pub relation_changes: Vec<RelationChange>,
    pub last_idle: Option<IdleMark>,
    /// BLAKE3 of the messages; the same before and after sealing.
    pub content: String,
}

/// Rows changed in one table. The names are as the stream last told them; bytes that are no
/// UTF-8 show as U+FFFD.
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

/// A named moment: just after the transaction that carries it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub name: String,
    /// The commit LSN of its transaction.
    pub lsn: Lsn,
    pub end_lsn: Lsn,
    #[serde(with = "micros")]
    pub time: PgTime,
    pub xid: u32,
}

/// How often sequences were sampled; the samples themselves are found by reading.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceSamples {
    pub count: u64,
    /// The commit LSN of the last sample's transaction.
    pub last_lsn: Option<Lsn>,
    /// The last sample's JSON; left out if it is no UTF-8.
    pub last: Option<String>,
}

/// Transactions that committed at an earlier time than one before them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockSteps {
    pub count: u64,
    pub largest_micros: u64,
}

/// A table that the stream described differently than before.
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

/// One transaction's place in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionEntry {
    pub commit_lsn: Lsn,
    pub end_lsn: Lsn,
    pub xid: u32,
    pub time: PgTime,
    /// The number of the block with its Begin, within the segment.
    pub block: u32,
}

/// Times as the server counts them, so that every value comes back, however odd the clock.
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
