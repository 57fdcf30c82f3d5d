//! Turns a moment, as a person names it, into an exact position in the history.

use serde::Serialize;

use crate::error::{Error, Result};
use crate::history::catalog::CheckpointRow;
use crate::history::journal::TransactionEntry;
use crate::history::timeline::{Gap, SegmentView, Stretch, Timeline, Window};
use crate::model::{Edge, Lsn, Moment, PgTime};

/// The exact set of transactions that a moment includes: the transactions that committed before `until`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedMoment {
    pub epoch: u32,
    /// Exclusive: the commit position of the first transaction that is not included.
    pub until: Lsn,
    /// The last transaction that is included, if the journal holds it.
    pub last: Option<Commit>,
    /// The first transaction that is not included, if the journal holds it.
    pub next: Option<Commit>,
    /// Remarks about the moment for the person who asked.
    pub notes: Vec<String>,
}

/// A transaction, as it is shown to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Commit {
    /// The position just after the commit: as a moment, it makes this transaction the last one included.
    pub lsn: Lsn,
    pub time: PgTime,
    /// With its epoch, as `pg_current_xact_id()` shows it, unless the history holds no heartbeat to tell the epoch.
    pub xid: u64,
}

impl Commit {
    /// A transaction that a segment lists.
    pub fn of(stretch: &Stretch, entry: &TransactionEntry) -> Commit {
        let number = stretch.transaction_number(entry.commit_lsn, entry.xid);
        Commit { lsn: entry.end_lsn, time: entry.time, xid: number.unwrap_or(entry.xid.into()) }
    }
}

/// Resolves the moment; with `before`, the instant just before the transaction or mark.
///
/// # Errors
/// `OutsideWindow` if the history does not hold the moment, `Usage` if `before` does not fit it.
pub fn resolve(timeline: &Timeline, moment: &Moment, before: bool) -> Result<ResolvedMoment> {
    if before && !matches!(moment, Moment::Xid(_) | Moment::Mark(_)) {
        return Err(Error::usage("--before goes with --to xid:N or --to mark:NAME"));
    }
    if let Some(row) = single(timeline, moment)? {
        return at_single(timeline, row, moment);
    }
    let (stretch, until) = match moment {
        Moment::Latest => {
            let stretch = timeline.stretches.iter().rev().find(|stretch| !stretch.checkpoints.is_empty());
            let stretch = stretch.ok_or_else(|| outside(timeline, "nothing is held yet"))?;
            let first = stretch.checkpoints[0].lsn;
            (stretch, stretch.frontier().max(first))
        }
        Moment::Lsn(lsn) => (by_lsn(timeline, *lsn)?, *lsn),
        Moment::Time(time) => by_time(timeline, *time)?,
        Moment::Xid(xid) => by_xid(timeline, *xid, before)?,
        Moment::Mark(name) => by_mark(timeline, name, before)?,
        Moment::Checkpoint(id) => by_checkpoint(timeline, id)?,
    };
    let first = stretch.checkpoints.first().map_or(Lsn::MAX, |checkpoint| checkpoint.lsn);
    if until < first {
        return Err(outside(timeline, "that is before the first checkpoint of its epoch"));
    }
    let mut resolved = around(stretch, until)?;
    if let Moment::Time(time) = moment {
        resolved.notes.extend(clock_note(stretch, until, *time)?);
    }
    Ok(resolved)
}

/// Returns the single checkpoint whose moment is meant, if it is one.
fn single<'a>(timeline: &'a Timeline, moment: &Moment) -> Result<Option<&'a CheckpointRow>> {
    // Positions and times within the window mean the window.
    let is_held = |inside: &dyn Fn(&Window) -> bool| {
        timeline.stretches.iter().filter_map(Stretch::window).any(|window| inside(&window))
    };
    let mut newest_first = timeline.singles.iter().rev();
    Ok(match moment {
        Moment::Lsn(lsn) if !is_held(&|it| it.earliest.lsn <= *lsn && *lsn <= it.latest.lsn) => {
            newest_first.find(|row| row.lsn == *lsn)
        }
        Moment::Time(time) if !is_held(&|it| it.earliest.time <= *time && *time <= it.latest.time) => {
            newest_first.find(|row| row.time == *time)
        }
        Moment::Checkpoint(id) => Some(checkpoint_named(timeline, id)?).filter(|row| timeline.is_single(row)),
        _ => None,
    })
}

