//! Makes streams of pgoutput messages, and says what a journal should give back.

use std::ops::ControlFlow;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::{BlockBuilder, Event, Segment, Writer};
use super::paths::{open_segment, open_writer, segments};
use crate::history::key::Authorship;
use crate::model::{Lsn, PgTime};

pub(super) const HISTORY: [u8; 16] = *b"history-for-test";
pub(super) const START: Lsn = Lsn(0x0100_0000);

pub(super) fn begin(commit: u64, time: i64, xid: u32) -> Vec<u8> {
    [&b"B"[..], &commit.to_be_bytes(), &time.to_be_bytes(), &xid.to_be_bytes()].concat()
}

pub(super) fn commit(commit: u64, end: u64, time: i64) -> Vec<u8> {
    [&b"C\0"[..], &commit.to_be_bytes(), &end.to_be_bytes(), &time.to_be_bytes()].concat()
}

pub(super) fn relation(oid: u32, variant: u8) -> Vec<u8> {
    let name = format!("public\0table{oid}\0d");
    [&b"R"[..], &oid.to_be_bytes(), name.as_bytes(), &[0, variant]].concat()
}

pub(super) fn change(tag: u8, oid: u32, row: &[u8]) -> Vec<u8> {
    [&[tag][..], &oid.to_be_bytes(), row].concat()
}

pub(super) fn truncate(oids: &[u32]) -> Vec<u8> {
    let mut message = [&b"T"[..], &(oids.len() as u32).to_be_bytes(), &[0]].concat();
    message.extend(oids.iter().flat_map(|oid| oid.to_be_bytes()));
    message
}

pub(super) fn logical(transactional: bool, lsn: u64, prefix: &str, content: &str) -> Vec<u8> {
    let mut message = [&b"M"[..], &[u8::from(transactional)], &lsn.to_be_bytes()].concat();
    message.extend(prefix.as_bytes());
    message.push(0);
    message.extend((content.len() as u32).to_be_bytes());
    message.extend(content.as_bytes());
    message
}

/// Something whole in the stream, at a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Transaction { commit: u64, end: u64, messages: Vec<Vec<u8>> },
    Idle { lsn: u64, time: i64 },
}

impl Item {
    pub(super) fn position(&self) -> u64 {
        match self {
            Item::Transaction { commit, .. } => *commit,
            Item::Idle { lsn, .. } => *lsn,
        }
    }

    pub(super) fn frontier(&self) -> u64 {
        match self {
            Item::Transaction { end, .. } => *end,
            Item::Idle { lsn, .. } => *lsn,
        }
    }

    pub(super) fn push(&self, builder: &mut BlockBuilder) {
        match self {
            Item::Transaction { messages, .. } => {
                for message in messages {
                    builder.push(message).unwrap();
                }
            }
            Item::Idle { lsn, time } => builder.push_idle(Lsn(*lsn), PgTime(*time)).unwrap(),
        }
    }
}

/// Transactions of very different sizes over a few tables, some idle marks (never two in a row),
/// marks and samples; the same for the same seed.
pub(super) fn random(seed: u64, count: usize, largest: usize) -> Vec<Item> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut at = START.0;
    let mut time = 800_000_000_000_000;
    let mut told = [None; 4];
    let mut items: Vec<Item> = Vec::new();
    for number in 0..count {
        at += rng.random_range(0..200);
        time += rng.random_range(-500..5000);
        if rng.random_bool(0.1) && !matches!(items.last(), Some(Item::Idle { .. })) {
            items.push(Item::Idle { lsn: at, time });
            continue;
        }
        let end = at + rng.random_range(8..90);
        let xid = 700 + number as u32;
        let mut messages = vec![begin(at, time, xid)];
        let rows = if rng.random_bool(0.1) { rng.random_range(0..largest) } else { rng.random_range(0..5) };
        for _ in 0..rows {
            let table = rng.random_range(0..told.len());
            let oid = 16_384 + table as u32;
            if told[table].is_none() || rng.random_bool(0.02) {
                let variant = rng.random_range(0..3);
                told[table] = Some(variant);
                messages.push(relation(oid, variant));
            }
            let row: Vec<u8> = (0..rng.random_range(0..60)).map(|_| rng.random_range(b'a'..=b'f')).collect();
            messages.push(match rng.random_range(0..20) {
                0 => truncate(&[oid]),
                1 => logical(true, at, "backwhen.mark", &format!("{{\"name\":\"m{number}\"}}")),
                2 => logical(true, at, "backwhen.sequences", "{\"a\":1}"),
                3..6 => change(b'U', oid, &row),
                6..8 => change(b'D', oid, &row),
                _ => change(b'I', oid, &row),
            });
        }
        messages.push(commit(at, end, time));
        items.push(Item::Transaction { commit: at, end, messages });
        at = end;
    }
    items
}

pub(super) fn open(folder: &Path) -> (Writer, super::super::RecoveredJournal) {
    open_writer(folder, HISTORY, 1, START, &Authorship::Unkeyed).unwrap()
}

/// Takes everything that can be taken.
pub(super) fn drain(builder: &mut BlockBuilder, writer: &mut Writer) {
    while let Some(block) = builder.take_complete() {
        writer.write(block).unwrap();
    }
}

/// What one segment gives back between two positions, and the Relation messages in force, by
/// reading as recovery does.
pub(super) fn read(path: &Path, after: Lsn, until: Lsn) -> (Vec<Item>, Vec<Vec<u8>>) {
    read_segment(&open_segment(path, &Authorship::Unkeyed).unwrap(), after, until)
}

pub(super) fn read_segment(segment: &Segment, after: Lsn, until: Lsn) -> (Vec<Item>, Vec<Vec<u8>>) {
    let mut items = Vec::new();
    let mut relations = Vec::new();
    let mut messages: Vec<Vec<u8>> = Vec::new();
    segment
        .read(after, until, &mut |event| {
            match event {
                Event::Relation(message) => {
                    assert!(messages.is_empty());
                    relations.push(message.to_vec());
                }
                Event::Idle { lsn, time } => {
                    assert!(messages.is_empty());
                    items.push(Item::Idle { lsn: lsn.0, time: time.0 });
                }
                Event::Message(message) => {
                    messages.push(message.to_vec());
                    if message[0] == b'R' {
                        relations.push(message.to_vec());
                    }
                    if message[0] == b'C' {
                        let u64_at = |at: usize| u64::from_be_bytes(message[at..at + 8].try_into().unwrap());
                        let messages = std::mem::take(&mut messages);
                        items.push(Item::Transaction { commit: u64_at(2), end: u64_at(10), messages });
                    }
                }
            }
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    assert!(messages.is_empty(), "a transaction was cut off");
    (items, relations)
}

/// Everything in a folder, in order.
pub(super) fn read_all(folder: &Path) -> Vec<Item> {
    segments(folder).iter().flat_map(|path| read(path, Lsn::ZERO, Lsn::MAX).0).collect()
}
