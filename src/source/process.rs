//! Ends work of the server for backwhen that backwhen no longer waits for.

use std::time::Duration;

use tokio_postgres::Client;

use super::stream::Backend;
use crate::connect::server_error;
use crate::error::Result;

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
