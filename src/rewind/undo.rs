//! Finds the lines that rows shall have when some transactions are taken back.

use std::collections::{BTreeMap, BTreeSet};

use super::changed::{ChangedRows, RowId};
use super::conflicts::Conflict;
use super::plan::Goals;
use super::table::{Line, TouchedRow};
use crate::codec::copy_text;
use crate::source::amend::LiveSchema;

/// The goals of an undo, and the rows that later transactions built on.
pub fn undo_goals(
    changed: &ChangedRows,
    undone: &BTreeSet<u32>,
    schema: &LiveSchema,
) -> (Goals, Vec<Conflict>) {
    let (mut goals, mut conflicts) = (BTreeMap::new(), Vec::new());
    let arrivals = arrivals(changed, schema);
    for (id, table, row) in changed.rows() {
        if table.now.is_none() || !row.transactions().any(|it| undone.contains(&it)) {
            continue;
        }
        if let Some(transaction) = moved_since(id, row, undone, schema, &arrivals) {
            let moved =
                Obstacle { transactions: vec![transaction], why: "it was moved to another partition since" };
            conflicts.push(moved.conflict(id));
            continue;
        }
        match without(row, undone) {
            Ok(line) if line.as_ref() == row.last() => {}
            Ok(line) => drop(goals.insert(id, line)),
            Err(reason) => conflicts.push(reason.conflict(id)),
        }
    }
    (goals, conflicts)
}

/// The rows that may have been moved from one partition to another. The stream does not tell which deleted row became
/// which inserted one, so all that one group of transactions did in the partitions of a table stay together. `group` tells
/// the group of a transaction; `None` if its changes do not matter.
pub fn moves(
    changed: &ChangedRows,
    schema: &LiveSchema,
    group: impl Fn(u32) -> Option<u32>,
) -> Vec<BTreeSet<RowId>> {
    let mut moved = BTreeMap::<(u32, u32), [BTreeSet<RowId>; 2]>::new();
    for (id, _, row) in changed.rows() {
        let Some(root) = schema.roots.get(&id.table) else { continue };
        for pair in row.versions.windows(2) {
            let Some(group) = pair[1].transaction.and_then(&group) else { continue };
            let (came, went) = (pair[0].line.is_none(), pair[1].line.is_none());
            if came != went {
                moved.entry((*root, group)).or_default()[usize::from(came)].insert(id);
            }
        }
    }
    let is_move = |[went, came]: &[BTreeSet<RowId>; 2]| {
        went.iter().any(|went| came.iter().any(|came| came.table != went.table))
    };
    moved.into_values().filter(is_move).map(|[went, came]| went.into_iter().chain(came).collect()).collect()
}

/// Why a row cannot be what it would be without the transactions.
struct Obstacle {
    transactions: Vec<u32>,
    why: &'static str,
}

impl Obstacle {
    fn conflict(self, id: RowId) -> Conflict {
        Conflict { row: id, other: id, transactions: self.transactions, why: self.why.to_owned() }
    }
}

/// The tables in which transactions inserted rows, below each partitioned table: the root, the transaction, the partition.
fn arrivals(changed: &ChangedRows, schema: &LiveSchema) -> BTreeSet<(u32, u32, u32)> {
    let mut arrivals = BTreeSet::new();
    for (id, _, row) in changed.rows() {
        let Some(root) = schema.roots.get(&id.table) else { continue };
        let inserted =
            row.versions.windows(2).filter(|pair| pair[0].line.is_none() && pair[1].line.is_some());
        arrivals.extend(inserted.filter_map(|pair| Some((*root, pair[1].transaction?, id.table))));
    }
    arrivals
}

/// The transaction that deleted a row, if it may have moved the row to another partition: the stream tells a move as a
/// delete and an insert.
fn moved_since(
    id: RowId,
    row: &TouchedRow,
    undone: &BTreeSet<u32>,
    schema: &LiveSchema,
    arrivals: &BTreeSet<(u32, u32, u32)>,
) -> Option<u32> {
    let root = *schema.roots.get(&id.table)?;
    let last = row.versions.last().filter(|last| last.line.is_none())?.transaction?;
    let came = arrivals.range((root, last, 0)..=(root, last, u32::MAX)).any(|(.., table)| *table != id.table);
    (came && !undone.contains(&last)).then_some(last)
}

