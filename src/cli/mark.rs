//! `backwhen mark`

use clap::Args;
use serde::Serialize;

use super::{SourceOption, Surroundings};
use crate::capture;
use crate::error::{Error, Result};
use crate::history::timeline::Timeline;
use crate::model::Lsn;

/// Put a named moment into the stream
#[derive(Args)]
pub struct Mark {
    /// Any text that is not a mark's name yet
    name: String,
    #[command(flatten)]
    source: SourceOption,
}

#[derive(Serialize)]
struct Marked {
    name: String,
    lsn: Lsn,
    /// A capture is running, so the mark will be in the history in a moment.
    captured: bool,
}

impl Mark {
    pub async fn run(self, at: &Surroundings) -> Result<()> {
        if self.name.trim().is_empty() || self.name.contains(char::is_control) {
            return Err(Error::usage("a mark needs a name of printable characters"));
        }
        let history = at.history()?;
        let timeline = Timeline::read(&history, &*at.catalog(&history)?)?;
        if timeline.marks().any(|(_, mark)| mark.name == self.name) {
            return Err(Error::refused(format!(
                "there is a mark {:?} already; choose another name (see: backwhen list marks)",
                self.name
            )));
        }
        let lsn = capture::mark(&history, &self.source.of(&history)?, &self.name).await?;
        let marked = Marked { name: self.name, lsn, captured: history.capture_is_running() };
        if !marked.captured {
            at.ui.say(
                "no capture is running: the mark is in the source's log and comes in with the next capture",
            );
        }
        at.ui.result(&marked, || {
            format!(
                "mark {:?} set after {}; recover to it with --to 'mark:{}'",
                marked.name, marked.lsn, marked.name
            )
        })
    }
}
