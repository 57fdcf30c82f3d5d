//! `backwhen recover --except`: all transactions but some.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::rewind::{DependentReport, describe_changes, transactions};
use super::ui;
use crate::connect::Conninfo;
use crate::error::{Error, Result};
use crate::model::Lsn;
use crate::past::Past;
use crate::recover::amend::{Amend, Amending, TableChange};
use crate::recover::plan::Plan;
use crate::rewind::{ConflictReport, ConflictRule, Exception, ExceptionPlan, TableCount, blocked};

/// The transactions that a recovery leaves out, and what became of its rows.
pub(super) struct LeftOutTransactions {
    /// Until it is applied.
    exception: Mutex<Option<Exception>>,
    applied: Mutex<Option<ExceptionPlan>>,
}

#[derive(Serialize)]
pub(super) struct ExceptReport {
    tables: Vec<TableCount>,
    conflicts: Vec<ConflictReport>,
    /// The later transactions that are in the way.
    dependents: Vec<DependentReport>,
    without_place: Vec<String>,
}

impl LeftOutTransactions {
    /// Reads what the transactions changed up to the plan's moment.
    ///
    /// # Errors
    /// `Usage` if one of them is not before the moment; `Refused` if a table that they wrote is not exact in between.
    pub fn read(plan: &Plan, list: &str, rule: ConflictRule) -> Result<LeftOutTransactions> {
        let reading = plan.past.reading();
        let moments = transactions(list, "backwhen recover --to MOMENT --except xid:N,N")?;
        let pasts = moments.iter().map(|moment| reading.at(moment, true)).collect::<Result<Vec<_>>>()?;
        let is_after = |past: &&Past| {
            past.stretch().epoch.number == plan.past.stretch().epoch.number
                && past.until() >= plan.past.until()
        };
        if pasts.iter().any(|past| is_after(&past)) {
            return Err(Error::usage(
                "a transaction of --except is later than the moment, which does not include it anyway; leave it away",
            ));
        }
        if let Some(past) = pasts.iter().find(|past| past.stretch().epoch.number != plan.epoch) {
            return Err(Error::refused(format!(
                "a transaction of --except lies before a gap of the history (epoch {}, and the moment is in epoch {}), so it is \
                 not known what changed since",
                past.stretch().epoch.number,
                plan.epoch
            )));
        }
        let positions: BTreeSet<Lsn> = pasts.iter().map(Past::until).collect();
        let first = pasts.into_iter().min_by_key(Past::until);
        let first = first.ok_or_else(|| Error::usage("name the transactions: --except xid:N,N"))?;
        let wanted = plan.chosen.selection.clone();
        let exception = Exception::read(first, plan.past.until(), positions, rule, wanted)?;
        Ok(LeftOutTransactions { exception: Mutex::new(Some(exception)), applied: Mutex::default() })
    }

    /// Says what will change, as far as that is known before the constraints are there.
    ///
    /// # Errors
    /// `Refused` if rows cannot take each other's unique values.
    pub fn foresee(&self) -> Result<ExceptReport> {
        self.plan().map(ExceptReport::of)
    }

    /// Refuses what is in the way before anything is built.
    ///
    /// # Errors
    /// `Refused` if columns were changed again, or rows were.
    pub fn require_free(&self) -> Result<()> {
        let plan = self.plan()?;
        if plan.is_blocked { Err(blocked(&plan)) } else { Ok(()) }
    }

    fn plan(&self) -> Result<ExceptionPlan> {
        let exception = self.exception.lock().unwrap_or_else(PoisonError::into_inner);
        exception.as_ref().ok_or_else(applied_already)?.foresee()
    }

    pub fn report(&self) -> Option<ExceptReport> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner).take().map(ExceptReport::of)
    }
}

impl Amend for LeftOutTransactions {
    fn amend<'a>(&'a self, target: &'a Conninfo) -> Amending<'a> {
        Box::pin(async move {
            let exception = self.exception.lock().unwrap_or_else(PoisonError::into_inner).take();
            let plan = exception.ok_or_else(applied_already)?.apply(target).await?;
            let change = |it: &crate::rewind::DigestChange| TableChange {
                table: it.table,
                rows: it.rows,
                digest: it.digest,
                is_read_back: false,
            };
            let changes = plan.changes.iter().map(change).collect();
            *self.applied.lock().unwrap_or_else(PoisonError::into_inner) = Some(plan);
            Ok(changes)
        })
    }
}

fn applied_already() -> Error {
    Error::internal("transactions are left out of one recovery only")
}

impl ExceptReport {
    fn of(plan: ExceptionPlan) -> ExceptReport {
        ExceptReport {
            dependents: DependentReport::of(&plan.conflicts),
            tables: plan.tables,
            conflicts: plan.conflicts,
            without_place: plan.without_place,
        }
    }

    pub fn describe(&self) -> String {
        let mut text =
            format!("\nwithout the transactions\n{}", describe_changes(&self.tables, &self.conflicts));
        for note in &self.without_place {
            text.push_str(&format!("no place  {}\n", ui::printable(note)));
        }
        text.trim_end().to_owned()
    }
}
