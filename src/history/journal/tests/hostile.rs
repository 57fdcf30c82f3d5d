//! Hostile bytes for everything that the journal reads from disk, with the checksums made right, so
//! that what lies behind them is met.

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;

use super::super::BlockBuilder;
use super::super::block::{self, HEADER_LEN as BLOCK_HEADER};
use super::super::columns;
use super::super::footer::{Footer, TRAILER_LEN, trailer_head, trailer_tail};
use super::super::index::Index;
use super::super::name::HEADER_LEN;
use super::super::peek::peek;
use super::super::record::Records;
use super::super::sections;
use super::paths::{
    folder_in, open_segment, open_segment_end, roll, scan_segment, seal, segments, verify_segment,
};
use super::stream::{drain, open, random};
use crate::history::key::Authorship;
use crate::hostile::throw;
use crate::model::Lsn;

/// The files of version 1, with a key and without, and those of a small random stream: sealed ones, and open
/// ones.
fn files(ending: &str) -> Vec<Vec<u8>> {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/formats");
    let folders = ["journal-v1", "keyed-v1/journal"].map(|name| fs::read_dir(fixtures.join(name)).unwrap());
    let mut paths: Vec<_> = folders.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    let folder = tempfile::tempdir().unwrap();
    let (mut writer, recovered) = open(folder.path());
    let mut builder = BlockBuilder::with_size(recovered.frontier, 500);
    for (number, item) in random(5, 40, 10).iter().enumerate() {
        item.push(&mut builder);
        drain(&mut builder, &mut writer);
        writer.sync().unwrap();
        if number == 20 {
            seal(&roll(&mut writer), &Authorship::Unkeyed).unwrap();
        }
    }
    paths.extend(segments(folder.path()));
    paths.retain(|path| path.extension().is_some_and(|it| it == ending));
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// The records of every block of those files.
fn raws() -> Vec<Vec<u8>> {
    let mut raws = Vec::new();
    for bytes in files("seg").into_iter().chain(files("open")) {
        let mut at = HEADER_LEN as u64;
        while let Ok(read) = block::read(&bytes, at, bytes.len() as u64 - at, None) {
            at += read.header.whole_len();
            raws.push(read.raw);
        }
    }
    raws
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Makes every checksum right again: the header's, each block's as far as blocks can be found, and for
/// a sealed file the footer's and the digest.
pub(super) fn resealed(bytes: &[u8], sealed: bool) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if bytes.len() < HEADER_LEN {
        return bytes;
    }
    let crc = crc32c::crc32c(&bytes[..HEADER_LEN - 4]);
    bytes[HEADER_LEN - 4..HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
    let mut at = HEADER_LEN;
    while at + BLOCK_HEADER <= bytes.len() && bytes[at..at + 4] == block::MAGIC {
        let tag = if bytes[at + 5] & block::TAGGED != 0 { 32 } else { 0 };
        let end = at + BLOCK_HEADER + u32_at(&bytes, at + 12) as usize + tag;
        if end > bytes.len() {
            break;
        }
        let crc = crc32c::crc32c(&bytes[at..at + BLOCK_HEADER - 4]);
        let crc = crc32c::crc32c_append(crc, &bytes[at + BLOCK_HEADER..end]);
        bytes[at + BLOCK_HEADER - 4..at + BLOCK_HEADER].copy_from_slice(&crc.to_le_bytes());
        at = end;
    }
    if sealed && bytes.len() >= at + TRAILER_LEN {
        // All between the blocks and the trailer is the footer.
        let end = bytes.len() - TRAILER_LEN;
        let head = trailer_head(at as u64, &bytes[at..end]);
        bytes.truncate(end);
        bytes.extend(head);
        let digest = *blake3::hash(&bytes).as_bytes();
        bytes.extend(trailer_tail(digest));
    }
    bytes
}

/// Writes the bytes as a segment, and reads it in every way in which one is read.
fn read_segment(bytes: &[u8], ending: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let start = match bytes.get(32..40) {
        Some(start) => u64::from_le_bytes(start.try_into().unwrap()),
        None => 0,
    };
    let epoch = bytes.get(28..32).map_or(1, |epoch| u32::from_le_bytes(epoch.try_into().unwrap()));
    let path = folder_in(folder.path()).join(format!("{epoch:04}-{start:016x}.{ending}"));
    fs::write(&path, bytes).unwrap();
    let mut outcome = match verify_segment(&path, &Authorship::Unkeyed) {
        Ok(report) => report.faults.join(", "),
        Err(error) => error.message().replace(&folder.path().display().to_string(), ""),
    };
    if ending == "open" {
        outcome += &format!("{}", open_segment_end(&path, &Authorship::Unkeyed).is_ok());
    }
    // Without the second look that a writer at work would deserve.
    let opened = if ending == "open" {
        scan_segment(&path, &Authorship::Unkeyed)
    } else {
        open_segment(&path, &Authorship::Unkeyed)
    };
    match opened {
        Err(error) => outcome += &format!("{:?}", error.kind()),
        Ok(segment) => {
            let (after, until) = (Lsn(start.saturating_add(100)), segment.summary().end);
            for (after, until) in [(Lsn::ZERO, Lsn::MAX), (after, until)] {
                let read = segment.read(after, until, &mut |_| Ok(ControlFlow::Continue(())));
                outcome += &format!("{}", read.is_ok());
            }
        }
    }
    outcome
}

#[test]
fn sealed_segments() {
    throw("sealed-segment", files("seg"), |bytes| read_segment(bytes, "seg"));
    throw("sealed-segment-with-right-checksums", files("seg"), |bytes| {
        read_segment(&resealed(bytes, true), "seg")
    });
}

#[test]
fn open_segments() {
    throw("open-segment", files("open"), |bytes| read_segment(bytes, "open"));
    throw("open-segment-with-right-checksums", files("open"), |bytes| {
        read_segment(&resealed(bytes, false), "open")
    });
}

#[test]
fn records_and_messages() {
    throw("records", raws(), |raw| {
        let records: Vec<_> = Records::new(raw).map(|record| record.is_ok()).collect();
        let turned = columns::turn(raw);
        if let Some(turned) = &turned {
            assert_eq!(columns::turn_back(turned, raw.len()).as_deref(), Some(raw));
        }
        let start = raw.iter().position(|&byte| byte == b'B').and_then(|at| peek(&raw[at..]));
        format!("{:?} {} {}", records.last(), turned.is_some(), start.is_some())
    });
}

#[test]
fn turned_records() {
    let mut seeds: Vec<_> = raws().iter().filter_map(|raw| columns::turn(raw)).collect();
    // The first four bytes say how long the records are.
    for seed in &mut seeds {
        let len = columns::turn_back(seed, 0).map_or(2000u32, |raw| raw.len() as u32);
        seed.splice(0..0, len.to_le_bytes());
    }
    throw("turned-records", seeds, |bytes| {
        let Some((len, turned)) = bytes.split_first_chunk::<4>() else { return String::new() };
        format!("{:?}", columns::turn_back(turned, u32::from_le_bytes(*len) as usize).is_some())
    });
}

#[test]
fn an_index_of_any_records() {
    throw("index", raws(), |raw| {
        let header = block::BlockHeader {
            flags: 0,
            raw_len: raw.len() as u32,
            stored_len: 0,
            before: Lsn(0),
            after: Lsn(0),
            synced: 0,
            records: 0,
            crc: 0,
        };
        let mut index = Index::new(1, Lsn(0));
        let outcome = index.block(0, &header, raw, None);
        let (footer, _) = index.finish();
        format!("{outcome:?} {}", footer.encode(None).is_ok())
    });
}

#[test]
fn footers() {
    let whole: Vec<_> = files("seg")
        .iter()
        .map(|bytes| {
            let trailer = &bytes[bytes.len() - TRAILER_LEN..];
            let offset = u64::from_le_bytes(trailer[..8].try_into().unwrap()) as usize;
            bytes[offset..bytes.len() - TRAILER_LEN].to_vec()
        })
        .collect();
    throw("footer", whole.clone(), |bytes| format!("{:?}", Footer::decode(bytes, None).map(|_| ())));
    let tables: Vec<_> = whole
        .iter()
        .map(|bytes| Footer::decode(bytes, None).unwrap())
        .flat_map(|footer| {
            [
                sections::encode_transactions(Lsn(0), &footer.transactions),
                sections::encode_relations(&footer.relations_at_start),
                sections::encode_blocks(&footer.blocks),
                sections::encode_relation_messages(&footer.relation_messages),
            ]
        })
        .collect();
    throw("footer-sections", tables, |bytes| {
        format!(
            "{} {} {} {}",
            sections::decode_transactions(Lsn(u64::MAX), bytes).is_some(),
            sections::decode_relations(bytes).is_some(),
            sections::decode_blocks(bytes).is_some(),
            sections::decode_relation_messages(bytes).is_some()
        )
    });
}
