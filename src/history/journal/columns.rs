//! Turns the records of a sealed block into columns: the values of one column stand together, and compress to less than
//! half of the bytes that they take row by row. See FORMAT.md.
//!
//! A row message is split into its values and its *shape*, which is everything but the lengths and bytes of the values.
//! Nothing else is interpreted, so a message that cannot be split is kept as it is.

use std::collections::HashMap;
use std::ops::Range;

use super::record::{ByteReader, Record, Records, put_idle, put_message, put_relation, put_varint};

/// A block with more bytes of records than this holds a huge row, and is not turned, which would take as much memory again.
pub(super) const LARGEST: usize = 16 << 20;
/// Turned records have at most this many bytes more than the records had.
pub(super) const EXCESS: usize = 64 << 10;
/// The most shapes in a block. Rows of further shapes are kept as they are.
const MOST_SHAPES: usize = 4096;

/// The number of streams that every block has. Each column has two more: lengths and values.
const FORMS: usize = 0;
const PLAIN: usize = 1;
const SHAPES: usize = 2;
const LSNS: usize = 3;
const TIMES: usize = 4;
const XIDS: usize = 5;
const FIXED: usize = 6;

/// The kinds of records. A number from `ROW` on is a row of the shape with that number.
const AS_IT_IS: u64 = 0;
const BEGIN: u64 = 1;
const COMMIT: u64 = 2;
const ROW: u64 = 3;

/// The shapes and columns of a block, which are numbered in the order in which writer and reader meet them.
#[derive(Default)]
struct ShapesAndColumns {
    /// Relation, place of the tuple in the message, place of the column → its first stream.
    columns: HashMap<(u32, u8, u16), usize>,
    /// Each shape's bytes and the first streams of its values.
    shapes: Vec<(Vec<u8>, Vec<usize>)>,
}

impl ShapesAndColumns {
    /// Takes a new shape; `None` if the bytes are no shape.
    fn add(&mut self, shape: &[u8]) -> Option<()> {
        let mut streams = Vec::new();
        for column in MessageParts::of_shape(shape)?.columns {
            let next = FIXED + 2 * self.columns.len();
            streams.push(*self.columns.entry(column).or_insert(next));
        }
        self.shapes.push((shape.to_vec(), streams));
        Some(())
    }

    fn streams(&self) -> usize {
        FIXED + 2 * self.columns.len()
    }
}

/// The parts of a row message, or of a shape. The value is filled anew for each message, since new memory for every row
/// would take longer than all the rest.
#[derive(Default)]
struct MessageParts {
    shape: Vec<u8>,
    /// The position of each value in the message; empty for a shape.
    values: Vec<Range<usize>>,
    columns: Vec<(u32, u8, u16)>,
    /// The position of each value in the shape.
    gaps: Vec<usize>,
}

impl MessageParts {
    /// Splits a shape; `None` if the bytes are no shape.
    fn of_shape(shape: &[u8]) -> Option<MessageParts> {
        let mut cut = MessageParts::default();
        cut.fill(shape, false)?;
        Some(cut)
    }

    /// Splits a message; `None` unless it is an Insert, Update or Delete that ends where its last tuple ends.
    fn fill(&mut self, message: &[u8], with_values: bool) -> Option<()> {
        self.shape.clear();
        self.values.clear();
        self.columns.clear();
        self.gaps.clear();
        let mut bytes = ByteReader::new(message);
        let head = bytes.take(5)?;
        if !matches!(head[0], b'I' | b'U' | b'D') {
            return None;
        }
        let relation = u32::from_be_bytes(head[1..].try_into().ok()?);
        self.shape.extend_from_slice(head);
        for tuple in 0..2 {
            let start = bytes.take(3)?;
            self.shape.extend_from_slice(start);
            for column in 0..u16::from_be_bytes([start[1], start[2]]) {
                let kind = bytes.take(1)?[0];
                self.shape.push(kind);
                match kind {
                    b'n' | b'u' => continue,
                    b't' | b'b' => {}
                    _ => return None,
                }
                if with_values {
                    let len = u32::from_be_bytes(bytes.take(4)?.try_into().ok()?);
                    bytes.take(len as usize)?;
                    let end = message.len() - bytes.remaining();
                    self.values.push(end - len as usize..end);
                } else {
                    self.columns.push((relation, tuple, column));
                    self.gaps.push(self.shape.len());
                }
            }
            if bytes.is_empty() {
                return Some(());
            }
        }
        None
    }
}

