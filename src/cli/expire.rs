//! `backwhen expire`

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::{Surroundings, parse_duration, ui};
use crate::ambient;
use crate::error::Result;
use crate::history::expire::{self, CheckpointFate, ExpiryPlan, ObjectTally, RetentionRules};

/// Remove the oldest part of the history; without --apply, show what would be removed
///
/// Each rule keeps a stretch that ends now; the longest of the stretches is kept. A stretch keeps its oldest
/// checkpoint, all later checkpoints and the journal after them, so that every moment in it can be recovered.
#[derive(Args, Clone)]
pub struct Expire {
    /// Keep every moment within this time before the newest recoverable moment, such as 7d or 48h
    #[arg(long, env = "BACKWHEN_KEEP_WITHIN", value_name = "TIME", value_parser = parse_duration)]
    keep_within: Option<Duration>,
    /// Keep the newest N checkpoints, and every moment since the oldest of them
    #[arg(long, env = "BACKWHEN_KEEP_LAST", value_name = "N")]
    keep_last: Option<usize>,
    /// Remove the objects; without this option nothing is changed
    #[arg(long)]
    apply: bool,
}

#[derive(Serialize)]
struct ExpiryReport {
    applied: bool,
    #[serde(flatten)]
    plan: ExpiryPlan,
}

impl Expire {
    pub async fn run(self, at: &Surroundings) -> Result<()> {
        let rules = RetentionRules { last: self.keep_last, within: self.keep_within };
        rules.check()?;
        let history = at.history()?;
        let progress = at.ui.progress();
        let apply = self.apply;
        let work = ambient::blocking("expiring", move || {
            if apply {
                expire::expire(&history, &rules, &*progress)
            } else {
                expire::preview(&history, &rules)
            }
        });
        let plan = work.await?;
        let shown = ExpiryReport { applied: apply && !plan.is_empty(), plan };
        at.ui.result(&shown, || describe(&shown))
    }
}

fn describe(shown: &ExpiryReport) -> String {
    let plan = &shown.plan;
    let gone = if shown.applied { "gone" } else { "goes" };
    let fate = |it: &CheckpointFate| {
        let fate = if it.stays { "stays" } else { gone };
        let label = it.label.clone().unwrap_or_default();
        vec![fate.to_owned(), it.id.clone(), it.time.to_string(), it.lsn.to_string(), label]
    };
    let checkpoints: Vec<_> = plan.checkpoints.iter().map(fate).collect();
    let mut text = ui::table(&["", "checkpoint", "time", "lsn", "label"], &checkpoints);
    let tally = |it: &ObjectTally| {
        let (stay, go) = (it.stay.to_string(), it.go.to_string());
        vec![it.kind.to_owned(), stay, ui::bytes(it.bytes_stay), go, ui::bytes(it.bytes_go)]
    };
    let objects: Vec<_> = plan.objects.iter().map(tally).collect();
    text.push_str("\n\n");
    text.push_str(&ui::table(&["objects", "stay", "bytes", gone, "bytes"], &objects));
    text.push_str(&format!("\n\nkept      {}\n", plan.rules.join(" ")));
    text.push_str(&format!(
        "oldest    {}  {}\n",
        plan.earliest_after.lsn,
        ui::both_times(plan.earliest_after.time)
    ));
    text.push_str(&match (plan.is_empty(), shown.applied) {
        (true, _) => "nothing is older than that; nothing goes".to_owned(),
        (false, true) => format!("removed   {}", ui::bytes(plan.bytes_freed)),
        (false, false) => {
            format!("to remove {}: nothing was changed; do it with --apply", ui::bytes(plan.bytes_freed))
        }
    });
    text
}
