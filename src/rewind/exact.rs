//! Finds the tables that cannot be put right, and the parts of transactions that cannot be taken back.

use std::collections::BTreeSet;

use super::changed::ChangedRows;
use super::table::ChangedTable;
use crate::error::{Error, Result};
use crate::model::Lsn;

impl ChangedRows {
    /// Whether one of the transactions, by their commit positions, wrote rows of the table.
    pub fn is_written_by(&self, table: &ChangedTable, positions: &BTreeSet<Lsn>) -> bool {
        !self.numbers(positions).is_disjoint(&table.writers)
    }

    /// Returns why the changes of a table are not known exactly; `None` if they are.
    pub fn doubt(&self, changed: &ChangedTable) -> Option<String> {
        let table = changed.now.as_deref()?;
        let name = table.display();
        let inexact = self.inexact.iter().find(|it| it.what == name).map(|it| it.why.clone());
        let insert_only = table.is_insert_only().then(|| {
            "it has no replica identity, so the history does not know its updates and deletes".to_owned()
        });
        changed.obstacle.clone().or(insert_only).or(inexact)
    }

    /// # Errors
    /// `Refused` if a table that is concerned is not known exactly.
    pub fn refuse_inexact(&self, concerns: impl Fn(&ChangedTable) -> bool) -> Result<()> {
        for changed in self.tables.values() {
            let (Some(table), true) = (changed.now.as_deref(), changed.then.is_some()) else { continue };
            if !concerns(changed) {
                continue;
            }
            if let Some(why) = self.doubt(changed) {
                let name = table.display();
                return Err(Error::refused(format!(
                    "{name} cannot be put back in place: {why}; name the other tables with --table, or use: backwhen \
                     recover"
                )));
            }
        }
        Ok(())
    }

    /// Names the parts of transactions that cannot be taken back: rows of dropped tables, and schema changes.
    pub fn not_taken_back(&self, positions: &BTreeSet<Lsn>) -> Vec<String> {
        let undone = self.numbers(positions);
        let note =
            |(number, tag): &(u32, String)| format!("xid:{}: its {tag} is not taken back", self.xid(*number));
        let defined = self.definitions.iter().filter(|(number, _)| undone.contains(number));
        let dropped = self.tables.values().filter(|it| it.now.is_none() && self.is_written_by(it, positions));
        dropped.flat_map(ChangedTable::without_place).chain(defined.map(note)).collect()
    }
}
