//! Retention: removes the objects that no rule keeps.
//!
//! An expiry keeps every object that the moments from one checkpoint on need: that checkpoint, every later one, the
//! journal behind it, and the objects that these name. The other objects are removed, in an order in which a kill at
//! any instant leaves a history that opens: first comes the record that they may be missing, then manifests are
//! removed, then segments, then the objects that only those manifests and segments named.

mod references;
mod remove;
mod rules;
mod sweep;

use serde::Serialize;

use super::catalog::{Catalog, CheckpointRow};
use super::expiry::Expiry;
use super::timeline::{Stretch, Timeline};
use super::{FORMAT, History};
use crate::ambient;
use crate::error::{Error, Result};
use crate::model::{Edge, Lsn, PgTime};
pub use references::References;
pub use remove::{expire, preview};
pub use rules::RetentionRules;
use sweep::ExpiryObjects;
pub use sweep::{ObjectTally, needed_by_the_rest};

/// The objects that an expiry removes, and the objects that it keeps.
#[derive(Clone, Debug, Serialize)]
pub struct ExpiryPlan {
    pub rules: Vec<String>,
    /// The oldest moment that can be recovered now.
    pub earliest: Edge,
    /// The oldest moment that can be recovered once this plan has been carried out.
    #[serde(rename = "earliest_then")]
    pub earliest_after: Edge,
    pub checkpoints: Vec<CheckpointFate>,
    pub objects: Vec<ObjectTally>,
    /// The size of the objects that are removed.
    pub bytes_freed: u64,
    #[serde(skip)]
    objects_to_go: ExpiryObjects,
    #[serde(skip)]
    record: Expiry,
}

/// Whether an expiry keeps a checkpoint.
#[derive(Clone, Debug, Serialize)]
pub struct CheckpointFate {
    pub id: String,
    pub lsn: Lsn,
    pub time: PgTime,
    pub label: Option<String>,
    pub stays: bool,
}

impl ExpiryPlan {
    pub fn is_empty(&self) -> bool {
        self.objects_to_go.is_empty()
    }
}

/// Plans which objects an expiry by these rules removes, and changes nothing.
///
/// # Errors
/// `Usage` if there is no rule; `Refused` if there is no checkpoint; `Damaged` if an object that the plan depends on is
/// damaged: nothing is removed from a damaged history.
pub fn plan(history: &History, catalog: &Catalog, rules: &RetentionRules) -> Result<ExpiryPlan> {
    rules.check()?;
    if let Some(unusable) = catalog.unusable().first() {
        return Err(Error::damaged(format!(
            "{}; nothing is expired from a damaged history, as what is old may be needed to mend it: see what is \
             wrong with `backwhen verify`, heal it with `backwhen repair`",
            unusable.why
        )));
    }
    let timeline = Timeline::read(history, catalog)?;
    let rows: Vec<_> = timeline.checkpoints().cloned().collect();
    let window =
        timeline.window().ok_or_else(|| Error::refused("there is no checkpoint, so nothing is old"))?;
    let mut oldest = rules.oldest(&rows, window.latest.time);
    // Checkpoints at one position are kept or removed together, as a record names positions.
    while oldest > 0 && position(&rows[oldest - 1]) == position(&rows[oldest]) {
        oldest -= 1;
    }
    let base = &rows[oldest];
    let record = record(history, &timeline, rules, base)?;
    let objects = ExpiryObjects::sort(history, &timeline, &rows[oldest..], &record)?;
    let fate = |(number, row): (usize, &CheckpointRow)| CheckpointFate {
        id: row.id.clone(),
        lsn: row.lsn,
        time: row.time,
        label: row.label.clone(),
        stays: number >= oldest,
    };
    Ok(ExpiryPlan {
        rules: rules.describe(),
        earliest: window.earliest,
        earliest_after: Edge { lsn: base.lsn, time: base.time },
        checkpoints: rows.iter().enumerate().map(fate).collect(),
        bytes_freed: objects.bytes(),
        objects: objects.tallies(),
        record: Expiry { packs: objects.packs(), schemas: objects.schemas(), ..record },
        objects_to_go: objects,
    })
}

fn position(row: &CheckpointRow) -> (u32, Lsn) {
    (row.epoch, row.lsn)
}

fn record(
    history: &History,
    timeline: &Timeline,
    rules: &RetentionRules,
    base: &CheckpointRow,
) -> Result<Expiry> {
    let stretch = timeline.stretches.iter().find(|stretch| stretch.epoch.number == base.epoch);
    let stretch = stretch.ok_or_else(|| Error::internal("a checkpoint's epoch is missing"))?;
    let is_current = timeline.current()?.epoch.number == base.epoch;
    Ok(Expiry {
        format: FORMAT,
        at: PgTime::from_utc(ambient::now()),
        backwhen: env!("CARGO_PKG_VERSION").to_owned(),
        rules: rules.describe(),
        checkpoint: base.id.clone(),
        epoch: base.epoch,
        lsn: base.lsn,
        time: base.time,
        journal_from: journal_from(history, stretch, base.lsn, is_current),
        packs: Vec::new(),
        schemas: Vec::new(),
    })
}

/// Returns where the first segment begins that is kept, which is the first one that reaches beyond the checkpoint. In the
/// epoch that is written, the last transaction is kept too, as the stream must join on to it, and so is every segment
/// that is not sealed yet.
fn journal_from(history: &History, stretch: &Stretch, base: Lsn, is_current: bool) -> Lsn {
    let holds_last = |segments: &[super::timeline::SegmentView]| {
        let with_changes = segments.iter().rposition(|segment| segment.summary.last_commit.is_some());
        with_changes.unwrap_or(0).min(segments.len().saturating_sub(1))
    };
    let segments = &stretch.segments;
    let beyond = segments.iter().position(|segment| {
        let is_open = || history.journal().holds(segment.name.form(false)).unwrap_or(true);
        segment.summary.end > base || !segment.name.sealed || is_open()
    });
    let first = beyond.unwrap_or(segments.len());
    let first = if is_current { first.min(holds_last(segments)) } else { first };
    segments.get(first).map_or_else(|| stretch.frontier(), |segment| segment.summary.start)
}
