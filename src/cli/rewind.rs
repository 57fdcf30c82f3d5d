//! `backwhen rewind` and `backwhen undo`

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::caught_up::followed;
use super::{SourceOption, Surroundings, changes, ui};
use crate::ambient;
use crate::connect::{Conninfo, Session};
use crate::error::{Context, Error, Kind, Result};
use crate::history::History;
use crate::model::{Lsn, Moment, PgTime, Selection};
use crate::past::{Past, Reading};
use crate::rewind::{
    Aim, Amendment, Applied, ConflictReport, ConflictRule, MarkedState, Part, TableCount, reading_beyond,
};
use crate::source::amend::Removal;
use crate::source::{inspect, messages, sequences};
use crate::travel::Condition;
use crate::travel::row::RowKey;

/// How long the history may take to come to where the source is.
const CATCH_UP: Duration = Duration::from_secs(60);

/// Put the live database, or some of its rows, back to a moment, in place
///
/// Only the rows that differ are changed, in one transaction, while writers of these tables wait. Without --apply this
/// prints the plan. Capture must be running. A rewind can itself be taken back with undo.
///
/// Example: backwhen rewind --to 'mark:before-import' --table 'shop.*' --apply
#[derive(Args, Clone)]
#[command(verbatim_doc_comment)]
pub struct Rewind {
    /// The moment: a time with zone, '10 minutes ago', an LSN, xid:N, mark:NAME or checkpoint:ID
    #[arg(long, value_name = "MOMENT", allow_hyphen_values = true)]
    to: String,
    /// With xid: or mark:, go back to the instant just before it
    #[arg(long)]
    before: bool,
    /// Put back only tables that match (schema.table, with * and ?; a partitioned table stands for its partitions); may be given more than once
    #[arg(long, value_name = "PATTERN")]
    table: Vec<String>,
    /// Put back only rows that meet a condition, then or now, such as 'tenant_id = 42'
    #[arg(long = "where", value_name = "CONDITION")]
    condition: Option<String>,
    /// Put back only this row: orders=42, or lines=order_id=42,number=1; may be given more than once
    #[arg(long, value_name = "TABLE=KEY")]
    key: Vec<String>,
    /// Put all of a test database back to a mark: drop what was made since, and set the sequences back. Where that is
    /// not enough, since objects were dropped or changed, nothing is changed and they are named
    #[arg(long, conflicts_with_all = ["table", "condition", "key", "before", "sql"])]
    reset: bool,
    #[command(flatten)]
    how: Way,
}

/// Take transactions back in the live database, and leave later work alone
///
/// A column goes back only where it still has the value that the transaction left. Without --apply this prints the plan.
/// Capture must be running.
///
/// Example: backwhen undo xid:4711 --apply
#[derive(Args, Clone)]
#[command(verbatim_doc_comment)]
pub struct Undo {
    /// The transactions: xid:N, or xid:N,N,...
    #[arg(value_name = "XIDS")]
    transactions: String,
    #[command(flatten)]
    how: Way,
}

