//! The one door for the clock and for randomness.

use chrono::{DateTime, Utc};

use crate::error::{Context, Kind, Result};

/// This machine's clock. Moments come from the server's clock; this one only dates our own acts.
#[allow(clippy::disallowed_methods)]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}

/// Bytes that no other history has.
///
/// # Errors
/// `Internal` if the operating system has no randomness to give.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).context(Kind::Internal, || "no randomness from the system".into())?;
    Ok(bytes)
}

/// Waits for Ctrl-C or SIGTERM.
pub async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminated) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated.recv() => {}
    }
}
