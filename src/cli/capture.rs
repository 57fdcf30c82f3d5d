//! `backwhen capture`

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::metrics::{self, Subject};
use super::retention::OutlookOptions;
use super::status::Expected;
use super::{BudgetOption, CopyOptions, LagOption, SourceOption, Surroundings, default_jobs, parse_duration};
use crate::capture::{self, Options, Until};
use crate::error::Result;
use crate::model::Lsn;

/// Follow the source until SIGINT or SIGTERM, or until a given position
#[derive(Args, Clone)]
pub struct Capture {
    /// Stop at this position: `caught-up`, or an LSN
    #[arg(long, env = "BACKWHEN_UNTIL", value_name = "POINT", value_parser = parse_until)]
    until: Option<Until>,
    /// Time between heartbeats; an idle database can be recovered up to the last heartbeat
    #[arg(long, env = "BACKWHEN_HEARTBEAT", value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    heartbeat: Duration,
    /// With --until: how long to keep trying while the source, the disk or the first copy's store fails
    #[arg(long, env = "BACKWHEN_PATIENCE", value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    patience: Duration,
    /// How many sessions read new tables at the same time
    #[arg(long, env = "BACKWHEN_JOBS", value_name = "N", default_value_t = default_jobs())]
    jobs: usize,
    /// Answer GET /metrics for Prometheus at PORT, reachable only from this machine, or at ADDR:PORT
    #[arg(long, env = "BACKWHEN_METRICS_LISTEN", value_name = "[ADDR:]PORT", value_parser = metrics::parse_address)]
    metrics_listen: Option<SocketAddr>,
    #[command(flatten)]
    budget: BudgetOption,
    #[command(flatten)]
    copies: CopyOptions,
    #[command(flatten)]
    lag: LagOption,
    #[command(flatten)]
    source: SourceOption,
    #[command(flatten)]
    outlook: OutlookOptions,
}

#[derive(Serialize)]
struct CaptureReport {
    /// The end LSN of the durable transactions.
    lsn: Lsn,
}

fn parse_until(text: &str) -> Result<Until, String> {
    match text {
        "caught-up" => Ok(Until::CaughtUp),
        text => text
            .parse()
            .map(Until::Lsn)
            .map_err(|_| "write caught-up, or an LSN such as 0/16B3748".to_owned()),
    }
}

impl Capture {
    pub async fn run(self, at: &Surroundings) -> Result<()> {
        let history = at.history_to_grow()?;
        let source = self.source.of(&history)?;
        let options = Options {
            until: self.until.unwrap_or(Until::Stopped),
            heartbeat: self.heartbeat,
            patience: self.patience,
            jobs: self.jobs,
            max_retained_wal: self.budget.bytes(),
            also: self.copies.places(at)?,
            durable: self.copies.durable,
        };
        if let Some(address) = self.metrics_listen
            && at.metrics_served.set(()).is_ok()
        {
            let (history, source) = (history.clone(), source.clone());
            metrics::serve(
                address,
                Subject { history, source, expected: Expected::new(&self.budget, self.lag, self.outlook) },
            )?;
        }
        let lsn = capture::run(&history, &source, &at.tools()?, &options, at.heed_signals()).await?;
        at.ui.result(&CaptureReport { lsn }, || format!("captured up to {lsn}"))
    }
}
