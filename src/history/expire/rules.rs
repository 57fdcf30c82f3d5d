//! Decides which checkpoints must be kept, and from which one on the journal is.

use std::time::Duration;

use chrono::NaiveDateTime;

use super::calendar::CalendarRules;
use crate::error::{Error, Result};
use crate::history::catalog::CheckpointRow;
use crate::model::PgTime;
use crate::model::moment::format_duration;

/// The rules of retention. An object is kept if one of the rules keeps it.
#[derive(Clone, Debug, Default)]
pub struct RetentionRules {
    /// Keep this number of the newest checkpoints, and every moment from the oldest of them on.
    pub last: Option<usize>,
    /// Keep every moment that is not further than this before the newest moment of the history.
    pub within: Option<Duration>,
    /// Keep single checkpoints by the calendar.
    pub calendar: CalendarRules,
}

impl RetentionRules {
    pub fn is_empty(&self) -> bool {
        self.last.is_none() && self.within.is_none() && self.calendar.0.is_empty()
    }

    /// # Errors
    /// `Usage` if nothing is to be kept by any rule.
    pub fn check(&self) -> Result<()> {
        if self.is_empty() {
            return Err(Error::usage(
                "no rule says what to keep; give --keep-within 7d, --keep-last 3, --keep-daily 30, or several of them",
            ));
        }
        let nothing = |option: &str| Error::usage(format!("{option} 0 would keep nothing; 1 is the least"));
        if self.last == Some(0) {
            return Err(nothing("--keep-last"));
        }
        match self.calendar.0.iter().find(|(_, count)| *count == 0) {
            Some((period, _)) => Err(nothing(&format!("--keep-{}", period.adverb()))),
            None => Ok(()),
        }
    }

    /// Returns the rules as a person types them.
    pub fn describe(&self) -> Vec<String> {
        let last = self.last.map(|last| format!("--keep-last {last}"));
        let within = self.within.map(|within| format!("--keep-within {}", format_duration(within)));
        let calendar = self.calendar.0.iter().map(|(period, count)| {
            let count = if *count == usize::MAX { "unlimited".to_owned() } else { count.to_string() };
            format!("--keep-{} {count}", period.adverb())
        });
        last.into_iter().chain(within).chain(calendar).collect()
    }

    /// Returns the index of the oldest checkpoint that is kept together with the journal after it, among `checkpoints` in
    /// the order of their positions. The last checkpoint is always kept. `newest` is the last moment of the history.
    pub fn oldest(&self, checkpoints: &[CheckpointRow], newest: PgTime) -> usize {
        let end = checkpoints.len().saturating_sub(1);
        let firsts = [self.first_by_count(checkpoints), self.first_by_time(checkpoints, newest)];
        firsts.into_iter().flatten().min().unwrap_or(end).min(end)
    }

    fn first_by_count(&self, checkpoints: &[CheckpointRow]) -> Option<usize> {
        self.last.map(|last| checkpoints.len().saturating_sub(last))
    }

    fn first_by_time(&self, checkpoints: &[CheckpointRow], newest: PgTime) -> Option<usize> {
        self.within.map(|within| {
            let micros = i64::try_from(within.as_micros()).unwrap_or(i64::MAX);
            let since = PgTime(newest.0.saturating_sub(micros));
            // The last of those that are older without exception, as clocks step back.
            let later = checkpoints.iter().position(|row| row.time > since);
            later.map_or(checkpoints.len(), |later| later).saturating_sub(1)
        })
    }

    /// Returns the rules that keep each checkpoint, as the options without `--keep-`, and `newest` for the last one.
    /// `local` gives the local time of a time.
    pub fn reasons(
        &self,
        checkpoints: &[CheckpointRow],
        newest: PgTime,
        local: &dyn Fn(PgTime) -> NaiveDateTime,
    ) -> Vec<Vec<&'static str>> {
        let times: Vec<_> = checkpoints.iter().map(|row| local(row.time)).collect();
        let calendar = self.calendar.kept(&times);
        let (by_count, by_time) = (self.first_by_count(checkpoints), self.first_by_time(checkpoints, newest));
        let reasons = calendar.iter().enumerate().map(|(place, periods)| {
            let last = by_count.filter(|first| place >= *first).map(|_| "last");
            let within = by_time.filter(|first| place >= *first).map(|_| "within");
            let newest = (place + 1 == checkpoints.len()).then_some("newest");
            let periods = periods.iter().map(|period| period.adverb());
            last.into_iter().chain(within).chain(periods).chain(newest).collect()
        });
        reasons.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::calendar::Period;
    use super::*;
    use crate::history::checkpoint::Origin;
    use crate::model::Lsn;

