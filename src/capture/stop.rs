//! Why capture must leave a connection, told once to all that work on it.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// Why capture must leave a connection that works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The user, or the service manager, asked the capture to end.
    Asked,
    /// The publications do not carry all of a protected table.
    Unpublished,
    /// Somebody altered the publications, so that for a while they may not have carried all of a protected table.
    Altered,
    /// A connection that is opened now can name the whole pool of publications; this one names the first two.
    PoolReady,
    /// The slot retains more WAL than it may.
    BudgetSpent,
}

impl StopReason {
    /// Returns the failure to report; `None` if nothing failed.
    pub fn failure(self) -> Option<Error> {
        match self {
            StopReason::Asked | StopReason::PoolReady => None,
            StopReason::Unpublished | StopReason::Altered => Some(Error::unavailable(
                "backwhen's publications do not carry all of a protected table any more; looking what is lost",
            )),
            StopReason::BudgetSpent => Some(Error::unavailable(
                "the slot retains more of the source's WAL than it may; giving it up",
            )),
        }
    }
}

/// Tells the tasks of one connection that they must stop, and why. The first reason counts.
#[derive(Clone, Default)]
pub struct StopSignal {
    stopping: CancellationToken,
    reason: Arc<OnceLock<StopReason>>,
}

impl StopSignal {
    pub fn tell(&self, reason: StopReason) {
        // The reason stands before anybody wakes up to read it.
        let _ = self.reason.set(reason);
        self.stopping.cancel();
    }

    /// Waits until the tasks must stop.
    pub async fn told(&self) -> StopReason {
        self.stopping.cancelled().await;
        *self.reason.get_or_init(|| StopReason::Asked)
    }

    /// Does `work`, unless the tasks must stop before it is done.
    ///
    /// # Errors
    /// The reason to stop.
    pub async fn unless_told<T>(&self, work: impl Future<Output = T>) -> Result<T, StopReason> {
        tokio::select! {
            biased;
            reason = self.told() => Err(reason),
            done = work => Ok(done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_reason_to_stop_counts_for_everybody() {
        let signal = StopSignal::default();
        assert_eq!(signal.unless_told(async { 1 }).await, Ok(1));
        signal.clone().tell(StopReason::BudgetSpent);
        signal.tell(StopReason::Altered);
        signal.tell(StopReason::Asked);
        assert_eq!(signal.told().await, StopReason::BudgetSpent);
        assert_eq!(signal.unless_told(async { 1 }).await, Err(StopReason::BudgetSpent));
        assert!(StopReason::Asked.failure().is_none());
    }
}
