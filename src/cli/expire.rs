//! `backwhen expire`

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::templates::TemplateFate;
use super::{Surroundings, parse_duration, ui};
use crate::ambient;
use crate::connect::Conninfo;
use crate::error::Result;
use crate::history::History;
use crate::history::expire::{self, CheckpointFate, ExpiryPlan, ObjectTally, RetentionRules};
use crate::past::Reading;

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
    /// Look for templates of the history on this server, too, and drop those that no recovery can use any more
    #[arg(long, value_name = "CONN")]
    target: Option<String>,
    /// Remove the objects; without this option nothing is changed
    #[arg(long)]
    apply: bool,
}

#[derive(Serialize)]
struct ExpiryReport {
    applied: bool,
    #[serde(flatten)]
    plan: Option<ExpiryPlan>,
    /// The templates on the target.
    templates: Vec<TemplateFate>,
}

impl Expire {
    pub async fn run(self, at: &Surroundings) -> Result<()> {
        let history = at.history()?;
        let plan = self.expire(at, &history).await?;
        let templates = match &self.target {
            Some(target) => {
                let target = Conninfo::parse(target)?;
                TemplateFate::settle(&Reading::open(&history)?, &target, self.apply).await?
            }
            None => Vec::new(),
        };
        let applied = self.apply && plan.as_ref().is_some_and(|plan| !plan.is_empty());
        let shown = ExpiryReport { applied, plan, templates };
        at.ui.result(&shown, || describe(&shown))
    }

    /// Expires by the rules; `None` if there are none, and only templates are asked for.
    async fn expire(&self, at: &Surroundings, history: &History) -> Result<Option<ExpiryPlan>> {
        let rules = RetentionRules { last: self.keep_last, within: self.keep_within };
        if self.target.is_some() && rules.last.is_none() && rules.within.is_none() {
            return Ok(None);
        }
        rules.check()?;
        let (history, progress, apply) = (history.clone(), at.ui.progress(), self.apply);
        let work = ambient::blocking("expiring", move || {
            if apply {
                expire::expire(&history, &rules, &*progress)
            } else {
                expire::preview(&history, &rules)
            }
        });
        work.await.map(Some)
    }
}

fn describe(shown: &ExpiryReport) -> String {
    let plan = shown.plan.as_ref().map(|plan| describe_plan(plan, shown.applied));
    plan.into_iter().chain(shown.templates.iter().map(TemplateFate::describe)).collect::<Vec<_>>().join("\n")
}

fn describe_plan(plan: &ExpiryPlan, applied: bool) -> String {
    let gone = if applied { "gone" } else { "goes" };
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
    text.push_str(&match (plan.is_empty(), applied) {
        (true, _) => "nothing is older than that; nothing goes".to_owned(),
        (false, true) => format!("removed   {}", ui::bytes(plan.bytes_freed)),
        (false, false) => {
            format!("to remove {}: nothing was changed; do it with --apply", ui::bytes(plan.bytes_freed))
        }
    });
    text
}
