//! `backwhen checkpoint`

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::mark::refuse_unprintable;
use super::{SourceOption, Surroundings, default_jobs, parse_duration, ui};
use crate::ambient;
use crate::error::Result;
use crate::history::checkpoint::{Checkpoint as Manifest, Origin};
use crate::model::{Lsn, PgTime};
use crate::protect::{Access, checkpoint, forward};

/// Record a checkpoint, folded from the history without asking the source
#[derive(Args, Clone)]
pub struct Checkpoint {
    /// A label for the checkpoint, of at most 1024 bytes
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    /// Read the checkpoint from the source instead, at an exact position
    #[arg(long)]
    from_source: bool,
    /// Do nothing if the newest checkpoint is younger than this
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    if_older_than: Option<Duration>,
    /// How many sessions read from the source at the same time
    #[arg(long, env = "BACKWHEN_JOBS", value_name = "N", default_value_t = default_jobs())]
    jobs: usize,
    #[command(flatten)]
    source: SourceOption,
}

/// A checkpoint in the form of the JSON output.
#[derive(Serialize)]
pub struct CheckpointReport {
    pub id: String,
    pub lsn: Lsn,
    pub time: PgTime,
    pub label: Option<String>,
    pub origin: Origin,
    pub rows: u64,
    pub bytes_new: u64,
    pub bytes_total: u64,
}

#[derive(Serialize)]
struct CheckpointOutcome {
    #[serde(flatten)]
    checkpoint: CheckpointReport,
    /// Whether no checkpoint was recorded, because the newest one is young enough, or contains everything.
    existing: bool,
}

impl Checkpoint {
    pub async fn run(self, at: &Surroundings) -> Result<()> {
        if let Some(label) = &self.label {
            refuse_unprintable("a label", label)?;
        }
        let history = at.history_to_write("checkpoint")?;
        let catalog = at.catalog(&history)?;
        let before: Vec<_> = catalog.checkpoints()?;
        if let (Some(limit), Some(newest)) = (self.if_older_than, before.iter().max_by_key(|row| row.time)) {
            let age = PgTime::from_utc(ambient::now()).seconds_since(newest.time);
            if age < limit.as_secs_f64() {
                let newest = history.read_checkpoint(&newest.id)?;
                return show(at, newest, true);
            }
        }
        let progress = at.ui.progress();
        let made = if self.from_source {
            let source = self.source.of(&history)?;
            let tools = at.tools()?;
            let access = Access { source: &source, tools: &tools, jobs: self.jobs, progress: &*progress };
            checkpoint::from_source(&access, &history, &catalog, self.label.as_deref()).await?
        } else {
            let label = self.label.clone();
            let folded = ambient::blocking("folding the history", move || {
                forward::fold_newest(&history, &catalog, label.as_deref(), &*progress)
            });
            folded.await?
        };
        let existing = before.iter().any(|row| row.id == made.id);
        show(at, made, existing)
    }
}

fn show(at: &Surroundings, made: Manifest, existing: bool) -> Result<()> {
    let rows = made.rows();
    let checkpoint = CheckpointReport {
        id: made.id,
        lsn: made.lsn,
        time: made.time,
        label: made.label,
        origin: made.origin,
        rows,
        bytes_new: made.bytes_new,
        bytes_total: made.bytes_total,
    };
    let shown = CheckpointOutcome { checkpoint, existing };
    at.ui.result(&shown, || {
        let it = &shown.checkpoint;
        let how = match (existing, it.origin) {
            (true, _) => "nothing new: it is the newest already",
            (false, Origin::Fold) => "folded from the history",
            (false, Origin::Source) => "read from the source",
        };
        format!(
            "checkpoint {}  {how}\n  at     {}  {}\n  rows   {}\n  stored {} new of {}",
            it.id,
            it.lsn,
            ui::both_times(it.time),
            it.rows,
            ui::bytes(it.bytes_new),
            ui::bytes(it.bytes_total)
        )
    })
}
