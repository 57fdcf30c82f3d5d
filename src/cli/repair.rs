//! `backwhen repair`

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::verify::acknowledged;
use super::{Surroundings, ui};
use crate::ambient;
use crate::error::{Kind, Result};
use crate::history::History;
use crate::history::repair::{self, RepairOutcome};
use crate::history::segments::Segments;
use crate::history::verify;

/// Replace damaged and missing objects of the history from a copy
#[derive(Args, Clone)]
pub struct Repair {
    /// The copy that `backwhen copy` made: a folder, or s3://BUCKET/PREFIX, gs:// or az://
    #[arg(long, value_name = "PATH|URL")]
    from: String,
}

#[derive(Serialize)]
struct RepairReport {
    ok: bool,
    #[serde(flatten)]
    repaired: RepairOutcome,
    faults: Vec<String>,
}

impl Repair {
    pub async fn run(self, at: &Surroundings) -> Result<ExitCode> {
        let (ours, from) = (at.history_folder("repair")?, at.place(&self.from)?);
        let (progress, key) = (at.ui.progress(), at.key()?);
        let work = ambient::blocking("repairing", move || {
            let from = from.history(key.as_ref())?;
            let local = ours.local_folder_to_write()?;
            let acknowledged = acknowledged(&local);
            let repaired = repair::repair(&local, &from, acknowledged, &*progress)?;
            // Only reading every object shows the state of the history after a repair.
            let faults = match History::open(&local, key.as_ref()) {
                Ok(history) => {
                    let segments = Segments::new(history.journal());
                    verify::verify(&history, &segments, acknowledged, &*progress)?.faults
                }
                Err(error) => vec![error.to_string()],
            };
            Ok((repaired, faults))
        });
        let (repaired, faults) = work.await?;
        let ok = faults.is_empty() && repaired.not_healed.is_empty();
        let shown = RepairReport { ok, repaired, faults };
        at.ui.result(&shown, || describe(&shown))?;
        Ok(if ok { ExitCode::SUCCESS } else { ExitCode::from(Kind::Damaged.exit_code()) })
    }
}

fn describe(shown: &RepairReport) -> String {
    let mut text = String::new();
    let mut lines = |head: &str, lines: &[String]| {
        for line in lines {
            text.push_str(&format!("{head}  {}\n", ui::printable(line)));
        }
    };
    lines("healed    ", &shown.repaired.healed);
    lines("set aside ", &shown.repaired.set_aside);
    lines("NOT HEALED", &shown.repaired.not_healed);
    lines("DAMAGED   ", &shown.faults);
    text.push_str(match (shown.ok, shown.repaired.healed.is_empty()) {
        (true, true) => "nothing was damaged",
        (true, false) => "all is well again",
        (false, _) => "the history is still damaged; what is not named above is whole",
    });
    text
}
