//! Judges a history by two times that a person has named: whether it meets them, and if not, why.
//!
//! The *time to discover* is how long it may take until somebody notices that something is wrong: for so long, every moment
//! must be held. The *time to recover* is how long a recovery may take. It depends on the rows, which a checkpoint cannot
//! change, and on the journal since the checkpoint before the moment, which it can.

use std::time::Duration;

use serde::Serialize;

use super::pace::RecoveryPace;
use crate::history::timeline::{Stretch, Timeline};
use crate::model::moment::{format_duration, roughly};
use crate::model::{Edge, PgTime};

/// The times that a person has named.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    pub time_to_discover: Option<Duration>,
    pub time_to_recover: Option<Duration>,
}

/// Whether every moment is held for long enough.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DiscoverNeed {
    pub wanted_seconds: f64,
    /// The time back from now for which every moment is held, without a gap.
    pub held_seconds: f64,
    pub met: bool,
    /// The reason why it is not met, or not yet for the whole time.
    pub why: Option<String>,
}

/// Whether every moment of that time is recovered quickly enough.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RecoverNeed {
    pub wanted_seconds: f64,
    /// The time that a recovery of the newest moment takes; `None` if it was not measured.
    pub newest_seconds: Option<f64>,
    /// The time that a recovery of the slowest moment takes.
    pub worst_seconds: Option<f64>,
    /// The slowest moment.
    pub worst_at: Option<Edge>,
    /// `None` if it is not known.
    pub met: Option<bool>,
    /// The reason why it is not met, or not known.
    pub why: Option<String>,
}

/// Whether a checkpoint is due so that recoveries stay as quick as they must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Due {
    /// It is; the reason says why.
    Yes(String),
    /// It is not; the reason says how long a recovery takes.
    No(String),
}

impl Needs {
    /// Judges for how long every moment is held. `None` if nobody has named the time, or nothing can be recovered yet.
    pub fn discover(&self, timeline: &Timeline, now: PgTime) -> Option<DiscoverNeed> {
        let wanted = self.time_to_discover?.as_secs_f64();
        let window = timeline.stretches.last()?.window();
        let from = window.map_or(now, |window| window.earliest.time);
        let held = now.seconds_since(from).max(0.0);
        let gap = timeline.gaps().pop();
        let why = if held >= wanted {
            None
        } else if let Some(gap) = &gap {
            Some(format!("there is a gap before {from}: {}", gap.cause))
        } else if let Some(expired) = &timeline.expired {
            Some(format!(
                "what came before {from} was expired at {} by {}; expire with --time-to-discover instead",
                expired.at,
                expired.rules.join(" ")
            ))
        } else {
            Some(format!("not for the whole time yet: the history begins at {from}"))
        };
        let met = held >= wanted || (gap.is_none() && timeline.expired.is_none());
        Some(DiscoverNeed { wanted_seconds: wanted, held_seconds: held, met, why })
    }

    /// Judges how long recoveries take. `None` if nobody has named the time, or nothing can be recovered yet.
    pub fn recover(&self, timeline: &Timeline, pace: &RecoveryPace, now: PgTime) -> Option<RecoverNeed> {
        let wanted = self.time_to_recover?;
        let since = self.time_to_discover.map(|it| PgTime(now.0.saturating_sub(micros(it))));
        let moments: Vec<_> = timeline.stretches.iter().flat_map(moments).collect();
        let newest = moments.last()?;
        let recent = moments.iter().filter(|it| since.is_none_or(|since| it.at.time >= since));
        let recent: Vec<_> = recent.chain(std::iter::once(newest)).collect();
        let times: Option<Vec<_>> =
            recent.iter().map(|it| Some((pace.recovery(it.image_bytes, it.journal_bytes)?, it.at))).collect();
        let worst = times.and_then(|times| times.into_iter().max_by_key(|(time, _)| *time));
        let newest_time = pace.recovery(newest.image_bytes, newest.journal_bytes);
        let why = match worst {
            None => Some(not_measured(pace)),
            Some((worst, _)) if worst <= wanted => None,
            Some(_) if pace.rows(newest.image_bytes).is_some_and(|rows| rows > wanted) => {
                Some("the rows alone take longer, so no checkpoint helps; recover --on-demand, query and serve do not wait \
                      for all of them"
                    .to_owned())
            }
            Some(_) => Some(
                "too much journal lies between two checkpoints; run backwhen checkpoint --if-needed more often".to_owned(),
            ),
        };
        Some(RecoverNeed {
            wanted_seconds: wanted.as_secs_f64(),
            newest_seconds: newest_time.map(|it| it.as_secs_f64()),
            worst_seconds: worst.map(|(time, _)| time.as_secs_f64()),
            worst_at: worst.map(|(_, at)| at),
            met: worst.map(|(time, _)| time <= wanted),
            why,
        })
    }

    /// Decides whether a checkpoint is due by the time to recover. The next look may come late, so one is due when the journal
    /// has used up half of the time that the rows leave.
    pub fn due(wanted: Duration, timeline: &Timeline, pace: &RecoveryPace) -> Due {
        let newest = timeline.stretches.last().and_then(|stretch| moments(stretch).last());
        let Some(newest) = newest else { return Due::Yes("there is no checkpoint yet".to_owned()) };
        let (rows, journal) = (pace.rows(newest.image_bytes), pace.journal(newest.journal_bytes));
        let (Some(rows), Some(journal)) = (rows, journal) else { return Due::Yes(not_measured(pace)) };
        let (time, goal) = (roughly(rows + journal), format_duration(wanted));
        // Where the rows alone take too long, the journal shall at least add little.
        let (allowed, why) = match wanted.checked_sub(rows) {
            Some(left) if left > rows / 10 => (left / 2, "half of what the rows leave of it"),
            _ => (rows / 10, "a tenth of what the rows take, which checkpoints cannot change"),
        };
        let text = format!(
            "a recovery takes about {time} now, {} of it for the journal; --time-to-recover is {goal}, and the journal may take \
             {why}",
            roughly(journal)
        );
        if journal > allowed { Due::Yes(text) } else { Due::No(text) }
    }
}

/// The last moment before a checkpoint or before the end, which takes longest of those since the checkpoint before.
struct SlowMoment {
    at: Edge,
    image_bytes: u64,
    journal_bytes: u64,
}

fn moments(stretch: &Stretch) -> impl Iterator<Item = SlowMoment> {
    let ends = stretch.checkpoints.iter().skip(1).map(|row| Edge { lsn: row.lsn, time: row.time });
    let ends = ends.chain(stretch.window().map(|window| window.latest));
    stretch.checkpoints.iter().zip(ends).map(|(row, end)| SlowMoment {
        at: end,
        image_bytes: row.bytes_total,
        journal_bytes: stretch.segments_between(row.lsn, end.lsn).map(|segment| segment.bytes).sum(),
    })
}

fn not_measured(pace: &RecoveryPace) -> String {
    let what = match (pace.loading, pace.folding) {
        (None, _) => "how long a recovery takes was not measured yet",
        (Some(_), _) => "how long the journal takes was not measured yet, only how long the rows take",
    };
    format!(
        "{what}; measure it with: backwhen verify --restore --into CONN, when some journal follows the newest checkpoint"
    )
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}
