//! Blocks are looked up by the rows that they hold, and some of them are read without the others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::lookup::FilterForm;
use super::super::{BlockBuilder, ChangeIndex, Event, Journal, Lookup, Segment, SoughtRows, look_up};
use super::paths::{folder_in, open_segment, roll, seal, segments, verify_segment};
use super::stream::{begin, change, commit, drain, logical, open, truncate};
use crate::history::key::Authorship;
use crate::hostile::throw;
use crate::model::Lsn;

const TABLE: u32 = 16_384;
const BAG: u32 = 16_385;

/// A Relation message of a table with the columns `id` and `v`. The name tells one description from another.
fn relation(oid: u32, name: &str, identity: u8, flags: [u8; 2]) -> Vec<u8> {
    let mut message =
        [&b"R"[..], &oid.to_be_bytes(), b"public\0", name.as_bytes(), &[0, identity, 0, 2]].concat();
    for (column, flag) in ["id", "v"].into_iter().zip(flags) {
        message.push(flag);
        message.extend([column.as_bytes(), &[0], &25u32.to_be_bytes(), &[0xff; 4]].concat());
    }
    message
}

fn tuple(kind: u8, values: &[Option<&str>]) -> Vec<u8> {
    let mut bytes = vec![kind, 0, values.len() as u8];
    for value in values {
        match value {
            Some(value) => {
                bytes.push(b't');
                bytes.extend((value.len() as u32).to_be_bytes());
                bytes.extend(value.as_bytes());
            }
            None => bytes.push(b'n'),
        }
    }
    bytes
}

/// A transaction of the stream: its position, and the messages between Begin and Commit.
struct Told {
    at: u64,
    messages: Vec<Vec<u8>>,
}

/// Transactions of one row up to many, whose rows all differ, and whose tables are described anew now and then.
fn told(seed: u64) -> Vec<Told> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut number = 0;
    let transaction = |place: u64| {
        let mut messages = Vec::new();
        for _ in
            0..if random.random_bool(0.1) { random.random_range(20..60) } else { random.random_range(1..4) }
        {
            number += 1;
            if place == 0 || random.random_bool(0.1) {
                messages.push(relation(TABLE, &format!("t{number}"), b'd', [1, 0]));
            }
            messages.push(change(
                b'I',
                TABLE,
                &tuple(b'N', &[Some(&number.to_string()), Some("some words")]),
            ));
        }
        Told { at: 0x0100_0000 + place * 0x100, messages }
    };
    (0..60).map(transaction).collect()
}

fn build(folder: &std::path::Path, told: &[Told], sealed: bool) -> PathBuf {
    let (mut writer, recovered) = open(folder);
    let mut builder = BlockBuilder::with_size(recovered.frontier, 150);
    for Told { at, messages } in told {
        builder.push(&begin(*at, 1000 + *at as i64, *at as u32)).unwrap();
        for message in messages {
            builder.push(message).unwrap();
            while let Some(block) = builder.take_full() {
                writer.write(block).unwrap();
            }
        }
        builder.push(&commit(*at, at + 0x30, 1000 + *at as i64)).unwrap();
        drain(&mut builder, &mut writer);
        writer.sync().unwrap();
    }
    if sealed {
        seal(&roll(&mut writer), &Authorship::Unkeyed).unwrap();
    }
    segments(folder).remove(0)
}

/// Each row that comes, with its transaction and the description of its table that is in force.
fn rows(segment: &Segment, is_wanted: impl Fn(u32) -> bool) -> Vec<(Vec<u8>, Vec<u8>, Vec<u8>)> {
    let (mut found, mut relation, mut transaction) = (Vec::new(), Vec::new(), None);
    for block in segment.some_blocks(Lsn::ZERO, Lsn::MAX, is_wanted) {
        for event in block.unwrap().events() {
            match event.unwrap() {
                Event::Relation(message) => relation = message.to_vec(),
                Event::Message(message) => match message[0] {
                    b'R' => relation = message.to_vec(),
                    b'B' => {
                        assert!(transaction.replace(message.to_vec()).is_none(), "a transaction in another")
                    }
                    b'C' => {
                        let begun = transaction.take().expect("a transaction");
                        assert_eq!(begun[1..9], message[2..10], "the end of another transaction");
                    }
                    _ => found.push((
                        message.to_vec(),
                        transaction.clone().expect("a transaction"),
                        relation.clone(),
                    )),
                },
                Event::Idle { .. } => {}
            }
        }
    }
    assert_eq!(transaction, None, "a transaction without an end");
    found
}

