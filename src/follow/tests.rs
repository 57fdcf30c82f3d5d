//! The events of a small journal, in their order.

use std::sync::Arc;

use serde::Serialize;
use serde_json::json;
use tempfile::TempDir;

use super::{Event, EventKind, Follow, JournalRange, Row, RowChange, TableChange};
use crate::history::FORMAT;
use crate::history::checkpoint::{Checkpoint, TableEntry};
use crate::history::image::TableImage;
use crate::history::journal::{BlockBuilder, Journal, Writer};
use crate::history::key::Authorship;
use crate::history::segments::Segments;
use crate::history::timeline::SegmentView;
use crate::model::{ColumnFacts, Lsn, PgTime, Table, TableFacts};
use crate::signal::key::{MessageKey, SIGNED};
use crate::signal::{
    DEFINITION, DefinedTable, DefinitionSignal, HEARTBEAT, HeartbeatSignal, MARK, MarkSignal, ROLES, ROWS,
    RolesSignal, SEQUENCES, SequenceSample,
};

const INT4: u32 = 23;
const TEXT: u32 = 25;

/// The columns of a table: its number, its name, and its type.
type Columns<'a> = &'a [(i16, &'a str, u32)];

const ORDERS: Columns<'_> = &[(1, "id", INT4), (2, "note", TEXT)];

fn facts(oid: u32, name: &str, columns: Columns<'_>) -> TableFacts {
    let column = |(number, name, type_oid): &(i16, &str, u32)| ColumnFacts {
        number: *number,
        name: (*name).into(),
        type_oid: *type_oid,
        modifier: -1,
        ..ColumnFacts::default()
    };
    TableFacts {
        oid,
        schema: "public".into(),
        name: name.into(),
        persistence: 'p',
        replica_identity: 'd',
        identity: Some(vec![1]),
        columns: columns.iter().map(column).collect(),
        ..TableFacts::default()
    }
}

fn table(oid: u32, name: &str, columns: Columns<'_>) -> Table {
    facts(oid, name, columns).table(|_| String::new())
}

fn base(tables: &[Table]) -> Checkpoint {
    let database =
        json!({"server_major": 15, "encoding": "UTF8", "collate": "C", "ctype": "C", "provider": "c"});
    let schema = json!({
        "lsn": Lsn(1), "time": PgTime(0), "archive": "0".repeat(64), "globals": null, "pg_dump_major": 15,
        "server_version": "15", "database": database, "roles": [], "materialized_views": [], "large_objects": 0,
        "left_out": [], "fingerprint": ""
    });
    let entry = |table: &Table| TableEntry { table: table.clone(), image: TableImage::default() };
    let manifest = json!({
        "format": FORMAT, "id": "base", "epoch": 1, "lsn": Lsn(1), "time": PgTime(0), "label": null,
        "origin": "source", "base": null, "tables": tables.iter().map(entry).collect::<Vec<_>>(), "schema": schema,
        "sequences": [], "sequences_sampled": Lsn(1), "bytes_new": 0, "bytes_total": 0, "inexact": []
    });
    serde_json::from_value(manifest).unwrap()
}

fn key() -> MessageKey {
    MessageKey::new("a secret", SIGNED)
}

/// A tuple: `~` stands for NULL, `^` for a value that the stream leaves out.
fn tuple(values: &[&str]) -> Vec<u8> {
    let mut bytes = (values.len() as u16).to_be_bytes().to_vec();
    for value in values {
        match *value {
            "~" => bytes.push(b'n'),
            "^" => bytes.push(b'u'),
            text => {
                bytes.push(b't');
                bytes.extend((text.len() as u32).to_be_bytes());
                bytes.extend(text.as_bytes());
            }
        }
    }
    bytes
}

fn relation(oid: u32, name: &str, columns: Columns<'_>) -> Vec<u8> {
    let mut message = [&b"R"[..], &oid.to_be_bytes(), b"public\0", name.as_bytes(), b"\0d"].concat();
    message.extend((columns.len() as u16).to_be_bytes());
    for (number, name, type_oid) in columns {
        message.push(u8::from(*number == 1));
        message.extend([name.as_bytes(), b"\0"].concat());
        message.extend([type_oid.to_be_bytes(), (-1_i32).to_be_bytes()].concat());
    }
    message
}

fn insert(oid: u32, new: &[&str]) -> Vec<u8> {
    [&b"I"[..], &oid.to_be_bytes(), b"N", &tuple(new)].concat()
}

/// `old` begins with `K` for a key or `O` for a whole row.
fn update(oid: u32, old: Option<(&str, &[&str])>, new: &[&str]) -> Vec<u8> {
    let old = old.map(|(kind, old)| [kind.as_bytes(), &tuple(old)].concat()).unwrap_or_default();
    [&b"U"[..], &oid.to_be_bytes(), &old, b"N", &tuple(new)].concat()
}

fn delete(oid: u32, old: &[&str]) -> Vec<u8> {
    [&b"D"[..], &oid.to_be_bytes(), b"K", &tuple(old)].concat()
}

fn truncate(oids: &[u32], flags: u8) -> Vec<u8> {
    let mut message = [&b"T"[..], &(oids.len() as u32).to_be_bytes(), &[flags]].concat();
    message.extend(oids.iter().flat_map(|oid| oid.to_be_bytes()));
    message
}

fn logical(prefix: &str, content: &[u8]) -> Vec<u8> {
    let mut message = [&b"M\x01"[..], &[0; 8], prefix.as_bytes(), b"\0"].concat();
    message.extend((content.len() as u32).to_be_bytes());
    message.extend(content);
    message
}

fn signed(prefix: &str, xid: u32, body: &[u8]) -> Vec<u8> {
    logical(prefix, &key().sign(prefix, u64::from(xid), body))
}

fn signal(prefix: &str, xid: u32, signal: &impl Serialize) -> Vec<u8> {
    signed(prefix, xid, &serde_json::to_vec(signal).unwrap())
}

fn definition(xid: u32, tag: &str, tables: Vec<(TableFacts, bool)>, dropped: &[u32]) -> Vec<u8> {
    let defined = |(facts, image)| DefinedTable { facts, published: true, image };
    let tables = tables.into_iter().map(defined).collect();
    let body = DefinitionSignal { tag: tag.into(), tables, dropped: dropped.to_vec(), ..Default::default() };
    signal(DEFINITION, xid, &body)
}

/// A journal of one epoch, of which the first transaction is committed at 100, the second one at 200 and so on.
struct SmallJournal {
    _folder: TempDir,
    segments: Vec<SegmentView>,
}

impl SmallJournal {
    /// `roll_after`: the number of transactions after which a segment ends.
    fn new(transactions: &[Vec<Vec<u8>>], block_size: usize, roll_after: usize) -> SmallJournal {
        let folder = tempfile::tempdir().unwrap();
        let place = Journal::in_folder(folder.path(), &Authorship::Unkeyed);
        let (mut writer, _) = Writer::open(&place, [7; 16], 1, Lsn(1)).unwrap();
        let mut builder = BlockBuilder::with_size(Lsn(1), block_size);
        for (number, messages) in transactions.iter().enumerate() {
            let (lsn, xid) = ((number as u64 + 1) * 100, number as u32 + 1);
            let begin = [&b"B"[..], &lsn.to_be_bytes(), &lsn.to_be_bytes(), &xid.to_be_bytes()].concat();
            let end = [&b"C\0"[..], &[lsn, lsn + 10, lsn].map(u64::to_be_bytes).concat()].concat();
            for message in [begin].iter().chain(messages).chain(&[end]) {
                builder.push(message).unwrap();
                while let Some(block) = builder.take_full() {
                    writer.write(block).unwrap();
                }
            }
            if (number + 1) % roll_after == 0 || number + 1 == transactions.len() {
                while let Some(block) = builder.take_complete() {
                    writer.write(block).unwrap();
                }
                writer.sync().unwrap();
                writer.roll_now().unwrap();
            }
        }
        let table = Arc::new(Segments::new(&place));
        let names = place.list().unwrap();
        let segments = names.into_iter().map(|name| SegmentView::scan(name, &table).unwrap()).collect();
        SmallJournal { _folder: folder, segments }
    }

    fn range(&self, after: u64, until: u64) -> JournalRange<'_> {
        JournalRange { segments: &self.segments, after: Lsn(after), until: Lsn(until) }
    }
}

fn text(row: Row<'_>) -> String {
    String::from_utf8_lossy(row.line).replace('\t', "|")
}

/// An event in one line.
fn shown(event: &Event<'_>) -> String {
    let columns = |table: &Table| {
        let names: Vec<_> = table.columns.iter().map(|column| column.name.as_str()).collect();
        format!("{}({})", table.name, names.join(","))
    };
    let names = |tables: &[Arc<Table>]| tables.iter().map(|it| it.name.clone()).collect::<Vec<_>>().join(",");
    let table_change = |change: &TableChange| match change {
        TableChange::Create { table } => format!(" creates {}", columns(table)),
        TableChange::Alter { before, now, reshape } => {
            let reshaped = if reshape.is_some() { ", reshaped" } else { "" };
            format!(" alters {} to {}{reshaped}", columns(before), columns(now))
        }
        TableChange::Rewrite { now, .. } => format!(" rewrites {}", columns(now)),
        TableChange::Drop { table } => format!(" drops {}", table.name),
    };
    let what = match &event.kind {
        EventKind::Row { table, change } => match change {
            RowChange::Insert { new } => format!("insert {} {}", columns(table), text(*new)),
            RowChange::Update { old, new } => {
                let old = old.map_or("?".into(), text);
                format!("update {} {old} -> {}", columns(table), text(*new))
            }
            RowChange::Delete { old } => format!("delete {} {}", columns(table), text(*old)),
            RowChange::Given { new } => format!("given {} {}", columns(table), text(*new)),
        },
        EventKind::Truncate { tables, restarts_sequences } => {
            format!("truncate {} {restarts_sequences}", names(tables))
        }
        EventKind::Replace { table } => format!("replace {}", table.name),
        EventKind::Definition { change, tables } => {
            change.signal.tag.clone() + &tables.iter().map(table_change).collect::<String>()
        }
        EventKind::Heartbeat(signal) => format!("heartbeat {}", signal.fingerprint.as_deref().unwrap_or("-")),
        EventKind::Sequences(sample) => format!("sample {}", sample.sampled.0),
        EventKind::Roles(signal) => format!("roles {}", signal.digest),
        EventKind::Mark(signal) => format!("mark {}", signal.name),
        EventKind::Commit => "commit".into(),
    };
    let transaction = event.transaction;
    assert_eq!(
        (transaction.end_lsn.0, transaction.time.0),
        (transaction.lsn.0 + 10, transaction.lsn.0 as i64)
    );
    assert_eq!(u64::from(transaction.xid) * 100, transaction.lsn.0);
    format!("{} {what}", transaction.xid)
}

fn rest(follow: &mut Follow<'_>) -> Vec<String> {
    let mut found = Vec::new();
    while let Some(event) = follow.next_event().unwrap() {
        found.push(shown(&event));
    }
    found
}

fn events(transactions: &[Vec<Vec<u8>>], tables: &[Table]) -> Vec<String> {
    let journal = SmallJournal::new(transactions, 1 << 20, usize::MAX);
    rest(&mut Follow::new(&base(tables), journal.range(1, u64::MAX), &key(), &|_| true))
}

#[test]
fn rows_come_with_what_is_known_of_them_before_and_after() {
    let orders = table(16, "orders", ORDERS);
    let changes = vec![
        relation(16, "orders", ORDERS),
        insert(16, &["1", "a\tb"]),
        update(16, None, &["1", "^"]),
        update(16, Some(("K", &["1", "~"])), &["2", "^"]),
        update(16, Some(("O", &["2", "c"])), &["2", "^"]),
        delete(16, &["2", "~"]),
        truncate(&[16, 99], 2),
    ];
    let expected = [
        r"1 insert orders(id,note) 1|a\tb",
        r"1 update orders(id,note) ? -> 1|\H",
        r"1 update orders(id,note) 1|\H -> 2|\H",
        r"1 update orders(id,note) 2|c -> 2|c",
        r"1 delete orders(id,note) 2|\H",
        "1 truncate orders true",
        "1 commit",
    ];
    assert_eq!(events(&[changes], &[orders]), expected);
}

#[test]
fn keys_are_those_of_the_row_before_and_after() {
    let changes = vec![relation(16, "orders", ORDERS), update(16, Some(("K", &["1", "~"])), &["2", "x"])];
    let journal = SmallJournal::new(&[changes], 1 << 20, usize::MAX);
    let base = base(&[table(16, "orders", ORDERS)]);
    let message_key = key();
    let mut follow = Follow::new(&base, journal.range(1, u64::MAX), &message_key, &|_| true);
    let event = follow.next_event().unwrap().unwrap();
    let EventKind::Row { change: RowChange::Update { old: Some(old), new }, .. } = event.kind else {
        panic!("{event:?}")
    };
    assert_ne!(old.key, new.key);
    assert!(old.key < new.key, "numbers are in order");
}

#[test]
fn tables_are_as_they_were_then() {
    let wider: Columns<'_> = &[(1, "id", INT4), (2, "note", TEXT), (3, "price", INT4)];
    let renamed: Columns<'_> = &[(1, "id", INT4), (2, "remark", TEXT), (3, "price", INT4)];
    let transactions = [
        vec![
            relation(16, "orders", ORDERS),
            insert(16, &["1", "a"]),
            definition(1, "ALTER TABLE", vec![(facts(16, "orders", wider), false)], &[]),
            relation(16, "orders", wider),
            insert(16, &["2", "b", "5"]),
        ],
        vec![
            definition(2, "ALTER TABLE", vec![(facts(16, "orders", renamed), false)], &[]),
            definition(2, "CREATE TABLE AS", vec![(facts(17, "copy", ORDERS), true)], &[]),
            signed(ROWS, 2, b"17 t\n7\tx\n8\ty\n"),
            signed(ROWS, 2, b"17 f\n9\tz\n"),
            relation(17, "copy", ORDERS),
            delete(17, &["7", "~"]),
        ],
        vec![
            definition(3, "ALTER TABLE", vec![(facts(17, "copy", ORDERS), true)], &[]),
            definition(3, "DROP TABLE", vec![], &[16]),
            insert(16, &["3", "c", "6"]),
        ],
    ];
    let expected = [
        "1 insert orders(id,note) 1|a",
        "1 ALTER TABLE alters orders(id,note) to orders(id,note,price), reshaped",
        "1 insert orders(id,note,price) 2|b|5",
        "1 commit",
        "2 ALTER TABLE alters orders(id,note,price) to orders(id,remark,price)",
        "2 CREATE TABLE AS creates copy(id,note)",
        "2 replace copy",
        "2 given copy(id,note) 7|x",
        "2 given copy(id,note) 8|y",
        "2 given copy(id,note) 9|z",
        r"2 delete copy(id,note) 7|\H",
        "2 commit",
        "3 ALTER TABLE rewrites copy(id,note)",
        "3 DROP TABLE drops orders",
        "3 commit",
    ];
    assert_eq!(events(&transactions, &[table(16, "orders", ORDERS)]), expected);
}

#[test]
fn our_own_messages_come_in_their_place_and_those_of_others_do_not() {
    let heartbeat = HeartbeatSignal { fingerprint: Some("1b".into()) };
    let sample = |sampled| SequenceSample { sampled: Lsn(sampled), ..SequenceSample::default() };
    let changes = vec![
        signal(HEARTBEAT, 1, &heartbeat),
        signal(SEQUENCES, 1, &sample(90)),
        // This one claims to be younger than the transaction that tells it.
        signal(SEQUENCES, 1, &sample(500)),
        signal(MARK, 1, &MarkSignal { name: "here".into() }),
        signal(ROLES, 1, &RolesSignal { digest: "2c".into(), globals: "0a".into() }),
        // These were written without the key, by another transaction, and by another program.
        logical(HEARTBEAT, br#"{"fingerprint":"2"}"#),
        signal(HEARTBEAT, 2, &heartbeat),
        logical(DEFINITION, br#"{"tag":"DROP TABLE","statement":{},"dropped":[16]}"#),
        logical("myapp", b"hello"),
        relation(16, "orders", ORDERS),
        insert(16, &["1", "a"]),
    ];
    let expected = [
        "1 heartbeat 1b",
        "1 sample 90",
        "1 mark here",
        "1 roles 2c",
        "1 insert orders(id,note) 1|a",
        "1 commit",
    ];
    assert_eq!(events(&[changes], &[table(16, "orders", ORDERS)]), expected);
}

#[test]
fn tables_that_nobody_wants_are_passed_over_and_unknown_ones_are_said() {
    let changes = vec![
        relation(16, "orders", ORDERS),
        insert(16, &["1", "a"]),
        relation(17, "logs", ORDERS),
        insert(17, &["2", "b"]),
        truncate(&[17], 0),
        relation(18, "unknown", ORDERS),
        // A description alone may be older than the base.
        relation(19, "old", ORDERS),
        insert(18, &["3", "c"]),
        definition(1, "CREATE TABLE", vec![(facts(20, "logs_2", ORDERS), false)], &[]),
        relation(20, "logs_2", ORDERS),
        insert(20, &["4", "d"]),
    ];
    let journal = SmallJournal::new(&[changes], 1 << 20, usize::MAX);
    let base = base(&[table(16, "orders", ORDERS), table(17, "logs", ORDERS)]);
    let (message_key, wanted) = (key(), |table: &Table| !table.name.starts_with("logs"));
    let mut follow = Follow::new(&base, journal.range(1, u64::MAX), &message_key, &wanted);
    assert_eq!(rest(&mut follow), ["1 insert orders(id,note) 1|a", "1 CREATE TABLE", "1 commit"]);
    let inexact: Vec<_> = follow.inexact().map(|it| it.what).collect();
    assert_eq!(inexact, ["public.unknown"]);
}

#[test]
fn a_range_is_the_same_however_the_journal_is_cut() {
    let orders = table(16, "orders", ORDERS);
    let one = |number: usize| {
        let id = number.to_string();
        let note = "n".repeat(40);
        let rows = (0..number % 5).map(|_| insert(16, &[&id, &note]));
        std::iter::once(relation(16, "orders", ORDERS)).chain(rows).collect()
    };
    let transactions: Vec<Vec<Vec<u8>>> = (1..=30).map(one).collect();
    let whole = events(&transactions, std::slice::from_ref(&orders));
    let number = |event: &String| event.split_once(' ').unwrap().0.parse::<u64>().unwrap();
    let within: Vec<_> = whole.iter().filter(|event| (8..21).contains(&number(event))).cloned().collect();
    let base = base(&[orders]);
    let message_key = key();
    // A transaction may span blocks, and begin in a segment's first one.
    for (block_size, roll_after) in [(1 << 20, 7), (100, usize::MAX), (100, 1), (300, 4)] {
        let journal = SmallJournal::new(&transactions, block_size, roll_after);
        let mut follow = Follow::new(&base, journal.range(800, 2100), &message_key, &|_| true);
        assert_eq!(rest(&mut follow), within, "blocks of {block_size}, segments of {roll_after}");
        assert!(follow.blocks_read() > 0);
    }
}

#[test]
fn beyond_the_range_only_messages_truncates_and_commits_come() {
    let wider: Columns<'_> = &[(1, "id", INT4), (2, "note", TEXT), (3, "price", INT4)];
    let transactions = [
        vec![relation(16, "orders", ORDERS), insert(16, &["1", "a"])],
        vec![
            definition(2, "ALTER TABLE", vec![(facts(16, "orders", wider), false)], &[]),
            relation(16, "orders", wider),
            insert(16, &["2", "b", "5"]),
            signed(ROWS, 2, b"16 t\n7\tx\t1\n"),
            truncate(&[16], 0),
            signal(HEARTBEAT, 2, &HeartbeatSignal { fingerprint: None }),
        ],
    ];
    let journal = SmallJournal::new(&transactions, 1 << 20, usize::MAX);
    let base = base(&[table(16, "orders", ORDERS)]);
    let message_key = key();
    let mut follow = Follow::new(&base, journal.range(1, 200), &message_key, &|_| true);
    assert_eq!(rest(&mut follow), ["1 insert orders(id,note) 1|a", "1 commit"]);
    follow.go_beyond();
    let expected = ["2 ALTER TABLE", "2 truncate orders false", "2 heartbeat -", "2 commit"];
    assert_eq!(rest(&mut follow), expected);
    assert_eq!(follow.table(16).unwrap().columns.len(), 2, "the tables stay as they were");
    assert_eq!(follow.inexact().count(), 0, "and what comes later makes nothing inexact");
}

#[test]
fn a_row_that_cannot_be_its_tables_is_an_error() {
    let described = || relation(16, "orders", ORDERS);
    let cases = [
        vec![insert(16, &["1", "a"])],
        vec![described(), insert(16, &["1"])],
        vec![described(), insert(16, &["~", "a"])],
        vec![described(), delete(16, &["~", "~"])],
        vec![signed(ROWS, 1, b"16 t\n7\n")],
    ];
    for changes in cases {
        let journal = SmallJournal::new(std::slice::from_ref(&changes), 1 << 20, usize::MAX);
        let base = base(&[table(16, "orders", ORDERS)]);
        let message_key = key();
        let mut follow = Follow::new(&base, journal.range(1, u64::MAX), &message_key, &|_| true);
        let error = loop {
            match follow.next_event() {
                Ok(event) => assert!(event.is_some(), "{changes:?}"),
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains("the transaction at 0/64"), "{error}");
    }
}
