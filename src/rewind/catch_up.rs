//! Waits until a running capture has brought the history up to the source.

use std::time::Duration;

use serde::Serialize;

use crate::ambient;
use crate::connect::Session;
use crate::error::{Context, Error, Kind, Result};
use crate::model::Lsn;
use crate::past::Reading;
use crate::signal::{HEARTBEAT, HeartbeatSignal};
use crate::source::messages;

/// The pause between two looks at how far the history has come.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Waits until the newest epoch holds all that was committed before a position. Capture writes its live state only twice
/// a second, so the journal itself is looked at: each look reads what came since the one before.
///
/// # Errors
/// `Unavailable` if that takes longer than `limit`; `Damaged` if the history is.
pub async fn reading_beyond(
    reading: &Reading,
    source: &Session,
    lsn: Lsn,
    limit: Duration,
) -> Result<Reading> {
    let json = to_json(&HeartbeatSignal::default())?;
    messages::write(source, &reading.history().identity().message_key(), &[(HEARTBEAT, &json)]).await?;
    let begun = ambient::instant();
    let mut reading = reading.clone();
    loop {
        reading = ambient::blocking("reading the history", move || reading.extended()).await?;
        let frontier = reading.timeline().current()?.frontier();
        if frontier > lsn {
            return Ok(reading);
        }
        if begun.elapsed() > limit {
            return Err(Error::unavailable(format!(
                "capture did not bring the history from {frontier} to {lsn} within {} s, and nothing was changed; see: \
                 backwhen status",
                limit.as_secs()
            )));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

pub(super) fn to_json(signal: &impl Serialize) -> Result<String> {
    serde_json::to_string(signal).context(Kind::Internal, || "cannot write a message".into())
}
