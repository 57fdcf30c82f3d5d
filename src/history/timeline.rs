//! The history as a line in time: epochs, their segments and checkpoints, the window and the gaps.

use std::sync::Arc;

use serde::Serialize;

use super::History;
use super::catalog::{Catalog, CheckpointRow, SegmentRow, UnusableObject};
use super::epoch::Epoch;
use super::expiry::Expiry;
use super::journal::{
    ChangeIndex, Lookup, Mark, Segment, SegmentBlocks, SegmentName, SegmentSummary, SoughtRows,
    TransactionMessage,
};
use super::segments::Segments;
use crate::error::{Error, Result};
use crate::model::{Edge, Lsn, PgTime};
use crate::signal::key::transaction_of;
use crate::store::ObjectName;

/// Epochs, segments and checkpoints of a history as of one instant, in which moments are looked up.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// Oldest first.
    pub stretches: Vec<Stretch>,
    /// The checkpoints that are kept as single moments, by epoch and position: the journal around them was expired.
    pub singles: Vec<CheckpointRow>,
    /// The damaged checkpoints and packs, and why they are.
    pub unusable: Vec<UnusableObject>,
    /// The objects that may be missing, if moments were expired.
    pub expired: Option<Expiry>,
}

/// An epoch with its segments and checkpoints.
#[derive(Clone, Debug)]
pub struct Stretch {
    pub epoch: Epoch,
    /// The beginning of the epoch's journal, or of the part that an expiry has left.
    pub held_from: Lsn,
    /// The segments in order. A capture may still write to the last one.
    pub segments: Vec<SegmentView>,
    /// The checkpoints, sorted by position.
    pub checkpoints: Vec<CheckpointRow>,
}

#[derive(Clone, Debug)]
pub struct SegmentView {
    pub name: SegmentName,
    /// Bytes of the file.
    pub bytes: u64,
    pub summary: Arc<SegmentSummary>,
    /// The table in which the segment is opened, once for all who ask.
    segments: Arc<Segments>,
}

impl SegmentView {
    fn of_row(row: SegmentRow, segments: &Arc<Segments>) -> SegmentView {
        let segments = Arc::clone(segments);
        SegmentView { name: row.name, bytes: row.bytes, summary: Arc::new(row.summary), segments }
    }

    /// Makes a view of a segment that no catalog knows, as the segment is now.
    ///
    /// # Errors
    /// As [`Segment::open`].
    pub fn scan(name: SegmentName, segments: &Arc<Segments>) -> Result<SegmentView> {
        let segment = segments.open(name)?;
        Ok(SegmentView {
            name: segment.name(),
            bytes: segment.size(),
            summary: Arc::new(segment.summary().clone()),
            segments: Arc::clone(segments),
        })
    }

    /// Returns the segment itself, opened.
    ///
    /// # Errors
    /// As [`Segment::open`].
    pub fn open(&self) -> Result<Arc<Segment>> {
        self.segments.open(self.name)
    }

    /// Returns the blocks of the opened segment that hold positions from `after` to before `until`; of these only the
    /// `chosen` ones if there was a choice. Chosen blocks are kept for the next time.
    pub fn blocks(
        &self,
        segment: &Segment,
        after: Lsn,
        until: Lsn,
        chosen: Option<&Vec<u32>>,
    ) -> SegmentBlocks {
        match chosen {
            None => segment.blocks(after, until),
            Some(chosen) => {
                let blocks =
                    segment.some_blocks(after, until, |number| chosen.binary_search(&number).is_ok());
                blocks.keeping(self.segments.kept_blocks())
            }
        }
    }

    /// Looks rows up in the segment. A sealed segment is not opened for it, unless an earlier version sealed it.
    ///
    /// # Errors
    /// The errors of [`Segment::open`]; `Internal` if the catalog fails.
    pub fn look_up(&self, catalog: &Catalog, rows: &SoughtRows) -> Result<Lookup> {
        if self.name.sealed
            && let Some(found) = self.segments.look_up(self.name, rows)?
        {
            return Ok(found);
        }
        let segment = self.open()?;
        let relations = segment.relations().cloned().collect();
        Ok(Lookup { relations, blocks: changes_of(&segment, catalog)?.blocks_with(rows) })
    }

