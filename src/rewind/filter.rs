//! The rows that a rewind was asked for.

use super::changed::{ChangedRows, RowId};
use super::plan::Goals;
use crate::error::{Error, Result};
use crate::model::{Selection, Table};
use crate::travel::Condition;
use crate::travel::row::RowKey;

/// The tables and rows to put back; everything, if nothing is named.
#[derive(Clone, Debug, Default)]
pub struct Part {
    pub tables: Selection,
    pub keys: Vec<RowKey>,
    pub condition: Option<Condition>,
}

impl Part {
    pub fn takes(&self, table: &Table) -> bool {
        let by_key = self.keys.is_empty() || self.keys.iter().any(|key| key.table == table.oid);
        by_key && self.tables.takes_table(table)
    }

    /// Keeps the goals of the rows that are asked for. A row is if it was so at the moment, or is so now.
    ///
    /// # Errors
    /// `Usage` if no table has the condition's columns, or if it cannot compare them.
    pub fn keep(&self, changed: &ChangedRows, goals: &mut Goals) -> Result<()> {
        goals.retain(|id, _| {
            let table = &changed.tables[&id.table];
            table.now.as_deref().is_some_and(|now| self.takes(now) && self.has_key(now, changed, *id))
        });
        let Some(condition) = &self.condition else { return Ok(()) };
        let (mut kept, mut is_known) = (Goals::new(), goals.is_empty());
        for (id, goal) in std::mem::take(goals) {
            let Some(table) = changed.tables[&id.table].now.as_deref().filter(|it| condition.fits(it)) else {
                continue;
            };
            is_known = true;
            let row = changed.row(id);
            for line in row.first().into_iter().chain(row.last()) {
                if condition.is_true(table, line)? {
                    kept.insert(id, goal);
                    break;
                }
            }
        }
        *goals = kept;
        if is_known {
            return Ok(());
        }
        Err(Error::usage(
            "no table that changed has all columns that --where names; name the table with --table",
        ))
    }

    fn has_key(&self, table: &Table, changed: &ChangedRows, id: RowId) -> bool {
        let row = changed.row(id);
        let is_it = |key: &RowKey| {
            let mut lines = row.first().into_iter().chain(row.last());
            key.table == table.oid && lines.any(|line| key.is_of(table, line))
        };
        self.keys.is_empty() || self.keys.iter().any(is_it)
    }
}
