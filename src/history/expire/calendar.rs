//! Keeps single checkpoints by the calendar: the newest one of each hour, day, week, month or year.
//!
//! The rules are restic's, so that a person who knows one tool can foretell the other. A rule counts its periods back
//! from the newest checkpoint, and only periods that have a checkpoint count. As long as a rule has counts left, it keeps
//! the oldest checkpoint too, so that a young history keeps its beginning. A checkpoint that stays for another reason
//! counts all the same.
//!
//! Times are local times of the machine on which the rules are applied. The hour that comes twice when daylight saving
//! ends is one hour, and the hour that is skipped has no checkpoints. Weeks are those of ISO 8601: they begin on Monday,
//! and the first days of January may belong to a week of the year before.

use std::collections::BTreeSet;

use chrono::{Datelike, NaiveDateTime, Timelike};

/// A part of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Period {
    Hour,
    Day,
    Week,
    Month,
    Year,
}

impl Period {
    /// The word for one checkpoint in each period: the option without `--keep-`.
    pub fn adverb(self) -> &'static str {
        match self {
            Period::Hour => "hourly",
            Period::Day => "daily",
            Period::Week => "weekly",
            Period::Month => "monthly",
            Period::Year => "yearly",
        }
    }

    /// The longest that a period can be, in seconds.
    pub fn longest_seconds(self) -> f64 {
        const DAY: f64 = 86_400.0;
        match self {
            Period::Hour => 3600.0,
            Period::Day => DAY,
            Period::Week => 7.0 * DAY,
            Period::Month => 31.0 * DAY,
            Period::Year => 366.0 * DAY,
        }
    }

    /// Tells this period from the others at a local time.
    fn of(self, local: NaiveDateTime) -> (i32, u32, u32) {
        match self {
            Period::Hour => (local.year(), local.ordinal(), local.hour()),
            Period::Day => (local.year(), local.ordinal(), 0),
            Period::Week => (local.iso_week().year(), local.iso_week().week(), 0),
            Period::Month => (local.year(), local.month(), 0),
            Period::Year => (local.year(), 0, 0),
        }
    }
}

/// The numbers of hours, days and so on of which the newest checkpoint is kept. Without rules, none is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CalendarRules(pub Vec<(Period, usize)>);

impl CalendarRules {
    /// Returns the periods for which each checkpoint is kept, none for most. `local_times` are those of all checkpoints in
    /// the order of their positions.
    ///
    /// The newest checkpoint of a period is the last one by position. If a clock was set back, a period comes a second
    /// time, and does not count again.
    pub fn kept(&self, local_times: &[NaiveDateTime]) -> Vec<Vec<Period>> {
        let mut kept = vec![Vec::new(); local_times.len()];
        for (period, count) in &self.0 {
            let (mut left, mut seen) = (*count, BTreeSet::new());
            for (place, local) in local_times.iter().enumerate().rev() {
                if left > 0 && (seen.insert(period.of(*local)) || place == 0) {
                    kept[place].push(*period);
                    left -= 1;
                }
            }
        }
        kept
    }
}

#[cfg(test)]
mod tests;
