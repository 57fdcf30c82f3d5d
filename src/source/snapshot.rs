//! Reads tables as an exported snapshot shows them.

use std::ops::Deref;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{TryStreamExt, pin_mut};
use tokio::sync::mpsc;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::blocker::{while_waiting, with_blocker};
use super::liveness::Liveness;
use crate::ambient;
use crate::connect::{Conninfo, Session, connect, server_error};
use crate::error::{Error, Result};
use crate::model::Table;
use crate::model::spelling::Spelled;

/// Rows are handed on in chunks of about this many bytes.
const PIECE: usize = 256 * 1024;

/// How many COPY lines are taken at once, if that many have already arrived.
const LINES_AT_ONCE: usize = 256;

/// How long to try for the locks behind a migration before giving up.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);

/// How long each attempt to lock may wait. A migration may itself wait for a table that backwhen has locked: each
/// failed attempt releases all locks, well before the server's `deadlock_timeout` (1 s) ends one of the two.
const LOCK_TIMEOUT: &str = "300ms";

/// The pause between two attempts, in which a waiting migration gets its lock.
const LOCK_PAUSE: Duration = Duration::from_millis(200);

/// How many tables one statement locks.
const LOCK_BATCH: usize = 500;

/// A snapshot that another session has exported and keeps open.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub name: String,
}

/// A range of a table's pages; the last one has no end, because the table may have grown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages {
    pub first: u32,
    pub end: Option<u32>,
}

impl Pages {
    pub const ALL: Pages = Pages { first: 0, end: None };

    /// Cuts a table of `pages` pages into ranges of at most `step`.
    pub fn split(pages: u32, step: u32) -> Vec<Pages> {
        let starts: Vec<u32> = (0..pages.max(1)).step_by(step.max(1) as usize).collect();
        let end = |number: usize| starts.get(number + 1).copied();
        starts.iter().enumerate().map(|(number, first)| Pages { first: *first, end: end(number) }).collect()
    }

    fn condition(self) -> String {
        match (self.first, self.end) {
            (0, None) => String::new(),
            (first, None) => format!(" WHERE ctid >= '({first},0)'::tid"),
            (0, Some(end)) => format!(" WHERE ctid < '({end},0)'::tid"),
            (first, Some(end)) => {
                format!(" WHERE ctid >= '({first},0)'::tid AND ctid < '({end},0)'::tid")
            }
        }
    }
}

impl Snapshot {
    /// Opens a session that sees the source as the snapshot does, for `purpose`. Text arrives as UTF-8.
    ///
    /// # Errors
    /// `Unavailable` or `Refused` if the server cannot be reached or the snapshot is gone.
    pub async fn session(&self, source: &Conninfo, purpose: &str) -> Result<Session> {
        self.seen_by(Session::connect_utf8(source, purpose).await?).await
    }

    /// Opens a session that reads rows as the snapshot shows them, in the database's own encoding.
    ///
    /// # Errors
    /// `Unavailable` or `Refused` if the server cannot be reached or the snapshot is gone.
    pub async fn reader(&self, source: &Conninfo, purpose: &str) -> Result<SnapshotReader> {
        let session = self.seen_by(connect(source, purpose).await?).await?;
        let liveness = Liveness::of_session(&session, source).await?;
        Ok(SnapshotReader { session, liveness })
    }

    async fn seen_by(&self, session: Session) -> Result<Session> {
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{}'; \
             SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; SAVEPOINT unlocked",
            self.name
        );
        let begun = session.batch_execute(&begin).await;
        begun.map_err(|error| server_error("cannot use the slot's snapshot", error))?;
        Ok(session)
    }
}

/// A session that reads rows, and gives up once the server no longer works for it.
pub struct SnapshotReader {
    session: Session,
    liveness: Liveness,
}

impl SnapshotReader {
    /// Waits for an answer of the server.
    ///
    /// # Errors
    /// `Unavailable` if the server has been silent for too long and does not work for this session.
    pub async fn guard<T>(&self, answer: impl Future<Output = T>) -> Result<T> {
        self.liveness.guard(answer).await
    }
}

