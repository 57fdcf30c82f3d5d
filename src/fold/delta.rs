//! The changes of one table's rows since its image: for each key that was touched, only the last state.
//!
//! The size of a delta is that of the rows touched, never that of the journal.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};

use twox_hash::XxHash3_64;

use crate::codec::copy_text;
use crate::codec::key::KeyShape;
use crate::follow::RowChange;

pub type Bytes = Box<[u8]>;
/// A map whose keys are hashed fast.
pub type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<FastHasher>>;
type Map<V> = FastMap<Bytes, V>;

/// A rough cost in bytes of an entry beyond its key and row: map slot and allocator.
const ENTRY_OVERHEAD: usize = 96;

/// The changes of one table's rows, and the shape of its keys.
#[derive(Clone, Debug)]
pub struct Delta {
    shape: KeyShape,
    rows: DeltaRows,
}

#[derive(Clone, Debug)]
enum DeltaRows {
    Keyed(KeyedDelta),
    Bag(BagDelta),
}

impl Delta {
    pub fn new(shape: KeyShape) -> Delta {
        let rows = match shape {
            KeyShape::Columns(_) => DeltaRows::Keyed(KeyedDelta::default()),
            KeyShape::WholeRow => DeltaRows::Bag(BagDelta::default()),
        };
        Delta { shape, rows }
    }

    pub fn shape(&self) -> &KeyShape {
        &self.shape
    }

    pub fn bytes(&self) -> usize {
        match &self.rows {
            DeltaRows::Keyed(delta) => delta.bytes,
            DeltaRows::Bag(delta) => delta.bytes,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    pub fn insert(&mut self, key: &[u8], line: &[u8]) -> Result<(), Contradiction> {
        match &mut self.rows {
            DeltaRows::Keyed(delta) => delta.insert(key, line),
            DeltaRows::Bag(delta) => delta.insert(key, line),
        }
    }

    pub fn delete(&mut self, key: &[u8]) {
        match &mut self.rows {
            DeltaRows::Keyed(delta) => delta.delete(key),
            DeltaRows::Bag(delta) => delta.delete(key),
        }
    }

    #[inline]
    pub fn apply(&mut self, change: RowChange<'_>) -> Result<(), Contradiction> {
        match (change, &mut self.rows) {
            (RowChange::Insert { new } | RowChange::Given { new }, _) => self.insert(new.key, new.line),
            (RowChange::Delete { old }, _) => {
                self.delete(old.key);
                Ok(())
            }
            (RowChange::Update { old, new }, DeltaRows::Keyed(delta)) => {
                delta.update(old.map_or(new.key, |old| old.key), new.key, new.line)
            }
            (RowChange::Update { old, new }, DeltaRows::Bag(delta)) => {
                delta.delete(old.map_or(new.key, |old| old.key));
                delta.insert(new.key, new.line)
            }
        }
    }

    /// The last state of a key. `None` if the key was not touched, or if the table has none.
    pub fn latest(&self, key: &[u8]) -> Option<&Latest> {
        match &self.rows {
            DeltaRows::Keyed(delta) => delta.rows.get(key),
            DeltaRows::Bag(_) => None,
        }
    }

    /// Takes the later states of keys that a delta has which was begun later.
    pub fn adopt(&mut self, later: Delta) {
        let (DeltaRows::Keyed(delta), DeltaRows::Keyed(later)) = (&mut self.rows, later.rows) else { return };
        let known = later.rows.into_iter().filter(|(_, latest)| latest.needs_no_image());
        known.for_each(|(key, latest)| delta.put(&key, latest));
    }

    /// The changes of some keys of a table without one.
    pub fn only<K: AsRef<[u8]>>(&self, keys: &[K]) -> Delta {
        let rows = match &self.rows {
            DeltaRows::Keyed(delta) => {
                DeltaRows::Keyed(KeyedDelta { rows: some_of(&delta.rows, keys), bytes: delta.bytes })
            }
            DeltaRows::Bag(delta) => {
                DeltaRows::Bag(BagDelta { rows: some_of(&delta.rows, keys), bytes: delta.bytes })
            }
        };
        Delta { shape: self.shape.clone(), rows }
    }

    /// All touched keys, in order.
    pub fn into_sorted(self) -> Vec<(Bytes, Latest)> {
        match self.rows {
            DeltaRows::Keyed(delta) => sorted(delta.rows, |latest| latest),
            DeltaRows::Bag(delta) => sorted(delta.rows, Latest::Counted),
        }
    }
}

/// The last state of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Latest {
    Row(Bytes),
    Gone,
    /// A row whose holes are filled from the image's row under `origin`: the key itself if `None`,
    /// another one if the key changed since.
    Patch {
        line: Bytes,
        origin: Option<Bytes>,
    },
    /// More or fewer of a row that is told from others only by its bytes.
    Counted(Count),
}

/// Rows that are told apart by a key.
#[derive(Clone, Debug, Default)]
pub struct KeyedDelta {
    rows: Map<Latest>,
    bytes: usize,
}

/// Rows that are told apart only by their bytes and number.
#[derive(Clone, Debug, Default)]
pub struct BagDelta {
    rows: Map<Count>,
    bytes: usize,
}

/// How many more (or fewer) of a row there are; its bytes, once one was added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub change: i64,
    pub line: Option<Bytes>,
}

