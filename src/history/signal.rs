//! What backwhen writes into the source's log for itself, as logical messages.

use serde::{Deserialize, Serialize};

use super::checkpoint::SequenceState;
use crate::model::Lsn;

/// Prefix of a named moment; its content is a [`MarkSignal`].
pub const MARK: &str = "backwhen.mark";
/// Prefix of a sign of life, which ties the server's clock to its log; its content is a
/// [`HeartbeatSignal`].
pub const HEARTBEAT: &str = "backwhen.heartbeat";
/// Prefix of a [`SequenceSample`].
pub const SEQUENCES: &str = "backwhen.sequences";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkSignal {
    pub name: String,
}

/// The content of a heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatSignal {
    /// The digest of the source's definitions, read before this was written.
    #[serde(default)]
    pub fingerprint: Option<String>,
}

/// Sequences that changed since the sample before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceSample {
    /// They were read no earlier than this position.
    pub sampled: Lsn,
    /// All sequences are here, and those that are not are gone.
    #[serde(default)]
    pub complete: bool,
    pub sequences: Vec<SequenceState>,
    /// By oid.
    #[serde(default)]
    pub dropped: Vec<u32>,
}