/// Turns the records of `raw`; `None` if it is better to keep them as they are.
pub(super) fn turn(raw: &[u8]) -> Option<Vec<u8>> {
    if raw.len() > LARGEST {
        return None;
    }
    let mut turner = ColumnWriter { streams: vec![Vec::new(); FIXED], ..ColumnWriter::default() };
    for record in Records::new(raw) {
        turner.record(&record.ok()?);
    }
    let mut turned = Vec::with_capacity(raw.len());
    put_varint(&mut turned, turner.streams.len() as u64);
    turner.streams.iter().for_each(|stream| put_varint(&mut turned, stream.len() as u64));
    turner.streams.iter().for_each(|stream| turned.extend_from_slice(stream));
    // The written block must be read back to the same bytes, whatever messages a server may send one day.
    let same = turned.len() <= raw.len() + EXCESS && turn_back(&turned, raw.len()).as_deref() == Some(raw);
    same.then_some(turned)
}

#[derive(Default)]
struct ColumnWriter {
    streams: Vec<Vec<u8>>,
    known: ShapesAndColumns,
    numbers: HashMap<Vec<u8>, usize>,
    cut: MessageParts,
    last: LastTransaction,
}

/// The transaction from which the numbers of the next one are counted.
#[derive(Default)]
struct LastTransaction {
    lsn: u64,
    time: u64,
    xid: u32,
}

impl ColumnWriter {
    fn record(&mut self, record: &Record<'_>) {
        if let Record::Message(message) = record
            && self.message(message).is_some()
        {
            return;
        }
        put_varint(&mut self.streams[FORMS], AS_IT_IS);
        let plain = &mut self.streams[PLAIN];
        match *record {
            Record::Message(message) => put_message(plain, message),
            Record::Relation(message) => put_relation(plain, message),
            Record::Idle { lsn, time } => put_idle(plain, lsn, time),
        }
    }

    /// Turns a message; `None` if it is to be kept as it is.
    fn message(&mut self, message: &[u8]) -> Option<()> {
        let number = |at: usize| Some(u64::from_be_bytes(message.get(at..at + 8)?.try_into().ok()?));
        match (message.first()?, message.len()) {
            (b'B', 21) => {
                let xid = u32::from_be_bytes(message[17..].try_into().ok()?);
                put_varint(&mut self.streams[FORMS], BEGIN);
                self.put_delta(LSNS, number(1)?, |last| &mut last.lsn);
                self.put_delta(TIMES, number(9)?, |last| &mut last.time);
                let step = xid.wrapping_sub(self.last.xid);
                put_varint(&mut self.streams[XIDS], u64::from(step));
                self.last.xid = xid;
            }
            (b'C', 26) if message[1] == 0 => {
                put_varint(&mut self.streams[FORMS], COMMIT);
                self.put_delta(LSNS, number(2)?, |last| &mut last.lsn);
                self.put_delta(LSNS, number(10)?, |last| &mut last.lsn);
                self.put_delta(TIMES, number(18)?, |last| &mut last.time);
            }
            _ => self.row(message)?,
        }
        Some(())
    }

    fn row(&mut self, message: &[u8]) -> Option<()> {
        self.cut.fill(message, true)?;
        let shape = match self.numbers.get(&self.cut.shape) {
            Some(number) => *number,
            None => self.new_shape()?,
        };
        put_varint(&mut self.streams[FORMS], ROW + shape as u64);
        for (value, stream) in self.cut.values.iter().zip(&self.known.shapes[shape].1) {
            put_varint(&mut self.streams[*stream], value.len() as u64);
            self.streams[*stream + 1].extend_from_slice(&message[value.clone()]);
        }
        Some(())
    }

