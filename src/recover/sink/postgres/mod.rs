//! Recovery into a PostgreSQL database.

mod beside;
mod contents;
mod few;
mod fit;
mod foresee;
mod guard;
mod indexes;
mod maintenance;
mod make_way;
mod marker;
mod naming;
mod open;
mod owner_role;
mod part;
mod place;
mod properties;
mod restore;
mod retry;
mod room;
mod rows;
mod template;
mod together;
mod unfinished;

pub use beside::SideSchema;
pub use foresee::foresee;
pub use maintenance::drop_database;
pub use template::{drop_template, kept_templates};

use std::collections::{BTreeSet, HashMap};
use std::iter;
use std::sync::Mutex;

use crate::connect::{Conninfo, Session, connect, server_error};
use crate::error::{Error, Result};
use crate::model::DatabaseFacts;
use crate::model::schema::quote_ident;
use crate::model::schema_digests::{DATABASE, SchemaDifference, SchemaDigests, skips_rights};
use crate::pgtools::{self, Tools};

use super::definitions::GET_ROLES;
use super::{ArchiveDefinitions, ComputedColumn, Opening};
use crate::model::{Inexact, Table};
use crate::recover::archive::{AfterRows, Section};
use crate::recover::refused::{RefusedObject, RefusedObjects};
use guard::Guard;
pub(in crate::recover) use maintenance::{holds_nothing, lock, maintenance};
pub(in crate::recover) use marker::MARKER;
use place::{BuildAt, BuildPlace};
pub(in crate::recover) use properties::create_like;
pub(in crate::recover) use restore::Restoring;
pub(in crate::recover) use retry::Retry;
use room::Room;
pub(in crate::recover) use room::in_one_transaction;
pub(in crate::recover) use rows::{Emptying, copy_in, copy_rows, digests_of};

/// A database that is being rebuilt.
pub struct PostgresSink {
    /// The connection to the database under its name while it is being built.
    info: Conninfo,
    place: BuildPlace,
    facts: DatabaseFacts,
    definitions: ArchiveDefinitions,
    /// All tables that will be loaded.
    tables: Vec<Table>,
    /// The tables that cannot take their rows as they were replayed.
    unfit: Vec<Inexact>,
    /// The objects that the replay's server refused.
    missing: Vec<RefusedObject>,
    tools: Tools,
    /// The number of large tables that are loaded at the same time.
    jobs: usize,
    room: Room,
    /// Idle sessions for rows (in the server's encoding).
    idle: Mutex<Vec<Session>>,
    /// Idle sessions for statements (in UTF-8).
    makers: Mutex<Vec<Session>>,
    /// The entries of the archive that sessions of our own make, and pg_restore does not.
    ours: Mutex<BTreeSet<i32>>,
    /// The places in the archive of the indexes and constraints that a table has by itself, by the table's name.
    indexes: HashMap<String, Vec<usize>>,
    /// The session for statements, in UTF-8. It also shows others that a recovery is working here.
    session: Session,
    /// The guard, if a superuser recovers.
    guard: Option<Guard>,
    refused: RefusedObjects,
    /// Whether the guard is lifted and the event triggers are made.
    is_complete: bool,
    cleared: Mutex<make_way::Cleared>,
    /// Held by a load that adds rows to several partitions, until it has seen which.
    distributing: tokio::sync::Mutex<()>,
    notes: Vec<String>,
}

/// The definitions of at least this many objects are digested over several sessions. Planning the query takes as long as
/// digesting some hundred objects.
const WORTH_SHARING: usize = 500;

/// More sessions than this spend their time on planning.
const MOST_SHARES: usize = 4;

/// Selects stored computed columns with the functions of the application that they call.
const COMPUTED: &str = "
SELECT n.nspname || '.' || c.relname, a.attname::text, i.type || ' ' || i.identity
  FROM pg_catalog.pg_attribute a
  JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
  JOIN pg_catalog.pg_depend p ON p.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND p.objid = d.oid
   AND p.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass,
       pg_catalog.pg_identify_object(p.refclassid, p.refobjid, 0) i
 WHERE a.attgenerated = 's'
 ORDER BY 1, 2, 3";

