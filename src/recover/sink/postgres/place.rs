//! The name of the database while it is being built, and how the database gets its own name.
//!
//! The database is built under another name in the same server and renamed when everything is done, so that nothing
//! under the right name can be taken for the database. Where renaming is not permitted, a marker schema inside the
//! database and read-only sessions for other users replace it.

use crate::ambient;
use crate::connect::{Conninfo, ServerFault, Session, server_error};
use crate::error::{Error, Result};
use crate::model::DatabaseFacts;
use crate::model::schema::{quote_ident, quote_literal};

use super::super::ArchiveDefinitions;
use super::super::definitions::renamed;
use super::contents::require_empty;
use super::maintenance::{
    comment_of, comment_on, drop_leftover, durable, exists, let_sessions_end, lock, maintenance, move_aside,
    refuse_unfinished,
};
use super::marker::{MARKER, mark, unmark};
use super::owner_role;
use super::properties::{Properties, create_like};
use super::template::copy_closed;
use super::unfinished::{COMMENT, EXISTED, temporary_name};
use crate::recover::refused::RefusedObjects;

/// Where the database is being built.
pub(super) enum BuildPlace {
    /// The database has another name meanwhile.
    TemporaryName(Box<TemporaryName>),
    /// The database has its own name, and a marker.
    Marked { name: String, read_only: bool },
}

pub(super) struct TemporaryName {
    /// A session in another database of the server, which holds the lock on the name.
    maintenance: Session,
    name: String,
    temporary: String,
    /// The properties of the database, if it existed before.
    existed: Option<Properties>,
}

/// The database that is wanted.
pub(super) enum BuildAt<'a> {
    /// A database that is created, as a copy of the template if one is named.
    New(Option<&'a str>),
    /// A database that is there, and that is empty but for these extensions.
    Empty(&'a [String]),
}

impl BuildPlace {
    pub async fn prepare(
        info: &Conninfo,
        wanted: BuildAt<'_>,
        source: &DatabaseFacts,
        notes: &mut Vec<String>,
    ) -> Result<BuildPlace> {
        let extensions = match wanted {
            BuildAt::Empty(extensions) => extensions,
            BuildAt::New(template) => {
                let aside = create_aside(info, source, template, notes).await?;
                return Ok(BuildPlace::TemporaryName(Box::new(aside)));
            }
        };
        let session = match Session::connect_utf8(info, "recover").await {
            Ok(session) => session,
            Err(error) if ServerFault::sqlstate_of(&error) == Some("3D000") => {
                return resume(info, source, error, notes)
                    .await
                    .map(|aside| BuildPlace::TemporaryName(Box::new(aside)));
            }
            Err(error) => return Err(error),
        };
        refuse_unfinished(&session, info.dbname()).await?;
        let facts = suits(&session, info.dbname(), source, extensions).await?;
        let maintenance = match maintenance(info).await {
            Ok(maintenance) => maintenance,
            Err(_) => return BuildPlace::marked(&session, info.dbname()).await,
        };
        lock(&maintenance, info.dbname()).await?;
        drop_leftover(&maintenance, info, notes).await?;
        let properties = Properties::read(&maintenance, info.dbname(), &facts).await?;
        // A database with sessions cannot be renamed.
        drop(session);
        match move_aside(&maintenance, info.dbname(), &properties).await {
            Ok(temporary) => Ok(BuildPlace::TemporaryName(Box::new(TemporaryName {
                maintenance,
                name: info.dbname().to_owned(),
                temporary,
                existed: Some(properties),
            }))),
            Err(error) => match ServerFault::sqlstate_of(&error) {
                // Not the owner, or an owner who may not create databases.
                Some("42501") => {
                    let session = Session::connect_utf8(info, "recover").await?;
                    BuildPlace::marked(&session, info.dbname()).await
                }
                Some("55006") => Err(Error::refused(format!(
                    "somebody is connected to database {}; end those sessions, then recover again",
                    info.dbname()
                ))),
                _ => Err(error),
            },
        }
    }

    async fn marked(session: &Session, name: &str) -> Result<BuildPlace> {
        let read_only = mark(session, name).await?;
        Ok(BuildPlace::Marked { name: name.to_owned(), read_only })
    }

    pub fn name_while_building(&self) -> &str {
        match self {
            BuildPlace::TemporaryName(aside) => &aside.temporary,
            BuildPlace::Marked { name, .. } => name,
        }
    }

    pub fn final_name(&self) -> &str {
        match self {
            BuildPlace::TemporaryName(aside) => &aside.name,
            BuildPlace::Marked { name, .. } => name,
        }
    }

    /// The settings that our own sessions need to build the database: to write, and to commit without waiting for the
    /// disk. The last step waits until everything written before it is durable.
    fn settings(&self) -> &'static [(&'static str, &'static str)] {
        match self {
            BuildPlace::Marked { read_only: true, .. } => {
                &[("synchronous_commit", "off"), ("default_transaction_read_only", "off")]
            }
            _ => &[("synchronous_commit", "off")],
        }
    }

    /// Prepares one of our own sessions.
    pub async fn settle(&self, session: &Session) -> Result<()> {
        let sql: String =
            self.settings().iter().map(|(name, value)| format!("SET {name} = {value}; ")).collect();
        let set = session.batch_execute(&sql).await;
        set.map_err(|error| server_error("cannot prepare a session to write", error))
    }

    /// Returns the `PGOPTIONS` that prepare one of our own child processes.
    pub fn child_options(&self, info: &Conninfo) -> String {
        info.child_options(self.settings())
    }

    /// Properties that the server does not take are added to `refused`.
    pub async fn make_valid(
        self,
        session: Session,
        definitions: &ArchiveDefinitions,
        refused: &RefusedObjects,
    ) -> Result<()> {
        match self {
            BuildPlace::TemporaryName(aside) => {
                drop(session);
                aside.make_valid(definitions, refused).await
            }
            BuildPlace::Marked { name, read_only } => {
                durable(&session).await?;
                unmark(&session, &name, read_only).await
            }
        }
    }

    /// `info` leads to the database that is being built.
    pub async fn abandon(self, info: &Conninfo) -> Result<()> {
        match self {
            BuildPlace::TemporaryName(aside) => aside.abandon().await,
            BuildPlace::Marked { name, .. } => {
                let session = Session::connect_utf8(info, "recover").await?;
                owner_role::release(&session, &name).await?;
                Err(Error::refused(format!(
                    "database {name} holds an unfinished recovery, marked by its schema {MARKER}; drop and create it \
                     before you use it"
                )))
            }
        }
    }
}

