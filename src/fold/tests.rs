//! Rows by key range and by column, against a model of the whole table.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{FoldedTable, KeyRange, Portion, Tally};
use crate::codec::key::KeyShape;
use crate::error::Result;
use crate::follow::{Row, RowChange};
use crate::history::checkpoint::TableEntry;
use crate::history::image::{
    BlockDirectory, BlockId, Blocks, Cuts, ImageBuilder, Location, MemoryDirectory, Packs, ScratchImages,
    lines,
};
use crate::model::{Column, Grade, RowIdentity, Storage, Table};

/// Rows of the image, enough for several blocks.
const ROWS: u64 = 20_000;

fn table(identity: RowIdentity) -> Table {
    let column = |name: &str, number, type_oid| Column {
        name: name.into(),
        number,
        type_oid,
        type_modifier: -1,
        type_name: "t".into(),
    };
    Table {
        oid: 16_384,
        schema: "public".into(),
        name: "accounts".into(),
        columns: vec![column("id", 1, 23), column("balance", 2, 23), column("filler", 3, 25)],
        generated: Vec::new(),
        identity,
        grade: Grade::Exact,
        storage: Storage::default(),
        in_stream: None,
        partition_of: Vec::new(),
    }
}

fn line(id: u64, balance: u64) -> Vec<u8> {
    // No two neighbours are alike, and no row compresses to nothing.
    let filler: String = (0..90).map(|at| char::from(b'a' + ((id * 31 + at * at) % 26) as u8)).collect();
    format!("{id}\t{balance}\t{filler}").into_bytes()
}

/// Counts the blocks that are looked up, which are those that are read.
struct Counting {
    inner: MemoryDirectory,
    reads: AtomicUsize,
}

impl BlockDirectory for Counting {
    fn locate(&self, id: &BlockId) -> Result<Option<Location>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.inner.locate(id)
    }
}

/// A table's image, and changes since.
struct Fixture {
    _scratch: ScratchImages,
    entry: TableEntry,
    blocks: Blocks,
    directory: Arc<Counting>,
    shape: KeyShape,
    /// The rows by key, after the changes; equal rows as often as they are there.
    expected: BTreeMap<Vec<u8>, (Vec<u8>, usize)>,
    changes: Vec<Change>,
}

/// A change in owned form: the key and line before, if any, and those after, if any.
type Change = (Option<(Vec<u8>, Vec<u8>)>, Option<(Vec<u8>, Vec<u8>)>);

impl Fixture {
    fn new(identity: RowIdentity) -> Fixture {
        let scratch = ScratchImages::new(&std::env::temp_dir()).unwrap();
        let table = table(identity);
        let shape = KeyShape::of(&table);
        let mut expected = BTreeMap::new();
        for id in 0..ROWS {
            let line = line(id * 10, 0);
            let count = if shape == KeyShape::WholeRow && id % 5 == 0 { 3 } else { 1 };
            expected.insert(key(&shape, &line), (line, count));
        }
        let store = Arc::clone(scratch.store());
        let packs = Packs::new(Arc::clone(&store), Arc::new(MemoryDirectory::default()), Cuts::Common);
        let mut builder = ImageBuilder::new(&packs);
        for (key, (line, count)) in &expected {
            (0..*count).for_each(|_| builder.push(key, line).unwrap());
        }
        let image = builder.finish().unwrap();
        packs.finish().unwrap();
        let inner = MemoryDirectory::scan(&*store).unwrap();
        let directory = Arc::new(Counting { inner, reads: AtomicUsize::new(0) });
        let blocks = Blocks::new(store, Arc::clone(&directory) as Arc<_>);
        let entry = TableEntry { table, image };
        Fixture { _scratch: scratch, entry, blocks, directory, shape, expected, changes: Vec::new() }
    }

    /// Inserts, updates, moves and deletes rows in a stretch of the table.
    fn change(&mut self, rng: &mut StdRng, count: usize) {
        for _ in 0..count {
            let id = rng.random_range(0..ROWS / 2) * 10;
            let known: Vec<_> = self.expected.range(key(&self.shape, &line(id, 0))..).take(1).collect();
            let old = known.first().map(|(key, (line, _))| ((*key).clone(), line.clone()));
            match rng.random_range(0..4) {
                0 => self.put(None, Some(line(id + 5, 1))),
                1 => self.put(old, None),
                2 => self.put(old.clone(), old.map(|(_, line)| with_balance(&line, 7))),
                _ => self.put(old.clone(), old.map(|(_, line)| with_id(&line, id + 3))),
            }
        }
    }

    fn put(&mut self, old: Option<(Vec<u8>, Vec<u8>)>, new: Option<Vec<u8>>) {
        if let Some((key, _)) = &old {
            let (_, count) = self.expected.get_mut(key).unwrap();
            *count -= 1;
            self.expected.retain(|_, (_, count)| *count > 0);
        }
        let is_keyed = self.shape != KeyShape::WholeRow;
        let new = new.map(|line| (key(&self.shape, &line), line));
        if let Some((key, line)) = &new {
            let known = self.expected.entry(key.clone()).or_insert_with(|| (line.clone(), 0));
            *known = (line.clone(), if is_keyed { 1 } else { known.1 + 1 });
        }
        self.changes.push((old, new));
    }

