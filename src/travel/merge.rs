//! The rows of one table at two moments, side by side.

use std::collections::BTreeMap;

use super::key_of;
use super::touched::TouchedTable;
use crate::error::{Error, Result};
use crate::fold::{FoldedTable, KeyRange, TableRows};

/// With more bytes of rows than this, tables of which the keys have changed are not compared.
const ROWS_LIMIT: u64 = 256 << 20;

/// The lines that one key has before and after. There may be several only if rows are told apart by all their values.
#[derive(Default)]
pub struct Lines {
    pub before: Vec<OldLine>,
    pub after: Vec<Vec<u8>>,
}

/// A line from before.
pub struct OldLine {
    /// The line in the columns of the table as it was.
    pub then: Vec<u8>,
    /// The line in the columns of the table as it is now, if these are others.
    pub now: Option<Vec<u8>>,
}

impl OldLine {
    fn new(touched: &TouchedTable, line: Vec<u8>) -> Result<OldLine> {
        let reshape = touched.reshape.as_ref().filter(|_| touched.now.is_some());
        let now = reshape.map(|reshape| reshape.reshaped(&line)).transpose()?;
        Ok(OldLine { then: line, now })
    }

    pub fn now(&self) -> &[u8] {
        self.now.as_deref().unwrap_or(&self.then)
    }
}

/// Hands each key of one of the two states to `take`, in order, with the lines that it has in each.
///
/// # Errors
/// `Damaged` if the history is; `Refused` if the table's key has changed and the table is too large; those of `take`.
pub fn side_by_side(
    touched: &TouchedTable,
    before: Option<FoldedTable>,
    after: Option<FoldedTable>,
    take: &mut dyn FnMut(&[u8], Lines) -> Result<()>,
) -> Result<()> {
    if touched.rekeyed && before.is_some() && after.is_some() {
        return by_new_key(touched, before, after, take);
    }
    if !touched.whole {
        return by_touched_key(touched, before, after, take);
    }
    let rows = |table: Option<FoldedTable>| table.map(|table| table.rows(KeyRange::all(), None)).transpose();
    let mut before = KeyGroups { rows: rows(before)?, next: None };
    let mut after = KeyGroups { rows: rows(after)?, next: None };
    let (mut left, mut right) = (before.next_group()?, after.next_group()?);
    loop {
        let key = match (&left, &right) {
            (None, None) => return Ok(()),
            (Some((key, _)), None) | (None, Some((key, _))) => key.clone(),
            (Some((left, _)), Some((right, _))) => left.min(right).clone(),
        };
        let mut lines = Lines::default();
        if let Some((_, old)) = left.take_if(|(it, _)| *it == key) {
            lines.before = old.into_iter().map(|line| OldLine::new(touched, line)).collect::<Result<_>>()?;
            left = before.next_group()?;
        }
        if let Some((_, new)) = right.take_if(|(it, _)| *it == key) {
            lines.after = new;
            right = after.next_group()?;
        }
        take(&key, lines)?;
    }
}

fn by_touched_key(
    touched: &TouchedTable,
    before: Option<FoldedTable>,
    after: Option<FoldedTable>,
    take: &mut dyn FnMut(&[u8], Lines) -> Result<()>,
) -> Result<()> {
    let asked = touched.asked();
    let mut found: BTreeMap<Vec<u8>, Lines> = BTreeMap::new();
    if let Some(table) = before {
        table.each_of(&asked, |key, line| {
            let line = OldLine::new(touched, line.to_vec())?;
            found.entry(key.to_vec()).or_default().before.push(line);
            Ok(())
        })?;
    }
    if let Some(table) = after {
        table.each_of(&asked, |key, line| {
            found.entry(key.to_vec()).or_default().after.push(line.to_vec());
            Ok(())
        })?;
    }
    found.into_iter().try_for_each(|(key, lines)| take(&key, lines))
}

/// The rows from before have other keys, so they are sorted anew in memory.
fn by_new_key(
    touched: &TouchedTable,
    before: Option<FoldedTable>,
    after: Option<FoldedTable>,
    take: &mut dyn FnMut(&[u8], Lines) -> Result<()>,
) -> Result<()> {
    let Some(now) = touched.now.clone() else { return Ok(()) };
    let bytes: u64 = before.iter().chain(&after).map(|table| table.size_hint().1).sum();
    if bytes > ROWS_LIMIT {
        return Err(Error::refused(format!(
            "the key of {} changed between the two moments, and the table is too large to compare its rows by the \
             new one; leave it out with --table",
            now.display()
        )));
    }
    let mut found: BTreeMap<Vec<u8>, Lines> = BTreeMap::new();
    if let Some(table) = before {
        table.each(|_, line| {
            let line = OldLine::new(touched, line.to_vec())?;
            found.entry(key_of(&now, line.now())?).or_default().before.push(line);
            Ok(())
        })?;
    }
    if let Some(table) = after {
        let shape = table.table.clone();
        table.each(|_, line| {
            found.entry(key_of(&shape, line)?).or_default().after.push(line.to_vec());
            Ok(())
        })?;
    }
    found.into_iter().try_for_each(|(key, lines)| take(&key, lines))
}

/// A key with the lines of all rows that have it.
type KeyGroup = (Vec<u8>, Vec<Vec<u8>>);

/// The rows of a table by key.
struct KeyGroups {
    rows: Option<TableRows>,
    /// The first row of the next group.
    next: Option<(Vec<u8>, Vec<u8>)>,
}

impl KeyGroups {
    fn next_group(&mut self) -> Result<Option<KeyGroup>> {
        let Some(rows) = &mut self.rows else { return Ok(None) };
        let mut own = |(key, line): (&[u8], &[u8])| (key.to_vec(), line.to_vec());
        let first = match self.next.take() {
            Some(first) => Some(first),
            None => rows.next_row()?.map(&mut own),
        };
        let Some((key, line)) = first else { return Ok(None) };
        let mut lines = vec![line];
        while let Some((next, line)) = rows.next_row()? {
            if *next != *key {
                self.next = Some(own((next, line)));
                break;
            }
            lines.push(line.to_vec());
        }
        Ok(Some((key, lines)))
    }
}
