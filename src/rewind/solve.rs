//! Finds the rows to change, and deals with the rows in their way.

use std::collections::BTreeSet;

use super::changed::{ChangedRows, RowId};
use super::conflicts::{Conflict, ConflictReport, ConflictRule, conflicts};
use super::filter::Part;
use super::plan::{Goals, rewind_goals};
use super::undo::{moves, undo_goals};
use crate::error::Result;
use crate::model::Lsn;
use crate::source::amend::LiveSchema;

/// The aim of an amendment: the rows or transactions to put back.
#[derive(Clone, Debug)]
pub enum Aim {
    /// Rows, as they were at the moment.
    Rewind(Part),
    /// The changes of transactions, by their commit positions.
    Undo(BTreeSet<Lsn>),
}

/// The rows to change, and what was in the way.
pub struct Solution {
    pub goals: Goals,
    /// All conflicts that were met, whether or not the rule dealt with them.
    pub conflicts: Vec<Conflict>,
    /// Whether something is in the way still, so that nothing may be changed.
    pub is_blocked: bool,
}

impl Solution {
    /// The conflicts that were met, each row once.
    pub fn reports(&self, changed: &ChangedRows) -> Vec<ConflictReport> {
        let mut reports: Vec<ConflictReport> = Vec::new();
        for conflict in &self.conflicts {
            let report = conflict.report(changed);
            if !reports.contains(&report) {
                reports.push(report);
            }
        }
        reports
    }
}

/// # Errors
/// `Usage` if no table has the columns of the condition, or if it cannot compare them.
pub fn solve(aim: &Aim, rule: ConflictRule, changed: &ChangedRows, schema: &LiveSchema) -> Result<Solution> {
    let (all, asked) = match aim {
        Aim::Rewind(part) => {
            let all = rewind_goals(changed);
            let mut goals = all.clone();
            goals.retain(|id, _| changed.tables[&id.table].then.is_some());
            part.keep(changed, &mut goals)?;
            (all, goals)
        }
        Aim::Undo(_) => Default::default(),
    };
    Ok(settle(aim, rule, changed, schema, (&all, asked), &|_| true))
}

/// Deals with the rows in the way of the goals that were `asked` for, by the rule. `all` are the goals that may be taken
/// along. Rows of tables that are not `wanted` stay as they are, and are no conflict.
pub(super) fn settle(
    aim: &Aim,
    rule: ConflictRule,
    changed: &ChangedRows,
    schema: &LiveSchema,
    (all, mut asked): (&Goals, Goals),
    wanted: &dyn Fn(u32) -> bool,
) -> Solution {
    let mut undone = match aim {
        Aim::Undo(positions) => changed.numbers(positions),
        Aim::Rewind(_) => BTreeSet::new(),
    };
    let (mut skipped, mut met) = (BTreeSet::<RowId>::new(), Vec::new());
    loop {
        let (mut goals, mut found) = match aim {
            Aim::Rewind(_) => (asked.clone(), Vec::new()),
            Aim::Undo(_) => undo_goals(changed, &undone, schema),
        };
        let stays = |row: &RowId| skipped.contains(row) || !wanted(row.table);
        goals.retain(|id, _| !stays(id));
        found.retain(|conflict: &Conflict| !stays(&conflict.row));
        found.extend(conflicts(changed, &goals, schema));
        if found.is_empty() {
            return Solution { goals, conflicts: met, is_blocked: false };
        }
        let before = (skipped.len(), asked.len(), undone.len());
        match rule {
            ConflictRule::Refuse => {}
            ConflictRule::Skip => {
                skipped.extend(found.iter().map(|conflict| conflict.row));
                let mut moves = moves(changed, schema, |it| group(aim, &undone, it));
                while let Some(at) = moves.iter().position(|moved| !moved.is_disjoint(&skipped)) {
                    skipped.extend(moves.swap_remove(at));
                }
            }
            ConflictRule::Cascade => {
                for conflict in &found {
                    match aim {
                        Aim::Rewind(_) => {
                            asked.extend(all.get(&conflict.other).map(|goal| (conflict.other, goal.clone())));
                        }
                        Aim::Undo(_) => undone.extend(&conflict.transactions),
                    }
                }
                if matches!(aim, Aim::Undo(_)) && undone.len() == before.2 {
                    // All that is in the way is taken back already, and stays there: so what built on it goes too.
                    for conflict in &mut found {
                        let builders = changed.row(conflict.row).transactions();
                        conflict.transactions = builders.filter(|it| !undone.contains(it)).collect();
                    }
                    undone.extend(found.iter().flat_map(|conflict| &conflict.transactions));
                }
            }
        }
        met.append(&mut found);
        if (skipped.len(), asked.len(), undone.len()) == before {
            return Solution { goals, conflicts: met, is_blocked: true };
        }
    }
}

/// The transactions whose moves of rows between partitions go back together: each one that is taken back. For a rewind it is
/// all of them, since a row has only its first and its last version there.
fn group(aim: &Aim, undone: &BTreeSet<u32>, transaction: u32) -> Option<u32> {
    match aim {
        Aim::Rewind(_) => Some(0),
        Aim::Undo(_) => undone.contains(&transaction).then_some(transaction),
    }
}
