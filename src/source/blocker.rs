//! Finds out which session keeps one of backwhen's sessions waiting.

use std::time::Duration;

use tokio_postgres::Client;

use crate::connect::{Conninfo, Session, server_error};
use crate::error::Result;

/// How long a statement runs before another session asks which session blocks it; a quicker statement is not asked
/// about.
const LOOK_AFTER: Duration = Duration::from_millis(500);

/// Waits for `statement`, which runs in `session`. If the statement took long enough to ask and another session blocked
/// it, that session is returned too, described in words.
///
/// # Errors
/// `Unavailable` if the server does not say which process serves the session.
pub async fn while_waiting<T>(
    source: &Conninfo,
    session: &Client,
    statement: impl Future<Output = T>,
) -> Result<(T, Option<String>)> {
    let process = session.query_one("SELECT pg_catalog.pg_backend_pid()", &[]).await;
    let process: i32 =
        process.map_err(|error| server_error("cannot ask a session for its process", error))?.get(0);
    let mut statement = std::pin::pin!(statement);
    if let Ok(done) = tokio::time::timeout(LOOK_AFTER, &mut statement).await {
        return Ok((done, None));
    }
    let (done, blocker) = tokio::join!(statement, blocker_of(source, process));
    // Without the right to see the blocker, only its description is missing; that is no reason to fail.
    Ok((done, blocker.unwrap_or_default()))
}

async fn blocker_of(source: &Conninfo, process: i32) -> Result<Option<String>> {
    let session = Session::connect_utf8(source, "capture").await?;
    let query = "SELECT b.pid, coalesce(a.usename::text, '?'), coalesce(a.state, ''), \
                        coalesce(pg_catalog.date_part('epoch', pg_catalog.now() - a.xact_start), 0)::int8 \
                   FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids($1)) b(pid) \
                   LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = b.pid LIMIT 1";
    let row = session.query_opt(query, &[&process]).await;
    let row = row.map_err(|error| server_error("cannot see who keeps a session waiting", error))?;
    Ok(row.map(|row| {
        let (process, role, state, seconds): (i32, String, String, i64) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        match process {
            0 => "a prepared transaction is in the way (see pg_prepared_xacts)".to_owned(),
            _ => format!(
                "session {process} of role {role} ({state}) is in the way, in a transaction of {seconds} s"
            ),
        }
    }))
}