    fn at(times: &[i64]) -> Vec<CheckpointRow> {
        let row = |(number, time): (usize, &i64)| CheckpointRow {
            id: number.to_string(),
            epoch: 1,
            lsn: Lsn(number as u64),
            time: PgTime(time * 1_000_000),
            label: None,
            origin: Origin::Fold,
            rows: 0,
            bytes_new: 0,
            bytes_total: 0,
        };
        times.iter().enumerate().map(row).collect()
    }

    fn oldest(last: Option<usize>, within: Option<u64>, times: &[i64], newest: i64) -> usize {
        let rules =
            RetentionRules { last, within: within.map(Duration::from_secs), ..RetentionRules::default() };
        rules.oldest(&at(times), PgTime(newest * 1_000_000))
    }

    #[test]
    fn a_window_keeps_the_newest_checkpoint_before_it() {
        let times = [0, 100, 200, 300];
        assert_eq!(oldest(None, Some(150), &times, 320), 1, "170 is recovered from 100");
        assert_eq!(oldest(None, Some(120), &times, 320), 2, "200 is 200");
        assert_eq!(oldest(None, Some(0), &times, 320), 3);
        assert_eq!(oldest(None, Some(10_000), &times, 320), 0);
        assert_eq!(oldest(None, Some(u64::MAX), &times, 320), 0);
    }

    #[test]
    fn the_most_generous_rule_counts_and_one_always_stays() {
        let times = [0, 100, 200, 300];
        assert_eq!(oldest(Some(2), None, &times, 320), 2);
        assert_eq!(oldest(Some(9), None, &times, 320), 0);
        assert_eq!(oldest(Some(3), Some(0), &times, 320), 1);
        assert_eq!(oldest(Some(1), Some(150), &times, 320), 1);
        assert_eq!(oldest(Some(1), Some(0), &[5], 5), 0);
        assert!(RetentionRules::default().check().is_err());
        assert!(RetentionRules { last: Some(0), ..RetentionRules::default() }.check().is_err());
        let calendar = CalendarRules(vec![(Period::Day, 7), (Period::Week, 0)]);
        assert!(RetentionRules { calendar, ..RetentionRules::default() }.check().is_err());
    }

    #[test]
    fn each_checkpoint_is_told_which_rules_keep_it() {
        let day = 86_400;
        let rules = RetentionRules {
            last: Some(1),
            within: Some(Duration::from_secs(2 * day)),
            calendar: CalendarRules(vec![(Period::Day, 3), (Period::Month, 1)]),
        };
        let times = [0, 1, 2, 3, 4].map(|number| number * day as i64);
        let local = |time: PgTime| time.to_utc().naive_utc();
        let reasons = rules.reasons(&at(&times), PgTime(times[4] * 1_000_000), &local);
        let expected: [&[&str]; 5] = [
            &[],
            &[],
            &["within", "daily"],
            &["within", "daily"],
            &["last", "within", "daily", "monthly", "newest"],
        ];
        assert_eq!(reasons, expected);
        assert_eq!(
            rules.describe().join(" "),
            "--keep-last 1 --keep-within 2d --keep-daily 3 --keep-monthly 1"
        );
        // Rules by the calendar alone keep the journal since the newest checkpoint.
        let calendar = RetentionRules { last: None, within: None, ..rules };
        assert_eq!(calendar.oldest(&at(&times), PgTime(0)), 4);
    }

    #[test]
    fn a_clock_that_stepped_back_lets_nothing_go_that_a_time_may_mean() {
        // The second checkpoint bears a later time than the third.
        assert_eq!(oldest(None, Some(150), &[0, 200, 160, 300], 320), 0);
    }
}
