//! Statements of a gate's session.

use crate::connect::{Session, server_error};
use crate::error::Result;

/// Marks the state to which a load that fails goes back without letting go of the lock.
pub(super) const SAVEPOINT: &str = "SAVEPOINT backwhen_gate";
pub(super) const BACK: &str = "ROLLBACK TO SAVEPOINT backwhen_gate";

/// # Errors
/// `Refused` or `Unavailable`, and the server's words.
pub(super) async fn run(session: &Session, sql: &str) -> Result<()> {
    let done = session.batch_execute(sql).await;
    done.map_err(|error| server_error("cannot load a table that is asked for", error))
}
