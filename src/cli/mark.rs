//! `backwhen mark`

use clap::Args;
use serde::Serialize;

use super::{SourceOption, Surroundings};
use crate::capture;
use crate::error::{Error, Result, is_hazard};
use crate::history::timeline::Timeline;
use crate::model::Lsn;

/// Put a named moment into the stream
#[derive(Args, Clone)]
pub struct Mark {
    /// The mark's name: any text of at most 1024 bytes that no mark has yet
    name: String,
    #[command(flatten)]
    source: SourceOption,
}

#[derive(Serialize)]
struct MarkReport {
    name: String,
    lsn: Lsn,
    /// Whether a capture is running, which brings the mark into the history within a moment.
    captured: bool,
}

/// The greatest length of a mark's name and of a checkpoint's label, in bytes; a longer one is refused. Both stand in
/// every list, and in the memory of a capture.
const LONGEST: usize = 1 << 10;

/// Refuses a name that cannot be shown on one line.
///
/// # Errors
/// Fails with `Usage` if the name is empty, too long, or has a control character.
pub(super) fn refuse_unprintable(what: &str, name: &str) -> Result<()> {
    if name.trim().is_empty() || name.contains(is_hazard) {
        return Err(Error::usage(format!("{what} is made of printable characters, and of at least one")));
    }
    if name.len() > LONGEST {
        return Err(Error::usage(format!(
            "{what} may have {LONGEST} bytes at the most; this one has {}",
            name.len()
        )));
    }
    Ok(())
}

impl Mark {
    pub async fn run(self, at: &Surroundings) -> Result<()> {
        refuse_unprintable("a mark's name", &self.name)?;
        let history = at.local_history("mark")?;
        let timeline = Timeline::read(&history, &*at.catalog(&history)?)?;
        if timeline.marks().any(|(_, mark)| mark.name == self.name) {
            return Err(Error::refused(format!(
                "there is a mark {:?} already; choose another name (see: backwhen list marks)",
                self.name
            )));
        }
        let lsn = capture::mark(&history, &self.source.of(&history)?, &self.name).await?;
        let marked = MarkReport { name: self.name, lsn, captured: history.capture_is_running() };
        if !marked.captured {
            at.ui.say(
                "no capture is running: the mark is in the source's WAL and comes in with the next capture",
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
