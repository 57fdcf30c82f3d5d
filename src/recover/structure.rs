//! A scratch database with the whole schema of a moment and without rows, of which single tables are filled.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::definitions::{ReplaySettings, SchemaAt, schema_compared};
use super::load::{PIECES_WAITING, feed};
use super::objects::globals;
use super::refused::RefusedObject;
use super::schema::{RestoredArchive, ScratchDatabase, ScratchServer, SourceRoles};
use super::sink::{Emptying, copy_in};
use crate::connect::{Conninfo, Session, connect, server_error};
use crate::error::{Context, Error, Kind, Result};
use crate::fold::FoldedTable;
use crate::model::Inexact;
use crate::model::spelling::Spelled;
use crate::past::Past;
use crate::pgtools::Tools;
use crate::progress::Progress;

/// Selects the statements that take away what would act, or refuse, when rows are written one table after the other.
/// A constraint that a table both inherits and has itself is dropped by a second round.
const ACTING: &str = "
SELECT pg_catalog.format('DROP EVENT TRIGGER %I', evtname) FROM pg_catalog.pg_event_trigger
UNION ALL
SELECT pg_catalog.format('ALTER TABLE %s DROP CONSTRAINT %I CASCADE', conrelid::pg_catalog.regclass, conname)
  FROM pg_catalog.pg_constraint
 WHERE contype IN ('f', 'c') AND conrelid <> 0 AND conparentid = 0 AND coninhcount = 0
UNION ALL
SELECT pg_catalog.format('DROP TRIGGER %I ON %s', tgname, tgrelid::pg_catalog.regclass)
  FROM pg_catalog.pg_trigger WHERE NOT tgisinternal AND tgparentid = 0
UNION ALL
SELECT pg_catalog.format('DROP RULE %I ON %s', rulename, ev_class::pg_catalog.regclass)
  FROM pg_catalog.pg_rewrite JOIN pg_catalog.pg_class c ON c.oid = ev_class
 WHERE rulename <> '_RETURN' AND c.relkind IN ('r', 'p')
   AND c.relnamespace <> 'pg_catalog'::pg_catalog.regnamespace
UNION ALL
SELECT pg_catalog.format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY', oid::pg_catalog.regclass)
  FROM pg_catalog.pg_class WHERE relforcerowsecurity";

/// More rounds than any inheritance needs.
const ROUNDS: usize = 100;

/// How structures are made.
pub struct StructureSettings {
    pub tools: Tools,
    /// A server that the user named; `None` for a short-lived server of our own.
    pub scratch: Option<Conninfo>,
    /// How long one replayed statement may run.
    pub replay_limit: Duration,
    pub progress: Arc<dyn Progress>,
    /// Cancelled to make all work end early.
    pub interrupt: CancellationToken,
}

/// A server with one scratch database at a time. [`Structure::close`] must be called at the end, also after an error.
pub struct Structure {
    settings: StructureSettings,
    server: ScratchServer,
    roles: SourceRoles,
    database: Option<ScratchDatabase>,
    schema: Option<SchemaAt>,
    /// Remarks for a person.
    pub notes: BTreeSet<String>,
    /// The definitions that are not as they were on the source.
    pub inexact: Vec<Inexact>,
}

impl Structure {
    /// Chooses or starts the server.
    ///
    /// # Errors
    /// `Refused` if there are no programs for a server of our own.
    pub async fn open(past: &Past, settings: StructureSettings) -> Result<Structure> {
        let roles = SourceRoles::read(globals(past)?.as_deref());
        let base = past.base();
        let room = base.tables.iter().map(|entry| entry.image.bytes).sum();
        let (given, facts) = (settings.scratch.clone(), &base.schema.database);
        let server = ScratchServer::find_for(given, &settings.tools, facts, &roles, room).await?;
        let notes = server.notes().into_iter().collect();
        Ok(Structure { settings, server, roles, database: None, schema: None, notes, inexact: Vec::new() })
    }

