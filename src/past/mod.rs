//! The past of a protected database, as its history holds it.
//!
//! [`Reading`] is a history that is open for reading: one command opens the history once. [`Reading::at`] turns a
//! moment, as a person names it, into a [`Past`], which answers questions about the database at that moment and folds
//! its rows. The commands that recover, show, prove and compare, and the fold into a checkpoint, all begin here.

mod asked;
mod base;
mod chosen;
mod doubt;
mod inexact;
mod lookup;
mod reading;
pub mod resolve;
mod schema;
mod witness;

use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

pub use chosen::ChosenTables;
pub use inexact::KnownInexact;
pub use lookup::KeyedRows;
use reading::Place;
pub use reading::Reading;
pub use resolve::Commit;
pub use witness::SchemaWitness;

use crate::error::{Error, Result};
use crate::fold::{self, Folded, FoldedTable, KeyRange, RowsOnly, TableRows};
use crate::follow::{self, Follow, JournalRange, Transaction, Wanted};
use crate::history::History;
use crate::history::checkpoint::Checkpoint;
use crate::history::definitions::changes_in;
use crate::history::journal::{ChosenBlocks, TransactionEntry};
use crate::history::roles;
use crate::history::timeline::{SegmentView, Stretch, with_epoch};
use crate::model::{Lsn, Moment, PgTime, SequenceState, Table};
use crate::progress::{Progress, Silent};
use crate::signal::DefinitionChange;
use base::base;
use resolve::resolve;

/// The fold's memory for changes in a recovery, in bytes. With more changes, the fold merges them into images on disk.
/// A recovery usually has the machine to itself.
pub const RECOVERY_BUDGET: usize = 384 << 20;

/// The fold's memory for changes in a checkpoint or a comparison: a capture may run on the same machine, and images are
/// written or read beside the fold.
pub const CHECKPOINT_BUDGET: usize = 320 << 20;

/// The fold's memory for changes in a proof, whose folds run one after the other.
pub const PROOF_BUDGET: usize = 320 << 20;

/// The database at one moment: a checkpoint, and the transactions of its epoch from the checkpoint up to the moment.
///
/// A past reads nothing before it is asked, and reads once what several questions need.
pub struct Past {
    reading: Reading,
    place: Place,
    base: Checkpoint,
    until: Lsn,
    definitions_at: Lsn,
    /// The position for which the schema's grade is asked.
    witnessed_at: Lsn,
    last: Option<Commit>,
    next: Option<Commit>,
    notes: Vec<String>,
    changes: OnceLock<Vec<DefinitionChange>>,
    roles: OnceLock<Option<String>>,
    /// The number, with its epoch, of a transaction near the moment.
    number: OnceLock<Option<u64>>,
}

impl Reading {
    /// Returns the past at a moment; with `before`, at the instant just before the transaction or mark.
    ///
    /// # Errors
    /// `OutsideWindow` if the history does not hold the moment, `Usage` if `before` does not fit it, `Damaged` if no
    /// checkpoint before it can be used.
    pub fn at(&self, moment: &Moment, before: bool) -> Result<Past> {
        let resolved = resolve(self.timeline(), moment, before)?;
        let place = self.place_at(resolved.epoch, resolved.until)?;
        let (base, instead) = base(self, self.stretch_at(&place), resolved.until)?;
        let mut past = self.past(place, base, resolved.until);
        // An LSN is meant exactly. Any other moment is the end of a transaction, and the next commit may be long after
        // it.
        if let (Some(last), false) = (resolved.last, matches!(moment, Moment::Lsn(_))) {
            past.definitions_at = last.lsn;
        }
        // Without event triggers, no commit tells a schema change between the last commit and the asked time.
        if !matches!(moment, Moment::Time(_)) {
            past.witnessed_at = past.definitions_at;
        }
        (past.last, past.next) = (resolved.last, resolved.next);
        past.notes = [resolved.notes, instead].concat();
        Ok(past)
    }

