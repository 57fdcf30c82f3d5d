//! `backwhen copy`

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::retention::RetentionOptions;
use super::secrecy::EncryptionOptions;
use super::{Surroundings, ui};
use crate::ambient;
use crate::error::{Kind, Result};
use crate::history::copy::{self, CopyOutcome};
use crate::history::expire::{self, ExpiryPlan, RetentionRules};

/// Mirror the history to a second folder or an object store, or update such a copy
#[derive(Args, Clone)]
pub struct Copy {
    /// The folder of the copy, which is created if it does not exist, or s3://BUCKET/PREFIX, gs://, az://,
    /// or disperse:k=K,m=M,URL,… for several stores
    #[arg(long, value_name = "PATH|URL")]
    to: String,
    #[command(flatten)]
    encryption: EncryptionOptions,
    /// Then let go in the copy what the --keep options do not keep, which may be more or less than what is kept here
    #[arg(long)]
    expire: bool,
    #[command(flatten)]
    retention: RetentionOptions,
}

#[derive(Serialize)]
struct CopyReport {
    ok: bool,
    history: String,
    to: String,
    #[serde(flatten)]
    copied: CopyOutcome,
    /// With --expire, what was let go in the copy; null if the copy is not whole.
    expired: Option<ExpiryPlan>,
}

impl Copy {
    pub async fn run(self, at: &Surroundings) -> Result<ExitCode> {
        let rules = self.expire.then(|| self.retention.rules());
        rules.as_ref().map_or(Ok(()), RetentionRules::check)?;
        let (history, place) = (at.history()?, at.place_of_copy(&self.to, &self.encryption)?);
        let progress = at.ui.progress();
        let (from, to) = (history.place().to_owned(), place.to_string());
        let key = at.key()?;
        let work = ambient::blocking("copying", move || {
            let copied = copy::copy(&history, &place, &*progress)?;
            let expired = match rules.filter(|_| copied.faults.is_empty()) {
                Some(rules) => Some(expire::expire(&place.history(key.as_ref())?, &rules, &*progress)?),
                None => None,
            };
            Ok((copied, expired))
        });
        let (copied, expired) = work.await?;
        let shown = CopyReport { ok: copied.faults.is_empty(), history: from, to, copied, expired };
        at.ui.result(&shown, || describe(&shown))?;
        Ok(if shown.ok { ExitCode::SUCCESS } else { ExitCode::from(Kind::Damaged.exit_code()) })
    }
}

fn describe(shown: &CopyReport) -> String {
    let it = &shown.copied;
    let mut text = format!("copied    {} objects, {}, to {}\n", it.objects, ui::bytes(it.bytes), shown.to);
    if let Some(end) = it.end {
        text.push_str(&format!("ends      {end}\n"));
    }
    for fault in &it.faults {
        text.push_str(&format!("DAMAGED   {}\n", ui::printable(fault)));
    }
    if let Some(expired) = &shown.expired {
        text.push_str(&format!(
            "kept      {}\nremoved   {} in the copy, where every moment is held since {}\n",
            expired.rules.join(" "),
            ui::bytes(expired.bytes_freed),
            ui::both_times(expired.earliest_after.time)
        ));
    }
    text.push_str(if shown.ok && shown.expired.is_some() {
        "the copy holds all that the history does and the rules keep"
    } else if shown.ok {
        "the copy holds all that the history does"
    } else {
        "the copy lacks what is named above; what it has is whole"
    });
    text
}
