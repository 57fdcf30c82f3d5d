//! The server's end of a connection that we have given up.
//!
//! Where the network swallowed our goodbye, the server believes in the connection until its own
//! timeout, and until then nobody else gets the slot.

use crate::connect::{Conninfo, Session};
use crate::error::{Error, Result};
use crate::source::process;
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
    process::terminate(&session, orphan).await
}
