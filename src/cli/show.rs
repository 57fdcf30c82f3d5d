//! `backwhen show`

use std::path::Path;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{ScratchOption, Surroundings, ui};
use crate::ambient;
use crate::error::{Context, Kind, Result};
use crate::history::checkpoint::{Inexact, SchemaFacts};
use crate::history::definitions::changes_between;
use crate::history::signal::DefinitionChange;
use crate::history::timeline::Timeline;
use crate::model::Moment;
use crate::pgtools::Tools;
use crate::recover::plan::{PlannedMoment, plan};
use crate::recover::schema::{ReplayedSchema, Request, schema_at, sql_of};

/// Print what was there at a moment: its definitions, as SQL in the form of pg_dump --schema-only
#[derive(Args)]
pub struct Show {
    #[arg(value_enum)]
    what: What,
    /// A time with zone, '10 minutes ago', an LSN, xid:N, mark:NAME, checkpoint:ID or latest
    #[arg(long, value_name = "MOMENT", allow_hyphen_values = true)]
    at: String,
    /// With xid: or mark:, the instant just before it
    #[arg(long)]
    before: bool,
    #[command(flatten)]
    scratch: ScratchOption,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    Schema,
}

#[derive(Serialize)]
struct Shown {
    moment: PlannedMoment,
    /// Statements replayed since the checkpoint's archive.
    statements: usize,
    sql: String,
    inexact: Vec<Inexact>,
    notes: Vec<String>,
}

impl Show {
    pub async fn run(self, at: &Surroundings) -> Result<()> {
        match self.what {
            What::Schema => self.schema(at).await,
        }
    }

    async fn schema(self, at: &Surroundings) -> Result<()> {
        let history = at.history()?;
        let moment = Moment::parse(&self.at, ambient::now()).context(Kind::Usage, || "--at".into())?;
        let catalog = at.catalog(&history)?;
        let timeline = Timeline::read(&history, &catalog)?;
        let plan = plan(&history, &timeline, &moment, self.before, &[])?;
        let tools = at.tools()?;
        let base = &plan.base.schema;
        let changes = changes_between(&timeline, &history.identity().secret, &plan.base, plan.until)?;
        let archive = history.schemas_folder().join(format!("{}.dump", base.archive));
        let (sql, inexact, notes) = match changes.is_empty() {
            true => (sql_of(&archive, &tools).await?, Vec::new(), Vec::new()),
            false => {
                let replayed = self.replay(at, &tools, &archive, base, &changes).await?;
                (sql_of(&replayed.archive, &tools).await?, replayed.inexact, replayed.notes)
            }
        };
        let shown = Shown { moment: plan.moment, statements: changes.len(), sql, inexact, notes };
        if !at.ui.is_json() {
            for inexact in &shown.inexact {
                at.ui.say(&format!("not exact: {}: {}", inexact.what, inexact.why));
            }
            for note in &shown.notes {
                at.ui.say(&format!("note: {note}"));
            }
        }
        at.ui.result(&shown, || ui::script(&shown.sql))
    }

    async fn replay(
        &self,
        at: &Surroundings,
        tools: &Tools,
        archive: &Path,
        base: &SchemaFacts,
        changes: &[DefinitionChange],
    ) -> Result<ReplayedSchema> {
        // What is begun from here on is undone when it is interrupted.
        ambient::heed_signals();
        let server = self.scratch.server(tools, &base.database).await?;
        let request = Request {
            server: server.info(),
            ours: server.is_ours(),
            tools,
            archive,
            base,
            changes,
            progress: &*at.ui.progress(),
        };
        let replayed = schema_at(&request).await;
        server.stop().await;
        replayed
    }
}
