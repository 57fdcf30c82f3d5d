//! A journal with a key: nothing is read from it that no holder of the key wrote.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::super::{BlockBuilder, Event, Journal, SoughtRows, look_up};
use super::fixtures::stream;
use super::hostile::resealed;
use super::paths::{
    check_digest, folder_in, open_segment, open_writer, read_footer, roll, scan_segment, seal, segments,
    verify_segment,
};
use super::stream::{HISTORY, Item, START, drain, random};
use crate::error::{Kind, Result};
use crate::history::key::{Authorship, Key};
use crate::history::{Identity, read_object};
use crate::model::Lsn;
use crate::store::{Folder, ObjectKind, ObjectName};

fn keyed() -> Authorship {
    Key::of_byte(7).authorship(HISTORY)
}

/// One segment, left open or sealed.
fn build(folder: &Path, items: &[Item], authorship: &Authorship, sealed: bool) -> PathBuf {
    let (mut writer, recovered) = open_writer(folder, HISTORY, 1, START, authorship).unwrap();
    let mut builder = BlockBuilder::with_size(recovered.frontier, 150);
    for item in items {
        item.push(&mut builder);
        drain(&mut builder, &mut writer);
        writer.sync().unwrap();
    }
    if sealed {
        seal(&roll(&mut writer), authorship).unwrap();
    }
    segments(folder).remove(0)
}

/// All messages and idle marks, as bytes.
fn read(path: &Path, authorship: &Authorship) -> Result<Vec<Vec<u8>>> {
    // Looks once; nobody writes here.
    let segment = if path.extension().is_some_and(|ending| ending == "open") {
        scan_segment(path, authorship)?
    } else {
        open_segment(path, authorship)?
    };
    let mut events = Vec::new();
    segment.read(Lsn::ZERO, Lsn::MAX, &mut |event| {
        match event {
            Event::Relation(message) | Event::Message(message) => events.push(message.to_vec()),
            Event::Idle { lsn, .. } => events.push(lsn.0.to_le_bytes().to_vec()),
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(events)
}

#[test]
fn no_byte_can_be_changed_even_if_every_checksum_is_made_anew() {
    for sealed in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = build(folder.path(), &random(3, 6, 12), &keyed(), sealed);
        let (bytes, events) = (fs::read(&path).unwrap(), read(&path, &keyed()).unwrap());
        assert_eq!(read(&path, &Authorship::Unchecked).unwrap(), events, "readable without the key");
        assert!(verify_segment(&path, &keyed()).unwrap().faults.is_empty());
        assert_eq!(resealed(&bytes, sealed), bytes);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x55;
            fs::write(&path, resealed(&changed, sealed)).unwrap();
            match read(&path, &keyed()) {
                // Bytes that mean nothing, or a tail that may never have been synced.
                Ok(found) => assert!(events.starts_with(&found), "byte {at} of {path:?}"),
                Err(error) => {
                    assert!(matches!(error.kind(), Kind::Damaged | Kind::Refused), "byte {at}: {error}")
                }
            }
        }
    }
}

#[test]
fn what_was_written_without_the_key_is_damage() {
    let items = random(5, 6, 12);
    for sealed in [false, true] {
        for foreign in [Authorship::Unkeyed, Key::of_byte(8).authorship(HISTORY)] {
            let folder = tempfile::tempdir().unwrap();
            let path = build(folder.path(), &items, &foreign, sealed);
            let error = read(&path, &keyed()).unwrap_err();
            assert_eq!(error.kind(), Kind::Damaged);
            assert!(error.to_string().contains("not written by a holder of the key"), "{error}");
            assert!(!verify_segment(&path, &keyed()).unwrap().faults.is_empty());
            if sealed {
                assert!(read_footer(&path, &keyed()).is_err() && check_digest(&path, &keyed()).is_err());
            } else {
                let opened = open_writer(folder.path(), HISTORY, 1, START, &keyed());
                assert_eq!(opened.err().unwrap().kind(), Kind::Damaged);
            }
        }
    }
}

#[test]
fn a_block_appended_without_the_key_is_damage_and_not_a_torn_tail() {
    let folder = tempfile::tempdir().unwrap();
    let items = random(9, 6, 12);
    let (first, rest) = items.split_at(items.len() / 2);
    let path = build(folder.path(), first, &keyed(), false);
    build(folder.path(), rest, &Authorship::Unkeyed, false);
    assert!(read(&path, &Authorship::Unchecked).is_ok(), "sound but for its author");
    assert_eq!(read(&path, &keyed()).unwrap_err().kind(), Kind::Damaged);
}

#[test]
fn tags_are_chained_so_that_no_block_can_be_left_out_or_come_from_an_earlier_try() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // The same transactions in blocks of other sizes, as after a crash: each file is the key's own.
    let items = stream(START.0);
    let path = build(one.path(), &items, &keyed(), false);
    let whole = fs::read(&path).unwrap();
    let (mut writer, recovered) = open_writer(other.path(), HISTORY, 1, START, &keyed()).unwrap();
    let mut builder = BlockBuilder::new(recovered.frontier);
    for item in &items[..2] {
        item.push(&mut builder);
    }
    drain(&mut builder, &mut writer);
    let mut mixed = fs::read(segments(other.path()).remove(0)).unwrap();
    items[2].push(&mut builder);
    // The last block of the one file fits behind the other's by its positions, but not by its tag.
    let last = whole.windows(4).rposition(|bytes| bytes == b"BWjb").unwrap();
    mixed.extend(&whole[last..]);
    fs::write(&path, &mixed).unwrap();
    assert!(read(&path, &Authorship::Unchecked).is_ok());
    assert_eq!(read(&path, &keyed()).unwrap_err().kind(), Kind::Damaged);
}