    /// Makes the database anew, with the schema of a moment.
    ///
    /// # Errors
    /// The errors of a replay; `Refused` and pg_restore's own words.
    pub async fn make(&mut self, past: &Past) -> Result<()> {
        self.drop_database().await?;
        let settings = &self.settings;
        let replay = ReplaySettings {
            server: settings.scratch.as_ref(),
            limit: settings.replay_limit,
            strict: false,
            tools: &settings.tools,
            progress: &*settings.progress,
            interrupt: &settings.interrupt,
        };
        let schema = schema_compared(past, &replay, None).await?;
        let facts = &schema.facts.database;
        let ours = self.server.is_ours();
        let database = ScratchDatabase::create(self.server.info(), ours, false, facts).await?;
        let database = self.database.insert(database);
        let restored = RestoredArchive {
            archive: &schema.archive,
            ours,
            roles: &self.roles,
            further_roles: schema.facts.roles.iter().map(String::as_str).collect(),
            orders: &schema.orders,
            tools: &settings.tools,
        };
        let restoring = async {
            let (definitions, notes) = restored.restore_into(database).await?;
            take_away_what_acts(&Session::connect_utf8(&database.info, "scratch").await?).await?;
            Ok((database.take_properties(&definitions).await, notes))
        };
        let (of_properties, notes) = tokio::select! {
            done = restoring => done?,
            () = settings.interrupt.cancelled() => return Err(Error::interrupted()),
            () = database.end_what_hangs(settings.replay_limit) => return Err(Error::internal("looking ended")),
        };
        let refused = database.refused.take();
        self.notes.extend(notes.into_iter().chain(of_properties).chain(schema.notes.iter().cloned()));
        self.name_inexact(
            schema.inexact.iter().cloned().chain(refused.iter().map(RefusedObject::as_inexact)),
        );
        self.schema = Some(schema);
        Ok(())
    }

    /// Adds what is not exact, once each.
    pub fn name_inexact(&mut self, found: impl IntoIterator<Item = Inexact>) {
        for it in found {
            if !self.inexact.contains(&it) {
                self.inexact.push(it);
            }
        }
    }

    /// Fills an empty table.
    ///
    /// # Errors
    /// `Damaged` if the history is; `Refused` if the table cannot take its rows.
    pub async fn fill(&self, folded: FoldedTable) -> Result<()> {
        let table = folded.table.clone();
        if let Some(schema) = &self.schema {
            schema.require_fit(std::slice::from_ref(&table))?;
        }
        let session = connect(self.info()?, "scratch").await?;
        let progress = Arc::clone(&self.settings.progress);
        let (pieces, rows) = mpsc::channel(PIECES_WAITING);
        let feeding = tokio::task::spawn_blocking(move || feed(folded, pieces, &*progress));
        let encoding = session.server_encoding().to_owned();
        copy_in(&session, &table, &encoding, Emptying::First, false, rows).await?;
        feeding.await.context(Kind::Internal, || "a feeding thread failed".into())??;
        let spelled = Spelled::of(&table, &encoding);
        let analysed = session.batch_execute(&format!("ANALYZE {}", spelled.table)).await;
        analysed.map_err(|error| server_error(format!("cannot analyse {}", table.display()), error))
    }

    /// Returns the connection to the database.
    ///
    /// # Errors
    /// `Internal` if no database has been made.
    pub fn info(&self) -> Result<&Conninfo> {
        let database = self.database.as_ref().map(|database| &database.info);
        database.ok_or_else(|| Error::internal("there is no scratch database"))
    }

    pub fn progress(&self) -> &Arc<dyn Progress> {
        &self.settings.progress
    }

    /// Does some work, unless an interruption comes first.
    ///
    /// # Errors
    /// `Interrupted`, or the work's own.
    pub async fn unless_interrupted<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            done = work => done,
            () = self.settings.interrupt.cancelled() => Err(Error::interrupted()),
        }
    }

    /// Drops the database, and stops the server if it is our own.
    ///
    /// # Errors
    /// The name of the database that is left.
    pub async fn close(mut self) -> Result<()> {
        let dropped = self.drop_database().await;
        self.server.stop().await;
        dropped
    }

    /// A server of our own is removed as a whole.
    async fn drop_database(&mut self) -> Result<()> {
        match self.database.take() {
            Some(database) => database.drop().await,
            None => Ok(()),
        }
    }
}

async fn take_away_what_acts(session: &Session) -> Result<()> {
    let failed = |error| server_error("cannot prepare the scratch database for rows", error);
    for _ in 0..ROUNDS {
        let rows = session.query(ACTING, &[]).await.map_err(failed)?;
        if rows.is_empty() {
            return Ok(());
        }
        let statements: Vec<_> = rows.iter().map(|row| row.get::<_, String>(0)).collect();
        session.batch_execute(&statements.join("; ")).await.map_err(failed)?;
    }
    Err(Error::internal("triggers and constraints of the scratch database cannot be taken away"))
}