    /// Returns the segment, opened, and the index of its changes.
    ///
    /// # Errors
    /// The errors of [`Segment::open`]; `Internal` if the catalog fails.
    pub fn indexed_segment(&self, catalog: &Catalog) -> Result<(Arc<Segment>, Arc<ChangeIndex>)> {
        let segment = self.open()?;
        let changes = changes_of(&segment, catalog)?;
        Ok((segment, changes))
    }

    /// Returns the number, with its epoch, of one transaction of this segment: the last one that told sequences, as each
    /// heartbeat does. `None` if there is none, if an older version wrote it without a signature, or if its block is
    /// damaged: no work fails for want of an epoch.
    pub fn transaction_number(&self) -> Option<u64> {
        let lsn = self.summary.sequences.last_lsn?;
        let segment = self.open().ok()?;
        // All of an open segment was read when it was opened.
        if !segment.is_sealed() {
            return segment.last_number();
        }
        let mut number = None;
        let mut read = |said: TransactionMessage<'_>| {
            if let TransactionMessage::Logical { content, .. } = said {
                number = transaction_of(content);
            }
            number.is_none()
        };
        segment.each_said(lsn, Lsn(lsn.0 + 1), &mut |_, said| read(said)).ok()?;
        number
    }
}

/// The index of a segment's changes. If an earlier version sealed the segment, it comes from the catalog.
fn changes_of(segment: &Segment, catalog: &Catalog) -> Result<Arc<ChangeIndex>> {
    match &segment.footer().changes {
        Some(changes) => Ok(Arc::clone(changes)),
        None => catalog.changes_of(segment).map(Arc::new),
    }
}

/// The moments that can be recovered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Window {
    pub earliest: Edge,
    pub latest: Edge,
}

/// A stretch inside the window that cannot be recovered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The last moment before it.
    pub from: Option<Edge>,
    /// The first moment after it; none as long as the next epoch has no checkpoint.
    pub to: Option<Edge>,
    pub cause: String,
}

impl Timeline {
    /// Reads the history as it is now.
    ///
    /// # Errors
    /// `Damaged` if an object that is needed cannot be read, or segments do not join.
    pub fn read(history: &History, catalog: &Catalog) -> Result<Timeline> {
        Timeline::read_with(history, catalog, &Arc::new(Segments::new(history.journal())))
    }

    /// Reads the history as it is now, except for segments that are open in `table` already: a segment that is still
    /// written to is taken as it was when it was opened.
    ///
    /// # Errors
    /// As [`Timeline::read`].
    pub fn read_with(history: &History, catalog: &Catalog, table: &Arc<Segments>) -> Result<Timeline> {
        let mut sealed = catalog.segments()?;
        let mut checkpoints = catalog.checkpoints()?;
        let names = history.journal().list()?;
        let expired = history.expiry()?;
        let (mut stretches, mut singles) = (Vec::new(), Vec::new());
        for epoch in history.epochs()? {
            let number = epoch.number;
            let mut segments: Vec<_> = sealed
                .extract_if(.., |row| row.name.epoch == number)
                .map(|row| SegmentView::of_row(row, table))
                .collect();
            for name in names.iter().filter(|name| name.epoch == number) {
                if !segments.iter().any(|known| known.name.start == name.start) {
                    segments.push(SegmentView::scan(*name, table)?);
                }
            }
            segments.sort_by_key(|segment| segment.name.start);
            let held_from = join(history, &epoch, expired.as_ref(), &mut segments)?;
            let end = segments.last().map(|segment| segment.summary.end);
            // An expiry may remove all of an old epoch's journal; what a killed one has left of it ends before checkpoints.
            let is_whole = expired.as_ref().is_none_or(|it| it.must_hold_from(&epoch).is_some());
            let is_in = |row: &CheckpointRow| {
                row.lsn >= held_from && (is_whole || end.is_some_and(|end| row.lsn <= end))
            };
            let of_epoch = checkpoints.extract_if(.., |row| row.epoch == number);
            let (checkpoints, alone): (Vec<_>, Vec<_>) = of_epoch.partition(is_in);
            singles.extend(alone);
            stretches.push(Stretch { epoch, held_from, segments, checkpoints });
        }
        let known = stretches.len() as u32;
        let orphans = names.iter().map(|name| name.epoch).chain(checkpoints.iter().map(|row| row.epoch));
        match orphans.filter(|&number| number > known).min() {
            Some(number) => Err(missing_epoch(history, number)),
            None => {
                // An expiry that removed only unreferenced objects did not shrink the window.
                let expired =
                    expired.filter(|it| stretches.first().is_some_and(|first| it.let_go(&first.epoch)));
                Ok(Timeline { stretches, singles, unusable: catalog.unusable(), expired })
            }
        }
    }

