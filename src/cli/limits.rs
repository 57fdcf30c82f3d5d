//! Options about how much the source may retain for a history, and how late a history may be.

use std::time::Duration;

use clap::Args;

use super::{parse_duration, parse_size};

/// How much WAL the source may retain for a history.
#[derive(Args, Clone)]
pub(super) struct BudgetOption {
    /// WAL that the slot may retain on the source before it is given up, at the cost of a gap: 500MB, 64GB, or `none`
    /// [default: what the running capture was given, or 64GB]
    #[arg(long, env = "BACKWHEN_MAX_RETAINED_WAL", value_name = "SIZE", value_parser = parse_budget)]
    max_retained_wal: Option<WalBudget>,
}

#[derive(Clone, Copy)]
struct WalBudget(Option<u64>);

/// The limit where none is named, in bytes: 64 GiB.
pub(super) const DEFAULT_BUDGET: Option<u64> = Some(64 << 30);

/// How late the history may be before monitoring says so.
#[derive(Args, Clone, Copy)]
pub(super) struct LagOption {
    /// Age of the last moment held from which status warns [default: 60s, or three heartbeats]
    #[arg(long, env = "BACKWHEN_WARN_LAG", value_name = "TIME", value_parser = parse_duration)]
    pub(super) warn_lag: Option<Duration>,
    /// Age of the last moment held from which status is CRITICAL [default: 10m, or ten heartbeats]
    #[arg(long, env = "BACKWHEN_CRITICAL_LAG", value_name = "TIME", value_parser = parse_duration)]
    pub(super) critical_lag: Option<Duration>,
}

impl BudgetOption {
    /// Returns the limit in bytes; `None` means that there is no limit.
    pub(super) fn bytes(&self) -> Option<u64> {
        self.given().unwrap_or(DEFAULT_BUDGET)
    }

    /// Returns the limit that was named on the command line, in the environment or in the file.
    pub(super) fn given(&self) -> Option<Option<u64>> {
        self.max_retained_wal.map(|budget| budget.0)
    }
}

fn parse_budget(text: &str) -> Result<WalBudget, String> {
    if text == "none" {
        return Ok(WalBudget(None));
    }
    let bytes = parse_size(text).filter(|bytes| *bytes > 0);
    bytes
        .map(|bytes| WalBudget(Some(bytes)))
        .ok_or_else(|| "write a size such as 500MB or 64GB, or none".to_owned())
}
