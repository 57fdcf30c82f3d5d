//! Options about what a history keeps, what is needed of it, and the room that it has.

use std::time::Duration;

use clap::Args;

use super::{parse_duration, parse_size};
use crate::history::expire::{CalendarRules, Period, RetentionRules};
use crate::history::outlook::Needs;

/// The rules of retention.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct RetentionOptions {
    /// Keep every moment within this time before the newest recoverable moment, such as 7d or 48h
    #[arg(long, env = "BACKWHEN_KEEP_WITHIN", value_name = "TIME", value_parser = parse_duration)]
    keep_within: Option<Duration>,
    /// Keep the newest N checkpoints, and every moment since the oldest of them
    #[arg(long, env = "BACKWHEN_KEEP_LAST", value_name = "N")]
    keep_last: Option<usize>,
    /// Keep a single checkpoint for each of the last N hours that have one; N is a number or `unlimited`
    #[arg(long, env = "BACKWHEN_KEEP_HOURLY", value_name = "N", value_parser = parse_count)]
    keep_hourly: Option<usize>,
    /// Keep a single checkpoint for each of the last N days that have one
    #[arg(long, env = "BACKWHEN_KEEP_DAILY", value_name = "N", value_parser = parse_count)]
    keep_daily: Option<usize>,
    /// Keep a single checkpoint for each of the last N weeks that have one
    #[arg(long, env = "BACKWHEN_KEEP_WEEKLY", value_name = "N", value_parser = parse_count)]
    keep_weekly: Option<usize>,
    /// Keep a single checkpoint for each of the last N months that have one
    #[arg(long, env = "BACKWHEN_KEEP_MONTHLY", value_name = "N", value_parser = parse_count)]
    keep_monthly: Option<usize>,
    /// Keep a single checkpoint for each of the last N years that have one
    #[arg(long, env = "BACKWHEN_KEEP_YEARLY", value_name = "N", value_parser = parse_count)]
    keep_yearly: Option<usize>,
    /// Keep every moment for this time, as --keep-within does: within it somebody notices that rows are wrong
    #[arg(long, env = "BACKWHEN_TIME_TO_DISCOVER", value_name = "TIME", value_parser = parse_duration)]
    time_to_discover: Option<Duration>,
}

impl RetentionOptions {
    pub(super) fn rules(&self) -> RetentionRules {
        let counts = [
            (Period::Hour, self.keep_hourly),
            (Period::Day, self.keep_daily),
            (Period::Week, self.keep_weekly),
            (Period::Month, self.keep_monthly),
            (Period::Year, self.keep_yearly),
        ];
        let calendar = counts.into_iter().filter_map(|(period, count)| Some((period, count?))).collect();
        let within = self.keep_within.into_iter().chain(self.time_to_discover).max();
        RetentionRules { last: self.keep_last, within, calendar: CalendarRules(calendar) }
    }
}

/// How quickly a person needs to recover.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(super) struct RecoveryTimeOption {
    /// How long a recovery may take, such as 10m
    #[arg(long, env = "BACKWHEN_TIME_TO_RECOVER", value_name = "TIME", value_parser = parse_duration)]
    pub(super) time_to_recover: Option<Duration>,
}

/// The room that a history may take.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(super) struct QuotaOption {
    /// The room that the history may take in all, where that is less than the disk has: a size such as 200GB
    #[arg(long, env = "BACKWHEN_QUOTA", value_name = "SIZE", value_parser = parse_quota)]
    pub(super) quota: Option<u64>,
}

/// The options by which `status` and the metrics of `capture` foretell.
#[derive(Args, Clone, Debug, Default)]
#[command(
    next_help_heading = "Options of the forecast, which assumes that expire runs each day by these rules"
)]
pub(super) struct OutlookOptions {
    #[command(flatten)]
    retention: RetentionOptions,
    #[command(flatten)]
    recovery_time: RecoveryTimeOption,
    #[command(flatten)]
    quota: QuotaOption,
    /// Warn when the room lasts for less than this
    #[arg(long, env = "BACKWHEN_WARN_ROOM", value_name = "TIME", default_value = "14d", value_parser = parse_duration)]
    warn_room: Duration,
    /// Be critical when the room lasts for less than this
    #[arg(long, env = "BACKWHEN_CRITICAL_ROOM", value_name = "TIME", default_value = "3d", value_parser = parse_duration)]
    critical_room: Duration,
}

impl OutlookOptions {
    pub(super) fn rules(&self) -> RetentionRules {
        self.retention.rules()
    }

    pub(super) fn needs(&self) -> Needs {
        Needs {
            time_to_discover: self.retention.time_to_discover,
            time_to_recover: self.recovery_time.time_to_recover,
        }
    }

    pub(super) fn quota(&self) -> Option<u64> {
        self.quota.quota
    }

    /// The time left from which monitoring warns, and from which it is critical, in days.
    pub(super) fn limits(&self) -> (f64, f64) {
        let days = |time: Duration| time.as_secs_f64() / 86_400.0;
        (days(self.warn_room), days(self.critical_room))
    }
}

fn parse_count(text: &str) -> Result<usize, String> {
    if text == "unlimited" {
        return Ok(usize::MAX);
    }
    text.parse().map_err(|_| "write a number such as 7, or unlimited".to_owned())
}

fn parse_quota(text: &str) -> Result<u64, String> {
    parse_size(text)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "write a size such as 500MB or 200GB".to_owned())
}
