//! Plans against the history, locks the live tables, brings the plan up to what they are under the locks, and changes the
//! rows.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::catch_up::{reading_beyond, to_json};
use super::changed::ChangedRows;
use super::conflicts::{ConflictReport, ConflictRule, name_of};
use super::plan::{PlannedTable, TableCount, planned_tables};
use super::solve::{Aim, Solution, solve};
use super::table::ChangedTable;
use crate::ambient;
use crate::connect::{Conninfo, Session, set_local_statements};
use crate::error::{Error, Kind, Result};
use crate::model::Lsn;
use crate::past::{Past, Reading};
use crate::signal::{REWIND, RewindSignal};
use crate::source::amend::{AmendSession, AmendedTable, LiveSchema, Surprise, live_schema};
use crate::travel::statement::Script;

/// How long the history may take to pass a position while the tables are locked.
const CATCH_UP: Duration = Duration::from_secs(5);

/// How long the plan may be brought up to date while the tables are locked. Beyond that the locks are given back meanwhile,
/// except at the last attempt.
const LOCKED_PLANNING: Duration = Duration::from_secs(1);

/// How often the locks are taken, in case other tables than planned must be locked, or another transaction holds rows that are
/// needed.
const ATTEMPTS: usize = 5;

/// A rewind or an undo, planned.
pub struct Amendment {
    source: Conninfo,
    aim: Aim,
    rule: ConflictRule,
    signal: RewindSignal,
    /// The history up to which the rows are followed.
    reading: Reading,
    changed: ChangedRows,
    /// The constraints for which the plan was made.
    schema: LiveSchema,
    catalogs: Arc<Session>,
    pub solution: Solution,
    pub tables: Vec<PlannedTable>,
}

/// A rewind that put all back. Up to a position before it, the journal tells nothing that is still so.
#[derive(Clone, Copy, Debug)]
pub struct PutBack {
    pub until: Lsn,
    /// The rewind's own transaction.
    pub xid: u64,
}

/// How the change went.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Applied {
    /// A position behind the commit.
    pub lsn: Lsn,
    pub xid: u64,
    /// How long writers were kept out of the tables.
    pub locked_seconds: f64,
}

impl Amendment {
    /// Plans from the history as it is now. `past` is the moment to which rows are put back, or the one just before the
    /// first transaction that is taken back. `catalogs` is a session in the source, for its catalogs.
    ///
    /// # Errors
    /// `Refused` if a table is not exact in between, or is not what the history says; `Damaged` if the history is.
    pub async fn plan(
        past: Past,
        source: &Conninfo,
        catalogs: Arc<Session>,
        aim: Aim,
        rule: ConflictRule,
    ) -> Result<Amendment> {
        Amendment::plan_after(past, source, catalogs, aim, rule, None).await
    }

    /// The same, if an earlier rewind has put all back to the moment: the journal before it is not read again.
    ///
    /// # Errors
    /// The errors of [`Amendment::plan`].
    pub async fn plan_after(
        past: Past,
        source: &Conninfo,
        catalogs: Arc<Session>,
        aim: Aim,
        rule: ConflictRule,
        earlier: Option<PutBack>,
    ) -> Result<Amendment> {
        let signal =
            RewindSignal { to: matches!(aim, Aim::Rewind(_)).then(|| past.until()), undone: Vec::new() };
        let schema = live_schema(&catalogs, &[]).await?;
        let wanted = concerned_tables(&past, &aim, rule)?.map(|tables| schema.related(tables));
        let reading = past.reading().clone();
        let mut changed = ChangedRows::since(Arc::new(past), matches!(aim, Aim::Undo(_)), wanted);
        if let Some(earlier) = earlier {
            changed.pass_over(earlier.until, earlier.xid);
        }
        let mut amendment = Amendment {
            source: source.clone(),
            changed,
            aim,
            rule,
            signal,
            reading: reading.clone(),
            schema,
            catalogs,
            solution: Solution { goals: Default::default(), conflicts: Vec::new(), is_blocked: false },
            tables: Vec::new(),
        };
        amendment.bring_up_to_date(reading).await?;
        Ok(amendment)
    }