/// How rows of the live database are changed.
#[derive(Args, Clone)]
struct Way {
    /// What to do if rows cannot be put back alone, since others refer to them or built on them: change nothing, leave these
    /// rows as they are, or put back what is in their way, too
    #[arg(long, env = "BACKWHEN_CONFLICTS", value_enum, default_value = "refuse")]
    conflicts: Rule,
    /// Write the plan as SQL into this file
    #[arg(long, value_name = "FILE")]
    sql: Option<PathBuf>,
    /// Show the plan and change nothing, as without --apply
    #[arg(long, conflicts_with = "apply")]
    dry_run: bool,
    /// Change the rows
    #[arg(long)]
    apply: bool,
    #[command(flatten)]
    source: SourceOption,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Rule {
    Refuse,
    Skip,
    Cascade,
}

impl From<Rule> for ConflictRule {
    fn from(rule: Rule) -> ConflictRule {
        match rule {
            Rule::Refuse => ConflictRule::Refuse,
            Rule::Skip => ConflictRule::Skip,
            Rule::Cascade => ConflictRule::Cascade,
        }
    }
}

#[derive(Serialize)]
struct AmendmentReport {
    /// The statements that take away the definitions made since; only for a reset.
    definitions: Vec<String>,
    /// The moment to which rows go back, or just before the first transaction that is taken back.
    moment: MomentReport,
    tables: Vec<TableCount>,
    conflicts: Vec<ConflictReport>,
    /// The later transactions that are in the way.
    dependents: Vec<DependentReport>,
    without_place: Vec<String>,
    /// The sequences that were set back; only for a reset.
    sequences: u64,
    applied: bool,
    lsn: Option<Lsn>,
    /// The number of the transaction that changed the rows.
    xid: Option<u64>,
    locked_seconds: Option<f64>,
    seconds: f64,
    /// The command that carries out the plan.
    #[serde(skip)]
    next: String,
    #[serde(skip)]
    is_blocked: bool,
}

#[derive(Serialize)]
struct MomentReport {
    lsn: Lsn,
    time: Option<PgTime>,
    xid: Option<u64>,
}

/// A later transaction that is in the way.
#[derive(Serialize)]
pub(super) struct DependentReport {
    xid: u64,
    why: String,
}

impl DependentReport {
    pub fn of(conflicts: &[ConflictReport]) -> Vec<DependentReport> {
        let each = conflicts.iter().flat_map(|it| it.xids.iter().map(|xid| (*xid, it.why.clone())));
        let distinct: BTreeSet<_> = each.collect();
        distinct.into_iter().map(|(xid, why)| DependentReport { xid, why }).collect()
    }
}

impl Rewind {
    pub async fn run(self, at: &Surroundings) -> Result<ExitCode> {
        at.history_folder("rewind")?;
        let (history, _objects) = at.history_held()?;
        let moment = changes::moment(&self.to, "--to")?;
        let tables = Selection::parse(&self.table, &[])?;
        let source = self.how.source.of(&history)?;
        let session = session(&history, &source).await?;
        let mut reading = caught_up(&history, &session).await?;
        if self.reset {
            let reset = WholeReset::begin(&reading, &moment, &session).await?;
            let drops = self.how.apply && !reset.removal.statements.is_empty();
            if drops {
                reset.removal.apply(&session).await?;
                reading = caught_up(&history, &session).await?;
            }
            let (past, aim) = (reading.at(&moment, false)?, Aim::Rewind(Part::default()));
            let done = self.how.amend(at, past, (&source, session), aim, Some(reset)).await;
            return done.map_err(|error| match drops {
                true => Error::new(
                    error.kind(),
                    format!("what was made since the mark was dropped, and then: {error}"),
                ),
                false => error,
            });
        }
        let (past, now) = (reading.at(&moment, self.before)?, reading.at(&Moment::Latest, false)?);
        let keys = self.key.iter().map(|text| RowKey::at(&now, text)).collect::<Result<Vec<_>>>()?.concat();
        let condition = self.condition.as_deref().map(Condition::parse).transpose()?;
        let part = Part { tables, keys, condition };
        if !self.table.is_empty() {
            past.choose(&self.table)?;
        }
        self.how.amend(at, past, (&source, session), Aim::Rewind(part), None).await
    }
}

impl Undo {
    pub async fn run(self, at: &Surroundings) -> Result<ExitCode> {
        at.history_folder("undo")?;
        let (history, _objects) = at.history_held()?;
        let moments = transactions(&self.transactions, "backwhen undo xid:N,N")?;
        let source = self.how.source.of(&history)?;
        let session = session(&history, &source).await?;
        let reading = caught_up(&history, &session).await?;
        let pasts = moments.iter().map(|moment| reading.at(moment, true)).collect::<Result<Vec<_>>>()?;
        let positions: BTreeSet<Lsn> = pasts.iter().map(Past::until).collect();
        let first = pasts.into_iter().min_by_key(Past::until);
        let first = first.ok_or_else(|| Error::usage("name the transactions: backwhen undo xid:N"))?;
        self.how.amend(at, first, (&source, session), Aim::Undo(positions), None).await
    }
}

/// Reads a list of transactions: xid:N,N,... `example` is the command to type.
pub(super) fn transactions(list: &str, example: &str) -> Result<Vec<Moment>> {
    let numbers = list.strip_prefix("xid:").unwrap_or(list);
    let parse = |number: &str| {
        let number = number.trim().trim_start_matches("xid:");
        let moment = Moment::parse(&format!("xid:{number}"), ambient::now());
        moment.context(Kind::Usage, || format!("{number:?} is no transaction; write: {example}"))
    };
    numbers.split(',').map(parse).collect()
}

/// Waits until the running capture has brought in what is committed by now.
async fn caught_up(history: &History, session: &Session) -> Result<Reading> {
    let lsn = messages::wal_end(session).await?;
    reading_beyond(&Reading::open(history)?, session, lsn, CATCH_UP).await
}

/// Opens a session in the source, which a running capture must follow.
async fn session(history: &History, source: &Conninfo) -> Result<Arc<Session>> {
    followed(history)?;
    let session = Session::connect_utf8(source, "rewind").await?;
    inspect::check_cluster(&session, &history.identity().source.system_identifier).await?;
    Ok(Arc::new(session))
}

/// The parts of a reset besides the rows.
struct WholeReset {
    removal: Removal,
    state: MarkedState,
}

impl WholeReset {
    async fn begin(reading: &Reading, moment: &Moment, session: &Session) -> Result<WholeReset> {
        if !matches!(moment, Moment::Mark(_)) {
            return Err(Error::usage(
                "--reset goes with --to mark:NAME, since only a mark tells where the sequences stood; set one with: \
                 backwhen mark NAME",
            ));
        }
        let past = reading.at(moment, false)?;
        require_newest_epoch(&past)?;
        let state = MarkedState::of(&past)?;
        let removal = state.removal(&past, past.until(), session).await?;
        Ok(WholeReset { removal, state })
    }
}

fn require_newest_epoch(past: &Past) -> Result<()> {
    let newest = past.reading().timeline().current()?.epoch.number;
    let epoch = past.stretch().epoch.number;
    if epoch == newest {
        return Ok(());
    }
    Err(Error::refused(format!(
        "that moment lies before a gap of the history (epoch {epoch}, and now it is {newest}), so it is not known what \
         changed since; use: backwhen recover --to MOMENT --into TARGET"
    )))
}

impl Way {
    async fn amend(
        &self,
        at: &Surroundings,
        past: Past,
        (source, session): (&Conninfo, Arc<Session>),
        aim: Aim,
        reset: Option<WholeReset>,
    ) -> Result<ExitCode> {
        let begun = ambient::instant();
        require_newest_epoch(&past)?;
        let last = past.last();
        let moment =
            MomentReport { lsn: past.until(), time: last.map(|it| it.time), xid: last.map(|it| it.xid) };
        let mut amendment =
            Amendment::plan(past, source, Arc::clone(&session), aim, self.conflicts.into()).await?;
        if let Some(file) = &self.sql {
            changes::write_new(file, &amendment.script()?)?;
        }
        if reset.is_some() && self.apply {
            amendment.require_whole()?;
        }
        let is_blocked = amendment.solution.is_blocked;
        let applied = if self.apply && !is_blocked { Some(amendment.apply().await?) } else { None };
        let mut report = AmendmentReport::of(moment, &amendment, applied);
        if let Some(WholeReset { removal, state }) = reset {
            if applied.is_some() {
                report.sequences = sequences::put_back(&session, &state.sequences).await?;
            } else if !removal.statements.is_empty() {
                report.forget_what_is_in_the_way();
            }
            report.definitions = removal.statements;
        }
        report.seconds = begun.elapsed().as_secs_f64();
        at.ui.result(&report, || describe(&report))?;
        if self.apply && is_blocked {
            return Ok(ExitCode::from(Kind::Refused.exit_code()));
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl AmendmentReport {
    fn of(moment: MomentReport, amendment: &Amendment, applied: Option<Option<Applied>>) -> AmendmentReport {
        let conflicts = amendment.conflicts();
        let done = applied.flatten();
        AmendmentReport {
            moment,
            definitions: Vec::new(),
            sequences: 0,
            tables: amendment.counts(),
            dependents: DependentReport::of(&conflicts),
            conflicts,
            without_place: amendment.without_place(),
            applied: applied.is_some(),
            lsn: done.map(|it| it.lsn),
            xid: done.map(|it| it.xid),
            locked_seconds: done.map(|it| it.locked_seconds),
            seconds: 0.0,
            next: applying_command(),
            is_blocked: amendment.solution.is_blocked,
        }
    }
}

impl AmendmentReport {
    /// Forgets the conflicts: a reset first drops the objects that were made since, and with them the rows in the way.
    fn forget_what_is_in_the_way(&mut self) {
        self.is_blocked = false;
        self.conflicts.clear();
        self.dependents.clear();
        self.without_place.clear();
    }
}

/// The present command with --apply. A password is not repeated.
fn applying_command() -> String {
    let words = std::env::args().skip(1).filter(|word| word != "--dry-run");
    let shown = |word: String| {
        let is_secret = word.contains("password") || word.contains("://");
        if is_secret { "'...'".to_owned() } else { ui::shell_word(&word) }
    };
    format!("backwhen {} --apply", words.map(shown).collect::<Vec<_>>().join(" "))
}

fn describe(report: &AmendmentReport) -> String {
    let mut text = match report.moment.time {
        Some(time) => format!("moment    {}  {}\n", report.moment.lsn, ui::both_times(time)),
        None => format!("moment    {}\n", report.moment.lsn),
    };
    for statement in &report.definitions {
        text.push_str(&format!("schema    {}\n", ui::printable(statement)));
    }
    if report.sequences > 0 {
        text.push_str(&format!("sequences {} set back\n", report.sequences));
    }
    text.push_str(&describe_changes(&report.tables, &report.conflicts));
    for note in &report.without_place {
        text.push_str(&format!("no place  {}\n", ui::printable(note)));
    }
    text.push_str(&ending(report));
    text
}

/// The changes of tables, and the rows in their way.
pub(super) fn describe_changes(tables: &[TableCount], conflicts: &[ConflictReport]) -> String {
    let mut text = String::new();
    let cells = |it: &TableCount| {
        vec![it.table.clone(), it.inserted.to_string(), it.updated.to_string(), it.deleted.to_string()]
    };
    if tables.is_empty() {
        text.push_str("no row has to change\n");
    } else {
        let rows: Vec<_> = tables.iter().map(cells).collect();
        text.push_str(&ui::table(&["table", "to insert", "to update", "to delete"], &rows));
        text.push('\n');
    }
    for conflict in conflicts {
        let key: Vec<_> = conflict.key.iter().map(|(column, value)| format!("{column}={value}")).collect();
        let xids: Vec<_> = conflict.xids.iter().map(|xid| format!("xid:{xid}")).collect();
        let line = format!("{} ({}): {} {}", conflict.table, key.join(", "), conflict.why, xids.join(" "));
        text.push_str(&format!("CONFLICT  {}\n", ui::printable(&line)));
    }
    text
}

fn ending(report: &AmendmentReport) -> String {
    match (report.applied, report.xid) {
        (true, Some(xid)) => format!(
            "applied   as xid:{xid}; writers of these tables waited for {:.3} s; to take this back: backwhen undo xid:{xid}",
            report.locked_seconds.unwrap_or_default()
        ),
        (true, None) if report.definitions.is_empty() && report.sequences == 0 => {
            "nothing was to be changed".to_owned()
        }
        (true, None) => "applied".to_owned(),
        (false, _) if report.is_blocked => {
            "nothing was changed: rows are in the way. Leave them with --conflicts skip, or \
             put back what is in their way too with --conflicts cascade"
                .to_owned()
        }
        (false, _) if report.tables.is_empty() && report.definitions.is_empty() => {
            "nothing is to be changed".to_owned()
        }
        (false, _) => format!("nothing was changed yet; to change these rows: {}", report.next),
    }
}
