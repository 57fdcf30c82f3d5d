//! `backwhen recover --on-demand` and `--resume`, and the gates in `backwhen status --target`.

use clap::Args;
use serde::Serialize;

use super::{Surroundings, not_exact, ui};
use crate::connect::Conninfo;
use crate::error::{Error, Result};
use crate::history::History;
use crate::model::Moment;
use crate::past::Reading;
use crate::recover::execute::Execution;
use crate::recover::gate::OpenedGate;
use crate::recover::on_demand::{
    Event, GateState, GateStatus, OnDemandReport, identify, recover_on_demand, resume, status,
};
use crate::recover::plan::{Plan, plan};

#[derive(Args, Clone)]
pub(super) struct DemandOption {
    /// Open the database as soon as its structure and its small tables are there; whoever asks for a large table waits until
    /// it is loaded. Needs a superuser on the target
    #[arg(long, conflicts_with_all = ["strict", "schema_only", "table", "condition", "with_references", "into_schema", "except", "keep_template"])]
    pub on_demand: bool,
    /// With --on-demand, load these tables first if nobody waits for others; may be given more than once [default: the
    /// smallest]
    #[arg(long, value_name = "PATTERN", requires = "on_demand")]
    first: Vec<String>,
    /// Go on with a recovery on demand that was interrupted or failed
    #[arg(long, conflicts_with_all = ["to", "before", "on_demand", "create", "create_roles", "strict", "schema_only", "table",
        "condition", "with_references", "into_schema", "except", "dry_run", "keep_template"], requires = "into")]
    pub resume: bool,
}

/// The line that says that the database can be used.
#[derive(Serialize)]
struct OpenReport {
    event: &'static str,
    seconds: f64,
}

impl DemandOption {
    pub async fn begin(&self, at: &Surroundings, plan: Plan, execution: Execution) -> Result<OnDemandReport> {
        let tell = |event| say(at, event);
        recover_on_demand(plan, execution, &self.first, &tell).await
    }

    /// Goes on with the recovery that a database is from.
    pub async fn resume(
        &self,
        at: &Surroundings,
        history: &History,
        target: &Conninfo,
        jobs: usize,
    ) -> Result<OnDemandReport> {
        let begun = identify(target).await?;
        if begun.history != history.identity().id {
            return Err(Error::refused(format!(
                "database {} is from another history, {}; name that one with --history",
                target.dbname(),
                begun.history
            )));
        }
        let reading = Reading::open(history)?;
        let plan = plan(&reading, &Moment::Lsn(begun.lsn), false, &[])?;
        if plan.epoch != begun.epoch {
            return Err(Error::refused(format!(
                "{} means a moment of epoch {} by now, and the recovery began with epoch {}; drop the database, and begin again",
                begun.lsn, plan.epoch, begun.epoch
            )));
        }
        let interrupt = at.heed_signals();
        resume(plan, target, jobs, &at.ui.progress(), &interrupt, &|event| say(at, event)).await
    }
}

fn say(at: &Surroundings, event: Event) {
    match event {
        Event::Open { seconds } => say_open(at, seconds),
        Event::Loaded(opened) => say_loaded(at, &opened),
        Event::Failed { relations, error } => at.ui.warn(&format!(
            "{} cannot be loaded, and stays closed: {error}",
            ui::printable(&relations.join(", "))
        )),
    }
}

/// Says at once that the database can be used. The final report follows.
fn say_open(at: &Surroundings, seconds: f64) {
    if at.ui.is_json() {
        // The report that follows cannot be written either.
        let _ = at.ui.result(&OpenReport { event: "open", seconds }, String::new);
    } else {
        at.ui.say(&format!(
            "open after {seconds:.2} s; tables that are not loaded are loaded when somebody asks for them"
        ));
    }
}

pub(super) fn say_loaded(at: &Surroundings, opened: &OpenedGate) {
    let seconds = opened.took.as_secs_f64();
    for table in &opened.tables {
        let part = opened.parts.iter().find(|part| part.table == table.table);
        // Of a part it is proved that each row is one of the history's, and not that no other row belongs to it.
        let rows = match part {
            Some(part) => format!("{} of {} rows, each proved", part.rows, part.rows + part.left_out),
            None => format!("{} rows, proved", table.rows),
        };
        at.ui.say(&format!("loaded {}: {rows}; {seconds:.2} s", table.table));
    }
    for view in &opened.views {
        at.ui.say(&format!("filled {view}; {seconds:.2} s"));
    }
    opened.inexact.iter().for_each(|it| at.ui.warn(&not_exact::line(true, it)));
}

#[derive(Serialize)]
struct TargetReport {
    /// Whether all tables are loaded.
    finished: bool,
    /// Whether a process of backwhen is loading.
    loading: bool,
    gates: Vec<GateStatus>,
}

/// Shows which tables of a database are loaded, and who waits for the others.
pub(super) async fn show_target(at: &Surroundings, target: &str) -> Result<()> {
    let info = Conninfo::parse(target)?;
    let (gates, loading) = status(&info).await?;
    let report = TargetReport { finished: false, loading, gates };
    at.ui.result(&report, || describe(&info, &report))
}

fn describe(info: &Conninfo, report: &TargetReport) -> String {
    let lines = report.gates.iter().map(|gate| {
        let name = ui::printable(&gate.table);
        let seconds = gate.seconds.unwrap_or_default();
        let waiting = match gate.waiting.len() {
            0 => String::new(),
            1 => format!("; process {} waits since {seconds:.1} s", gate.waiting[0]),
            count => format!("; {count} processes wait, the first since {seconds:.1} s"),
        };
        let rows = gate.rows.unwrap_or_default();
        match gate.state {
            GateState::Loaded => format!("{name}: {rows} rows, proved; loaded in {seconds:.2} s"),
            GateState::Loading => format!("{name}: is being loaded{waiting}"),
            GateState::Closed => format!("{name}: not loaded{waiting}"),
        }
    });
    let lines: Vec<_> = lines.collect();
    let how = if report.loading {
        "a process of backwhen is loading it".to_owned()
    } else {
        "nothing loads it; go on with: backwhen recover --resume --into …".to_owned()
    };
    format!("database {} is open, and not all of it is loaded; {how}\n{}", info.dbname(), lines.join("\n"))
}
