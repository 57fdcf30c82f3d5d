//! Names the transactions that keep one of backwhen's sessions waiting.

use std::time::Duration;

use tokio_postgres::{Client, Row};

use crate::connect::{Conninfo, Session, server_error};
use crate::error::{Error, Result};

/// A statement that has not ended after this time is looked after.
const LOOK_AFTER: Duration = Duration::from_millis(500);

/// A statement that has waited for longer than this is told of.
const TELL_AFTER: Duration = Duration::from_secs(2);

/// The pause between two looks at a statement that goes on waiting.
const LOOK_PAUSE: Duration = Duration::from_secs(2);

/// A transaction that has been open for longer than this, in seconds, may stay open.
const LATE: i64 = 10;

/// The columns that [`transaction`] reads, of a process `p.pid`. A prepared transaction has no process: it is the
/// one that holds a lock of the kind that process `$1` waits for.
const BLOCKER: &str = "
SELECT p.pid, a.usename::text, a.datname::text, a.state,
       pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - a.xact_start)::int8, x.gid, x.owner::text, x.database::text,
       pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - x.prepared)::int8
  FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids($1)) p(pid)
  LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = p.pid
  LEFT JOIN LATERAL (
       SELECT prepared.* FROM pg_catalog.pg_locks waits
         JOIN pg_catalog.pg_locks holds
           ON holds.granted AND holds.pid IS NULL AND holds.locktype = waits.locktype
          AND (holds.database, holds.relation, holds.transactionid, holds.classid, holds.objid)
              IS NOT DISTINCT FROM (waits.database, waits.relation, waits.transactionid, waits.classid, waits.objid)
         JOIN pg_catalog.pg_locks own
           ON own.pid IS NULL AND own.locktype = 'transactionid' AND own.virtualtransaction = holds.virtualtransaction
         JOIN pg_catalog.pg_prepared_xacts prepared ON prepared.transaction = own.transactionid
        WHERE waits.pid = $1 AND NOT waits.granted) x ON p.pid = 0
 LIMIT 1";

/// The oldest transaction that has a number, other than this session's own, in the same columns.
const OLDEST: &str = "
SELECT * FROM (
SELECT a.pid, a.usename::text, a.datname::text, a.state,
       pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - a.xact_start)::int8,
       NULL::text, NULL::text, NULL::text, NULL::int8, pg_catalog.age(a.backend_xid)
  FROM pg_catalog.pg_stat_activity a WHERE a.backend_xid IS NOT NULL AND a.pid <> pg_catalog.pg_backend_pid()
UNION ALL
SELECT 0, NULL, NULL, NULL, NULL, x.gid, x.owner::text, x.database::text,
       pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - x.prepared)::int8, pg_catalog.age(x.transaction)
  FROM pg_catalog.pg_prepared_xacts x) AS open (pid, usename, datname, state, seconds, gid, owner, database, since, age)
 ORDER BY age DESC LIMIT 1";

/// A transaction of the source, with the statement that ends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenTransaction {
    /// The seconds since it began, or since it was prepared.
    pub seconds: i64,
    prepared: bool,
    description: String,
}

impl OpenTransaction {
    /// Whether it has been open for so long that it may stay open, so that a new slot would wait for it.
    pub fn is_late(&self) -> bool {
        self.seconds >= LATE || self.is_prepared()
    }

    /// Whether it is prepared: then no session ends it.
    pub fn is_prepared(&self) -> bool {
        self.prepared
    }
}

impl std::fmt::Display for OpenTransaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.description)
    }
}

/// Waits for `statement`, which the server's process `process` runs. While the statement waits for a lock, the log says
/// which transaction holds it. Returns the outcome, and the last transaction that was seen to hold it.
pub async fn while_waiting<T>(
    source: &Conninfo,
    process: i32,
    doing: &str,
    statement: impl Future<Output = T>,
) -> (T, Option<OpenTransaction>) {
    let (begun, mut seen, mut told) = (crate::ambient::instant(), None, None);
    let mut statement = std::pin::pin!(statement);
    let mut pause = LOOK_AFTER;
    loop {
        if let Ok(done) = tokio::time::timeout(pause, &mut statement).await {
            return (done, seen);
        }
        pause = LOOK_PAUSE;
        // A transaction that cannot be seen is no reason to fail.
        let Ok(Some(found)) = blocker_of(source, process).await else { continue };
        if told.as_ref() != Some(&found.description) && begun.elapsed() > TELL_AFTER {
            tracing::warn!("{doing} waits: {found}");
            told = Some(found.description.clone());
        }
        seen = Some(found);
    }
}

/// Adds to an error the transaction that kept the statement waiting.
pub fn with_blocker(error: Error, blocker: Option<OpenTransaction>) -> Error {
    match blocker {
        Some(blocker) => Error::new(error.kind(), format!("{error}; {blocker}, then try again")),
        None => error,
    }
}

async fn blocker_of(source: &Conninfo, process: i32) -> Result<Option<OpenTransaction>> {
    let session = Session::connect_utf8(source, "status").await?;
    let row = session.query_opt(BLOCKER, &[&process]).await;
    let row = row.map_err(|error| server_error("cannot see which transaction holds a lock", error))?;
    Ok(row.as_ref().map(transaction))
}

/// Reads the transaction of the source that has been open for the longest time, as long as it has changed something. A
/// new slot waits for its end, and an old slot retains the WAL since its beginning.
///
/// # Errors
/// `Unavailable` if the server fails.
pub async fn oldest_transaction(client: &Client) -> Result<Option<OpenTransaction>> {
    let row = client.query_opt(OLDEST, &[]).await;
    let row = row.map_err(|error| server_error("cannot see which transactions are open", error))?;
    Ok(row.as_ref().map(transaction))
}

/// A transaction by the columns of [`BLOCKER`]. How long it has been open changes all the time, so the time is not a
/// part of the description.
fn transaction(row: &Row) -> OpenTransaction {
    let text = |column| row.get::<_, Option<String>>(column).unwrap_or_else(|| "?".to_owned());
    let process: i32 = row.get(0);
    let seconds = row.get::<_, Option<i64>>(if process == 0 { 8 } else { 4 }).unwrap_or_default();
    let since = chrono::Duration::seconds(seconds);
    let begun = (crate::ambient::now() - since).format("%Y-%m-%d %H:%M UTC");
    let description = match (process, row.get::<_, Option<String>>(5)) {
        (0, Some(name)) => format!(
            "prepared transaction {name:?} of role {} in database {}, prepared at {begun}, is in the way; end it there \
             with: ROLLBACK PREPARED {}",
            text(6),
            text(7),
            crate::model::schema::quote_literal(&name)
        ),
        (0, None) => "a prepared transaction is in the way; see: SELECT * FROM pg_prepared_xacts".to_owned(),
        _ => format!(
            "process {process} of role {} in database {} ({}) is in the way, with a transaction that is open since \
             {begun}; end it with: SELECT pg_terminate_backend({process})",
            text(1),
            text(2),
            text(3)
        ),
    };
    OpenTransaction { seconds, prepared: process == 0, description }
}
