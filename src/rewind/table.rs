//! The rows of one table that were touched since a moment, each with its versions.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::codec::copy_text::{self, fill_holes};
use crate::error::{Error, Result};
use crate::fold::{AskedRows, FastMap};
use crate::follow::{Reshape, Row, RowChange};
use crate::model::{Column, RowIdentity, Table};

/// A row as a line of COPY text, without its newline. Versions, goals and changes share it.
pub type Line = Arc<[u8]>;

/// A row's sort key. Equal rows of a table without a key have one key.
type Key = Arc<[u8]>;

/// A row from a moment on, through changes of its key.
#[derive(Debug, Default)]
pub struct TouchedRow {
    /// The sort key that the row had at the moment; `None` if the row was inserted later.
    first_key: Option<Key>,
    /// The row that stands, or rests, under the same key below this one.
    below: Option<usize>,
    /// The first version is the row at the moment. Each other one was left by a transaction.
    pub versions: Vec<Version>,
}

#[derive(Clone, Debug)]
pub struct Version {
    /// The transaction, by its number in [`ChangedRows::transactions`](super::changed::ChangedRows); `None` for the
    /// moment.
    pub transaction: Option<u32>,
    /// `None` if there was no row.
    pub line: Option<Line>,
    /// How many of the table's reshapes came before this line.
    shape: usize,
}

impl TouchedRow {
    /// Whether the row at the moment has still to be read from the history's images.
    fn is_unread(&self) -> bool {
        self.first_key.is_some() && self.first().is_none()
    }

    /// The row at the moment.
    pub fn first(&self) -> Option<&Line> {
        self.versions.first().and_then(|version| version.line.as_ref())
    }

    /// The row as the history last saw it.
    pub fn last(&self) -> Option<&Line> {
        self.versions.last().and_then(|version| version.line.as_ref())
    }

    /// Whether all lines are whole, and are lines of the table after so many reshapes.
    fn is_up_to_date(&self, reshapes: usize) -> bool {
        let is_whole =
            |version: &Version| version.line.as_ref().is_none_or(|line| !copy_text::has_hole(line));
        self.versions.iter().all(|version| version.shape == reshapes && is_whole(version))
    }

    /// The transactions that wrote the row since the moment, in their order.
    pub fn transactions(&self) -> impl DoubleEndedIterator<Item = u32> {
        self.versions.iter().filter_map(|version| version.transaction)
    }
}

/// A table of which rows or the definition changed since a moment.
#[derive(Debug)]
pub struct ChangedTable {
    /// The table at the moment; `None` if it was made later.
    pub then: Option<Arc<Table>>,
    /// `None` if the table was dropped since.
    pub now: Option<Arc<Table>>,
    pub rows: Vec<TouchedRow>,
    /// Why the rows at the moment cannot be told in the columns of today.
    pub obstacle: Option<String>,
    /// The transactions that wrote rows of the table, by their numbers.
    pub writers: BTreeSet<u32>,
    /// The uppermost row that stands under a key now, or did when it was deleted. A key that was never touched is missing.
    standing: FastMap<Key, Option<usize>>,
    /// The transaction that removed all rows, also those that nothing else touched.
    emptied: Option<u32>,
    /// Whether the rows that nothing else touched were read.
    is_emptied_read: bool,
    reshapes: Vec<Reshape>,
}

impl ChangedTable {
    pub fn new(table: &Arc<Table>) -> ChangedTable {
        ChangedTable {
            then: Some(Arc::clone(table)),
            now: Some(Arc::clone(table)),
            rows: Vec::new(),
            obstacle: None,
            writers: BTreeSet::new(),
            standing: FastMap::default(),
            emptied: None,
            is_emptied_read: false,
            reshapes: Vec::new(),
        }
    }

    pub fn made(table: &Arc<Table>) -> ChangedTable {
        ChangedTable { then: None, ..ChangedTable::new(table) }
    }

