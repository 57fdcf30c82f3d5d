//! Opens the catalog's file, which is believed only as far as a cache may be.
//!
//! Somebody who may write into the history's folder may have put another file in its place: a link, or a database with
//! triggers, views or tables of its own. A link is not followed, the schema must be the one that the migrations make, and
//! any other file is removed and made anew.

use std::fmt::Display;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::failed;
use crate::error::{Context, Kind, Result};
use crate::store::{VolatileFile, files};

/// The catalog's schema, by version; never edited once released.
const MIGRATIONS: [&str; 3] = [
    include_str!("../../../migrations/0001_catalog.sql"),
    include_str!("../../../migrations/0002_tags.sql"),
    include_str!("../../../migrations/0003_change_indexes.sql"),
];

/// Another process that brings the catalog up to date is waited for as long as this; then the catalog fails.
const BUSY: Duration = Duration::from_secs(60);

/// The endings of the files that SQLite keeps for a database.
const SUFFIXES: [&str; 4] = ["", "-wal", "-shm", "-journal"];

/// Opens the file, or makes it.
///
/// # Errors
/// Fails with SQLite's error, also if the file is no catalog as this version makes it.
pub(super) fn open_file(path: &Path) -> rusqlite::Result<Connection> {
    for beside in beside(path).filter(|beside| files::is_link(beside)) {
        // The link is removed, and the file to which it leads is left alone.
        files::discard(&beside);
    }
    match files::create_private(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            tracing::debug!("the catalog cannot be made: {error}");
        }
        _ => {}
    }
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    prepare(Connection::open_with_flags(files::real_place(path), flags)?)
}

fn prepare(mut connection: Connection) -> rusqlite::Result<Connection> {
    distrust(&connection)?;
    connection.busy_timeout(BUSY)?;
    // The catalog can be made anew, so no write waits for the disk.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "OFF")?;
    migrate(&mut connection)?;
    if schema(&connection)? != expected_schema()? {
        tracing::warn!("the catalog's schema is not what backwhen makes; it is made anew");
        return Err(rusqlite::Error::InvalidQuery);
    }
    Ok(connection)
}

/// Makes SQLite run nothing that the file holds, and check cells as it reads them.
fn distrust(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    connection.pragma_update(None, "cell_size_check", true)
}

fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    // The catalog of a newer backwhen is refused, and made anew; the newer one will make its own again.
    let done = usize::try_from(version).ok().filter(|done| *done <= MIGRATIONS.len());
    let done = done.ok_or(rusqlite::Error::InvalidQuery)?;
    for migration in &MIGRATIONS[done..] {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", MIGRATIONS.len() as u32)?;
    transaction.commit()
}

/// Every object of a database, with the statement that made it.
type Schema = Vec<(String, String, String, Option<String>)>;

fn schema(connection: &Connection) -> rusqlite::Result<Schema> {
    let query = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name";
    let mut statement = connection.prepare(query)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    rows.collect()
}

fn expected_schema() -> rusqlite::Result<Schema> {
    let mut connection = Connection::open_in_memory()?;
    migrate(&mut connection)?;
    schema(&connection)
}

/// Opens the catalog of an encrypted history in memory, as it was kept, or an empty one: what cannot be read is made anew.
///
/// # Errors
/// `Unavailable` if there is no memory.
pub(super) fn open_sealed(file: &VolatileFile) -> Result<Connection> {
    match known_sealed(file) {
        Ok(Some(connection)) => Ok(connection),
        Ok(None) => Connection::open_in_memory().and_then(prepare).context(Kind::Unavailable, failed),
        Err(error) => open_in_memory(file.path(), &error),
    }
}

/// The catalog of an encrypted history as it was kept; `None` if there is none.
pub(super) fn known_sealed(file: &VolatileFile) -> Result<Option<Connection>> {
    let Some(bytes) = file.read()? else { return Ok(None) };
    let opened = Connection::open_in_memory().and_then(|mut connection| {
        connection.deserialize_read_exact("main", &bytes[..], bytes.len(), false)?;
        prepare(connection)
    });
    opened.map(Some).context(Kind::Damaged, || format!("{} cannot be used", file.path().display()))
}

/// Keeps the catalog of an encrypted history for the next command. Where the disk does not take it, it is made anew then.
pub(super) fn keep_sealed(connection: &Connection, file: &VolatileFile) {
    let kept = connection.serialize("main").context(Kind::Internal, failed).and_then(|it| file.replace(&it));
    if let Err(error) = kept {
        tracing::debug!("the catalog is not kept: {error}");
    }
}

/// Removes a catalog that cannot be used and makes a new one; on a disk that cannot be written, one in memory.
pub(super) fn start_over(path: &Path, cause: &dyn Display) -> Result<Connection> {
    tracing::info!("making the catalog anew: {cause}");
    put_away(path);
    open_file(path).or_else(|error| open_in_memory(path, &error))
}

/// Opens an empty catalog in memory, for where the file at `path` cannot be written.
pub(super) fn open_in_memory(path: &Path, cause: &dyn Display) -> Result<Connection> {
    tracing::info!("keeping the catalog in memory instead of {}: {cause}", path.display());
    Connection::open_in_memory().and_then(prepare).context(Kind::Unavailable, failed)
}

pub(super) fn put_away(path: &Path) {
    for beside in beside(path) {
        files::discard(&beside);
    }
}

fn beside(path: &Path) -> impl Iterator<Item = PathBuf> {
    SUFFIXES.into_iter().map(|suffix| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    })
}
