//! How a replayed statement fails, and what is said of it.

use super::acting::Ended;
use crate::connect::server_error;
use crate::error::Error;
use crate::signal::DefinitionChange;

/// How a statement ended that did not run.
pub(super) enum Failure {
    /// It need not run here.
    Passed,
    Failed(tokio_postgres::Error),
    /// For a reason of ours.
    Stopped(String),
}

impl Failure {
    pub fn of(ended: Ended) -> Option<Failure> {
        match ended {
            Ended::Done => None,
            Ended::Failed(error) => Some(Failure::Failed(error)),
            Ended::TooLong(limit) => Some(Failure::Stopped(format!(
                "it was stopped after {:.1} s; --replay-timeout says how long a statement may take",
                limit.as_secs_f64()
            ))),
            Ended::SessionLost => Some(Failure::Stopped("it ended its session".into())),
        }
    }
}

/// Whatever a statement says of itself is no fault of the server's: it is left out, and the rest goes on.
pub(super) fn failed(change: &DefinitionChange, failure: Failure) -> Error {
    let DefinitionChange { lsn, time, xid, signal, .. } = change;
    let what =
        format!("the {} of {time} (transaction {xid}, {lsn}) failed on the scratch server", signal.tag);
    match failure {
        Failure::Failed(error) => Error::refused(server_error(what, error).to_string()),
        Failure::Stopped(why) => Error::refused(format!("{what}: {why}")),
        Failure::Passed => Error::refused(what),
    }
}