#[test]
fn some_blocks_tell_of_their_rows_what_all_blocks_tell() {
    for seed in 0..8 {
        let folder = tempfile::tempdir().unwrap();
        let path = build(folder.path(), &told(seed), false);
        let segment = open_segment(&path, &Authorship::Unkeyed).unwrap();
        let blocks = segment.footer().blocks.len() as u32;
        assert!(blocks > 60, "{blocks}");
        let whole: BTreeMap<_, _> = rows(&segment, |_| true)
            .into_iter()
            .map(|(row, begun, relation)| (row, (begun, relation)))
            .collect();
        let mut random = StdRng::seed_from_u64(seed);
        for share in [0.0, 0.03, 0.3, 0.9] {
            let chosen: BTreeSet<_> = (0..blocks).filter(|_| random.random_bool(share)).collect();
            let some = rows(&segment, |number| chosen.contains(&number));
            assert!(share > 0.0 || some.is_empty());
            for (row, begun, relation) in some {
                assert_eq!(whole[&row], (begun, relation), "with blocks {chosen:?} of {blocks}");
            }
        }
        let each: usize = (0..blocks).map(|only| rows(&segment, |number| number == only).len()).sum();
        assert_eq!(each, whole.len(), "each row lies in one block");
    }
}

/// Rows of every kind, each in a transaction and a block of its own.
fn of_every_kind() -> Vec<Told> {
    let key = |id: &str| tuple(b'K', &[Some(id), None]);
    let row = |id: &str| {
        tuple(b'N', &[Some(id), Some("words that fill a block, so that it is cut here and not later")])
    };
    let unchanged = [&b"N\0\x02u"[..], &tuple(0, &[Some("v")])[3..]].concat();
    let kinds = [
        vec![relation(TABLE, "t", b'd', [1, 0]), change(b'I', TABLE, &row("1"))],
        vec![change(b'U', TABLE, &row("2"))],
        vec![change(b'U', TABLE, &[key("3"), row("4")].concat())],
        vec![change(b'D', TABLE, &key("5"))],
        vec![truncate(&[TABLE])],
        vec![logical(true, 1, "backwhen.ddl", "{}")],
        vec![logical(true, 1, "backwhen.mark", "{}")],
        vec![relation(BAG, "bag", b'f', [1, 1]), change(b'I', BAG, &row("1"))],
        vec![change(b'U', TABLE, &[key("6"), unchanged.clone()].concat())],
        vec![change(b'U', TABLE, &unchanged)],
        vec![change(b'I', TABLE + 9, &row("1"))],
    ];
    let told = |(place, messages): (u64, _)| Told { at: 0x0100_0000 + place * 0x100, messages };
    (0..).zip(kinds).map(told).collect()
}

#[test]
fn blocks_are_found_by_the_keys_of_their_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = build(folder.path(), &of_every_kind(), false);
    let segment = open_segment(&path, &Authorship::Unkeyed).unwrap();
    assert_eq!(segment.footer().blocks.len(), 11);
    let changes = segment.footer().changes.clone().unwrap();
    let blocks = |oid: u32, key: &str| changes.blocks_with(&SoughtRows::new(oid, [vec![key.as_bytes()]]));
    // Whatever concerns the whole table or the schema is in, and so is a row that does not tell its key.
    let always = [4, 5, 9];
    for (key, own) in [("1", 0), ("2", 1), ("3", 2), ("4", 2), ("5", 3), ("6", 8)] {
        let mut expected = always.to_vec();
        expected.push(own);
        expected.sort_unstable();
        assert_eq!(blocks(TABLE, key), expected, "{key}");
    }
    assert_eq!(blocks(TABLE, "7"), always);
    assert_eq!(blocks(BAG, "7"), [5, 7], "rows without a key");
    assert_eq!(blocks(TABLE + 9, "7"), [5, 10], "rows of a table that nothing describes");
    assert_eq!(changes.blocks_with(&SoughtRows::none()), [5]);
}

