//! The net difference between two moments, which makes of a database with the rows of one a database with the rows of the
//! other.

use std::sync::Arc;

use super::changed::{ChangedRows, RowId};
use super::except::{DigestChange, digest_change};
use super::plan::{PlannedTable, planned_changes};
use super::table::{ChangedTable, TouchedRow};
use crate::connect::{Conninfo, Session};
use crate::error::{Error, Result};
use crate::model::{Lsn, Table};
use crate::past::Past;
use crate::source::amend::{AmendSession, AmendedTable, HeldRows, LiveSchema, schema_by_names};

/// The rows that two moments do not have in common.
pub struct Difference {
    changed: ChangedRows,
    direction: Direction,
}

/// The database that is changed: it has the rows of the earlier moment, or those of the later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Backward,
}

impl Difference {
    /// Reads what changed from the moment `earlier` up to a later position.
    ///
    /// # Errors
    /// `Refused` if the difference is not exact, or is too large for memory; `Damaged` if the history is.
    pub fn read(earlier: Past, later: Lsn, direction: Direction) -> Result<Difference> {
        if let Some((at, _)) = earlier.corrections(later)?.first() {
            return Err(Error::refused(format!("rows were corrected by a resynchronisation at {at}")));
        }
        let reading = earlier.reading().clone();
        let mut changed = ChangedRows::since(Arc::new(earlier), false, None).up_to(later);
        changed.advance(&reading)?;
        if let Some((_, command)) = changed.definitions.first() {
            return Err(Error::refused(format!("{command} changed definitions in between")));
        }
        let doubtful = changed.tables.values().find_map(|table| Some((table, changed.doubt(table)?)));
        if let Some((table, why)) = doubtful {
            let name = table.table().map_or_else(String::new, Table::display);
            return Err(Error::refused(format!("{name} changed, and is not exact: {why}")));
        }
        Ok(Difference { changed, direction })
    }

    /// Changes the rows, in one transaction, and reads the changed rows back. Each row must be what the history says.
    ///
    /// # Errors
    /// `Refused` if the database is not what the history says; `Unavailable` if the server fails.
    pub async fn apply(self, target: &Conninfo) -> Result<Vec<AppliedChange>> {
        let catalogs = Session::connect_utf8(target, "recover").await?;
        let touched: Vec<&Table> = self.changed.tables.values().filter_map(|it| it.now.as_deref()).collect();
        let schema = schema_by_names(&catalogs, &touched).await?;
        let planned = self.planned(&schema)?;
        let amended: Vec<&AmendedTable> = planned.iter().map(|planned| &planned.amended).collect();
        if amended.is_empty() {
            return Ok(Vec::new());
        }
        amended.iter().try_for_each(|amended| schema.refuse_rules(&amended.table))?;
        let mut session = AmendSession::open(target).await?;
        session.load(&amended).await?;
        session.lock().await?;
        if !session.apply(&schema, &amended).await?.is_empty() {
            return Err(Error::refused("its rows are not what the history says"));
        }
        let held = session.read_back(&amended).await?;
        session.commit_silently().await?;
        amended.iter().zip(held).map(|(amended, held)| proved(amended, held)).collect()
    }

    fn planned(&self, schema: &LiveSchema) -> Result<Vec<PlannedTable>> {
        let change = |(id, _, row): (RowId, &ChangedTable, &TouchedRow)| {
            let (first, last) = (row.first().cloned(), row.last().cloned());
            let (now, then) = match self.direction {
                Direction::Forward => (first, last),
                Direction::Backward => (last, first),
            };
            (now != then).then_some((id, now, then))
        };
        planned_changes(&self.changed, self.changed.rows().filter_map(change), schema)
    }
}

/// The change of a table's rows as a whole, and whether the changed rows were read back by themselves.
pub struct AppliedChange {
    pub change: DigestChange,
    pub is_read_back: bool,
}

/// Compares the changed rows of a table with those that were read back, which is possible if the table has a key.
fn proved(amended: &AmendedTable, held: Option<HeldRows>) -> Result<AppliedChange> {
    let mut sent = HeldRows::default();
    amended.rows.iter().filter_map(|row| row.then.as_deref()).for_each(|line| sent.add(line));
    if held.is_some_and(|held| held != sent) {
        return Err(Error::internal(format!(
            "{} does not hold the rows that it was given; please report this",
            amended.table.display()
        )));
    }
    Ok(AppliedChange { change: digest_change(amended), is_read_back: held.is_some() })
}
