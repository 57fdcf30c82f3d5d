//! `backwhen log`

use clap::Args;

use super::{Surroundings, changes, ui};
use crate::error::Result;
use crate::model::Selection;
use crate::past::Reading;
use crate::travel::log::{Filter, Log, LoggedTransaction, Order, TableCounts};
use crate::travel::row::RowKey;
use crate::travel::{Condition, Operation, Spans, refuse_misfits};

/// List transactions in commit order, with the rows that each changed
///
/// Without options, all transactions of the history are listed that changed rows or the schema. With filters, what is
/// counted of a transaction is what passes them.
#[derive(Args, Clone)]
#[command(after_help = "Example: backwhen log --since '2 hours ago' --op delete --table orders --largest\n\
                        lists the transactions that deleted most orders; look at one with: backwhen show xid:N")]
pub struct LogCommand {
    /// Only transactions that committed after this moment
    #[arg(long, value_name = "MOMENT", allow_hyphen_values = true)]
    since: Option<String>,
    /// Only transactions up to this moment
    #[arg(long, value_name = "MOMENT", allow_hyphen_values = true)]
    until: Option<String>,
    /// Only changes of tables that match (schema.table, with * and ?; a partitioned table stands for its partitions); may be given more than once
    #[arg(long, value_name = "PATTERN")]
    table: Vec<String>,
    /// Only these operations; may be given more than once
    #[arg(long, value_enum, value_name = "OPERATION", value_delimiter = ',')]
    op: Vec<Operation>,
    /// Only transactions that changed at least so many rows
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    min_rows: u64,
    /// Only changes of rows for which the condition was true before or after: tenant_id = 42 AND status IN ('open')
    #[arg(long = "where", value_name = "CONDITION")]
    condition: Option<String>,
    /// Only changes of this row: orders=42, or orders=a=1,b=x; of a partitioned table, in whichever partition
    #[arg(long, value_name = "TABLE=KEY")]
    key: Option<String>,
    /// The transactions that changed most rows first
    #[arg(long)]
    largest: bool,
    /// The newest transactions first
    #[arg(long, conflicts_with = "largest")]
    newest: bool,
    /// List at most so many transactions [default: 20 with --largest or --newest, else all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

/// With --largest or --newest, unless another limit is given.
const DEFAULT_LIMIT: u64 = 20;
/// So many lines have bars of one scale. More are not held at once.
const SCALED_TOGETHER: usize = 10_000;
/// The letters of the longest bar.
const BAR: u64 = 20;

impl LogCommand {
    pub async fn run(self, at: &Surroundings) -> Result<()> {
        let history = at.history()?;
        let reading = Reading::open(&history)?;
        let spans = changes::spans(at, &reading, self.since.as_deref(), self.until.as_deref())?;
        let filter = self.filter(&reading, &spans)?;
        refuse_misfits(&filter.tables, filter.condition.as_ref(), &spans.spans)?;
        let order = match (self.largest, self.newest) {
            (true, _) => Order::Largest,
            (_, true) => Order::Newest,
            _ => Order::Oldest,
        };
        let limit = self.limit.or((order != Order::Oldest).then_some(DEFAULT_LIMIT));
        let log = Log { filter: &filter, order, limit };
        if at.ui.is_json() {
            let inexact = at.ui.heard(log.list(&spans, &mut |found| at.ui.item(&found, String::new)))?;
            changes::say_inexact(at, &inexact);
            return Ok(());
        }
        let mut listing = Listing { at, held: Vec::new(), largest: None };
        let inexact = at.ui.heard(log.list(&spans, &mut |found| listing.add(found)))?;
        changes::say_inexact(at, &inexact);
        listing.finish()
    }

    fn filter(&self, reading: &Reading, spans: &Spans) -> Result<Filter> {
        let keys = self.key.as_deref().map(|text| {
            let (table, key) = RowKey::split(text)?;
            RowKey::find(reading, spans, table, key)
        });
        Ok(Filter {
            tables: Selection::parse(&self.table, &[])?,
            operations: self.op.clone(),
            condition: self.condition.as_deref().map(Condition::parse).transpose()?,
            keys: keys.transpose()?.unwrap_or_default(),
            min_rows: self.min_rows,
        })
    }
}

/// The lines of the list, of which the last ones are held until the scale of their bars is known.
struct Listing<'a> {
    at: &'a Surroundings,
    held: Vec<LoggedTransaction>,
    /// The transaction that changed most rows: its xid and its rows.
    largest: Option<(u64, u64)>,
}

impl Listing<'_> {
    fn add(&mut self, found: LoggedTransaction) -> Result<()> {
        if self.largest.is_none_or(|(_, rows)| found.rows > rows) {
            self.largest = Some((found.xid, found.rows));
        }
        self.held.push(found);
        if self.held.len() == SCALED_TOGETHER { self.print() } else { Ok(()) }
    }

    fn print(&mut self) -> Result<()> {
        let scale = self.held.iter().map(|found| found.rows).max().unwrap_or(0);
        for found in self.held.drain(..) {
            let (time, xid, lsn) = (found.time.to_string(), found.xid, found.lsn.to_string());
            let (bar, what) = (bar(found.rows, scale), ui::printable(&describe(&found)));
            let line = format!("{time}  {xid:>10}  {lsn:<12}  {bar:<20}  {what}");
            self.at.ui.item(&found, || line)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        self.print()?;
        match self.largest {
            Some((xid, _)) => self.at.ui.print(&format!("look closer with: backwhen show xid:{xid}")),
            None => self.at.ui.print("no transaction fits"),
        }
    }
}

/// A bar whose length is in proportion to the number of rows.
fn bar(rows: u64, scale: u64) -> String {
    const PARTS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];
    let eighths = u128::from(rows) * u128::from(BAR * 8) / u128::from(scale.max(1));
    let eighths = usize::try_from(eighths).unwrap_or(0).max(usize::from(rows > 0));
    let mut bar = "█".repeat(eighths / 8);
    if eighths % 8 > 0 {
        bar.push(PARTS[eighths % 8 - 1]);
    }
    bar
}

fn describe(found: &LoggedTransaction) -> String {
    let table = |counts: &TableCounts| {
        let counted = [('+', counts.inserts), ('~', counts.updates), ('-', counts.deletes)];
        let mut parts: Vec<_> = counted
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(sign, count)| format!("{sign}{count}"))
            .collect();
        if counts.truncates > 0 {
            parts.push("TRUNCATE".to_owned());
        }
        format!("{} {}", counts.table, parts.join(" "))
    };
    let parts: Vec<_> = found.tables.iter().map(table).chain(found.definitions.iter().cloned()).collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_to_scale() {
        assert_eq!(bar(0, 1000), "");
        assert_eq!(bar(1, 1000), "▏");
        assert_eq!(bar(1000, 1000), "█".repeat(20));
        assert_eq!(bar(500, 1000), "█".repeat(10));
        assert_eq!(bar(u64::MAX, u64::MAX).chars().count(), 20);
    }
}
