//! The history as a line in time: epochs, their segments and checkpoints, the window and the gaps.

use serde::{Deserialize, Serialize};

use super::History;
use super::catalog::{Catalog, CheckpointRow, Unusable};
use super::epoch::Epoch;
use super::journal::{self, Mark, Segment, SegmentFile, SegmentSummary};
use crate::error::{Error, Result};
use crate::model::{Lsn, PgTime};

/// Everything that a moment is looked up in, as of one instant.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// Oldest first.
    pub stretches: Vec<Stretch>,
    /// Checkpoints that are damaged, by id, and why.
    pub unusable: Vec<Unusable>,
}

/// An epoch with what it holds.
#[derive(Clone, Debug)]
pub struct Stretch {
    pub epoch: Epoch,
    /// In order; the last one may still be written to.
    pub segments: Vec<SegmentView>,
    /// By position.
    pub checkpoints: Vec<CheckpointRow>,
}

#[derive(Clone, Debug)]
pub struct SegmentView {
    pub file: SegmentFile,
    /// Bytes of the file.
    pub bytes: u64,
    pub summary: SegmentSummary,
}

/// A position and the time that belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    pub lsn: Lsn,
    pub time: PgTime,
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
        let mut sealed = catalog.segments(history)?;
        let mut checkpoints = catalog.checkpoints()?;
        let files = journal::list(&history.journal_folder())?;
        let mut stretches = Vec::new();
        for epoch in history.epochs()? {
            let number = epoch.number;
            let mut segments: Vec<_> = sealed
                .extract_if(.., |row| row.file.epoch == number)
                .map(|row| SegmentView { file: row.file, bytes: row.bytes, summary: row.summary })
                .collect();
            for file in files.iter().filter(|file| file.epoch == number) {
                if !segments.iter().any(|known| known.file.start == file.start) {
                    segments.push(scan(file)?);
                }
            }
            segments.sort_by_key(|segment| segment.file.start);
            check_contiguous(&epoch, &segments)?;
            let checkpoints = checkpoints.extract_if(.., |row| row.epoch == number).collect();
            stretches.push(Stretch { epoch, segments, checkpoints });
        }
        let known = stretches.len() as u32;
        let orphans = files.iter().map(|file| file.epoch).chain(checkpoints.iter().map(|row| row.epoch));
        match orphans.filter(|&number| number > known).min() {
            Some(number) => Err(missing_epoch(history, number)),
            None => Ok(Timeline { stretches, unusable: catalog.unusable() }),
        }
    }

    /// The epoch that is being written.
    ///
    /// # Errors
    /// `Damaged` if the history has none.
    pub fn current(&self) -> Result<&Stretch> {
        self.stretches.last().ok_or_else(|| Error::damaged("the history has no epochs"))
    }

    /// From the first checkpoint to the last moment, gaps included; none without a checkpoint.
    pub fn window(&self) -> Option<Window> {
        let first = self.stretches.iter().find_map(Stretch::window)?;
        let last = self.stretches.iter().rev().find_map(Stretch::window)?;
        Some(Window { earliest: first.earliest, latest: last.latest })
    }

    /// An epoch whose first image was never finished holds no moment: it belongs to the gap around it, which
    /// has the cause that it began with.
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
        gaps
    }

    pub fn marks(&self) -> impl Iterator<Item = (u32, &Mark)> {
        self.stretches.iter().flat_map(|stretch| {
            let number = stretch.epoch.number;
            let marks = stretch.segments.iter().flat_map(|segment| &segment.summary.marks);
            marks.map(move |mark| (number, mark))
        })
    }

    pub fn checkpoints(&self) -> impl Iterator<Item = &CheckpointRow> {
        self.stretches.iter().flat_map(|stretch| &stretch.checkpoints)
    }

    /// The moments that can be recovered, for messages.
    pub fn describe_window(&self) -> String {
        let windows = self.stretches.iter().filter_map(Stretch::window);
        let describe = |window: Window| {
            format!(
                "{} ({}) to {} ({})",
                window.earliest.time, window.earliest.lsn, window.latest.time, window.latest.lsn
            )
        };
        let windows: Vec<_> = windows.map(describe).collect();
        match windows.is_empty() {
            true => "there is no checkpoint yet, so nothing can be recovered".to_owned(),
            false => format!("what can be recovered is {}", windows.join(", and ")),
        }
    }
}

impl Stretch {
    /// The end of what is durable.
    pub fn frontier(&self) -> Lsn {
        self.segments.last().map_or(self.epoch.start, |segment| segment.summary.end)
    }

    /// The moments of this epoch that can be recovered.
    pub fn window(&self) -> Option<Window> {
        let first = self.checkpoints.first()?;
        let latest = self.segments.iter().filter_map(|segment| segment.summary.max_time).max();
        // A time is decided once a transaction later than it is known: one of the very same time
        // may still come.
        let decided = latest.map_or(first.time, |time| PgTime(time.0 - 1)).max(first.time);
        Some(Window {
            earliest: Edge { lsn: first.lsn, time: first.time },
            latest: Edge { lsn: self.frontier().max(first.lsn), time: decided },
        })
    }

    /// The segments that hold transactions from `after` to before `until`.
    pub fn segments_between(&self, after: Lsn, until: Lsn) -> impl Iterator<Item = &SegmentView> {
        let holds = move |summary: &SegmentSummary| {
            summary.first_commit.is_some_and(|first| first < until)
                && summary.last_commit.is_some_and(|last| last >= after)
        };
        self.segments.iter().filter(move |segment| holds(&segment.summary))
    }

    /// Bytes of the journal's files.
    pub fn journal_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }
}

/// Objects of an epoch are there, and what says where it began is not.
pub fn missing_epoch(history: &History, number: u32) -> Error {
    let path = history.root().join(format!("epochs/{number:04}.json"));
    Error::damaged(format!("{} is missing; bring it back from a copy of the history", path.display()))
}

fn scan(file: &SegmentFile) -> Result<SegmentView> {
    let segment = Segment::open(&file.path)?;
    let bytes = std::fs::metadata(segment.path()).map_or(0, |metadata| metadata.len());
    let file = SegmentFile { path: segment.path().to_owned(), sealed: segment.is_sealed(), ..file.clone() };
    Ok(SegmentView { file, bytes, summary: segment.summary().clone() })
}

fn check_contiguous(epoch: &Epoch, segments: &[SegmentView]) -> Result<()> {
    let mut expected = epoch.start;
    for segment in segments {
        if segment.summary.start != expected {
            return Err(Error::damaged(format!(
                "the journal lacks what lies from {expected} to {}: a segment before {} is missing",
                segment.summary.start,
                segment.file.path.display()
            )));
        }
        expected = segment.summary.end;
    }
    Ok(())
}
