//! Ends work of the server for backwhen that backwhen no longer waits for.

use std::time::Duration;

use tokio_postgres::Client;

use super::stream::Backend;
use crate::connect::server_error;
use crate::error::{Error, Result};

/// How often backwhen asks for the end of its former sessions before it gives up, and the pause in between.
const END_TRIES: u32 = 100;
const END_PAUSE: Duration = Duration::from_millis(100);

/// Terminates one of backwhen's own server processes, unless the process id belongs to another process by now; returns
/// whether there was a process to terminate.
///
/// # Errors
/// `Unavailable` if the server fails, `Refused` if the role may not terminate the process.
pub async fn terminate(client: &Client, process: &Backend) -> Result<bool> {
    // The start time is compared as text, in the time zone in which the replication connection received it.
    let query = "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity \
                 WHERE pid = $1 AND backend_start::text = $2";
    let ended = client.query(query, &[&process.pid, &process.started]).await;
    let ended = ended.map_err(|error| server_error("cannot end backwhen's own former walsender", error))?;
    Ok(ended.first().is_some_and(|row| row.get(0)))
}

/// Cancels the statement of the session that calls itself `application`, if that statement has waited for a lock for
/// longer than `patience`; returns whether one was cancelled.
///
/// # Errors
/// `Unavailable` if the server fails.
pub async fn cancel_waiting(client: &Client, application: &str, patience: Duration) -> Result<bool> {
    let query = "SELECT pg_catalog.pg_cancel_backend(pid) FROM pg_catalog.pg_stat_activity \
                 WHERE application_name = $1 AND wait_event_type = 'Lock' \
                   AND pg_catalog.clock_timestamp() - query_start > $2::float8 * interval '1 second'";
    let cancelled = client.query_opt(query, &[&application, &patience.as_secs_f64()]).await;
    Ok(cancelled.map_err(|error| server_error("cannot watch pg_dump", error))?.is_some())
}

/// Ends the sessions that an earlier command has left at work for the history with this slot, and waits until they are
/// gone: a statement of theirs that waits for a lock would be carried out after its effects were looked for. The caller
/// knows that no such command runs any more, other than those that only read.
///
/// # Errors
/// `Unavailable` if the server fails or a session does not end, `Refused` if the server does not let us.
pub async fn end_sessions_of(client: &Client, slot: &str) -> Result<()> {
    let query = "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity \
                 WHERE application_name LIKE 'backwhen %' AND application_name NOT LIKE 'backwhen status %' \
                   AND pg_catalog.right(application_name, pg_catalog.length($1)) = $1 \
                   AND pid <> pg_catalog.pg_backend_pid() \
                   AND usesysid = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user)";
    for _ in 0..END_TRIES {
        let ended = client.query(query, &[&slot]).await;
        let ended = ended.map_err(|error| server_error("cannot end backwhen's former sessions", error))?;
        if ended.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(END_PAUSE).await;
    }
    Err(Error::unavailable(format!(
        "sessions of an earlier backwhen do not end on the source; see: SELECT * FROM pg_stat_activity WHERE \
         application_name LIKE 'backwhen %{slot}'"
    )))
}
