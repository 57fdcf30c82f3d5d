//! Finds the first transaction after which a check is false.
//!
//! One scratch database has the schema of a moment and the rows of the tables that the check reads. The moments between
//! the good and the bad one are halved again and again. Where no schema change lies between two moments, the rows are moved
//! from one to the other by their net change; otherwise the database is made anew.

mod changes;
mod check;
mod rows;
mod survey;

use std::sync::Arc;

use crate::ambient;
use crate::connect::{Session, connect};
use crate::error::{Error, Kind, Result};
use crate::fold::FoldedTable;
use crate::follow::Transaction;
use crate::model::{Inexact, Lsn, Selection, Table};
use crate::past::{Past, RECOVERY_BUDGET, Reading};
use crate::progress::Unit;
use crate::recover::structure::{Structure, StructureSettings};
use crate::travel::log::{Filter, Log, LoggedTransaction, Order};
use crate::travel::{Span, Spans};
use changes::RecordedChanges;
pub use check::{Check, EXAMPLE_CHECK};
use check::{Outcome, ReadRelation};
use rows::RowWriter;
use survey::{ReadTables, Survey};

/// The question of a bisection.
pub struct Question {
    pub good: Past,
    pub bad: Past,
    pub check: Check,
    /// The tables that a check command reads; a statement tells by itself.
    pub tables: Selection,
}

/// The answer.
pub struct FirstBad {
    pub transaction: LoggedTransaction,
    /// The moments between the good and the bad one at which the check was run.
    pub steps: u64,
    /// The transactions between them that changed a table that the check reads, or the schema.
    pub candidates: u64,
    /// The tables that the check reads.
    pub tables: Vec<String>,
    /// Remarks for a person.
    pub notes: Vec<String>,
    pub inexact: Vec<Inexact>,
}

impl Question {
    /// Finds the first transaction after the good moment after which the check is false.
    ///
    /// # Errors
    /// `Usage` if the moments are in the wrong order or the check gives no truth value; `Refused` if a gap lies between
    /// the moments, if the good one is not good or the bad one not bad, or if the check fails or gives NULL; otherwise the
    /// errors of a recovery.
    pub async fn answer(self, settings: StructureSettings) -> Result<FirstBad> {
        self.good.check_is_followed()?;
        let epoch = self.good.base().epoch;
        if epoch != self.bad.base().epoch {
            return Err(Error::refused(
                "a gap lies between --good and --bad, so the changes between them are not known; see: backwhen list gaps",
            ));
        }
        let (low, high) = (self.good.until(), self.bad.until());
        if low >= high {
            return Err(Error::usage(
                "no transaction lies between --good and --bad; --good must be the earlier one",
            ));
        }
        let mut search = Search {
            reading: self.good.reading().clone(),
            structure: Structure::open(&self.good, settings).await?,
            epoch,
            check: self.check,
            selection: self.tables,
            read: ReadTables::default(),
            filled: Vec::new(),
            at: low,
            low,
            high,
            barriers: Vec::new(),
            recorded: None,
        };
        let found = search.run().await;
        let Search { structure, .. } = search;
        match (found, structure.close().await) {
            (Ok(found), closed) => closed.map(|()| found),
            (Err(error), Ok(())) => Err(error),
            (Err(error), Err(left)) => Err(Error::new(error.kind(), format!("{error}; moreover, {left}"))),
        }
    }
}

struct Search {
    reading: Reading,
    structure: Structure,
    epoch: u32,
    check: Check,
    selection: Selection,
    read: ReadTables,
    /// The tables that hold rows, by oid.
    filled: Vec<u32>,
    /// The position whose rows the database holds.
    at: Lsn,
    /// The last position at which the check is true, and the first one known at which it is false.
    low: Lsn,
    high: Lsn,
    barriers: Vec<Transaction>,
    /// Shared with the threads that read it.
    recorded: Option<Arc<RecordedChanges>>,
}

/// Whether the check is true, and whether it read a table that it had not read before.
struct Verdict {
    is_good: bool,
    reads_more: bool,
}

impl Search {
    async fn run(&mut self) -> Result<FirstBad> {
        self.make_anew(self.low).await?;
        if !self.verdict().await?.is_good {
            return Err(Error::refused(format!(
                "the check is false at --good already ({}); name an earlier moment, or one at which it is true",
                self.low
            )));
        }
        let mut candidates = self.survey().await?;
        if candidates.is_empty() {
            return Err(self.nothing_changed());
        }
        let total = candidates.len() as u64;
        self.go(self.high).await?;
        let verdict = self.verdict().await?;
        if verdict.is_good {
            return Err(Error::refused(format!(
                "the check is true at --bad ({}); name a later moment, or one at which it is false",
                self.high
            )));
        }
        if verdict.reads_more {
            candidates = self.survey().await?;
        }
        let steps = self.halve(candidates).await?;
        self.report(steps, total).await
    }