/// The journal contradicts the image, or itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    #[error("a change refers to a row that was deleted before it")]
    RowIsGone,
    #[error("a row's earlier version has another number of columns")]
    ColumnsDiffer,
    #[error("an inserted row lacks a value")]
    InsertWithHole,
}

fn some_of<V: Clone, K: AsRef<[u8]>>(rows: &Map<V>, keys: &[K]) -> Map<V> {
    let known = keys.iter().filter_map(|key| rows.get_key_value(key.as_ref()));
    known.map(|(key, latest)| (key.clone(), latest.clone())).collect()
}

impl KeyedDelta {
    pub fn insert(&mut self, key: &[u8], line: &[u8]) -> Result<(), Contradiction> {
        if copy_text::has_hole(line) {
            return Err(Contradiction::InsertWithHole);
        }
        self.put(key, Latest::Row(line.into()));
        Ok(())
    }

    pub fn delete(&mut self, key: &[u8]) {
        self.put(key, Latest::Gone);
    }

    /// The row under `old_key` becomes `line`, under `new_key`.
    pub fn update(&mut self, old_key: &[u8], new_key: &[u8], line: &[u8]) -> Result<(), Contradiction> {
        let has_hole = copy_text::has_hole(line);
        // A row that is updated often mostly keeps its length, so its new line can stand where the old one stood.
        if !has_hole
            && old_key == new_key
            && let Some(Latest::Row(earlier)) = self.rows.get_mut(new_key)
            && earlier.len() == line.len()
        {
            earlier.copy_from_slice(line);
            return Ok(());
        }
        let latest = if has_hole { self.patch(old_key, new_key, line)? } else { Latest::Row(line.into()) };
        if old_key != new_key {
            self.put(old_key, Latest::Gone);
        }
        self.put(new_key, latest);
        Ok(())
    }

    fn patch(&self, old_key: &[u8], new_key: &[u8], line: &[u8]) -> Result<Latest, Contradiction> {
        let fill = |earlier| copy_text::fill_holes(line, earlier).ok_or(Contradiction::ColumnsDiffer);
        match self.rows.get(old_key) {
            Some(Latest::Row(earlier)) => Ok(Latest::Row(fill(earlier)?.into())),
            Some(Latest::Gone | Latest::Counted(_)) => Err(Contradiction::RowIsGone),
            Some(Latest::Patch { line: earlier, origin }) => {
                let filled = fill(earlier)?;
                if !copy_text::has_hole(&filled) {
                    return Ok(Latest::Row(filled.into()));
                }
                let origin = origin.as_deref().unwrap_or(old_key);
                Ok(Latest::Patch { line: filled.into(), origin: (origin != new_key).then(|| origin.into()) })
            }
            None => {
                let origin = (old_key != new_key).then(|| old_key.into());
                Ok(Latest::Patch { line: line.into(), origin })
            }
        }
    }

