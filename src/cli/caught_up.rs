//! Waits until a running capture has brought the history up to the source.

use std::time::Duration;

use crate::ambient;
use crate::capture::{self, live};
use crate::connect::Conninfo;
use crate::error::{Error, Result};
use crate::history::History;
use crate::model::Lsn;

/// How often to check how far the history has come.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How long the history may make no progress; after that the wait fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// Makes sure that a capture follows the source.
///
/// # Errors
/// `Refused` if no capture runs; `Unavailable` if capture has lost continuity.
pub(super) fn followed(history: &History) -> Result<()> {
    if !history.capture_is_running() {
        return Err(Error::refused(format!(
            "no capture is running on {}, so the history does not come to where the source stands; start `backwhen capture`, \
             then try again",
            history.root().display()
        )));
    }
    if live::read(&history.live_state()).is_some_and(|live| live.state.is_lost()) {
        return Err(Error::unavailable(
            "continuity was lost, and capture brings source and history together again; try again when `backwhen status` \
             says streaming",
        ));
    }
    Ok(())
}

/// Waits until a running capture has made everything before `lsn` durable.
///
/// # Errors
/// Fails when [`followed`] does, and with `Unavailable` if the capture makes no progress.
pub(super) async fn wait_for(history: &History, source: &Conninfo, lsn: Lsn) -> Result<()> {
    // An idle source would never write WAL up to that position by itself.
    capture::heartbeat(history, source).await?;
    let mut before = Lsn::ZERO;
    let mut moved = ambient::instant();
    loop {
        let durable = live::read(&history.live_state()).map_or(Lsn::ZERO, |live| live.durable);
        if durable >= lsn {
            return Ok(());
        }
        followed(history)?;
        if durable > before {
            (before, moved) = (durable, ambient::instant());
        }
        if moved.elapsed() > PATIENCE {
            return Err(Error::unavailable(format!(
                "the history stands at {durable} and does not come to {lsn}; see: backwhen status"
            )));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
