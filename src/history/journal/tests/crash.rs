//! A crash at any byte: what was synced stays, what was not goes, and nothing in between.

use std::fs;
use std::path::Path;

use super::super::BlockBuilder;
use super::paths::{at, folder_in, open_segment, open_writer, roll, seal, segments, verify_segment};
use super::stream::{HISTORY, Item, START, drain, open, random, read_all};
use crate::error::Kind;
use crate::history::key::Authorship;
use crate::model::Lsn;

/// An open segment with small blocks, whole and spanning; the length of the file after each item
/// was written whole, with what the journal held then. Synced only if asked.
fn build(folder: &Path, items: &[Item], sync: bool) -> Vec<(u64, usize)> {
    let (mut writer, recovered) = open(folder);
    let mut builder = BlockBuilder::with_size(recovered.frontier, 150);
    let path = segments(folder).pop().unwrap();
    let mut lengths = vec![(fs::metadata(&path).unwrap().len(), 0)];
    for (number, item) in items.iter().enumerate() {
        if let Item::Transaction { messages, .. } = item {
            for message in messages {
                builder.push(message).unwrap();
                while let Some(block) = builder.take_full() {
                    writer.write(block).unwrap();
                }
            }
        } else {
            item.push(&mut builder);
        }
        drain(&mut builder, &mut writer);
        if sync {
            writer.sync().unwrap();
        }
        lengths.push((fs::metadata(&path).unwrap().len(), number + 1));
    }
    lengths
}

#[test]
fn cut_at_every_length_the_complete_transactions_before_it_remain() {
    let source = tempfile::tempdir().unwrap();
    let items = random(11, 9, 25);
    let lengths = build(source.path(), &items, true);
    let path = segments(source.path()).pop().unwrap();
    let name = path.file_name().unwrap();
    let bytes = fs::read(&path).unwrap();
    let header_len = lengths[0].0 as usize;
    for len in 0..=bytes.len() {
        let folder = tempfile::tempdir().unwrap();
        let copy = folder_in(folder.path()).join(name);
        fs::write(&copy, &bytes[..len]).unwrap();
        if len < header_len {
            // The file is named only once its header is synced: this is no crash.
            assert_eq!(error(folder.path()), Kind::Damaged);
            continue;
        }
        let (whole, count) = *lengths.iter().rev().find(|(whole, _)| *whole <= len as u64).unwrap();
        // Recovery need not have happened for a reader.
        assert_eq!(read_all(folder.path()), items[..count]);
        let (mut writer, recovered) = open(folder.path());
        assert_eq!(recovered.truncated_bytes, len as u64 - whole);
        assert_eq!(
            recovered.frontier,
            count.checked_sub(1).map_or(START, |last| Lsn(items[last].frontier()))
        );
        // The rest comes again, and the journal is whole.
        let mut builder = BlockBuilder::new(recovered.frontier);
        for item in &items[count..] {
            item.push(&mut builder);
        }
        drain(&mut builder, &mut writer);
        writer.sync().unwrap();
        assert_eq!(read_all(folder.path()), items);
    }
}

fn error(folder: &Path) -> Kind {
    open_writer(folder, HISTORY, 1, START, &Authorship::Unkeyed).err().expect("opened").kind()
}

#[test]
fn a_bad_block_is_damage_if_a_later_one_shows_that_it_was_synced() {
    for sync in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let items = random(12, 8, 5);
        let lengths = build(folder.path(), &items, sync);
        let path = segments(folder.path()).pop().unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[lengths[3].0 as usize + 60] ^= 1;
        fs::write(&path, &bytes).unwrap();
        if sync {
            assert_eq!(error(folder.path()), Kind::Damaged);
            assert_eq!(open_segment(&path, &Authorship::Unkeyed).unwrap_err().kind(), Kind::Damaged);
            assert_eq!(verify_segment(&path, &Authorship::Unkeyed).unwrap().faults.len(), 1);
            assert_eq!(fs::read(&path).unwrap(), bytes, "damaged files are left as they are");
        } else {
            // A disk may write a later block before an earlier one: neither was acknowledged.
            let (_, recovered) = open(folder.path());
            assert_eq!(recovered.frontier, Lsn(items[2].frontier()));
            assert!(!recovered.repaired.is_empty());
        }
    }
}

