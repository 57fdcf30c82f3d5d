//! Retention: removes the objects that no rule keeps.
//!
//! An expiry keeps every object that the moments from one checkpoint on need: that checkpoint, every later one, the
//! journal behind it, and the objects that these name. Of the checkpoints before, it keeps those that a rule of the
//! calendar or a pin names, as single moments without journal. The other objects are removed, in an order in which a kill at
//! any instant leaves a history that opens: first comes the record that they may be missing, then manifests are
//! removed, then segments, then the objects that only those manifests and segments named.

mod calendar;
mod references;
mod remove;
mod repack;
mod rules;
mod sweep;

use std::collections::BTreeMap;

use chrono::{Local, NaiveDateTime};
use serde::Serialize;

use super::catalog::{Catalog, CheckpointRow};
use super::checkpoint::Origin;
use super::expiry::Expiry;
use super::timeline::{Stretch, Timeline};
use super::{FORMAT, History, THINNED_FORMAT};
use crate::ambient;
use crate::error::{Error, Result};
use crate::model::{Edge, Lsn, PgTime};
pub use calendar::{CalendarRules, Period};
pub use references::References;
pub use remove::{expire, preview};
pub use repack::Repacking;
pub use rules::RetentionRules;
use sweep::ExpiryObjects;
pub use sweep::{ObjectTally, needed_by_the_rest};

/// The objects that an expiry removes, and the objects that it keeps.
#[derive(Clone, Debug, Serialize)]
pub struct ExpiryPlan {
    pub rules: Vec<String>,
    /// The offset from UTC of the local time by which the calendar counts, as it is now.
    pub zone: String,
    /// The oldest moment from which on every moment can be recovered now.
    pub earliest: Edge,
    /// The oldest moment from which on every moment can be recovered once this plan has been carried out.
    #[serde(rename = "earliest_then")]
    pub earliest_after: Edge,
    pub checkpoints: Vec<CheckpointFate>,
    pub objects: Vec<ObjectTally>,
    /// The packs that are packed anew, because little of them is needed. The old packs are among the objects that are removed.
    pub repacked: Repacking,
    /// The size of the objects that are removed, less the size of the new packs.
    pub bytes_freed: u64,
    #[serde(skip)]
    objects_to_go: ExpiryObjects,
    #[serde(skip)]
    record: Expiry,
}

/// The decision of an expiry about a checkpoint.
#[derive(Clone, Debug, Serialize)]
pub struct CheckpointFate {
    pub id: String,
    pub lsn: Lsn,
    pub time: PgTime,
    pub label: Option<String>,
    pub stays: bool,
    pub fate: Fate,
    /// The reasons for which the checkpoint stays: rules, as options without `--keep-`, and others.
    pub rules: Vec<&'static str>,
    /// The reason for which the checkpoint was pinned.
    pub pinned: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// The checkpoint stays, with the journal after it.
    Every,
    /// The checkpoint stays as a single moment.
    Single,
    Goes,
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
    let window =
        timeline.window().ok_or_else(|| Error::refused("there is no checkpoint, so nothing is old"))?;
    let (fates, base) = fates(history, &timeline, rules, window.latest.time)?;
    let kept: Vec<_> =
        fates.iter().filter(|(_, fate)| fate.stays).map(|(row, _)| CheckpointRow::clone(row)).collect();
    let singles = fates.iter().filter(|(_, fate)| fate.fate == Fate::Single);
    let singles = singles.map(|(row, _)| row.id.clone()).collect();
    let record = record(history, &timeline, rules, base, singles)?;
    let (objects, repacked) = ExpiryObjects::sort(history, &timeline, &kept, &record)?;
    Ok(ExpiryPlan {
        rules: rules.describe(),
        zone: ambient::now().with_timezone(&Local).format("%:z").to_string(),
        earliest: window.earliest,
        earliest_after: Edge { lsn: base.lsn, time: base.time },
        checkpoints: fates.into_iter().map(|(_, fate)| fate).collect(),
        bytes_freed: objects.bytes().saturating_sub(repacked.bytes_written),
        repacked,
        objects: objects.tallies(),
        record: Expiry { packs: objects.packs(), schemas: objects.schemas(), ..record },
        objects_to_go: objects,
    })
}

