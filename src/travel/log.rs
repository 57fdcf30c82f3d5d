//! The transactions between two moments, with the number of rows that each changed.

use std::collections::{BTreeMap, VecDeque};

use super::counted::CountedSegments;
use super::row::TrackedRows;
use super::tally::TransactionTally;
pub use super::tally::{Filter, LoggedTransaction, TableCounts, headline};
use super::whole::{Step, WholeRows};
use super::{Span, Spans};
use crate::error::Result;
use crate::follow::Transaction;
use crate::model::{Inexact, Lsn, Table};

/// The order in which transactions are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// In commit order.
    Oldest,
    /// In the reverse of commit order.
    Newest,
    /// By the number of rows, the largest one first.
    Largest,
}

/// Lists transactions.
pub struct Log<'a> {
    pub filter: &'a Filter,
    pub order: Order,
    pub limit: Option<u64>,
}

impl Log<'_> {
    /// Hands the transactions of the spans to `take`, one after the other. Returns what of them is not exact.
    ///
    /// # Errors
    /// `Damaged` if the history is; `Usage` if the condition does not fit the tables; those of `take`.
    pub fn list(
        &self,
        spans: &Spans,
        take: &mut dyn FnMut(LoggedTransaction) -> Result<()>,
    ) -> Result<Vec<Inexact>> {
        let limit = usize::try_from(self.limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        let mut inexact = Vec::new();
        match self.order {
            Order::Oldest => {
                let mut taken = 0;
                for span in &spans.spans {
                    self.each(span, &mut inexact, &mut |found| {
                        taken += 1;
                        take(found)?;
                        Ok(taken < limit)
                    })?;
                    if taken >= limit {
                        break;
                    }
                }
            }
            Order::Newest => self.newest(spans, limit, &mut inexact, take)?,
            Order::Largest => {
                let mut largest = BTreeMap::new();
                for span in &spans.spans {
                    self.each(span, &mut inexact, &mut |found| {
                        largest.insert((u64::MAX - found.rows, span.past.base().epoch, found.lsn), found);
                        if largest.len() > limit {
                            largest.pop_last();
                        }
                        Ok(true)
                    })?;
                }
                largest.into_values().try_for_each(take)?;
            }
        }
        inexact.sort_by(|a, b| (&a.what, &a.why).cmp(&(&b.what, &b.why)));
        inexact.dedup();
        Ok(inexact)
    }

    /// Lists the newest transactions. The parts between checkpoints are read from the last one back, until there are
    /// enough transactions.
    fn newest(
        &self,
        spans: &Spans,
        limit: usize,
        inexact: &mut Vec<Inexact>,
        take: &mut dyn FnMut(LoggedTransaction) -> Result<()>,
    ) -> Result<()> {
        let mut left = limit;
        for span in spans.spans.iter().rev() {
            let (epoch, from) = (span.past.base().epoch, span.past.until());
            let inside = |lsn: &Lsn| from < *lsn && *lsn < span.until;
            let mut bounds: Vec<_> = span.past.stretch().checkpoints.iter().map(|row| row.lsn).collect();
            bounds.retain(inside);
            let mut until = span.until;
            for start in bounds.into_iter().rev().chain([from]) {
                let part = Span { past: span.past.reading().before(epoch, start)?, time: span.time, until };
                let mut newest = VecDeque::new();
                self.each(&part, inexact, &mut |found| {
                    newest.push_back(found);
                    if newest.len() > left {
                        newest.pop_front();
                    }
                    Ok(true)
                })?;
                left -= newest.len();
                newest.into_iter().rev().try_for_each(&mut *take)?;
                if left == 0 {
                    return Ok(());
                }
                until = start;
            }
        }
        Ok(())
    }

    /// Hands each transaction of a span that passes the filter to `take`, until `take` wants no more.
    fn each(
        &self,
        span: &Span,
        inexact: &mut Vec<Inexact>,
        take: &mut dyn FnMut(LoggedTransaction) -> Result<bool>,
    ) -> Result<()> {
        let filter = self.filter;
        let selected = span.selected(&filter.tables)?;
        let wanted = |table: &Table| filter.takes(table, &selected);
        let tracked = filter.keys.iter().map(|key| TrackedRows::find(span, key));
        let tracked = tracked.collect::<Result<Vec<_>>>()?;
        let whole = filter.condition.is_some() || !tracked.is_empty();
        let mut counted =
            if whole { CountedSegments::default() } else { CountedSegments::of(span, &wanted)? };
        let blocks = if tracked.is_empty() { counted.others() } else { TrackedRows::blocks(&tracked) };
        let mut take = |transaction: &Transaction, tally: &mut TransactionTally| {
            let found = tally.finish(span.past.commit(transaction));
            found.filter(|found| filter.passes(found)).map_or(Ok(true), &mut *take)
        };
        let mut tally = TransactionTally::default();
        let mut is_over = false;
        let rows = WholeRows { span, wanted: &wanted, whole, truncated: false, only: &tracked, blocks };
        let found = rows.follow(&mut |transaction, step| {
            let Step::Commit = step else {
                tally.add(filter, step)?;
                return Ok(true);
            };
            is_over = !counted.list_before(transaction.lsn, span, filter, &selected, &mut take)?
                || !take(transaction, &mut tally)?;
            Ok(!is_over)
        })?;
        if !is_over {
            counted.list_before(Lsn::MAX, span, filter, &selected, &mut take)?;
        }
        inexact.extend(found);
        Ok(())
    }
}
