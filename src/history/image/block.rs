//! The bytes of one stored block of an image: header, checksum, payload.

use std::cell::RefCell;
use std::io::Read;

use super::id::{BlockId, BlockKind};
use crate::error::{Context, Error, Kind, Result};

/// The longest raw block, in bytes.
pub const MAX_RAW: u64 = 2 << 30;

/// The number of bytes before the payload.
pub const HEADER: usize = 52;

const MAGIC: &[u8; 4] = b"BWBL";
const VERSION: u8 = 1;
const CODEC_RAW: u8 = 0;
const CODEC_ZSTD: u8 = 1;
const LEVEL: i32 = 3;

/// The offset of the checksum in the header. The checksum covers all bytes before it, and the payload behind it.
const CRC_AT: usize = 48;

/// For a block of at most this many bytes, memory is taken at once; for a longer one, as decompression yields bytes.
const TRUSTED_RAW: usize = 8 << 20;

thread_local! {
    static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// A fault of a stored block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockFault {
    #[error("it is cut short")]
    Short,
    #[error("it does not begin as a block does")]
    Magic,
    #[error("it has version {0}, which this backwhen does not know; a newer one may")]
    Version(u8),
    #[error("its length does not agree with its header")]
    Length,
    #[error("its checksum does not agree with its bytes")]
    Checksum,
    #[error("its header has a kind or codec that does not exist")]
    Header,
    #[error("its payload cannot be decompressed")]
    Decompression,
    #[error("its bytes are not those of its name")]
    Digest,
}

/// Encodes `raw`, whose name is `id`, as a stored block.
///
/// # Errors
/// `Refused` if `raw` is longer than [`MAX_RAW`].
pub fn encode(kind: BlockKind, id: &BlockId, raw: &[u8]) -> Result<Vec<u8>> {
    if raw.len() as u64 > MAX_RAW {
        return Err(Error::refused(format!(
            "a block of {} bytes is longer than the {MAX_RAW} that a history can hold",
            raw.len()
        )));
    }
    let compressed = compress(raw).context(Kind::Internal, || "cannot compress a block".into())?;
    let (codec, payload) =
        if compressed.len() < raw.len() { (CODEC_ZSTD, &compressed[..]) } else { (CODEC_RAW, raw) };
    let mut stored = Vec::with_capacity(HEADER + payload.len());
    stored.extend_from_slice(MAGIC);
    stored.extend_from_slice(&[VERSION, kind as u8, codec, 0]);
    stored.extend_from_slice(&(raw.len() as u32).to_le_bytes());
    stored.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    stored.extend_from_slice(&id.0);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&stored), payload);
    stored.extend_from_slice(&crc.to_le_bytes());
    stored.extend_from_slice(payload);
    Ok(stored)
}

/// Decodes the stored block `id` and checks everything. Returns its kind and its raw bytes.
///
/// # Errors
/// Fails with the first fault.
pub fn decode(id: &BlockId, stored: &[u8]) -> Result<(BlockKind, Vec<u8>), BlockFault> {
    let Some((header, payload)) = stored.split_at_checked(HEADER) else {
        return Err(BlockFault::Short);
    };
    if &header[..4] != MAGIC {
        return Err(BlockFault::Magic);
    }
    if header[4] != VERSION {
        return Err(BlockFault::Version(header[4]));
    }
    let raw_len = number(header, 8);
    if number(header, 12) as usize != payload.len() || u64::from(raw_len) > MAX_RAW {
        return Err(BlockFault::Length);
    }
    if number(header, CRC_AT) != crc32c::crc32c_append(crc32c::crc32c(&header[..CRC_AT]), payload) {
        return Err(BlockFault::Checksum);
    }
    let kind = BlockKind::from_number(header[5]).ok_or(BlockFault::Header)?;
    let raw = match header[6] {
        CODEC_RAW => payload.to_vec(),
        CODEC_ZSTD => decompress(payload, raw_len as usize).map_err(|_| BlockFault::Decompression)?,
        _ => return Err(BlockFault::Header),
    };
    if raw.len() != raw_len as usize {
        return Err(BlockFault::Length);
    }
    if header[16..CRC_AT] != id.0 || BlockId::of(&raw) != *id {
        return Err(BlockFault::Digest);
    }
    Ok((kind, raw))
}

/// Reads the little-endian number at `at`, which lies inside the header.
fn number(header: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

/// Making a context takes long beside compressing a block, so each thread keeps one.
fn compress(raw: &[u8]) -> std::io::Result<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Some(zstd::bulk::Compressor::new(LEVEL)?);
        }
        slot.as_mut().expect("made above").compress(raw)
    })
}

fn decompress(payload: &[u8], raw_len: usize) -> std::io::Result<Vec<u8>> {
    if raw_len > TRUSTED_RAW {
        let mut raw = Vec::new();
        zstd::stream::read::Decoder::new(payload)?.take(raw_len as u64 + 1).read_to_end(&mut raw)?;
        return Ok(raw);
    }
    DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Some(zstd::bulk::Decompressor::new()?);
        }
        slot.as_mut().expect("made above").decompress(payload, raw_len)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(raw: &[u8]) -> (BlockId, Vec<u8>) {
        let id = BlockId::of(raw);
        (id, encode(BlockKind::Rows, &id, raw).unwrap())
    }

    #[test]
    fn a_block_comes_back_whatever_its_length() {
        let noise: Vec<u8> = (0..5000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let long = vec![b'x'; TRUSTED_RAW + 1];
        for raw in [&b""[..], b"a", b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n", &noise, &long] {
            let (id, bytes) = stored(raw);
            assert!(bytes.len() <= HEADER + raw.len());
            assert_eq!(decode(&id, &bytes), Ok((BlockKind::Rows, raw.to_vec())));
        }
    }

    #[test]
    fn no_flipped_bit_and_no_cut_passes() {
        for raw in [&b"1\tone\n2\ttwo\n"[..], &b"3\tthree\n".repeat(20)] {
            let (id, bytes) = stored(raw);
            for at in 0..bytes.len() {
                assert!(decode(&id, &bytes[..at]).is_err());
                for bit in 0..8 {
                    let mut damaged = bytes.clone();
                    damaged[at] ^= 1 << bit;
                    assert!(decode(&id, &damaged).is_err(), "byte {at} bit {bit}");
                }
            }
        }
    }

    #[test]
    fn a_block_under_another_name_is_refused() {
        let (_, bytes) = stored(b"row\n");
        assert_eq!(decode(&BlockId::of(b"other\n"), &bytes), Err(BlockFault::Digest));
    }

    #[test]
    fn a_length_that_lies_takes_no_memory() {
        let raw = vec![b'x'; 100_000];
        let (id, mut bytes) = stored(&raw);
        bytes[8..12].copy_from_slice(&(MAX_RAW as u32).to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..CRC_AT]), &bytes[HEADER..]);
        bytes[CRC_AT..HEADER].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode(&id, &bytes), Err(BlockFault::Length));
    }
}
