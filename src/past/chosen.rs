//! The tables of a past that a command asks for.

use super::Past;
use crate::error::{Error, Result};
use crate::model::{Selection, Table};

/// Some tables, as they stood at a moment.
#[derive(Clone, Debug)]
pub struct ChosenTables {
    pub tables: Vec<Table>,
    pub selection: Selection,
    /// Whether only named tables are wanted, not the whole database.
    pub is_partial: bool,
}

impl Past {
    /// Returns the tables that match one of the patterns; without patterns, all tables.
    ///
    /// # Errors
    /// `Usage` if a pattern matches no table; `Damaged` if the journal is.
    pub fn choose(&self, patterns: &[String]) -> Result<ChosenTables> {
        let selection = Selection::parse(patterns, &[])?;
        let mut tables = self.tables()?;
        let unmatched = selection.unmatched(&tables);
        if !unmatched.is_empty() {
            return Err(Error::usage(format!(
                "no table matches {} at {}; see the tables of the checkpoint before it with: backwhen list checkpoints \
                 --tables",
                unmatched.join(", "),
                self.until
            )));
        }
        tables.retain(|table| selection.takes_table(table));
        let selection = selection.with_partitions(&tables);
        Ok(ChosenTables { tables, selection, is_partial: !patterns.is_empty() })
    }
}
