//! The check that is true before the mistake and false after it.

use std::io::Write;
use std::process::Stdio;

use tokio::process::Command;
use tokio_postgres::types::Type;

use crate::ambient;
use crate::connect::{Conninfo, Session, server_error};
use crate::error::{Context, Error, Kind, Result};
use crate::store::files::NewFile;

/// A check, for people who write their own.
pub const EXAMPLE_CHECK: &str = "SELECT count(*) = 0 FROM orders WHERE total < 0";

/// How a moment is checked.
pub enum Check {
    /// A statement whose single value is true or false.
    Sql(String),
    /// A command whose exit code is 0 (true) or 1 (false).
    Command(String),
}

/// A relation that a statement reads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadRelation {
    pub schema: String,
    pub name: String,
    /// The letter in `pg_class.relkind`.
    kind: String,
    is_extensions: bool,
}

/// The result of a check on the rows that the scratch database holds now.
pub struct Outcome {
    /// Whether the check is true, or why it says nothing.
    pub verdict: Result<bool>,
    /// The relations that the statement reads; a command does not tell.
    pub read: Vec<ReadRelation>,
}

/// Selects the relations that the open transaction has locked or scanned. What was scanned stays known when a savepoint is
/// rolled back; locks do not.
const READ: &str = "
SELECT n.nspname::text, c.relname::text, c.relkind::text,
       EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                  AND d.objid = c.oid AND d.deptype = 'e')
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid IN (
         SELECT l.relation FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_database d ON d.oid = l.database
          WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation'
            AND d.datname = pg_catalog.current_database()
         UNION ALL
         SELECT s.relid FROM pg_catalog.pg_stat_xact_user_tables s
          WHERE coalesce(s.seq_scan, 0) + coalesce(s.idx_scan, 0) > 0)
   AND c.relkind IN ('r', 'f', 'm', 'S') AND c.relpersistence <> 't'
   AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')";

impl ReadRelation {
    /// Whether its rows come from the history, as far as its kind tells.
    ///
    /// # Errors
    /// `Refused` if no history holds what the relation shows.
    pub fn is_table(&self) -> Result<bool> {
        let why = match self.kind.as_str() {
            "m" => {
                "a materialised view, which is not refreshed between transactions; let the check read its query"
            }
            "S" => "a sequence, whose value the stream does not tell with each transaction",
            "f" => "a foreign table, whose rows are not in the history",
            _ => return Ok(true),
        };
        Err(Error::refused(format!("the check reads {}, {why}", self.display())))
    }

    pub fn display(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// Whether the rows may be those that an extension's script made.
    pub fn is_extensions(&self) -> bool {
        self.is_extensions
    }
}

impl Check {
    /// Checks the rows that the database holds now. `moment` names them in errors.
    ///
    /// # Errors
    /// `Refused` if the statement cannot be run at all, `Unavailable` if the server fails.
    pub async fn run(&self, info: &Conninfo, moment: &str) -> Result<Outcome> {
        match self {
            Check::Sql(sql) => run_sql(sql, info, moment).await,
            Check::Command(command) => {
                Ok(Outcome { verdict: run_command(command, info, moment).await, read: Vec::new() })
            }
        }
    }
}

/// Runs the statement in a transaction that is rolled back.
async fn run_sql(sql: &str, info: &Conninfo, moment: &str) -> Result<Outcome> {
    let session = Session::connect_utf8(info, "bisect").await?;
    let failed = |error| server_error(format!("the check cannot be run at {moment}"), error);
    // The check sees the settings that the application sees.
    session.batch_execute("RESET ALL; BEGIN").await.map_err(failed)?;
    let statement = session.prepare(sql).await.map_err(failed)?;
    if !statement.params().is_empty() {
        return Err(Error::usage(
            "--check has parameters ($1), which nothing fills; write the values into it",
        ));
    }
    if statement.columns().len() != 1 || *statement.columns()[0].type_() != Type::BOOL {
        return Err(Error::usage(format!(
            "--check must give one value that is true or false, such as: {EXAMPLE_CHECK}"
        )));
    }
    session.batch_execute("SAVEPOINT checked").await.map_err(failed)?;
    let verdict = match session.query(&statement, &[]).await {
        Ok(rows) => one_value(&rows, moment),
        Err(error) => {
            session.batch_execute("ROLLBACK TO SAVEPOINT checked").await.map_err(failed)?;
            let error = server_error(format!("the check fails at {moment}"), error);
            Err(Error::new(
                error.kind(),
                format!("{error}; write it so that it is true or false at each moment"),
            ))
        }
    };
    let rows = session.query(READ, &[]).await.map_err(failed)?;
    let read = rows.iter().map(|row| ReadRelation {
        schema: row.get(0),
        name: row.get(1),
        kind: row.get(2),
        is_extensions: row.get(3),
    });
    Ok(Outcome { verdict, read: read.collect() })
}

fn one_value(rows: &[tokio_postgres::Row], moment: &str) -> Result<bool> {
    let [row] = rows else {
        return Err(Error::refused(format!(
            "the check gives {} rows at {moment}, and must give one; begin it with: SELECT NOT EXISTS (...)",
            rows.len()
        )));
    };
    row.get::<_, Option<bool>>(0).ok_or_else(|| {
        Error::refused(format!(
            "the check gives NULL at {moment}, which is neither true nor false; write it with coalesce(..., true)"
        ))
    })
}

/// Runs the command with libpq's variables for the database; its sessions can only read.
async fn run_command(command: &str, info: &Conninfo, moment: &str) -> Result<bool> {
    let mut child = Command::new("/bin/sh");
    for variable in Conninfo::variables_to_remove() {
        child.env_remove(variable);
    }
    child.envs(info.child_environment());
    child.env("PGOPTIONS", info.child_options(&[("default_transaction_read_only", "on")]));
    let folder = ambient::temporary_folder()?;
    if let Some(line) = info.password_line()? {
        // Other users could read an environment.
        let path = folder.path().join("pgpass");
        let mut file = NewFile::create(&path)?;
        file.write_all(line.as_bytes())
            .context(Kind::Unavailable, || format!("cannot write {}", path.display()))?;
        file.publish()?;
        child.env("PGPASSFILE", &path);
    }
    child.arg("-c").arg(command).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    let status = child.status().await.context(Kind::Refused, || "cannot start /bin/sh".into())?;
    match status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => Err(Error::refused(format!(
            "the check command ended with {status} at {moment}; it must end with 0 where all is well and with 1 where \
             it is not"
        ))),
    }
}
