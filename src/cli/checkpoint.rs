//! `backwhen checkpoint`

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::mark::refuse_unprintable;
use super::retention::{QuotaOption, RecoveryTimeOption};
use super::{SourceOption, Surroundings, default_jobs, parse_duration, ui};
use crate::ambient;
use crate::error::{Error, Result};
use crate::history::History;
use crate::history::catalog::{Catalog, CheckpointRow};
use crate::history::checkpoint::{Checkpoint as Manifest, Origin};
use crate::history::outlook::{CheckpointSize, Due, Needs, RecoveryPace, Room};
use crate::model::{Lsn, PgTime};
use crate::past::Reading;
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
    /// Do nothing unless --time-to-recover is in danger, by what `verify --restore` has measured
    #[arg(long, requires = "time_to_recover")]
    if_needed: bool,
    #[command(flatten)]
    recovery_time: RecoveryTimeOption,
    #[command(flatten)]
    quota: QuotaOption,
    /// Make the checkpoint also where there seems to be too little room
    #[arg(long)]
    despite_room: bool,
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
    /// With --if-needed, why one was or was not.
    why: Option<String>,
}

impl Checkpoint {
    pub async fn run(self, at: &Surroundings) -> Result<()> {
        if let Some(label) = &self.label {
            refuse_unprintable("a label", label)?;
        }
        let history = at.history_to_write("checkpoint")?;
        let catalog = at.catalog(&history)?;
        let before: Vec<_> = catalog.checkpoints()?;
        let newest = before.iter().max_by_key(|row| row.time);
        let why = match self.is_wanted(&history, &catalog, newest).await? {
            Wanted::Yes(why) => why,
            Wanted::No(newest, why) => return show(at, history.read_checkpoint(&newest)?, true, why),
        };
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
        show(at, made, existing, why)
    }

    /// Decides whether a checkpoint is made: always, unless an option says when not. Either option suffices.
    async fn is_wanted(
        &self,
        history: &History,
        catalog: &Arc<Catalog>,
        newest: Option<&CheckpointRow>,
    ) -> Result<Wanted> {
        let is_old = self.if_older_than.zip(newest).map(|(limit, newest)| {
            PgTime::from_utc(ambient::now()).seconds_since(newest.time) >= limit.as_secs_f64()
        });
        let (history, catalog) = (history.clone(), Arc::clone(catalog));
        let (quota, wanted) =
            (self.quota.quota, self.recovery_time.time_to_recover.filter(|_| self.if_needed));
        let despite_room = self.despite_room;
        let newest = newest.map(|row| row.id.clone());
        let work = ambient::blocking("looking at the history", move || {
            let reading = Reading::by_catalog(&history, &catalog)?;
            let pace = wanted.map(|_| RecoveryPace::of(&history)).transpose()?;
            let due = wanted.zip(pace).map(|(wanted, pace)| Needs::due(wanted, reading.timeline(), &pace));
            let (is_due, why) = match due {
                Some(Due::Yes(why)) => (Some(true), Some(why)),
                Some(Due::No(why)) => (Some(false), Some(why)),
                None => (None, None),
            };
            let answers: Vec<_> = is_old.into_iter().chain(is_due).collect();
            if let Some(newest) = newest.filter(|_| !answers.is_empty() && !answers.contains(&true)) {
                return Ok(Wanted::No(newest, why));
            }
            if !despite_room {
                refuse_without_room(&reading, quota)?;
            }
            Ok(Wanted::Yes(why))
        });
        work.await
    }
}

enum Wanted {
    Yes(Option<String>),
    /// The newest checkpoint suffices.
    No(String, Option<String>),
}

/// # Errors
/// `Refused` if the checkpoint would not fit, by a rather high estimate.
fn refuse_without_room(reading: &Reading, quota: Option<u64>) -> Result<()> {
    let (history, timeline) = (reading.history(), reading.timeline());
    let Some(needed) = CheckpointSize::next(history, timeline.current()?)? else { return Ok(()) };
    let room = Room::of(history, timeline, reading.catalog(), quota)?;
    match room.left() {
        Some(left) if left < needed.bytes => Err(Error::refused(format!(
            "a checkpoint may need up to {}, and there is room for {}: let old parts go with `backwhen expire --apply`, \
             give {} more room, or make it all the same with --despite-room",
            ui::bytes(needed.bytes),
            ui::bytes(left),
            history.place()
        ))),
        _ => Ok(()),
    }
}

fn show(at: &Surroundings, made: Manifest, existing: bool, why: Option<String>) -> Result<()> {
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
    let shown = CheckpointOutcome { checkpoint, existing, why };
    at.ui.result(&shown, || {
        let it = &shown.checkpoint;
        let how = match (existing, it.origin) {
            (true, _) if shown.why.is_some() => "it is the newest already, and no other is needed",
            (true, _) => "nothing new: it is the newest already",
            (false, Origin::Fold) => "folded from the history",
            (false, Origin::Source) => "read from the source",
        };
        let why = shown.why.as_ref().map_or_else(String::new, |why| format!("\n  why    {why}"));
        format!(
            "checkpoint {}  {how}\n  at     {}  {}\n  rows   {}\n  stored {} new of {}{why}",
            it.id,
            it.lsn,
            ui::both_times(it.time),
            it.rows,
            ui::bytes(it.bytes_new),
            ui::bytes(it.bytes_total)
        )
    })
}
