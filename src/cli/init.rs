//! `backwhen init`

use clap::Args;
use serde::Serialize;

use super::secrecy::NewHistoryOptions;
use super::{SourceOption, Surroundings, check, default_jobs, named_source, ui};
use crate::error::Result;
use crate::history::History;
use crate::model::inexact::insert_only_note;
use crate::model::{LeftOut, Lsn, PgTime, Selection};
use crate::protect::{Access, begin, identity};
use crate::source::preflight;

/// Begin a new history: publications, event triggers and slot on the source, and the first checkpoint
#[derive(Args, Clone)]
pub struct Init {
    /// The database to protect: a libpq connection string or URI. Others can see arguments:
    /// keep the password in ~/.pgpass
    #[arg(long, env = "BACKWHEN_SOURCE", value_name = "CONN", hide_env_values = true)]
    source: Option<String>,
    /// Protect only tables that match (schema.table, with * and ?; a partitioned table stands for its partitions); may be given again
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
    /// Give tables without a usable key REPLICA IDENTITY FULL, new ones too, so that their updates and deletes are
    /// recorded; `drop` puts back what they had. A history that exists is not refused: this is switched on for it
    #[arg(long, env = "BACKWHEN_FULL_IDENTITY")]
    full_identity: bool,
    #[command(flatten)]
    encryption: NewHistoryOptions,
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
    encrypted: bool,
    /// The tables whose updates and deletes are not recorded.
    insert_only: usize,
    left_out: Vec<LeftOut>,
}

/// The report if the history existed before.
#[derive(Serialize)]
struct FullIdentityReport {
    history: String,
    slot: String,
    /// The tables whose replica identity was changed.
    changed: usize,
    /// The tables that could not be changed yet.
    refused: Vec<LeftOut>,
}

impl Init {
    pub async fn run(self, at: &Surroundings) -> Result<()> {
        let place = at.place_of_new_history(&self.encryption)?;
        if self.full_identity && History::is_at(place.local())? {
            return self.switch_on_full_identity(at).await;
        }
        let source = named_source(self.source.as_deref())?;
        let tools = at.tools()?;
        let selection = Selection::parse(&self.include, &self.exclude)?;
        check::refuse_what_cannot_start(&source, &tools, &selection).await?;
        if let Some(finding) = preflight::unproven_server(&source) {
            at.ui.say(&format!("advice: {}; to mend: {}", finding.what, finding.mend));
        }
        let local = place.new_folder()?;
        let progress = at.ui.progress();
        let access = Access { source: &source, tools: &tools, jobs: self.jobs, progress: &*progress };
        let begun = begin::init(
            &access,
            &local,
            begin::Wishes {
                include: self.include,
                exclude: self.exclude,
                event_triggers: !self.no_event_triggers,
                full_identity: self.full_identity,
            },
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
            encrypted: history.local().opened().is_some(),
            tables: checkpoint.tables.len(),
            insert_only: checkpoint.tables.iter().filter(|entry| entry.table.is_insert_only()).count(),
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
        if let Some(note) = insert_only_note(begun.insert_only) {
            at.ui.say(&note);
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

    /// Switches --full-identity on for the history that lies here.
    async fn switch_on_full_identity(self, at: &Surroundings) -> Result<()> {
        let history = at.history_to_write("init")?;
        let source = SourceOption { source: self.source }.of(&history)?;
        let identity::IdentityChanges { changed, refused } = identity::switch_on(&history, &source).await?;
        for LeftOut { table, reason } in &refused {
            at.ui.say(&format!("not yet: {table}: {reason}; capture tries again"));
        }
        let (slot, history) = (history.identity().slot(), history.root().display().to_string());
        let report = FullIdentityReport { history, slot, changed, refused };
        at.ui.result(&report, || {
            format!(
                "tables without a usable key have REPLICA IDENTITY FULL from now on, new ones too, until: backwhen drop\n\
                 changed now  {changed}"
            )
        })
    }
}