    /// A table as it is described now, or was last.
    pub fn table(&self) -> Option<&Table> {
        self.now.as_deref().or(self.then.as_deref())
    }

    pub fn is_keyed(&self) -> bool {
        self.table().is_some_and(is_keyed)
    }

    /// Takes a change of a row. With `keeps_all`, all versions are kept, and without it the first and the last.
    ///
    /// # Errors
    /// `Damaged` if the change contradicts what came before.
    pub fn apply(&mut self, change: RowChange<'_>, transaction: u32, keeps_all: bool) -> Result<()> {
        self.writers.insert(transaction);
        if self.obstacle.is_some() {
            return Ok(());
        }
        match change {
            RowChange::Insert { new } | RowChange::Given { new } => {
                let row = self.resting(new.key).unwrap_or_else(|| {
                    let none = self.version(None, None);
                    self.add(None, none)
                });
                self.stand(row, new, transaction, keeps_all)
            }
            RowChange::Update { old, new } => {
                let row = self.take(old.unwrap_or(new), old.is_some())?;
                self.stand(row, new, transaction, keeps_all)
            }
            RowChange::Delete { old } => {
                let row = self.take(old, true)?;
                if self.is_keyed() {
                    self.put(row, old.key);
                }
                self.push(row, self.version(Some(transaction), None), keeps_all)
            }
        }
    }

    /// The row that was deleted under this key: one that is inserted again is the same row.
    fn resting(&mut self, key: &[u8]) -> Option<usize> {
        if self.is_keyed() { self.pop(key) } else { None }
    }

    fn version(&self, transaction: Option<u32>, line: Option<Line>) -> Version {
        Version { transaction, line, shape: self.reshapes.len() }
    }

    /// The row stands under the new key from here on.
    fn stand(&mut self, row: usize, new: Row<'_>, transaction: u32, keeps_all: bool) -> Result<()> {
        self.put(row, new.key);
        self.push(row, self.version(Some(transaction), Some(new.line.into())), keeps_all)
    }

    /// Takes the row that stands under a key away from there.
    fn take(&mut self, old: Row<'_>, has_old_line: bool) -> Result<usize> {
        let is_keyed = self.is_keyed();
        let is_known = self.standing.contains_key(old.key);
        if let Some(row) = self.pop(old.key).filter(|row| self.rows[*row].last().is_some()) {
            return Ok(row);
        }
        if self.emptied.is_some() || (is_keyed && is_known) {
            return Err(Error::damaged(format!(
                "the journal changes a row of {} that is not there",
                self.table().map_or_else(String::new, Table::display)
            )));
        }
        let key = Key::from(old.key);
        self.standing.entry(Arc::clone(&key)).or_default();
        // A table without a key has whole rows before each change.
        let line = (!is_keyed && has_old_line).then(|| old.line.into());
        let first = self.version(None, line);
        Ok(self.add(Some(key), first))
    }

    fn add(&mut self, first_key: Option<Key>, first: Version) -> usize {
        let mut versions = Vec::with_capacity(2);
        versions.push(first);
        self.rows.push(TouchedRow { first_key, below: None, versions });
        self.rows.len() - 1
    }

    /// Puts a row on top of those that stand under a key.
    fn put(&mut self, row: usize, key: &[u8]) {
        self.rows[row].below = match self.standing.get_mut(key) {
            Some(uppermost) => uppermost.replace(row),
            None => self.standing.insert(key.into(), Some(row)).flatten(),
        };
    }

    /// Takes the uppermost row away that stands under a key.
    fn pop(&mut self, key: &[u8]) -> Option<usize> {
        let uppermost = self.standing.get_mut(key)?;
        let row = (*uppermost)?;
        *uppermost = self.rows[row].below.take();
        Some(row)
    }

