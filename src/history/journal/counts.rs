//! How many rows each transaction of a segment changed, by table and kind of change. See FORMAT.md.

use std::collections::{BTreeMap, HashMap};

use super::record::{ByteReader, put_varint};

/// The kind of change that a message makes to rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    Insert,
    Update,
    Delete,
    Truncate,
}

const KINDS: [ChangeKind; 4] =
    [ChangeKind::Insert, ChangeKind::Update, ChangeKind::Delete, ChangeKind::Truncate];

/// The changes of one kind that a transaction made in one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeCount {
    pub oid: u32,
    pub kind: ChangeKind,
    pub count: u64,
    /// The bytes of all values that the stream carries of the rows before and after.
    pub bytes: u64,
}

/// Gathers the counts of a segment's transactions.
#[derive(Clone, Debug, Default)]
pub(super) struct CountsBuilder {
    /// The counts of the present transaction.
    current: BTreeMap<(u32, ChangeKind), (u64, u64)>,
    /// The numbers of the patterns, each of which is everything about a transaction but its bytes.
    patterns: HashMap<Vec<u8>, usize>,
    in_order: Vec<u8>,
    transactions: Vec<u8>,
    bytes: Vec<u8>,
}

impl CountsBuilder {
    pub(super) fn add(&mut self, oid: u32, kind: ChangeKind, bytes: u64) {
        let (count, sum) = self.current.entry((oid, kind)).or_default();
        (*count, *sum) = (*count + 1, *sum + bytes);
    }

    pub(super) fn commit(&mut self) {
        let mut pattern = Vec::with_capacity(self.current.len() * 4);
        for ((oid, kind), (count, bytes)) in &self.current {
            put_varint(&mut pattern, (u64::from(*oid) << 2) | *kind as u64);
            put_varint(&mut pattern, *count);
            put_varint(&mut self.bytes, *bytes);
        }
        self.current.clear();
        let next = self.patterns.len();
        let number = match self.patterns.get(&pattern) {
            Some(number) => *number,
            None => {
                put_varint(&mut self.in_order, pattern.len() as u64);
                self.in_order.extend_from_slice(&pattern);
                self.patterns.insert(pattern, next);
                next
            }
        };
        put_varint(&mut self.transactions, number as u64);
    }

    pub(super) fn finish(self) -> Vec<u8> {
        let mut out = Vec::new();
        for part in [&self.in_order, &self.transactions] {
            put_varint(&mut out, part.len() as u64);
            out.extend_from_slice(part);
        }
        out.extend(self.bytes);
        out
    }
}

/// The counts of each transaction, in commit order.
pub struct Counts<'a> {
    patterns: Vec<&'a [u8]>,
    transactions: ByteReader<'a>,
    bytes: ByteReader<'a>,
}

impl<'a> Counts<'a> {
    /// Begins with the first transaction; `None` if the bytes are no counts.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Counts<'a>> {
        let mut bytes = ByteReader::new(bytes);
        let mut in_order = ByteReader::new(bytes.counted()?);
        let mut patterns = Vec::new();
        while !in_order.is_empty() {
            patterns.push(in_order.counted()?);
        }
        let transactions = ByteReader::new(bytes.counted()?);
        Some(Counts { patterns, transactions, bytes })
    }

    /// The counts of the next transaction; `None` behind the last one, or if the bytes are no counts.
    pub fn next_transaction(&mut self) -> Option<Vec<ChangeCount>> {
        let number = usize::try_from(self.transactions.varint()?).ok()?;
        let mut pattern = ByteReader::new(self.patterns.get(number)?);
        let mut counts = Vec::new();
        while !pattern.is_empty() {
            let place = pattern.varint()?;
            let oid = u32::try_from(place >> 2).ok()?;
            let (kind, count) = (KINDS[(place & 3) as usize], pattern.varint()?);
            counts.push(ChangeCount { oid, kind, count, bytes: self.bytes.varint()? });
        }
        Some(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_come_back() {
        let mut builder = CountsBuilder::default();
        builder.add(7, ChangeKind::Update, 100);
        builder.add(7, ChangeKind::Update, 30);
        builder.add(u32::MAX, ChangeKind::Truncate, 0);
        builder.commit();
        builder.commit();
        builder.add(7, ChangeKind::Insert, 1);
        builder.commit();
        let bytes = builder.finish();
        let mut counts = Counts::decode(&bytes).unwrap();
        let count = |oid, kind, count, bytes| ChangeCount { oid, kind, count, bytes };
        let first = [count(7, ChangeKind::Update, 2, 130), count(u32::MAX, ChangeKind::Truncate, 1, 0)];
        assert_eq!(counts.next_transaction().unwrap(), first);
        assert_eq!(counts.next_transaction().unwrap(), []);
        assert_eq!(counts.next_transaction().unwrap(), [count(7, ChangeKind::Insert, 1, 1)]);
        assert_eq!(counts.next_transaction(), None);
    }
}
