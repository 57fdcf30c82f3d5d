//! How a replayed statement fails, and what is said of it.

use super::sessions::RunOutcome;
use crate::connect::server_error;
use crate::error::Error;
use crate::signal::DefinitionChange;

/// How a statement ended that did not run.
pub(super) enum ReplayFailure {
    /// The statement need not run here.
    Passed,
    Failed(tokio_postgres::Error),
    /// backwhen itself has a reason not to run the statement.
    Stopped(String),
}

impl ReplayFailure {
    pub fn of(ended: RunOutcome) -> Option<ReplayFailure> {
        match ended {
            RunOutcome::Done => None,
            RunOutcome::Failed(error) => Some(ReplayFailure::Failed(error)),
            RunOutcome::TooLong(limit) => Some(ReplayFailure::Stopped(format!(
                "it was stopped after {:.1} s; --replay-timeout says how long a statement may take",
                limit.as_secs_f64()
            ))),
            RunOutcome::SessionLost => Some(ReplayFailure::Stopped("it ended its session".into())),
        }
    }
}

/// A statement's failure is not taken for a fault of the server: the statement is left out, and the replay continues.
pub(super) fn failed(change: &DefinitionChange, failure: ReplayFailure) -> Error {
    let DefinitionChange { lsn, time, xid, signal, .. } = change;
    let what =
        format!("the {} of {time} (transaction {xid}, {lsn}) failed on the scratch server", signal.tag);
    match failure {
        ReplayFailure::Failed(error) => Error::refused(server_error(what, error).to_string()),
        ReplayFailure::Stopped(why) => Error::refused(format!("{what}: {why}")),
        ReplayFailure::Passed => Error::refused(what),
    }
}