    /// Reads on to the end of the history as `reading` has it. If something has changed, it decides anew what to change, and
    /// returns the plan from before.
    async fn bring_up_to_date(&mut self, reading: Reading) -> Result<Option<Vec<PlannedTable>>> {
        let nothing = self.changed.nothing();
        let mut changed = std::mem::replace(&mut self.changed, nothing);
        self.reading = reading.clone();
        let following = ambient::blocking("following the journal", move || {
            let has_changed = changed.advance(&reading)?;
            ambient::pass("rewind.planned")?;
            Ok((changed, has_changed))
        });
        let (changed, has_changed) = following.await?;
        self.changed = changed;
        let oids: Vec<u32> = self.changed.tables.keys().copied().collect();
        let schema = live_schema(&self.catalogs, &oids).await?;
        if !has_changed && schema == self.schema {
            return Ok(None);
        }
        self.schema = schema;
        self.solve().map(Some)
    }

    /// Decides what to change, by the constraints that are in force.
    fn solve(&mut self) -> Result<Vec<PlannedTable>> {
        self.changed.refuse_inexact(|changed| self.concerns(changed))?;
        self.solution = solve(&self.aim, self.rule, &self.changed, &self.schema)?;
        let tables = planned_tables(&self.changed, &self.solution.goals, &self.schema)?;
        tables.iter().try_for_each(|planned| self.schema.check(&planned.amended.table))?;
        Ok(std::mem::replace(&mut self.tables, tables))
    }

    /// Whether the rewind or undo is about this table.
    fn concerns(&self, changed: &ChangedTable) -> bool {
        match &self.aim {
            Aim::Rewind(part) => changed.table().is_some_and(|table| part.takes(table)),
            Aim::Undo(positions) => self.changed.is_written_by(changed, positions),
        }
    }

    pub fn counts(&self) -> Vec<TableCount> {
        self.tables.iter().map(PlannedTable::count).collect()
    }

    /// The conflicts that were met, each row once.
    pub fn conflicts(&self) -> Vec<ConflictReport> {
        self.solution.reports(&self.changed)
    }

    /// Names the things that are not put back: tables and columns that have no place today, tables that were made since, and
    /// schema changes of the transactions that are taken back.
    pub fn without_place(&self) -> Vec<String> {
        let concerned = self.changed.tables.values().filter(|changed| self.concerns(changed));
        match &self.aim {
            Aim::Rewind(_) => concerned.flat_map(ChangedTable::without_place).collect(),
            Aim::Undo(positions) => self.changed.not_taken_back(positions),
        }
    }

    /// Makes sure that the plan puts back all of the database.
    ///
    /// # Errors
    /// `Refused` with the names of the tables and columns that have no place.
    pub fn require_whole(&self) -> Result<()> {
        let without_place = self.without_place();
        if without_place.is_empty() {
            return Ok(());
        }
        Err(Error::refused(format!(
            "not all rows can be put back in place: {}; recover the database anew instead: backwhen recover --to MOMENT \
             --create --into TARGET",
            without_place.join("; ")
        )))
    }

    /// The stretch of the journal that a later plan need not read again, now that this one was applied.
    pub fn put_back(&self, applied: Applied) -> PutBack {
        PutBack { until: self.changed.until(), xid: applied.xid }
    }

    /// Carries out the plan, in one transaction.
    ///
    /// # Errors
    /// `Refused` if rows are not what the history says, or if a constraint is in the way; `Unavailable` if the tables
    /// cannot be locked, or if capture is too far behind. Nothing has changed then.
    pub async fn apply(&mut self) -> Result<Option<Applied>> {
        for attempt in 1..=ATTEMPTS {
            if self.tables.is_empty() {
                return Ok(None);
            }
            let mut session = AmendSession::open(&self.source).await?;
            session.load(&self.amended()).await?;
            let lsn = session.lock().await?;
            let locked = ambient::instant();
            ambient::pass("rewind.locked")?;
            let reading = reading_beyond(&self.reading, &self.catalogs, lsn, CATCH_UP).await?;
            let (planned, is_locked) = self.plan_under_locks(reading, &session, attempt < ATTEMPTS).await?;
            if !is_locked {
                continue;
            }
            if self.solution.is_blocked {
                session.give_up().await?;
                return Err(self.blocked());
            }
            if let Some(planned) = planned {
                let now = self.amended();
                if !now.iter().map(|it| it.table.oid).eq(planned.iter().map(|it| it.amended.table.oid)) {
                    session.give_up().await?;
                    continue;
                }
                if now.iter().zip(&planned).any(|(now, planned)| now.rows != planned.amended.rows) {
                    session.reload(&now).await?;
                }
            }
            let surprises = match session.apply(&self.schema, &self.amended()).await {
                Err(error) if error.kind() == Kind::Unavailable && attempt < ATTEMPTS => {
                    tracing::info!("{error}; trying again");
                    session.give_up().await?;
                    continue;
                }
                applied => applied?,
            };
            if !surprises.is_empty() {
                return Err(self.surprised(&surprises));
            }
            ambient::pass("rewind.applied")?;
            let (lsn, xid) = self.commit(&session).await?;
            return Ok(Some(Applied { lsn, xid, locked_seconds: locked.elapsed().as_secs_f64() }));
        }
        Err(Error::unavailable("other tables kept changing meanwhile; try again when fewer write"))
    }