impl Deref for SnapshotReader {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

/// Locks tables against being dropped, truncated or rewritten until the session ends. While one table is locked by
/// another session, no lock is held at all.
///
/// # Errors
/// `Refused` if a table cannot be locked or read; `Unavailable` if another session keeps a table locked for a minute.
pub async fn lock_tables(source: &Conninfo, session: &Session, tables: &[&Table]) -> Result<()> {
    let locking = lock_patiently(session, tables);
    let (locked, blocker) =
        while_waiting(source, session.process(), "the lock on the tables to be read", locking).await;
    locked.map_err(|error| with_blocker(error, blocker))
}

/// Gives back all that [`lock_tables`] has locked; the session goes on seeing the snapshot.
///
/// # Errors
/// `Unavailable` if the server fails.
pub async fn unlock_tables(session: &Session) -> Result<()> {
    let unlocked = session.batch_execute("ROLLBACK TO unlocked").await;
    unlocked.map_err(|error| server_error("cannot unlock the tables to be read", error))
}

async fn lock_patiently(client: &Client, tables: &[&Table]) -> Result<()> {
    let failed = |error| server_error("cannot lock the tables to be read", error);
    let begun = ambient::instant();
    loop {
        match lock_at_once(client, tables).await {
            Err(error)
                if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) && begun.elapsed() < LOCK_PATIENCE =>
            {
                client.batch_execute("ROLLBACK TO unlocked").await.map_err(failed)?;
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            locked => return locked.map_err(failed),
        }
    }
}

async fn lock_at_once(client: &Client, tables: &[&Table]) -> std::result::Result<(), tokio_postgres::Error> {
    for batch in tables.chunks(LOCK_BATCH) {
        let names: Vec<_> = batch.iter().map(|table| format!("ONLY {}", table.quoted())).collect();
        client.batch_execute(&format!("LOCK TABLE {} IN ACCESS SHARE MODE", names.join(", "))).await?;
    }
    Ok(())
}

/// Names the tables whose rows the snapshot can no longer read. COPY reads the table's current file, so a table that
/// was truncated, rewritten, dropped or replaced between the snapshot and the lock would come out empty.
///
/// # Errors
/// `Unavailable` if the server fails.
pub async fn changed_since_snapshot(client: &Client, tables: &[&Table]) -> Result<Vec<String>> {
    // The snapshot decides which catalog row is seen, while the function looks at the newest version.
    let query = "SELECT c.oid FROM pg_catalog.pg_class c WHERE c.oid = ANY ($1) \
                 AND pg_catalog.pg_relation_filenode(c.oid) = c.relfilenode";
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let rows = client.query(query, &[&oids]).await;
    let rows = rows.map_err(|error| server_error("cannot check the tables that are to be read", error))?;
    let same: std::collections::HashSet<u32> = rows.iter().map(|row| row.get(0)).collect();
    Ok(tables.iter().filter(|table| !same.contains(&table.oid)).map(|table| table.display()).collect())
}

/// Copies the rows in `pages` of a table, as chunks of whole COPY text lines.
///
/// # Errors
/// `Unavailable` if the server fails; `Interrupted` if the receiver of `rows` is gone.
pub async fn copy(
    reader: &SnapshotReader,
    table: &Table,
    pages: Pages,
    rows: &mpsc::Sender<Bytes>,
) -> Result<()> {
    copy_statement(reader, table, &pages.condition(), rows).await
}

/// Copies the rows that meet `condition`; like [`copy`] otherwise.
pub(super) async fn copy_statement(
    reader: &SnapshotReader,
    table: &Table,
    condition: &str,
    rows: &mpsc::Sender<Bytes>,
) -> Result<()> {
    let spelled = Spelled::of(table, reader.server_encoding());
    let failed = |error| server_error(format!("cannot read table {}", table.display()), error);
    let statement =
        format!("COPY (SELECT {} FROM ONLY {}{condition}) TO STDOUT", spelled.list, spelled.table);
    // The lock on the table that was read before is given back: whoever needs it longer has one of his own.
    reader.guard(unlock_tables(reader)).await??;
    let lines = reader.guard(reader.copy_out(&statement)).await?.map_err(failed)?;
    let ready = lines.try_ready_chunks(LINES_AT_ONCE);
    pin_mut!(ready);
    let mut piece = Vec::with_capacity(PIECE + PIECE / 8);
    while let Some(lines) = reader.guard(ready.try_next()).await?.map_err(|error| failed(error.1))? {
        for line in lines {
            piece.extend_from_slice(&line);
            if piece.len() >= PIECE {
                let full = std::mem::replace(&mut piece, Vec::with_capacity(PIECE + PIECE / 8));
                rows.send(full.into()).await.map_err(|_| Error::interrupted())?;
            }
        }
    }
    if !piece.is_empty() {
        rows.send(piece.into()).await.map_err(|_| Error::interrupted())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_ranges_cover_a_table_without_overlap_and_end_open() {
        assert_eq!(Pages::split(0, 10), [Pages::ALL]);
        let ranges = Pages::split(25, 10);
        let ends: Vec<_> = ranges.iter().map(|range| (range.first, range.end)).collect();
        assert_eq!(ends, [(0, Some(10)), (10, Some(20)), (20, None)]);
        assert_eq!(ranges[1].condition(), " WHERE ctid >= '(10,0)'::tid AND ctid < '(20,0)'::tid");
    }
}