/// Decides about each checkpoint, in the order of their positions, and returns the oldest one that keeps its journal.
fn fates<'a>(
    history: &History,
    timeline: &'a Timeline,
    rules: &RetentionRules,
    newest: PgTime,
) -> Result<(Vec<(&'a CheckpointRow, CheckpointFate)>, &'a CheckpointRow)> {
    let mut rows: Vec<_> = timeline.checkpoints().collect();
    rows.sort_by_key(|row| position(row));
    let owned: Vec<_> = rows.iter().copied().cloned().collect();
    // The source's clock may have run ahead, and no window may be counted back from the future.
    let newest = newest.min(PgTime::from_utc(ambient::now()));
    let base = base(timeline, &owned, rules.oldest(&owned, newest))?;
    let pins: BTreeMap<_, _> = history.pins()?.into_iter().map(|pin| (pin.checkpoint, pin.reason)).collect();
    let mut reasons = rules.reasons(&owned, newest, &local_time);
    for (row, reasons) in rows.iter().zip(&mut reasons) {
        reasons.extend(pins.contains_key(&row.id).then_some("pinned"));
    }
    keep_witnesses(history, &owned[..base], &mut reasons)?;
    let fate = |(number, row): (usize, &CheckpointRow)| {
        let mut rules = std::mem::take(&mut reasons[number]);
        if number >= base && rules.is_empty() {
            rules.push("journal");
        }
        let fate = match (number >= base, rules.is_empty()) {
            (true, _) => Fate::Every,
            (false, false) => Fate::Single,
            (false, true) => Fate::Goes,
        };
        let pinned = pins.get(&row.id).cloned();
        let (id, lsn, time, label) = (row.id.clone(), row.lsn, row.time, row.label.clone());
        CheckpointFate { id, lsn, time, label, stays: fate != Fate::Goes, fate, rules, pinned }
    };
    let fates: Vec<_> = rows.iter().copied().enumerate().map(fate).collect();
    Ok((rows.iter().copied().zip(fates).collect(), rows[base]))
}

/// Returns the index of the oldest checkpoint that keeps the journal after it: the first one from `oldest` on that still has
/// it.
fn base(timeline: &Timeline, rows: &[CheckpointRow], oldest: usize) -> Result<usize> {
    let has_journal = |at: &usize| !timeline.is_single(&rows[*at]);
    let later = (oldest..rows.len()).find(has_journal);
    let base = later.or_else(|| (0..rows.len()).rev().find(has_journal));
    let mut base = base.ok_or_else(|| Error::refused("no checkpoint has a journal after it yet"))?;
    // Checkpoints at one position are kept or removed together, as a record names positions.
    while base > 0 && position(&rows[base - 1]) == position(&rows[base]) {
        base -= 1;
    }
    Ok(base)
}

/// Keeps the checkpoints that tell of rows which earlier checkpoints lack: without them, a recovery of such a checkpoint
/// would not say that it is not exact.
fn keep_witnesses(
    history: &History,
    rows: &[CheckpointRow],
    reasons: &mut [Vec<&'static str>],
) -> Result<()> {
    let mut kept_epoch = None;
    for (row, reasons) in rows.iter().zip(reasons) {
        if reasons.is_empty() && row.origin == Origin::Source && kept_epoch == Some(row.epoch) {
            let resync = history.read_checkpoint(&row.id)?.resync;
            if resync.is_some_and(|resync| resync.differing().next().is_some()) {
                reasons.push("witness");
            }
        }
        if !reasons.is_empty() {
            kept_epoch = Some(row.epoch);
        }
    }
    Ok(())
}

/// The local time of this machine, by which the calendar counts.
fn local_time(time: PgTime) -> NaiveDateTime {
    time.to_utc().with_timezone(&Local).naive_local()
}

fn position(row: &CheckpointRow) -> (u32, Lsn) {
    (row.epoch, row.lsn)
}

fn record(
    history: &History,
    timeline: &Timeline,
    rules: &RetentionRules,
    base: &CheckpointRow,
    singles: Vec<String>,
) -> Result<Expiry> {
    let stretch = timeline.stretches.iter().find(|stretch| stretch.epoch.number == base.epoch);
    let stretch = stretch.ok_or_else(|| Error::internal("a checkpoint's epoch is missing"))?;
    let is_current = timeline.current()?.epoch.number == base.epoch;
    Ok(Expiry {
        format: if singles.is_empty() { FORMAT } else { THINNED_FORMAT },
        at: PgTime::from_utc(ambient::now()),
        backwhen: env!("CARGO_PKG_VERSION").to_owned(),
        rules: rules.describe(),
        checkpoint: base.id.clone(),
        epoch: base.epoch,
        lsn: base.lsn,
        time: base.time,
        journal_from: journal_from(history, stretch, base.lsn, is_current),
        singles,
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