    /// Returns the history as it is now, as far as its newest epoch goes on. Of the segment that was written to, only what
    /// came since is read.
    ///
    /// # Errors
    /// `Unavailable` if another epoch has begun; `Damaged` as [`Timeline::read`].
    pub fn extended(&self, history: &History) -> Result<Timeline> {
        let mut timeline = self.clone();
        let Some(stretch) = timeline.stretches.last_mut() else { return Ok(timeline) };
        let (epoch, journal) = (stretch.epoch.number, history.journal());
        let table = match stretch.segments.pop() {
            Some(last) => Segments::after(journal, last.open()?),
            None => Segments::new(journal),
        };
        let (table, from, known) = (Arc::new(table), stretch.frontier(), stretch.segments.len());
        for name in journal.list()?.into_iter().filter(|name| name.epoch >= epoch) {
            if name.epoch > epoch {
                return Err(Error::unavailable(
                    "the history has a new gap, and nothing was changed; see: backwhen list gaps",
                ));
            }
            if name.start >= from {
                stretch.segments.push(SegmentView::scan(name, &table)?);
            }
        }
        check_contiguous(history, from, &stretch.segments[known..])?;
        Ok(timeline)
    }

    /// Returns the bytes of all segments.
    pub fn journal_bytes(&self) -> u64 {
        self.stretches.iter().map(Stretch::journal_bytes).sum()
    }

    /// Returns the epoch that is being written.
    ///
    /// # Errors
    /// `Damaged` if the history has none.
    pub fn current(&self) -> Result<&Stretch> {
        self.stretches.last().ok_or_else(|| Error::damaged("the history has no epochs"))
    }

    /// Returns the stretch from the first checkpoint to the last moment, gaps included; `None` without a checkpoint.
    pub fn window(&self) -> Option<Window> {
        let first = self.stretches.iter().find_map(Stretch::window)?;
        let last = self.stretches.iter().rev().find_map(Stretch::window)?;
        Some(Window { earliest: first.earliest, latest: last.latest })
    }

    /// Returns the gaps between epochs. An epoch whose first image was never finished has no moment, so it belongs to the
    /// gap around it, and the cause of that gap is the first one.
    pub fn gaps(&self) -> Vec<Gap> {
        let mut gaps = Vec::new();
        let mut open: Option<Gap> = None;
        for pair in self.stretches.windows(2) {
            let from = || Gap {
                from: pair[0].window().map(|window| window.latest),
                to: None,
                cause: pair[1].epoch.cause.clone(),
            };
            let gap = open.take().unwrap_or_else(from);
            match pair[1].window() {
                Some(window) => gaps.push(Gap { to: Some(window.earliest), ..gap }),
                None => open = Some(gap),
            }
        }
        gaps.extend(open);
        // Before the window there is no gap.
        gaps.retain(|gap| gap.from.is_some() || self.expired.is_none());
        gaps
    }

    pub fn marks(&self) -> impl Iterator<Item = (u32, &Mark)> {
        self.stretches.iter().flat_map(|stretch| {
            let number = stretch.epoch.number;
            let marks = stretch.segments.iter().flat_map(|segment| &segment.summary.marks);
            marks.map(move |mark| (number, mark))
        })
    }

