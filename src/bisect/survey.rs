//! Finds the transactions between two moments after which a check may say something else.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::follow::{EventKind, Transaction};
use crate::model::{Inexact, Lsn, Table};
use crate::past::Reading;

/// The tables that a check reads. A table is known by its number or by its name, as it may be made anew.
#[derive(Clone, Default)]
pub struct ReadTables {
    oids: BTreeSet<u32>,
    names: BTreeSet<(String, String)>,
}

impl ReadTables {
    /// Adds a table; returns whether it is new.
    pub fn add(&mut self, table: &Table) -> bool {
        let by_name = self.names.insert((table.schema.clone(), table.name.clone()));
        self.oids.insert(table.oid) || by_name
    }

    pub fn holds(&self, table: &Table) -> bool {
        self.oids.contains(&table.oid)
            || self.names.iter().any(|(schema, name)| (schema, name) == (&table.schema, &table.name))
    }

    pub fn names(&self) -> Vec<String> {
        self.names.iter().map(|(schema, name)| format!("{schema}.{name}")).collect()
    }
}

/// The transactions between two moments that matter to a check.
#[derive(Default)]
pub struct Survey {
    /// The end positions of the transactions that change the tables or the schema, in commit order.
    pub candidates: Vec<Lsn>,
    /// The transactions over which rows cannot be followed, since they change the schema or replace a table's rows.
    pub barriers: Vec<Transaction>,
    pub inexact: Vec<Inexact>,
}

impl Survey {
    /// Looks at the transactions of an epoch from one position to another.
    ///
    /// # Errors
    /// `Damaged` if the journal is.
    pub fn of(reading: &Reading, epoch: u32, from: Lsn, until: Lsn, tables: &ReadTables) -> Result<Survey> {
        let past = reading.before(epoch, from)?;
        let wanted = |table: &Table| tables.holds(table);
        let mut follow = past.follow(until, &wanted)?;
        let mut survey = Survey::default();
        let (mut matters, mut is_barrier) = (false, false);
        while let Some(event) = follow.next_event()? {
            match event.kind {
                EventKind::Row { .. } | EventKind::Truncate { .. } => matters = true,
                EventKind::Definition { .. } | EventKind::Replace { .. } => is_barrier = true,
                EventKind::Commit => {
                    if is_barrier {
                        survey.barriers.push(*event.transaction);
                    }
                    if matters || is_barrier {
                        survey.candidates.push(event.transaction.end_lsn);
                    }
                    (matters, is_barrier) = (false, false);
                }
                _ => {}
            }
        }
        survey.inexact = follow.inexact().collect();
        Ok(survey)
    }
}
