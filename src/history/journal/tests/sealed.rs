//! An encrypted journal: a crash at any byte, and a change of any byte, are told as in one that is not encrypted.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::{BlockBuilder, Journal, RecoveredJournal, Segment, Writer, seal};
use super::stream::{HISTORY, Item, START, drain, random, read_segment};
use crate::error::{Kind, Result};
use crate::history::key::Authorship;
use crate::model::Lsn;
use crate::store::LocalFolder;
use crate::store::sealed::OpenedKey;

fn journal(root: &Path) -> Journal {
    Journal::of_local(&LocalFolder::sealed(root, OpenedKey::of_byte(1)), &Authorship::Unkeyed)
}

fn writer(root: &Path) -> Result<(Writer, RecoveredJournal)> {
    Writer::open(&journal(root), HISTORY, 1, START)
}

fn read_all(root: &Path) -> Result<Vec<Item>> {
    let journal = journal(root);
    let segments = journal.list()?.into_iter().map(|name| Segment::open(&journal, name));
    let segments = segments.collect::<Result<Vec<_>>>()?;
    Ok(segments.iter().flat_map(|segment| read_segment(segment, Lsn::ZERO, Lsn::MAX).0).collect())
}

/// The one open segment's file.
fn file(root: &Path) -> PathBuf {
    let files = fs::read_dir(root.join("journal")).unwrap().map(|entry| entry.unwrap().path());
    files.into_iter().find(|path| path.extension().is_some_and(|it| it == "open")).unwrap()
}

/// Writes items, each synced, and returns the length of the file after each with the number of items that it holds then.
fn build(root: &Path, items: &[Item]) -> Vec<(u64, usize)> {
    let (mut writer, recovered) = writer(root).unwrap();
    let mut builder = BlockBuilder::with_size(recovered.frontier, 150);
    let len = || fs::metadata(file(root)).unwrap().len();
    let mut lengths = vec![(len(), 0)];
    for (number, item) in items.iter().enumerate() {
        item.push(&mut builder);
        drain(&mut builder, &mut writer);
        writer.sync().unwrap();
        lengths.push((len(), number + 1));
    }
    lengths
}

/// A folder with the same segment, whose file has other bytes.
fn changed(name: &Path, bytes: &[u8]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("journal")).unwrap();
    fs::write(root.path().join("journal").join(name.file_name().unwrap()), bytes).unwrap();
    root
}

#[test]
fn cut_at_any_length_the_complete_transactions_before_it_remain_and_it_goes_on() {
    let source = tempfile::tempdir().unwrap();
    let items = random(11, 6, 8);
    let lengths = build(source.path(), &items);
    assert_eq!(read_all(source.path()).unwrap(), items);
    let path = file(source.path());
    let bytes = fs::read(&path).unwrap();
    let shortest = lengths[0].0 as usize;
    for len in (0..=bytes.len()).step_by(3).chain(lengths.iter().map(|(len, _)| *len as usize)) {
        let root = changed(&path, &bytes[..len]);
        if len < shortest {
            assert_eq!(writer(root.path()).err().unwrap().kind(), Kind::Damaged, "{len}");
            continue;
        }
        let (_, count) = *lengths.iter().rev().find(|(whole, _)| *whole <= len as u64).unwrap();
        assert_eq!(read_all(root.path()).unwrap(), items[..count], "{len}");
        let (mut writer, recovered) = writer(root.path()).unwrap();
        assert_eq!(recovered.truncated_bytes > 0, !lengths.iter().any(|(whole, _)| *whole == len as u64));
        let mut builder = BlockBuilder::new(recovered.frontier);
        items[count..].iter().for_each(|item| item.push(&mut builder));
        drain(&mut builder, &mut writer);
        writer.sync().unwrap();
        assert_eq!(read_all(root.path()).unwrap(), items, "{len}");
    }
}

#[test]
fn a_change_of_any_byte_is_damage_or_the_end_of_what_is_there() {
    let source = tempfile::tempdir().unwrap();
    let items = random(12, 7, 6);
    let lengths = build(source.path(), &items);
    let path = file(source.path());
    let bytes = fs::read(&path).unwrap();
    // Behind these bytes stand two blocks that tell that they were synced.
    let vouched_for = lengths[lengths.len() - 3].0 as usize;
    for at in (0..bytes.len()).step_by(5) {
        let mut other = bytes.clone();
        other[at] ^= 1;
        let root = changed(&path, &other);
        let is_reserved = (12..16).contains(&at);
        match writer(root.path()) {
            Err(error) => {
                assert!(matches!(error.kind(), Kind::Damaged | Kind::Refused), "byte {at}: {error}")
            }
            Ok(_) => {
                assert!(at >= vouched_for || is_reserved, "byte {at} was acknowledged, and is cut off");
                let found = read_all(root.path()).unwrap();
                assert_eq!(found, items[..found.len()], "byte {at}");
            }
        }
    }
}

#[test]
fn a_segment_that_is_not_encrypted_is_not_taken_for_one_that_is() {
    let (plain, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let journal_of_plain = Journal::in_folder(plain.path(), &Authorship::Unkeyed);
    drop(Writer::open(&journal_of_plain, HISTORY, 1, START).unwrap());
    let planted = file(plain.path());
    build(root.path(), &random(13, 2, 3));
    let own = file(root.path());
    // Under a name of its own, and in the place of the encrypted one.
    fs::copy(&planted, root.path().join("journal").join(planted.file_name().unwrap())).unwrap();
    let error = read_all(root.path()).unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged);
    assert!(error.to_string().contains("without its key"), "{error}");
    fs::remove_file(root.path().join("journal").join(planted.file_name().unwrap())).unwrap();
    fs::copy(&planted, &own).unwrap();
    for error in [read_all(root.path()).unwrap_err(), writer(root.path()).err().unwrap()] {
        assert_eq!(error.kind(), Kind::Damaged);
        assert!(error.to_string().contains("without encryption"), "{error}");
    }
}

#[test]
fn an_encrypted_segment_is_sealed_and_shows_no_position_in_its_name() {
    let root = tempfile::tempdir().unwrap();
    let items = random(14, 9, 12);
    build(root.path(), &items);
    let (mut writer, _) = writer(root.path()).unwrap();
    let finished = writer.roll_now().unwrap().unwrap();
    seal(&journal(root.path()), finished).unwrap();
    assert_eq!(read_all(root.path()).unwrap(), items);
    for entry in fs::read_dir(root.path().join("journal")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.starts_with("0001-"), "{name}");
    }
}