    fn put(&mut self, key: &[u8], latest: Latest) {
        self.bytes += latest.bytes();
        match self.rows.get_mut(key) {
            Some(slot) => {
                self.bytes -= slot.bytes();
                *slot = latest;
            }
            None => {
                self.bytes += key.len() + ENTRY_OVERHEAD;
                self.rows.insert(key.into(), latest);
            }
        }
    }
}

impl Latest {
    /// Whether this tells all of the row, or that there is none.
    pub fn needs_no_image(&self) -> bool {
        matches!(self, Latest::Row(_) | Latest::Gone)
    }

    fn bytes(&self) -> usize {
        match self {
            Latest::Row(line) => line.len(),
            Latest::Gone => 0,
            Latest::Patch { line, origin } => line.len() + origin.as_ref().map_or(0, |key| key.len()),
            Latest::Counted(count) => count.line.as_ref().map_or(0, |line| line.len()),
        }
    }
}

impl BagDelta {
    pub fn insert(&mut self, key: &[u8], line: &[u8]) -> Result<(), Contradiction> {
        if copy_text::has_hole(line) {
            return Err(Contradiction::InsertWithHole);
        }
        let bytes = &mut self.bytes;
        let count = match self.rows.entry(key.into()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                *bytes += key.len() + ENTRY_OVERHEAD;
                entry.insert(Count::default())
            }
        };
        count.change += 1;
        if count.line.is_none() {
            *bytes += line.len();
            count.line = Some(line.into());
        }
        Ok(())
    }

    pub fn delete(&mut self, key: &[u8]) {
        match self.rows.entry(key.into()) {
            Entry::Occupied(mut entry) => {
                entry.get_mut().change -= 1;
                // Inserted and deleted again: nothing happened.
                if entry.get().change == 0 {
                    let (key, count) = entry.remove_entry();
                    let line = count.line.map_or(0, |line| line.len());
                    self.bytes -= key.len() + ENTRY_OVERHEAD + line;
                }
            }
            Entry::Vacant(entry) => {
                self.bytes += key.len() + ENTRY_OVERHEAD;
                entry.insert(Count { change: -1, line: None });
            }
        }
    }
}

/// Compares the beginnings of keys, which lie side by side, before the keys behind their pointers.
fn sorted<V>(rows: Map<V>, latest: impl Fn(V) -> Latest) -> Vec<(Bytes, Latest)> {
    let mut rows: Vec<_> = rows.into_iter().map(|(key, value)| (beginning(&key), key, value)).collect();
    rows.sort_unstable_by(|(a, a_key, _), (b, b_key, _)| a.cmp(b).then_with(|| a_key.cmp(b_key)));
    rows.into_iter().map(|(_, key, value)| (key, latest(value))).collect()
}

/// The first eight bytes as a number, which orders keys as their bytes do where it differs.
fn beginning(key: &[u8]) -> u64 {
    let mut first = [0; 8];
    let length = key.len().min(first.len());
    first[..length].copy_from_slice(&key[..length]);
    u64::from_be_bytes(first)
}

/// Hashes a key in one go; the standard hasher's guard against chosen keys costs more than the
/// rest of the fold, and the keys here come from a database that its owner wants to read.
#[derive(Default)]
pub struct FastHasher(u64);