impl TemporaryName {
    async fn make_valid(self, definitions: &ArchiveDefinitions, refused: &RefusedObjects) -> Result<()> {
        self.take_properties(definitions, refused).await?;
        let comment = self.own_comment(definitions, &self.temporary);
        durable(&self.maintenance).await?;
        let sql = format!(
            "BEGIN; {comment}; ALTER DATABASE {} RENAME TO {}; COMMIT",
            quote_ident(&self.temporary),
            quote_ident(&self.name)
        );
        let_sessions_end(&self.maintenance, &self.temporary).await;
        self.maintenance.batch_execute(&sql).await.map_err(|error| self.not_renamed(error))
    }

    /// Gives the database its name and this comment although our sessions are connected to it, which ALTER DATABASE refuses:
    /// they hold the tables that are not loaded yet.
    pub async fn open(&self, comment: &str) -> Result<()> {
        durable(&self.maintenance).await?;
        let sql = format!(
            "BEGIN; UPDATE pg_catalog.pg_database SET datname = {} WHERE datname = {}; {}; COMMIT",
            quote_literal(&self.name),
            quote_literal(&self.temporary),
            comment_on(&self.name, Some(comment))
        );
        self.maintenance.batch_execute(&sql).await.map_err(|error| self.not_renamed(error))
    }

    /// Returns the session that holds the lock on the name.
    pub fn into_lock(self) -> Session {
        self.maintenance
    }

    fn not_renamed(&self, error: tokio_postgres::Error) -> Error {
        let what = format!("cannot rename database {} to {}, its last step", self.temporary, self.name);
        server_error(what, error)
    }

    /// The statement that gives the database, which has this name, its own comment.
    pub fn own_comment(&self, definitions: &ArchiveDefinitions, name: &str) -> String {
        let comment = match &self.existed {
            Some(properties) => properties.comment.as_deref().map(|comment| comment_on(name, Some(comment))),
            None => definitions.database_comment(name),
        };
        comment.unwrap_or_else(|| comment_on(name, None))
    }

    /// Gives a database that the recovery made the properties of the source's.
    pub async fn take_properties(
        &self,
        definitions: &ArchiveDefinitions,
        refused: &RefusedObjects,
    ) -> Result<()> {
        if self.existed.is_some() {
            return Ok(());
        }
        // In this order the privileges are recorded as those of any new database are.
        let name = quote_ident(&self.temporary);
        let public = format!(
            "REVOKE ALL ON DATABASE {name} FROM CURRENT_USER; \
             GRANT CONNECT, TEMPORARY ON DATABASE {name} TO PUBLIC; \
             GRANT ALL ON DATABASE {name} TO CURRENT_USER"
        );
        self.maintenance.batch_execute(&public).await.map_err(|error| {
            server_error(format!("cannot open database {} to its users", self.temporary), error)
        })?;
        for statement in definitions.database_properties(&self.temporary) {
            if let Err(error) = self.maintenance.batch_execute(&statement).await {
                let why = server_error("the target does not take it", error);
                let sql = renamed(&statement, &self.temporary, &self.name).unwrap_or_default();
                refused.add(format!("property of DATABASE {}", self.name), why, sql)?;
            }
        }
        Ok(())
    }

