//! `backwhen drop`

use clap::Args;
use serde::Serialize;

use super::{SourceOption, Surroundings};
use crate::connect::Conninfo;
use crate::error::{Error, Result};
use crate::protect::begin;

/// Take event triggers, slot and publications off the source; the history stays and can be recovered from
#[derive(Args, Clone)]
pub struct Drop {
    #[command(flatten)]
    source: SourceOption,
    /// Also if the history is gone, or the source another cluster
    #[arg(long, requires = "source")]
    force: bool,
    /// With --force: the slot of the history that is gone, as `check` names it, or the history's id
    #[arg(long, value_name = "SLOT", requires = "force", value_parser = parse_slot)]
    slot: Option<String>,
}

/// A slot's name holds the first twelve digits of its history's id.
fn parse_slot(text: &str) -> Result<String, String> {
    let slot = text.strip_prefix("backwhen_").filter(|digits| digits.len() == 12);
    let digits = slot.or_else(|| Some(text).filter(|id| id.len() == 32)).unwrap_or_default();
    let is_hex = |digits: &str| digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    match digits.get(..12).filter(|_| is_hex(digits)) {
        Some(short) => Ok(format!("backwhen_{short}")),
        None => Err("write a name such as backwhen_0123456789ab, or an id of 32 digits".to_owned()),
    }
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
        if let Some(slot) = &self.slot {
            let source = self.named_source()?.for_history(slot);
            let found = begin::traces_on(&source).await?;
            let found = found.iter().find(|trace| trace.slot == *slot);
            if found.is_some_and(|trace| trace.active) {
                return Err(Error::locked(format!(
                    "a capture streams from {slot}, so its history is not gone; stop that capture first, or take the \
                     history off where it lies, with: backwhen drop --history PATH"
                )));
            }
            begin::undo(&source, slot).await?;
            return show_traces(at, found.map(|_| slot.as_str()));
        }
        at.history_folder("drop")?;
        let history = match at.history() {
            Err(error) if self.force => return self.without_history(at, &error).await,
            history => history?,
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

    fn named_source(&self) -> Result<Conninfo> {
        Conninfo::parse(self.source.source.as_deref().unwrap_or_default())
    }

    /// Names what the source has, and takes nothing: that the capture of a history does not run is no sign that the
    /// history is gone.
    async fn without_history(self, at: &Surroundings, error: &Error) -> Result<()> {
        let found = begin::traces_on(&self.named_source()?).await?;
        let unused = found.iter().filter(|trace| !trace.active);
        let found: Vec<_> = unused.map(ToString::to_string).collect();
        if found.is_empty() {
            return show_traces(at, None);
        }
        Err(Error::refused(format!(
            "{error}; the source has: {}; if the history of one of these slots is gone, take off what it has left with: \
             backwhen drop --force --slot SLOT --source CONN",
            found.join("; ")
        )))
    }
}

fn show_traces(at: &Surroundings, slot: Option<&str>) -> Result<()> {
    let slot = slot.map(str::to_owned);
    at.ui.result(&TracesDropped { slot: slot.clone() }, || match slot {
        Some(slot) => format!("took event triggers, slot and publications {slot} off the source"),
        None => "the source has nothing of backwhen that is not in use".to_owned(),
    })
}
