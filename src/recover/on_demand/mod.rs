//! Recovery on demand: the database is open as soon as its structure and its small tables are there. Each large table stands
//! behind a gate, and is loaded when somebody asks for it, or when its turn comes. See `docs/architecture/on-demand.md`.

mod choose;
mod finish;
mod ledger;
mod prepare;

use serde::Serialize;
use tokio::time::Instant;

use super::execute::{Execution, schema_of};
use super::gate::OpenedGate;
use super::plan::Plan;
use super::report::{Phases, RecoveryReport};
use super::roles;
use super::sink::Sink;
use crate::ambient;
use crate::error::{Error, Result};
use finish::Unfinished;
pub use finish::resume;
pub use ledger::{GateState, GateStatus, Identified, identify, status};

/// The events that a recovery on demand tells while it goes on.
pub enum Event {
    /// The database can be used, so many seconds after the beginning.
    Open {
        seconds: f64,
    },
    Loaded(OpenedGate),
    /// These relations cannot be loaded, and stay closed.
    Failed {
        relations: Vec<String>,
        error: Error,
    },
}

/// Takes events.
pub type Tell<'a> = dyn Fn(Event) + Send + Sync + 'a;

/// The report of a recovery on demand.
#[derive(Serialize)]
pub struct OnDemandReport {
    #[serde(flatten)]
    pub report: RecoveryReport,
    /// The tables that stood behind gates.
    pub gates: Vec<GateStatus>,
}

/// Recovers a database on demand. `first` names the tables that are loaded first if nobody waits for others.
///
/// # Errors
/// Until the database is open, those of a recovery, which leaves nothing. Afterwards, the error of the first table that could
/// not be loaded, or why the loading ended: the database then stays unfinished, and [`resume`] goes on.
pub async fn recover_on_demand(
    plan: Plan,
    execution: Execution,
    first: &[String],
    tell: &Tell<'_>,
) -> Result<OnDemandReport> {
    let started = ambient::instant();
    plan.past.choose(first)?;
    execution.progress.phase("preparing", 0, crate::progress::Unit::Tables);
    let created = if execution.create_roles {
        roles::create(&plan.past, &execution.destination).await?
    } else {
        Vec::new()
    };
    let recovered = begin(plan, execution, (first, &created), started, tell).await;
    recovered.map_err(|error| roles::name_created(error, &created))
}

async fn begin(
    plan: Plan,
    execution: Execution,
    (order, created): (&[String], &[String]),
    started: Instant,
    tell: &Tell<'_>,
) -> Result<OnDemandReport> {
    let mut phases = Phases { started, all: Vec::new() };
    let schema = schema_of(&plan, &execution).await?;
    let (sink, _, sequences) = super::execute::open(&plan, &execution, &schema, None).await?;
    phases.end("prepare");
    let mut sink = Box::new(sink);
    let preparing = prepare::Preparing { plan: &plan, execution: &execution, schema: &schema, order };
    let prepared = tokio::select! {
        prepared = preparing.run(&mut sink, &sequences, created.to_vec(), &mut phases) => prepared,
        () = execution.interrupt.cancelled() => Err(Error::interrupted()),
    };
    // Nothing interrupts the last step, so that nobody takes the database for one that was given up.
    let opened = match prepared {
        Ok(_) if execution.interrupt.is_cancelled() => Err(Error::interrupted()),
        Ok(prepared) => preparing.open(&mut sink, &mut phases).await.map(|()| prepared),
        Err(error) => Err(error),
    };
    let (gates, known) = match opened {
        Ok(prepared) => prepared,
        Err(error) => return Err(sink.abandon_after(error).await),
    };
    tell(Event::Open { seconds: started.elapsed().as_secs_f64() });
    let Sink::Postgres(target) = *sink else { return Err(Error::internal("no database was opened")) };
    let info = target.final_connection();
    let (session, lock) = target.into_opened()?;
    let unfinished = Unfinished { plan, info, session, lock, known, phases, started };
    unfinished.finish(gates, execution.jobs, &execution.interrupt, tell).await
}