    /// Returns all checkpoints, those first that are kept as single moments.
    pub fn checkpoints(&self) -> impl Iterator<Item = &CheckpointRow> {
        self.singles.iter().chain(self.stretches.iter().flat_map(|stretch| &stretch.checkpoints))
    }

    /// Says which moments can be recovered, for messages.
    pub fn describe_window(&self) -> String {
        let windows = self.stretches.iter().filter_map(Stretch::window);
        let describe = |window: Window| {
            format!(
                "{} ({}) to {} ({})",
                window.earliest.time, window.earliest.lsn, window.latest.time, window.latest.lsn
            )
        };
        let windows: Vec<_> = windows.map(describe).collect();
        if windows.is_empty() {
            "there is no checkpoint yet, so nothing can be recovered".to_owned()
        } else {
            format!("what can be recovered is {}{}", windows.join(", and "), self.describe_expired())
        }
    }
}

impl Timeline {
    fn describe_expired(&self) -> String {
        let singles = match self.singles.len() {
            0 => String::new(),
            1 => format!(", and checkpoint:{} before", self.singles[0].id),
            count => format!(
                ", and before, {count} single checkpoints since {} (see: backwhen list resolution)",
                self.singles[0].time
            ),
        };
        let expired = self.expired.as_ref();
        let expired =
            expired.map_or_else(String::new, |it| format!("; what came before was expired at {}", it.at));
        format!("{singles}{expired}")
    }
}

impl Stretch {
    /// Returns the end of the durable journal of this epoch.
    pub fn frontier(&self) -> Lsn {
        self.segments.last().map_or(self.held_from, |segment| segment.summary.end)
    }

    /// Returns the moments of this epoch that can be recovered.
    pub fn window(&self) -> Option<Window> {
        let first = self.checkpoints.first()?;
        let latest = self.segments.iter().filter_map(|segment| segment.summary.max_time).max();
        // The state at a time is known once a later transaction is: another transaction of the very same time may
        // still come.
        let decided = latest.map_or(first.time, |time| PgTime(time.0 - 1)).max(first.time);
        Some(Window {
            earliest: Edge { lsn: first.lsn, time: first.time },
            latest: Edge { lsn: self.frontier().max(first.lsn), time: decided },
        })
    }

    /// Returns the number, with its epoch, of the transaction `xid` that committed at `lsn`: the stream carries the lower
    /// half only, and heartbeats are signed with the whole number. `None` if this epoch holds no heartbeat.
    pub fn transaction_number(&self, lsn: Lsn, xid: u32) -> Option<u64> {
        self.number_near(lsn).map(|near| with_epoch(xid, near))
    }

    /// Returns the number, with its epoch, of a transaction near `lsn`. `None` if this epoch holds no heartbeat.
    pub fn number_near(&self, lsn: Lsn) -> Option<u64> {
        let beat = |view: &SegmentView| Some((view.name.sealed, view.summary.sequences.last_lsn?));
        let beats = self.segments.iter().enumerate().filter_map(|(at, view)| Some((at, beat(view)?)));
        let nearest = best_beat(beats, lsn).map(|at| &self.segments[at]);
        nearest.and_then(SegmentView::transaction_number)
    }

    /// Returns the segments that hold transactions from `after` to before `until`.
    pub fn segments_between(&self, after: Lsn, until: Lsn) -> impl Iterator<Item = &SegmentView> {
        let holds = move |summary: &SegmentSummary| {
            summary.first_commit.is_some_and(|first| first < until)
                && summary.last_commit.is_some_and(|last| last >= after)
        };
        self.segments.iter().filter(move |segment| holds(&segment.summary))
    }

    /// Returns the bytes of all segments of this epoch.
    pub fn journal_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }
}

/// Within so many bytes of WAL, no number of a transaction is so far from another that their epochs could be mistaken: the
/// end of each transaction and subtransaction takes at least 4 bytes, and 2^31 numbers are told apart.
const NEAR: u64 = 4 << 30;

