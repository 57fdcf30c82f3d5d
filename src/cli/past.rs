//! The options of commands that open the past of moments on a server of our own.

use clap::Args;

use super::on_demand::say_loaded;
use super::recover::refuse_a_lost_end;
use super::verify::acknowledged;
use super::{ScratchOption, Surroundings, changes, ui};
use crate::error::Result;
use crate::model::Moment;
use crate::past::Reading;
use crate::recover::gate::GateEvent;
use crate::recover::part::Narrowing;
use crate::recover::past_server::{PastDatabase, PastSettings};
use crate::recover::plan::{Plan, plan};

#[derive(Args, Clone)]
pub(super) struct PastOption {
    /// The moment: a time with zone, '10 minutes ago', an LSN, xid:N, mark:NAME, checkpoint:ID or latest; may be given more
    /// than once
    #[arg(long, value_name = "MOMENT", required = true, allow_hyphen_values = true)]
    at: Vec<String>,
    /// With xid: or mark:, the instant just before it
    #[arg(long)]
    before: bool,
    #[command(flatten)]
    scratch: ScratchOption,
}

impl PastOption {
    /// Plans each moment.
    pub(super) fn plans(&self, at: &Surroundings) -> Result<Vec<Plan>> {
        let history = at.history()?;
        let acknowledged = acknowledged(history.local());
        let reading = Reading::open(&history)?;
        let plan = |text: &String| {
            let moment = changes::moment(text, "--at")?;
            if moment == Moment::Latest {
                refuse_a_lost_end(&reading, acknowledged)?;
            }
            let plan = plan(&reading, &moment, self.before, &[])?;
            plan.notes.iter().for_each(|note| at.ui.say(&format!("note: {note}")));
            Ok(plan)
        };
        self.at.iter().map(plan).collect()
    }

    pub(super) fn settings(
        &self,
        at: &Surroundings,
        narrowings: Vec<Narrowing>,
        read_only: bool,
        password: Option<String>,
    ) -> Result<PastSettings> {
        Ok(PastSettings {
            tools: at.tools()?,
            scratch: self.scratch.conninfo()?,
            replay_limit: self.scratch.limit(),
            narrowings,
            read_only,
            password,
            interrupt: at.heed_signals(),
        })
    }
}

/// Says the remarks on a database, and what is not exact in it.
pub(super) fn say(at: &Surroundings, database: &PastDatabase) {
    database.notes.iter().for_each(|note| at.ui.say(&format!("note: {note}")));
    changes::say_inexact(at, &database.inexact);
}

/// Says what has come of a table that was asked for.
pub(super) fn say_event(at: &Surroundings, event: &GateEvent) {
    match event {
        GateEvent::Opened(gate) => say_loaded(at, gate),
        GateEvent::Failed { relations, error } => at.ui.warn(&format!(
            "{} cannot be loaded, and stays closed: {error}",
            ui::printable(&relations.join(", "))
        )),
    }
}
