//! Works on a database from another database of its server: locks its name, renames it, and removes the remains of a
//! killed run.

use std::time::Duration;

use crate::connect::{Conninfo, ServerFault, Session, server_error};
use crate::error::{Error, Kind, Result};
use crate::model::schema::{quote_ident, quote_literal};

use super::contents::require_empty;
use super::owner_role;
use super::properties::Properties;
use super::unfinished::{COMMENT, EXISTED, OPENED, temporary_name};

/// How often, and how long after each other, sessions that ought to end are looked for.
const SESSIONS_LOOKS: u32 = 25;
const SESSIONS_PAUSE: Duration = Duration::from_millis(2);

pub(super) fn comment_on(name: &str, comment: Option<&str>) -> String {
    let comment = comment.map_or("NULL".into(), quote_literal);
    format!("COMMENT ON DATABASE {} IS {comment}", quote_ident(name))
}

/// A session in another database of the same server.
pub(in crate::recover) async fn maintenance(info: &Conninfo) -> Result<Session> {
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
pub(in crate::recover) async fn lock(maintenance: &Session, name: &str) -> Result<()> {
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

pub(super) async fn exists(maintenance: &Session, name: &str) -> Result<bool> {
    let sql = "SELECT 1 FROM pg_catalog.pg_database WHERE datname = $1::text";
    let rows = maintenance.query(sql, &[&name]).await;
    Ok(!rows.map_err(|error| server_error("cannot list databases", error))?.is_empty())
}

/// Returns the comment on a database; `None` if there is no such database.
pub(super) async fn comment_of(maintenance: &Session, name: &str) -> Result<Option<String>> {
    let sql = "SELECT coalesce(pg_catalog.shobj_description(oid, 'pg_database'), '') \
               FROM pg_catalog.pg_database WHERE datname = $1::text";
    let row = maintenance.query_opt(sql, &[&name]).await;
    Ok(row.map_err(|error| server_error("cannot read a database's comment", error))?.map(|row| row.get(0)))
}

/// # Errors
/// Fails with `Refused` if the database is open and not loaded yet.
pub(super) async fn refuse_unfinished(session: &Session, name: &str) -> Result<()> {
    match comment_of(session, name).await? {
        Some(comment) if comment.starts_with(OPENED) => Err(Error::refused(format!(
            "a recovery on demand into database {name} is not finished; go on with it, with the same --into: backwhen recover \
             --resume --into …, or drop the database"
        ))),
        _ => Ok(()),
    }
}

/// Whether nobody can connect to a database.
async fn is_closed(maintenance: &Session, name: &str) -> Result<bool> {
    let sql = "SELECT FROM pg_catalog.pg_database WHERE datname = $1::text AND NOT datallowconn";
    let row = maintenance.query_opt(sql, &[&name]).await;
    Ok(row.map_err(|error| server_error("cannot list databases", error))?.is_some())
}

/// Drops the remains of a killed run: the database under the temporary name, and the role that was created for it.
///
/// # Errors
/// Fails with `Locked` if a session is connected to the database, and with `Refused` if the database is not ours.
pub(super) async fn drop_leftover(
    maintenance: &Session,
    info: &Conninfo,
    notes: &mut Vec<String>,
) -> Result<()> {
    drop_unfinished(maintenance, info, notes).await?;
    owner_role::release(maintenance, info.dbname()).await
}

async fn drop_unfinished(maintenance: &Session, info: &Conninfo, notes: &mut Vec<String>) -> Result<()> {
    let name = info.dbname();
    let temporary = temporary_name(name);
    let Some(comment) = comment_of(maintenance, &temporary).await? else { return Ok(()) };
    // Creating a database and commenting on it are two steps, and the run may have been killed between them. The
    // database is still empty then, or is a copy of a template to which nobody could connect yet. Dropping either without
    // a comment loses nothing.
    let ours = comment.starts_with(COMMENT)
        || comment.is_empty()
            && (is_closed(maintenance, &temporary).await?
                || holds_nothing(&info.with_dbname(&temporary)).await?);
    if !ours {
        return Err(Error::refused(format!(
            "database {temporary} is in the way and does not say that backwhen made it; drop or rename it"
        )));
    }
    // FORCE is not used: a session means that somebody is working in the database.
    let sql = format!("DROP DATABASE {}", quote_ident(&temporary));
    maintenance.batch_execute(&sql).await.map_err(|error| {
        let error = server_error(format!("cannot drop {temporary}, which an earlier recovery left"), error);
        if ServerFault::sqlstate_of(&error) == Some("55006") {
            return Error::locked(format!(
                "another recovery into database {name} is running: somebody is connected to {temporary}"
            ));
        }
        error
    })?;
    notes.push(format!("dropped {temporary}, which an earlier recovery left unfinished"));
    Ok(())
}

/// Makes the commits of a session, and so everything that was committed before them, survive a crash of the server,
/// even if an earlier setting did not wait for the disk.
pub(super) async fn durable(session: &Session) -> Result<()> {
    let sql = "RESET synchronous_commit; SELECT pg_catalog.set_config('synchronous_commit', 'local', false) \
               WHERE pg_catalog.current_setting('synchronous_commit') = 'off'";
    let set = session.simple_query(sql).await;
    set.map(drop).map_err(|error| server_error("cannot make the last step wait for the disk", error))
}

/// Drops the database that `info` names, if there is one.
///
/// # Errors
/// Fails with `Locked` if a session is connected to the database, and with `Unavailable` if the server fails.
pub async fn drop_database(info: &Conninfo) -> Result<()> {
    let session = maintenance(info).await?;
    let sql = format!("DROP DATABASE IF EXISTS {}", quote_ident(info.dbname()));
    session.batch_execute(&sql).await.map_err(|error| {
        let error = server_error(format!("cannot drop database {}", info.dbname()), error);
        if ServerFault::sqlstate_of(&error) == Some("55006") {
            return Error::locked(format!("somebody is connected to database {}", info.dbname()));
        }
        error
    })
}

pub(in crate::recover) async fn holds_nothing(info: &Conninfo) -> Result<bool> {
    let session = Session::connect_utf8(info, "recover").await?;
    match require_empty(&session, info.dbname(), &[]).await {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == Kind::Refused => Ok(false),
        Err(error) => Err(error),
    }
}

/// Waits a little for sessions of `database` that were closed just now. While a session has yet to end, each renaming
/// waits in the server for a tenth of a second; a session that stays makes the renaming fail.
pub(super) async fn let_sessions_end(maintenance: &Session, database: &str) {
    let query = "SELECT FROM pg_catalog.pg_stat_activity WHERE datname = $1";
    for _ in 0..SESSIONS_LOOKS {
        match maintenance.query(query, &[&database]).await {
            Ok(sessions) if !sessions.is_empty() => tokio::time::sleep(SESSIONS_PAUSE).await,
            _ => return,
        }
    }
}

/// Renames an existing empty database and sets its comment to say what it is, either both or neither.
pub(super) async fn move_aside(maintenance: &Session, name: &str, properties: &Properties) -> Result<String> {
    let temporary = temporary_name(name);
    let comment = format!("{COMMENT}{EXISTED}{}", properties.comment.as_deref().unwrap_or_default());
    let sql = format!(
        "BEGIN; {}; ALTER DATABASE {} RENAME TO {}; COMMIT",
        comment_on(name, Some(&comment)),
        quote_ident(name),
        quote_ident(&temporary)
    );
    let_sessions_end(maintenance, name).await;
    if let Err(error) = maintenance.batch_execute(&sql).await {
        let error = server_error(format!("cannot rename database {name} while it is rebuilt"), error);
        let _ = maintenance.batch_execute("ROLLBACK").await;
        return Err(error);
    }
    Ok(temporary)
}