/// Chooses the heartbeat from which the numbers of transactions around `lsn` are told, of those in each segment: whether
/// the segment is sealed, and the heartbeat's position. An open segment is read anyway, and of a
/// sealed one a block would be read for this alone.
fn best_beat(beats: impl Iterator<Item = (usize, (bool, Lsn))>, lsn: Lsn) -> Option<usize> {
    let cost = |(_, (is_sealed, beat)): &(usize, (bool, Lsn))| {
        let distance = beat.0.abs_diff(lsn.0);
        (*is_sealed || distance > NEAR, distance)
    };
    beats.min_by_key(cost).map(|(at, _)| at)
}

/// Returns the transaction number whose lower half is `xid` and that is nearest to `near`, as the server itself compares
/// the numbers of transactions that run at about the same time.
pub fn with_epoch(xid: u32, near: u64) -> u64 {
    let distance = xid.wrapping_sub(near as u32) as i32;
    near.checked_add_signed(distance.into()).unwrap_or(xid.into())
}

/// The error for an epoch whose record is missing although objects of the epoch are there.
pub fn missing_epoch(history: &History, number: u32) -> Error {
    let place = history.store().locate(&ObjectName::epoch(number));
    Error::damaged(format!("{place} is missing; bring it back from a copy of the history"))
}

/// Drops the segments that an expiry has left and that do not join the later ones, and returns where the journal then
/// begins. The segments that no expiry covers must join.
fn join(
    history: &History,
    epoch: &Epoch,
    expired: Option<&Expiry>,
    segments: &mut Vec<SegmentView>,
) -> Result<Lsn> {
    let must_hold_from = expired.map_or(Some(epoch.start), |it| it.must_hold_from(epoch));
    let kept = must_hold_from
        .map_or(segments.len(), |from| segments.partition_point(|segment| segment.name.start < from));
    if let Some(from) = must_hold_from {
        check_contiguous(history, from, &segments[kept..])?;
    }
    let end = segments.last().map_or(epoch.start, |segment| segment.summary.end);
    let mut begins = must_hold_from.unwrap_or(end);
    let mut first = kept;
    while first > 0 && segments[first - 1].summary.end == begins {
        first -= 1;
        begins = segments[first].summary.start;
    }
    segments.drain(..first);
    Ok(begins)
}

fn check_contiguous(history: &History, from: Lsn, segments: &[SegmentView]) -> Result<()> {
    let mut expected = from;
    for segment in segments {
        if segment.summary.start != expected {
            return Err(Error::damaged(format!(
                "the journal lacks what lies from {expected} to {}: a segment before {} is missing",
                segment.summary.start,
                history.journal().locate(segment.name)
            )));
        }
        expected = segment.summary.end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_gets_the_epoch_of_its_neighbours() {
        let epoch = |number: u64| number << 32;
        assert_eq!(with_epoch(7, epoch(0) + 900), 7);
        assert_eq!(with_epoch(13, epoch(1) - 5), epoch(1) + 13);
        assert_eq!(with_epoch(u32::MAX - 5, epoch(1) + 13), epoch(1) - 6);
        assert_eq!(with_epoch(u32::MAX, 3), u64::from(u32::MAX));
    }
    #[test]
    fn an_open_segment_tells_numbers_unless_it_is_too_far_away() {
        let sealed = |at, lsn| (at, (true, Lsn(lsn)));
        let open = |at, lsn| (at, (false, Lsn(lsn)));
        assert_eq!(best_beat([sealed(0, 100), open(1, 9000)].into_iter(), Lsn(120)), Some(1));
        assert_eq!(best_beat([sealed(0, 100), open(1, 2 * NEAR)].into_iter(), Lsn(120)), Some(0));
        assert_eq!(best_beat([sealed(0, 900), sealed(1, 100)].into_iter(), Lsn(120)), Some(1));
        assert_eq!(best_beat([open(0, 2 * NEAR)].into_iter(), Lsn(120)), Some(0));
        assert_eq!(best_beat([].into_iter(), Lsn(120)), None);
    }
}
