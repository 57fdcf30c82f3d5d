//! Questions to the past: which transactions there were, what one of them did, what a row was, and what differs between
//! two moments.
//!
//! Each question is a caller of [`Past`] and of [`Follow`](crate::follow::Follow), and has a file of its own. They share
//! the [`Span`] of the journal that is asked about, [`whole`] rows, and a [`Condition`] on rows.

pub mod condition;
mod counted;
mod decimal;
pub mod diff;
pub mod log;
mod merge;
pub mod row;
pub mod show;
pub mod statement;
mod tally;
mod touched;
pub mod values;
pub mod whole;

use std::collections::HashSet;
use std::sync::Arc;

use clap::ValueEnum;
use serde::Serialize;

use crate::codec::key::KeyShape;
use crate::error::{Error, Result};
use crate::history::journal::TransactionEntry;
use crate::model::{Lsn, Moment, PgTime, Selection, Table};
use crate::past::{Past, Reading};

pub use condition::Condition;

/// A kind of change of rows or definitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    Insert,
    Update,
    Delete,
    Truncate,
    Ddl,
}

/// A part of one epoch's journal.
pub struct Span {
    /// The database just before the first transaction.
    pub past: Past,
    /// The time of the last transaction before the span.
    pub time: PgTime,
    /// Exclusive: the commit position of the first transaction behind the span.
    pub until: Lsn,
}

/// The spans between two moments, in order, and remarks for the person who asked. There are several if gaps lie between
/// the moments.
pub struct Spans {
    pub spans: Vec<Span>,
    pub notes: Vec<String>,
}

/// A row that is held for a while: its line of COPY text, and its table as it was then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub table: Arc<Table>,
    pub line: Vec<u8>,
}

impl Row {
    pub fn new(table: &Arc<Table>, line: &[u8]) -> Row {
        Row { table: Arc::clone(table), line: line.to_vec() }
    }
}

impl Span {
    /// The tables as they stand where the span begins, and as they stand where it ends.
    fn tables(&self) -> Result<impl Iterator<Item = Table>> {
        let end = self.past.reading().before(self.past.base().epoch, self.until)?;
        Ok(self.past.tables()?.into_iter().chain(end.tables()?))
    }

    /// The time of the last transaction of the span, or before it if the span has none.
    fn last_time(&self) -> Result<PgTime> {
        let segments = self.past.stretch().segments_between(self.past.until(), self.until);
        let Some(last) = segments.last() else { return Ok(self.time) };
        let segment = last.open()?;
        let inside = |entry: &&TransactionEntry| entry.commit_lsn < self.until;
        Ok(segment.transactions().iter().rfind(inside).map_or(self.time, |entry| entry.time))
    }

    /// The tables that are selected in the span.
    fn selected<'a>(&self, selection: &'a Selection) -> Result<SelectedTables<'a>> {
        let (mut selected, mut known) = (HashSet::new(), HashSet::new());
        for table in self.tables()? {
            known.insert(table.oid);
            if selection.takes_table(&table) {
                selected.insert(table.oid);
            }
        }
        Ok(SelectedTables { selection, selected, known })
    }
}

/// The tables that are selected in a span: by their names where it begins or where it ends, whatever they are called before
/// and in between. A table that is there at neither end counts by the name with which it is made.
struct SelectedTables<'a> {
    selection: &'a Selection,
    selected: HashSet<u32>,
    /// The oids of the tables that are there where the span begins or where it ends.
    known: HashSet<u32>,
}

impl SelectedTables<'_> {
    fn takes(&self, table: &Table) -> bool {
        let is_passing = !self.known.contains(&table.oid);
        self.selected.contains(&table.oid) || is_passing && self.selection.takes_table(table)
    }
}

/// Refuses patterns that match no table where one of the spans begins or ends, and a condition that fits no such table.
///
/// # Errors
/// `Usage` for such a pattern or condition; `Damaged` if the history is.
pub fn refuse_misfits(selection: &Selection, condition: Option<&Condition>, spans: &[Span]) -> Result<()> {
    let mut tables = Vec::new();
    for span in spans {
        tables.extend(span.tables()?);
    }
    let unmatched = selection.unmatched(&tables);
    if !unmatched.is_empty() {
        return Err(Error::usage(format!(
            "no table matches {} where the question begins or ends; see the tables with: backwhen list checkpoints \
             --tables",
            unmatched.join(", ")
        )));
    }
    tables.retain(|table| selection.takes_table(table));
    if condition.is_none_or(|condition| tables.iter().any(|table| condition.fits(table))) {
        return Ok(());
    }
    Err(Error::usage(
        "no table has all columns that --where names; see the tables with: backwhen show schema --at latest",
    ))
}

