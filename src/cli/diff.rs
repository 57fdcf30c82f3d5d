//! `backwhen diff`

use clap::Args;
use serde::Serialize;

use super::caught_up::wait_for;
use super::{SourceOption, Surroundings, changes, not_exact, ui};
use crate::capture;
use crate::connect::set_local_statements;
use crate::error::Result;
use crate::history::History;
use crate::model::{Inexact, Lsn, Moment, Selection};
use crate::past::{Past, Reading};
use crate::travel::diff::{ChangedDefinition, Difference, RowDifference, Summary, TableDifference};
use crate::travel::row::Instant;
use crate::travel::{Condition, statement};

/// Compare two moments: the rows that were added, removed or changed between them
///
/// A row that was changed and changed back does not appear. With `live` as the second moment, the first one is compared with
/// what the source holds now; capture must be running.
#[derive(Args, Clone)]
#[command(after_help = "Example: backwhen diff mark:before-deploy latest --table orders --rows\n\
                        With --sql FILE, the statements are written that lead from the first moment to the second.")]
pub struct Diff {
    /// The moment from which to compare
    #[arg(value_name = "MOMENT", allow_hyphen_values = true)]
    from: String,
    /// The moment with which to compare, or live
    #[arg(value_name = "MOMENT|live", allow_hyphen_values = true)]
    to: String,
    /// Only tables that match (schema.table, with * and ?; a partitioned table stands for its partitions); may be given more than once
    #[arg(long, value_name = "PATTERN")]
    table: Vec<String>,
    /// Only rows for which the condition is true at one of the moments: tenant_id = 42 AND status IN ('open')
    #[arg(long = "where", value_name = "CONDITION")]
    condition: Option<String>,
    /// Print each row that differs
    #[arg(long)]
    rows: bool,
    /// Write the statements that lead from the first moment to the second into a new file; - for standard output
    #[arg(long, value_name = "FILE", conflicts_with = "rows")]
    sql: Option<String>,
    #[command(flatten)]
    source: SourceOption,
}

#[derive(Serialize)]
struct DiffReport {
    from: Instant,
    to: Instant,
    tables: Vec<TableDifference>,
    /// The statements that changed the schema between the two moments.
    definitions: Vec<ChangedDefinition>,
    inexact: Vec<Inexact>,
}

impl Diff {
    pub async fn run(self, at: &Surroundings) -> Result<()> {
        let history = at.history()?;
        let from = changes::moment(&self.from, "the first moment")?;
        let to = match self.to.as_str() {
            "live" => Moment::Lsn(self.live(&history).await?),
            text => changes::moment(text, "the second moment")?,
        };
        let reading = Reading::open(&history)?;
        let (from, to) = (reading.at(&from, false)?, reading.at(&to, false)?);
        for note in from.notes().iter().chain(to.notes()) {
            at.ui.say(&format!("note: {note}"));
        }
        let (start, end) = (Instant::of(&from), Instant::of(&to));
        let place = |past: &Past| (past.base().epoch, past.until());
        let backwards = place(&to) < place(&from);
        let (earlier, later) = if backwards { (to, from) } else { (from, to) };
        if earlier.base().epoch != later.base().epoch {
            at.ui.say(
                "note: a gap lies between the two moments, so no transaction in it is known; the rows at both moments are, \
                 and all of them are compared",
            );
        }
        if earlier.check_is_followed().is_err() {
            at.ui.say(
                "note: the journal between the two moments was expired, so no transaction in it is known; the rows at both \
                 moments are, and all of them are compared",
            );
        }
        let selection = Selection::parse(&self.table, &[])?;
        let condition = self.condition.as_deref().map(Condition::parse).transpose()?;
        let condition = condition.as_ref();
        let difference = Difference { earlier, later, backwards, tables: &selection, condition };
        let mut script = statement::Script::default();
        let summary = difference.find(&mut |row| self.take(at, row, &mut script))?;
        if self.rows {
            changes::say_inexact(at, &summary.inexact);
        } else {
            not_exact::say_of(at, &summary.inexact);
        }
        if let Some(file) = &self.sql {
            let note = |it: &ChangedDefinition| {
                format!("The schema differs too, which this script does not change: {}", it.what)
            };
            script.notes = summary.definitions.iter().map(note).collect();
            changes::write_script(at, file, &script.text(backwards, &set_local_statements()))?;
            if file == "-" {
                return Ok(());
            }
        }
        if self.rows {
            return Ok(());
        }
        let Summary { tables, definitions, inexact } = summary;
        let report = DiffReport { from: start, to: end, tables, definitions, inexact };
        at.ui.result(&report, || self.describe(&report))
    }

    /// Waits until the history holds all that the source has committed by now, and returns that position.
    async fn live(&self, history: &History) -> Result<Lsn> {
        let source = self.source.of(history)?;
        let now = capture::heartbeat(history, &source).await?;
        wait_for(history, &source, now).await?;
        Ok(now)
    }

    fn take(&self, at: &Surroundings, row: &RowDifference, script: &mut statement::Script) -> Result<()> {
        if self.rows {
            return at.ui.item(&row.shown(), || {
                let operation = format!("{:?}", row.operation).to_lowercase();
                let what = row.table().map(|table| table.display()).unwrap_or_default();
                changes::describe(&operation, &what, row.before.as_ref(), row.after.as_ref())
            });
        }
        if let (Some(_), Some(table)) = (&self.sql, row.table()) {
            let change = statement::RowChange { from: row.before.as_ref(), to: row.after.as_ref() };
            script.add(row.place, table, &change)?;
        }
        Ok(())
    }

    fn describe(&self, report: &DiffReport) -> String {
        let mut text = format!("from  {}\nto    {}\n", line(&report.from), line(&report.to));
        if report.tables.is_empty() {
            text.push_str("no row differs\n");
        } else {
            let cells = |it: &TableDifference| {
                vec![it.table.clone(), it.added.to_string(), it.removed.to_string(), it.changed.to_string()]
            };
            let rows: Vec<_> = report.tables.iter().map(cells).collect();
            text.push_str(&ui::table(&["table", "added", "removed", "changed"], &rows));
            text.push_str(&format!(
                "\nsee the rows with: backwhen diff '{}' '{}' --rows\n",
                self.from, self.to
            ));
        }
        for it in &report.definitions {
            text.push_str(&format!("schema  {}  {}  xid {}\n", it.time, ui::printable(&it.what), it.xid));
        }
        text
    }
}

fn line(instant: &Instant) -> String {
    let xid = instant.xid.map_or_else(String::new, |xid| format!("  xid {xid}"));
    format!("{}  {}{xid}", ui::both_times(instant.time), instant.lsn)
}
