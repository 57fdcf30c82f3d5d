//! The facts that `status` asks the source for, and the limits by which it judges them.

use std::time::Duration;

use super::Lag;
use crate::ambient;
use crate::capture::RetainedWal;
use crate::capture::live::Live;
use crate::capture::state::State;
use crate::cli::retention::OutlookOptions;
use crate::cli::{BudgetOption, DEFAULT_BUDGET, LagOption};
use crate::connect::{Conninfo, ServerFault, Session};
use crate::error::Error;
use crate::history::History;
use crate::history::timeline::Window;
use crate::model::{Lsn, PgTime};
use crate::source::blocker::{OpenTransaction, oldest_transaction};
use crate::source::inspect;
use crate::source::slot::SlotFacts;

/// How long the source may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Lag from which monitoring warns, and from which it is critical, in seconds; and the same in heartbeats, if those
/// are slow. An idle source's last moment is as old as the last heartbeat.
const WARN_LAG: (f64, f64) = (60.0, 3.0);
const CRITICAL_LAG: (f64, f64) = (600.0, 10.0);

/// The source's end as the running capture knows it is believed for this long, in seconds, or for three heartbeats.
const FRESH: f64 = 30.0;

/// The limits that the command line names. For the others, those of the running capture count.
#[derive(Clone)]
pub(in crate::cli) struct Expected {
    /// The most WAL that the slot may retain, in bytes; `Some(None)` means that there is no limit.
    budget: Option<Option<u64>>,
    lag: LagOption,
    pub(super) outlook: OutlookOptions,
}

impl Expected {
    pub(in crate::cli) fn new(budget: &BudgetOption, lag: LagOption, outlook: OutlookOptions) -> Expected {
        Expected { budget: budget.given(), lag, outlook }
    }

    pub(super) fn budget(&self, running: Option<&Live>) -> Option<u64> {
        let of_capture = || running.and_then(|live| live.options).map(|options| options.max_retained_wal);
        self.budget.or_else(of_capture).unwrap_or(DEFAULT_BUDGET)
    }

    /// The lag from which monitoring warns, and from which it is critical, in seconds.
    pub(super) fn lag_limits(&self, running: Option<&Live>) -> (f64, f64) {
        let limit = |given: Option<Duration>, (seconds, heartbeats): (f64, f64)| {
            given.map_or_else(|| (heartbeats * heartbeat(running)).max(seconds), |given| given.as_secs_f64())
        };
        (limit(self.lag.warn_lag, WARN_LAG), limit(self.lag.critical_lag, CRITICAL_LAG))
    }
}

fn heartbeat(running: Option<&Live>) -> f64 {
    running.and_then(|live| live.options).map_or(0.0, |options| options.heartbeat_seconds)
}

/// The source's answer, or the reason why there is none.
pub(super) enum Asked {
    No,
    /// Why it could not be asked.
    InVain(String),
    /// Another cluster answered: in words, which.
    AnotherCluster(String),
    Answered(Box<(SlotFacts, Option<OpenTransaction>)>),
}

impl Asked {
    pub(super) fn slot(&self) -> Option<&SlotFacts> {
        match self {
            Asked::Answered(answer) => Some(&answer.0),
            _ => None,
        }
    }

    /// The transaction that keeps the slot from letting go of WAL, if it is not capture that is behind. The history holds
    /// everything up to `frontier`.
    pub(super) fn held_by(&self, frontier: Lsn) -> Option<String> {
        let Asked::Answered(answer) = self else { return None };
        let (slot, oldest) = &**answer;
        let retained = RetainedWal::of(slot)?.held_up_to(frontier, slot.head);
        oldest.as_ref().filter(|_| retained.is_held_by_a_transaction()).map(ToString::to_string)
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Asked::No => "not asked".to_owned(),
            Asked::InVain(why) | Asked::AnotherCluster(why) => format!("cannot be asked: {why}"),
            Asked::Answered(_) => "reachable".to_owned(),
        }
    }
}

/// How far the history is behind. Where nobody knows where the source stands, the bytes are unknown, and the seconds
/// grow with the clock.
pub(super) fn lag(frontier: Lsn, window: Option<&Window>, asked: &Asked, capture: Option<&Live>) -> Lag {
    let now = PgTime::from_utc(ambient::now());
    let fresh = (3.0 * heartbeat(capture)).max(FRESH);
    // A capture that has lost its connection knows no more than anybody else.
    let capture = capture.filter(|live| live.state == State::Streaming);
    // If the source does not answer now, it may have hung since capture asked it.
    let capture = capture.filter(|_| !matches!(asked, Asked::InVain(_)));
    let capture = capture.filter(|live| live.source_asked.is_some_and(|at| now.seconds_since(at) <= fresh));
    let head = asked.slot().map(|slot| slot.head).or_else(|| capture.and_then(|live| live.source_head));
    let bytes = head.map(|head| head.bytes_since(frontier));
    let behind = window.map(|window| now.seconds_since(window.latest.time).max(0.0));
    Lag { bytes, seconds: if bytes == Some(0) { Some(0.0) } else { behind } }
}

/// Asks the source, which may take as long as [`PATIENCE`].
pub(super) async fn ask(source: &Conninfo, history: &History) -> Asked {
    let identity = history.identity();
    let asking = async {
        let session = Session::connect_utf8(source, "status").await?;
        if let Err(error) = inspect::check_cluster(&session, &identity.source.system_identifier).await
            && ServerFault::of(&error).is_none()
        {
            return Ok(Asked::AnotherCluster(error.to_string()));
        }
        let facts = SlotFacts::read(&session, &identity.slot()).await?;
        if facts.is_standby {
            // A standby cannot tell how far its primary is.
            return Ok(Asked::InVain("it is a standby; name its primary with --source".to_owned()));
        }
        // If one fact cannot be read, the other facts still count.
        let oldest = oldest_transaction(&session).await.unwrap_or_default();
        Ok::<_, Error>(Asked::Answered(Box::new((facts, oldest))))
    };
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(Ok(asked)) => asked,
        Ok(Err(error)) => Asked::InVain(error.to_string()),
        Err(_) => Asked::InVain(format!("it does not answer within {} s", PATIENCE.as_secs())),
    }
}
