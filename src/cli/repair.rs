//! `backwhen repair`

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::verify::acknowledged;
use super::{Surroundings, ui};
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
    /// The copy that `backwhen copy` made: a folder, or s3://BUCKET/PREFIX, gs://, az:// or disperse:. A dispersed history
    /// heals itself without a copy
    #[arg(long, value_name = "PATH|URL")]
    from: Option<String>,
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
        let Some(from) = self.from else { return heal_dispersed(at).await };
        let (root, from) = (at.history_folder("repair")?, at.place(&from)?);
        let (progress, key) = (at.ui.progress(), at.key()?);
        let work = ambient::blocking("repairing", move || {
            let from = from.history(key.as_ref())?;
            let acknowledged = acknowledged(&root);
            let repaired = repair::repair(&root, &from, acknowledged, &*progress)?;
            // Only reading every object shows the state of the history after a repair.
            let faults = match History::open(&root, key.as_ref()) {
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
async fn heal_dispersed(at: &Surroundings) -> Result<ExitCode> {
    let (place, progress) = (at.history_place()?, at.ui.progress());
    let work = ambient::blocking("repairing", move || {
        let store = place.store()?;
        match store.dispersal() {
            Some(dispersed) => dispersed.survey(true, &*progress),
            None => Err(Error::usage(format!(
                "repair needs a sound copy of {place}; name it with --from, a folder or a URL"
            ))),
        }
    });
    let healed = work.await?;
    let ok = healed.faults.is_empty() && healed.stores.iter().all(|it| it.away.is_none());
    let shown = HealReport { ok, healed };
    at.ui.result(&shown, || describe_stores(&shown.healed))?;
    Ok(match (ok, shown.healed.faults.is_empty()) {
        (true, _) => ExitCode::SUCCESS,
        (false, true) => ExitCode::from(Kind::Unavailable.exit_code()),
        (false, false) => ExitCode::from(Kind::Damaged.exit_code()),
    })
}

/// A line for each store, and how many more could be lost.
pub(super) fn describe_stores(survey: &Survey) -> String {
    let mut text = String::new();
    for it in &survey.stores {
        let state = match &it.away {
            Some(why) => format!("away: {}", ui::printable(why)),
            None => format!("lacks {}, damaged {}, healed {}", it.lacks, it.damaged, it.healed),
        };
        text.push_str(&format!("store     {}: {state}\n", ui::printable(&it.store)));
    }
    for fault in &survey.faults {
        text.push_str(&format!("DAMAGED   {}\n", ui::printable(fault)));
    }
    text.push_str(&format!("could lose {} more stores", survey.could_lose));
    text
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
