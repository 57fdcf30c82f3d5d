//! `backwhen status`

mod asked;
mod copies;
mod outlook;
pub(super) mod prometheus;
mod text;

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::on_demand::show_target;
use super::proof::ProofShown;
use super::retention::OutlookOptions;
use super::{BudgetOption, LagOption, SourceOption, Surroundings, ui};
use crate::ambient;
use crate::capture::live::{Durability, Live, Transition};
use crate::capture::state::State;
use crate::connect::Conninfo;
use crate::error::Result;
use crate::history::History;
use crate::history::definitions::SchemaKnown;
use crate::history::resolution::ResolvedPart;
use crate::history::timeline::{Gap, Window};
use crate::model::{Edge, Grade, Inexact, LeftOut, Lsn, PgTime};
use crate::past::Reading;
use crate::store::{Dispersed, Survey};
pub(super) use asked::Expected;
use asked::{Asked, ask, lag};
use copies::{CopyShown, KnownCapture};
use outlook::Outlook;
use text::{grade, nagios, warnings};

/// Show how protection stands and which moments can be recovered
#[derive(Args, Clone)]
pub struct Status {
    /// One line and exit codes for monitoring: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN
    #[arg(long)]
    nagios: bool,
    /// Do not ask the source
    #[arg(long)]
    offline: bool,
    /// Show instead how far recover --on-demand is in this database
    #[arg(long, value_name = "CONN", conflicts_with = "nagios")]
    target: Option<String>,
    #[command(flatten)]
    budget: BudgetOption,
    #[command(flatten)]
    lag: LagOption,
    #[command(flatten)]
    source: SourceOption,
    #[command(flatten)]
    outlook: OutlookOptions,
}

#[derive(Serialize)]
pub(super) struct StatusReport {
    /// `None` if nobody can tell from here.
    #[serde(serialize_with = "serialize_state")]
    state: Option<State>,
    cause: String,
    since: Option<PgTime>,
    transitions: Vec<Transition>,
    capture: CaptureShown,
    /// The places that must have a position before it is confirmed to the server.
    durable: Durability,
    copies: Vec<CopyShown>,
    window: Option<Window>,
    /// How finely each part of the history can be recovered.
    resolution: Vec<ResolvedPart>,
    gaps: Vec<Gap>,
    lag: Lag,
    slot: SlotShown,
    size: Size,
    rates: Rates,
    checkpoints: usize,
    segments: usize,
    marks: usize,
    epoch: u32,
    tables: usize,
    unprotected: Vec<LeftOut>,
    /// Some of them ought to be protected, and could not be.
    #[serde(skip)]
    refused: bool,
    inexact: Vec<Inexact>,
    /// The tables whose updates and deletes are not recorded.
    insert_only: usize,
    /// How well the definitions are known at the end of the window.
    schema: Option<SchemaKnown>,
    /// The last position at which the source's definitions were digested.
    schema_digested: Option<Edge>,
    schema_changed: bool,
    event_triggers: EventTriggers,
    proof: Option<ProofShown>,
    #[serde(flatten)]
    outlook: Outlook,
    /// Others on this machine may read or change the history.
    open_to_others: bool,
    #[serde(skip)]
    root: std::path::PathBuf,
    key: Option<KeyShown>,
    /// The findings about the stores of a dispersed history, by their lists.
    dispersal: Option<Survey>,
    encryption: Option<EncryptionShown>,
    source: String,
    #[serde(skip)]
    reachable: bool,
    /// The lag from which monitoring warns, and from which it is critical, in seconds.
    #[serde(skip)]
    lag_limits: (f64, f64),
    #[serde(skip)]
    database: String,
    /// The newest checkpoint's moment.
    #[serde(skip)]
    newest: Option<PgTime>,
    /// By this machine's clock.
    #[serde(skip)]
    now: PgTime,
}

/// What shows who wrote the history.
#[derive(Serialize)]
struct KeyShown {
    id: String,
    /// The key was given, and all that was read is its holder's.
    checked: bool,
}

/// The encryption of the history or the copy.
#[derive(Serialize)]
struct EncryptionShown {
    /// A public name of the key with which all is encrypted.
    key: String,
    /// The identity that has opened it.
    opened_by: String,
    /// The recipient who says that the key is the history's own.
    vouched_by: String,
    /// The public keys of all who can open the history.
    recipients: Vec<String>,
}

impl EncryptionShown {
    fn of(history: &History) -> Option<EncryptionShown> {
        let opened = history.local().opened()?;
        Some(EncryptionShown {
            key: opened.key.id(),
            opened_by: opened.identity.recipient().to_string(),
            vouched_by: opened.vouched_by.to_string(),
            recipients: opened.recipients.iter().map(ToString::to_string).collect(),
        })
    }
}

impl KeyShown {
    fn of(history: &History) -> Option<KeyShown> {
        let record = history.identity().key.as_ref()?;
        Some(KeyShown { id: record.id.clone(), checked: history.authorship().is_checked() })
    }
}

