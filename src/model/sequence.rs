//! The positions of sequences.

use serde::{Deserialize, Serialize};

/// A sequence as it stood when it was sampled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceState {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub last_value: i64,
    pub is_called: bool,
    /// The increment; negative for a sequence that counts down.
    pub increment: i64,
    /// The column that the sequence fills (`serial`, identity), if any.
    #[serde(default)]
    pub owner: Option<SequenceOwner>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceOwner {
    pub schema: String,
    pub table: String,
    pub column: String,
}