impl Hasher for FastHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = XxHash3_64::oneshot_with_seed(self.0, bytes);
    }

    fn write_usize(&mut self, _length: usize) {
        // A slice's length prefix adds nothing to a key that is hashed alone.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> Latest {
        Latest::Row(text.as_bytes().into())
    }

    #[test]
    fn keys_are_in_the_order_of_their_bytes() {
        let mut keys = [
            &b""[..],
            b"\0",
            b"\0\0",
            b"a",
            b"a\0",
            b"a\0b",
            b"aaaaaaaa",
            b"aaaaaaaaa",
            b"aaaaaaaab",
            b"\xff",
        ];
        keys.reverse();
        let mut delta = KeyedDelta::default();
        keys.iter().for_each(|key| delta.delete(key));
        keys.reverse();
        let sorted: Vec<_> = sorted(delta.rows, |latest| latest).into_iter().map(|(key, _)| key).collect();
        assert!(sorted.iter().map(|key| &key[..]).eq(keys));
    }

    #[test]
    fn only_the_last_word_stays() {
        let mut delta = KeyedDelta::default();
        delta.insert(b"1", b"1\ta").unwrap();
        delta.update(b"1", b"1", b"1\tb").unwrap();
        delta.delete(b"2");
        delta.insert(b"2", b"2\tc").unwrap();
        delta.delete(b"3");
        let rows = sorted(delta.rows, |latest| latest);
        let latest: Vec<_> = rows.into_iter().map(|(_, latest)| latest).collect();
        assert_eq!(latest, [row("1\tb"), row("2\tc"), Latest::Gone]);
    }

    #[test]
    fn holes_are_filled_from_the_version_before_even_under_another_key() {
        let mut delta = KeyedDelta::default();
        delta.insert(b"1", b"1\tlong\tx").unwrap();
        delta.update(b"1", b"2", b"2\t\\H\ty").unwrap();
        delta.update(b"2", b"2", b"2\t\\H\tz").unwrap();
        assert_eq!(sorted(delta.rows, |latest| latest)[1].1, row("2\tlong\tz"));
    }

    #[test]
    fn holes_over_the_image_remember_where_the_value_is() {
        let mut delta = KeyedDelta::default();
        delta.update(b"1", b"2", b"2\t\\H\ty").unwrap();
        delta.update(b"2", b"3", b"3\t\\H\tz").unwrap();
        // Another row takes the first key: the image's row under it still fills the hole.
        delta.insert(b"1", b"1\tother\tw").unwrap();
        let rows = sorted(delta.rows, |latest| latest);
        assert_eq!(rows[1].1, Latest::Gone);
        let patch = Latest::Patch { line: b"3\t\\H\tz"[..].into(), origin: Some(b"1"[..].into()) };
        assert_eq!(rows[2].1, patch);
    }

    #[test]
    fn a_key_that_comes_home_is_filled_from_its_own_row() {
        let mut delta = KeyedDelta::default();
        delta.update(b"1", b"2", b"2\t\\H").unwrap();
        delta.update(b"2", b"1", b"1\t\\H").unwrap();
        let patch = Latest::Patch { line: b"1\t\\H"[..].into(), origin: None };
        assert_eq!(sorted(delta.rows, |latest| latest)[0].1, patch);
    }

    #[test]
    fn contradictions_are_errors() {
        let mut delta = KeyedDelta::default();
        delta.delete(b"1");
        assert_eq!(delta.update(b"1", b"1", b"1\t\\H"), Err(Contradiction::RowIsGone));
        assert_eq!(delta.insert(b"1", b"1\t\\H"), Err(Contradiction::InsertWithHole));
    }

    #[test]
    fn equal_rows_are_counted() {
        let mut delta = BagDelta::default();
        delta.insert(b"a", b"a").unwrap();
        delta.insert(b"a", b"a").unwrap();
        delta.delete(b"a");
        delta.delete(b"b");
        delta.insert(b"c", b"c").unwrap();
        delta.delete(b"c");
        let bytes = delta.bytes;
        let rows = sorted(delta.rows, Latest::Counted);
        let changes: Vec<_> = rows
            .iter()
            .map(|(key, latest)| match latest {
                Latest::Counted(count) => (&key[..], count.change),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(changes, [(&b"a"[..], 1), (&b"b"[..], -1)]);
        assert_eq!(bytes, 2 + 1 + 2 * ENTRY_OVERHEAD);
    }
}