impl PostgresSink {
    /// Creates or checks the database, and renames it until it is valid.
    ///
    /// # Errors
    /// Fails with `Refused` if the server is older than the source, if the database's encoding differs, if the
    /// database is not empty, or if it exists although it is to be created. Fails with `Locked` if another recovery
    /// is working on it.
    pub async fn prepare(info: &Conninfo, opening: Opening<'_>) -> Result<PostgresSink> {
        let Opening {
            create,
            strict,
            is_part,
            template,
            source,
            mut definitions,
            tools,
            tables,
            unfit,
            missing,
            jobs,
            ..
        } = opening;
        let (refused, mut notes) = (RefusedObjects::new(strict, is_part), Vec::new());
        // This check comes before any change: without the programs the recovery cannot succeed.
        definitions.tool(&tools, u32::MAX)?;
        let extensions = definitions.extensions();
        let wanted = if create { BuildAt::New(template) } else { BuildAt::Empty(&extensions) };
        let place = BuildPlace::prepare(info, wanted, source, &mut notes).await?;
        let info = info.with_dbname(place.name_while_building());
        match PostgresSink::enter(&info, &place, source, &mut definitions, &refused, &mut notes, jobs).await {
            Ok((session, facts, guard, room)) => Ok(PostgresSink {
                info,
                place,
                facts,
                indexes: together::indexes_by_table(&definitions),
                definitions,
                tables: tables.to_vec(),
                unfit,
                missing,
                tools,
                jobs,
                room,
                idle: Mutex::default(),
                makers: Mutex::default(),
                ours: Mutex::default(),
                session,
                guard,
                refused,
                is_complete: false,
                cleared: Mutex::default(),
                distributing: tokio::sync::Mutex::default(),
                notes,
            }),
            Err(error) => Err(give_up(place, &info, error).await),
        }
    }

    async fn enter(
        info: &Conninfo,
        place: &BuildPlace,
        source: &DatabaseFacts,
        definitions: &mut ArchiveDefinitions,
        refused: &RefusedObjects,
        notes: &mut Vec<String>,
        jobs: usize,
    ) -> Result<(Session, DatabaseFacts, Option<Guard>, Room)> {
        let session = Session::connect_utf8(info, "recover").await?;
        place.settle(&session).await?;
        let facts = DatabaseFacts::read(&session).await?;
        let room = Room::of(&session, facts.server_major, jobs).await?;
        if !facts.same_locale(source) {
            notes.push(format!(
                "the target's locale is {}, the source's is {}: text may sort and compare differently; \
                 a database that --create makes has the source's locale",
                facts.locale_name(),
                source.locale_name()
            ));
        }
        let roles = usable_roles(&session).await?;
        let without_roles = definitions.adapt_to_roles(|name| roles.contains(name), GET_ROLES);
        notes.extend(without_roles.iter().map(RefusedObject::note));
        refused.add_all(without_roles);
        let (owners, _) = definitions.owners_and_privileges();
        let guard = Guard::set(&session, place.final_name(), owners).await?;
        notes.extend(guard.as_ref().and_then(Guard::note));
        Ok((session, facts, guard, room))
    }

    pub fn notes(&self) -> Vec<String> {
        [&self.notes[..], &self.refused.notes()].concat()
    }

    /// Returns the connection to the database under its name while it is being built.
    pub fn connection(&self) -> &Conninfo {
        &self.info
    }

    /// Returns the name that the database has once it is valid.
    pub fn final_name(&self) -> &str {
        self.place.final_name()
    }

    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub async fn computed_columns(&self) -> Result<Vec<ComputedColumn>> {
        let rows = self.session.query(COMPUTED, &[]).await;
        let rows = rows.map_err(|error| server_error("cannot look for computed columns", error))?;
        let column = |row: &tokio_postgres::Row| ComputedColumn {
            table: row.get(0),
            column: row.get(1),
            function: row.get(2),
        };
        Ok(rows.iter().map(column).collect())
    }

