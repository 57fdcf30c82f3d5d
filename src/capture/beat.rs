//! Heartbeats: messages that tie the source's clock to its WAL, tell how its sequences stand and what its definitions
//! look like.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::stop::{StopReason, StopSignal};
use crate::connect::{Conninfo, Session};
use crate::error::{Context, Error, Kind, Result};
use crate::history::journal::Durable;
use crate::model::Lsn;
use crate::model::SequenceState;
use crate::signal::key::MessageKey;
use crate::signal::{self, HeartbeatSignal, SequenceSample};
use crate::source::inspect;
use crate::source::messages::{wal_end, write};
use crate::source::sequences::{self, Sample};

/// Writes a heartbeat, with what changed of the sequences since the last one; returns the end of
/// the server's log.
pub(super) async fn heartbeat(
    session: &Session,
    key: &MessageKey,
    sample: Sample,
    fingerprint: Option<String>,
    before: &mut Option<BTreeMap<u32, SequenceState>>,
) -> Result<Lsn> {
    let now: BTreeMap<_, _> = sample.sequences.into_iter().map(|state| (state.oid, state)).collect();
    let changed = match &before {
        None => SequenceSample {
            sampled: sample.sampled,
            complete: true,
            sequences: now.values().cloned().collect(),
            dropped: Vec::new(),
        },
        Some(before) => SequenceSample {
            sampled: sample.sampled,
            complete: false,
            sequences: now.values().filter(|state| before.get(&state.oid) != Some(*state)).cloned().collect(),
            dropped: before.keys().filter(|oid| !now.contains_key(oid)).copied().collect(),
        },
    };
    beat(session, key, None, fingerprint, &changed).await?;
    *before = Some(now);
    wal_end(session).await
}

/// Writes a heartbeat with a whole sample of the sequences over a session of its own; returns a
/// position that its commit lies after, and everything that had committed before it.
///
/// # Errors
/// `Unavailable` if the source fails.
pub async fn beat_once(source: &Conninfo, key: &MessageKey) -> Result<Lsn> {
    let session = Session::connect_utf8(source, "capture").await?;
    signal_once(&session, key, None).await
}

/// Writes a heartbeat with all that it can hold, behind a message (prefix and content) if one is
/// given, in one transaction.
///
/// # Errors
/// `Unavailable` if the source fails.
pub async fn signal_once(session: &Session, key: &MessageKey, message: Option<(&str, &str)>) -> Result<Lsn> {
    // The sample is read first, so its position lies before both messages.
    let sample = sequences::sample(session).await?;
    let fingerprint = inspect::fingerprint(session).await?;
    let sample = SequenceSample {
        sampled: sample.sampled,
        complete: true,
        sequences: sample.sequences,
        dropped: Vec::new(),
    };
    beat(session, key, message, Some(fingerprint), &sample).await
}

async fn beat(
    session: &Session,
    key: &MessageKey,
    message: Option<(&str, &str)>,
    fingerprint: Option<String>,
    sample: &SequenceSample,
) -> Result<Lsn> {
    let unwritable = || "cannot write a heartbeat".to_owned();
    let heartbeat =
        serde_json::to_string(&HeartbeatSignal { fingerprint }).context(Kind::Internal, unwritable)?;
    let sequences = serde_json::to_string(sample).context(Kind::Internal, unwritable)?;
    let own = [(signal::HEARTBEAT, heartbeat.as_str()), (signal::SEQUENCES, sequences.as_str())];
    let messages: Vec<_> = message.into_iter().chain(own).collect();
    write(session, key, &messages).await
}

/// How long a capture that is asked to end waits for its last heartbeat.
const LAST_BEAT: Duration = Duration::from_secs(5);

/// Waits until capture is `asked` to end, writes a heartbeat with a sample of the sequences, and lets the connection
/// go once the heartbeat is durable: the window then reaches to the end of this run. Neither a source nor a disk
/// that does not answer holds up the end for long.
pub(super) async fn last_beat(
    asked: &CancellationToken,
    source: Option<&Conninfo>,
    stop: &StopSignal,
    mut durable: watch::Receiver<Durable>,
    key: MessageKey,
) -> Infallible {
    asked.cancelled().await;
    if let Some(source) = source {
        let beating = async {
            let lsn = beat_once(source, &key).await?;
            let _ = durable.wait_for(|durable| durable.lsn() > lsn).await;
            Ok::<_, Error>(())
        };
        match tokio::time::timeout(LAST_BEAT, beating).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!("the last heartbeat was not written: {error}"),
            Err(_) => {
                tracing::info!("the last heartbeat did not arrive within {} s", LAST_BEAT.as_secs())
            }
        }
    }
    stop.tell(StopReason::Asked);
    std::future::pending().await
}
