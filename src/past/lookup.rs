//! Finds the blocks of the journal that hold the changes of single rows, so that the others need not be read.
//!
//! A block may be passed over only if nothing in it can concern the rows that are asked for. The index of a segment
//! tells rows by the key that the stream names them by. So a lookup needs tables of which nothing but the rows changes:
//! the same columns are the key all along, no statement changes the text of values in rows that it does not write, and
//! the stream describes the table as it is. Otherwise the journal is read whole.

use std::borrow::Cow;

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
    pub fn blocks_with(&self, until: Lsn, rows: &KeyedRows<'_>) -> Result<ChosenBlocks> {
        let mut chosen = ChosenBlocks::new();
        let (Some(sought), Some(versions)) = (rows.sought(), self.versions(until, rows)?) else {
            return Ok(chosen);
        };
        for view in self.segments_up_to(until) {
            let found = view.lookup(self.reading.catalog())?;
            if is_described(&found, rows.table, &versions) {
                chosen.insert(view.name, found.changes.blocks_with(&sought));
            }
        }
        Ok(chosen)
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

    /// The table as it was at any time between the base and `until`; `None` if the rows cannot be looked up.
    fn versions(&self, until: Lsn, rows: &KeyedRows<'_>) -> Result<Option<Vec<Table>>> {
        let changes = self.schema_changes_up_to(until)?;
        let mut versions = self.tables_of_base();
        for change in &changes {
            versions.extend(tables_after(&[], std::slice::from_ref(change)));
        }
        versions.retain(|table| table.oid == rows.table);
        let mut told = self.base.schema.since.iter().chain(&changes);
        let is_retold = told.any(|change| change.signal.retold.is_some());
        let by_name = |table: &Table| may_be_retold(table, is_retold);
        let fits = |table: &Table| rows.are_named_by_key_of(table) && !by_name(table);
        Ok(versions.iter().all(fits).then_some(versions))
    }
}

/// Whether the stream describes the table only as one of its versions in the segment.
fn is_described(found: &Lookup, table: u32, versions: &[Table]) -> bool {
    found.relations.iter().all(|message| match pgoutput::decode(message) {
        Ok(Message::Relation(relation)) if relation.oid == table => {
            versions.iter().any(|version| describes_exactly(&relation, version))
        }
        decoded => decoded.is_ok(),
    })
}
