//! `backwhen expire`

use clap::Args;
use serde::Serialize;

use super::pin::label_and_pin;
use super::retention::RetentionOptions;
use super::templates::TemplateFate;
use super::{Surroundings, ui};
use crate::ambient;
use crate::connect::Conninfo;
use crate::error::Result;
use crate::history::History;
use crate::history::expire::{self, CheckpointFate, ExpiryPlan, Fate, ObjectTally};
use crate::past::Reading;

/// Remove the oldest part of the history; without --apply, show what would be removed
///
/// Every moment is kept in the stretch that --keep-within and --keep-last name, which ends now; the longer one counts.
/// Before that stretch, the other rules keep single checkpoints, whose own moments can be recovered: the newest
/// checkpoint of each hour, day, week, month or year that has one, counted back from the newest checkpoint, by the local
/// time of this machine (TZ). Weeks begin on Monday. A rule that has counts left keeps the oldest checkpoint too. The
/// newest checkpoint, every moment after it, and pinned checkpoints always stay.
#[derive(Args, Clone)]
pub struct Expire {
    #[command(flatten)]
    retention: RetentionOptions,
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
        let rules = self.retention.rules();
        if self.target.is_some() && rules.is_empty() {
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
        let fate = match it.fate {
            Fate::Every => "stays",
            Fate::Single => "single",
            Fate::Goes => gone,
        };
        let note = label_and_pin(it.label.as_deref(), it.pinned.as_deref());
        let (time, lsn) = (it.time.to_string(), it.lsn.to_string());
        vec![fate.to_owned(), it.id.clone(), time, lsn, it.rules.join(" "), note]
    };
    let checkpoints: Vec<_> = plan.checkpoints.iter().map(fate).collect();
    let mut text = ui::table(&["", "checkpoint", "time", "lsn", "kept by", "label"], &checkpoints);
    let tally = |it: &ObjectTally| {
        let (stay, go) = (it.stay.to_string(), it.go.to_string());
        vec![it.kind.to_owned(), stay, ui::bytes(it.bytes_stay), go, ui::bytes(it.bytes_go)]
    };
    let objects: Vec<_> = plan.objects.iter().map(tally).collect();
    text.push_str("\n\n");
    text.push_str(&ui::table(&["objects", "stay", "bytes", gone, "bytes"], &objects));
    text.push_str(&format!("\n\nkept      {}\n", plan.rules.join(" ")));
    text.push_str(&format!(
        "every moment since {}  {}\n",
        plan.earliest_after.lsn,
        ui::both_times(plan.earliest_after.time)
    ));
    let singles = plan.checkpoints.iter().filter(|it| it.fate == Fate::Single).count();
    if singles > 0 {
        text.push_str(&format!(
            "before that {singles} single checkpoints, by the local time of this machine (UTC{})\n",
            plan.zone
        ));
    }
    if plan.repacked.packs > 0 {
        text.push_str(&format!(
            "packed anew {} packs, of which {} are needed\n",
            plan.repacked.packs,
            ui::bytes(plan.repacked.bytes_read)
        ));
    }
    text.push_str(&match (plan.is_empty(), applied) {
        (true, _) => "nothing is older than that; nothing goes".to_owned(),
        (false, true) => format!("removed   {}", ui::bytes(plan.bytes_freed)),
        (false, false) => {
            format!("to remove {}: nothing was changed; do it with --apply", ui::bytes(plan.bytes_freed))
        }
    });
    text
}
