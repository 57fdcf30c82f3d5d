//! Finds the blocks of the journal that hold the changes of single rows, so that the others need not be read.
//!
//! A block may be passed over only if nothing in it can concern the rows that are asked for. The index of a segment
//! tells rows by the key that the stream names them by. So a lookup needs tables of which nothing but the rows changes:
//! the same columns are the key all along, no statement changes the text of values in rows that it does not write, and
//! the stream describes the table as it is. Otherwise the journal is read whole.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::ops::Range;

use super::Past;
use crate::codec::{copy_text, pgoutput};
use crate::error::Result;
use crate::follow::{describes_exactly, may_be_retold, tables_after};
use crate::history::definitions::changes_in;
use crate::history::journal::{ChosenBlocks, Lookup, SoughtRows};
use crate::history::timeline::SegmentView;
use crate::model::{Column, Lsn, Message, RowIdentity, Table};
use crate::signal::DefinitionChange;

/// The rows of a table that have some keys.
pub struct KeyedRows<'a> {
    pub table: u32,
    /// The columns of the key, in the order of the table's columns.
    pub columns: &'a [Column],
    /// The values of these columns in COPY text, with tabs between them.
    pub keys: Vec<&'a [u8]>,
}

impl KeyedRows<'_> {
    /// The rows as the index knows them; `None` if a key is no text.
    fn sought(&self) -> Option<SoughtRows> {
        let key = |key: &[u8]| {
            let values = copy_text::columns(key).map(|value| copy_text::unescape(value).map(Cow::into_owned));
            values.collect::<Option<Vec<_>>>()
        };
        let keys: Vec<_> = self.keys.iter().map(|it| key(it)).collect::<Option<_>>()?;
        let values = keys.iter().map(|key| key.iter().map(Vec::as_slice).collect());
        Some(SoughtRows::new(self.table, values))
    }

    /// Whether the rows of the table have this key.
    fn are_named_by_key_of(&self, table: &Table) -> bool {
        let RowIdentity::Key(key) = &table.identity else { return false };
        let numbers = key.iter().filter_map(|column| table.columns.get(*column)).map(|column| column.number);
        numbers.eq(self.columns.iter().map(|column| column.number))
            && self.columns.iter().all(|column| column.number != 0)
    }
}

impl Past {
    /// Chooses the blocks of the journal between the base and `until` that may hold changes of the rows. Every segment is
    /// read whole that the choice does not name.
    ///
    /// # Errors
    /// `Damaged` if the journal is.
    pub fn blocks_with(&self, until: Lsn, rows: &[KeyedRows<'_>]) -> Result<ChosenBlocks> {
        let mut chosen = ChosenBlocks::new();
        let sought: Option<Vec<_>> = rows.iter().map(KeyedRows::sought).collect();
        let Some(sought) = sought.and_then(|all| all.into_iter().reduce(SoughtRows::and)) else {
            return Ok(chosen);
        };
        let (versions, is_retold) = self.versions(until)?;
        let of = |table: u32| versions.iter().filter(move |version| version.oid == table);
        let fits = |rows: &KeyedRows<'_>| {
            of(rows.table).all(|it| rows.are_named_by_key_of(it) && !may_be_retold(it, is_retold))
        };
        if !rows.iter().all(fits) {
            return Ok(chosen);
        }
        for view in self.segments_up_to(until) {
            let found = view.lookup(self.reading.catalog())?;
            if rows.iter().all(|rows| is_described(&found, rows.table, of(rows.table))) {
                chosen.insert(view.name, found.changes.blocks_with(&sought));
            }
        }
        Ok(chosen)
    }

