//! `backwhen init`

use clap::Args;
use serde::Serialize;

use super::{Surroundings, check, default_jobs, named_source, ui};
use crate::error::Result;
use crate::model::{Lsn, PgTime, Selection};
use crate::protect::{Access, begin};
use crate::source::preflight;

/// Begin a new history: publications, event triggers and slot on the source, and the first checkpoint
#[derive(Args, Clone)]
pub struct Init {
    /// The database to protect: a libpq connection string or URI. Others can see arguments:
    /// keep the password in ~/.pgpass
    #[arg(long, env = "BACKWHEN_SOURCE", value_name = "CONN", hide_env_values = true)]
    source: Option<String>,
    /// Protect only tables that match (schema.table, with * and ?); may be given again
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,
    /// Leave out tables that match; may be given again
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Tables, or parts of large ones, that are read at the same time
    #[arg(long, env = "BACKWHEN_JOBS", value_name = "N", default_value_t = default_jobs())]
    jobs: usize,
    /// Install no event triggers: a change of the schema is then known only within two heartbeats
    #[arg(long, env = "BACKWHEN_NO_EVENT_TRIGGERS")]
    no_event_triggers: bool,
}

#[derive(Serialize)]
struct InitReport {
    history: String,
    checkpoint: String,
    lsn: Lsn,
    time: PgTime,
    slot: String,
    tables: usize,
    rows: u64,
    bytes: u64,
    event_triggers: bool,
    left_out: Vec<crate::model::LeftOut>,
}

impl Init {
    pub async fn run(self, at: &Surroundings) -> Result<()> {
        let folder = at.history_folder()?;
        let source = named_source(self.source.as_deref())?;
        let tools = at.tools()?;
        let selection = Selection::parse(&self.include, &self.exclude)?;
        check::refuse_what_cannot_start(&source, &tools, &selection).await?;
        if let Some(finding) = preflight::unproven_server(&source) {
            at.ui.say(&format!("advice: {}; to mend: {}", finding.what, finding.mend));
        }
        let progress = at.ui.progress();
        let access = Access { source: &source, tools: &tools, jobs: self.jobs, progress: &*progress };
        let begun = begin::init(
            &access,
            &folder,
            self.include,
            self.exclude,
            !self.no_event_triggers,
            at.key_file.as_deref(),
            &at.heed_signals(),
        )
        .await?;
        std::mem::drop(progress);
        let begin::Begun { history, checkpoint, without_triggers } = begun;
        if let Some(reason) = without_triggers {
            at.ui.say(&format!(
                "no event triggers: {reason}; capture then notices a change of the schema with its next heartbeat, and \
                 what is recovered in between is graded \"schema known within [a, b]\". To have every moment exact, \
                 begin the history as a role that may make them"
            ));
        }
        if let Some(file) = &at.key_file {
            at.ui.say(&format!(
                "the history's key is in {}: keep a copy of it, away from the history; without it nothing can be \
                 written to the history any more, and nothing shows who wrote it",
                file.display()
            ));
        }
        let begun = InitReport {
            history: history.root().display().to_string(),
            lsn: checkpoint.lsn,
            time: checkpoint.time,
            slot: history.identity().slot(),
            event_triggers: history.identity().has_event_triggers(),
            tables: checkpoint.tables.len(),
            rows: checkpoint.rows(),
            bytes: checkpoint.bytes_new,
            left_out: checkpoint.schema.left_out.clone(),
            checkpoint: checkpoint.id,
        };
        for left_out in &begun.left_out {
            at.ui.say(&format!("not protected: {} ({})", left_out.table, left_out.reason));
        }
        if begun.tables == 0 && !begun.left_out.is_empty() {
            at.ui.warn("no table is protected; see whether --include and --exclude say what you mean");
        }
        for entry in checkpoint.tables.iter().filter(|entry| entry.table.is_insert_only()) {
            let (name, quoted) = (entry.table.display(), entry.table.quoted());
            at.ui.say(&format!(
                "inserts only: {name} has no replica identity; to protect it whole: ALTER TABLE {quoted} REPLICA IDENTITY FULL;"
            ));
        }
        at.ui.result(&begun, || {
            format!(
                "history      {}\ncheckpoint   {}\nwindow from  {}  {}\nslot         {}\ntables       {} with {} rows, {} stored\n\nNow run: backwhen capture --history {}",
                begun.history,
                begun.checkpoint,
                begun.lsn,
                ui::both_times(begun.time),
                begun.slot,
                begun.tables,
                begun.rows,
                ui::bytes(begun.bytes),
                begun.history
            )
        })
    }
}
