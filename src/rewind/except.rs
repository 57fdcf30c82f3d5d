//! A recovered database without some transactions: all later ones are there, by the rules of an undo.

use std::collections::BTreeSet;
use std::sync::Arc;

use twox_hash::XxHash3_128;

use super::changed::ChangedRows;
use super::conflicts::{ConflictReport, ConflictRule};
use super::plan::{Goals, PlannedTable, TableCount, planned_tables};
use super::solve::{Aim, Solution, settle};
use super::table::ChangedTable;
use crate::connect::{Conninfo, Session};
use crate::error::{Error, Result};
use crate::model::{Lsn, Selection, Table};
use crate::past::Past;
use crate::source::amend::{AmendSession, AmendedTable, LiveSchema, schema_by_names};

/// The most rows that an error names.
const NAMED_ROWS: usize = 5;

/// Transactions that are to be left out of a recovered database.
pub struct Exception {
    changed: ChangedRows,
    positions: BTreeSet<Lsn>,
    rule: ConflictRule,
    /// The tables that are recovered.
    wanted: Selection,
}

/// The changes of rows that leave the transactions out, and the rows in the way.
#[derive(Clone, Debug)]
pub struct ExceptionPlan {
    pub tables: Vec<TableCount>,
    pub conflicts: Vec<ConflictReport>,
    pub is_blocked: bool,
    pub without_place: Vec<String>,
    /// The change of each table's digest, and of the number of its rows, by the table's oid.
    pub changes: Vec<DigestChange>,
}

/// How a table's rows change as a whole.
#[derive(Clone, Copy, Debug)]
pub struct DigestChange {
    pub table: u32,
    pub rows: i64,
    /// Added to the digest, modulo 2^128.
    pub digest: u128,
}

impl Exception {
    /// Reads the changes from the first of the transactions up to the moment `until`, which is recovered. `past` is the
    /// moment just before the first one.
    ///
    /// # Errors
    /// `Refused` if a table that the transactions wrote is not exact in between; `Damaged` if the history is.
    pub fn read(
        past: Past,
        until: Lsn,
        positions: BTreeSet<Lsn>,
        rule: ConflictRule,
        wanted: Selection,
    ) -> Result<Exception> {
        let reading = past.reading().clone();
        let mut changed = ChangedRows::since(Arc::new(past), true, None).up_to(until);
        changed.advance(&reading)?;
        changed
            .refuse_inexact(|table| is_wanted(table, &wanted) && changed.is_written_by(table, &positions))?;
        Ok(Exception { changed, positions, rule, wanted })
    }

    /// Finds the rows that change, as far as the history tells: constraints are known when the database is there.
    ///
    /// # Errors
    /// `Refused` if rows cannot take each other's unique values.
    pub fn foresee(&self) -> Result<ExceptionPlan> {
        let (solution, tables) = self.solve(&LiveSchema::default())?;
        Ok(self.plan(&solution, &tables))
    }

    fn solve(&self, schema: &LiveSchema) -> Result<(Solution, Vec<PlannedTable>)> {
        let aim = Aim::Undo(self.positions.clone());
        let wanted = |oid: u32| is_wanted(&self.changed.tables[&oid], &self.wanted);
        let goals = (&Goals::new(), Goals::new());
        let solution = settle(&aim, self.rule, &self.changed, schema, goals, &wanted);
        let tables = planned_tables(&self.changed, &solution.goals, schema)?;
        Ok((solution, tables))
    }

    fn plan(&self, solution: &Solution, tables: &[PlannedTable]) -> ExceptionPlan {
        ExceptionPlan {
            tables: tables.iter().map(PlannedTable::count).collect(),
            conflicts: solution.reports(&self.changed),
            is_blocked: solution.is_blocked,
            without_place: self.changed.not_taken_back(&self.positions),
            changes: tables.iter().map(|table| digest_change(&table.amended)).collect(),
        }
    }

    /// Changes the rows of the recovered database, in one transaction. Each row must be what the history says.
    ///
    /// # Errors
    /// `Refused` if rows are in the way by a constraint, or are not what the history says; `Unavailable` if the server
    /// fails.
    pub async fn apply(self, target: &Conninfo) -> Result<ExceptionPlan> {
        let catalogs = Session::connect_utf8(target, "recover").await?;
        let touched: Vec<&Table> = self.changed.tables.values().filter_map(|it| it.now.as_deref()).collect();
        let schema = schema_by_names(&catalogs, &touched).await?;
        let (solution, tables) = self.solve(&schema)?;
        let plan = self.plan(&solution, &tables);
        if solution.is_blocked {
            return Err(blocked(&plan));
        }
        let amended: Vec<&AmendedTable> = tables.iter().map(|table| &table.amended).collect();
        if amended.is_empty() {
            return Ok(plan);
        }
        amended.iter().try_for_each(|amended| schema.refuse_rules(&amended.table))?;
        let mut session = AmendSession::open(target).await?;
        session.load(&amended).await?;
        session.lock().await?;
        if !session.apply(&schema, &amended).await?.is_empty() {
            return Err(Error::internal(
                "rows of the recovered database are not what the history says; please report this",
            ));
        }
        session.commit_silently().await?;
        Ok(plan)
    }
}

fn is_wanted(table: &ChangedTable, wanted: &Selection) -> bool {
    table.table().is_some_and(|table| wanted.takes(&table.schema, &table.name))
}

/// The error of a plan with rows in the way.
pub fn blocked(plan: &ExceptionPlan) -> Error {
    let name = |it: &ConflictReport| {
        let key: Vec<_> = it.key.iter().map(|(column, value)| format!("{column}={value}")).collect();
        let xids: Vec<_> = it.xids.iter().map(|xid| format!("xid:{xid}")).collect();
        format!("{} ({}): {} {}", it.table, key.join(", "), it.why, xids.join(" "))
    };
    let rows: Vec<_> = plan.conflicts.iter().take(NAMED_ROWS).map(name).collect();
    Error::refused(format!(
        "{} rows are in the way of --except: {}; leave them as they are with --conflicts skip, or leave out the later \
         transactions too with --conflicts cascade",
        plan.conflicts.len(),
        rows.join("; ")
    ))
}

pub(super) fn digest_change(amended: &AmendedTable) -> DigestChange {
    let mut change = DigestChange { table: amended.table.oid, rows: 0, digest: 0 };
    for row in &amended.rows {
        if let Some(line) = &row.now {
            change.rows -= 1;
            change.digest = change.digest.wrapping_sub(XxHash3_128::oneshot(line));
        }
        if let Some(line) = &row.then {
            change.rows += 1;
            change.digest = change.digest.wrapping_add(XxHash3_128::oneshot(line));
        }
    }
    change
}
