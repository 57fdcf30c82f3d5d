//! Finds the rows to change, and deals with the rows in their way.

use std::collections::BTreeSet;

use super::changed::{ChangedRows, RowId};
use super::conflicts::{Conflict, ConflictRule, conflicts};
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

/// # Errors
/// `Usage` if no table has the columns of the condition, or if it cannot compare them.
pub fn solve(aim: &Aim, rule: ConflictRule, changed: &ChangedRows, schema: &LiveSchema) -> Result<Solution> {
    let all = rewind_goals(changed);
    let mut asked = match aim {
        Aim::Rewind(part) => {
            let mut goals = all.clone();
            goals.retain(|id, _| changed.tables[&id.table].then.is_some());
            part.keep(changed, &mut goals)?;
            goals
        }
        Aim::Undo(_) => Goals::new(),
    };
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
        goals.retain(|id, _| !skipped.contains(id));
        found.retain(|conflict: &Conflict| !skipped.contains(&conflict.row));
        found.extend(conflicts(changed, &goals, schema));
        if found.is_empty() {
            return Ok(Solution { goals, conflicts: met, is_blocked: false });
        }
        let before = (skipped.len(), asked.len(), undone.len());
        match rule {
            ConflictRule::Refuse => {}
            ConflictRule::Skip => {
                skipped.extend(found.iter().map(|conflict| conflict.row));
                let mut moves = moves(changed, &undone, schema);
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
            }
        }
        met.append(&mut found);
        if (skipped.len(), asked.len(), undone.len()) == before {
            return Ok(Solution { goals, conflicts: met, is_blocked: true });
        }
    }
}