#[test]
fn no_segment_takes_anothers_place() {
    for sealed in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = build(folder.path(), &random(3, 4, 6), &keyed(), sealed);
        let of_another_history = Key::of_byte(7).authorship([9; 16]);
        assert_eq!(read(&path, &of_another_history).unwrap_err().kind(), Kind::Damaged);
        let ending = path.extension().unwrap().to_str().unwrap();
        let renamed = folder_in(folder.path()).join(format!("0002-{:016x}.{ending}", START.0));
        // Also with a header that says so.
        let mut bytes = fs::read(&path).unwrap();
        fs::write(&renamed, &bytes).unwrap();
        assert_eq!(read(&renamed, &keyed()).unwrap_err().kind(), Kind::Damaged);
        bytes[28..32].copy_from_slice(&2u32.to_le_bytes());
        fs::write(&renamed, resealed(&bytes, sealed)).unwrap();
        assert_eq!(read(&renamed, &keyed()).unwrap_err().kind(), Kind::Damaged);
    }
}

#[test]
fn a_writer_goes_on_behind_a_cut_at_any_length() {
    let source = tempfile::tempdir().unwrap();
    let items = random(11, 5, 12);
    let path = build(source.path(), &items, &keyed(), false);
    let (bytes, name) = (fs::read(&path).unwrap(), path.file_name().unwrap().to_owned());
    for len in (44..bytes.len()).step_by(7) {
        let folder = tempfile::tempdir().unwrap();
        let copy = folder_in(folder.path()).join(&name);
        fs::write(&copy, &bytes[..len]).unwrap();
        let before = read(&copy, &keyed()).unwrap();
        let (mut writer, recovered) = open_writer(folder.path(), HISTORY, 1, START, &keyed()).unwrap();
        let mut builder = BlockBuilder::new(recovered.frontier);
        let at = recovered.frontier.0 + 0x1000;
        Item::Idle { lsn: at, time: 1 }.push(&mut builder);
        drain(&mut builder, &mut writer);
        writer.sync().unwrap();
        let after = read(&copy, &keyed()).unwrap();
        assert_eq!(after[..before.len()], before[..]);
        assert_eq!(after.last().unwrap()[..], at.to_le_bytes());
        assert!(seal(&roll(&mut writer), &keyed()).is_ok());
    }
}

#[test]
fn nothing_is_written_where_the_key_was_not_given() {
    let folder = tempfile::tempdir().unwrap();
    let path = build(folder.path(), &random(3, 4, 6), &keyed(), false);
    let opened = open_writer(folder.path(), HISTORY, 1, START, &Authorship::Unchecked);
    assert_eq!(opened.err().unwrap().kind(), Kind::Refused);
    assert_eq!(seal(&path, &Authorship::Unchecked).unwrap_err().kind(), Kind::Refused);
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/formats/keyed-v1")
}

