//! `backwhen drop`

use clap::Args;
use serde::Serialize;

use super::{SourceOption, Surroundings};
use crate::connect::Conninfo;
use crate::error::Result;
use crate::protect::begin;

/// Take event triggers, slot and publications off the source; the history stays and can be recovered from
#[derive(Args)]
pub struct Drop {
    #[command(flatten)]
    source: SourceOption,
    /// Also if the history is gone, or the source another cluster
    #[arg(long, requires = "source")]
    force: bool,
    /// With --force: the slot of the history that is gone
    #[arg(long, value_name = "SLOT", requires = "force", value_parser = parse_slot)]
    slot: Option<String>,
}

fn parse_slot(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix("backwhen_").unwrap_or_default();
    let is_slot =
        digits.len() == 12 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    is_slot.then(|| text.to_owned()).ok_or_else(|| "write a name such as backwhen_0123456789ab".to_owned())
}

#[derive(Serialize)]
struct Dropped {
    slot: String,
    history: String,
}

/// The same without a history.
#[derive(Serialize)]
struct TracesDropped {
    /// The slot of the history that is gone; null if the source had nothing of one.
    slot: Option<String>,
}

impl Drop {
    pub async fn run(self, at: &Surroundings) -> Result<()> {
        // With --slot, the history that is gone is meant, and none that may lie here.
        if self.slot.is_some() {
            return self.drop_traces(at).await;
        }
        let history = match at.history() {
            Ok(history) => history,
            Err(_) if self.force => return self.drop_traces(at).await,
            Err(error) => return Err(error),
        };
        begin::leave(&history, &self.source.of(&history)?, self.force).await?;
        let dropped =
            Dropped { slot: history.identity().slot(), history: history.root().display().to_string() };
        at.ui.result(&dropped, || {
            format!(
                "took event triggers, slot and publications {} off the source; the history in {} is kept",
                dropped.slot, dropped.history
            )
        })
    }

    /// Takes off the source what is there of a history that cannot be opened.
    async fn drop_traces(self, at: &Surroundings) -> Result<()> {
        let source = Conninfo::parse(self.source.source.as_deref().unwrap_or_default())?;
        let slot = begin::remove_traces(&source, self.slot.as_deref()).await?;
        at.ui.result(&TracesDropped { slot: slot.clone() }, || match slot {
            Some(slot) => format!("took event triggers, slot and publications {slot} off the source"),
            None => "the source has nothing of backwhen that is not in use".to_owned(),
        })
    }
}