    fn new_shape(&mut self) -> Option<usize> {
        let shape = &self.cut.shape;
        let number = self.known.shapes.len();
        if number == MOST_SHAPES {
            return None;
        }
        self.known.add(shape)?;
        self.numbers.insert(shape.clone(), number);
        put_varint(&mut self.streams[SHAPES], shape.len() as u64);
        self.streams[SHAPES].extend_from_slice(shape);
        self.streams.resize_with(self.known.streams(), Vec::new);
        Some(number)
    }

    fn put_delta(&mut self, stream: usize, number: u64, last: impl Fn(&mut LastTransaction) -> &mut u64) {
        let last = last(&mut self.last);
        let step = number.wrapping_sub(*last).cast_signed();
        *last = number;
        put_varint(&mut self.streams[stream], ((step << 1) ^ (step >> 63)).cast_unsigned());
    }
}

/// Returns the records that were turned, which have `raw_len` bytes; `None` if the bytes are no turned records.
pub(super) fn turn_back(turned: &[u8], raw_len: usize) -> Option<Vec<u8>> {
    if raw_len > LARGEST {
        return None;
    }
    let mut back = ColumnReader { streams: streams(turned)?, ..ColumnReader::default() };
    let mut raw = Vec::with_capacity(raw_len);
    let mut message = Vec::new();
    while !back.streams[FORMS].is_empty() {
        match back.streams[FORMS].varint()? {
            AS_IT_IS => raw.extend_from_slice(back.plain()?),
            form => {
                message.clear();
                match form {
                    BEGIN => back.begin(&mut message)?,
                    COMMIT => back.commit(&mut message)?,
                    row => back.row(usize::try_from(row - ROW).ok()?, &mut message)?,
                }
                put_message(&mut raw, &message);
            }
        }
        if raw.len() > raw_len {
            return None;
        }
    }
    let used_up = back.streams.iter().all(ByteReader::is_empty);
    (used_up && raw.len() == raw_len).then_some(raw)
}

fn streams(turned: &[u8]) -> Option<Vec<ByteReader<'_>>> {
    let mut bytes = ByteReader::new(turned);
    let count = usize::try_from(bytes.varint()?).ok()?;
    // Each stream has a length of one byte at least.
    if count < FIXED || count > bytes.remaining() {
        return None;
    }
    let mut lengths = Vec::with_capacity(count);
    for _ in 0..count {
        lengths.push(usize::try_from(bytes.varint()?).ok()?);
    }
    let streams: Option<Vec<_>> =
        lengths.into_iter().map(|len| bytes.take(len).map(ByteReader::new)).collect();
    streams.filter(|_| bytes.is_empty())
}

#[derive(Default)]
struct ColumnReader<'a> {
    streams: Vec<ByteReader<'a>>,
    known: ShapesAndColumns,
    gaps: Vec<Vec<usize>>,
    last: LastTransaction,
}

