//! `backwhen show`

use clap::Args;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{ScratchOption, Surroundings, changes, not_exact, ui};
use crate::connect::set_local_statements;
use crate::error::{Error, Result};
use crate::history::definitions::SchemaKnown;
use crate::model::schema_digests::SchemaProof;
use crate::model::{Inexact, Selection};
use crate::past::{Commit, Reading};
use crate::recover::definitions::{ReplaySettings, schema_at};
use crate::recover::plan::{PlannedMoment, plan};
use crate::recover::schema::sql_of;
use crate::travel::show::ShownTransaction;
use crate::travel::statement;

/// Print what a transaction changed, or the schema at a moment
///
/// Old and new values stand side by side, and those that changed are marked. What the WAL does not carry of a row before a
/// change is taken from the history. A schema is printed as SQL in the form of pg_dump --schema-only.
#[derive(Args, Clone)]
#[command(after_help = "Examples: backwhen show xid:771 --table orders\n\
                        backwhen show xid:771 --sql --reverse    the statements that take the transaction back\n\
                        backwhen show schema --at '1 hour ago'")]
pub struct Show {
    /// A transaction (xid:N, or the LSN that log prints), or schema
    #[arg(value_name = "TRANSACTION|schema")]
    what: String,
    /// With schema, the moment: a time with zone, '10 minutes ago', an LSN, xid:N, mark:NAME, checkpoint:ID or latest
    #[arg(long, value_name = "MOMENT", allow_hyphen_values = true)]
    at: Option<String>,
    /// With schema, and xid: or mark:, show the instant just before it
    #[arg(long)]
    before: bool,
    /// Only changes of tables that match (schema.table, with * and ?; a partitioned table stands for its partitions); may be given more than once
    #[arg(long, value_name = "PATTERN", conflicts_with = "at")]
    table: Vec<String>,
    /// Print statements that do what the transaction did, with the net change of each row
    #[arg(long, conflicts_with = "at")]
    sql: bool,
    /// With --sql, print statements that take the transaction back
    #[arg(long, requires = "sql")]
    reverse: bool,
    #[command(flatten)]
    scratch: ScratchOption,
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
        if self.what == "schema" { self.schema(at).await } else { self.transaction(at) }
    }

    fn transaction(&self, at: &Surroundings) -> Result<()> {
        if self.at.is_some() || self.before {
            return Err(Error::usage("--at and --before go with: backwhen show schema"));
        }
        let history = at.history()?;
        let reading = Reading::open(&history)?;
        let moment = changes::moment(&self.what, "show")?;
        let found = ShownTransaction::find(&reading, &moment)?;
        let selection = Selection::parse(&self.table, &[])?;
        if self.sql {
            return at.ui.print(&ui::script(&self.script(&found, &selection)?));
        }
        if !at.ui.is_json() {
            let Commit { time, lsn, xid } = found.commit;
            at.ui.print(&format!("transaction {xid}  {}  {lsn}", ui::both_times(time)))?;
        }
        let shown = found.changes(&selection, &mut |change| {
            at.ui.item(&change.shown(), || {
                let operation = format!("{:?}", change.operation).to_uppercase();
                changes::describe(&operation, &change.what, change.before.as_ref(), change.after.as_ref())
            })
        });
        changes::say_inexact(at, &at.ui.heard(shown)?);
        if at.ui.is_json() {
            return Ok(());
        }
        at.ui.print(&format!("take it back with: backwhen show {} --sql --reverse", self.what))
    }

    fn script(&self, found: &ShownTransaction, selection: &Selection) -> Result<String> {
        let (net, definitions) = found.net(selection)?;
        let note =
            |what| format!("The transaction also changed the schema, which this script does not: {what}");
        let mut script = statement::Script::default();
        script.notes = definitions.into_iter().map(note).collect();
        for row in &net {
            let (mut from, mut to) = (row.before.as_ref(), row.after.as_ref());
            if self.reverse {
                std::mem::swap(&mut from, &mut to);
            }
            if let Some(table) = row.table() {
                script.add(row.place(), table, &statement::RowChange { from, to })?;
            }
        }
        Ok(script.text(self.reverse, &set_local_statements()))
    }

    async fn schema(self, at: &Surroundings) -> Result<()> {
        let history = at.history()?;
        let moment = self.at.as_deref().ok_or_else(|| {
            Error::usage(
                "show schema needs a moment; for the present one write: backwhen show schema --at latest",
            )
        })?;
        let moment = changes::moment(moment, "--at")?;
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
        not_exact::say_of(at, &shown.inexact);
        if !at.ui.is_json() {
            for note in &shown.notes {
                at.ui.say(&format!("note: {note}"));
            }
        }
        at.ui.result(&shown, || ui::script(&shown.sql))
    }
}
