//! Reads packs. A pack is an object of stored blocks, with the list of these blocks at its end.

use std::io::ErrorKind;

use super::block::{self, MAX_RAW};
use super::id::{BlockId, BlockKind};
use crate::error::{Error, Result};
use crate::store::{Object, ObjectKind, ObjectName, Store, cannot_read};

/// The first bytes of every pack: a magic word and the version.
pub const HEAD: [u8; 8] = *b"BWPK\x01\0\0\0";

const TAIL_MAGIC: &[u8; 8] = b"BWPKTAIL";
const TAIL: usize = 24;
const ENTRY: usize = 49;

/// Returns the name of the object that is the pack `name`.
pub fn object(name: &str) -> ObjectName {
    ObjectName::new(ObjectKind::Pack, name)
}

/// Returns the name of a pack whose list of blocks has these bytes, which is half of their BLAKE3 digest.
pub fn name(list: &[u8]) -> String {
    blake3::hash(list).to_hex()[..32].to_owned()
}

/// Whether a pack can be called `name`: 32 hexadecimal digits, so that no path can hide in the name.
pub fn is_name(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// One block in a pack's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackEntry {
    pub id: BlockId,
    pub kind: BlockKind,
    /// The offset of the stored block in the pack, in bytes.
    pub offset: u64,
    /// The bytes of the stored block, with its header.
    pub stored_len: u32,
    /// The bytes of the block when it is decoded.
    pub raw_len: u32,
}

/// Returns the size of a pack with this number of blocks, which take so many stored bytes.
pub fn size_of(blocks: u64, bytes: u64) -> u64 {
    (HEAD.len() + TAIL) as u64 + bytes + blocks * ENTRY as u64
}

/// Encodes the list of blocks, and the tail that stands behind it.
pub fn encode_list(entries: &[PackEntry]) -> (Vec<u8>, [u8; TAIL]) {
    let mut list = Vec::with_capacity(entries.len() * ENTRY);
    for entry in entries {
        list.extend_from_slice(&entry.id.0);
        list.push(entry.kind as u8);
        list.extend_from_slice(&entry.offset.to_le_bytes());
        list.extend_from_slice(&entry.stored_len.to_le_bytes());
        list.extend_from_slice(&entry.raw_len.to_le_bytes());
    }
    let mut tail = [0; TAIL];
    tail[..8].copy_from_slice(&(list.len() as u64).to_le_bytes());
    tail[8..12].copy_from_slice(&HEAD[4..]);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&list), &tail[..12]);
    tail[12..16].copy_from_slice(&crc.to_le_bytes());
    tail[16..].copy_from_slice(TAIL_MAGIC);
    (list, tail)
}

/// Decodes the list; `None` unless the entries cover the pack from its head to `end` without a hole.
fn decode_list(list: &[u8], end: u64) -> Option<Vec<PackEntry>> {
    let mut entries = Vec::with_capacity(list.len() / ENTRY);
    let mut next = HEAD.len() as u64;
    for bytes in list.chunks(ENTRY) {
        let entry = decode_entry(bytes)?;
        if entry.offset != next || u64::from(entry.raw_len) > MAX_RAW {
            return None;
        }
        next += u64::from(entry.stored_len);
        entries.push(entry);
    }
    (next == end).then_some(entries)
}

fn decode_entry(bytes: &[u8]) -> Option<PackEntry> {
    let (id, rest) = bytes.split_first_chunk::<32>()?;
    let (&kind, rest) = rest.split_first()?;
    let (offset, rest) = rest.split_first_chunk::<8>()?;
    let (stored_len, rest) = rest.split_first_chunk::<4>()?;
    let raw_len = rest.first_chunk::<4>()?;
    Some(PackEntry {
        id: BlockId(*id),
        kind: BlockKind::from_number(kind)?,
        offset: u64::from_le_bytes(*offset),
        stored_len: u32::from_le_bytes(*stored_len),
        raw_len: u32::from_le_bytes(*raw_len),
    })
}

/// An open pack of which nothing is believed yet.
pub struct PackFile {
    place: String,
    object: Box<dyn Object>,
}

impl PackFile {
    /// Opens a pack.
    ///
    /// # Errors
    /// `Damaged` if the pack is not there, `Unavailable` if it cannot be opened.
    pub fn open(store: &dyn Store, name: &ObjectName) -> Result<PackFile> {
        let place = store.locate(name);
        let object = store.open(name)?.ok_or_else(|| damaged(&place, "it is not there"))?;
        Ok(PackFile { place, object })
    }

    /// Reads the block `id` that stands at `offset` and checks everything. Returns its kind and its raw bytes.
    ///
    /// # Errors
    /// `Damaged`, naming the pack and the block; `Unavailable` if the store does not answer.
    pub fn read_block(&self, id: &BlockId, offset: u64, stored_len: u64) -> Result<(BlockKind, Vec<u8>)> {
        self.read_stored(id, offset, stored_len).map(|(_, block)| block)
    }

    /// Reads a block as it is stored, and decodes it.
    fn read_stored(&self, id: &BlockId, offset: u64, len: u64) -> Result<(Vec<u8>, (BlockKind, Vec<u8>))> {
        let stored = self.read(offset, len).context_block(&self.place, id)?;
        let decoded = block::decode(id, &stored);
        let (kind, raw) = decoded.map_err(|fault| block_damaged(&self.place, id).caused_by(fault))?;
        Ok((stored, (kind, raw)))
    }

