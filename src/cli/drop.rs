//! `backwhen drop`

use clap::Args;
use serde::Serialize;

use super::{SourceOption, Surroundings};
use crate::error::Result;
use crate::protect::begin;

/// Take event triggers, slot and publications off the source; the history stays and can be recovered from
#[derive(Args)]
pub struct Drop {
    #[command(flatten)]
    source: SourceOption,
}

#[derive(Serialize)]
struct Dropped {
    slot: String,
    history: String,
}

impl Drop {
    pub async fn run(self, at: &Surroundings) -> Result<()> {
        let history = at.history()?;
        begin::leave(&history, &self.source.of(&history)?).await?;
        let dropped =
            Dropped { slot: history.identity().slot(), history: history.root().display().to_string() };
        at.ui.result(&dropped, || {
            format!(
                "took event triggers, slot and publications {} off the source; the history in {} is kept",
                dropped.slot, dropped.history
            )
        })
    }
}