#[derive(Serialize)]
struct EventTriggers {
    /// The history was begun with them.
    wanted: bool,
    /// Why they do not work now, as far as capture knows.
    fault: Option<String>,
}

#[derive(Serialize)]
struct CaptureShown {
    running: bool,
    process: Option<u32>,
    /// The last sign of life of a capture on another machine.
    seen: Option<PgTime>,
}

#[derive(Serialize)]
struct Lag {
    bytes: Option<u64>,
    seconds: Option<f64>,
}

#[derive(Serialize)]
struct SlotShown {
    name: String,
    retained_bytes: Option<u64>,
    /// What it may keep before capture gives it up.
    max_retained_bytes: Option<u64>,
    wal_status: Option<String>,
    confirmed: Option<Lsn>,
    /// The transaction of the source for which the slot retains most of its WAL.
    held_by: Option<String>,
}

#[derive(Serialize)]
struct Size {
    journal_bytes: u64,
    checkpoint_bytes: u64,
}

#[derive(Serialize)]
struct Rates {
    bytes_per_second: f64,
}

impl SlotShown {
    /// How much of what it may keep it keeps: 1 is all.
    fn share(&self) -> f64 {
        match (self.retained_bytes, self.max_retained_bytes) {
            (Some(retained), Some(most)) => retained as f64 / most as f64,
            _ => 0.0,
        }
    }

    /// What to say where it keeps much.
    fn warning(&self) -> Option<String> {
        let warning = match self.share() {
            1.0.. => {
                "the slot retains more than --max-retained-wal; capture gives it up unless it becomes less, and where none \
                 runs the source's disk may fill"
            }
            0.5.. => "the slot retains more than half of --max-retained-wal, at which capture gives it up",
            _ => return None,
        };
        let held_by = self.held_by.as_ref().map_or_else(String::new, |held_by| format!("; {held_by}"));
        Some(format!("{warning}{held_by}"))
    }
}

