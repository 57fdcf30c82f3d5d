//! `backwhen bisect`

use clap::Args;
use serde::Serialize;

use super::{ScratchOption, Surroundings, changes, not_exact, ui};
use crate::ambient;
use crate::bisect::{Check, EXAMPLE_CHECK, FirstBad, Question};
use crate::error::Result;
use crate::model::{Inexact, Selection};
use crate::past::{Commit, Reading};
use crate::recover::structure::StructureSettings;
use crate::travel::log::TableCounts;

/// Find the first transaction after which a check is false
///
/// The moments between --good and --bad are halved again and again, in a scratch database that holds only the tables that
/// the check reads. It is a short-lived server of backwhen's own; with --scratch, a database on that server, which is
/// dropped at the end.
#[derive(Args, Clone)]
#[command(after_help = example())]
pub struct Bisect {
    /// A moment at which the check is true
    #[arg(long, value_name = "MOMENT", allow_hyphen_values = true)]
    good: String,
    /// A later moment at which the check is false
    #[arg(long, value_name = "MOMENT", allow_hyphen_values = true)]
    bad: String,
    /// A statement with one value that is true or false
    #[arg(
        long,
        value_name = "SQL",
        required_unless_present = "check_command",
        conflicts_with = "check_command"
    )]
    check: Option<String>,
    /// A command that ends with 0 (true) or 1 (false)
    #[arg(long, value_name = "CMD")]
    check_command: Option<String>,
    /// The tables that the command reads (schema.table, with * and ?; a partitioned table stands for its partitions); may be given more than once [default: all]
    #[arg(long, value_name = "PATTERN", conflicts_with = "check")]
    table: Vec<String>,
    #[command(flatten)]
    scratch: ScratchOption,
}

fn example() -> String {
    format!(
        "Example: backwhen bisect --good '2 hours ago' --bad latest --check '{EXAMPLE_CHECK}'\n\
         With --check-command, the command finds the database by PGHOST, PGPORT, PGUSER and PGDATABASE, can only read, \
         and ends with 0 where all is well and with 1 where it is not."
    )
}

#[derive(Serialize)]
struct BisectReport {
    first_bad: Commit,
    /// The tables that the transaction changed.
    changed: Vec<TableCounts>,
    /// The schema changes of the transaction.
    definitions: Vec<String>,
    steps: u64,
    candidates: u64,
    tables: Vec<String>,
    inexact: Vec<Inexact>,
    notes: Vec<String>,
    seconds: f64,
}

impl Bisect {
    pub async fn run(self, at: &Surroundings) -> Result<()> {
        let started = ambient::instant();
        let history = at.history()?;
        let (good, bad) = (changes::moment(&self.good, "--good")?, changes::moment(&self.bad, "--bad")?);
        let reading = Reading::open(&history)?;
        let (good, bad) = (reading.at(&good, false)?, reading.at(&bad, false)?);
        for note in good.notes().iter().chain(bad.notes()) {
            at.ui.say(&format!("note: {note}"));
        }
        good.choose(&self.table)?;
        let check = match (self.check, self.check_command) {
            (Some(sql), _) => Check::Sql(sql),
            (None, command) => Check::Command(command.unwrap_or_default()),
        };
        let question = Question { good, bad, check, tables: Selection::parse(&self.table, &[])? };
        let settings = StructureSettings {
            tools: at.tools()?,
            scratch: self.scratch.conninfo()?,
            replay_limit: self.scratch.limit(),
            progress: at.ui.progress(),
            interrupt: at.heed_signals(),
        };
        let found = question.answer(settings).await?;
        let FirstBad { transaction, steps, candidates, tables, notes, inexact } = found;
        not_exact::say_of(at, &inexact);
        for note in &notes {
            at.ui.say(&format!("note: {note}"));
        }
        let report = BisectReport {
            first_bad: Commit { lsn: transaction.lsn, time: transaction.time, xid: transaction.xid },
            changed: transaction.tables,
            definitions: transaction.definitions,
            steps,
            candidates,
            tables,
            inexact,
            notes,
            seconds: started.elapsed().as_secs_f64(),
        };
        at.ui.result(&report, || describe(&report))
    }
}

fn describe(report: &BisectReport) -> String {
    let BisectReport { first_bad, steps, candidates, tables, seconds, .. } = report;
    let xid = first_bad.xid;
    let mut text = format!("first bad    {}  {}  xid {xid}\n", ui::both_times(first_bad.time), first_bad.lsn);
    for counts in &report.changed {
        let TableCounts { table, inserts, updates, deletes, truncates } = counts;
        let counted =
            [(inserts, "inserted"), (updates, "updated"), (deletes, "deleted"), (truncates, "truncated")];
        let counted = counted.iter().filter(|(count, _)| **count > 0);
        let counted: Vec<_> = counted.map(|(count, what)| format!("{count} {what}")).collect();
        text.push_str(&format!("changed      {}: {}\n", ui::printable(table), counted.join(", ")));
    }
    for definition in &report.definitions {
        text.push_str(&format!("schema       {}\n", ui::printable(definition)));
    }
    text.push_str(&format!(
        "found        in {steps} steps among {candidates} transactions that change {}; {seconds:.1} s\n\
         look at it   backwhen show xid:{xid}\n\
         before it    backwhen recover --to xid:{xid} --before --into 'dbname=before' --create\n\
         take it back backwhen undo xid:{xid}",
        ui::printable(&tables.join(", "))
    ));
    text
}
