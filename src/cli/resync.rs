//! `backwhen resync`

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::{BudgetOption, CopyOptions, SourceOption, Surroundings, caught_up, default_jobs, ui};
use crate::ambient;
use crate::capture::{self, Options, Until, live};
use crate::error::{Error, Result};
use crate::history::History;
use crate::history::catalog::Catalog;
use crate::history::checkpoint::checkpoint_id;
use crate::history::evidence::{CheckMethod, Evidence, TableDigest};
use crate::history::resync::{ComparedPosition, Resync as Report, TableResync};
use crate::history::timeline::{Gap, Timeline};
use crate::model::{Edge, PgTime};
use crate::progress::{Progress, Unit};
use crate::protect::Access;
use crate::protect::suspicion::{self, SourceComparison};

/// The time between heartbeats of a capture that runs only to bring the history up to now.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// How long such a capture retries while the source or the disk fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Compare the history with the source by digests, and put right what differs
///
/// A running capture goes on. Without one the history is first brought up to now; if its continuity is lost,
/// that alone begins a new epoch behind a gap. Only what differs is read from the source. Where rows differ
/// though nothing is known to be lost, a checkpoint is recorded: from there on the history is right.
#[derive(Args, Clone)]
pub struct Resync {
    /// Sessions that compare tables at the same time
    #[arg(long, env = "BACKWHEN_JOBS", value_name = "N", default_value_t = default_jobs())]
    jobs: usize,
    #[command(flatten)]
    budget: BudgetOption,
    #[command(flatten)]
    copies: CopyOptions,
    #[command(flatten)]
    source: SourceOption,
}

#[derive(Serialize)]
struct ResyncReport {
    /// The comparison found no loss that had gone unnoticed.
    ok: bool,
    #[serde(flatten)]
    at: Edge,
    epoch: u32,
    /// The gap after which the new epoch began.
    gap: Option<Gap>,
    checkpoint: Option<String>,
    compared_with: Option<ComparedPosition>,
    /// Why there was nothing to compare with.
    without: Option<String>,
    tables: Vec<TableResync>,
    gone: Vec<String>,
    not_compared: Vec<String>,
    rows_gone: u64,
    rows_new: u64,
    bytes_read: u64,
    bytes: u64,
    evidence: Option<String>,
}

impl Resync {
    pub async fn run(self, at: &Surroundings) -> Result<()> {
        let history = at.history_to_write("resync")?;
        let epoch = history.current_epoch()?.number;
        let begun = PgTime::from_utc(ambient::now());
        let progress = at.ui.progress();
        let resyncing =
            at.heed_signals().run_until_cancelled_owned(self.resync(at, &history, &*progress)).await;
        let found = match resyncing.ok_or_else(Error::interrupted)? {
            // Continuity was lost, and the new epoch is a resynchronisation of its own.
            Err(_) if capture_resynced(at, &history, epoch, &*progress).await? => None,
            found => found?,
        };
        drop(progress);
        let shown = match found {
            Some(found) => shown_after_comparing(&history, found, begun),
            None => shown_after_loss(&history)?,
        };
        at.ui.result(&shown, || describe(&shown))
    }

    /// Returns `None` if a new epoch began instead.
    async fn resync(
        &self,
        at: &Surroundings,
        history: &History,
        progress: &dyn Progress,
    ) -> Result<Option<SourceComparison>> {
        let (source, tools) = (self.source.of(history)?, at.tools()?);
        let capturing = history.capture_is_running();
        let follow = async |until| {
            let options = Options {
                until,
                heartbeat: HEARTBEAT,
                patience: PATIENCE,
                jobs: self.jobs,
                max_retained_wal: self.budget.bytes(),
                also: self.copies.places(at)?,
                durable: self.copies.durable,
            };
            capture::run(history, &source, &tools, &options, at.heed_signals()).await
        };
        if !capturing {
            let epoch = history.current_epoch()?.number;
            follow(Until::CaughtUp).await?;
            if history.current_epoch()?.number > epoch {
                return Ok(None);
            }
        }
        let access = Access { source: &source, tools: &tools, jobs: self.jobs, progress };
        let catalog = at.catalog(history)?;
        let reached = async |lsn| {
            if capturing {
                caught_up::wait_for(history, &source, lsn).await
            } else {
                follow(Until::Lsn(lsn)).await.map(drop)
            }
        };
        suspicion::compare_and_mend(&access, history, &catalog, reached).await.map(Some)
    }
}

/// Whether a new epoch began after the given one. If a capture is about to begin one, this waits for it: the capture
/// needs the locks that we held until now.
async fn capture_resynced(
    at: &Surroundings,
    history: &History,
    epoch: u32,
    progress: &dyn Progress,
) -> Result<bool> {
    let is_about_to = || {
        history.capture_is_running()
            && live::read(&history.live_state()).is_some_and(|live| live.state.is_lost())
    };
    if is_about_to() {
        progress.phase("waiting for the new epoch that capture begins", 0, Unit::Tables);
        tracing::warn!(
            "continuity is lost; waiting for the new epoch that capture begins (see: backwhen status)"
        );
    }
    while is_about_to() {
        let pause = tokio::time::sleep(caught_up::LOOK_EVERY);
        at.heed_signals().run_until_cancelled(pause).await.ok_or_else(Error::interrupted)?;
    }
    Ok(history.current_epoch()?.number > epoch)
}

