//! The index of a table: the list of its blocks, and the bytes of that list.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::digest::RowsDigest;
use super::id::BlockId;

const VERSION: u8 = 1;

/// The fewest bytes that an entry can have: two digests and four numbers.
const SHORTEST: usize = 32 + 16 + 4;

/// The image of a table, as a checkpoint names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableImage {
    /// The block that lists the table's blocks.
    pub index: BlockId,
    pub rows: u64,
    /// The bytes of all lines with their newlines.
    pub bytes: u64,
    pub digest: RowsDigest,
}

/// One block of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockEntry {
    pub id: BlockId,
    pub rows: u64,
    /// The bytes of the lines with their newlines.
    pub raw_len: u64,
    pub digest: RowsDigest,
    /// The key of the first row. The keys of the other rows reach up to the first key of the next block, and equal it only
    /// where the hard maximum has cut between equal keys.
    pub first_key: Vec<u8>,
}

/// Returns the blocks in which rows with `key` lie or belong, which is empty only if the table has no blocks.
///
/// A key before the first key of all belongs to the first block.
pub fn covering(entries: &[BlockEntry], key: &[u8]) -> Range<usize> {
    let before = entries.partition_point(|entry| entry.first_key.as_slice() < key);
    let upto = entries.partition_point(|entry| entry.first_key.as_slice() <= key);
    before.saturating_sub(1)..upto.max(1).min(entries.len())
}

/// The reason why bytes are no index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexFault {
    #[error("it is empty")]
    Empty,
    #[error("it has version {0}, which this backwhen does not know; a newer one may")]
    Version(u8),
    #[error("it is cut short, or a number in it is too large")]
    Short,
    #[error("bytes follow its end")]
    Rest,
    #[error("its keys are not in order")]
    Order,
}

/// Encodes an index, as FORMAT.md says.
pub fn encode(entries: &[BlockEntry]) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    put_number(&mut bytes, entries.len() as u64);
    let mut last: &[u8] = &[];
    for entry in entries {
        let key = entry.first_key.as_slice();
        let common = last.iter().zip(key).take_while(|(a, b)| a == b).count();
        bytes.extend_from_slice(&entry.id.0);
        bytes.extend_from_slice(&entry.digest.0.to_le_bytes());
        put_number(&mut bytes, entry.rows);
        put_number(&mut bytes, entry.raw_len);
        put_number(&mut bytes, common as u64);
        put_number(&mut bytes, (key.len() - common) as u64);
        bytes.extend_from_slice(&key[common..]);
        last = key;
    }
    bytes
}

/// Decodes the entries of an index.
///
/// # Errors
/// Fails with the first fault.
pub fn decode(bytes: &[u8]) -> Result<Vec<BlockEntry>, IndexFault> {
    let (&version, mut rest) = bytes.split_first().ok_or(IndexFault::Empty)?;
    if version != VERSION {
        return Err(IndexFault::Version(version));
    }
    let count = take_number(&mut rest)?;
    if count > (rest.len() / SHORTEST) as u64 {
        return Err(IndexFault::Short);
    }
    let mut entries: Vec<BlockEntry> = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let last = entries.last().map_or(&[][..], |entry| &entry.first_key);
        let entry = take_entry(&mut rest, last)?;
        if entry.first_key.as_slice() < last {
            return Err(IndexFault::Order);
        }
        entries.push(entry);
    }
    if rest.is_empty() { Ok(entries) } else { Err(IndexFault::Rest) }
}

fn take_entry(rest: &mut &[u8], last_key: &[u8]) -> Result<BlockEntry, IndexFault> {
    let id = BlockId(*take_array(rest)?);
    let digest = RowsDigest(u128::from_le_bytes(*take_array(rest)?));
    let rows = take_number(rest)?;
    let raw_len = take_number(rest)?;
    let common = usize::try_from(take_number(rest)?).map_err(|_| IndexFault::Short)?;
    let own = usize::try_from(take_number(rest)?).map_err(|_| IndexFault::Short)?;
    let common = last_key.get(..common).ok_or(IndexFault::Short)?;
    let (own, after) = rest.split_at_checked(own).ok_or(IndexFault::Short)?;
    *rest = after;
    Ok(BlockEntry { id, rows, raw_len, digest, first_key: [common, own].concat() })
}

fn take_array<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], IndexFault> {
    let (array, after) = rest.split_first_chunk().ok_or(IndexFault::Short)?;
    *rest = after;
    Ok(array)
}

/// Writes seven bits of the number to each byte, the lowest first. The highest bit of a byte says that more bytes follow.
fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take_number(rest: &mut &[u8]) -> Result<u64, IndexFault> {
    let mut number = 0u64;
    for shift in (0..63).step_by(7) {
        let (&byte, after) = rest.split_first().ok_or(IndexFault::Short)?;
        *rest = after;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(IndexFault::Short)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(keys: &[&str]) -> Vec<BlockEntry> {
        keys.iter()
            .enumerate()
            .map(|(n, key)| BlockEntry {
                id: BlockId::of(key.as_bytes()),
                rows: n as u64 * 1000,
                raw_len: 1 << n,
                digest: RowsDigest(u128::MAX - n as u128),
                first_key: key.as_bytes().to_vec(),
            })
            .collect()
    }

    #[test]
    fn an_index_comes_back() {
        for keys in [&[][..], &[""], &["", "a", "ab", "abc", "abd", "b", "b", "c"]] {
            let entries = entries(keys);
            assert_eq!(decode(&encode(&entries)), Ok(entries));
        }
    }

    #[test]
    fn bytes_that_are_no_index_are_refused_without_panic() {
        let bytes = encode(&entries(&["abc", "abd", "b"]));
        for at in 0..bytes.len() {
            assert!(decode(&bytes[..at]).is_err());
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                let _ = decode(&damaged);
            }
        }
        assert_eq!(decode(&[&bytes[..], b"x"].concat()), Err(IndexFault::Rest));
        assert_eq!(decode(&encode(&entries(&["b", "a"]))), Err(IndexFault::Order));
        assert_eq!(decode(&[1, 255, 255, 255, 255, 255, 255, 255, 255, 127]), Err(IndexFault::Short));
    }

    #[test]
    fn a_key_is_looked_for_where_it_may_lie() {
        let entries = entries(&["b", "d", "d", "f"]);
        assert_eq!(covering(&entries, b"a"), 0..1);
        assert_eq!(covering(&entries, b"b"), 0..1);
        assert_eq!(covering(&entries, b"c"), 0..1);
        assert_eq!(covering(&entries, b"d"), 0..3);
        assert_eq!(covering(&entries, b"e"), 2..3);
        assert_eq!(covering(&entries, b"z"), 3..4);
        assert_eq!(covering(&[], b"z"), 0..0);
    }
}