    /// Reads the bytes of a stretch; `None` if it reaches beyond the pack.
    fn read(&self, offset: u64, len: u64) -> Result<Option<Vec<u8>>> {
        if offset.checked_add(len).is_none_or(|end| end > self.object.size()) {
            return Ok(None);
        }
        let mut bytes = vec![0; len as usize];
        match self.object.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(cannot_read(&format!("pack {}", self.place), error)),
        }
    }
}

trait BlockContext {
    fn context_block(self, place: &str, id: &BlockId) -> Result<Vec<u8>>;
}

impl BlockContext for Result<Option<Vec<u8>>> {
    fn context_block(self, place: &str, id: &BlockId) -> Result<Vec<u8>> {
        self?.ok_or_else(|| block_damaged(place, id).caused_by("the pack ends before it"))
    }
}

fn block_damaged(place: &str, id: &BlockId) -> Error {
    damaged(place, &format!("its block {id} cannot be used"))
}

fn damaged(place: &str, fault: &str) -> Error {
    Error::damage_met(format_args!("pack {place} is damaged: {fault}"))
}

/// An open pack with its list of blocks.
pub struct PackReader {
    file: PackFile,
    /// The name that the list of blocks gives the pack.
    name: String,
    entries: Vec<PackEntry>,
}

impl PackReader {
    /// Opens a pack and reads its list, which must be whole and fit the length of the pack.
    ///
    /// # Errors
    /// `Damaged` if the list is not as it must be, `Unavailable` if the store does not answer.
    pub fn open(store: &dyn Store, name: &ObjectName) -> Result<PackReader> {
        let file = PackFile::open(store, name)?;
        let fault = |fault: &str| damaged(&file.place, fault);
        let head = file.read(0, HEAD.len() as u64)?.ok_or_else(|| fault("it is cut short"))?;
        if head[..4] != HEAD[..4] {
            return Err(fault("it does not begin as a pack does"));
        }
        if head != HEAD {
            return Err(fault("its version is one that this backwhen does not know; a newer one may"));
        }
        let list = read_list(&file)?;
        let end = file.object.size() - (TAIL + list.len()) as u64;
        let entries =
            decode_list(&list, end).ok_or_else(|| fault("its list of blocks does not fit its length"))?;
        Ok(PackReader { file, name: self::name(&list), entries })
    }

    /// Returns the name that a pack with this list must have.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Checks the name of the pack.
    ///
    /// # Errors
    /// `Damaged` if the pack is called by another name than its blocks give it.
    pub fn check_name(&self, name: &ObjectName) -> Result<()> {
        if name.stem() == self.name {
            return Ok(());
        }
        Err(damaged(&self.file.place, &format!("its blocks give it the name {}", self.name)))
    }

    /// Returns how many bytes the pack has.
    pub fn size(&self) -> u64 {
        self.file.object.size()
    }

    /// Returns the blocks in the order in which they lie in the pack.
    pub fn entries(&self) -> &[PackEntry] {
        &self.entries
    }

    /// Reads one of [`PackReader::entries`] as it is stored, and checks everything.
    ///
    /// # Errors
    /// Fails as [`PackReader::read`] does.
    pub fn read_stored(&self, entry: &PackEntry) -> Result<Vec<u8>> {
        self.read_checked(entry).map(|(stored, _)| stored)
    }

    /// Reads the raw bytes of one of [`PackReader::entries`], and checks everything.
    ///
    /// # Errors
    /// `Damaged`, naming the pack and the block; `Unavailable` if the store does not answer.
    pub fn read(&self, entry: &PackEntry) -> Result<Vec<u8>> {
        self.read_checked(entry).map(|(_, raw)| raw)
    }

    /// Reads a block, and returns its stored bytes and its raw bytes.
    fn read_checked(&self, entry: &PackEntry) -> Result<(Vec<u8>, Vec<u8>)> {
        let (stored, (kind, raw)) =
            self.file.read_stored(&entry.id, entry.offset, entry.stored_len.into())?;
        if kind != entry.kind || raw.len() as u64 != u64::from(entry.raw_len) {
            return Err(
                block_damaged(&self.file.place, &entry.id).caused_by("it differs from its entry in the list")
            );
        }
        Ok((stored, raw))
    }
}

/// Reads the bytes of the list, and checks them against the tail.
fn read_list(file: &PackFile) -> Result<Vec<u8>> {
    let fault = |fault: &str| damaged(&file.place, fault);
    let short = || fault("it is cut short, or its end is overwritten");
    let tail_at = file.object.size().checked_sub(TAIL as u64).ok_or_else(short)?;
    let tail = file.read(tail_at, TAIL as u64)?.ok_or_else(short)?;
    let (len, rest) = tail.split_first_chunk::<8>().ok_or_else(short)?;
    let len = u64::from_le_bytes(*len);
    if &tail[16..] != TAIL_MAGIC {
        return Err(short());
    }
    let list_at = tail_at.checked_sub(len).filter(|&at| at >= HEAD.len() as u64).ok_or_else(short)?;
    let list = file.read(list_at, len)?.ok_or_else(short)?;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&list), &tail[..12]);
    if rest[4..8] != crc.to_le_bytes() || rest[..4] != HEAD[4..] {
        return Err(fault("the checksum of its list of blocks does not agree"));
    }
    Ok(list)
}
