//! `backwhen repair`

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::verify::acknowledged;
use super::{Surroundings, dispersal, ui};
use crate::ambient;
use crate::error::{Error, Kind, Result};
use crate::history::History;
use crate::history::repair::{self, RepairOutcome};
use crate::history::segments::Segments;
use crate::history::verify;
use crate::store::Survey;

/// Replace damaged and missing objects of the history from a copy
#[derive(Args, Clone)]
pub struct Repair {
    /// The copy that `backwhen copy` made: a folder, or s3://BUCKET/PREFIX, gs://, az:// or disperse:. Without a copy, a history
    /// that is dispersed over several stores (--history disperse:…) is made whole from the stores themselves
    #[arg(long, value_name = "PATH|URL")]
    from: Option<String>,
    /// Without a copy: this store of the dispersed history is new and empty, in the place of a lost one, and is filled; may be
    /// given several times
    #[arg(long, value_name = "URL", conflicts_with = "from")]
    refill: Vec<String>,
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
        let Some(from) = self.from else { return heal_dispersed(at, self.refill).await };
        let (ours, from) = (at.history_folder("repair")?, at.place(&from)?);
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

#[derive(Serialize)]
struct HealReport {
    ok: bool,
    #[serde(flatten)]
    healed: Survey,
}

/// Makes what each store of a dispersed history lacks again from the others.
async fn heal_dispersed(at: &Surroundings, refill: Vec<String>) -> Result<ExitCode> {
    let (place, progress) = (at.history_place()?, at.ui.progress());
    let work = ambient::blocking("repairing", move || {
        // Shards are made again from each other, without the key of an encrypted history.
        let store = place.outer_store()?;
        match store.dispersal() {
            Some(dispersed) => dispersed.heal(&refill, &*progress),
            None => Err(Error::usage(format!(
                "repair needs a sound copy of {place}; name it with --from, a folder or a URL"
            ))),
        }
    });
    let healed = work.await?;
    let ok = healed.is_whole();
    let shown = HealReport { ok, healed };
    at.ui.result(&shown, || dispersal::describe(&shown.healed, true).trim_end().to_owned())?;
    Ok(match (ok, shown.healed.faults.is_empty()) {
        (true, _) => ExitCode::SUCCESS,
        (false, true) => ExitCode::from(Kind::Unavailable.exit_code()),
        (false, false) => ExitCode::from(Kind::Damaged.exit_code()),
    })
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
