//! The changes of a stretch of transactions, kept in a file, from which the net change between any two of its positions is
//! read.

use std::collections::HashMap;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::sync::Arc;

use super::survey::ReadTables;
use crate::ambient;
use crate::error::{Context, Error, Kind, Result};
use crate::model::{Lsn, Table};
use crate::past::Reading;
use crate::store::{VeilWriter, VeiledFile};
use crate::travel::Span;
use crate::travel::whole::{Step, WholeRows};

/// The net change of so many bytes of the file is made at once.
const PIECE: u64 = 32 << 20;

/// Each row that the transactions removed or added, in order. Positions are those between transactions.
pub struct RecordedChanges {
    file: VeiledFile,
    tables: Vec<Arc<Table>>,
    from: Lsn,
    until: Lsn,
    /// Each transaction's commit position, and the offset in the file behind its changes.
    ends: Vec<(Lsn, u64)>,
    /// Places between two records of the file, in order and about [`PIECE`] apart.
    cuts: Vec<u64>,
}

/// A part of the file, and whether its changes are to be made or taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    start: u64,
    end: u64,
    backwards: bool,
}

/// The rows that a table has no more, and those that it has now, as lines of COPY text.
pub struct NetChange {
    pub table: Arc<Table>,
    pub gone: Lines,
    pub new: Lines,
}

#[derive(Default)]
pub struct Lines {
    pub count: u64,
    pub text: Vec<u8>,
}

impl RecordedChanges {
    /// Records the changes of the tables from one position of an epoch to another. No schema change lies in between.
    ///
    /// # Errors
    /// `Damaged` if the history is; `Unavailable` if the temporary file cannot be written.
    pub fn record(
        reading: &Reading,
        epoch: u32,
        (from, until): (Lsn, Lsn),
        tables: &ReadTables,
    ) -> Result<RecordedChanges> {
        let past = reading.before(epoch, from)?;
        let span = Span { time: past.base().time, past, until };
        let wanted = |table: &Table| tables.holds(table);
        let file = ambient::nameless_file(&ambient::temporary_place()).and_then(VeilWriter::new);
        let file = file.context(Kind::Unavailable, cannot_write)?;
        let mut recorder = Recorder::new(file, PIECE);
        let mut ends = Vec::new();
        let rows = WholeRows::all(&span, &wanted);
        rows.follow(&mut |transaction, step| {
            match step {
                Step::Row { table, before, after, .. } => {
                    before.map_or(Ok(()), |line| recorder.put(table, false, line))?;
                    after.map_or(Ok(()), |line| recorder.put(table, true, line))?;
                }
                Step::Commit => ends.push((transaction.lsn, recorder.written)),
                Step::Truncate { .. } | Step::Definition { .. } => {}
            }
            Ok(true)
        })?;
        recorder.finish((from, until), ends)
    }

    /// Whether both positions lie in what is recorded.
    pub fn covers(&self, one: Lsn, other: Lsn) -> bool {
        let is_inside = |lsn| (self.from..=self.until).contains(&lsn);
        is_inside(one) && is_inside(other)
    }

    /// The pieces that lead from one position to the other, in order.
    pub fn pieces(&self, from: Lsn, to: Lsn) -> Vec<Piece> {
        let place = |lsn: Lsn| match self.ends.partition_point(|(commit, _)| *commit < lsn) {
            0 => 0,
            after => self.ends[after - 1].1,
        };
        let (start, end) = (place(from.min(to)), place(from.max(to)));
        let inner = self.cuts.iter().copied().filter(|cut| start < *cut && *cut < end);
        let bounds: Vec<_> = [start].into_iter().chain(inner).chain([end]).collect();
        let backwards = to < from;
        let pieces = bounds.windows(2).map(|bound| Piece { start: bound[0], end: bound[1], backwards });
        let mut pieces: Vec<_> = pieces.filter(|piece| piece.start < piece.end).collect();
        if backwards {
            pieces.reverse();
        }
        pieces
    }

    /// Reads the net change of a piece, table by table.
    ///
    /// # Errors
    /// `Unavailable` if the temporary file cannot be read.
    pub fn net(&self, piece: Piece) -> Result<Vec<NetChange>> {
        self.read(piece)
            .context(Kind::Unavailable, || "cannot read the temporary file of the bisection".into())
    }

    fn read(&self, piece: Piece) -> io::Result<Vec<NetChange>> {
        let mut counts: Vec<HashMap<Vec<u8>, i64>> = self.tables.iter().map(|_| HashMap::new()).collect();
        let mut input = BufReader::with_capacity(256 << 10, self.file.reader(piece.start, piece.end));
        let mut head = [0; HEAD];
        let mut left = piece.end - piece.start;
        while left > 0 {
            input.read_exact(&mut head)?;
            let [is_new, a, b, c, d, e, f, g, h] = head;
            let (number, length) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
            let mut line = vec![0; length as usize];
            input.read_exact(&mut line)?;
            left -= HEAD as u64 + u64::from(length);
            let change = if (is_new == 1) != piece.backwards { 1 } else { -1 };
            *counts[number as usize].entry(line).or_default() += change;
        }
        let changes = self.tables.iter().zip(counts).map(|(table, counts)| NetChange::of(table, counts));
        Ok(changes.filter(|change| change.gone.count + change.new.count > 0).collect())
    }
}

/// The bytes of a record before the line: whether the line is new, the table's number, and the line's length.
const HEAD: usize = 9;

