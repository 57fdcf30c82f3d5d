//! `backwhen check --against-source`

use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use super::{SourceOption, Surroundings, ui};
use crate::ambient;
use crate::capture::{self, live};
use crate::connect::Conninfo;
use crate::error::{Error, Kind, Result};
use crate::history::History;
use crate::history::evidence::{CheckMethod, Evidence};
use crate::model::{Edge, Lsn, PgTime};
use crate::protect::{Access, compare};

/// How often to check how far the history has come.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How long the history may make no progress; after that the wait fails.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Serialize)]
struct ComparisonReport {
    ok: bool,
    #[serde(flatten)]
    at: Edge,
    tables: usize,
    rows: u64,
    differences: Vec<String>,
    not_compared: Vec<String>,
    evidence: Option<String>,
}

pub(super) async fn run(at: &Surroundings, source: Option<String>, jobs: usize) -> Result<ExitCode> {
    let (history, _objects) = at.history_held()?;
    if !history.capture_is_running() {
        return Err(not_captured(&history));
    }
    let source = SourceOption { source }.of(&history)?;
    let tools = at.tools()?;
    let progress = at.ui.progress();
    let access = Access { source: &source, tools: &tools, jobs, progress: &*progress };
    let mut evidence = Evidence::begun(CheckMethod::AgainstSource, PgTime::from_utc(ambient::now()));
    let compared =
        compare::with_source(&access, &history, async |lsn| wait_for(&history, &source, lsn).await).await?;
    evidence.finished = PgTime::from_utc(ambient::now());
    evidence.up_to = Some(compared.at);
    evidence.tables = compared.tables;
    evidence.differences = compared.differences;
    evidence.not_compared = compared.not_compared;
    let shown = ComparisonReport {
        ok: evidence.is_good(),
        at: compared.at,
        tables: evidence.tables.len(),
        rows: evidence.tables.iter().map(|table| table.rows).sum(),
        differences: evidence.differences.clone(),
        not_compared: evidence.not_compared.clone(),
        evidence: super::verify::keep(&history, &evidence),
    };
    at.ui.result(&shown, || describe(&shown))?;
    Ok(if shown.ok { ExitCode::SUCCESS } else { ExitCode::from(Kind::Damaged.exit_code()) })
}

fn not_captured(history: &History) -> Error {
    Error::refused(format!(
        "no capture is running on {}, so it cannot come to where the source stands; start `backwhen capture`, \
         then check again",
        history.root().display()
    ))
}

/// Waits until a running capture has made everything before `lsn` durable.
///
/// # Errors
/// Fails with `Unavailable` if the capture finds that continuity is lost, or makes no progress; with `Refused` if no
/// capture runs.
pub(super) async fn wait_for(history: &History, source: &Conninfo, lsn: Lsn) -> Result<()> {
    // An idle source would never write WAL up to that position by itself.
    capture::heartbeat(history, source).await?;
    let mut before = Lsn::ZERO;
    let mut moved = ambient::instant();
    loop {
        let live = live::read(&history.live_path());
        let durable = live.as_ref().map_or(Lsn::ZERO, |live| live.durable);
        if durable >= lsn {
            return Ok(());
        }
        if !history.capture_is_running() {
            return Err(not_captured(history));
        }
        if live.is_some_and(|live| live.state.is_lost()) {
            return Err(Error::unavailable(
                "continuity was lost, and capture brings source and history together again; try again when \
                 `backwhen status` says streaming",
            ));
        }
        if durable > before {
            (before, moved) = (durable, ambient::instant());
        }
        if moved.elapsed() > PATIENCE {
            return Err(Error::unavailable(format!(
                "the history stands at {durable} and does not come to {lsn}; see: backwhen status"
            )));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn describe(shown: &ComparisonReport) -> String {
    let mut text = format!(
        "compared  {} rows in {} tables at {}  {}\n",
        shown.rows,
        shown.tables,
        shown.at.lsn,
        ui::both_times(shown.at.time)
    );
    for table in &shown.differences {
        text.push_str(&format!("DIFFERS   {}\n", ui::printable(table)));
    }
    for skipped in &shown.not_compared {
        text.push_str(&format!("skipped   {}\n", ui::printable(skipped)));
    }
    text.push_str(if shown.ok {
        "the history is what the source is"
    } else {
        "the history is not what the source is"
    });
    text
}
