//! Changes rows of the live database in place: all of them, each from exactly what it must be now to what it shall be, or
//! none.

mod catalog;
mod definitions;
mod literals;
mod rows;
mod statements;

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, TryStreamExt};
use tokio_postgres::error::SqlState;

pub use catalog::{ChildTable, ForeignKey, LiveSchema, UniqueKey, live_schema, schema_by_names};
pub use definitions::Removal;
pub use rows::{Act, AmendedRow, AmendedTable, HeldRows, Parking};
use statements::{TableStatements, all_at_once};

use super::blocker::{while_waiting, with_blocker};
use super::messages::emit;
use super::sequences::parse_lsn;
use super::triggers::own;
use crate::ambient;
use crate::connect::{Conninfo, Session, connect, server_error};
use crate::error::{Error, Result};
use crate::model::{Lsn, Table};
use crate::signal::key::MessageKey;

/// How long to try for the locks before giving up.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// How long each attempt to lock may wait. Other writers queue behind it meanwhile.
const LOCK_TIMEOUT: &str = "500ms";

/// How long a statement may wait for a lock once the tables are locked: on rows of other tables that are referred to. This
/// is less than the server's `deadlock_timeout` (1 s), so that we give way and not the application.
const APPLY_TIMEOUT: &str = "800ms";

/// The server's memory for joining the rows with the live tables, so that many rows need no temporary files.
const WORK_MEMORY: &str = "64MB";

/// The pause between two attempts, in which those writers get their turn.
const LOCK_PAUSE: Duration = Duration::from_millis(200);

/// A row of the live database that was not what it must be: the table's place in the list, and the row's.
pub type Surprise = (usize, usize);

/// A session that changes rows. Without a commit nothing has happened.
pub struct AmendSession {
    session: Session,
    source: Conninfo,
    statements: Vec<TableStatements>,
}

impl AmendSession {
    /// # Errors
    /// `Unavailable` or `Refused` if the server cannot be reached.
    pub async fn open(source: &Conninfo) -> Result<AmendSession> {
        let session = connect(source, "rewind").await?;
        Ok(AmendSession { session, source: source.clone(), statements: Vec::new() })
    }

    /// Whether the session can change other rows once it has committed. The server plans statements and checks foreign keys
    /// sooner in a session that has done so before.
    pub fn is_reusable(&self) -> bool {
        !self.session.is_closed() && self.statements.iter().all(|statements| statements.are_literals)
    }

    /// Sends the rows into temporary tables of this session, before anything is locked.
    ///
    /// # Errors
    /// `Refused` or `Unavailable` with the server's words.
    pub async fn load(&mut self, tables: &[&AmendedTable]) -> Result<()> {
        let encoding = self.session.server_encoding().to_owned();
        self.statements.clear();
        if literals::are_few(tables) {
            self.run(literals::MAKE).await?;
            let statements = |(number, amended): (usize, &&AmendedTable)| {
                let mut statements = TableStatements::new(number, amended, &encoding);
                statements.are_literals = true;
                statements
            };
            self.statements.extend(tables.iter().enumerate().map(statements));
            return self.send_literals(tables).await;
        }
        for (number, amended) in tables.iter().enumerate() {
            let statements = TableStatements::new(number, amended, &encoding);
            self.run(&statements.create()).await?;
            self.send(&statements, amended).await?;
            self.statements.push(statements);
        }
        Ok(())
    }

    /// Sends the rows of the same tables anew.
    ///
    /// # Errors
    /// The errors of [`AmendSession::load`].
    pub async fn reload(&mut self, tables: &[&AmendedTable]) -> Result<()> {
        if self.statements.iter().any(|statements| statements.are_literals) {
            return self.load(tables).await;
        }
        for (number, amended) in tables.iter().enumerate() {
            self.statements[number].changed = amended.changed_columns();
            let statements = &self.statements[number];
            self.run(&statements.clear()).await?;
            self.send(statements, amended).await?;
        }
        Ok(())
    }

    async fn send_literals(&self, tables: &[&AmendedTable]) -> Result<()> {
        self.run(literals::CLEAR).await?;
        let row_types: Vec<_> = self.statements.iter().map(TableStatements::table).collect();
        let lines = literals::lines(&self.session, &row_types, tables).await?;
        let sent = self.copy_in(literals::COPY, [lines]).await;
        sent.map_err(|error| server_error("cannot send the rows", error))?;
        self.run(literals::ANALYZE).await
    }

    async fn send(&self, statements: &TableStatements, amended: &AmendedTable) -> Result<()> {
        let failed = |error| server_error(format!("cannot send rows of {}", amended.table.display()), error);
        let lines = amended.lines(&statements.changed);
        self.copy_in(&statements.copy_in(), lines).await.map_err(failed)?;
        self.run(&statements.analyze()).await
    }

