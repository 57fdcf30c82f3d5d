//! How finely each part of a history can be recovered: every moment, or only single checkpoints.
//!
//! An expiry may keep an old checkpoint and let the journal around it go. The checkpoint is complete in itself, so its own
//! moment can be recovered for as long as it is kept, and no moment before or after it. Such a checkpoint is *single*.

use serde::Serialize;

use super::catalog::CheckpointRow;
use super::timeline::{Stretch, Timeline};
use crate::error::Error;
use crate::model::{Edge, Lsn, PgTime};

/// A part of the history that can be recovered equally finely all over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ResolvedPart {
    pub from: Edge,
    pub to: Edge,
    pub moments: Moments,
    /// The number of checkpoints in the part.
    pub checkpoints: usize,
}

/// The moments of a part that can be recovered. A part of single checkpoints is named by the time from each checkpoint to the
/// next moment that can be recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Moments {
    Every,
    /// The next moment is less than two hours later.
    Hourly,
    /// Less than two days.
    Daily,
    /// Less than two weeks.
    Weekly,
    /// Less than two months.
    Monthly,
    Yearly,
}

const HOUR: f64 = 3600.0;
const DAY: f64 = 24.0 * HOUR;

impl Moments {
    fn of_distance(seconds: f64) -> Moments {
        // Of two checkpoints that are each the newest of its day, one may be from the morning and one from the evening.
        let longest = [
            (2.0 * HOUR, Moments::Hourly),
            (2.0 * DAY, Moments::Daily),
            (14.0 * DAY, Moments::Weekly),
            (62.0 * DAY, Moments::Monthly),
        ];
        longest.into_iter().find(|(longest, _)| seconds < *longest).map_or(Moments::Yearly, |(_, it)| it)
    }

    pub fn describe(self) -> &'static str {
        match self {
            Moments::Every => "every moment",
            Moments::Hourly => "hourly",
            Moments::Daily => "daily",
            Moments::Weekly => "weekly",
            Moments::Monthly => "monthly",
            Moments::Yearly => "yearly",
        }
    }
}

/// A moment between two single checkpoints, or between one and the window: the nearest moments that can be recovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thinned<'a> {
    pub before: &'a CheckpointRow,
    /// `None` if the history holds no later moment.
    pub after: Option<NextMoment<'a>>,
}

/// The next moment after a single checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextMoment<'a> {
    Single(&'a CheckpointRow),
    Window(Edge),
}

impl NextMoment<'_> {
    fn edge(&self) -> Edge {
        match self {
            NextMoment::Single(row) => edge(row),
            NextMoment::Window(edge) => *edge,
        }
    }
}

fn edge(row: &CheckpointRow) -> Edge {
    Edge { lsn: row.lsn, time: row.time }
}

impl Timeline {
    /// Whether a checkpoint is kept without the journal around it.
    pub fn is_single(&self, row: &CheckpointRow) -> bool {
        self.singles.iter().any(|single| single.id == row.id)
    }

    /// Returns the moment of a single checkpoint as a stretch of its own, without journal; `None` if no single checkpoint
    /// of the epoch lies at this position.
    pub fn single(&self, epoch: u32, lsn: Lsn) -> Option<Stretch> {
        let is_meant = |row: &&CheckpointRow| (row.epoch, row.lsn) == (epoch, lsn);
        let checkpoints: Vec<_> = self.singles.iter().filter(is_meant).cloned().collect();
        let epoch = self.stretches.iter().find(|stretch| stretch.epoch.number == epoch)?.epoch.clone();
        let stretch = Stretch { epoch, held_from: lsn, segments: Vec::new(), checkpoints };
        (!stretch.checkpoints.is_empty()).then_some(stretch)
    }

    /// Returns all checkpoints of an epoch, by position.
    pub fn checkpoints_of(&self, epoch: u32) -> Vec<&CheckpointRow> {
        let mut rows: Vec<_> = self.checkpoints().filter(|row| row.epoch == epoch).collect();
        rows.sort_by_key(|row| row.lsn);
        rows
    }