#[test]
fn zeros_at_the_end_are_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let items = random(13, 8, 5);
    build(folder.path(), &items, true);
    let path = segments(folder.path()).pop().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend([0; 5000]);
    fs::write(&path, &bytes).unwrap();
    assert_eq!(open(folder.path()).1.truncated_bytes, 5000);
    assert_eq!(read_all(folder.path()), items);
}

#[test]
fn a_roll_or_a_seal_can_stop_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    let items = random(14, 30, 20);
    build(folder.path(), &items, true);
    let (mut writer, _) = open(folder.path());
    let finished = roll(&mut writer);
    drop(writer);
    let unsealed = fs::read(&finished).unwrap();

    // Stopped before sealing: the finished file is named, to be sealed.
    assert_eq!(open(folder.path()).1.unsealed, [at(&finished, &Authorship::Unkeyed).1]);
    // Stopped before the open file was removed: both are there.
    let summary = seal(&finished, &Authorship::Unkeyed).unwrap();
    fs::write(&finished, &unsealed).unwrap();
    assert_eq!(read_all(folder.path()), items);
    assert_eq!(open(folder.path()).1.unsealed, [at(&finished, &Authorship::Unkeyed).1]);
    assert_eq!(seal(&finished, &Authorship::Unkeyed).unwrap(), summary);
    assert!(!finished.exists());
    // The sealed copy is bad, the open file is still there: it is sealed again.
    let sealed = finished.with_extension("seg");
    let mut bytes = fs::read(&sealed).unwrap();
    bytes[70] ^= 1;
    fs::write(&sealed, &bytes).unwrap();
    fs::write(&finished, &unsealed).unwrap();
    assert_eq!(seal(&finished, &Authorship::Unkeyed).unwrap(), summary);
    assert_eq!(read_all(folder.path()), items);
    // The finished file has lost its end: it must not be sealed as if it were whole.
    fs::remove_file(&sealed).unwrap();
    fs::write(&finished, &unsealed[..unsealed.len() - 1]).unwrap();
    assert_eq!(seal(&finished, &Authorship::Unkeyed).unwrap_err().kind(), Kind::Damaged);
    assert!(finished.exists());
}

#[test]
fn the_newest_segment_may_be_found_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let items = random(15, 30, 20);
    build(folder.path(), &items, true);
    let path = segments(folder.path()).pop().unwrap();
    let unsealed = fs::read(&path).unwrap();
    let relations = open(folder.path()).1.relations;
    seal(&path, &Authorship::Unkeyed).unwrap();
    fs::write(&path, &unsealed).unwrap();
    fs::write(path.with_extension("open.1.tmp"), b"half").unwrap();
    for removed in [true, false] {
        let (_, recovered) = open(folder.path());
        assert_eq!(recovered.frontier, Lsn(items.last().unwrap().frontier()));
        assert_eq!(recovered.relations, relations);
        assert_eq!(!recovered.repaired.is_empty(), removed);
        assert!(!path.exists());
        assert!(!path.with_extension("open.1.tmp").exists());
    }
    // As if no next one had been started.
    fs::remove_file(segments(folder.path()).pop().unwrap()).unwrap();
    assert_eq!(open(folder.path()).1.relations, relations);
    assert_eq!(read_all(folder.path()), items);
}

#[test]
fn foreign_newer_and_misnamed_files_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    build(folder.path(), &random(16, 5, 5), true);
    let path = segments(folder.path()).pop().unwrap();
    let bytes = fs::read(&path).unwrap();

    assert_eq!(
        open_writer(folder.path(), [9; 16], 1, START, &Authorship::Unkeyed).err().unwrap().kind(),
        Kind::Refused
    );
    let mut newer = bytes.clone();
    newer[8] = 2;
    let crc = crc32c::crc32c(&newer[..40]);
    newer[40..44].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, &newer).unwrap();
    assert_eq!(error(folder.path()), Kind::Refused);
    assert_eq!(open_segment(&path, &Authorship::Unkeyed).unwrap_err().kind(), Kind::Refused);
    fs::remove_file(&path).unwrap();
    fs::write(folder_in(folder.path()).join("0001-00000000010000ff.open"), &bytes).unwrap();
    assert_eq!(error(folder.path()), Kind::Damaged);
    // A later epoch has begun.
    assert!(open_writer(folder.path(), HISTORY, 0, START, &Authorship::Unkeyed).is_err());
}
