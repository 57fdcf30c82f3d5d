//! What capture relies on: repeats, broken connections, protocol errors, bounded memory.

use super::super::BlockBuilder;
use super::paths::{roll, seal};
use super::stream::{Item, START, begin, change, commit, drain, logical, open, random, read_all, relation};
use crate::error::Kind;
use crate::history::key::Authorship;
use crate::model::{Lsn, PgTime};

#[test]
fn repeats_after_a_reconnect_are_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let items = random(3, 120, 60);
    let (mut writer, recovered) = open(folder.path());
    let mut builder = BlockBuilder::new(recovered.frontier);
    for (number, item) in items.iter().enumerate() {
        item.push(&mut builder);
        if number % 20 == 19 {
            drain(&mut builder, &mut writer);
            // The server goes back, as after its crash: whole transactions come again.
            for item in &items[number - 15..=number] {
                item.push(&mut builder);
            }
            assert_eq!(builder.pending_bytes(), 0);
        }
    }
    drain(&mut builder, &mut writer);
    assert_eq!(read_all(folder.path()), items);
}

#[test]
fn an_abandoned_transaction_leaves_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    let at = START.0;
    let (mut writer, recovered) = open(folder.path());
    let mut builder = BlockBuilder::with_size(recovered.frontier, 200);
    let whole = |at: u64, row: &[u8]| Item::Transaction {
        commit: at,
        end: at + 5,
        messages: vec![begin(at, 1, 9), relation(7, 0), change(b'I', 7, row), commit(at, at + 5, 1)],
    };
    let first = whole(at, b"first");
    first.push(&mut builder);
    // The connection breaks twice: before a part was written, and after some were.
    for parts in [0, 3] {
        builder.push(&begin(at + 10, 2, 10)).unwrap();
        builder.push(&relation(7, 9)).unwrap();
        for _ in 0..parts {
            builder.push(&change(b'I', 7, &[b'x'; 300])).unwrap();
            while let Some(block) = builder.take_full() {
                writer.write(block).unwrap();
            }
        }
        writer.sync().unwrap();
        assert!(builder.in_transaction());
        builder.abandon_transaction();
        assert!(!builder.in_transaction());
    }
    let second = whole(at + 10, b"second");
    second.push(&mut builder);
    drain(&mut builder, &mut writer);
    assert_eq!(writer.sync().unwrap().lsn(), Lsn(at + 15));
    assert_eq!(read_all(folder.path()), [first, second]);
    drop(writer);
    let (_, recovered) = open(folder.path());
    assert_eq!((recovered.truncated_bytes, recovered.relations), (0, vec![relation(7, 0)]));
}

#[test]
fn a_huge_transaction_is_handed_out_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let (mut writer, recovered) = open(folder.path());
    let mut builder = BlockBuilder::new(recovered.frontier);
    let at = START.0;
    let mut messages = vec![begin(at, 1, 9), relation(7, 0)];
    messages.extend((0..3000u32).map(|n| change(b'I', 7, format!("{n:01000}").as_bytes())));
    messages.push(change(b'I', 7, &vec![b'z'; 20 << 20]));
    messages.push(commit(at, at + 5, 1));
    for message in &messages {
        builder.push(message).unwrap();
        while let Some(block) = builder.take_full() {
            assert_eq!(builder.received().lsn(), START);
            writer.write(block).unwrap();
        }
        assert!(builder.pending_bytes() < 512 << 10);
        assert_eq!(writer.sync().unwrap().lsn(), START);
        assert_eq!(writer.roll_now().unwrap(), None);
    }
    let next = Item::Idle { lsn: at + 9, time: 4 };
    next.push(&mut builder);
    drain(&mut builder, &mut writer);
    let huge = Item::Transaction { commit: at, end: at + 5, messages };
    assert_eq!(read_all(folder.path()), [huge.clone(), next.clone()]);
    let path = roll(&mut writer);
    seal(&path, &Authorship::Unkeyed).unwrap();
    assert_eq!(read_all(folder.path()), [huge, next]);
}

#[test]
fn protocol_nonsense_is_an_internal_error_and_changes_nothing() {
    let mut builder = BlockBuilder::new(START);
    let at = START.0;
    let refused = |builder: &mut BlockBuilder, message: &[u8]| {
        let pending = builder.pending_bytes();
        assert_eq!(builder.push(message).unwrap_err().kind(), Kind::Internal);
        assert_eq!(builder.pending_bytes(), pending);
    };
    refused(&mut builder, &commit(at, at + 1, 0));
    refused(&mut builder, &change(b'I', 7, b""));
    refused(&mut builder, b"");
    refused(&mut builder, b"B short");
    builder.push(&begin(at, 0, 1)).unwrap();
    refused(&mut builder, &begin(at, 0, 1));
    refused(&mut builder, &commit(at + 1, at + 2, 0));
    refused(&mut builder, &commit(at, at - 1, 0));
    refused(&mut builder, b"S\0\0\0\x01\x01");
    assert_eq!(builder.push_idle(Lsn(at + 9), PgTime(0)).unwrap_err().kind(), Kind::Internal);
    builder.push(&commit(at, at + 1, 0)).unwrap();
    assert_eq!(builder.received().lsn(), Lsn(at + 1));
}

#[test]
fn messages_outside_transactions_are_kept_once() {
    let folder = tempfile::tempdir().unwrap();
    let (mut writer, recovered) = open(folder.path());
    let mut builder = BlockBuilder::new(recovered.frontier);
    let lone = logical(false, START.0 + 3, "other", "x");
    builder.push(&logical(false, START.0 - 3, "other", "old")).unwrap();
    builder.push(&lone).unwrap();
    drain(&mut builder, &mut writer);
    builder.push_idle(Lsn(START.0 + 9), PgTime(1)).unwrap();
    builder.push(&lone).unwrap();
    drain(&mut builder, &mut writer);
    let path = roll(&mut writer);
    assert_eq!(seal(&path, &Authorship::Unkeyed).unwrap().messages, 1);
}

#[test]
fn readers_see_a_prefix_while_the_writer_appends_rolls_and_seals() {
    let folder = tempfile::tempdir().unwrap();
    let items = random(31, 400, 200);
    let (mut writer, recovered) = open(folder.path());
    writer.set_roll_at(6000);
    std::thread::scope(|scope| {
        let work = scope.spawn(|| {
            let mut builder = BlockBuilder::with_size(recovered.frontier, 400);
            for item in &items {
                item.push(&mut builder);
                drain(&mut builder, &mut writer);
                writer.sync().unwrap();
                if let Some(finished) = writer.roll().unwrap() {
                    super::super::seal(&writer.journal, finished).unwrap();
                }
            }
        });
        let mut seen = 0;
        while !work.is_finished() {
            let found = read_all(folder.path());
            assert!(found.len() >= seen, "what was there is gone");
            assert_eq!(found, items[..found.len()]);
            seen = found.len();
        }
    });
    assert_eq!(read_all(folder.path()), items);
}
