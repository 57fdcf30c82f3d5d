//! Names and kinds of blocks.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A block's name: the BLAKE3 digest of its raw bytes, which is written as 64 hexadecimal digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BlockId(pub [u8; 32]);

impl BlockId {
    /// Returns the name of the block that holds exactly `raw`.
    pub fn of(raw: &[u8]) -> BlockId {
        BlockId(*blake3::hash(raw).as_bytes())
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The error that a text is not 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a block's name is 64 hexadecimal digits")]
pub struct BadBlockId;

impl FromStr for BlockId {
    type Err = BadBlockId;

    fn from_str(text: &str) -> Result<BlockId, BadBlockId> {
        let hash = blake3::Hash::from_hex(text).map_err(|_| BadBlockId)?;
        Ok(BlockId(*hash.as_bytes()))
    }
}

impl TryFrom<String> for BlockId {
    type Error = BadBlockId;

    fn try_from(text: String) -> Result<BlockId, BadBlockId> {
        text.parse()
    }
}

impl From<BlockId> for String {
    fn from(id: BlockId) -> String {
        id.to_string()
    }
}

/// The kind of a block's content, with the number that stands in the stored block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// COPY text lines of one table, sorted by key.
    Rows = 1,
    /// The list of a table's blocks.
    Index = 2,
    /// Other content of a checkpoint.
    Other = 3,
}

impl BlockKind {
    /// Returns the kind with this number; `None` if there is no such kind.
    pub fn from_number(number: u8) -> Option<BlockKind> {
        match number {
            1 => Some(BlockKind::Rows),
            2 => Some(BlockKind::Index),
            3 => Some(BlockKind::Other),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_survives_text_and_json() {
        let id = BlockId::of(b"row\n");
        assert_eq!(id.to_string().parse::<BlockId>().unwrap(), id);
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, format!("\"{id}\""));
        assert_eq!(serde_json::from_str::<BlockId>(&json).unwrap(), id);
        assert!("12".parse::<BlockId>().is_err());
        assert!(serde_json::from_str::<BlockId>("\"zz\"").is_err());
    }
}