impl Spans {
    /// Finds the transactions that committed after one moment and are included in another; without moments, all of them
    /// that the history can explain.
    ///
    /// # Errors
    /// `OutsideWindow` if the history does not hold a moment, `Usage` if the second moment is before the first.
    pub fn between(reading: &Reading, since: Option<&Moment>, until: Option<&Moment>) -> Result<Spans> {
        let mut notes = Vec::new();
        let since = since.and_then(|it| begin(reading, it, &mut notes));
        let since = since.map(|it| reading.at(&it, false)).transpose()?;
        since.as_ref().map_or(Ok(()), Past::check_is_followed)?;
        let until = until.and_then(|it| end(reading, it, &mut notes));
        let until = until.map(|it| reading.at(&it, false)).transpose()?;
        if until.as_ref().is_some_and(|past| past.check_is_followed().is_err()) {
            return Err(Error::outside_window(format!(
                "the journal before {} was expired, so what happened until then is not known; {}",
                until.as_ref().map_or_else(String::new, |past| past.until().to_string()),
                reading.timeline().describe_window()
            )));
        }
        let place = |past: &Past| (past.base().epoch, past.until());
        let (from, to) = (since.as_ref().map(place), until.as_ref().map(place));
        if let (Some(from), Some(to)) = (from, to)
            && to < from
        {
            return Err(Error::usage("--until is before --since; exchange the two"));
        }
        let mut spans: Vec<Span> = Vec::new();
        for stretch in &reading.timeline().stretches {
            let epoch = stretch.epoch.number;
            let Some(window) = stretch.window() else { continue };
            if from.is_some_and(|(first, _)| epoch < first) || to.is_some_and(|(last, _)| epoch > last) {
                continue;
            }
            let start = from.filter(|it| it.0 == epoch).map_or(window.earliest.lsn, |it| it.1);
            let last = since.as_ref().filter(|past| past.base().epoch == epoch).and_then(Past::last);
            let time = last.map_or(window.earliest.time, |last| last.time);
            let end = to.filter(|it| it.0 == epoch).map_or(window.latest.lsn, |it| it.1);
            if let Some(before) = spans.last() {
                notes.push(format!(
                    "a gap lies between {} and {start}; see: backwhen list gaps",
                    before.until
                ));
            }
            let past = reading.before(epoch, start)?;
            notes.extend(past.notes().iter().cloned());
            split(Span { past, time, until: end }, &mut spans, &mut notes)?;
        }
        Ok(Spans { spans, notes })
    }
}

/// Splits a span where rows were corrected, since no transaction leads from the rows before to the rows after.
fn split(mut span: Span, spans: &mut Vec<Span>, notes: &mut Vec<String>) -> Result<()> {
    for (lsn, tables) in span.past.corrections(span.until)? {
        let names: Vec<_> = tables.into_iter().map(|(_, name)| name).collect();
        notes.push(format!(
            "changes of {} before {lsn} were lost: the rows were corrected there, and no transaction tells how",
            names.join(", ")
        ));
        let past = span.past.reading().before(span.past.base().epoch, lsn)?;
        let rest = Span { time: past.base().time, past, until: span.until };
        spans.push(Span { until: lsn, ..std::mem::replace(&mut span, rest) });
    }
    spans.push(span);
    Ok(())
}

/// The moment at which to begin; `None` for the window's beginning. A time behind the window means its end.
fn begin(reading: &Reading, moment: &Moment, notes: &mut Vec<String>) -> Option<Moment> {
    let (Moment::Time(time), Some(window)) = (moment, reading.timeline().window()) else {
        return Some(moment.clone());
    };
    if (window.earliest.time..=window.latest.time).contains(time) {
        return Some(moment.clone());
    }
    notes.push(format!("{time} is outside the window; {}", reading.timeline().describe_window()));
    (*time > window.latest.time).then_some(Moment::Latest)
}

/// The moment at which to end; `None` for the window's end.
fn end(reading: &Reading, moment: &Moment, notes: &mut Vec<String>) -> Option<Moment> {
    match (moment, reading.timeline().window()) {
        (Moment::Time(time), Some(window)) if *time > window.latest.time => {
            notes.push(format!("{time} is after the window; {}", reading.timeline().describe_window()));
            None
        }
        _ => Some(moment.clone()),
    }
}

/// The positions of the columns that tell one row of the table from another; none if only the whole row does.
pub fn key_columns(table: &Table) -> Vec<usize> {
    match KeyShape::of(table) {
        KeyShape::Columns(columns) => columns.into_iter().map(|(column, _)| column).collect(),
        KeyShape::WholeRow => Vec::new(),
    }
}

/// The key of a row.
fn key_of(table: &Table, line: &[u8]) -> Result<Vec<u8>> {
    let mut key = Vec::new();
    let keyed = KeyShape::of(table).push_key(line, &mut key);
    keyed.ok_or_else(|| Error::damaged(format!("a row of {} has no key", table.display())))?;
    Ok(key)
}