    fn push(&mut self, row: usize, mut version: Version, keeps_all: bool) -> Result<()> {
        if let (Some(line), Some(Version { line: Some(before), shape, .. })) =
            (&version.line, self.rows[row].versions.last())
            && copy_text::has_hole(line)
        {
            version.line = Some(self.filled(line, &self.carry(before, *shape, version.shape)?)?);
        }
        let versions = &mut self.rows[row].versions;
        // A transaction counts by what it left, not by its steps.
        let is_step = versions.last().is_some_and(|last| last.transaction == version.transaction);
        if versions.len() > 1 && (is_step || !keeps_all) {
            versions.pop();
        }
        versions.push(version);
        Ok(())
    }

    fn filled(&self, line: &[u8], before: &[u8]) -> Result<Line> {
        let filled = fill_holes(line, before).ok_or_else(|| self.unfit())?;
        Ok(filled.into())
    }

    fn unfit(&self) -> Error {
        let name = self.table().map_or_else(String::new, Table::display);
        Error::damaged(format!("a row of {name} does not fit the row before it"))
    }

    /// All rows of the table go.
    pub fn empty(&mut self, transaction: u32) {
        self.writers.insert(transaction);
        let gone = self.version(Some(transaction), None);
        for row in self.rows.iter_mut().filter(|row| row.last().is_some()) {
            row.versions.push(gone.clone());
        }
        if !self.is_keyed() {
            self.standing.clear();
        }
        self.emptied.get_or_insert(transaction);
    }

    /// A schema change made the table another one.
    pub fn alter(&mut self, now: &Arc<Table>, reshape: Option<&Reshape>) {
        if reshape.is_some_and(|reshape| !reshape.keeps_keys) {
            self.obstacle = Some("its key changed since".to_owned());
        }
        self.reshapes.extend(reshape.cloned());
        self.now = Some(Arc::clone(now));
    }

    /// Returns the rows that must be read as they were at the moment.
    pub fn unread(&self) -> UnreadRows {
        let is_all = self.emptied.is_some() && !self.is_emptied_read && self.then.is_some();
        let wanted = self.rows.iter().enumerate().filter(|(_, row)| is_all || row.is_unread());
        let mut rows: Vec<_> = wanted.filter_map(|(at, row)| Some((row.first_key.clone()?, at))).collect();
        rows.sort_unstable();
        UnreadRows { rows, is_all, passed: 0 }
    }

    /// Takes a row as it was at the moment. Rows are handed over in the order of their keys.
    pub fn take_first(&mut self, unread: &mut UnreadRows, key: &[u8], line: &[u8]) {
        let (line, shape) = (Some(Line::from(line)), 0);
        if let Some(row) = unread.pass(key) {
            let first = &mut self.rows[row].versions[0];
            if first.line.is_none() {
                (first.line, first.shape) = (line, shape);
            }
        } else if unread.is_all {
            let row = self.add(Some(key.into()), Version { transaction: None, line, shape });
            self.rows[row].versions.push(Version { transaction: self.emptied, line: None, shape });
        }
    }

    /// Makes all lines whole lines of the table as it is now, when all unread rows were taken.
    ///
    /// # Errors
    /// `Damaged` if a row is not there, or is not whole.
    pub fn complete(&mut self, unread: &UnreadRows) -> Result<()> {
        if unread.rows.iter().any(|(_, row)| self.rows[*row].is_unread()) {
            return Err(missing_row(&self.unfit()));
        }
        self.is_emptied_read |= self.emptied.is_some();
        self.bring_lines_up_to_date()
    }

    fn bring_lines_up_to_date(&mut self) -> Result<()> {
        let now = self.reshapes.len();
        let mut rows = std::mem::take(&mut self.rows);
        for row in rows.iter_mut().filter(|row| !row.is_up_to_date(now)) {
            let mut before: Option<(Line, usize)> = None;
            for version in &mut row.versions {
                let Some(line) = &version.line else { continue };
                let whole = match &before {
                    Some((before, shape)) if copy_text::has_hole(line) => {
                        self.filled(line, &self.carry(before, *shape, version.shape)?)?
                    }
                    _ => line.clone(),
                };
                if copy_text::has_hole(&whole) {
                    return Err(self.unfit());
                }
                version.line = Some(self.carry(&whole, version.shape, now)?);
                before = Some((whole, version.shape));
            }
            row.versions.iter_mut().for_each(|version| version.shape = now);
        }
        self.rows = rows;
        Ok(())
    }

