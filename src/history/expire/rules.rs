//! Decides which checkpoint is the oldest that must be kept.

use std::time::Duration;

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
}

impl RetentionRules {
    /// # Errors
    /// `Usage` if nothing is to be kept by any rule.
    pub fn check(&self) -> Result<()> {
        match (self.last, self.within) {
            (None, None) => {
                Err(Error::usage("no rule says what to keep; give --keep-within 7d, --keep-last 3, or both"))
            }
            (Some(0), _) => Err(Error::usage("--keep-last 0 would keep nothing; 1 is the least")),
            _ => Ok(()),
        }
    }

    /// Returns the rules as a person types them.
    pub fn describe(&self) -> Vec<String> {
        let last = self.last.map(|last| format!("--keep-last {last}"));
        let within = self.within.map(|within| format!("--keep-within {}", format_duration(within)));
        last.into_iter().chain(within).collect()
    }

    /// Returns the index of the oldest checkpoint that is kept, among `checkpoints` in the order of their positions. The
    /// last checkpoint is always kept. `newest` is the last moment of the history.
    pub fn oldest(&self, checkpoints: &[CheckpointRow], newest: PgTime) -> usize {
        let end = checkpoints.len().saturating_sub(1);
        let by_count = self.last.map(|last| checkpoints.len().saturating_sub(last));
        let by_time = self.within.map(|within| {
            let micros = i64::try_from(within.as_micros()).unwrap_or(i64::MAX);
            let since = PgTime(newest.0.saturating_sub(micros));
            // The last of those that are older without exception, as clocks step back.
            let later = checkpoints.iter().position(|row| row.time > since);
            later.map_or(end, |later| later.saturating_sub(1))
        });
        by_count.into_iter().chain(by_time).min().unwrap_or(0).min(end)
    }
}

#[cfg(test)]
mod tests {
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
        let rules = RetentionRules { last, within: within.map(Duration::from_secs) };
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
        assert!(
            RetentionRules::default().check().is_err()
                && RetentionRules { last: Some(0), within: None }.check().is_err()
        );
    }

    #[test]
    fn a_clock_that_stepped_back_lets_nothing_go_that_a_time_may_mean() {
        // The second checkpoint bears a later time than the third.
        assert_eq!(oldest(None, Some(150), &[0, 200, 160, 300], 320), 0);
    }
}