    async fn copy_in(
        &self,
        statement: &str,
        pieces: impl IntoIterator<Item = Bytes>,
    ) -> Result<(), tokio_postgres::Error> {
        let sink = self.session.copy_in::<_, Bytes>(statement).await?;
        let mut sink = std::pin::pin!(sink);
        for piece in pieces {
            sink.send(piece).await?;
        }
        sink.finish().await.map(drop)
    }

    async fn run(&self, statements: &str) -> Result<()> {
        let done = self.session.batch_execute(statements).await;
        done.map_err(|error| server_error("cannot change rows of the source", error))
    }

    /// Begins the transaction and keeps writers out of the tables; readers are let through. Returns a position of the
    /// WAL that lies behind all that was committed in these tables.
    ///
    /// # Errors
    /// `Unavailable` if other transactions keep the tables for too long.
    pub async fn lock(&self) -> Result<Lsn> {
        self.run(&format!("BEGIN READ WRITE; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; SAVEPOINT unlocked"))
            .await?;
        let (locked, blocker) = while_waiting(
            &self.source,
            self.session.process(),
            "the lock on the tables to be put right",
            self.lock_patiently(),
        )
        .await;
        locked.map_err(|error| with_blocker(error, blocker))?;
        self.run("SAVEPOINT locked").await?;
        let row = self.session.query_one("SELECT pg_catalog.pg_current_wal_insert_lsn()::text", &[]).await;
        parse_lsn(row.map_err(|error| server_error("cannot ask for the end of the WAL", error))?.get(0))
    }

    /// A weaker lock, SHARE ROW EXCLUSIVE, lets SELECT … FOR UPDATE through: a transaction that then wants to update would
    /// wait for us, and we for its rows.
    async fn lock_patiently(&self) -> Result<()> {
        let names: Vec<_> = self.statements.iter().map(TableStatements::lock_name).collect();
        let statement = format!("LOCK TABLE {} IN EXCLUSIVE MODE", names.join(", "));
        let begun = ambient::instant();
        loop {
            match self.session.batch_execute(&statement).await {
                Err(error)
                    if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
                        && begun.elapsed() < LOCK_PATIENCE =>
                {
                    self.run("ROLLBACK TO unlocked").await?;
                    tokio::time::sleep(LOCK_PAUSE).await;
                }
                locked => {
                    return locked
                        .map_err(|error| server_error("cannot lock the tables to be put right", error));
                }
            }
        }
    }

