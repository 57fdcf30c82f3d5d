//! Measures single parts of backwhen: codec, blocks, index of keys, fold. Run by `make bench-micro`.
//!
//! All benchmarks use one table like pgbench's accounts: three integers and 84 characters.

#![allow(clippy::disallowed_methods, reason = "tests spoil files and wait for clocks by themselves")]

use std::hint::black_box;
use std::sync::Arc;

use backwhen::codec::copy_binary::BinaryRows;
use backwhen::codec::key::KeyShape;
use backwhen::codec::{copy_text, pgoutput};
use backwhen::fold;
use backwhen::history::catalog::Catalog;
use backwhen::history::checkpoint::{Checkpoint, TableEntry};
use backwhen::history::image::{
    BlockEntry, Blocks, Cuts, ImageBuilder, MemoryDirectory, Packs, TableImage, index, lines, read_index,
    read_rows,
};
use backwhen::history::journal::{BlockBuilder, Journal, Segment, Writer, seal};
use backwhen::history::key::Authorship;
use backwhen::history::segments::Segments;
use backwhen::history::timeline::SegmentView;
use backwhen::history::{FORMAT, History, Identity as HistoryIdentity, Source};
use backwhen::model::{Column, Grade, Lsn, PgTime, RowIdentity, Storage, Table};
use backwhen::progress::Silent;
use backwhen::signal::key::MessageKey;
use backwhen::store::{Folder, LocalFolder};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::json;
use tempfile::TempDir;

const OID: u32 = 16_384;
const ROWS: u64 = 100_000;
/// How many transactions the journal holds, each an update of one row.
const UPDATES: u64 = 50_000;
/// How many different rows the updates change, spread over the table.
const TOUCHED: u64 = 10_000;

fn accounts() -> Table {
    let column = |name: &str, number, type_oid| Column {
        name: name.into(),
        number,
        type_oid,
        type_modifier: -1,
        type_name: "t".into(),
    };
    Table {
        oid: OID,
        schema: "public".into(),
        name: "accounts".into(),
        columns: vec![
            column("aid", 1, 23),
            column("bid", 2, 23),
            column("abalance", 3, 23),
            column("filler", 4, 1042),
        ],
        generated: Vec::new(),
        identity: RowIdentity::Key(vec![0]),
        grade: Grade::Exact,
        storage: Storage::default(),
        partition_of: Vec::new(),
        in_stream: None,
    }
}

fn values(aid: u64, balance: u64) -> [String; 4] {
    let filler: String = (0..84).map(|at| char::from(b'a' + ((aid * 31 + at * at) % 26) as u8)).collect();
    [aid.to_string(), "1".into(), balance.to_string(), filler]
}

fn line(aid: u64) -> String {
    values(aid, 0).join("\t")
}

fn relation() -> Vec<u8> {
    let mut message = b"R".to_vec();
    message.extend_from_slice(&OID.to_be_bytes());
    message.extend_from_slice(b"public\0accounts\0d\0\x04");
    for (key, column) in [1, 0, 0, 0].into_iter().zip(accounts().columns) {
        message.push(key);
        message.extend_from_slice(column.name.as_bytes());
        message.push(0);
        message.extend_from_slice(&column.type_oid.to_be_bytes());
        message.extend_from_slice(&(-1_i32).to_be_bytes());
    }
    message
}

fn update(aid: u64, balance: u64) -> Vec<u8> {
    let mut message = b"U".to_vec();
    message.extend_from_slice(&OID.to_be_bytes());
    message.extend_from_slice(b"N\0\x04");
    for value in values(aid, balance) {
        message.push(b't');
        message.extend_from_slice(&(value.len() as u32).to_be_bytes());
        message.extend_from_slice(value.as_bytes());
    }
    message
}

/// Makes the Begin and Commit messages of the transaction with this number.
fn frame(number: u64) -> (Vec<u8>, Vec<u8>) {
    let (commit, end, time) = (1000 + number * 100, 1010 + number * 100, number * 1000);
    let mut begin = b"B".to_vec();
    begin.extend([commit, time].map(u64::to_be_bytes).concat());
    begin.extend((number as u32).to_be_bytes());
    let mut done = b"C\0".to_vec();
    done.extend([commit, end, time].map(u64::to_be_bytes).concat());
    (begin, done)
}

