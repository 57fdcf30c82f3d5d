//! `backwhen query`

mod format;

use std::io::{IsTerminal, Read};
use std::path::Path;

use clap::{Args, ValueEnum};

use super::Surroundings;
use super::past::{self, PastOption};
use crate::error::{Context, Error, Kind, Result};
use crate::recover::part::Narrowing;
use crate::recover::past_server::{PastServer, tables_meant};
use crate::recover::plan::Plan;
use crate::serve::{EXAMPLE, EXAMPLE_OF_TWO, ask};
use crate::store::files;
use format::Writer;

/// The name of the database, if several moments share it.
const TOGETHER: &str = "past";

/// Run SQL on the past, and print its result
///
/// A short-lived server of backwhen's own gets the structure of the moment, and the rows of those tables that the statement
/// touches. What the statement changes is thrown away with the server.
#[derive(Args, Clone)]
#[command(after_help = example())]
pub struct Query {
    #[command(flatten)]
    past: PastOption,
    /// The statement [default: standard input]
    #[arg(value_name = "SQL", conflicts_with = "file")]
    sql: Option<String>,
    /// A file with statements; - for standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<String>,
    /// Load only those rows of a table that meet a condition in SQL, such as 'orders: customer_id = 42'; the table is a
    /// pattern (schema.table, with * and ?). May be given more than once
    #[arg(long = "where", value_name = "TABLE: CONDITION")]
    conditions: Vec<String>,
    /// How rows are printed [default: table, or json with --output json]
    #[arg(long, env = "BACKWHEN_FORMAT", value_enum)]
    format: Option<Format>,
}

fn example() -> String {
    format!(
        "Example: backwhen query --at '1 hour ago' '{EXAMPLE}'\n\
         Of a huge table, only the rows of one customer:\n\
         backwhen query --at '1 hour ago' --where 'orders: customer_id = 42' '{EXAMPLE}'\n\
         With several --at, the tables of each moment are in schemas of its own, at1, at2 and so on:\n\
         backwhen query --at mark:deploy --at latest '{EXAMPLE_OF_TWO}'"
    )
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Csv,
    Json,
}

impl Query {
    pub async fn run(self, at: &Surroundings) -> Result<()> {
        let sql = self.statements()?;
        let narrowings =
            self.conditions.iter().map(|text| Narrowing::parse(text)).collect::<Result<Vec<_>>>()?;
        let plans = self.past.plans(at)?;
        // A pattern that matches no table is said before a server is started.
        plans.iter().try_for_each(|plan| tables_meant(plan, &narrowings).map(drop))?;
        let settings = self.past.settings(at, narrowings, false, None)?;
        let server = PastServer::start(&plans, settings).await?;
        let answered = self.answer(at, &server, &plans, &sql).await;
        server.stop().await;
        answered
    }

    async fn answer(&self, at: &Surroundings, server: &PastServer, plans: &[Plan], sql: &str) -> Result<()> {
        let name = if plans.len() > 1 { TOGETHER.to_owned() } else { database_name(&plans[0]) };
        let mut database = server.add(plans, &name, &at.ui.progress()).await?;
        past::say(at, &database);
        let usual = if at.ui.is_json() { Format::Json } else { Format::Table };
        let mut writer = Writer::new(&at.ui, self.format.unwrap_or(usual));
        let tell = |event: &_| past::say_event(at, event);
        let interrupt = at.heed_signals();
        tokio::select! {
            done = ask(&mut database, sql, &mut writer, &tell) => done?,
            () = interrupt.cancelled() => return Err(Error::interrupted()),
        }
        writer.finish()
    }

    fn statements(&self) -> Result<String> {
        match (&self.sql, self.file.as_deref()) {
            (Some(sql), _) => Ok(sql.clone()),
            (None, Some(file)) if file != "-" => files::read_text(Path::new(file)),
            (None, None) if std::io::stdin().is_terminal() => {
                Err(Error::usage("no statement is named; write it as an argument, or name a file with -f"))
            }
            (None, _) => {
                let mut text = String::new();
                let read = std::io::stdin().read_to_string(&mut text);
                read.context(Kind::Usage, || "cannot read standard input".into())?;
                Ok(text)
            }
        }
    }
}

/// The name of the source's database, unless a server of our own has a database of this name already.
pub(super) fn database_name(plan: &Plan) -> String {
    let name = &plan.past.history().identity().source.database;
    if matches!(name.as_str(), "postgres" | "template0" | "template1") {
        format!("{TOGETHER}_{name}")
    } else {
        name.clone()
    }
}