    /// Gives the locks back; nothing has happened.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn give_up(&self) -> Result<()> {
        self.run("ROLLBACK").await
    }

    /// Changes the rows under the locks. Returns the rows that were not what they must be; then nothing has changed.
    ///
    /// # Errors
    /// `Refused` if a constraint is in the way, with the server's words.
    pub async fn apply(&self, schema: &LiveSchema, tables: &[&AmendedTable]) -> Result<Vec<Surprise>> {
        self.run(&format!(
            "SET LOCAL lock_timeout = '{APPLY_TIMEOUT}'; SET LOCAL work_mem = '{WORK_MEMORY}'"
        ))
        .await?;
        self.switch_triggers(schema, tables, false).await?;
        self.run("SET CONSTRAINTS ALL DEFERRED").await?;
        self.refuse_orphans(schema, tables).await?;
        if !self.change(tables).await? {
            self.run("ROLLBACK TO locked").await?;
            return self.surprises().await;
        }
        self.run("SET CONSTRAINTS ALL IMMEDIATE").await?;
        self.switch_triggers(schema, tables, true).await?;
        Ok(Vec::new())
    }

    async fn switch_triggers(&self, schema: &LiveSchema, tables: &[&AmendedTable], on: bool) -> Result<()> {
        let mut batch = String::new();
        for (statements, amended) in self.statements.iter().zip(tables) {
            let triggers = schema.triggers.get(&amended.table.oid).map(Vec::as_slice).unwrap_or_default();
            batch.push_str(&statements.triggers(triggers, on));
        }
        // The triggers are as they were before the transaction ends, so their switching is nobody else's business.
        let batch = if batch.is_empty() || on { batch } else { own("rewind") + &batch };
        self.run(&batch).await
    }

    /// A deleted parent must not take along, or change, rows that nobody asked to change.
    async fn refuse_orphans(&self, schema: &LiveSchema, tables: &[&AmendedTable]) -> Result<()> {
        let failed = |error| server_error("cannot look for rows that refer to those that go", error);
        let place = |oid: u32| tables.iter().position(|it| it.table.oid == oid);
        for key in schema.foreign_keys.iter().filter(|key| key.acts_on_delete) {
            for (at, parent) in
                tables.iter().enumerate().filter(|(_, it)| key.parents.contains(&it.table.oid))
            {
                if !parent.acts().delete {
                    continue;
                }
                for child in &key.children {
                    let known = place(child.oid).map(|at| &self.statements[at]);
                    let query = self.statements[at].orphans(key, &parent.table, child, known);
                    let count: i64 = self.session.query_one(&query, &[]).await.map_err(failed)?.get(0);
                    if count > 0 {
                        return Err(orphaned(count, key, child, &parent.table));
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns whether each statement changed as many rows as it must.
    async fn change(&self, tables: &[&AmendedTable]) -> Result<bool> {
        let failed = |error| server_error("the rows cannot be put back", error);
        let (mut changes, mut expected) = (Vec::new(), Vec::new());
        for (statements, amended) in self.statements.iter().zip(tables) {
            if let Some(parking) = amended.parking {
                self.session.batch_execute(&statements.park(parking)).await.map_err(failed)?;
            }
            changes.extend(statements.changes(amended.acts()));
            let counts = [&[Act::Delete, Act::Replace][..], &[Act::Update], &[Act::Insert, Act::Replace]];
            expected.extend(counts.map(|acts| amended.count(acts)).into_iter().filter(|count| *count > 0));
        }
        if changes.is_empty() {
            return Ok(true);
        }
        let counted = self.session.query(&all_at_once(&changes), &[]).await.map_err(failed)?;
        let found = |name: &str| counted.iter().find(|row| row.get::<_, &str>(0) == name);
        let is_right = |((name, _), expected): (&(String, String), &i64)| {
            found(name).is_some_and(|row| row.get::<_, i64>(1) == *expected)
        };
        Ok(changes.iter().zip(&expected).all(is_right))
    }

    async fn surprises(&self) -> Result<Vec<Surprise>> {
        let failed = |error| server_error("cannot look for the rows that differ", error);
        let mut found = Vec::new();
        for (place, statements) in self.statements.iter().enumerate() {
            for row in self.session.query(&statements.surprises(), &[]).await.map_err(failed)? {
                found.push((place, row.get::<_, i64>(0) as usize));
            }
        }
        if found.is_empty() {
            return Err(Error::refused(
                "the source changed another number of rows than the history has, and nothing was changed; see: backwhen \
                 check --against-source",
            ));
        }
        Ok(found)
    }

    /// Reads the rows back that were inserted or updated, by their keys; `None` for a table without a key.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn read_back(&self, tables: &[&AmendedTable]) -> Result<Vec<Option<HeldRows>>> {
        let mut all = Vec::new();
        for (statements, amended) in self.statements.iter().zip(tables) {
            let held = match statements.copy_back() {
                Some(copy) => Some(self.held_rows(copy, &amended.table).await?),
                None => None,
            };
            all.push(held);
        }
        Ok(all)
    }

    async fn held_rows(&self, copy: String, table: &Table) -> Result<HeldRows> {
        let failed = |error| server_error(format!("cannot read back {}", table.display()), error);
        let mut rows = std::pin::pin!(self.session.copy_out(&copy).await.map_err(failed)?);
        let mut held = HeldRows::default();
        // The server sends each row in a message of its own.
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            held.add(row.strip_suffix(b"\n").unwrap_or(&row));
        }
        Ok(held)
    }

    /// Commits, and tells nobody: for a database that nobody knows yet.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn commit_silently(&self) -> Result<()> {
        self.run("COMMIT").await
    }

    /// Writes a message into the WAL, within the transaction, and commits. Returns a position behind the commit, and the
    /// transaction's number.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn commit(&self, key: &MessageKey, prefix: &str, json: &str) -> Result<(Lsn, u64)> {
        emit(&self.session, key, &[(prefix, json)]).await?;
        let number = self.session.query_one("SELECT pg_catalog.pg_current_xact_id()::text::int8", &[]).await;
        let number: i64 =
            number.map_err(|error| server_error("cannot ask for a transaction's number", error))?.get(0);
        self.run("COMMIT").await?;
        Ok((super::messages::wal_end(&self.session).await?, number as u64))
    }
}

fn orphaned(count: i64, key: &ForeignKey, child: &ChildTable, parent: &Table) -> Error {
    Error::refused(format!(
        "{count} rows of {}.{} refer to rows of {} that would go, and its foreign key {:?} would take them along; name both \
         tables with --table, or use --conflicts cascade",
        child.schema,
        child.name,
        parent.display(),
        key.name
    ))
}