fn messages() -> Vec<Vec<u8>> {
    let one = |number: u64| {
        let (begin, commit) = frame(number);
        let update = update(number * 7919 % TOUCHED * (ROWS / TOUCHED), number);
        // The server describes a relation before the relation's first row.
        let described = (number == 0).then(relation);
        std::iter::once(begin).chain(described).chain([update, commit])
    };
    (0..UPDATES).flat_map(one).collect()
}

/// A history of one table in a temporary folder.
struct Fixture {
    history: History,
    catalog: Arc<Catalog>,
    base: Checkpoint,
    segments: Vec<SegmentView>,
    folder: TempDir,
}

impl Fixture {
    fn new() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("history");
        let _lock = History::prepare(&LocalFolder::plain(&root), "a benchmark").unwrap();
        let image = image(&root);
        let journal = Journal::in_folder(&root, &Authorship::Unkeyed);
        let (mut writer, _) = Writer::open(&journal, [7; 16], 1, Lsn(1)).unwrap();
        let mut builder = BlockBuilder::new(Lsn(1));
        for message in messages() {
            builder.push(&message).unwrap();
            while let Some(block) = builder.take_full() {
                writer.write(block).unwrap();
            }
        }
        writer.write(builder.take_complete().unwrap()).unwrap();
        writer.sync().unwrap();
        let finished = writer.roll_now().unwrap().unwrap();
        seal(&journal, finished).unwrap();
        let base = checkpoint(image);
        let history = History::found(&LocalFolder::plain(&root), identity(), Authorship::Unkeyed).unwrap();
        let catalog = Arc::new(Catalog::open(&history).unwrap());
        let table = Arc::new(Segments::new(&journal));
        let sealed = journal.list().unwrap().into_iter().filter(|name| name.sealed);
        let segments = sealed.map(|name| SegmentView::scan(name, &table).unwrap()).collect();
        Fixture { segments, history, catalog, base, folder }
    }

    fn fold(&self) -> fold::Folded {
        let store = self.history.shared_store();
        let blocks = Blocks::new(store, Arc::clone(&self.catalog) as Arc<_>);
        let request = fold::FoldInput {
            catalog: &self.catalog,
            blocks: &blocks,
            cuts: Cuts::Keyed([7; 32]),
            base: &self.base,
            until: Lsn::MAX,
            definitions_at: Lsn(0),
            segments: &self.segments,
            key: &MessageKey::new("", 0),
            wanted: &|_| true,
            rows_only: None,
            budget: 256 << 20,
            scratch: self.folder.path(),
            progress: &Silent,
        };
        fold::fold(&request).unwrap()
    }
}

fn image(root: &std::path::Path) -> TableImage {
    let known = Arc::new(MemoryDirectory::default());
    let packs = Packs::new(Arc::new(Folder::new(root)), known, Cuts::Keyed([7; 32]));
    let image = build(&packs);
    packs.finish().unwrap();
    image
}

fn build(packs: &Packs) -> TableImage {
    let shape = KeyShape::of(&accounts());
    let mut builder = ImageBuilder::new(packs);
    let mut key = Vec::new();
    for aid in 0..ROWS {
        let line = line(aid);
        key.clear();
        shape.push_key(line.as_bytes(), &mut key).unwrap();
        builder.push(&key, line.as_bytes()).unwrap();
    }
    builder.finish().unwrap()
}

fn identity() -> HistoryIdentity {
    HistoryIdentity {
        format: FORMAT,
        id: "07".repeat(16),
        created: PgTime(0),
        backwhen: "bench".into(),
        source: Source { connection: String::new(), system_identifier: "1".into(), database: "bench".into() },
        include: Vec::new(),
        exclude: Vec::new(),
        secret: String::new(),
        messages: 0,
        cuts: 0,
        event_triggers: None,
        key: None,
    }
}

