//! The database's name while it is being built, and how it gets its own.
//!
//! It is built under another name in the same server and renamed when all is done, so that nothing
//! under the right name can be taken for the database. Where renaming is not permitted, a marker
//! schema inside the database and read-only sessions for everybody else take its place.

use crate::connect::{Conninfo, ServerFault, Session, server_error};
use crate::error::{Error, Result};
use crate::model::DatabaseFacts;
use crate::model::schema::{quote_ident, quote_literal};

use super::super::Definitions;
use super::contents::require_empty;
use super::properties::{Properties, create_like};

/// How the name of a database that is being built ends.
const UNFINISHED: &str = ".backwhen-unfinished";
/// The schema that marks a database which could not be renamed.
const MARKER: &str = "backwhen_unfinished";
/// How the comment on an unfinished database begins.
const COMMENT: &str = "backwhen: an unfinished recovery, not a database to use";
/// The most bytes of a name.
const NAME_LIMIT: usize = 63;

/// Where the database is being built.
#[allow(clippy::large_enum_variant)] // There is one of it.
pub(super) enum Place {
    /// Under another name.
    Aside(Aside),
    /// Under its own name, marked.
    Marked { name: String, read_only: bool },
}

pub(super) struct Aside {
    /// In another database of the server; holds the lock on the name.
    maintenance: Session,
    name: String,
    temporary: String,
    /// The database was there before, with these properties.
    existed: Option<Properties>,
}

impl Place {
    pub async fn prepare(
        info: &Conninfo,
        create: bool,
        source: &DatabaseFacts,
        notes: &mut Vec<String>,
    ) -> Result<Place> {
        if create {
            return create_aside(info, source, notes).await.map(Place::Aside);
        }
        let session = match Session::connect_utf8(info, "recover").await {
            Ok(session) => session,
            Err(error) if sqlstate(&error) == Some("3D000") => {
                return resume(info, source, error, notes).await.map(Place::Aside);
            }
            Err(error) => return Err(error),
        };
        let facts = suits(&session, info.dbname(), source).await?;
        let maintenance = match maintenance(info).await {
            Ok(maintenance) => maintenance,
            Err(_) => return mark(&session, info.dbname()).await,
        };
        lock(&maintenance, info.dbname()).await?;
        drop_leftover(&maintenance, info.dbname(), notes).await?;
        let properties = Properties::read(&maintenance, info.dbname(), &facts).await?;
        // A database with sessions cannot be renamed.
        drop(session);
        match move_aside(&maintenance, info.dbname(), &properties).await {
            Ok(temporary) => Ok(Place::Aside(Aside {
                maintenance,
                name: info.dbname().to_owned(),
                temporary,
                existed: Some(properties),
            })),
            Err(error) => match sqlstate(&error) {
                // Not the owner, or an owner who may not create databases.
                Some("42501") => mark(&Session::connect_utf8(info, "recover").await?, info.dbname()).await,
                Some("55006") => Err(Error::refused(format!(
                    "somebody is connected to database {}; end those sessions, then recover again",
                    info.dbname()
                ))),
                _ => Err(error),
            },
        }
    }

    pub fn name_while_building(&self) -> &str {
        match self {
            Place::Aside(aside) => &aside.temporary,
            Place::Marked { name, .. } => name,
        }
    }

    pub fn final_name(&self) -> &str {
        match self {
            Place::Aside(Aside { name, .. }) | Place::Marked { name, .. } => name,
        }
    }

    /// Lets one of our own sessions write.
    pub async fn settle(&self, session: &Session) -> Result<()> {
        if matches!(self, Place::Marked { read_only: true, .. }) {
            let sql = "SET default_transaction_read_only = off";
            session
                .batch_execute(sql)
                .await
                .map_err(|error| server_error("cannot make a session writable", error))?;
        }
        Ok(())
    }