    /// Returns the single checkpoints around the moments that `is_between` says to lie between two moments, of which the
    /// first is a single checkpoint.
    pub fn thinned(&self, is_between: impl Fn(Edge, Option<Edge>) -> bool) -> Option<Thinned<'_>> {
        let window = self.window().map(|window| NextMoment::Window(window.earliest));
        let later = self.singles.iter().skip(1).map(|row| Some(NextMoment::Single(row))).chain([window]);
        let mut pairs = self.singles.iter().zip(later);
        let found = pairs.find(|(row, after)| is_between(edge(row), after.as_ref().map(NextMoment::edge)));
        found.map(|(before, after)| Thinned { before, after })
    }

    /// Returns the parts of the history with their resolutions, oldest first. Gaps lie inside the part of every moment.
    pub fn resolution(&self) -> Vec<ResolvedPart> {
        let mut parts: Vec<ResolvedPart> = Vec::new();
        let window = self.window();
        let next = self.singles.iter().skip(1).map(|row| row.time);
        let next = next.map(Some).chain([window.as_ref().map(|window| window.earliest.time)]);
        for (row, next) in self.singles.iter().zip(next) {
            let moments = Moments::of_distance(next.map_or(0.0, |next| next.seconds_since(row.time)));
            match parts.last_mut().filter(|part| part.moments == moments) {
                Some(part) => (part.to, part.checkpoints) = (edge(row), part.checkpoints + 1),
                None => {
                    parts.push(ResolvedPart { from: edge(row), to: edge(row), moments, checkpoints: 1 });
                }
            }
        }
        let held = self.stretches.iter().map(|stretch| stretch.checkpoints.len()).sum();
        parts.extend(window.map(|window| ResolvedPart {
            from: window.earliest,
            to: window.latest,
            moments: Moments::Every,
            checkpoints: held,
        }));
        parts
    }
}

impl Thinned<'_> {
    /// Makes the error for a moment whose journal has been expired.
    pub fn refuse(&self, moment: impl std::fmt::Display) -> Error {
        let name = |row: &CheckpointRow| format!("checkpoint:{} ({}, {})", row.id, row.time, row.lsn);
        let after = match &self.after {
            Some(NextMoment::Single(row)) => format!(" and {} after it", name(row)),
            Some(NextMoment::Window(edge)) => {
                format!(" and {} ({}), from which on every moment is kept, after it", edge.time, edge.lsn)
            }
            None => String::new(),
        };
        Error::outside_window(format!(
            "{moment} lies after a checkpoint that is kept as a single moment, and the journal after it was expired; the \
             nearest moments that can be recovered are {} before it{after}; see: backwhen list resolution",
            name(self.before)
        ))
    }
}

/// Says in a few words how finely the history can be recovered, the newest part first.
pub fn describe(parts: &[ResolvedPart], local_day: &dyn Fn(PgTime) -> String) -> String {
    let describe = |part: &ResolvedPart| match part.moments {
        Moments::Every => format!("every moment since {}", local_day(part.from.time)),
        moments if part.checkpoints == 1 => {
            format!("{} before ({}, 1 checkpoint)", moments.describe(), local_day(part.from.time))
        }
        moments => format!(
            "{} before (since {}, {} checkpoints)",
            moments.describe(),
            local_day(part.from.time),
            part.checkpoints
        ),
    };
    parts.iter().rev().map(describe).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::checkpoint::Origin;

    fn row(days: f64) -> CheckpointRow {
        CheckpointRow {
            id: format!("at {days}"),
            epoch: 1,
            lsn: Lsn((days * 100.0) as u64),
            time: PgTime((days * DAY * 1e6) as i64),
            label: None,
            origin: Origin::Fold,
            rows: 0,
            bytes_new: 0,
            bytes_total: 0,
        }
    }

    fn timeline(days: &[f64]) -> Timeline {
        let singles = days.iter().map(|days| row(*days)).collect();
        Timeline { stretches: Vec::new(), singles, unusable: Vec::new(), expired: None }
    }

    #[test]
    fn parts_are_named_by_the_distance_to_the_next_moment() {
        let parts = timeline(&[0.0, 400.0, 431.0, 461.0, 470.0, 470.9, 471.95]).resolution();
        let parts: Vec<_> = parts.iter().map(|it| (it.moments, it.checkpoints)).collect();
        // The last one has no next moment.
        let expected = [
            (Moments::Yearly, 1),
            (Moments::Monthly, 2),
            (Moments::Weekly, 1),
            (Moments::Daily, 2),
            (Moments::Hourly, 1),
        ];
        assert_eq!(parts, expected);
    }

    #[test]
    fn a_moment_between_two_single_checkpoints_is_refused_with_both() {
        let timeline = timeline(&[1.0, 2.0, 4.0]);
        let time = row(3.0).time;
        let thinned =
            timeline.thinned(|before, after| before.time < time && after.is_none_or(|it| time < it.time));
        let error = thinned.unwrap().refuse(time);
        assert!(error.message().contains("checkpoint:at 2 (2000-01-03T"), "{error}");
        assert!(error.message().contains("and checkpoint:at 4 (2000-01-05T"), "{error}");
        assert_eq!(timeline.thinned(|_, _| false), None);
    }
}