    /// Halves the candidates until one is left; returns the number of moments that were tried.
    async fn halve(&mut self, mut candidates: Vec<Lsn>) -> Result<u64> {
        let expected = u64::from(usize::BITS - candidates.len().saturating_sub(1).leading_zeros());
        let progress = Arc::clone(self.structure.progress());
        progress.phase("moments tried", expected, Unit::Statements);
        let mut steps = 0;
        while candidates.len() > 1 {
            let middle = (candidates.len() - 1) / 2;
            let moment = candidates[middle];
            self.go(moment).await?;
            let verdict = self.verdict().await?;
            (steps, ()) = (steps + 1, progress.advance(1));
            if verdict.is_good {
                self.low = moment;
                candidates.drain(..=middle);
            } else {
                self.high = moment;
                candidates.truncate(middle + 1);
            }
            if verdict.reads_more {
                candidates = self.survey().await?;
            }
        }
        match candidates.first() {
            Some(last) => self.high = *last,
            None => return Err(self.nothing_changed()),
        }
        Ok(steps)
    }

    fn nothing_changed(&self) -> Error {
        Error::refused(format!(
            "no transaction between {} and {} changes a table that the check reads ({}), or the schema; what it says \
             depends on something else, such as the clock",
            self.low,
            self.high,
            self.read.names().join(", ")
        ))
    }

    async fn report(&self, steps: u64, candidates: u64) -> Result<FirstBad> {
        let (reading, epoch, until) = (self.reading.clone(), self.epoch, self.high);
        let from = self.low;
        let listing = ambient::blocking("reading the transaction", move || {
            let past = reading.before(epoch, from)?;
            let span = Span { time: past.base().time, past, until };
            let spans = Spans { spans: vec![span], notes: Vec::new() };
            let mut last = None;
            let filter = Filter::default();
            let log = Log { filter: &filter, order: Order::Newest, limit: Some(1) };
            log.list(&spans, &mut |found| {
                last = Some(found);
                Ok(())
            })?;
            last.ok_or_else(|| Error::internal("the transaction that was found is not in the journal"))
        });
        Ok(FirstBad {
            transaction: listing.await?,
            steps,
            candidates,
            tables: self.read.names(),
            notes: self.structure.notes.iter().cloned().collect(),
            inexact: self.structure.inexact.clone(),
        })
    }

    /// Finds the candidates between the positions that are known.
    async fn survey(&mut self) -> Result<Vec<Lsn>> {
        let (reading, epoch, read) = (self.reading.clone(), self.epoch, self.read.clone());
        let (low, high) = (self.low, self.high);
        self.structure.progress().phase("reading the journal", 0, Unit::Transactions);
        let surveying =
            ambient::blocking("reading the journal", move || Survey::of(&reading, epoch, low, high, &read));
        let survey = self.structure.unless_interrupted(surveying).await?;
        (self.barriers, self.recorded) = (survey.barriers, None);
        self.structure.name_inexact(survey.inexact);
        Ok(survey.candidates)
    }

    /// Has the database hold the rows of another position.
    async fn go(&mut self, to: Lsn) -> Result<()> {
        let (from, reaches) = (self.at.min(to), self.at.max(to));
        if self.barriers.iter().any(|it| from <= it.lsn && it.lsn < reaches) {
            return self.make_anew(to).await;
        }
        let recorded = self.recorded(from, reaches).await?;
        let info = self.structure.info()?;
        let moving = async {
            let catalogs = Session::connect_utf8(info, "bisect").await?;
            let session = connect(info, "bisect").await?;
            let writer = RowWriter { catalogs: &catalogs, session: &session };
            writer.begin().await?;
            for piece in recorded.pieces(self.at, to) {
                let recorded = Arc::clone(&recorded);
                let mut net = ambient::blocking("reading changes", move || recorded.net(piece)).await?;
                writer.write(&mut net).await?;
            }
            writer.commit().await
        };
        self.structure.unless_interrupted(moving).await?;
        self.at = to;
        Ok(())
    }