    /// `PGOPTIONS` that let one of our own child processes write.
    pub fn child_options(&self, info: &Conninfo) -> Option<String> {
        if !matches!(self, Place::Marked { read_only: true, .. }) {
            return None;
        }
        let given = info.child_environment().into_iter().find(|(name, _)| *name == "PGOPTIONS");
        let given = given.map(|(_, options)| options).unwrap_or_default();
        Some(format!("{given} -c default_transaction_read_only=off").trim_start().to_owned())
    }

    pub async fn make_valid(self, session: Session, definitions: &Definitions) -> Result<Vec<String>> {
        match self {
            Place::Aside(aside) => {
                drop(session);
                aside.make_valid(definitions).await
            }
            Place::Marked { name, read_only } => {
                unmark(&session, &name, read_only).await.map(|()| Vec::new())
            }
        }
    }

    pub async fn abandon(self) -> Result<()> {
        match self {
            Place::Aside(aside) => aside.abandon().await,
            Place::Marked { name, .. } => Err(Error::refused(format!(
                "database {name} holds an unfinished recovery, marked by its schema {MARKER}; drop and create it before \
                 you use it"
            ))),
        }
    }
}

impl Aside {
    async fn make_valid(self, definitions: &Definitions) -> Result<Vec<String>> {
        let mut unset = Vec::new();
        let comment = match &self.existed {
            Some(properties) => {
                properties.comment.as_deref().map(|comment| comment_on(&self.temporary, Some(comment)))
            }
            None => {
                for statement in definitions.database_properties(&self.temporary) {
                    if let Err(error) = self.maintenance.batch_execute(&statement).await {
                        unset.push(
                            server_error("a property of the database could not be set", error).to_string(),
                        );
                    }
                }
                definitions.database_comment(&self.temporary)
            }
        };
        let comment = comment.unwrap_or_else(|| comment_on(&self.temporary, None));
        let sql = format!(
            "BEGIN; {comment}; ALTER DATABASE {} RENAME TO {}; COMMIT",
            quote_ident(&self.temporary),
            quote_ident(&self.name)
        );
        self.maintenance.batch_execute(&sql).await.map_err(|error| {
            let what = format!("cannot rename database {} to {}, its last step", self.temporary, self.name);
            server_error(what, error)
        })?;
        Ok(unset)
    }

    /// # Errors
    /// Names the database that is left.
    async fn abandon(self) -> Result<()> {
        let left = |error: Error| {
            Error::new(error.kind(), format!("database {} is left of it; drop it: {error}", self.temporary))
        };
        // A killed pg_restore may leave a session behind for a while.
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote_ident(&self.temporary));
        let dropped = self.maintenance.batch_execute(&sql).await;
        dropped.map_err(|error| left(server_error("it cannot be dropped", error)))?;
        match &self.existed {
            Some(properties) => properties.create(&self.maintenance, &self.name).await,
            None => Ok(()),
        }
    }
}

fn sqlstate(error: &Error) -> Option<&str> {
    ServerFault::of(error).map(|fault| fault.sqlstate.as_str())
}

fn comment_on(name: &str, comment: Option<&str>) -> String {
    let comment = comment.map_or("NULL".into(), quote_literal);
    format!("COMMENT ON DATABASE {} IS {comment}", quote_ident(name))
}

/// The name of `name` while it is being built.
fn temporary_name(name: &str) -> String {
    if name.len() + UNFINISHED.len() <= NAME_LIMIT {
        return format!("{name}{UNFINISHED}");
    }
    // Cut, with a hash of the whole, so that two long names do not meet.
    let hash = format!(".{:08x}", twox_hash::XxHash3_64::oneshot(name.as_bytes()) as u32);
    let mut end = NAME_LIMIT - UNFINISHED.len() - hash.len();
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{hash}{UNFINISHED}", &name[..end])
}

