//! The bytes of the tables in a segment's footer. See FORMAT.md. Decoding returns `None` for bytes that are cut short, and
//! for bytes that follow the end.

use super::record::{ByteReader, put_varint};
use super::summary::TransactionEntry;
use crate::history::key::Digest;
use crate::model::{Lsn, PgTime};

/// The place of a block in its segment, and the positions that the block covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockExtent {
    /// The start of the block, in bytes from the segment's start.
    pub offset: u64,
    pub raw_len: u32,
    pub stored_len: u32,
    /// The positions of the first and the last record; see FORMAT.md.
    pub first: Lsn,
    pub last: Lsn,
    /// The digest of header and payload, in a history with a key.
    pub(super) digest: Option<Digest>,
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

pub(super) fn encode_transactions(start: Lsn, transactions: &[TransactionEntry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(transactions.len() * 12 + 10);
    put_varint(&mut out, transactions.len() as u64);
    let mut last = first_entry(start);
    for entry in transactions {
        put_varint(&mut out, entry.commit_lsn.0.wrapping_sub(last.end_lsn.0));
        put_varint(&mut out, entry.end_lsn.0.wrapping_sub(entry.commit_lsn.0));
        put_varint(&mut out, zigzag(i64::from(entry.xid) - i64::from(last.xid)));
        put_varint(&mut out, zigzag(entry.time.0.wrapping_sub(last.time.0)));
        put_varint(&mut out, u64::from(entry.block.wrapping_sub(last.block)));
        last = *entry;
    }
    out
}

pub(super) fn decode_transactions(start: Lsn, bytes: &[u8]) -> Option<Vec<TransactionEntry>> {
    let mut bytes = ByteReader::new(bytes);
    let count = usize::try_from(bytes.varint()?).ok()?;
    let mut out = Vec::with_capacity(count.min(bytes.remaining() / 5));
    let mut last = first_entry(start);
    for _ in 0..count {
        let commit_lsn = Lsn(last.end_lsn.0.wrapping_add(bytes.varint()?));
        last = TransactionEntry {
            commit_lsn,
            end_lsn: Lsn(commit_lsn.0.wrapping_add(bytes.varint()?)),
            xid: i64::from(last.xid).wrapping_add(unzigzag(bytes.varint()?)) as u32,
            time: PgTime(last.time.0.wrapping_add(unzigzag(bytes.varint()?))),
            block: last.block.wrapping_add(bytes.varint()? as u32),
        };
        out.push(last);
    }
    bytes.is_empty().then_some(out)
}

fn first_entry(start: Lsn) -> TransactionEntry {
    TransactionEntry { commit_lsn: start, end_lsn: start, xid: 0, time: PgTime(0), block: 0 }
}

pub(super) fn encode_relations(messages: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, messages.len() as u64);
    for message in messages {
        put_varint(&mut out, message.len() as u64);
        out.extend(message);
    }
    out
}

pub(super) fn decode_relations(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut bytes = ByteReader::new(bytes);
    let count = bytes.varint()?;
    let messages = (0..count).map(|_| bytes.counted().map(<[u8]>::to_vec)).collect::<Option<_>>()?;
    bytes.is_empty().then_some(messages)
}

pub(super) fn encode_blocks(blocks: &[BlockExtent]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, blocks.len() as u64);
    for block in blocks {
        out.extend(block.offset.to_le_bytes());
        out.extend(block.raw_len.to_le_bytes());
        out.extend(block.stored_len.to_le_bytes());
        out.extend(block.first.0.to_le_bytes());
        out.extend(block.last.0.to_le_bytes());
    }
    out
}

pub(super) fn decode_blocks(bytes: &[u8]) -> Option<Vec<BlockExtent>> {
    let mut bytes = ByteReader::new(bytes);
    let count = bytes.varint()?;
    let mut block = || {
        Some(BlockExtent {
            offset: bytes.u64()?,
            raw_len: bytes.u32()?,
            stored_len: bytes.u32()?,
            first: Lsn(bytes.u64()?),
            last: Lsn(bytes.u64()?),
            digest: None,
        })
    };
    let blocks = (0..count).map(|_| block()).collect::<Option<_>>()?;
    bytes.is_empty().then_some(blocks)
}

/// Encodes the digest of each block, in the order of the blocks.
pub(super) fn encode_digests(blocks: &[BlockExtent]) -> Vec<u8> {
    blocks.iter().filter_map(|block| block.digest).flat_map(|digest| *digest.as_bytes()).collect()
}

/// Gives each block its digest.
pub(super) fn decode_digests(bytes: &[u8], blocks: &mut [BlockExtent]) -> Option<()> {
    let (digests, []) = bytes.as_chunks::<32>() else { return None };
    if digests.len() != blocks.len() {
        return None;
    }
    for (block, digest) in blocks.iter_mut().zip(digests) {
        block.digest = Some(Digest::from_bytes(*digest));
    }
    Some(())
}

pub(super) fn encode_relation_messages(messages: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, messages.len() as u64);
    for (block, message) in messages {
        put_varint(&mut out, u64::from(*block));
        put_varint(&mut out, message.len() as u64);
        out.extend(message);
    }
    out
}

pub(super) fn decode_relation_messages(bytes: &[u8]) -> Option<Vec<(u32, Vec<u8>)>> {
    let mut bytes = ByteReader::new(bytes);
    let count = bytes.varint()?;
    let mut message = || Some((u32::try_from(bytes.varint()?).ok()?, bytes.counted()?.to_vec()));
    let messages = (0..count).map(|_| message()).collect::<Option<_>>()?;
    bytes.is_empty().then_some(messages)
}