    /// Returns the past that `base` and the transactions of its epoch that committed before `until` lead to.
    ///
    /// # Errors
    /// `Damaged` if the base's epoch is missing.
    pub fn forward(&self, base: Checkpoint, until: Lsn) -> Result<Past> {
        let place = self.place_at(base.epoch, base.lsn)?;
        Ok(self.past(place, base, until))
    }

    /// Returns the past of an epoch that includes the transactions that committed before `until`.
    ///
    /// # Errors
    /// `OutsideWindow` if no checkpoint is old enough, `Damaged` if none of them can be used.
    pub fn before(&self, epoch: u32, until: Lsn) -> Result<Past> {
        let place = self.place_at(epoch, until)?;
        let (base, notes) = base(self, self.stretch_at(&place), until)?;
        Ok(Past { notes, ..self.past(place, base, until) })
    }

    fn stretch_at<'a>(&'a self, place: &'a Place) -> &'a Stretch {
        match place {
            Place::Epoch(index) => &self.timeline().stretches[*index],
            Place::Single(stretch) => stretch,
        }
    }

    fn past(&self, place: Place, base: Checkpoint, until: Lsn) -> Past {
        Past {
            reading: self.clone(),
            place,
            base,
            until,
            definitions_at: until,
            witnessed_at: until,
            last: None,
            next: None,
            notes: Vec::new(),
            changes: OnceLock::new(),
            roles: OnceLock::new(),
            number: OnceLock::new(),
        }
    }
}

impl Past {
    pub fn reading(&self) -> &Reading {
        &self.reading
    }

    pub fn history(&self) -> &History {
        self.reading.history()
    }

    /// The moment's epoch, with the checkpoints and segments that the history holds of it; only the checkpoint itself if
    /// that is kept as a single moment.
    pub fn stretch(&self) -> &Stretch {
        self.reading.stretch_at(&self.place)
    }

    /// Refuses a question about what happened after a moment whose journal was expired.
    ///
    /// # Errors
    /// `OutsideWindow` if the moment is a single checkpoint.
    pub fn check_is_followed(&self) -> Result<()> {
        let Place::Single(_) = &self.place else { return Ok(()) };
        let window = self.reading.timeline().window();
        let since = window.map_or_else(String::new, |window| {
            format!("; every change is held since {} ({})", window.earliest.time, window.earliest.lsn)
        });
        Err(Error::outside_window(format!(
            "checkpoint {} is kept as a single moment: it can be recovered and queried, but the journal after it was \
             expired, so what changed since is not known{since}",
            self.base.id
        )))
    }

    /// A transaction of this epoch, as it is shown to people.
    pub fn commit(&self, transaction: &Transaction) -> Commit {
        let near = *self.number.get_or_init(|| self.stretch().number_near(self.until));
        let xid = near.map_or(transaction.xid.into(), |near| with_epoch(transaction.xid, near));
        Commit { lsn: transaction.end_lsn, time: transaction.time, xid }
    }

    /// The checkpoint before the moment from which its rows are folded.
    pub fn base(&self) -> &Checkpoint {
        &self.base
    }

    /// Exclusive: the commit position of the first transaction that the past does not include.
    pub fn until(&self) -> Lsn {
        self.until
    }

    /// The last transaction that the past includes, if the journal holds it.
    pub fn last(&self) -> Option<Commit> {
        self.last
    }

    /// The first transaction that the past does not include, if the journal holds it.
    pub fn next(&self) -> Option<Commit> {
        self.next
    }

    /// Remarks about this moment for the person who asked for it.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The segments that hold transactions between the base and the moment.
    pub fn segments(&self) -> impl Iterator<Item = &SegmentView> {
        self.stretch().segments_between(self.base.lsn, self.until)
    }