fn shown_after_comparing(history: &History, found: SourceComparison, begun: PgTime) -> ResyncReport {
    let SourceComparison { at, epoch, resync, not_compared, checkpoint } = found;
    let mut evidence = Evidence::begun(CheckMethod::Resync, begun);
    evidence.finished = PgTime::from_utc(ambient::now());
    evidence.up_to = Some(at);
    for table in &resync.tables {
        if let Some(why) = not_compared.get(&table.oid) {
            evidence.not_compared.push(format!("{}: {why}", table.table));
            continue;
        }
        evidence.tables.push(TableDigest::from(table));
        if table.differs {
            evidence.differences.push(format!("{} ({})", table.table, difference(table)));
        }
    }
    let kept = super::verify::keep(history, &evidence);
    let id = checkpoint.map(|checkpoint| checkpoint.id);
    let shown = ResyncReport::of(at, epoch, evidence.is_good(), id, resync);
    ResyncReport { not_compared: evidence.not_compared, evidence: kept, ..shown }
}

fn shown_after_loss(history: &History) -> Result<ResyncReport> {
    let epoch = history.current_epoch()?;
    let checkpoint = history.read_checkpoint(&checkpoint_id(epoch.number, epoch.start))?;
    let catalog = Arc::new(Catalog::open(history)?);
    let gap = Timeline::read(history, &catalog)?.gaps().pop();
    let at = Edge { lsn: checkpoint.lsn, time: checkpoint.time };
    let none = || Error::internal(format!("checkpoint {} tells of no resynchronisation", checkpoint.id));
    let resync = checkpoint.resync.clone().ok_or_else(none)?;
    let about = |it: &Evidence| it.how == CheckMethod::Resync && it.up_to == Some(at);
    let evidence = history.evidence()?.rfind(|(_, it)| about(it)).map(|(name, _)| name.to_string());
    Ok(ResyncReport {
        gap,
        evidence,
        ..ResyncReport::of(at, epoch.number, true, Some(checkpoint.id), resync)
    })
}

impl ResyncReport {
    fn of(at: Edge, epoch: u32, ok: bool, checkpoint: Option<String>, resync: Report) -> ResyncReport {
        ResyncReport {
            ok,
            at,
            epoch,
            gap: None,
            checkpoint,
            compared_with: resync.with,
            rows_gone: resync.rows_gone(),
            rows_new: resync.rows_new(),
            bytes_read: resync.bytes_read(),
            bytes: resync.bytes(),
            without: resync.without,
            tables: resync.tables,
            gone: resync.gone,
            not_compared: Vec::new(),
            evidence: None,
        }
    }
}

fn difference(table: &TableResync) -> String {
    match &table.read_whole {
        Some(_) => "it was read whole".to_owned(),
        None => format!("{} rows gone, {} new", table.rows_gone, table.rows_new),
    }
}

fn describe(shown: &ResyncReport) -> String {
    let mut text = match &shown.gap {
        Some(gap) => {
            let edge = |edge: Option<Edge>| edge.map_or_else(|| "?".to_owned(), |it| it.time.to_string());
            format!("gap       {} to {}: {}\n", edge(gap.from), edge(gap.to), ui::printable(&gap.cause))
        }
        None => String::new(),
    };
    text.push_str(&format!("compared  at {}  {}\n", shown.at.lsn, ui::both_times(shown.at.time)));
    if let Some(why) = &shown.without {
        text.push_str(&format!("no state of the history to compare with: {}\n", ui::printable(why)));
    }
    let cells = |table: &TableResync| {
        let ranges = format!("{} of {}", table.ranges_differed, table.ranges);
        let read = format!("{} of {}", ui::bytes(table.bytes_read), ui::bytes(table.bytes));
        let gone = table.rows_gone.to_string();
        let why = table.read_whole.as_ref().map_or_else(String::new, |why| format!("read whole: {why}"));
        vec![table.table.clone(), table.rows.to_string(), ranges, gone, table.rows_new.to_string(), read, why]
    };
    let rows: Vec<_> = shown.tables.iter().map(cells).collect();
    text.push_str(&ui::table(&["table", "rows", "ranges differ", "rows gone", "new", "sent", ""], &rows));
    for table in &shown.gone {
        text.push_str(&format!("\ndropped   {}", ui::printable(table)));
    }
    for skipped in &shown.not_compared {
        text.push_str(&format!("\nskipped   {}", ui::printable(skipped)));
    }
    text.push_str(&match (&shown.gap, shown.ok, &shown.checkpoint) {
        (Some(_), _, _) => format!("\nthe history goes on in epoch {}", shown.epoch),
        (None, true, None) => "\nthe history is what the source is".to_owned(),
        (None, true, Some(id)) => format!("\nthe history is what the source is, as of checkpoint {id}"),
        (None, false, id) => format!(
            "\nTHE HISTORY HAD LOST CHANGES; from checkpoint {} on it is right again",
            id.as_deref().unwrap_or("?")
        ),
    });
    text
}