impl Status {
    pub async fn run(self, at: &Surroundings) -> Result<ExitCode> {
        if let Some(target) = &self.target {
            return show_target(at, target).await.map(|()| ExitCode::SUCCESS);
        }
        let shown = match self.gather(at).await {
            Ok(shown) => shown,
            Err(error) if self.nagios => {
                at.ui.print(&format!("BACKWHEN UNKNOWN - {}", ui::printable(&error.to_string())))?;
                return Ok(ExitCode::from(3));
            }
            Err(error) => return Err(error),
        };
        if self.nagios {
            let (code, line) = nagios(&shown);
            at.ui.print(&ui::printable(&line))?;
            return Ok(ExitCode::from(code));
        }
        if at.ui.is_prometheus() {
            at.ui.print(&prometheus::exposition(&shown))?
        } else {
            at.ui.result(&shown, || text::describe(&shown))?
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn gather(&self, at: &Surroundings) -> Result<StatusReport> {
        let history = at.history()?;
        let source = if self.offline { None } else { Some(self.source.of(&history)?) };
        gather(&history, source.as_ref(), &Expected::new(&self.budget, self.lag, self.outlook.clone())).await
    }
}

/// Collects all figures; `source` is asked if it is named.
///
/// # Errors
/// `Damaged` if the history is.
pub(super) async fn gather(
    history: &History,
    source: Option<&Conninfo>,
    expected: &Expected,
) -> Result<StatusReport> {
    // A question about the state does not wait for an `expire`.
    let reading = Reading::glance(history)?;
    let timeline = reading.timeline();
    let slot = history.identity().slot();
    let asked = match source {
        Some(source) => ask(source, history).await,
        None => Asked::No,
    };
    let KnownCapture { live, running, seen, elsewhere, is_unknown } = KnownCapture::of(history)?;
    let capture = live.as_ref().filter(|_| running);
    let current = timeline.current()?;
    let newest = match current.checkpoints.last() {
        Some(row) => Some(history.read_checkpoint(&row.id)?),
        None => None,
    };
    let (state, mut cause) = standing(running, live.as_ref(), &asked, &slot);
    // The source is believed, wherever the capture is.
    let state = Some(state).filter(|state| !is_unknown || *state == State::Lost);
    if let Some(elsewhere) = elsewhere.filter(|_| running || matches!(state, None | Some(State::Blackout))) {
        cause = if running && state.is_some() { format!("{cause} ({elsewhere})") } else { elsewhere };
    }
    let frontier = current.frontier();
    let durable = live.as_ref().and_then(|live| live.options).map(|it| it.durable).unwrap_or_default();
    let copies = live.as_ref().map(CopyShown::all).unwrap_or_default();
    // Where the first copy decides what is confirmed, the slot retains WAL for what that copy lacks.
    let deciding = copies.first().filter(|_| durable == Durability::Store).and_then(|copy| copy.end);
    let counted = deciding.map_or(frontier, |end| end.min(frontier));
    let window = timeline.window();
    let mut inexact = newest.as_ref().map(|newest| newest.inexact.clone()).unwrap_or_default();
    let tables = newest.as_ref().map(|newest| &newest.tables[..]).unwrap_or_default();
    inexact.extend(tables.iter().filter(|entry| entry.table.grade == Grade::InsertOnly).map(|entry| {
        Inexact { what: entry.table.display(), why: "inserts only: it has no replica identity".into() }
    }));
    let mut unprotected = live.as_ref().map(|live| live.unprotected.clone()).unwrap_or_default();
    let refused = !unprotected.is_empty();
    let left_out = newest.as_ref().map(|newest| newest.schema.left_out.clone()).unwrap_or_default();
    let named: Vec<_> = unprotected.iter().map(|it| it.table.clone()).collect();
    unprotected.extend(left_out.into_iter().filter(|it| !named.contains(&it.table)));
    let now = PgTime::from_utc(ambient::now());
    let size =
        Size { journal_bytes: timeline.journal_bytes(), checkpoint_bytes: reading.catalog().pack_bytes()? };
    let held = size.journal_bytes + size.checkpoint_bytes;
    let outlook = Outlook::of(&reading, newest.as_ref(), held, &expected.outlook, now)?;
    Ok(StatusReport {
        state,
        cause,
        since: live.as_ref().map(|live| live.since),
        transitions: live.as_ref().map(|live| live.transitions.clone()).unwrap_or_default(),
        capture: CaptureShown {
            running,
            process: capture.filter(|_| !history.is_remote()).map(|live| live.process),
            seen,
        },
        durable,
        copies,
        resolution: timeline.resolution(),
        gaps: timeline.gaps(),
        lag: lag(frontier, window.as_ref(), &asked, capture),
        slot: SlotShown {
            name: slot,
            retained_bytes: asked.slot().and_then(|slot| slot.retained),
            max_retained_bytes: expected.budget(capture),
            wal_status: asked.slot().and_then(|slot| slot.wal_status.clone()),
            confirmed: asked.slot().and_then(|slot| slot.confirmed),
            held_by: asked.held_by(counted),
        },
        size,
        rates: Rates { bytes_per_second: capture.map_or(0.0, |live| live.bytes_per_second) },
        checkpoints: timeline.checkpoints().count(),
        segments: timeline.stretches.iter().map(|stretch| stretch.segments.len()).sum(),
        marks: timeline.marks().count(),
        epoch: current.epoch.number,
        tables: newest.as_ref().map_or(0, |newest| newest.tables.len()),
        unprotected,
        refused,
        inexact,
        insert_only: tables.iter().filter(|entry| entry.table.is_insert_only()).count(),
        proof: ProofShown::latest(history.evidence()?.rev()),
        key: KeyShown::of(history),
        outlook,
        dispersal: history.store().dispersal().map(Dispersed::glance).transpose()?,
        encryption: EncryptionShown::of(history),
        schema: newest.as_ref().map(|it| reading.schema_known_at_end(it)).transpose()?.flatten(),
        schema_digested: newest.as_ref().map(|it| reading.schema_digested(it)).transpose()?.flatten(),
        schema_changed: live.as_ref().is_some_and(|live| live.schema_changed),
        event_triggers: EventTriggers {
            wanted: history.identity().has_event_triggers(),
            fault: live.as_ref().and_then(|live| live.triggers_fault.clone()),
        },
        source: asked.describe(),
        reachable: asked.slot().is_some(),
        lag_limits: expected.lag_limits(capture),
        open_to_others: history.is_open_to_others(),
        root: history.root().to_owned(),
        window,
        database: history.identity().source.database.clone(),
        newest: newest.as_ref().map(|newest| newest.time),
        now,
    })
}

/// The state as it is shown.
fn state_word(state: Option<State>) -> String {
    state.map_or_else(|| "unknown".to_owned(), |state| format!("{state:?}").to_lowercase())
}

fn serialize_state<S: serde::Serializer>(
    state: &Option<State>,
    to: S,
) -> std::result::Result<S::Ok, S::Error> {
    to.serialize_str(&state_word(*state))
}

fn standing(running: bool, live: Option<&Live>, asked: &Asked, slot: &str) -> (State, String) {
    if let Asked::AnotherCluster(why) = asked {
        return (State::Lost, why.clone());
    }
    if let Some(asked) = asked.slot() {
        if !asked.exists {
            return (State::Lost, format!("replication slot {slot} is gone from the source"));
        }
        if asked.wal_status.as_deref() == Some("lost") {
            return (State::Lost, format!("replication slot {slot} was invalidated"));
        }
    }
    match (running, live) {
        (true, Some(live)) => (live.state, live.cause.clone()),
        (true, None) => (State::Blackout, "capture is starting".into()),
        (false, Some(live)) if live.state == State::Lost => (State::Lost, live.cause.clone()),
        (false, _) => (State::Blackout, "no capture is running; start it with: backwhen capture".into()),
    }
}