impl NetChange {
    /// A row that was removed and added again did not change.
    fn of(table: &Arc<Table>, counts: HashMap<Vec<u8>, i64>) -> NetChange {
        let mut change =
            NetChange { table: Arc::clone(table), gone: Lines::default(), new: Lines::default() };
        for (line, count) in counts {
            let lines = if count < 0 { &mut change.gone } else { &mut change.new };
            for _ in 0..count.abs() {
                lines.count += 1;
                lines.text.extend_from_slice(&line);
                lines.text.push(b'\n');
            }
        }
        change
    }
}

struct Recorder {
    out: BufWriter<VeilWriter>,
    numbers: HashMap<u32, u32>,
    tables: Vec<Arc<Table>>,
    written: u64,
    cuts: Vec<u64>,
    piece: u64,
}

impl Recorder {
    fn new(file: VeilWriter, piece: u64) -> Recorder {
        let out = BufWriter::with_capacity(256 << 10, file);
        Recorder { out, numbers: HashMap::new(), tables: Vec::new(), written: 0, cuts: Vec::new(), piece }
    }

    fn finish(self, (from, until): (Lsn, Lsn), ends: Vec<(Lsn, u64)>) -> Result<RecordedChanges> {
        let file = self.out.into_inner().map_err(|error| error.into_error());
        let file = file.context(Kind::Unavailable, cannot_write)?;
        Ok(RecordedChanges { file: file.veiled(), tables: self.tables, from, until, ends, cuts: self.cuts })
    }

    fn put(&mut self, table: &Arc<Table>, is_new: bool, line: &[u8]) -> Result<()> {
        if self.written >= self.cuts.last().copied().unwrap_or(0) + self.piece {
            self.cuts.push(self.written);
        }
        let number = *self.numbers.entry(table.oid).or_insert_with(|| {
            self.tables.push(Arc::clone(table));
            self.tables.len() as u32 - 1
        });
        let length = u32::try_from(line.len()).map_err(|_| Error::internal("a row has more than 4 GiB"))?;
        let mut head = [0; HEAD];
        head[0] = u8::from(is_new);
        head[1..5].copy_from_slice(&number.to_le_bytes());
        head[5..].copy_from_slice(&length.to_le_bytes());
        self.written += HEAD as u64 + u64::from(length);
        let written = self.out.write_all(&head).and_then(|()| self.out.write_all(line));
        written.context(Kind::Unavailable, cannot_write)
    }
}

fn cannot_write() -> String {
    format!(
        "cannot write a temporary file in {}; is it full? Name another folder with TMPDIR",
        ambient::temporary_place().display()
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::{Grade, RowIdentity};

    /// Equal rows, by their number.
    type Bag = BTreeMap<Vec<u8>, u64>;

    fn table() -> Arc<Table> {
        let (schema, name) = ("public".to_owned(), "bag".to_owned());
        let (identity, grade) = (RowIdentity::WholeRow, Grade::Exact);
        let (columns, generated) = (Vec::new(), Vec::new());
        let (storage, in_stream, partition_of) = (Default::default(), None, Vec::new());
        Arc::new(Table {
            oid: 1,
            schema,
            name,
            columns,
            generated,
            identity,
            grade,
            storage,
            in_stream,
            partition_of,
        })
    }

    fn make(bag: &mut Bag, change: &NetChange) {
        for line in change.gone.text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let count = bag.get_mut(line).expect("a row that goes is there");
            *count -= 1;
            if *count == 0 {
                bag.remove(line);
            }
        }
        for line in change.new.text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            *bag.entry(line.to_vec()).or_default() += 1;
        }
    }

    #[test]
    fn pieces_lead_from_each_position_to_each_other_one() {
        let table = table();
        let mut recorder = Recorder::new(
            VeilWriter::new(ambient::nameless_file(&ambient::temporary_place()).unwrap()).unwrap(),
            64,
        );
        let (mut states, mut ends) = (vec![Bag::new()], Vec::new());
        for number in 0..30_u64 {
            let mut bag = states.last().unwrap().clone();
            for step in 0..number % 7 {
                let line = format!("row {}", (number * 5 + step) % 4).into_bytes();
                let is_new = (number + step) % 3 != 0 || !bag.contains_key(&line);
                recorder.put(&table, is_new, &line).unwrap();
                let mut change =
                    NetChange { table: Arc::clone(&table), gone: Lines::default(), new: Lines::default() };
                let lines = if is_new { &mut change.new } else { &mut change.gone };
                lines.text = [&line[..], b"\n"].concat();
                make(&mut bag, &change);
            }
            states.push(bag);
            ends.push((Lsn(number * 10 + 5), recorder.written));
        }
        let recorded = recorder.finish((Lsn(0), Lsn(300)), ends).unwrap();
        assert!(
            recorded.cuts.len() > 10
                && recorded.covers(Lsn(0), Lsn(300))
                && !recorded.covers(Lsn(0), Lsn(301))
        );
        for (from, before) in states.iter().enumerate() {
            for (to, after) in states.iter().enumerate() {
                let mut bag = before.clone();
                for piece in recorded.pieces(Lsn(from as u64 * 10), Lsn(to as u64 * 10)) {
                    recorded.net(piece).unwrap().iter().for_each(|change| make(&mut bag, change));
                }
                assert_eq!(&bag, after, "from {from} to {to}");
            }
        }
    }
}
