//! `backwhen row`

use std::borrow::Cow;

use clap::Args;

use super::{Surroundings, changes, ui};
use crate::error::Result;
use crate::model::Inexact;
use crate::past::Reading;
use crate::travel::Spans;
use crate::travel::row::{Instant, RowHistory, RowKey, Version};
use crate::travel::statement::bring_back;
use crate::travel::values::Values;

/// Print every version that a row had, with the transactions that made them
///
/// A row keeps its history when its key changes. A transaction that writes a row several times makes one version.
#[derive(Args, Clone)]
#[command(after_help = "Example: backwhen row orders 42 --since '1 day ago'\n\
                        With --sql, each version comes as the statement that brings it back.")]
pub struct RowCommand {
    /// The table (schema.table, or the name alone)
    table: String,
    /// The key: 42, or a=1,b=x for several columns
    key: String,
    /// Only versions that there were after this moment
    #[arg(long, value_name = "MOMENT", allow_hyphen_values = true)]
    since: Option<String>,
    /// Only versions that there were up to this moment
    #[arg(long, value_name = "MOMENT", allow_hyphen_values = true)]
    until: Option<String>,
    /// Print the statement that brings each version back
    #[arg(long)]
    sql: bool,
}

impl RowCommand {
    pub async fn run(self, at: &Surroundings) -> Result<()> {
        let history = at.history()?;
        let reading = Reading::open(&history)?;
        let spans = changes::spans(at, &reading, self.since.as_deref(), self.until.as_deref())?;
        let keys = RowKey::find(&reading, &spans, &self.table, &self.key)?;
        let mut last = None;
        let mut print = |version: Version| -> Result<()> {
            if self.sql {
                at.ui.print(&ui::script(&self.script(&version)?))?;
            } else {
                at.ui.result(&version.shown(), || self.describe(&version))?;
            }
            last = Some(version);
            Ok(())
        };
        let inexact = match &keys[..] {
            [key] => RowHistory { key, spans: &spans }.list(&mut print)?,
            keys => in_partitions(keys, &spans, &mut print)?,
        };
        changes::say_inexact(at, &inexact);
        match last {
            None => at.ui.say("no row has, or had, this key in the stretch that was asked for"),
            Some(version) if !at.ui.is_json() && !self.sql => {
                if let Some(xid) = version.to.and_then(|to| to.xid).or(version.from.xid) {
                    at.ui.print(&format!("look closer with: backwhen show xid:{xid}"))?;
                }
            }
            Some(_) => {}
        }
        Ok(())
    }
}

/// Lists the versions of the rows that have a key in several partitions, in the order in which they began.
fn in_partitions(
    keys: &[RowKey],
    spans: &Spans,
    print: &mut dyn FnMut(Version) -> Result<()>,
) -> Result<Vec<Inexact>> {
    let (mut versions, mut inexact) = (Vec::new(), Vec::new());
    for key in keys {
        let mut keep = |version| {
            versions.push(version);
            Ok(())
        };
        inexact.extend(RowHistory { key, spans }.list(&mut keep)?);
    }
    versions.sort_by_key(|version| version.from.lsn);
    versions.into_iter().try_for_each(print)?;
    Ok(inexact)
}

fn instant(instant: &Instant) -> String {
    let xid = instant.xid.map_or_else(String::new, |xid| format!("  xid {xid}"));
    format!("{}  {}{xid}", instant.time, instant.lsn)
}

impl RowCommand {
    fn lifetime(&self, version: &Version) -> String {
        let turn = |turn| format!("{turn:?}").to_lowercase();
        let to = match (&version.to, version.ended) {
            (Some(to), Some(ended)) => format!("to {} ({})", instant(to), turn(ended)),
            _ if self.until.is_some() => "and still so at --until".to_owned(),
            _ => "until now".to_owned(),
        };
        format!("from {} ({}) {to}", instant(&version.from), turn(version.turn))
    }

    fn describe(&self, version: &Version) -> String {
        let value = |(name, text): (&str, Option<Cow<'_, str>>)| match text {
            Some(text) => format!("{}='{}'", ui::printable(name), ui::printable(&text)),
            None => format!("{}=NULL", ui::printable(name)),
        };
        let values: Vec<_> = Values::all(Some(&version.row)).iter().map(value).collect();
        format!("{}\n    {}", self.lifetime(version), values.join("  "))
    }

    fn script(&self, version: &Version) -> Result<String> {
        Ok(format!("-- {}\n{}", self.lifetime(version), bring_back(&version.row)?))
    }
}
