//! The server's end of a connection that we have given up.
//!
//! Where the network swallowed our goodbye, the server believes in the connection until its own
//! timeout, and until then nobody else gets the slot.

use crate::connect::{Conninfo, Session, server_error};
use crate::error::{Error, Result};
use crate::source::stream::{Backend, StreamFault};

/// The process that has the slot, if that is why this failed and the process was ours.
pub fn holds_slot<'a>(error: &Error, ours: Option<&'a Backend>) -> Option<&'a Backend> {
    match StreamFault::of(error) {
        Some(StreamFault::SlotActive { pid: Some(pid), .. }) => {
            ours.filter(|ours| u32::try_from(ours.pid) == Ok(*pid))
        }
        _ => None,
    }
}

/// Ends it, unless its number is another process's by now; returns whether there was one to end.
///
/// # Errors
/// `Unavailable` if the source cannot be reached, `Refused` if it does not let us.
pub async fn end(source: &Conninfo, orphan: &Backend) -> Result<bool> {
    let session = Session::connect_utf8(source, "capture").await?;
    // As text, in the zone that the replication connection was told it in.
    let query = "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity \
                 WHERE pid = $1 AND backend_start::text = $2";
    let ended = session.query(query, &[&orphan.pid, &orphan.started]).await;
    let ended = ended.map_err(|error| server_error("cannot end backwhen's own former walsender", error))?;
    Ok(ended.first().is_some_and(|row| row.get(0)))
}