#[test]
fn the_index_of_a_sealed_segment_can_be_made_anew_and_is_verified() {
    let folder = tempfile::tempdir().unwrap();
    let path = build(folder.path(), &told(3), true);
    let segment = open_segment(&path, &Authorship::Unkeyed).unwrap();
    let found = segment.footer().changes.clone().unwrap();
    assert_eq!(segment.index_changes().unwrap(), *found);
    assert!(
        ChangeIndex::of_segment(segment.footer().blocks.len(), found.counts.clone(), Vec::new()).is_none()
    );
    assert_eq!(verify_segment(&path, &Authorship::Unkeyed).unwrap().faults, Vec::<String>::new());
    let mut counts = found.counts().unwrap();
    for Told { messages, .. } in told(3) {
        let rows = messages.iter().filter(|message| message[0] == b'I').count() as u64;
        assert_eq!(counts.next_transaction().unwrap()[0].count, rows);
    }
}

/// Copies the segment of a fixture to a history's folder, and returns its place there.
fn fixture(name: &str, to: &std::path::Path) -> PathBuf {
    let fixture = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/formats").join(name);
    for entry in std::fs::read_dir(&fixture).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder_in(to).join(path.file_name().unwrap())).unwrap();
    }
    segments(to).remove(0)
}

/// The first segments that were sealed with an index of each form. Never write them anew.
#[test]
fn the_indexes_that_were_written_first_are_made_to_the_byte() {
    for (name, form) in [("journal-v1-changes", FilterForm::Hashed), ("journal-v1-pages", FilterForm::Paged)]
    {
        let place = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/formats").join(name);
        if std::env::var_os("BACKWHEN_WRITE_FIXTURES").is_some() && form == FilterForm::default() {
            assert!(!place.exists(), "the file exists, and stays as it is");
            let folder = tempfile::tempdir().unwrap();
            let path = build(folder.path(), &of_every_kind(), true);
            std::fs::create_dir(&place).unwrap();
            std::fs::copy(&path, place.join(path.file_name().unwrap())).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let path = fixture(name, folder.path());
        assert_eq!(verify_segment(&path, &Authorship::Unkeyed).unwrap().faults, Vec::<String>::new());
        let segment = open_segment(&path, &Authorship::Unkeyed).unwrap();
        let found = segment.footer().changes.clone().unwrap();
        assert_eq!(found.form(), form);
        assert_eq!(segment.index_changes_in(form).unwrap(), *found);
        assert_eq!(found.blocks_with(&SoughtRows::new(BAG, [vec![&b"1"[..]]])), [0]);
        assert!(
            found.blocks_with(&SoughtRows::new(1, [vec![&b"1"[..]]])).contains(&0),
            "it holds a schema change"
        );
    }
}

/// `verify` compares each byte of an index with the blocks.
#[test]
fn an_index_that_was_changed_is_found() {
    for name in ["journal-v1-changes", "journal-v1-pages"] {
        let folder = tempfile::tempdir().unwrap();
        let path = fixture(name, folder.path());
        let segment = open_segment(&path, &Authorship::Unkeyed).unwrap();
        let mut footer = segment.footer().clone();
        let changes = Arc::make_mut(footer.changes.as_mut().unwrap());
        *changes.filters.last_mut().unwrap() ^= 1;
        assert!(!segment.footer().clone().agrees_with(&footer));
    }
}

/// A lookup reads a part of a sealed segment's footer, which tells the same as the whole.
#[test]
fn a_lookup_reads_a_part_of_the_footer() {
    let sought = |id: &str| SoughtRows::new(TABLE, [vec![id.as_bytes()]]);
    for name in ["journal-v1-changes", "journal-v1-pages"] {
        let folder = tempfile::tempdir().unwrap();
        let path = fixture(name, folder.path());
        let segment = open_segment(&path, &Authorship::Unkeyed).unwrap();
        let relations: Vec<_> = segment.relations().cloned().collect();
        let whole = segment.footer().changes.clone().unwrap();
        let journal = Journal::in_folder(folder.path(), &Authorship::Unkeyed);
        for id in ["1", "3", "none"] {
            let found = look_up(&journal, segment.name(), &sought(id)).unwrap().unwrap();
            assert_eq!(found.blocks, whole.blocks_with(&sought(id)), "{id}");
            assert_eq!(found.relations, relations);
        }
    }
}

/// A byte of the footer that is not what it was is never believed, though a lookup does not read all of the footer.
#[test]
fn a_lookup_in_a_damaged_footer_is_right_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = fixture("journal-v1-pages", folder.path());
    let name = open_segment(&path, &Authorship::Unkeyed).unwrap().name();
    let journal = Journal::in_folder(folder.path(), &Authorship::Unkeyed);
    let sought = SoughtRows::new(TABLE, [vec![&b"1"[..]]]);
    let told = |found: &Lookup| (found.blocks.clone(), found.relations.clone());
    let right = told(&look_up(&journal, name, &sought).unwrap().unwrap());
    let bytes = std::fs::read(&path).unwrap();
    let mut refused = 0;
    for at in (44..bytes.len()).rev().take(900) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x11;
        std::fs::write(&path, &damaged).unwrap();
        match look_up(&journal, name, &sought) {
            Ok(found) => assert_eq!(told(&found.expect("an index")), right, "byte {at}"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 100, "{refused}");
}

/// Tables and schema changes are told exactly, and few keys are mistaken for others, whatever the blocks hold.
#[test]
fn few_blocks_are_read_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let key = |number: u32| format!("{number:08}");
    let told = |number: u32| {
        let row =
            tuple(b'N', &[Some(&key(number)), Some("words that fill a block, so that each row has its own")]);
        let mut messages = vec![change(b'I', TABLE, &row)];
        if number == 0 {
            messages.insert(0, relation(TABLE, "t", b'd', [1, 0]));
        }
        Told { at: 0x0100_0000 + u64::from(number) * 0x100, messages }
    };
    let path = build(folder.path(), &(0..500).map(told).collect::<Vec<_>>(), false);
    let segment = open_segment(&path, &Authorship::Unkeyed).unwrap();
    assert_eq!(segment.footer().blocks.len(), 500);
    let changes = segment.footer().changes.clone().unwrap();
    assert!(changes.blocks_with(&SoughtRows::none()).is_empty());
    let found = |number: u32| {
        let found = changes.blocks_with(&SoughtRows::new(TABLE, [vec![key(number).as_bytes()]]));
        assert!(number >= 500 || found.contains(&number), "{number}");
        found.len()
    };
    // The hashes of these keys are always the same, and so are these numbers.
    assert!((0..500).map(found).max().unwrap() <= 3);
    let of_absent: usize = (500..10_500).map(found).sum();
    assert!(of_absent <= 1500, "{of_absent} blocks for 10,000 keys that are not there");
}

#[test]
fn an_index_of_any_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = build(folder.path(), &of_every_kind(), false);
    let segment = open_segment(&path, &Authorship::Unkeyed).unwrap();
    let ChangeIndex { counts, filters } = Arc::unwrap_or_clone(segment.footer().changes.clone().unwrap());
    throw("change-filters", vec![filters], |bytes| {
        let changes = ChangeIndex { counts: Vec::new(), filters: bytes.to_vec() };
        format!("{:?}", changes.blocks_with(&SoughtRows::new(TABLE, [vec![&b"1"[..]]])).len())
    });
    throw("change-counts", vec![counts], |bytes| {
        let changes = ChangeIndex { counts: bytes.to_vec(), filters: Vec::new() };
        let transactions = changes.counts().map(|mut counts| {
            let mut number = 0;
            while counts.next_transaction().is_some() {
                number += 1;
            }
            number
        });
        format!("{transactions:?}")
    });
}
