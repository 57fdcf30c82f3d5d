//! `backwhen pin` and `backwhen unpin`

use clap::Args;
use serde::Serialize;

use super::mark::refuse_unprintable;
use super::{Surroundings, ui};
use crate::error::Result;
use crate::history::History;
use crate::history::pins::Pin as Pinned;
use crate::model::PgTime;

/// Keep a checkpoint whatever the rules of `expire` say, until it is unpinned
#[derive(Args, Clone)]
pub struct Pin {
    /// The checkpoint: its id, the beginning of its id, or its label
    checkpoint: String,
    /// Why the checkpoint is kept, for whoever finds it later; at most 1024 bytes
    #[arg(long, alias = "why", value_name = "TEXT")]
    reason: String,
}

/// Take the pin off a checkpoint, so that the rules of `expire` decide about it again
#[derive(Args, Clone)]
pub struct Unpin {
    /// The checkpoint: its id, the beginning of its id, or its label
    checkpoint: String,
}

#[derive(Serialize)]
struct PinReport {
    checkpoint: String,
    reason: String,
    at: PgTime,
    pinned: bool,
}

impl PinReport {
    fn of(pin: Pinned, pinned: bool) -> PinReport {
        PinReport { checkpoint: pin.checkpoint, reason: pin.reason, at: pin.at, pinned }
    }
}

impl Pin {
    pub async fn run(self, at: &Surroundings) -> Result<()> {
        refuse_unprintable("a reason", &self.reason)?;
        let pin = history_to_change(at)?.pin(&self.checkpoint, &self.reason)?;
        let shown = PinReport::of(pin, true);
        at.ui.result(&shown, || {
            format!("checkpoint {} is kept until: backwhen unpin {}", shown.checkpoint, shown.checkpoint)
        })
    }
}

impl Unpin {
    pub async fn run(self, at: &Surroundings) -> Result<()> {
        let pin = history_to_change(at)?.unpin(&self.checkpoint)?;
        let shown = PinReport::of(pin, false);
        at.ui.result(&shown, || {
            let reason = ui::printable(&shown.reason);
            format!("checkpoint {} is no longer pinned; it was kept for: {reason}", shown.checkpoint)
        })
    }
}

/// What a table shows of a checkpoint's label and of the reason for which it is pinned.
pub(super) fn label_and_pin(label: Option<&str>, pinned: Option<&str>) -> String {
    let pinned = pinned.map(|reason| format!("pinned: {}", ui::printable(reason)));
    label.map(str::to_owned).into_iter().chain(pinned).collect::<Vec<_>>().join(", ")
}

fn history_to_change(at: &Surroundings) -> Result<History> {
    let history = at.history()?;
    history.authorship().check_may_write(history.place().as_ref())?;
    Ok(history)
}
