//! `backwhen copy`

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::secrecy::EncryptionOptions;
use super::{Surroundings, ui};
use crate::ambient;
use crate::error::{Kind, Result};
use crate::history::copy::{self, CopyOutcome};

/// Mirror the history to a second folder or an object store, or update such a copy
#[derive(Args, Clone)]
pub struct Copy {
    /// The folder of the copy, which is created if it does not exist, or s3://BUCKET/PREFIX, gs://, az://,
    /// or disperse:k=K,m=M,URL,… for several stores
    #[arg(long, value_name = "PATH|URL")]
    to: String,
    #[command(flatten)]
    encryption: EncryptionOptions,
}

#[derive(Serialize)]
struct CopyReport {
    ok: bool,
    history: String,
    to: String,
    #[serde(flatten)]
    copied: CopyOutcome,
}

impl Copy {
    pub async fn run(self, at: &Surroundings) -> Result<ExitCode> {
        let (history, place) = (at.history()?, at.place_of_copy(&self.to, &self.encryption)?);
        let progress = at.ui.progress();
        let (from, to) = (history.place().to_owned(), place.to_string());
        let work = ambient::blocking("copying", move || copy::copy(&history, &place, &*progress));
        let copied = work.await?;
        let shown = CopyReport { ok: copied.faults.is_empty(), history: from, to, copied };
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
    text.push_str(if shown.ok {
        "the copy holds all that the history does"
    } else {
        "the copy lacks what is named above; what it has is whole"
    });
    text
}
