//! Lists transactions by the counts in the segments' indexes, without reading a block.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use super::tally::{Filter, TransactionTally};
use super::{Operation, SelectedTables, Span};
use crate::codec::pgoutput;
use crate::error::{Error, Result};
use crate::follow::{Transaction, describes_exactly, tables_after};
use crate::history::journal::{ChangeCount, ChangeKind, ChosenBlocks, Segment};
use crate::history::timeline::SegmentView;
use crate::model::{Lsn, Message, Table};

/// A segment whose counts tell all that is asked for: its tables stay as they are, and the stream describes them so.
struct CountedSegment {
    view: SegmentView,
    tables: Arc<BTreeMap<u32, Arc<Table>>>,
}

/// The segments of a span whose counts tell all that is asked for, in order.
#[derive(Default)]
pub(super) struct CountedSegments(VecDeque<CountedSegment>);

/// Takes the changes that each transaction made, and then the transaction; returns whether more are wanted.
pub(super) type Taker<'a> = dyn FnMut(&Transaction, &mut TransactionTally) -> Result<bool> + 'a;

impl CountedSegments {
    /// Finds these segments. The tables that are not followed are left out of `wanted`.
    ///
    /// # Errors
    /// `Damaged` if the journal is.
    pub fn of(span: &Span, wanted: &dyn Fn(&Table) -> bool) -> Result<CountedSegments> {
        let past = &span.past;
        let mut changes = past.schema_changes_up_to(span.until)?;
        changes.retain(|change| change.lsn >= past.until());
        let mut changes = changes.into_iter().peekable();
        let mut tables = by_oid(past.tables()?);
        let mut found = VecDeque::new();
        for view in past.stretch().segments_between(past.until(), span.until) {
            let mut before = Vec::new();
            while let Some(change) = changes.next_if(|change| change.lsn < view.summary.start) {
                before.push(change);
            }
            if !before.is_empty() {
                let known: Vec<_> = tables.values().map(|table| Table::clone(table)).collect();
                tables = by_oid(tables_after(&known, &before));
            }
            if view.summary.definitions.is_empty() && is_told(&*view.open()?, view, &tables, wanted) {
                found.push_back(CountedSegment { view: view.clone(), tables: Arc::clone(&tables) });
            }
        }
        Ok(CountedSegments(found))
    }

    /// The choice of blocks of a reader who leaves these segments out.
    pub fn others(&self) -> Arc<ChosenBlocks> {
        Arc::new(self.0.iter().map(|segment| (segment.view.name, Vec::new())).collect())
    }

    /// Hands over the transactions of the segments that lie before a position.
    ///
    /// # Errors
    /// `Damaged` if a segment is; those of `take`.
    pub fn list_before(
        &mut self,
        position: Lsn,
        span: &Span,
        filter: &Filter,
        selected: &SelectedTables<'_>,
        take: &mut Taker<'_>,
    ) -> Result<bool> {
        while self.0.front().is_some_and(|it| it.view.summary.start < position)
            && let Some(segment) = self.0.pop_front()
        {
            if !segment.list(span, filter, selected, take)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn by_oid(tables: Vec<Table>) -> Arc<BTreeMap<u32, Arc<Table>>> {
    Arc::new(tables.into_iter().map(|table| (table.oid, Arc::new(table))).collect())
}

/// Whether every table with changes in the segment is known, and described as it is if it is wanted.
fn is_told(
    segment: &Segment,
    view: &SegmentView,
    tables: &BTreeMap<u32, Arc<Table>>,
    wanted: &dyn Fn(&Table) -> bool,
) -> bool {
    let changed: HashSet<_> = view.summary.relations.iter().map(|counts| counts.oid).collect();
    changed.iter().all(|oid| tables.contains_key(oid))
        && segment.relations().all(|message| match pgoutput::decode(message) {
            Ok(Message::Relation(relation)) => match tables.get(&relation.oid) {
                Some(table) if changed.contains(&relation.oid) && wanted(table) => {
                    describes_exactly(&relation, table)
                }
                _ => true,
            },
            decoded => decoded.is_ok(),
        })
}

impl CountedSegment {
    fn list(
        &self,
        span: &Span,
        filter: &Filter,
        selected: &SelectedTables<'_>,
        take: &mut Taker<'_>,
    ) -> Result<bool> {
        let (segment, changes) = self.view.indexed_segment(span.past.reading().catalog())?;
        let bad = || {
            Error::damaged(format!("the counts of {} are cut short; run `backwhen verify`", segment.place()))
        };
        for (entry, changes) in segment.counted_transactions(&changes) {
            let changes = changes.ok_or_else(bad)?;
            if !(span.past.until()..span.until).contains(&entry.commit_lsn) {
                continue;
            }
            let mut tally = TransactionTally::default();
            for change in changes {
                if let Some(table) = self.tables.get(&change.oid).filter(|it| filter.takes(it, selected)) {
                    tally.add_counts(filter, table, operation(&change), &change);
                }
            }
            let (lsn, end_lsn) = (entry.commit_lsn, entry.end_lsn);
            let transaction = Transaction { lsn, end_lsn, time: entry.time, xid: entry.xid };
            if !take(&transaction, &mut tally)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn operation(change: &ChangeCount) -> Operation {
    match change.kind {
        ChangeKind::Insert => Operation::Insert,
        ChangeKind::Update => Operation::Update,
        ChangeKind::Delete => Operation::Delete,
        ChangeKind::Truncate => Operation::Truncate,
    }
}