fn at_single(timeline: &Timeline, row: &CheckpointRow, moment: &Moment) -> Result<ResolvedMoment> {
    let single = timeline.single(row.epoch, row.lsn);
    let single = single.ok_or_else(|| Error::internal("a single checkpoint is not in its timeline"))?;
    let mut resolved = around(&single, row.lsn)?;
    if matches!(moment, Moment::Time(_)) {
        resolved.notes.push(format!(
            "the journal after checkpoint {} was expired: a transaction that committed after it within the same \
             microsecond is not in",
            row.id
        ));
    }
    Ok(resolved)
}

fn outside(timeline: &Timeline, why: &str) -> Error {
    Error::outside_window(format!("{why}; {}", timeline.describe_window()))
}

fn by_lsn(timeline: &Timeline, lsn: Lsn) -> Result<&Stretch> {
    // A source restored from a backup writes the same positions again; the newest epoch is meant.
    let holds = |stretch: &&Stretch| {
        stretch.window().is_some_and(|window| window.earliest.lsn <= lsn && lsn <= window.latest.lsn)
    };
    if let Some(stretch) = timeline.stretches.iter().rev().find(holds) {
        return Ok(stretch);
    }
    let is_between =
        |before: Edge, after: Option<Edge>| before.lsn < lsn && after.is_none_or(|after| lsn < after.lsn);
    if let Some(thinned) = timeline.thinned(is_between) {
        return Err(thinned.refuse(lsn));
    }
    Err(match gap_of(timeline, |before, after| before.lsn < lsn && after.lsn > lsn) {
        Some(gap) => in_gap(lsn, &gap),
        None => outside(timeline, &format!("{lsn} is outside the window")),
    })
}

fn gap_of(timeline: &Timeline, inside: impl Fn(Edge, Edge) -> bool) -> Option<Gap> {
    let holds = |gap: &Gap| matches!((gap.from, gap.to), (Some(from), Some(to)) if inside(from, to));
    timeline.gaps().into_iter().find(holds)
}

/// Makes the error for a moment in a gap, which names the nearest moments on both sides.
fn in_gap(moment: impl std::fmt::Display, gap: &Gap) -> Error {
    let edge = |edge: Option<Edge>| {
        edge.map_or_else(|| "none".to_owned(), |edge| format!("{} ({})", edge.time, edge.lsn))
    };
    Error::outside_window(format!(
        "{moment} lies in a gap ({}); the nearest moments that can be recovered are {} before it and {} after it",
        gap.cause,
        edge(gap.from),
        edge(gap.to)
    ))
}

/// Includes every transaction before the first one that committed later than `time`, as the server's own
/// `recovery_target_time` does.
fn by_time(timeline: &Timeline, time: PgTime) -> Result<(&Stretch, Lsn)> {
    let begun = |stretch: &&Stretch| stretch.window().is_some_and(|window| window.earliest.time <= time);
    let Some(stretch) = timeline.stretches.iter().rev().find(begun) else {
        let is_between = |before: Edge, after: Option<Edge>| {
            before.time < time && after.is_none_or(|after| time < after.time)
        };
        if let Some(thinned) = timeline.thinned(is_between) {
            return Err(thinned.refuse(time));
        }
        return Err(outside(timeline, &format!("{time} is before the window")));
    };
    let window = stretch.window().ok_or_else(|| outside(timeline, "nothing is held"))?;
    if time > window.latest.time {
        return Err(match gap_of(timeline, |before, after| before.time < time && after.time > time) {
            Some(gap) => in_gap(time, &gap),
            None => outside(
                timeline,
                &format!("{time} is after the last moment that is known (is `backwhen capture` running?)"),
            ),
        });
    }
    let later = |segment: &&SegmentView| segment.summary.max_time.is_some_and(|max| max > time);
    for segment in stretch.segments.iter().filter(later) {
        let segment = segment.open()?;
        let first = segment.transactions().iter().find(|entry| entry.time > time);
        if let Some(entry) = first {
            // A clock that stepped back may date a commit before the checkpoint that includes it.
            return Ok((stretch, entry.commit_lsn.max(window.earliest.lsn)));
        }
    }
    Ok((stretch, window.latest.lsn))
}

/// Makes the note for a clock that stepped back: commits after the moment bear an earlier time.
fn clock_note(stretch: &Stretch, until: Lsn, time: PgTime) -> Result<Option<String>> {
    let mut count = 0;
    for segment in &stretch.segments {
        let summary = &segment.summary;
        if summary.last_commit.is_none_or(|last| last < until)
            || summary.min_time.is_none_or(|min| min > time)
        {
            continue;
        }
        let segment = segment.open()?;
        let earlier = |entry: &&TransactionEntry| entry.commit_lsn >= until && entry.time <= time;
        count += segment.transactions().iter().filter(earlier).count();
    }
    Ok((count > 0).then(|| {
        format!(
            "the source's clock stepped back: {count} transactions that committed after this moment \
             bear an earlier time and are not in; name an LSN to choose exactly"
        )
    }))
}