/// A session in another database of the same server.
async fn maintenance(info: &Conninfo) -> Result<Session> {
    let mut first = None;
    for name in ["postgres", "template1"].into_iter().filter(|name| *name != info.dbname()) {
        match Session::connect_utf8(&info.with_dbname(name), "recover").await {
            Ok(session) => return Ok(session),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or_else(|| Error::internal("no maintenance database to try")))
}

/// Locks the name for as long as the session lives.
async fn lock(maintenance: &Session, name: &str) -> Result<()> {
    let key = twox_hash::XxHash3_64::oneshot(format!("backwhen recover {name}").as_bytes()) as i64;
    let row = maintenance
        .query_one("SELECT pg_catalog.pg_try_advisory_lock($1)", &[&key])
        .await
        .map_err(|error| server_error("cannot lock the target's name", error))?;
    if row.get(0) {
        Ok(())
    } else {
        Err(Error::locked(format!(
            "another recovery into database {name} is running; wait for it, or stop it"
        )))
    }
}

/// Checks that the server and the database can take the source's rows, and that it is empty.
async fn suits(session: &Session, name: &str, source: &DatabaseFacts) -> Result<DatabaseFacts> {
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
    require_empty(session, name).await?;
    Ok(facts)
}

fn new_enough(major: u32, source: &DatabaseFacts) -> Result<()> {
    if major >= source.server_major {
        return Ok(());
    }
    Err(Error::refused(format!(
        "the target is PostgreSQL {major}, the source was {}; recover into {} or newer",
        source.server_major, source.server_major
    )))
}

async fn create_aside(info: &Conninfo, source: &DatabaseFacts, notes: &mut Vec<String>) -> Result<Aside> {
    let name = info.dbname().to_owned();
    let maintenance = maintenance(info).await?;
    new_enough(DatabaseFacts::read(&maintenance).await?.server_major, source)?;
    lock(&maintenance, &name).await?;
    if exists(&maintenance, &name).await? {
        return Err(Error::refused(format!(
            "database {name} exists already; choose another name, or leave --create away if it is empty"
        )));
    }
    drop_leftover(&maintenance, &name, notes).await?;
    let temporary = temporary_name(&name);
    create_like(&maintenance, &temporary, source).await?;
    let aside = Aside { maintenance, name, temporary, existed: None };
    let comment = comment_on(&aside.temporary, Some(COMMENT));
    match aside.maintenance.batch_execute(&comment).await {
        Ok(()) => Ok(aside),
        Err(error) => {
            let error = server_error("cannot mark the new database as unfinished", error);
            aside.abandon().await?;
            Err(error)
        }
    }
}

/// A database that is not there may have been moved aside by a run that was killed: it is made
/// again, empty, and the recovery begins anew.
async fn resume(
    info: &Conninfo,
    source: &DatabaseFacts,
    missing: Error,
    notes: &mut Vec<String>,
) -> Result<Aside> {
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
    let Some(original) =
        comment.strip_prefix(COMMENT).and_then(|rest| rest.strip_prefix("; it was there before\n"))
    else {
        return Err(refuse());
    };
    let session = Session::connect_utf8(&info.with_dbname(&temporary), "recover").await?;
    let facts = DatabaseFacts::read(&session).await?;
    drop(session);
    let mut properties = Properties::read(&maintenance, &temporary, &facts).await?;
    properties.comment = Some(original.to_owned()).filter(|text| !text.is_empty());
    drop_leftover(&maintenance, info.dbname(), notes).await?;
    properties.create(&maintenance, info.dbname()).await?;
    let session = Session::connect_utf8(info, "recover").await?;
    suits(&session, info.dbname(), source).await?;
    drop(session);
    let temporary = move_aside(&maintenance, info.dbname(), &properties).await?;
    Ok(Aside { maintenance, name: info.dbname().to_owned(), temporary, existed: Some(properties) })
}

async fn exists(maintenance: &Session, name: &str) -> Result<bool> {
    let sql = "SELECT 1 FROM pg_catalog.pg_database WHERE datname = $1::text";
    let rows = maintenance.query(sql, &[&name]).await;
    Ok(!rows.map_err(|error| server_error("cannot list databases", error))?.is_empty())
}

/// The comment on a database; `None` if there is no such database.
async fn comment_of(maintenance: &Session, name: &str) -> Result<Option<String>> {
    let sql = "SELECT coalesce(pg_catalog.shobj_description(oid, 'pg_database'), '') \
               FROM pg_catalog.pg_database WHERE datname = $1::text";
    let row = maintenance.query_opt(sql, &[&name]).await;
    Ok(row.map_err(|error| server_error("cannot read a database's comment", error))?.map(|row| row.get(0)))
}

/// Drops what a killed run left under the temporary name.
///
/// # Errors
/// `Locked` if somebody is connected to it, `Refused` if it is not ours.
async fn drop_leftover(maintenance: &Session, name: &str, notes: &mut Vec<String>) -> Result<()> {
    let temporary = temporary_name(name);
    let Some(comment) = comment_of(maintenance, &temporary).await? else { return Ok(()) };
    if !comment.starts_with(COMMENT) {
        return Err(Error::refused(format!(
            "database {temporary} is in the way and does not say that backwhen made it; drop or rename it"
        )));
    }
    // Without FORCE: a session means that it is being worked on.
    let sql = format!("DROP DATABASE {}", quote_ident(&temporary));
    maintenance.batch_execute(&sql).await.map_err(|error| {
        let error = server_error(format!("cannot drop {temporary}, which an earlier recovery left"), error);
        if sqlstate(&error) == Some("55006") {
            return Error::locked(format!(
                "another recovery into database {name} is running: somebody is connected to {temporary}"
            ));
        }
        error
    })?;
    notes.push(format!("dropped {temporary}, which an earlier recovery left unfinished"));
    Ok(())
}

/// Renames an existing empty database and says in its comment what it is, both or neither.
async fn move_aside(maintenance: &Session, name: &str, properties: &Properties) -> Result<String> {
    let temporary = temporary_name(name);
    let comment =
        format!("{COMMENT}; it was there before\n{}", properties.comment.as_deref().unwrap_or_default());
    let sql = format!(
        "BEGIN; {}; ALTER DATABASE {} RENAME TO {}; COMMIT",
        comment_on(name, Some(&comment)),
        quote_ident(name),
        quote_ident(&temporary)
    );
    if let Err(error) = maintenance.batch_execute(&sql).await {
        let error = server_error(format!("cannot rename database {name} while it is rebuilt"), error);
        let _ = maintenance.batch_execute("ROLLBACK").await;
        return Err(error);
    }
    Ok(temporary)
}

/// Marks a database that cannot be renamed, and makes everybody else's sessions read-only if that
/// is permitted.
async fn mark(session: &Session, name: &str) -> Result<Place> {
    let marker = format!("CREATE SCHEMA {MARKER}; COMMENT ON SCHEMA {MARKER} IS {}", quote_literal(COMMENT));
    session
        .batch_execute(&marker)
        .await
        .map_err(|error| server_error(format!("cannot mark database {name} as unfinished"), error))?;
    let sql = format!("ALTER DATABASE {} SET default_transaction_read_only = on", quote_ident(name));
    let read_only = session.batch_execute(&sql).await.is_ok();
    Ok(Place::Marked { name: name.to_owned(), read_only })
}

async fn unmark(session: &Session, name: &str, read_only: bool) -> Result<()> {
    let reset = format!("ALTER DATABASE {} RESET default_transaction_read_only;", quote_ident(name));
    let sql = format!("BEGIN; {} DROP SCHEMA {MARKER}; COMMIT", if read_only { &reset } else { "" });
    session
        .batch_execute(&sql)
        .await
        .map_err(|error| server_error(format!("cannot take the mark {MARKER} off database {name}"), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_names_fit_and_differ() {
        assert_eq!(temporary_name("shop"), "shop.backwhen-unfinished");
        let long = |last: &str| temporary_name(&format!("{}{last}", "ä".repeat(31)));
        assert!(long("x").len() <= NAME_LIMIT);
        assert!(long("x").ends_with(UNFINISHED));
        assert_ne!(long("x"), long("y"));
    }
}