    fn folded(&self) -> FoldedTable {
        let mut folded = FoldedTable::new(&self.entry, &self.blocks);
        let row = |(key, line): &(Vec<u8>, Vec<u8>)| (key.clone(), line.clone());
        for (old, new) in &self.changes {
            let (old, new) = (old.as_ref().map(row), new.as_ref().map(row));
            let old = old.as_ref().map(|(key, line)| Row { key, line });
            // The filler is stored out of line, so an update of another column does not carry it.
            let has_hole = old.is_some() && self.shape != KeyShape::WholeRow;
            let hole = |line: Vec<u8>| if has_hole { with_column(&line, 2, b"\\H") } else { line };
            let new = new.map(|(key, line)| (key, hole(line)));
            let change = match (old, new.as_ref().map(|(key, line)| Row { key, line })) {
                (None, Some(new)) => RowChange::Insert { new },
                (Some(old), Some(new)) => RowChange::Update { old: Some(old), new },
                (Some(old), None) => RowChange::Delete { old },
                (None, None) => continue,
            };
            folded.apply(change).unwrap();
        }
        folded
    }

    /// The lines of a range, and the number of blocks that were read for them beside the list of blocks.
    fn read(&self, range: KeyRange) -> (Vec<Vec<u8>>, usize) {
        let before = self.directory.reads.load(Ordering::Relaxed);
        let found = read(self.folded(), range);
        (found, self.directory.reads.load(Ordering::Relaxed) - before - 1)
    }

    fn expected(&self, from: &[u8], to: Option<&[u8]>) -> Vec<Vec<u8>> {
        let to = to.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = self.expected.range::<[u8], _>((Bound::Included(from), to));
        rows.flat_map(|(_, (line, count))| vec![line.clone(); *count]).collect()
    }
}

fn key(shape: &KeyShape, line: &[u8]) -> Vec<u8> {
    let mut key = Vec::new();
    shape.push_key(line, &mut key).unwrap();
    key
}

fn with_column(line: &[u8], number: usize, value: &[u8]) -> Vec<u8> {
    let mut columns: Vec<_> = line.split(|byte| *byte == b'\t').collect();
    columns[number] = value;
    columns.join(&b'\t')
}

fn with_balance(line: &[u8], balance: u64) -> Vec<u8> {
    with_column(line, 1, balance.to_string().as_bytes())
}

fn with_id(line: &[u8], id: u64) -> Vec<u8> {
    with_column(line, 0, id.to_string().as_bytes())
}

/// All lines, whatever the form in which they come.
fn read(folded: FoldedTable, range: KeyRange) -> Vec<Vec<u8>> {
    let mut rows = folded.rows(range, None).unwrap();
    let mut found: Vec<Vec<u8>> = Vec::new();
    let is_whole = |portion: &Portion<'_>| matches!(portion, Portion::Block(_));
    while let Some(portion) = rows.next_portion().unwrap() {
        match &portion {
            Portion::Kept(kept) => found.extend(lines(kept).map(<[u8]>::to_vec)),
            Portion::Row { line, .. } => found.push(line.to_vec()),
            Portion::Block(_) | Portion::ChangedBlock(_) | Portion::Gone(_) => {}
        }
        if is_whole(&portion) {
            let raw = rows.read_block().unwrap();
            found.extend(lines(&raw).map(<[u8]>::to_vec));
        }
    }
    found
}

fn seeds() -> Vec<u64> {
    let given = std::env::var("BACKWHEN_TEST_SEED").ok().and_then(|text| text.parse().ok());
    given.map_or_else(|| (0..3).collect(), |seed| vec![seed])
}

#[test]
fn a_range_of_keys_is_that_part_of_the_whole() {
    for identity in [RowIdentity::Key(vec![0]), RowIdentity::WholeRow] {
        for seed in seeds() {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut fixture = Fixture::new(identity.clone());
            fixture.change(&mut rng, 60);
            let whole = fixture.read(KeyRange::all()).0;
            assert_eq!(whole, fixture.expected(&[], None), "{identity:?}, BACKWHEN_TEST_SEED={seed}");
            let keys: Vec<_> = fixture.expected.keys().cloned().collect();
            for number in 0..12 {
                let mut pick = || keys[rng.random_range(0..keys.len())].clone();
                let (one, other) = (pick(), pick());
                let (from, to) = if one < other { (one, other) } else { (other, one) };
                let to = (number % 4 > 0).then_some(&*to);
                let (found, _) = fixture.read(KeyRange::between(&from, to));
                let case = format!("{identity:?}, range {number}, BACKWHEN_TEST_SEED={seed}");
                assert_eq!(found, fixture.expected(&from, to), "{case}");
            }
        }
    }
}

