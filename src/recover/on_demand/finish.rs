//! Opens the gates of a database that is in use, and finishes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::ambient;
use crate::connect::{Conninfo, Session, server_error};
use crate::error::{Error, Result};
use crate::fold::FoldedTable;
use crate::model::Inexact;
use crate::progress::{Progress, Unit};
use crate::recover::fill::fold_plan;
use crate::recover::gate::{
    Content, GateEvent, GatedTable, Gates, OwnedRelation, ancestors, by_oid, enter_inexact,
};
use crate::recover::plan::Plan;
use crate::recover::report::{Phases, RecoveryReport};
use crate::recover::sink::{lock, maintenance};

use super::ledger::{self, Details, GateState, Known, Unloaded};
use super::{Event, OnDemandReport, Tell};

/// A database that is open and not finished.
pub(super) struct Unfinished {
    pub plan: Plan,
    pub info: Conninfo,
    /// A session in the database.
    pub session: Session,
    /// The session that holds the lock on the name.
    pub lock: Session,
    pub known: Known,
    pub phases: Phases,
    pub started: Instant,
}

/// The outcome of opening the gates.
#[derive(Default)]
struct Outcome {
    failures: Vec<(Vec<String>, Error)>,
    wanted: BTreeSet<String>,
}

impl Outcome {
    fn take(&mut self, event: GateEvent) -> Event {
        match event {
            GateEvent::Opened(opened) => {
                let names = opened.tables.iter().map(|it| &it.table).chain(&opened.views);
                self.wanted.extend(names.filter(|_| opened.wanted).cloned());
                Event::Loaded(opened)
            }
            GateEvent::Failed { relations, error } => {
                let said = Error::new(error.kind(), error.to_string());
                self.failures.push((relations.clone(), error));
                Event::Failed { relations, error: said }
            }
        }
    }
}

impl Unfinished {
    /// # Errors
    /// The error of the first table that cannot be loaded, or why the loading ended. The database then stays unfinished.
    pub async fn finish(
        mut self,
        gates: Gates,
        jobs: usize,
        interrupt: &CancellationToken,
        tell: &Tell<'_>,
    ) -> Result<OnDemandReport> {
        let name = self.info.dbname().to_owned();
        let finished = match self.open_gates(gates, jobs, interrupt, tell).await {
            Ok(wanted) => self.close(&wanted).await,
            Err(error) => Err(error),
        };
        finished.map_err(|error| {
            Error::new(
                error.kind(),
                format!(
                    "{error}; database {name} stays unfinished: ordinary users cannot read the tables that are not loaded, \
                     which backwhen status --target lists. Go on with the same --into: backwhen recover --resume --into …"
                ),
            )
        })
    }

    /// Opens all gates. Returns the relations for which somebody waited.
    async fn open_gates(
        &mut self,
        mut gates: Gates,
        jobs: usize,
        interrupt: &CancellationToken,
        tell: &Tell<'_>,
    ) -> Result<BTreeSet<String>> {
        let outcome = Mutex::new(Outcome::default());
        let hear = |event| tell(outcome.lock().unwrap_or_else(PoisonError::into_inner).take(event));
        let opened = tokio::select! {
            opened = gates.open_all(jobs, &hear) => opened,
            () = interrupt.cancelled() => Err(Error::interrupted()),
        };
        // The sessions of gates that did not open end, and so do their locks.
        drop(gates);
        let outcome = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.phases.end("load and prove");
        opened?;
        match outcome.failures.into_iter().next() {
            None => Ok(outcome.wanted),
            Some((relations, error)) => {
                Err(Error::new(error.kind(), format!("{} cannot be loaded: {error}", relations.join(", "))))
            }
        }
    }

    async fn close(mut self, wanted: &BTreeSet<String>) -> Result<OnDemandReport> {
        let (mut gates, loaded) = ledger::gates(&self.session).await?;
        let inexact = [self.known.inexact, ledger::inexact(&self.session).await?].concat();
        for gate in &mut gates {
            gate.wanted = wanted.contains(&gate.table);
        }
        debug_assert!(gates.iter().all(|gate| gate.state == GateState::Loaded));
        ambient::pass("demand.close")?;
        ledger::close(&self.session).await?;
        self.phases.end("finish");
        drop(self.lock);
        let digests = [self.known.digests, loaded].concat();
        let plan = self.plan;
        let report = RecoveryReport {
            moment: plan.moment,
            checkpoint: plan.checkpoint,
            segments: plan.segments,
            transactions_folded: self.known.transactions,
            fold_time: Duration::ZERO,
            tables: digests.len() as u64,
            rows: digests.iter().map(|it| it.rows).sum(),
            seconds: self.started.elapsed().as_secs_f64(),
            phases: self.phases.all,
            schema: self.known.schema,
            schema_proof: self.known.schema_proof,
            proved: !inexact.iter().any(Inexact::is_retyped),
            inexact,
            left_out: self.known.left_out,
            notes: self.known.notes,
            part: Vec::new(),
            digests,
            template: None,
        };
        Ok(OnDemandReport { report, gates })
    }
}