fn write_fixture(key: &Key) {
    let (folder, authorship) = (fixture(), key.authorship(HISTORY));
    assert!(segments(&folder).is_empty(), "the files of version 1 exist, and stay as they are");
    let (mut writer, recovered) = open_writer(&folder, HISTORY, 1, START, &authorship).unwrap();
    let mut builder = BlockBuilder::new(recovered.frontier);
    for at in [START.0, START.0 + 0x100] {
        for item in stream(at) {
            item.push(&mut builder);
            drain(&mut builder, &mut writer);
            writer.sync().unwrap();
        }
        if at == START.0 {
            seal(&roll(&mut writer), &authorship).unwrap();
        }
    }
    let identity = include_str!("../../../../fixtures/damaged/seeds/history.json");
    let mut identity: Identity = serde_json::from_str(identity).unwrap();
    identity.format = crate::history::KEYED_FORMAT;
    identity.id = HISTORY.iter().map(|byte| format!("{byte:02x}")).collect();
    identity.key = Some(crate::history::KeyRecord { id: key.id() });
    let local = crate::store::LocalFolder::plain(&folder);
    crate::history::History::found(&local, identity, authorship).unwrap();
}

#[test]
fn version_1_with_a_key_opens() {
    let key = Key::read(&fixture().join("key")).unwrap();
    if std::env::var_os("BACKWHEN_WRITE_FIXTURES").is_some() {
        write_fixture(&key);
    }
    let authorship = key.authorship(HISTORY);
    let identity: Identity =
        read_object(&Folder::new(&fixture()), &ObjectName::only(ObjectKind::Identity), &authorship)
            .unwrap()
            .unwrap();
    assert_eq!(identity.key.unwrap().id, key.id());
    let [sealed, open] = segments(&fixture()).try_into().unwrap();
    assert_eq!(check_digest(&sealed, &authorship).unwrap().summary.marks[0].name, "before the fall");
    for path in [&sealed, &open] {
        let report = verify_segment(path, &authorship).unwrap();
        assert_eq!((report.faults, report.unfinished_bytes), (Vec::new(), 0));
        assert_eq!(read(path, &authorship).unwrap(), read(path, &Authorship::Unchecked).unwrap());
    }
}

/// A lookup does not read the sections that the footer's tags vouch for, but has a tag of its own.
#[test]
fn a_lookup_believes_only_holders_of_the_key() {
    let rows = SoughtRows::new(16_384, [vec![&b"1"[..]]]);
    let find = |writer: &Authorship, reader: Authorship| {
        let folder = tempfile::tempdir().unwrap();
        let path = build(folder.path(), &stream(START.0), writer, true);
        let name = open_segment(&path, writer).unwrap().name();
        let found = look_up(&Journal::in_folder(folder.path(), &reader), name, &rows);
        found.map(|found| found.is_some()).map_err(|error| error.kind())
    };
    assert_eq!(find(&keyed(), keyed()), Ok(true));
    assert_eq!(find(&Authorship::Unkeyed, Authorship::Unkeyed), Ok(true));
    assert_eq!(find(&Authorship::Unkeyed, keyed()), Err(Kind::Damaged));
    assert_eq!(find(&keyed(), Key::of_byte(8).authorship(HISTORY)), Err(Kind::Damaged));
}

/// A history without a key is written as ever: byte for byte as version 1 was.
#[test]
fn without_a_key_nothing_changes() {
    let folder = tempfile::tempdir().unwrap();
    let (mut writer, recovered) =
        open_writer(folder.path(), HISTORY, 1, START, &Authorship::Unkeyed).unwrap();
    let mut builder = BlockBuilder::new(recovered.frontier);
    for item in stream(START.0) {
        item.push(&mut builder);
        drain(&mut builder, &mut writer);
        writer.sync().unwrap();
    }
    let open = roll(&mut writer);
    let blocks = fs::read(&open).unwrap();
    let mut versions = blocks.windows(8).filter(|bytes| bytes.starts_with(b"BWjb")).map(|bytes| bytes[4]);
    assert!(versions.all(|version| version == 1));
    seal(&open, &Authorship::Unkeyed).unwrap();
    let bytes = fs::read(open.with_extension("seg")).unwrap();
    let trailer = &bytes[bytes.len() - 64..];
    let footer = u64::from_le_bytes(trailer[..8].try_into().unwrap()) as usize;
    // Sections 1 to 5, 8 and 11 to 13.
    assert_eq!(bytes[footer..footer + 4], 9u32.to_le_bytes(), "no digests of blocks and no tags");
}