#[test]
fn one_key_costs_one_block_and_the_whole_costs_all() {
    let mut fixture = Fixture::new(RowIdentity::Key(vec![0]));
    let count = FoldedTable::new(&fixture.entry, &fixture.blocks).index().unwrap().len();
    assert!(count > 3, "{count}");
    let untouched = line(ROWS * 10 - 1000, 0);
    for _ in 0..2 {
        let range = KeyRange::of(&key(&fixture.shape, &untouched));
        assert_eq!(fixture.read(range), (vec![untouched.clone()], 1));
        assert_eq!(fixture.read(KeyRange::all()).1, count);
        // An update in place; the value of a row that moved would be looked for under the row's old key, too.
        let old = line(0, 0);
        let new = with_balance(&old, 7);
        fixture.put(Some((key(&fixture.shape, &old), old)), Some(new));
    }
    let index = FoldedTable::new(&fixture.entry, &fixture.blocks).index().unwrap();
    let range = KeyRange::between(&index[1].first_key, Some(&index[3].first_key));
    assert_eq!(fixture.read(range).1, 2, "a range that ends where a block begins does not need that block");
    let none = KeyRange::between(&[], Some(&index[0].first_key));
    assert_eq!(fixture.read(none), (Vec::new(), 0));
}

#[test]
fn some_keys_are_found_in_the_blocks_that_may_hold_them() {
    for identity in [RowIdentity::Key(vec![0]), RowIdentity::WholeRow] {
        for seed in seeds() {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut fixture = Fixture::new(identity.clone());
            for changes in [0, 60] {
                fixture.change(&mut rng, changes);
                let held: Vec<_> = fixture.expected.keys().cloned().collect();
                let mut keys: BTreeSet<_> =
                    (0..8).map(|_| held[rng.random_range(0..held.len())].clone()).collect();
                keys.extend((1..4).map(|id| key(&fixture.shape, &line(id, 3))));
                let before = fixture.directory.reads.load(Ordering::Relaxed);
                let mut found = Vec::new();
                let folded = fixture.folded();
                let take = |_: &[u8], line: &[u8]| {
                    found.push(line.to_vec());
                    Ok(())
                };
                folded.find(&Vec::from_iter(&keys), take).unwrap();
                let reads = fixture.directory.reads.load(Ordering::Relaxed) - before - 1;
                let wanted = fixture.expected.iter().filter(|(key, _)| keys.contains(*key));
                let wanted: Vec<_> =
                    wanted.flat_map(|(_, (line, count))| vec![line.clone(); *count]).collect();
                assert_eq!(found, wanted, "{identity:?}, BACKWHEN_TEST_SEED={seed}");
                // A row that moved is also looked for under its old key.
                assert!(reads <= 2 * keys.len(), "{reads} blocks for {} keys", keys.len());
            }
        }
    }
}

#[test]
fn a_tally_reads_only_the_blocks_that_changed() {
    let mut fixture = Fixture::new(RowIdentity::Key(vec![0]));
    let (old, new) = (line(0, 0), line(0, 5));
    fixture.put(Some((key(&fixture.shape, &old), old)), Some(new));
    let before = fixture.directory.reads.load(Ordering::Relaxed);
    let tally = fixture.folded().tally().unwrap();
    assert_eq!(
        fixture.directory.reads.load(Ordering::Relaxed) - before,
        2,
        "the list of blocks, and one block"
    );
    let mut expected = Tally::default();
    fixture.expected(&[], None).iter().for_each(|line| expected.add(line));
    assert_eq!(tally, expected);
}

#[test]
fn only_the_columns_that_are_wanted_come() {
    let mut fixture = Fixture::new(RowIdentity::Key(vec![0]));
    fixture.change(&mut StdRng::seed_from_u64(2), 20);
    let key = key(&fixture.shape, &line(40, 0));
    let mut rows = fixture.folded().rows(KeyRange::between(&key, None), Some(&[2, 0])).unwrap();
    let mut found = Vec::new();
    while let Some(portion) = rows.next_portion().unwrap() {
        let Portion::Row { line, .. } = portion else { panic!("{portion:?}") };
        found.push(line.to_vec());
    }
    let project = |line: &Vec<u8>| {
        let columns: Vec<_> = line.split(|byte| *byte == b'\t').collect();
        [columns[2], columns[0]].join(&b'\t')
    };
    assert_eq!(found, fixture.expected(&key, None).iter().map(project).collect::<Vec<_>>());
    assert!(fixture.folded().rows(KeyRange::all(), Some(&[3])).unwrap().next_portion().is_err());
}

#[test]
fn an_intermediate_image_has_the_same_rows() {
    let mut fixture = Fixture::new(RowIdentity::Key(vec![0]));
    fixture.change(&mut StdRng::seed_from_u64(3), 60);
    let scratch = Arc::new(ScratchImages::new(&std::env::temp_dir()).unwrap());
    let mut folded = fixture.folded();
    folded.settle(&scratch, &fixture.directory, Cuts::Common).unwrap();
    assert_eq!((folded.delta_bytes(), folded.untouched()), (0, None));
    drop(scratch);
    let moved = line(3, 9);
    folded.apply(RowChange::Insert { new: Row { key: &key(&fixture.shape, &moved), line: &moved } }).unwrap();
    fixture.put(None, Some(moved));
    assert_eq!(read(folded, KeyRange::all()), fixture.expected(&[], None));
}
