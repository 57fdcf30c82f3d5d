//! `backwhen show`

use clap::{Args, ValueEnum};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{ScratchOption, Surroundings, not_exact, ui};
use crate::ambient;
use crate::error::{Context, Kind, Result};
use crate::history::definitions::SchemaKnown;
use crate::model::schema_digests::SchemaProof;
use crate::model::{Inexact, Moment};
use crate::past::Reading;
use crate::recover::definitions::{ReplaySettings, schema_at};
use crate::recover::plan::{PlannedMoment, plan};
use crate::recover::schema::sql_of;

/// Print the schema at a moment, as SQL in the form of pg_dump --schema-only
#[derive(Args, Clone)]
pub struct Show {
    #[arg(value_enum)]
    what: ShowSubject,
    /// The moment: a time with zone, '10 minutes ago', an LSN, xid:N, mark:NAME, checkpoint:ID or latest
    #[arg(long, value_name = "MOMENT", allow_hyphen_values = true)]
    at: String,
    /// With xid: or mark:, show the instant just before it
    #[arg(long)]
    before: bool,
    #[command(flatten)]
    scratch: ScratchOption,
}

#[derive(Clone, Copy, ValueEnum)]
enum ShowSubject {
    Schema,
}

#[derive(Serialize)]
struct SchemaReport {
    moment: PlannedMoment,
    /// The number of statements replayed since the checkpoint's archive.
    statements: usize,
    sql: String,
    schema: SchemaKnown,
    schema_proof: SchemaProof,
    inexact: Vec<Inexact>,
    notes: Vec<String>,
}

impl Show {
    pub async fn run(self, at: &Surroundings) -> Result<()> {
        match self.what {
            ShowSubject::Schema => self.schema(at).await,
        }
    }

    async fn schema(self, at: &Surroundings) -> Result<()> {
        let history = at.history()?;
        let moment = Moment::parse(&self.at, ambient::now()).context(Kind::Usage, || "--at".into())?;
        let plan = plan(&Reading::open(&history)?, &moment, self.before, &[])?;
        let tools = at.tools()?;
        let statements = plan.past.changes_since_archive()?.len();
        // Everything that starts from here on is undone if the command is interrupted.
        let interrupt = if statements > 0 { at.heed_signals() } else { CancellationToken::new() };
        let given = self.scratch.conninfo()?;
        let progress = at.ui.progress();
        let (server, limit) = (given.as_ref(), self.scratch.limit());
        let replay = ReplaySettings {
            server,
            limit,
            strict: true,
            tools: &tools,
            progress: &*progress,
            interrupt: &interrupt,
        };
        let schema = schema_at(&plan.past, &replay).await?;
        let sql = sql_of(&schema.archive, &tools).await?;
        let mut inexact: Vec<_> = plan.schema.inexact().into_iter().collect();
        inexact.extend(schema.inexact.iter().cloned());
        let (known, notes) = (schema.known(plan.schema), schema.notes.clone());
        let shown = SchemaReport {
            moment: plan.moment,
            statements,
            sql,
            schema: known,
            schema_proof: schema.proof,
            inexact,
            notes,
        };
        let lines: Vec<_> = shown.inexact.iter().map(|it| not_exact::line(true, it)).collect();
        not_exact::say(at, &lines, None);
        if !at.ui.is_json() {
            for note in &shown.notes {
                at.ui.say(&format!("note: {note}"));
            }
        }
        at.ui.result(&shown, || ui::script(&shown.sql))
    }
}