    /// Compares the definitions with those that were to be recovered, but for the database's own properties, which it
    /// gets with its name.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub async fn schema_differences(&self, wanted: &SchemaDigests) -> Result<Vec<SchemaDifference>> {
        let helpers = self.digesters(wanted).await;
        let clients: Vec<_> = iter::once(&self.session).chain(&helpers).map(|session| &**session).collect();
        let found = pgtools::schema_digests_over(&clients).await?;
        let rights = self.definitions.owners_and_privileges();
        let skips = |object: &str, part: &str| object == DATABASE || skips_rights(object, part, rights);
        Ok(wanted.differences(&found, Some(wanted), skips))
    }

    /// Returns sessions that help to digest the definitions, if there are many and the server has sessions left.
    async fn digesters(&self, wanted: &SchemaDigests) -> Vec<Session> {
        let helpers = if wanted.objects.len() < WORTH_SHARING {
            0
        } else {
            self.jobs.min(MOST_SHARES).saturating_sub(1)
        };
        let mut sessions = Vec::new();
        while sessions.len() < helpers
            && let Ok(session) = self.maker().await
        {
            sessions.push(session);
        }
        sessions
    }

    /// The last step: gives the database its event triggers, its properties and its name. Returns everything that the
    /// server refused since the beginning.
    ///
    /// # Errors
    /// Fails with `Refused` or `Unavailable`, and says what is left under which name.
    pub async fn make_valid(mut self) -> Result<Vec<RefusedObject>> {
        let completed = self.complete_definitions().await;
        let PostgresSink { info, place, session, idle, makers, definitions, mut refused, .. } = self;
        // A database with sessions cannot be renamed.
        drop((idle, makers));
        if let Err(error) = completed {
            drop(session);
            return Err(give_up(place, &info, error).await);
        }
        refused.strict = false;
        place.make_valid(session, &definitions, &refused).await?;
        Ok(refused.take())
    }

    /// Lifts the guard, then makes the event triggers: nothing is made after them for which they would fire. Does nothing
    /// the second time.
    ///
    /// # Errors
    /// Fails with `Refused` or `Unavailable`.
    pub async fn complete_definitions(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.is_complete, true) {
            return Ok(());
        }
        self.lift_guard().await?;
        let step = AfterRows::EventTriggers;
        let toc = &self.definitions.archive.toc;
        if self.definitions.selection.in_step(toc, step).has(toc, Section::PostData) {
            self.restore_from(&self.definitions, Section::PostData, step, 1).await?;
        }
        Ok(())
    }

    /// Gives the application's functions their own rights back. Does nothing the second time.
    async fn lift_guard(&mut self) -> Result<()> {
        match self.guard.take() {
            Some(guard) => guard.lift(&self.session).await,
            None => Ok(()),
        }
    }

    /// Undoes an unfinished recovery: drops a database that the recovery created, and empties one that existed
    /// before.
    ///
    /// # Errors
    /// Fails with the name of what is left.
    pub async fn abandon(self) -> Result<()> {
        let PostgresSink { info, place, session, idle, makers, .. } = self;
        drop((idle, makers, session));
        place.abandon(&info).await
    }

    /// Returns a session for rows: an idle one or a new one.
    async fn row_session(&self) -> Result<Session> {
        if let Some(session) = self.idle().pop() {
            return Ok(session);
        }
        let session = connect(&self.info, "recover").await?;
        self.place.settle(&session).await?;
        Ok(session)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Session>> {
        self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    async fn execute(&self, sql: &str, what: impl FnOnce() -> String) -> Result<()> {
        self.session.batch_execute(sql).await.map_err(|error| server_error(what(), error))
    }
}

/// Abandons the place because of `error`, and adds to the error whatever cannot be removed.
async fn give_up(place: BuildPlace, info: &Conninfo, error: Error) -> Error {
    match place.abandon(info).await {
        Ok(()) => error,
        Err(left) => Error::new(error.kind(), format!("{error}; and {left}")),
    }
}

/// Returns the roles that the current user can make owners: itself and the roles of which it is a member.
pub(in crate::recover) async fn usable_roles(session: &Session) -> Result<std::collections::HashSet<String>> {
    let sql = "SELECT rolname::text FROM pg_catalog.pg_roles \
               WHERE pg_catalog.pg_has_role(current_user, oid, 'MEMBER')";
    let rows = session
        .query(sql, &[])
        .await
        .map_err(|error| server_error("cannot read the target's roles", error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Returns `schema.name`, quoted.
fn quoted(schema: &str, name: &str) -> String {
    format!("{}.{}", quote_ident(schema), quote_ident(name))
}