    /// Brings the plan up to date under the locks, and returns the plan from before if it is another one. If that takes long
    /// and they `may_go`, the locks are given back meanwhile. Returns, too, whether they are still held.
    async fn plan_under_locks(
        &mut self,
        reading: Reading,
        session: &AmendSession,
        may_go: bool,
    ) -> Result<(Option<Vec<PlannedTable>>, bool)> {
        let mut planning = std::pin::pin!(self.bring_up_to_date(reading));
        match tokio::time::timeout(LOCKED_PLANNING, &mut planning).await {
            Err(_) if may_go => {
                tracing::info!("much was changed since the plan; the locks are given back until it is read");
                session.give_up().await?;
                Ok((planning.await?, false))
            }
            Err(_) => Ok((planning.await?, true)),
            Ok(planned) => Ok((planned?, true)),
        }
    }

    /// The plan as SQL, for review.
    ///
    /// # Errors
    /// `Refused` if a value is no UTF-8.
    pub fn script(&self) -> Result<String> {
        let mut script = Script::exact();
        script.notes.push(
            "Triggers fire here. The same command with --apply does this under locks and without triggers"
                .into(),
        );
        self.tables.iter().try_for_each(|planned| planned.add_to(&mut script))?;
        Ok(script.text(false, &set_local_statements()))
    }

    fn amended(&self) -> Vec<&AmendedTable> {
        self.tables.iter().map(|planned| &planned.amended).collect()
    }

    async fn commit(&mut self, session: &AmendSession) -> Result<(Lsn, u64)> {
        if let Aim::Undo(positions) = &self.aim {
            let undone = self.changed.numbers(positions);
            self.signal.undone = undone.into_iter().map(|number| self.changed.xid(number)).collect();
        }
        let committed = session
            .commit(&self.reading.history().identity().message_key(), REWIND, &to_json(&self.signal)?)
            .await?;
        ambient::pass("rewind.committed")?;
        Ok(committed)
    }

    fn blocked(&self) -> Error {
        Error::refused(format!(
            "{} rows are in the way, and nothing was changed; look at them without --apply, then choose --conflicts skip or \
             --conflicts cascade",
            self.conflicts().len()
        ))
    }

    /// Explains rows that were not what the history says.
    fn surprised(&self, surprises: &[Surprise]) -> Error {
        let explain = |(table, row): &Surprise| {
            let id = self.tables[*table].rows[*row];
            let (table, key) = name_of(&self.changed, id);
            let key: Vec<_> = key.iter().map(|(column, value)| format!("{column}={value}")).collect();
            let last = self.changed.row(id).transactions().next_back();
            let xid = last.map_or_else(String::new, |last| {
                format!(", which the history last saw written by xid:{}", self.changed.xid(last))
            });
            format!("{table} ({}){xid}", key.join(", "))
        };
        let rows: Vec<_> = surprises.iter().map(explain).collect();
        Error::refused(format!(
            "rows are not what the history says, and nothing was changed: {}; see: backwhen check --against-source",
            rows.join("; ")
        ))
    }
}

/// The oids of the tables that are to be put right; `None` if the rule may add transactions to those that are taken back,
/// which may have changed any table.
fn concerned_tables(past: &Past, aim: &Aim, rule: ConflictRule) -> Result<Option<HashSet<u32>>> {
    match aim {
        Aim::Rewind(part) => {
            let stretch = past.stretch();
            let now = past.reading().before(stretch.epoch.number, stretch.frontier())?;
            let tables = past.tables()?.into_iter().chain(now.tables()?);
            Ok(Some(tables.filter(|table| part.takes(table)).map(|table| table.oid).collect()))
        }
        Aim::Undo(_) if rule == ConflictRule::Cascade => Ok(None),
        Aim::Undo(positions) => past.tables_changed_by(positions).map(Some),
    }
}