/// Finds a transaction by its number. A number of 32 bits stands for the newest transaction of any epoch that has it as
/// its lower half, since server logs and `xmin` show only that half.
fn by_xid(timeline: &Timeline, xid: u64, before: bool) -> Result<(&Stretch, Lsn)> {
    let has_epoch = xid > u32::MAX.into();
    for stretch in timeline.stretches.iter().rev() {
        for segment in stretch.segments.iter().rev() {
            let segment = segment.open()?;
            for entry in segment.transactions().iter().rev().filter(|entry| entry.xid == xid as u32) {
                let number = || stretch.transaction_number(entry.commit_lsn, entry.xid);
                if !has_epoch || number().is_none_or(|number| number == xid) {
                    return Ok((stretch, if before { entry.commit_lsn } else { entry.end_lsn }));
                }
            }
        }
    }
    Err(outside(
        timeline,
        &format!(
            "transaction {xid} is not in the journal (it may have changed nothing, or be a subtransaction)"
        ),
    ))
}

fn by_mark<'a>(timeline: &'a Timeline, name: &str, before: bool) -> Result<(&'a Stretch, Lsn)> {
    let found: Vec<_> = timeline.marks().filter(|(_, mark)| mark.name == name).collect();
    match found[..] {
        [(epoch, mark)] => {
            let stretch = stretch(timeline, epoch)?;
            Ok((stretch, if before { mark.lsn } else { mark.end_lsn }))
        }
        [] => Err(outside(timeline, &format!("there is no mark {name:?}; see: backwhen list marks"))),
        _ => {
            let places: Vec<_> = found.iter().map(|(_, mark)| mark.end_lsn.to_string()).collect();
            Err(Error::usage(format!(
                "several marks are named {name:?}; choose one by its LSN: {}",
                places.join(", ")
            )))
        }
    }
}

fn by_checkpoint<'a>(timeline: &'a Timeline, id: &str) -> Result<(&'a Stretch, Lsn)> {
    let row = checkpoint_named(timeline, id)?;
    Ok((stretch(timeline, row.epoch)?, row.lsn))
}

fn checkpoint_named<'a>(timeline: &'a Timeline, id: &str) -> Result<&'a CheckpointRow> {
    let exact: Vec<_> =
        timeline.checkpoints().filter(|row| row.id == id || row.label.as_deref() == Some(id)).collect();
    let found = if exact.is_empty() {
        timeline.checkpoints().filter(|row| row.id.starts_with(id)).collect()
    } else {
        exact
    };
    match found[..] {
        [row] => Ok(row),
        [] => {
            Err(outside(timeline, &format!("there is no checkpoint {id:?}; see: backwhen list checkpoints")))
        }
        _ => Err(Error::usage(format!("several checkpoints fit {id:?}; see: backwhen list checkpoints"))),
    }
}

fn stretch(timeline: &Timeline, epoch: u32) -> Result<&Stretch> {
    let found = timeline.stretches.iter().find(|stretch| stretch.epoch.number == epoch);
    found.ok_or_else(|| Error::damaged(format!("epoch {epoch} is missing")))
}

/// Finds the transactions on both sides of a position.
fn around(stretch: &Stretch, until: Lsn) -> Result<ResolvedMoment> {
    let mut resolved =
        ResolvedMoment { epoch: stretch.epoch.number, until, last: None, next: None, notes: Vec::new() };
    let before = |segment: &&SegmentView| segment.summary.first_commit.is_some_and(|first| first < until);
    let after = |segment: &&SegmentView| segment.summary.last_commit.is_some_and(|last| last >= until);
    if let Some(segment) = stretch.segments.iter().rev().find(before) {
        let segment = segment.open()?;
        let last = segment.transactions().iter().rev().find(|entry| entry.commit_lsn < until);
        resolved.last = last.map(|entry| Commit::of(stretch, entry));
    }
    if let Some(segment) = stretch.segments.iter().find(after) {
        let segment = segment.open()?;
        let next = segment.transactions().iter().find(|entry| entry.commit_lsn >= until);
        resolved.next = next.map(|entry| Commit::of(stretch, entry));
    }
    Ok(resolved)
}