/// The row as it would be without the transactions: from the last of their changes to the first, each column that still
/// has the value that the change left gets the value from before.
fn without(row: &TouchedRow, undone: &BTreeSet<u32>) -> Result<Option<Line>, Obstacle> {
    let mut line = row.last().cloned();
    for number in (1..row.versions.len()).rev() {
        let is_undone = row.versions[number].transaction.is_some_and(|it| undone.contains(&it));
        if !is_undone {
            continue;
        }
        let later = || later_ones(row, number, undone);
        let (before, after) = (&row.versions[number - 1].line, &row.versions[number].line);
        line = match (before, after, &line) {
            // Nobody changed the row since.
            (Some(before), Some(after), Some(now)) if after == now => Some(before.clone()),
            (Some(before), Some(after), Some(now)) => {
                Some(three_way(before, after, now).ok_or_else(|| {
                    let is_later = |it: &u32| changes_the_same(row, number, *it);
                    let transactions = later().into_iter().filter(is_later).collect();
                    Obstacle { transactions, why: "its columns were changed again" }
                })?)
            }
            (Some(_), Some(_), None) => {
                return Err(Obstacle { transactions: later(), why: "it was deleted since" });
            }
            (None, Some(after), Some(now)) if after != now => {
                return Err(Obstacle { transactions: later(), why: "it was changed since it was inserted" });
            }
            (None, Some(_), _) => None,
            (before, None, Some(now)) if before.as_ref() != Some(now) => {
                return Err(Obstacle { transactions: later(), why: "it was inserted again since" });
            }
            (before, None, _) => before.clone(),
        };
    }
    Ok(line)
}

/// The transactions that wrote the row after a version.
fn later_ones(row: &TouchedRow, number: usize, undone: &BTreeSet<u32>) -> Vec<u32> {
    let later = row.versions[number + 1..].iter().filter_map(|version| version.transaction);
    later.filter(|it| !undone.contains(it)).collect()
}

/// Whether a later transaction changed a column that the version's transaction had changed.
fn changes_the_same(row: &TouchedRow, number: usize, transaction: u32) -> bool {
    let change = |number: usize| {
        let (before, after) = (&row.versions[number - 1].line, &row.versions[number].line);
        let (Some(before), Some(after)) = (before, after) else { return BTreeSet::new() };
        let pairs = copy_text::columns(before).zip(copy_text::columns(after)).enumerate();
        pairs.filter(|(_, (before, after))| before != after).map(|(at, _)| at).collect::<BTreeSet<_>>()
    };
    let own = change(number);
    (number + 1..row.versions.len())
        .any(|it| row.versions[it].transaction == Some(transaction) && !change(it).is_disjoint(&own))
}

/// `now` with the values of `before` in the columns that changed from `before` to `after`; `None` if one of them has
/// another value by now.
fn three_way(before: &[u8], after: &[u8], now: &[u8]) -> Option<Line> {
    let mut line = Vec::with_capacity(now.len());
    let changes = copy_text::columns(before).zip(copy_text::columns(after));
    for (number, ((before, after), now)) in changes.zip(copy_text::columns(now)).enumerate() {
        if number > 0 {
            line.push(b'\t');
        }
        line.extend_from_slice(match before == after {
            true => now,
            false if now == after => before,
            // Somebody else wrote the value from before already.
            false if now == before => before,
            false => return None,
        });
    }
    Some(line.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(before: &str, after: &str, now: &str) -> Option<String> {
        let line = three_way(before.as_bytes(), after.as_bytes(), now.as_bytes())?;
        Some(String::from_utf8(line.to_vec()).unwrap())
    }

    #[test]
    fn only_the_columns_of_the_transaction_go_back() {
        assert_eq!(merged("1\ta\tx", "1\tb\tx", "1\tb\ty").as_deref(), Some("1\ta\ty"));
        assert_eq!(merged("1\ta\tx", "1\tb\tx", "1\tc\tx"), None);
        assert_eq!(merged("1\ta", "1\t\\N", "1\t\\N").as_deref(), Some("1\ta"));
    }
}
