//! Recovery into a SQLite file, which many programs can read. Of the definitions, only tables, columns and primary
//! keys have a counterpart in SQLite.

mod names;
mod value;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Statement, params};

use crate::codec::copy_text;
use crate::error::{Context, Error, Kind, Result};
use crate::model::{RowIdentity, Table};
use crate::store::files;

use super::{Contents, Opening, Rows};
use names::SqliteNames;
use value::SqliteForm;

/// A SQLite file that is being written.
pub struct SqliteFile {
    file: Arc<Mutex<File>>,
    tables: Vec<Table>,
    names: SqliteNames,
    notes: Vec<String>,
}

struct File {
    /// The connection; `None` once it is closed.
    connection: Option<Connection>,
    temporary: PathBuf,
    path: PathBuf,
    /// Whether a load failed, so that the file lacks rows.
    incomplete: bool,
}

impl Drop for File {
    fn drop(&mut self) {
        drop(self.connection.take());
        // The temporary file no longer exists if it was renamed.
        files::discard(&self.temporary);
    }
}

impl SqliteFile {
    /// Begins a file under a temporary name beside `path`.
    ///
    /// # Errors
    /// Fails with `Refused` if `path` exists, and with `Unavailable` if the file cannot be created in its folder.
    pub fn create(path: &Path, opening: Opening<'_>) -> Result<SqliteFile> {
        let temporary = super::new_file::temporary_path(path)?;
        refuse_leftovers(path)?;
        let connection = open(&temporary, path)?;
        let file = File { connection: Some(connection), temporary, path: path.to_owned(), incomplete: false };
        // Nobody reads the file until it has its name, and it is synced as a whole before that.
        file.batch(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE; BEGIN",
        )?;
        file.distrust()?;
        file.batch(
            "CREATE TABLE backwhen_recovery (moment TEXT, lsn TEXT, source TEXT, recovered_at TEXT, tool_version TEXT)",
        )?;
        let now = crate::ambient::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        let of = &opening.provenance;
        file.connection()?
            .execute(
                "INSERT INTO backwhen_recovery VALUES (?1, ?2, ?3, ?4, ?5)",
                params![of.moment, of.lsn, of.source, now, env!("CARGO_PKG_VERSION")],
            )
            .map_err(|error| fault("write", path, error))?;
        let names = SqliteNames::of(opening.tables);
        let mut notes = names.notes(opening.tables);
        if !matches!(opening.source.encoding.as_str(), "UTF8" | "SQL_ASCII") {
            notes.push(format!(
                "text is kept in the source's encoding, {}: SQLite shows it as BLOB where it is not UTF-8",
                opening.source.encoding
            ));
        }
        Ok(SqliteFile { file: Arc::new(Mutex::new(file)), tables: opening.tables.to_vec(), names, notes })
    }

    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// # Errors
    /// Fails with `Refused` if SQLite refuses a table.
    pub fn make_tables(&self) -> Result<()> {
        let file = lock(&self.file);
        self.tables.iter().try_for_each(|table| file.batch(&self.definition(table)))
    }

    fn definition(&self, table: &Table) -> String {
        let columns = self.names.columns(table);
        let mut parts: Vec<_> = table
            .columns
            .iter()
            .zip(&columns)
            .map(|(column, name)| format!("{name} {}", SqliteForm::of(column).affinity()))
            .collect();
        if parts.is_empty() {
            // SQLite has no tables without columns.
            parts.push("no_columns TEXT".into());
        }
        if let RowIdentity::Key(key) = &table.identity {
            let key: Vec<_> =
                key.iter().filter_map(|index| columns.get(*index)).map(String::as_str).collect();
            parts.push(format!("PRIMARY KEY ({})", key.join(", ")));
        }
        format!("CREATE TABLE {} ({})", self.names.table(table), parts.join(", "))
    }

    /// Loads one table. After an error the file cannot be made valid.
    ///
    /// # Errors
    /// Fails with the error in `rows`, and with `Unavailable` if writing to the disk fails.
    pub async fn load(&self, table: &Table, mut rows: Rows) -> Result<()> {
        let marks = vec!["?"; table.columns.len().max(1)].join(", ");
        let insert = format!("INSERT INTO {} VALUES ({marks})", self.names.table(table));
        let forms: Vec<_> = table.columns.iter().map(SqliteForm::of).collect();
        let (file, display) = (Arc::clone(&self.file), table.display());
        let load = move || {
            let mut file = lock(&file);
            let loaded = file.load(&insert, &forms, &display, &mut rows);
            file.incomplete |= loaded.is_err();
            loaded
        };
        crate::ambient::blocking("loading a table", load).await
    }

