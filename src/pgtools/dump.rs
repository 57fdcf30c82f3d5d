//! Dumps the schema of a database, and the roles of its server.

use std::fs::File;
use std::path::Path;

use crate::connect::Conninfo;
use crate::error::{Context, Kind, Result};

use super::child::Child;
use super::install::Installation;

/// pg_dump writes strings as the dumped database's own settings have them, and the sessions that make the objects again have
/// the standard ones.
const STANDARD_STRINGS: &[(&str, &str)] = &[("standard_conforming_strings", "on")];

/// Writes the archive of everything but tables' rows to `out`, durably: definitions and large objects (which the
/// history has nowhere else), but no sequence values and no rows of materialised views.
///
/// The archive has pg_dump's custom format. `snapshot` is an exported snapshot of a transaction that stays open
/// meanwhile; `application` is the `application_name` of pg_dump's session.
///
/// # Errors
/// Fails with `Unavailable` and pg_dump's own words.
pub async fn dump_schema(
    tool: &Installation,
    info: &Conninfo,
    snapshot: Option<&str>,
    application: &str,
    out: &Path,
) -> Result<()> {
    tool.keeps_require_auth(info)?;
    // The pattern covers tables, sequences, materialised views and foreign tables of every schema;
    // --schema-only would leave the large objects out as well.
    let mut child = Child::new(tool.program("pg_dump"))
        .connects_to(info)
        .args(["--format=custom", "--exclude-table-data=*.*", "--no-password"])
        // Without a limit, the pg_dump of a command that was killed would hold and await locks for ever.
        .args(["--lock-wait-timeout=60s", "--file"])
        .arg(out);
    if let Some(snapshot) = snapshot {
        child = child.arg(format!("--snapshot={snapshot}"));
    }
    child.env("PGOPTIONS", info.child_options(STANDARD_STRINGS)).env("PGAPPNAME", application).run().await?;
    sync(out)
}

/// Writes the archive of the definitions alone to `out`: like [`dump_schema`], without large objects, and without the
/// schema `except`.
///
/// # Errors
/// Fails with `Unavailable` and pg_dump's own words.
pub async fn dump_definitions(tool: &Installation, info: &Conninfo, except: &str, out: &Path) -> Result<()> {
    tool.keeps_require_auth(info)?;
    Child::new(tool.program("pg_dump"))
        .connects_to(info)
        .args(["--format=custom", "--exclude-table-data=*.*", "--no-blobs", "--no-password"])
        .arg(format!("--exclude-schema={except}"))
        .arg("--file")
        .arg(out)
        .env("PGOPTIONS", info.child_options(STANDARD_STRINGS))
        .run()
        .await
}

/// Writes the server's roles and tablespaces, without passwords, to `out` as SQL, durably.
///
/// # Errors
/// Fails with `Unavailable` and pg_dumpall's own words.
pub async fn dump_globals(tool: &Installation, info: &Conninfo, out: &Path) -> Result<()> {
    tool.keeps_require_auth(info)?;
    // Without --database, pg_dumpall would try the databases `postgres` and `template1`, which backwhen may not be
    // allowed to connect to. The option takes a connection string, so the name is quoted as one.
    let name = info.dbname().replace('\\', "\\\\").replace('\'', "\\'");
    Child::new(tool.program("pg_dumpall"))
        .connects_to(info)
        .args(["--globals-only", "--no-role-passwords", "--no-password"])
        .arg(format!("--database=dbname='{name}'"))
        .arg("--file")
        .arg(out)
        .run()
        .await?;
    sync(out)
}

fn sync(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .context(Kind::Unavailable, || format!("cannot sync {}", path.display()))
}