    /// Follows the transactions after this past: those of its epoch that committed before `until`. The cursor knows the
    /// tables as they stand at the moment, and they are wanted by the names that they have then. Only blocks are read that hold schema changes, or changes of wanted tables after
    /// the moment.
    ///
    /// # Errors
    /// `Damaged` if the journal is.
    pub fn follow<'a>(&self, until: Lsn, wanted: Wanted<'a>) -> Result<Follow<'a>> {
        self.follow_chosen(self.until..until, wanted, &ChosenBlocks::new())
    }

    /// The same for the transactions that committed within a range, which begins at the base or at the moment. Of the
    /// segments that `chosen` names, only these blocks are read.
    ///
    /// # Errors
    /// `Damaged` if the journal is.
    pub fn follow_chosen<'a>(
        &self,
        commits: Range<Lsn>,
        wanted: Wanted<'a>,
        chosen: &ChosenBlocks,
    ) -> Result<Follow<'a>> {
        if commits.end > self.until {
            self.check_is_followed()?;
        }
        let key = self.history().identity().message_key();
        let after = if self.schema_changes()?.is_empty() { commits.start } else { self.base.lsn };
        let journal = JournalRange { segments: &self.stretch().segments, after, until: commits.end };
        let blocks = self.with_blocks_that_change(chosen.clone(), commits.clone(), wanted)?;
        let follow = Follow::by_names(&self.base, journal, &key, wanted, &self.tables()?);
        Ok(follow.showing_from(commits.start).reading_only(&blocks))
    }

    /// Folds the tables that are wanted, for a question about some of their rows.
    ///
    /// # Errors
    /// The errors of [`Past::fold`].
    pub fn fold_tables(&self, wanted: Wanted<'_>) -> Result<Vec<FoldedTable>> {
        if !self.tables()?.iter().any(wanted) {
            return Ok(Vec::new());
        }
        let blocks = self.blocks_that_change(self.base.lsn..self.until, wanted)?;
        Ok(self.fold_some(wanted, RowsOnly { blocks, since: self.base.lsn, sought: None })?.0)
    }

    /// The number of transactions between the base and the moment.
    ///
    /// # Errors
    /// `Damaged` if a segment is.
    pub fn count_transactions(&self) -> Result<u64> {
        let held = self.base.lsn..self.until;
        let mut count = 0;
        for view in self.segments() {
            let summary = &view.summary;
            let is_inside = [summary.first_commit, summary.last_commit]
                .iter()
                .all(|commit| commit.is_some_and(|it| held.contains(&it)));
            count += if is_inside {
                summary.transactions
            } else {
                let within = |entry: &&TransactionEntry| held.contains(&entry.commit_lsn);
                view.open()?.transactions().iter().filter(within).count() as u64
            };
        }
        Ok(count)
    }

    /// The time of the latest transaction between the base and the moment; the base's time if no transaction is later.
    pub fn latest_time(&self) -> PgTime {
        let latest = self.segments().filter_map(|view| view.summary.max_time).max();
        latest.map_or(self.base.time, |time| time.max(self.base.time))
    }

    /// The schema changes that the event triggers told between the base and the moment.
    ///
    /// # Errors
    /// `Damaged` if the journal is.
    pub fn schema_changes(&self) -> Result<&[DefinitionChange]> {
        let key = self.history().identity().message_key();
        let read = || changes_in(self.stretch(), &key, self.base.lsn, self.until);
        once(&self.changes, read).map(Vec::as_slice)
    }

    /// Whether schema changes were told since a position.
    ///
    /// # Errors
    /// `Damaged` if the journal is.
    pub fn has_schema_changes_since(&self, position: Lsn) -> Result<bool> {
        let key = self.history().identity().message_key();
        Ok(!changes_in(self.stretch(), &key, position, Lsn::MAX)?.is_empty())
    }

    /// The sequences as the last samples before the moment tell them. A mark brings a sample of its own.
    ///
    /// # Errors
    /// `Damaged` if the journal is.
    pub fn sampled_sequences(&self) -> Result<Vec<SequenceState>> {
        let key = self.history().identity().message_key();
        let (segments, after, until) = (&self.stretch().segments, self.base.lsn, self.until);
        let journal = JournalRange { segments, after, until };
        fold::sampled_sequences(&self.base, Follow::new(&self.base, journal, &key, &|_| false))
    }

    /// The schema changes since the base's archive was taken that may have changed the archive's content.
    ///
    /// # Errors
    /// `Damaged` if the journal is.
    pub fn changes_since_archive(&self) -> Result<Vec<DefinitionChange>> {
        let all = self.base.schema.since.iter().chain(self.schema_changes()?);
        Ok(all.filter(|change| schema::changes_archive(change, &self.base)).cloned().collect())
    }

    /// The tables as they stood at the moment, by oid.
    ///
    /// # Errors
    /// `Damaged` if the journal is.
    pub fn tables(&self) -> Result<Vec<Table>> {
        Ok(follow::tables_after(&self.tables_of_base(), self.schema_changes()?))
    }

    /// The tables at the moment, without the tables of which base and event triggers tell too little to read their
    /// rows.
    ///
    /// # Errors
    /// `Damaged` if the journal is.
    pub fn tables_told_in_full(&self) -> Result<Vec<Table>> {
        let untold = follow::untold_tables(&self.tables_of_base(), self.schema_changes()?);
        let mut tables = self.tables()?;
        tables.retain(|table| !untold.contains(&table.oid));
        Ok(tables)
    }

    fn tables_of_base(&self) -> Vec<Table> {
        self.base.tables.iter().map(|entry| entry.table.clone()).collect()
    }

    /// Returns the digest that names the list of the server's roles at the moment.
    ///
    /// # Errors
    /// `Damaged` if the journal is.
    pub fn roles(&self) -> Result<Option<&str>> {
        let read = || roles::globals_at(self.history(), self.stretch(), &self.base, self.until);
        once(&self.roles, read).map(Option::as_deref)
    }

    /// A cursor over the rows of one table at the moment whose keys are in `range`, with the values of the `columns`;
    /// see [`FoldedTable::rows`](fold::FoldedTable::rows). `None` if the table did not exist at the moment. `budget`
    /// and `scratch` are as in [`Past::fold`].
    ///
    /// # Errors
    /// `Damaged` if the journal or an image is, or if they contradict each other.
    pub fn rows(
        &self,
        table: u32,
        range: KeyRange,
        columns: Option<&[usize]>,
        budget: usize,
        scratch: &Path,
    ) -> Result<Option<TableRows>> {
        let folded = self.fold(&|it| it.oid == table, budget, scratch, &Silent)?;
        let found = folded.tables.into_iter().next();
        found.map(|folded| folded.rows(range, columns)).transpose()
    }

    /// Folds the rows of the `wanted` tables at the moment. This is the one place that puts a fold together. With more
    /// than `budget` bytes of changes, the fold merges them into images in a folder under `scratch`.
    ///
    /// # Errors
    /// `Damaged` if the journal or an image is, or if they contradict each other.
    pub fn fold(
        &self,
        wanted: Wanted<'_>,
        budget: usize,
        scratch: &Path,
        progress: &dyn Progress,
    ) -> Result<Folded> {
        self.fold_blocks(wanted, None, budget, scratch, progress)
    }

    fn fold_blocks(
        &self,
        wanted: Wanted<'_>,
        rows_only: Option<RowsOnly<'_>>,
        budget: usize,
        scratch: &Path,
        progress: &dyn Progress,
    ) -> Result<Folded> {
        let segments = &self.stretch().segments;
        // The fold also looks for heartbeats and samples of sequences after the moment.
        let first = segments.partition_point(|view| view.summary.end <= self.base.lsn);
        fold::fold(&fold::FoldInput {
            catalog: self.reading.catalog(),
            blocks: &self.reading.blocks(),
            cuts: self.history().identity().cuts(),
            base: &self.base,
            until: self.until,
            definitions_at: self.definitions_at,
            segments: &segments[first..],
            key: &self.history().identity().message_key(),
            wanted,
            rows_only,
            budget,
            scratch,
            progress,
        })
    }
}

/// Returns the content of a cell, and finds it first if this is the first time it is asked for.
fn once<T>(cell: &OnceLock<T>, find: impl FnOnce() -> Result<T>) -> Result<&T> {
    if let Some(found) = cell.get() {
        return Ok(found);
    }
    let found = find()?;
    Ok(cell.get_or_init(|| found))
}