/// Goes on with a recovery on demand that ended too early. `plan` is of the moment that
/// [`identify`](super::identify) names.
///
/// # Errors
/// `Locked` if a process of backwhen is loading; otherwise as
/// [`recover_on_demand`](super::recover_on_demand) once the database is open.
pub async fn resume(
    plan: Plan,
    info: &Conninfo,
    jobs: usize,
    progress: &Arc<dyn Progress>,
    interrupt: &CancellationToken,
    tell: &Tell<'_>,
) -> Result<OnDemandReport> {
    let started = ambient::instant();
    let mut phases = Phases { started, all: Vec::new() };
    let locking = maintenance(info).await?;
    lock(&locking, info.dbname()).await?;
    let session = Session::connect_utf8(info, "recover").await?;
    require_superuser(&session).await?;
    progress.phase("preparing", 0, Unit::Tables);
    let closing = async {
        let (unloaded, known) = ledger::unloaded(&session).await?;
        let contents = contents(&plan, &session, unloaded, progress).await?;
        Ok((Gates::close_each(info, contents).await?, known))
    };
    let (gates, known) = tokio::select! {
        closed = closing => closed?,
        () = interrupt.cancelled() => return Err(Error::interrupted()),
    };
    phases.end("fold");
    progress.phase("loading", 0, Unit::Tables);
    let info = info.clone();
    let unfinished = Unfinished { plan, info, session, lock: locking, known, phases, started };
    unfinished.finish(gates, jobs, interrupt, tell).await
}

async fn require_superuser(session: &Session) -> Result<()> {
    let sql = "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user";
    let row = session.query_one(sql, &[]).await;
    let row = row.map_err(|error| server_error("cannot read the rights of the user", error))?;
    if row.get(0) {
        return Ok(());
    }
    Err(Error::refused("--resume needs a superuser on the target, as --on-demand did; connect as one"))
}

/// Returns the contents of the gates that are to be closed again, and enters what somebody has changed meanwhile.
async fn contents(
    plan: &Plan,
    session: &Session,
    unloaded: BTreeMap<i32, Vec<Unloaded>>,
    progress: &Arc<dyn Progress>,
) -> Result<Vec<Content>> {
    let sources = unloaded.values().flatten().filter_map(|it| it.source).collect();
    let folded = fold_plan(plan, progress, sources).await?.tables;
    let mut folded: BTreeMap<u32, FoldedTable> = folded.into_iter().map(|it| (it.table.oid, it)).collect();
    let all: Vec<u32> = unloaded.values().flatten().map(|it| it.oid).collect();
    let places = by_oid(session, &all).await?;
    let mut above = ancestors(session, &all).await?;
    let mut contents = Vec::new();
    for (gate, relations) in unloaded {
        let mut content = Content { ledger: Some(gate), ..Content::default() };
        let of_kind = |kind: &'static str| relations.iter().filter(move |it| it.kind == kind);
        let place = |it: &Unloaded| places.get(&it.oid).cloned();
        content.views = of_kind("view").filter_map(place).collect();
        if of_kind("table").any(|it| it.is_changed) {
            for view in of_kind("view") {
                enter_inexact(session, view.oid, &[filled_anew(view)]).await?;
            }
        }
        let mut sequences: Vec<OwnedRelation> = of_kind("sequence").filter_map(place).collect();
        for it in of_kind("table") {
            let (Some(place), false) = (place(it), it.is_changed) else {
                enter_inexact(session, it.oid, &[changed(it)]).await?;
                continue;
            };
            let folded = it.source.and_then(|source| folded.remove(&source));
            let mut folded =
                folded.ok_or_else(|| Error::internal(format!("{} is not in the past", it.name)))?;
            (folded.table.schema, folded.table.name) = (place.relation.schema, place.relation.name);
            let details: Details = ledger::parse(it.details.as_deref().unwrap_or_default())?;
            content.tables.push(GatedTable {
                folded,
                oid: it.oid,
                sequences: details.sequences,
                locked_sequences: std::mem::take(&mut sequences),
                is_retyped: details.is_retyped,
                ancestors: above.remove(&it.oid).unwrap_or_default(),
                unfit: None,
                is_unseen: false,
                condition: None,
            });
        }
        contents.push(content);
    }
    Ok(contents)
}

fn filled_anew(view: &Unloaded) -> Inexact {
    let why = "it is filled with the result of what its tables hold now, since somebody has changed one";
    Inexact { what: view.name.clone(), why: why.to_owned() }
}

fn changed(table: &Unloaded) -> Inexact {
    let why = "somebody has truncated, rewritten or dropped it while nothing loaded it, so it stays as it is";
    Inexact { what: table.name.clone(), why: why.to_owned() }
}