impl<'a> ColumnReader<'a> {
    /// Puts one record back as it was.
    fn plain(&mut self) -> Option<&'a [u8]> {
        let stream = &mut self.streams[PLAIN];
        let whole = stream.rest();
        stream.take(1)?;
        stream.counted()?;
        whole.get(..whole.len() - stream.remaining())
    }

    fn delta(&mut self, stream: usize, last: impl Fn(&mut LastTransaction) -> &mut u64) -> Option<[u8; 8]> {
        let step = self.streams[stream].varint()?;
        let last = last(&mut self.last);
        *last = last.wrapping_add((step >> 1) ^ (step & 1).wrapping_neg());
        Some(last.to_be_bytes())
    }

    fn begin(&mut self, message: &mut Vec<u8>) -> Option<()> {
        message.push(b'B');
        message.extend_from_slice(&self.delta(LSNS, |last| &mut last.lsn)?);
        message.extend_from_slice(&self.delta(TIMES, |last| &mut last.time)?);
        let step = u32::try_from(self.streams[XIDS].varint()?).ok()?;
        self.last.xid = self.last.xid.wrapping_add(step);
        message.extend_from_slice(&self.last.xid.to_be_bytes());
        Some(())
    }

    fn commit(&mut self, message: &mut Vec<u8>) -> Option<()> {
        message.extend_from_slice(b"C\0");
        message.extend_from_slice(&self.delta(LSNS, |last| &mut last.lsn)?);
        message.extend_from_slice(&self.delta(LSNS, |last| &mut last.lsn)?);
        message.extend_from_slice(&self.delta(TIMES, |last| &mut last.time)?);
        Some(())
    }

    fn row(&mut self, number: usize, message: &mut Vec<u8>) -> Option<()> {
        if number == self.known.shapes.len() && number < MOST_SHAPES {
            let shape = self.streams[SHAPES].counted()?;
            self.known.add(shape)?;
            self.gaps.push(MessageParts::of_shape(shape)?.gaps);
            if self.known.streams() > self.streams.len() {
                return None;
            }
        }
        let (shape, columns) = self.known.shapes.get(number)?;
        let mut done = 0;
        for (gap, stream) in self.gaps[number].iter().zip(columns) {
            message.extend_from_slice(&shape[done..*gap]);
            done = *gap;
            let len = self.streams[*stream].varint()?;
            let value = self.streams[*stream + 1].take(usize::try_from(len).ok()?)?;
            message.extend_from_slice(&u32::try_from(len).ok()?.to_be_bytes());
            message.extend_from_slice(value);
        }
        message.extend_from_slice(&shape[done..]);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::model::{Lsn, PgTime};

    fn records() -> Vec<u8> {
        let mut raw = Vec::new();
        put_relation(&mut raw, b"R\0\0\0\x07public\0t\0d\0\0");
        for number in 0..200u64 {
            let mut begin = b"B".to_vec();
            begin.extend((1000 + number * 77).to_be_bytes());
            begin.extend((number * 5).to_be_bytes());
            begin.extend((u32::MAX - 100).wrapping_add(number as u32).to_be_bytes());
            put_message(&mut raw, &begin);
            put_message(&mut raw, b"I\0\0\0\x07N\0\x03t\0\0\0\x02hint\0\0\0\0");
            put_message(&mut raw, b"U\0\0\0\x07K\0\x01t\0\0\0\x011N\0\x02t\0\0\0\x012u");
            put_message(&mut raw, b"D\0\0\0\x07O\0\x01b\0\0\0\x03abc");
            put_message(&mut raw, b"M\x01strange");
            put_message(&mut raw, b"I\0\0\0\x07N\0\x01t\0\0\0\x09short");
            let mut commit = b"C\0".to_vec();
            [1000 + number * 77, 1030 + number * 77, number]
                .iter()
                .for_each(|it| commit.extend(it.to_be_bytes()));
            put_message(&mut raw, &commit);
            put_idle(&mut raw, Lsn(number), PgTime(-1));
        }
        raw
    }

    #[test]
    fn every_record_comes_back() {
        for raw in [Vec::new(), records()] {
            let turned = turn(&raw).expect("it can be turned");
            assert_eq!(turn_back(&turned, raw.len()), Some(raw));
        }
    }

    #[test]
    fn damaged_bytes_are_refused_or_differ_and_never_panic() {
        let raw = records();
        let turned = turn(&raw).unwrap();
        let mut random = StdRng::seed_from_u64(3);
        for cut in (0..turned.len()).step_by(7) {
            assert_eq!(turn_back(&turned[..cut], raw.len()), None);
        }
        for _ in 0..1_500 {
            let mut damaged = turned.clone();
            let at = random.random_range(0..damaged.len());
            damaged[at] = random.random();
            assert!(turn_back(&damaged, raw.len()).is_none_or(|back| back.len() == raw.len()));
        }
        assert_eq!(turn_back(&turned, raw.len() - 1), None);
        assert_eq!(turn_back(&turned, LARGEST + 1), None);
    }

    #[test]
    fn more_shapes_than_are_kept_track_of_stay_as_they_are() {
        let mut raw = Vec::new();
        for relation in 0..5000u32 {
            let mut message = b"I".to_vec();
            message.extend(relation.to_be_bytes());
            message.extend(b"N\0\x01t\0\0\0\x02hi");
            put_message(&mut raw, &message);
        }
        // A message may be too large to be turned, but it never comes back as another one.
        if let Some(turned) = turn(&raw) {
            assert_eq!(turn_back(&turned, raw.len()), Some(raw));
        }
    }
}