    /// Chooses the blocks of the journal from the base on that hold schema changes, or changes of the wanted tables in
    /// transactions that committed within a range. Every segment is read whole that the choice does not name.
    ///
    /// # Errors
    /// `Damaged` if the journal is.
    pub fn blocks_that_change(
        &self,
        commits: Range<Lsn>,
        wanted: &dyn Fn(&Table) -> bool,
    ) -> Result<ChosenBlocks> {
        let mut chosen = ChosenBlocks::new();
        let (versions, is_retold) = self.versions(commits.end)?;
        let (followed, others): (Vec<_>, Vec<_>) = versions.iter().partition(|table| wanted(table));
        if followed.iter().any(|table| may_be_retold(table, is_retold)) {
            return Ok(chosen);
        }
        let followed: HashSet<_> = followed.into_iter().map(|table| table.oid).collect();
        let passed: HashSet<_> = others.into_iter().map(|table| table.oid).collect();
        // The reader says what a table lacks that nobody has told of.
        let is_wanted = |oid: u32| followed.contains(&oid) || !passed.contains(&oid);
        for view in self.segments_up_to(commits.end) {
            let is_within = view.summary.last_commit.is_some_and(|last| last >= commits.start);
            let changes_rows = view.summary.relations.iter().any(|table| is_wanted(table.oid));
            let blocks = if view.summary.definitions.is_empty() && !(is_within && changes_rows) {
                Vec::new()
            } else {
                let changes = view.lookup(self.reading.catalog())?.changes;
                view.open()?.blocks_that_change(&changes, &commits, &is_wanted)
            };
            chosen.insert(view.name, blocks);
        }
        Ok(chosen)
    }

    /// The oids of the tables of which these transactions of the epoch changed rows.
    ///
    /// # Errors
    /// `Damaged` if the journal is.
    pub fn tables_changed_by(&self, commits: &BTreeSet<Lsn>) -> Result<HashSet<u32>> {
        let mut tables = HashSet::new();
        let (Some(first), Some(last)) = (commits.first(), commits.last()) else { return Ok(tables) };
        for view in self.stretch().segments_between(*first, Lsn(last.0 + 1)) {
            let (changes, segment) = (view.lookup(self.reading.catalog())?.changes, view.open()?);
            let counted = segment.counted_transactions(&changes);
            let of_these = counted.filter(|(entry, _)| commits.contains(&entry.commit_lsn));
            tables.extend(of_these.filter_map(|(_, changed)| changed).flatten().map(|it| it.oid));
        }
        Ok(tables)
    }

    /// The segments that hold transactions between the base and `until`.
    pub fn segments_up_to(&self, until: Lsn) -> impl Iterator<Item = &SegmentView> {
        self.stretch().segments_between(self.base.lsn, until)
    }

    /// The schema changes that the event triggers told between the base and `until`.
    ///
    /// # Errors
    /// `Damaged` if the journal is.
    pub fn schema_changes_up_to(&self, until: Lsn) -> Result<Vec<DefinitionChange>> {
        let key = self.history().identity().message_key();
        changes_in(self.stretch(), &key, self.base.lsn, until)
    }

    /// The tables as they were at any time between the base and `until`, and whether a statement changed the text of values
    /// in rows that it did not write.
    fn versions(&self, until: Lsn) -> Result<(Vec<Table>, bool)> {
        let changes = self.schema_changes_up_to(until)?;
        let mut versions = self.tables_of_base();
        for change in &changes {
            versions.extend(tables_after(&[], std::slice::from_ref(change)));
        }
        let mut told = self.base.schema.since.iter().chain(&changes);
        let is_retold = told.any(|change| change.signal.retold.is_some());
        Ok((versions, is_retold))
    }
}

/// Whether the stream describes the table only as one of its versions in the segment.
fn is_described<'a>(found: &Lookup, table: u32, versions: impl Iterator<Item = &'a Table> + Clone) -> bool {
    found.relations.iter().all(|message| match pgoutput::decode(message) {
        Ok(Message::Relation(relation)) if relation.oid == table => {
            versions.clone().any(|version| describes_exactly(&relation, version))
        }
        decoded => decoded.is_ok(),
    })
}