/// Builds the checkpoint from JSON, as its manifest would hold it, so that a field added later cannot be missed here.
fn checkpoint(image: TableImage) -> Checkpoint {
    let database =
        json!({"server_major": 15, "encoding": "UTF8", "collate": "C", "ctype": "C", "provider": "c"});
    let schema = json!({
        "lsn": Lsn(1), "time": PgTime(0), "archive": "0".repeat(64), "globals": null, "pg_dump_major": 15,
        "server_version": "15", "database": database, "roles": [], "materialized_views": [], "large_objects": 0,
        "left_out": [], "fingerprint": ""
    });
    let manifest = json!({
        "format": FORMAT, "id": "bench", "epoch": 1, "lsn": Lsn(1), "time": PgTime(0), "label": null,
        "origin": "source", "base": null, "tables": [TableEntry { table: accounts(), image }], "schema": schema,
        "sequences": [], "sequences_sampled": Lsn(1), "bytes_new": 0, "bytes_total": 0, "inexact": []
    });
    serde_json::from_value(manifest).unwrap()
}

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    let (message, line) = (update(77, 5), line(77));
    group.throughput(Throughput::Elements(1));
    group.bench_function("pgoutput update", |bencher| bencher.iter(|| pgoutput::decode(black_box(&message))));
    let (value, mut out) = ("a value with\ta tab in its middle".repeat(3), Vec::new());
    group.bench_function("escape for copy text", |bencher| {
        bencher.iter(|| {
            out.clear();
            copy_text::push_escaped(&mut out, black_box(value.as_bytes()));
        });
    });
    let binary = BinaryRows::of(&accounts().columns).unwrap();
    group.bench_function("copy text to binary", |bencher| {
        bencher.iter(|| {
            out.clear();
            binary.push_row(black_box(line.as_bytes()), &mut out)
        });
    });
    let shape = KeyShape::of(&accounts());
    group.bench_function("key of a row", |bencher| {
        bencher.iter(|| {
            out.clear();
            shape.push_key(black_box(line.as_bytes()), &mut out)
        });
    });
    group.finish();
}

fn blocks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("blocks");
    group.sample_size(10);
    group.throughput(Throughput::Elements(ROWS));
    group.bench_function("image written", |bencher| {
        bencher.iter_with_large_drop(|| {
            let folder = tempfile::tempdir().unwrap();
            image(folder.path());
            folder
        });
    });
    let folder = tempfile::tempdir().unwrap();
    let written = image(folder.path());
    let store = Arc::new(Folder::new(folder.path()));
    let directory = MemoryDirectory::scan(&*store).unwrap();
    let blocks = Blocks::new(store, Arc::new(directory));
    group.bench_function("image read, line by line", |bencher| {
        bencher.iter(|| {
            let entries = read_index(&blocks, &written.index).unwrap();
            let rows = entries.iter().map(|entry| lines(&read_rows(&blocks, entry).unwrap()).count());
            assert_eq!(rows.sum::<usize>() as u64, ROWS);
        });
    });
    group.finish();
}

fn key_index(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let written = image(folder.path());
    let store = Arc::new(Folder::new(folder.path()));
    let directory = MemoryDirectory::scan(&*store).unwrap();
    let blocks = Blocks::new(store, Arc::new(directory));
    let sample = read_index(&blocks, &written.index).unwrap().remove(0);
    let entry = |number: u64| BlockEntry { first_key: number.to_be_bytes().to_vec(), ..sample.clone() };
    let entries: Vec<_> = (0..20_000).map(entry).collect();
    let encoded = index::encode(&entries);
    let mut group = criterion.benchmark_group("key index of 20,000 blocks");
    group.bench_function("decode", |bencher| bencher.iter(|| index::decode(black_box(&encoded))));
    let key = 12_345_u64.to_be_bytes();
    group.bench_function("look a key up", |bencher| {
        bencher.iter(|| index::covering(black_box(&entries), black_box(&key)))
    });
    group.finish();
}

fn folding(criterion: &mut Criterion) {
    let fixture = Fixture::new();
    let mut group = criterion.benchmark_group("fold");
    group.sample_size(10);
    group.throughput(Throughput::Elements(UPDATES));
    group.bench_function("journal decoded", |bencher| {
        let segment = Segment::open(fixture.history.journal(), fixture.segments[0].name).unwrap();
        bencher.iter(|| {
            let blocks = segment.blocks(Lsn(1), Lsn::MAX);
            blocks.map(|block| block.unwrap().events().count()).sum::<usize>()
        });
    });
    group.bench_function("journal folded", |bencher| {
        bencher.iter(|| assert_eq!(fixture.fold().changes, UPDATES));
    });
    group.bench_function("folded and merged with the image", |bencher| {
        bencher.iter(|| {
            let sums = fixture.fold().tables.into_iter().map(|table| table.tally().unwrap().rows);
            assert_eq!(sums.sum::<u64>(), ROWS);
        });
    });
    group.finish();
}

criterion_group!(parts, codec, blocks, key_index, folding);
criterion_main!(parts);