    /// The changes of the stretch around two positions that no schema change divides, as far as it may be needed again.
    async fn recorded(&mut self, from: Lsn, until: Lsn) -> Result<Arc<RecordedChanges>> {
        if let Some(recorded) = self.recorded.as_ref().filter(|it| it.covers(from, until)) {
            return Ok(Arc::clone(recorded));
        }
        let before = self.barriers.iter().rev().find(|it| it.lsn < from);
        let after = self.barriers.iter().find(|it| it.lsn >= until);
        let start = before.map_or(self.low, |it| it.end_lsn.max(self.low)).min(from);
        let end = after.map_or(self.high, |it| it.lsn.min(self.high)).max(until);
        let (reading, epoch, read) = (self.reading.clone(), self.epoch, self.read.clone());
        self.structure.progress().phase("reading the changes of the tables", 0, Unit::Transactions);
        let recording = ambient::blocking("recording changes", move || {
            RecordedChanges::record(&reading, epoch, (start, end), &read)
        });
        let recorded = Arc::new(self.structure.unless_interrupted(recording).await?);
        self.recorded = Some(Arc::clone(&recorded));
        Ok(recorded)
    }

    async fn make_anew(&mut self, at: Lsn) -> Result<()> {
        (self.at, self.filled) = (at, Vec::new());
        let past = self.past()?;
        self.structure.make(&past).await?;
        let known: Vec<_> = past.tables()?.into_iter().filter(|table| self.wants(table)).collect();
        self.fill(past, known).await.map(drop)
    }

    /// Whether the table is to hold rows before the check has asked for it.
    fn wants(&self, table: &Table) -> bool {
        let by_command = matches!(self.check, Check::Command(_));
        self.read.holds(table) || by_command && self.selection.takes_table(table)
    }

    fn past(&self) -> Result<Past> {
        self.reading.before(self.epoch, self.at)
    }

    /// Runs the check, and fills the tables that it reads until there are no more of them.
    async fn verdict(&mut self) -> Result<Verdict> {
        let mut reads_more = false;
        loop {
            let info = self.structure.info()?;
            let moment = self.at.to_string();
            let running = self.check.run(info, &moment);
            let Outcome { verdict, read } = self.structure.unless_interrupted(running).await?;
            let past = self.past()?;
            let tables = self.tables_read(&past, &read)?;
            if tables.is_empty() {
                return Ok(Verdict { is_good: verdict?, reads_more });
            }
            reads_more |= self.fill(past, tables).await?;
        }
    }

    /// The tables among the relations that do not hold their rows yet.
    fn tables_read(&self, past: &Past, read: &[ReadRelation]) -> Result<Vec<Table>> {
        let tables = past.tables()?;
        let mut found = Vec::new();
        for relation in read {
            relation.is_table()?;
            let is_it = |table: &&Table| (&table.schema, &table.name) == (&relation.schema, &relation.name);
            match tables.iter().find(is_it) {
                Some(table) if self.filled.contains(&table.oid) => {}
                Some(table) => found.push(table.clone()),
                None if relation.is_extensions() => {}
                None => {
                    return Err(Error::refused(format!(
                        "the check reads {}, whose rows the history does not hold; see: backwhen list checkpoints --tables",
                        relation.display()
                    )));
                }
            }
        }
        Ok(found)
    }

    /// Fills tables with their rows at the present position; returns whether one had not been read before.
    async fn fill(&mut self, past: Past, tables: Vec<Table>) -> Result<bool> {
        let mut is_new = false;
        for table in &tables {
            is_new |= self.read.add(table);
            self.filled.push(table.oid);
        }
        if tables.is_empty() {
            return Ok(false);
        }
        let progress = Arc::clone(self.structure.progress());
        let folding = ambient::blocking("folding the history", move || {
            let wanted = |table: &Table| tables.iter().any(|it| it.oid == table.oid);
            past.fold(&wanted, RECOVERY_BUDGET, &ambient::temporary_place(), &*progress)
        });
        let folded = self.structure.unless_interrupted(folding).await?;
        let bytes = folded.tables.iter().map(|table| table.size_hint().1).sum();
        self.structure.progress().phase("loading", bytes, Unit::Bytes);
        self.structure.name_inexact(folded.inexact);
        for table in folded.tables {
            self.fill_one(table).await?;
        }
        self.recorded = self.recorded.take().filter(|_| !is_new);
        Ok(is_new)
    }

    async fn fill_one(&self, table: FoldedTable) -> Result<()> {
        let name = table.table.display();
        let filled = self.structure.unless_interrupted(self.structure.fill(table)).await;
        filled.map_err(|error| match error.kind() {
            Kind::Interrupted => error,
            kind => Error::new(kind, format!("{name} cannot be filled as it was at {}: {error}", self.at)),
        })
    }
}