    /// A line of the table as it was, as a line of the table as it became.
    fn carry(&self, line: &[u8], from: usize, to: usize) -> Result<Line> {
        let mut line: Line = line.into();
        for reshape in &self.reshapes[from.min(to)..to] {
            if reshape.retells() && copy_text::has_hole(&line) {
                return Err(self.unfit());
            }
            line = reshape.reshaped(&line)?.into();
        }
        Ok(line)
    }

    /// The positions of those columns of today's table that the table at the moment had too.
    fn kept_columns(&self) -> Option<BTreeSet<usize>> {
        let (then, now) = (self.then.as_ref()?, self.now.as_ref()?);
        let had = |number: &usize| then.columns.iter().any(|it| now.columns[*number].is_same_as(it));
        Some((0..now.columns.len()).filter(had).collect())
    }

    /// The parts of the table that have no place in the table of today, or had none at the moment.
    pub fn without_place(&self) -> Vec<String> {
        let name = self.table().map_or_else(String::new, Table::display);
        match (&self.then, &self.now) {
            (Some(_), None) => vec![format!("{name}: the table was dropped since")],
            (None, Some(_)) => vec![format!("{name}: the table was made since, and is left as it is")],
            (None, None) => Vec::new(),
            (Some(then), Some(now)) => {
                let is_gone = |old: &&Column| !now.columns.iter().any(|it| it.is_same_as(old));
                let gone = then.columns.iter().filter(is_gone);
                gone.map(|column| format!("{name}.{}: the column was dropped since", column.name)).collect()
            }
        }
    }

    /// The line that a row shall have to be as it was at the moment. Columns that were added since keep what they hold.
    pub fn restored(&self, row: &TouchedRow) -> Option<Line> {
        let first = row.first()?;
        let (Some(last), Some(kept)) = (row.last(), self.kept_columns()) else { return Some(first.clone()) };
        if kept.len() == copy_text::columns(first).count() {
            return Some(first.clone());
        }
        let pick = |(number, (then, now))| if kept.contains(&number) { then } else { now };
        let columns = copy_text::columns(first).zip(copy_text::columns(last)).enumerate().map(pick);
        Some(columns.collect::<Vec<_>>().join(&b'\t').into())
    }
}

/// The rows of a table that must be read as they were at the moment.
pub struct UnreadRows {
    /// Keys and places, sorted.
    rows: Vec<(Key, usize)>,
    /// Whether rows that nothing else touched are among them: all rows were removed.
    is_all: bool,
    /// How many of the rows come before the last key that was asked for.
    passed: usize,
}

impl UnreadRows {
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && !self.is_all
    }

    pub fn asked(&self) -> AskedRows<Key> {
        match self.is_all {
            true => AskedRows::All,
            false => AskedRows::Keys(self.rows.iter().map(|(key, _)| Arc::clone(key)).collect()),
        }
    }

    /// Passes over the rows before a key. Returns the row that has the key.
    fn pass(&mut self, key: &[u8]) -> Option<usize> {
        self.passed += self.rows[self.passed..].iter().take_while(|(it, _)| **it < *key).count();
        let (_, row) = self.rows.get(self.passed).filter(|(it, _)| **it == *key)?;
        self.passed += 1;
        Some(*row)
    }
}

fn is_keyed(table: &Table) -> bool {
    matches!(table.identity, RowIdentity::Key(_))
}

fn missing_row(unfit: &Error) -> Error {
    Error::damaged(format!("{}: it is in no image", unfit.message()))
}