    /// # Errors
    /// Fails with `Unavailable` if the file cannot be read.
    pub fn read_back(&self, table: &Table) -> Result<Contents> {
        let file = lock(&self.file);
        let sql = format!("SELECT count(*) FROM {}", self.names.table(table));
        let count = file.connection()?.query_row(&sql, [], |row| row.get::<_, i64>(0));
        let count = count.map_err(|error| fault("read", &file.path, error))?;
        Ok(Contents { rows: count.try_into().unwrap_or_default(), digest: None })
    }

    /// Syncs the file and gives it its name.
    ///
    /// # Errors
    /// Fails with `Refused` if a load failed or another file has got the name meanwhile, and with `Unavailable` if
    /// the disk fails.
    pub fn make_valid(self) -> Result<()> {
        let mut file = lock(&self.file);
        if file.incomplete {
            return Err(Error::refused(format!(
                "{} lacks rows, since a load failed; recover again",
                file.path.display()
            )));
        }
        file.batch("COMMIT")?;
        let connection = file.connection.take();
        if let Some(Err((_, error))) = connection.map(Connection::close) {
            return Err(fault("close", &file.path, error));
        }
        super::new_file::publish(&file.temporary, &file.path)
    }
}

impl File {
    fn connection(&self) -> Result<&Connection> {
        self.connection.as_ref().ok_or_else(|| Error::internal("the SQLite file is closed already"))
    }

    fn batch(&self, sql: &str) -> Result<()> {
        self.connection()?.execute_batch(sql).map_err(|error| fault("write", &self.path, error))
    }

    /// With these settings no name or value of the application can make SQLite execute anything.
    fn distrust(&self) -> Result<()> {
        let connection = self.connection()?;
        let set = [
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true).map(drop),
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false).map(drop),
            connection.pragma_update(None, "cell_size_check", true),
        ];
        set.into_iter().collect::<rusqlite::Result<()>>().map_err(|error| fault("write", &self.path, error))
    }

    fn load(&mut self, insert: &str, forms: &[SqliteForm], table: &str, rows: &mut Rows) -> Result<()> {
        let mut insert =
            self.connection()?.prepare(insert).map_err(|error| fault("write", &self.path, error))?;
        while let Some(chunk) = rows.blocking_recv() {
            insert_chunk(&mut insert, forms, table, &chunk?)?;
        }
        Ok(())
    }
}

/// Creates the file under its temporary name, readable by its owner alone.
fn open(temporary: &Path, path: &Path) -> Result<Connection> {
    files::create_private(temporary)
        .context(Kind::Unavailable, || format!("cannot create {}", path.display()))?;
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    Connection::open_with_flags(files::real_place(temporary), flags)
        .map_err(|error| fault("create", path, error))
}

/// Refuses the leftover journals of an earlier database with this name: SQLite would apply them when the finished
/// file is opened.
fn refuse_leftovers(path: &Path) -> Result<()> {
    for suffix in ["-wal", "-shm", "-journal"] {
        let mut beside = path.as_os_str().to_owned();
        beside.push(suffix);
        let beside = PathBuf::from(beside);
        if beside.symlink_metadata().is_ok() {
            return Err(Error::refused(format!(
                "{} is left of another SQLite database and would be taken for a part of this one; remove it, or name \
                 another file",
                beside.display()
            )));
        }
    }
    Ok(())
}

fn insert_chunk(insert: &mut Statement<'_>, forms: &[SqliteForm], table: &str, chunk: &Bytes) -> Result<()> {
    let lines = chunk.strip_suffix(b"\n").unwrap_or(chunk);
    if chunk.is_empty() {
        return Ok(());
    }
    for line in lines.split(|byte| *byte == b'\n') {
        let columns: Vec<&[u8]> = copy_text::columns(line).collect();
        if columns.len() != forms.len().max(1) {
            return Err(Error::internal(format!(
                "a row of {table} has {} columns, the table has {}",
                columns.len(),
                forms.len()
            )));
        }
        let bind = |insert: &mut Statement<'_>| -> rusqlite::Result<usize> {
            for (index, form) in forms.iter().enumerate() {
                insert.raw_bind_parameter(index + 1, form.value(columns[index]))?;
            }
            insert.raw_execute()
        };
        bind(insert).map_err(|error| {
            Error::unavailable(format!("SQLite did not take a row of {table}: {}", code(&error)))
        })?;
    }
    Ok(())
}

/// Describes SQLite's error without its message, which may quote values.
fn code(error: &rusqlite::Error) -> String {
    error.sqlite_error().map_or_else(|| "the row does not fit".into(), |error| error.to_string())
}

fn fault(doing: &str, path: &Path, error: rusqlite::Error) -> Error {
    Error::unavailable(format!("cannot {doing} {}", path.display())).caused_by(error)
}

fn lock(file: &Mutex<File>) -> MutexGuard<'_, File> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}
