//! Finds the position at which a capture ends by itself, for `--until`.

use std::time::Duration;

use tokio::sync::{oneshot, watch as news};

use super::stop::StopSignal;
use super::{SHORTEST_PAUSE, Until, beat, stream};
use crate::connect::Conninfo;
use crate::model::Lsn;
use crate::signal::key::MessageKey;

/// How long a drain may wait to be told where it ends.
const END_WAIT: Duration = Duration::from_secs(2);

/// Waits a little until it is known where this run ends, if anywhere. A batch that ended just before would have the
/// server read all its log once more for the little that is left.
pub(super) async fn await_end(until: &mut stream::Until, stop: &StopSignal) {
    let known = tokio::time::timeout(END_WAIT, until.wait_for(Option::is_some));
    let _ = stop.unless_told(known).await;
}

/// Says where this run ends, once that is known. To be caught up is to hold everything that had
/// committed, and to protect every table that there is: so the watcher looks once at the source's
/// tables, and then a heartbeat is written, which commits after all that and so also decides every
/// time up to now.
pub(super) async fn decide_until(
    wanted: Until,
    source: Conninfo,
    key: MessageKey,
    beaten: oneshot::Receiver<()>,
    until: news::Sender<Option<Lsn>>,
) {
    match wanted {
        Until::Stopped => {}
        Until::Lsn(lsn) => {
            until.send_replace(Some(lsn));
        }
        Until::CaughtUp => {
            let _ = beaten.await;
            loop {
                match beat::beat_once(&source, &key).await {
                    Ok(lsn) => {
                        until.send_replace(Some(Lsn(lsn.0 + 1)));
                        return;
                    }
                    Err(error) => tracing::info!("the last heartbeat failed and is tried again: {error}"),
                }
                tokio::time::sleep(SHORTEST_PAUSE).await;
            }
        }
    }
}
