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
use crate::history::outlook::{Due, Needs, RecoveryPace, Room, next_checkpoint_bytes};
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
    /// Do nothing unless --time-to-recover is in danger, by what the last verification by recovery has measured
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
        let conditions = self.conditions(newest);
        if let Some(newest) = newest.filter(|_| conditions.is_decided_by_age()) {
            return show(at, history.read_checkpoint(&newest.id)?, true, None);
        }
        let (made, why) = if self.from_source {
            self.read_from_source(at, &history, &catalog, conditions).await?
        } else {
            let (label, progress) = (self.label.clone(), at.ui.progress());
            let folded = ambient::blocking("folding the history", move || {
                let mut why = None;
                let mut is_wanted = |reading: &Reading, base: &Manifest| {
                    let judgement = conditions.judge(reading, Some(base))?;
                    why = judgement.why;
                    Ok(judgement.is_wanted)
                };
                let label = label.as_deref();
                let made = forward::fold_newest(&history, &catalog, label, &mut is_wanted, &*progress)?;
                Ok((made, why))
            });
            folded.await?
        };
        let existing = before.iter().any(|row| row.id == made.id);
        show(at, made, existing, why)
    }

    async fn read_from_source(
        &self,
        at: &Surroundings,
        history: &History,
        catalog: &Arc<Catalog>,
        conditions: Conditions,
    ) -> Result<(Manifest, Option<String>)> {
        let (history_, catalog_) = (history.clone(), Arc::clone(catalog));
        let looking = ambient::blocking("looking at the history", move || {
            let reading = Reading::by_catalog(&history_, &catalog_)?;
            let newest = reading.timeline().current()?.checkpoints.last();
            let newest = newest.map(|row| history_.read_checkpoint(&row.id)).transpose()?;
            Ok((conditions.judge(&reading, newest.as_ref())?, newest))
        });
        let (judgement, newest) = looking.await?;
        if let Some(newest) = newest.filter(|_| !judgement.is_wanted) {
            return Ok((newest, judgement.why));
        }
        let (source, tools, progress) = (self.source.of(history)?, at.tools()?, at.ui.progress());
        let access = Access { source: &source, tools: &tools, jobs: self.jobs, progress: &*progress };
        let made = checkpoint::from_source(&access, history, catalog, self.label.as_deref()).await?;
        Ok((made, judgement.why))
    }

    fn conditions(&self, newest: Option<&CheckpointRow>) -> Conditions {
        let age = |row: &CheckpointRow| PgTime::from_utc(ambient::now()).seconds_since(row.time);
        Conditions {
            is_old: self.if_older_than.zip(newest).map(|(limit, newest)| age(newest) >= limit.as_secs_f64()),
            time_to_recover: self.recovery_time.time_to_recover.filter(|_| self.if_needed),
            quota: self.quota.quota,
            despite_room: self.despite_room,
        }
    }
}

/// The conditions under which a checkpoint is made.
struct Conditions {
    /// With --if-older-than, whether the newest checkpoint is.
    is_old: Option<bool>,
    /// The time that a recovery may take, with --if-needed.
    time_to_recover: Option<Duration>,
    quota: Option<u64>,
    despite_room: bool,
}

struct Judgement {
    is_wanted: bool,
    /// With --if-needed, why it is wanted, or is not.
    why: Option<String>,
}

impl Conditions {
    /// Whether the age of the newest checkpoint alone decides that none is made: then the history need not be read.
    fn is_decided_by_age(&self) -> bool {
        self.is_old == Some(false) && self.time_to_recover.is_none()
    }

    /// Without conditions a checkpoint is wanted; of several conditions one suffices. `newest` is the newest one of the epoch
    /// that is written.
    ///
    /// # Errors
    /// `Refused` if one is wanted, and may not fit.
    fn judge(&self, reading: &Reading, newest: Option<&Manifest>) -> Result<Judgement> {
        let due = match self.time_to_recover {
            Some(wanted) => {
                Some(Needs::due(wanted, reading.timeline(), &RecoveryPace::of(reading.history())?))
            }
            None => None,
        };
        let (is_due, why) = match due {
            Some(Due::Yes(why)) => (Some(true), Some(why)),
            Some(Due::No(why)) => (Some(false), Some(why)),
            None => (None, None),
        };
        let answers = [self.is_old, is_due];
        let is_wanted = answers.contains(&Some(true)) || answers == [None, None];
        if let Some(newest) = newest.filter(|_| is_wanted && !self.despite_room) {
            refuse_without_room(reading, newest, self.quota)?;
        }
        Ok(Judgement { is_wanted, why })
    }
}

/// # Errors
/// `Refused` if the next checkpoint would not fit, by a rather high estimate.
fn refuse_without_room(reading: &Reading, newest: &Manifest, quota: Option<u64>) -> Result<()> {
    let (history, timeline) = (reading.history(), reading.timeline());
    let needed = next_checkpoint_bytes(newest, timeline.current()?);
    let room = Room::of(history, timeline.journal_bytes() + reading.catalog().pack_bytes()?, quota);
    match room.left() {
        Some(left) if left < needed => Err(Error::refused(format!(
            "a checkpoint may need up to {}, and there is room for {}: let old parts go with `backwhen expire --apply`, \
             give {} more room, or make it all the same with --despite-room",
            ui::bytes(needed),
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