    /// # Errors
    /// Fails with the name of the database that is left.
    async fn abandon(self) -> Result<()> {
        let left = |error: Error| {
            Error::new(error.kind(), format!("database {} is left of it; drop it: {error}", self.temporary))
        };
        // The session of a killed pg_restore may last a little longer than the program.
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote_ident(&self.temporary));
        let dropped = self.maintenance.batch_execute(&sql).await;
        dropped.map_err(|error| left(server_error("it cannot be dropped", error)))?;
        owner_role::release(&self.maintenance, &self.name).await?;
        match &self.existed {
            Some(properties) => properties.create(&self.maintenance, &self.name).await,
            None => Ok(()),
        }
    }
}

/// Checks that the server and the database can take the source's rows, and that it is empty.
async fn suits(
    session: &Session,
    name: &str,
    source: &DatabaseFacts,
    extensions: &[String],
) -> Result<DatabaseFacts> {
    let facts = DatabaseFacts::read(session).await?;
    new_enough(facts.server_major, source)?;
    if facts.encoding != source.encoding {
        return Err(Error::refused(format!(
            "database {name} is in encoding {}, the source in {}; make one with: {}",
            facts.encoding,
            source.encoding,
            source.create_command(name)
        )));
    }
    require_empty(session, name, extensions).await?;
    Ok(facts)
}

fn new_enough(major: u32, source: &DatabaseFacts) -> Result<()> {
    if major >= source.server_major {
        return Ok(());
    }
    Err(Error::refused(format!(
        "the target is PostgreSQL {major}, older than the source, which was {}; recover into a server of \
         version {} or newer",
        source.server_major, source.server_major
    )))
}

async fn create_aside(
    info: &Conninfo,
    source: &DatabaseFacts,
    template: Option<&str>,
    notes: &mut Vec<String>,
) -> Result<TemporaryName> {
    let name = info.dbname().to_owned();
    let maintenance = maintenance(info).await?;
    new_enough(DatabaseFacts::read(&maintenance).await?.server_major, source)?;
    lock(&maintenance, &name).await?;
    refuse_unfinished(&maintenance, &name).await?;
    if exists(&maintenance, &name).await? {
        return Err(Error::refused(format!(
            "database {name} exists already; choose another name, or leave --create away if it is empty"
        )));
    }
    drop_leftover(&maintenance, info, notes).await?;
    let temporary = temporary_name(&name);
    let open = match template {
        Some(template) => {
            copy_closed(&maintenance, template, &temporary).await?;
            ambient::pass("recover.cloned")?;
            format!("; ALTER DATABASE {} ALLOW_CONNECTIONS true", quote_ident(&temporary))
        }
        None => create_like(&maintenance, &temporary, source).await.map(|()| String::new())?,
    };
    let aside = TemporaryName { maintenance, name, temporary, existed: None };
    // While the database is built, nobody else may connect: objects that others created in it would become part of
    // the recovered database.
    let mark = format!(
        "{}; REVOKE CONNECT, TEMPORARY ON DATABASE {} FROM PUBLIC{open}",
        comment_on(&aside.temporary, Some(COMMENT)),
        quote_ident(&aside.temporary)
    );
    match aside.maintenance.batch_execute(&mark).await {
        Ok(()) => Ok(aside),
        Err(error) => {
            let error = server_error("cannot mark the new database as unfinished", error);
            aside.abandon().await?;
            Err(error)
        }
    }
}

/// A missing database may have been renamed by a run that was killed: the database is created again, empty, and the
/// recovery starts afresh.
async fn resume(
    info: &Conninfo,
    source: &DatabaseFacts,
    missing: Error,
    notes: &mut Vec<String>,
) -> Result<TemporaryName> {
    let refuse = || {
        Error::refused(format!(
            "database {} does not exist; add --create to have it made ({missing})",
            info.dbname()
        ))
    };
    let Ok(maintenance) = maintenance(info).await else { return Err(refuse()) };
    lock(&maintenance, info.dbname()).await?;
    let temporary = temporary_name(info.dbname());
    let Some(comment) = comment_of(&maintenance, &temporary).await? else { return Err(refuse()) };
    let Some(original) = comment.strip_prefix(COMMENT).and_then(|rest| rest.strip_prefix(EXISTED)) else {
        return Err(refuse());
    };
    let session = Session::connect_utf8(&info.with_dbname(&temporary), "recover").await?;
    let facts = DatabaseFacts::read(&session).await?;
    drop(session);
    let mut properties = Properties::read(&maintenance, &temporary, &facts).await?;
    properties.comment = Some(original.to_owned()).filter(|text| !text.is_empty());
    drop_leftover(&maintenance, info, notes).await?;
    properties.create(&maintenance, info.dbname()).await?;
    let session = Session::connect_utf8(info, "recover").await?;
    suits(&session, info.dbname(), source, &[]).await?;
    drop(session);
    let temporary = move_aside(&maintenance, info.dbname(), &properties).await?;
    Ok(TemporaryName { maintenance, name: info.dbname().to_owned(), temporary, existed: Some(properties) })
}
