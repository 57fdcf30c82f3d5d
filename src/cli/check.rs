//! `backwhen check`

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{Surroundings, against_source, default_jobs, named_source, ui};
use crate::connect::Conninfo;
use crate::error::{Error, Kind, Result};
use crate::model::Selection;
use crate::pgtools::Tools;
use crate::source::preflight::{self, Preflight};

/// Look whether a database can be protected, and how well; changes nothing
#[derive(Args, Clone)]
pub struct Check {
    /// The database to look at: a libpq connection string or URI. Others can see arguments:
    /// keep the password in ~/.pgpass
    #[arg(long, env = "BACKWHEN_SOURCE", value_name = "CONN", hide_env_values = true)]
    source: Option<String>,
    /// Look only at tables that match; may be given again
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,
    /// Leave out tables that match; may be given again
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Compare the history's latest state with the source instead, table by table, at one snapshot
    #[arg(long, conflicts_with_all = ["include", "exclude"])]
    against_source: bool,
    /// Sessions that read from the source at the same time
    #[arg(long, env = "BACKWHEN_JOBS", value_name = "N", default_value_t = default_jobs())]
    jobs: usize,
}

#[derive(Serialize)]
struct Checked {
    /// Whether a capture could start.
    ready: bool,
    #[serde(flatten)]
    preflight: Preflight,
}

impl Check {
    pub async fn run(self, at: &Surroundings) -> Result<ExitCode> {
        if self.against_source {
            return against_source::run(at, self.source, self.jobs).await;
        }
        let source = named_source(self.source.as_deref())?;
        let selection = Selection::parse(&self.include, &self.exclude)?;
        let mut preflight = preflight::look(&source, at.tools().as_ref(), &selection).await?;
        if preflight.is_ready() {
            preflight.findings.extend(preflight::no_slot(&source).await?);
        }
        let checked = Checked { ready: preflight.is_ready(), preflight };
        at.ui.result(&checked, || describe(&checked))?;
        Ok(if checked.ready { ExitCode::SUCCESS } else { ExitCode::from(Kind::Refused.exit_code()) })
    }
}

/// Checks the source before `init` changes anything.
///
/// # Errors
/// Fails with `Refused`, and lists every obstacle.
pub async fn refuse_what_cannot_start(source: &Conninfo, tools: &Tools) -> Result<()> {
    let preflight = preflight::look(source, Ok(tools), &Selection::default()).await?;
    if preflight.is_ready() {
        return Ok(());
    }
    let fatal = preflight.findings.iter().filter(|finding| finding.fatal);
    let faults: Vec<_> =
        fatal.map(|finding| format!("{}; to mend: {}", finding.what, finding.mend)).collect();
    Err(Error::refused(format!("the source is not ready:\n  - {}", faults.join("\n  - "))))
}

fn describe(checked: &Checked) -> String {
    let preflight = &checked.preflight;
    let mut text = format!("server   PostgreSQL {}\n", ui::printable(&preflight.server_version));
    for finding in &preflight.findings {
        let weight = if finding.fatal { "FAULT  " } else { "advice " };
        text.push_str(&format!(
            "{weight}  {}\n         to mend: {}\n",
            ui::printable(&finding.what),
            finding.mend
        ));
    }
    let rows: Vec<_> = preflight
        .tables
        .iter()
        .map(|table| vec![table.table.clone(), table.grade.to_owned(), table.why.clone(), table.mend.clone()])
        .collect();
    text.push('\n');
    text.push_str(&ui::table(&["table", "grade", "why", "to mend"], &rows));
    text.push_str(if checked.ready {
        "\n\nready: capture could start"
    } else {
        "\n\nnot ready: capture could not start"
    });
    text
}
