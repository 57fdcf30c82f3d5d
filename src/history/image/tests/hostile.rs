//! Hostile bytes for packs, blocks and indexes, with the checksums made right.

use super::super::block::{self, HEADER};
use super::super::pack::{self, PackReader, object};
use super::super::{BlockId, BlockKind, index};
use super::{Path, Store, build, line, packs, put_row};
use crate::hostile::throw;
use crate::store::{MemoryStore, ObjectName};

/// The packs of version 1, and a small one.
fn pack_bytes() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let writer = packs(folder.path());
    let mut table = super::Table::new();
    (0..200).for_each(|key| put_row(&mut table, line(key * 3, "some text")));
    build(&writer, &table);
    writer.finish().unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/formats/image-v1");
    let folders = [fixtures, folder.path().join("packs")];
    let mut paths: Vec<_> = folders
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "pack"))
        .collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// A store with one pack of these bytes.
fn store_of(bytes: &[u8]) -> (MemoryStore, ObjectName) {
    let (store, name) = (MemoryStore::default(), object("some"));
    store.put_new(&name, bytes).unwrap();
    (store, name)
}

/// Every stored block of those packs, and its raw bytes.
fn blocks() -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut blocks = Vec::new();
    for bytes in pack_bytes() {
        let (store, name) = store_of(&bytes);
        let reader = PackReader::open(&store, &name).unwrap();
        for entry in reader.entries() {
            let stored = bytes[entry.offset as usize..][..entry.stored_len as usize].to_vec();
            blocks.push((stored, reader.read(entry).unwrap()));
        }
    }
    blocks
}

/// Lengths and checksum of a stored block made right.
fn resealed_block(stored: &[u8]) -> Vec<u8> {
    let mut stored = stored.to_vec();
    if stored.len() >= HEADER {
        let len = (stored.len() - HEADER) as u32;
        stored[12..16].copy_from_slice(&len.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&stored[..48]), &stored[HEADER..]);
        stored[48..HEADER].copy_from_slice(&crc.to_le_bytes());
    }
    stored
}

fn read_pack(bytes: &[u8]) -> String {
    let (store, name) = store_of(bytes);
    let check = super::super::verify_pack(&store, &name).unwrap();
    check.faults.iter().map(|fault| fault.rsplit("damaged").next().unwrap_or_default()).collect()
}

/// The tail of a pack made right for a list of so many bytes.
fn resealed_pack(bytes: &[u8]) -> Vec<u8> {
    let Some(tail) = bytes.len().checked_sub(24) else { return bytes.to_vec() };
    let mut bytes = bytes.to_vec();
    let len = u64::from_le_bytes(bytes[tail..tail + 8].try_into().unwrap());
    let Some(list) = usize::try_from(len).ok().and_then(|len| tail.checked_sub(len)) else { return bytes };
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[list..tail]), &bytes[tail..tail + 12]);
    bytes[tail + 12..tail + 16].copy_from_slice(&crc.to_le_bytes());
    bytes[tail + 16..].copy_from_slice(b"BWPKTAIL");
    bytes
}

#[test]
fn packs_of_any_bytes() {
    throw("pack", pack_bytes(), read_pack);
    throw("pack-with-right-checksum", pack_bytes(), |bytes| read_pack(&resealed_pack(bytes)));
    assert!(pack::is_name("0123456789abcdef0123456789abcdef") && !pack::is_name("../etc/passwd"));
}

#[test]
fn blocks_and_indexes_of_any_bytes() {
    let (stored, raw): (Vec<_>, Vec<_>) = blocks().into_iter().unzip();
    throw("stored-block", stored, |stored| {
        let stored = resealed_block(stored);
        let id = stored.get(16..48).map(|id| BlockId(id.try_into().unwrap()));
        format!("{:?}", block::decode(&id.unwrap_or(BlockId::of(b"")), &stored).map(|(kind, _)| kind))
    });
    throw("index-block", raw, |raw| {
        let entries = index::decode(raw);
        let found = entries.as_ref().map(|entries| index::covering(entries, b"key"));
        format!("{found:?} {:?}", BlockKind::from_number(raw.first().copied().unwrap_or(0)))
    });
}
