//! `backwhen list`

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::checkpoint::CheckpointReport;
use super::pin::label_and_pin;
use super::proof::ProofShown;
use super::{Surroundings, schemas, ui};
use crate::error::Result;
use crate::history::History;
use crate::history::catalog::{Catalog, CheckpointRow};
use crate::history::resolution::ResolvedPart;
use crate::history::timeline::{Stretch, Timeline, with_epoch};
use crate::model::{Grade, Lsn, PgTime};

/// List checkpoints, segments, marks, gaps, proofs or schema changes of the history, or how finely it can be recovered
#[derive(Args, Clone)]
pub struct List {
    #[arg(value_enum)]
    what: ListSubject,
    /// With checkpoints: list the tables of the newest checkpoint
    #[arg(long)]
    tables: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum ListSubject {
    Checkpoints,
    Segments,
    Marks,
    Gaps,
    Resolution,
    Schemas,
    Proofs,
}

#[derive(Serialize)]
struct ListedCheckpoint {
    #[serde(flatten)]
    checkpoint: CheckpointReport,
    /// `every` with the journal after it, `single` without; `None` if the journal cannot be read.
    moments: Option<&'static str>,
    /// The reason for which it is pinned.
    pinned: Option<String>,
}

#[derive(Serialize)]
struct SegmentShown {
    epoch: u32,
    start: Lsn,
    end: Lsn,
    sealed: bool,
    transactions: u64,
    bytes: u64,
    raw_bytes: u64,
    min_time: Option<PgTime>,
    max_time: Option<PgTime>,
    file: String,
}

#[derive(Serialize)]
struct MarkShown {
    name: String,
    epoch: u32,
    lsn: Lsn,
    time: PgTime,
    /// With its epoch, as `pg_current_xact_id()` shows it.
    xid: u64,
    /// Whether the mark lies in the window, after its epoch's first checkpoint.
    recoverable: bool,
}

#[derive(Serialize)]
struct TableShown {
    table: String,
    rows: u64,
    bytes: u64,
    grade: Grade,
}

impl List {
    pub async fn run(self, at: &Surroundings) -> Result<()> {
        let history = at.history()?;
        if matches!(self.what, ListSubject::Proofs) {
            return proofs(at, &history);
        }
        let catalog = at.catalog(&history)?;
        match self.what {
            ListSubject::Checkpoints if self.tables => tables(at, &history, &catalog),
            ListSubject::Checkpoints => checkpoints(at, &history, &catalog),
            ListSubject::Segments => segments(at, &Timeline::read(&history, &catalog)?),
            ListSubject::Marks => marks(at, &Timeline::read(&history, &catalog)?),
            ListSubject::Gaps => gaps(at, &Timeline::read(&history, &catalog)?),
            ListSubject::Resolution => resolution(at, &Timeline::read(&history, &catalog)?),
            ListSubject::Schemas => schemas::list(at, &history, &Timeline::read(&history, &catalog)?),
            ListSubject::Proofs => proofs(at, &history),
        }
    }
}

fn checkpoints(at: &Surroundings, history: &History, catalog: &Catalog) -> Result<()> {
    // The manifests can be listed although the journal is damaged.
    let timeline = Timeline::read(history, catalog).ok();
    let pins = history.pins()?;
    let show = |row: CheckpointRow| ListedCheckpoint {
        moments: timeline.as_ref().map(|it| if it.is_single(&row) { "single" } else { "every" }),
        pinned: pins.iter().find(|pin| pin.checkpoint == row.id).map(|pin| pin.reason.clone()),
        checkpoint: CheckpointReport {
            id: row.id,
            lsn: row.lsn,
            time: row.time,
            label: row.label,
            origin: row.origin,
            rows: row.rows,
            bytes_new: row.bytes_new,
            bytes_total: row.bytes_total,
        },
    };
    let shown: Vec<_> = catalog.checkpoints()?.into_iter().map(show).collect();
    at.ui.list(&shown, || {
        let cells = |listed: &ListedCheckpoint| {
            let it = &listed.checkpoint;
            let origin = format!("{:?}", it.origin).to_lowercase();
            let label = label_and_pin(it.label.as_deref(), listed.pinned.as_deref());
            let (new, total) = (ui::bytes(it.bytes_new), ui::bytes(it.bytes_total));
            vec![
                it.id.clone(),
                it.time.to_string(),
                it.lsn.to_string(),
                listed.moments.unwrap_or("?").to_owned(),
                origin,
                it.rows.to_string(),
                new,
                total,
                label,
            ]
        };
        let rows: Vec<_> = shown.iter().map(cells).collect();
        ui::table(&["id", "time", "lsn", "moments", "origin", "rows", "new", "total", "label"], &rows)
    })
}

fn resolution(at: &Surroundings, timeline: &Timeline) -> Result<()> {
    let parts = timeline.resolution();
    at.ui.list(&parts, || {
        let edge = |edge: crate::model::Edge| format!("{} {}", edge.time, edge.lsn);
        let cells = |it: &ResolvedPart| {
            let (from, to) = (edge(it.from), edge(it.to));
            vec![from, to, it.moments.describe().to_owned(), it.checkpoints.to_string()]
        };
        let rows: Vec<_> = parts.iter().map(cells).collect();
        ui::table(&["from", "to", "moments", "checkpoints"], &rows)
    })
}

fn tables(at: &Surroundings, history: &History, catalog: &Catalog) -> Result<()> {
    let Some(newest) = catalog.checkpoints()?.pop() else {
        return at.ui.list::<TableShown>(&[], String::new);
    };
    let checkpoint = history.read_checkpoint(&newest.id)?;
    let show = |entry: &crate::history::checkpoint::TableEntry| TableShown {
        table: entry.table.display(),
        rows: entry.image.rows,
        bytes: entry.image.bytes,
        grade: entry.table.grade,
    };
    let shown: Vec<_> = checkpoint.tables.iter().map(show).collect();
    at.ui.list(&shown, || {
        let grade = |grade: Grade| if grade == Grade::Exact { "exact" } else { "inserts only" };
        let cells = |it: &TableShown| {
            vec![it.table.clone(), it.rows.to_string(), ui::bytes(it.bytes), grade(it.grade).to_owned()]
        };
        let rows: Vec<_> = shown.iter().map(cells).collect();
        ui::table(&["table", "rows", "bytes", "grade"], &rows)
    })
}

fn segments(at: &Surroundings, timeline: &Timeline) -> Result<()> {
    let views = timeline.stretches.iter().flat_map(|stretch| &stretch.segments);
    let show = |view: &crate::history::timeline::SegmentView| SegmentShown {
        epoch: view.name.epoch,
        start: view.summary.start,
        end: view.summary.end,
        sealed: view.name.sealed,
        transactions: view.summary.transactions,
        bytes: view.bytes,
        raw_bytes: view.summary.raw_bytes,
        min_time: view.summary.min_time,
        max_time: view.summary.max_time,
        file: view.name.file_name(),
    };
    let shown: Vec<_> = views.map(show).collect();
    at.ui.list(&shown, || {
        let cells = |it: &SegmentShown| {
            let state = if it.sealed { "sealed" } else { "open" };
            let until = it.max_time.map_or_else(String::new, |time| time.to_string());
            let transactions = it.transactions.to_string();
            let (start, end) = (it.start.to_string(), it.end.to_string());
            vec![it.epoch.to_string(), start, end, until, transactions, ui::bytes(it.bytes), state.to_owned()]
        };
        let rows: Vec<_> = shown.iter().map(cells).collect();
        ui::table(&["epoch", "start", "end", "until", "transactions", "bytes", "state"], &rows)
    })
}

fn marks(at: &Surroundings, timeline: &Timeline) -> Result<()> {
    let holds = |epoch: u32, lsn: Lsn| {
        let stretch = timeline.stretches.iter().find(|stretch| stretch.epoch.number == epoch);
        let window = stretch.and_then(Stretch::window);
        window.is_some_and(|window| (window.earliest.lsn..=window.latest.lsn).contains(&lsn))
    };
    let mut shown = Vec::new();
    let views = timeline.stretches.iter().flat_map(|stretch| &stretch.segments);
    for view in views.filter(|view| !view.summary.marks.is_empty()) {
        let (epoch, near) = (view.name.epoch, view.transaction_number());
        shown.extend(view.summary.marks.iter().map(|mark| MarkShown {
            recoverable: holds(epoch, mark.end_lsn),
            name: mark.name.clone(),
            epoch,
            lsn: mark.end_lsn,
            time: mark.time,
            xid: near.map_or(mark.xid.into(), |near| with_epoch(mark.xid, near)),
        }));
    }
    at.ui.list(&shown, || {
        let cells = |it: &MarkShown| {
            let note =
                if it.recoverable { "" } else { "cannot be recovered: no checkpoint of its epoch is older" };
            vec![it.name.clone(), it.time.to_string(), it.lsn.to_string(), note.to_owned()]
        };
        let rows: Vec<_> = shown.iter().map(cells).collect();
        ui::table(&["mark", "time", "lsn", ""], &rows)
    })
}

fn gaps(at: &Surroundings, timeline: &Timeline) -> Result<()> {
    let gaps = timeline.gaps();
    at.ui.list(&gaps, || {
        let edge = |edge: Option<crate::model::Edge>| {
            edge.map_or_else(|| "?".to_owned(), |edge| format!("{} {}", edge.time, edge.lsn))
        };
        let rows: Vec<_> =
            gaps.iter().map(|gap| vec![edge(gap.from), edge(gap.to), gap.cause.clone()]).collect();
        ui::table(&["from", "to", "cause"], &rows)
    })
}

fn proofs(at: &Surroundings, history: &History) -> Result<()> {
    let shown: Vec<_> = history.evidence()?.map(|found| ProofShown::of(&found)).collect();
    at.ui.list(&shown, || {
        let cells = |it: &ProofShown| {
            let up_to = it.up_to.map_or_else(|| "?".to_owned(), |edge| edge.time.to_string());
            let (tables, differences) = (it.tables.to_string(), it.differences.len().to_string());
            let faults = it.faults.len().to_string();
            vec![it.finished.to_string(), it.how.command().to_owned(), up_to, tables, differences, faults]
        };
        let rows: Vec<_> = shown.iter().map(cells).collect();
        ui::table(&["done", "by", "up to", "tables", "differences", "faults"], &rows)
    })
}
