//! A digest of a set of rows that does not depend on their order.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

/// The sum, modulo 2^128, of XXH3-128 of every line without its newline.
///
/// The digest finds mistakes and damage, but is no defence against somebody who chooses the rows. It is written as 32
/// hexadecimal digits. The digest of no rows is zero.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RowsDigest(pub u128);

impl RowsDigest {
    /// Counts one more row, given without its newline.
    pub fn add(&mut self, line: &[u8]) {
        self.0 = self.0.wrapping_add(XxHash3_128::oneshot(line));
    }

    /// Takes away a row that was counted, given without its newline.
    pub fn remove(&mut self, line: &[u8]) {
        self.0 = self.0.wrapping_sub(XxHash3_128::oneshot(line));
    }

    /// Counts all rows that `other` has counted.
    pub fn merge(&mut self, other: RowsDigest) {
        self.0 = self.0.wrapping_add(other.0);
    }
}

impl fmt::Display for RowsDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for RowsDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The error that a text is not 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a digest of rows is 32 hexadecimal digits")]
pub struct BadRowsDigest;

impl FromStr for RowsDigest {
    type Err = BadRowsDigest;

    fn from_str(text: &str) -> Result<RowsDigest, BadRowsDigest> {
        // The parser of numbers would accept a sign.
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(BadRowsDigest);
        }
        u128::from_str_radix(text, 16).map(RowsDigest).map_err(|_| BadRowsDigest)
    }
}

impl TryFrom<String> for RowsDigest {
    type Error = BadRowsDigest;

    fn try_from(text: String) -> Result<RowsDigest, BadRowsDigest> {
        text.parse()
    }
}

impl From<RowsDigest> for String {
    fn from(digest: RowsDigest) -> String {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&[u8]]) -> RowsDigest {
        let mut digest = RowsDigest::default();
        lines.iter().for_each(|line| digest.add(line));
        digest
    }

    #[test]
    fn the_order_does_not_matter_but_the_number_does() {
        assert_eq!(of(&[b"a", b"b", b"c"]), of(&[b"c", b"a", b"b"]));
        assert_ne!(of(&[b"a", b"a"]), of(&[b"a"]));
        assert_ne!(of(&[b"ab"]), of(&[b"a", b"b"]));
        let mut merged = of(&[b"a"]);
        merged.merge(of(&[b"b", b"c"]));
        assert_eq!(merged, of(&[b"a", b"b", b"c"]));
        merged.remove(b"b");
        assert_eq!(merged, of(&[b"a", b"c"]));
    }

    #[test]
    fn a_digest_survives_text() {
        let digest = RowsDigest(7);
        assert_eq!(digest.to_string(), "00000000000000000000000000000007");
        assert_eq!(digest.to_string().parse::<RowsDigest>().unwrap(), digest);
        assert!("+0000000000000000000000000000007".parse::<RowsDigest>().is_err());
        assert_eq!(serde_json::to_string(&digest).unwrap(), format!("\"{digest}\""));
    }
}
