//! The roles and materialised views that a database's definitions need beyond the output of pg_dump.

use tokio_postgres::Client;

use crate::connect::server_error;
use crate::error::Result;

/// Selects the roles that own an object in the connected database, or have privileges there.
const ROLES: &str = "
SELECT DISTINCT r.rolname::text
  FROM pg_catalog.pg_shdepend d JOIN pg_catalog.pg_roles r ON r.oid = d.refobjid
 WHERE d.refclassid = 'pg_catalog.pg_authid'::regclass AND r.rolname !~ '^pg_'
   AND d.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
 UNION
SELECT DISTINCT pg_catalog.pg_get_userbyid(relowner)::text FROM pg_catalog.pg_class WHERE oid >= 16384
 ORDER BY 1";

/// Selects materialised views, each after the views that it reads, also through plain views.
const MATERIALIZED_VIEWS: &str = "
WITH RECURSIVE edge AS (
    SELECT DISTINCT rw.ev_class AS reader, d.refobjid AS read
      FROM pg_catalog.pg_depend d
      JOIN pg_catalog.pg_rewrite rw ON rw.oid = d.objid AND d.classid = 'pg_catalog.pg_rewrite'::regclass
      JOIN pg_catalog.pg_class c ON c.oid = d.refobjid AND c.relkind IN ('v', 'm')
     WHERE d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid <> rw.ev_class),
depth AS (
    SELECT oid, 0 AS level FROM pg_catalog.pg_class WHERE relkind IN ('v', 'm') AND oid >= 16384
    UNION
    SELECT edge.reader, depth.level + 1 FROM depth JOIN edge ON edge.read = depth.oid)
SELECT c.oid, n.nspname::text, c.relname::text, c.relispopulated
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN (SELECT oid, max(level) AS level FROM depth GROUP BY oid) d ON d.oid = c.oid
 WHERE c.relkind = 'm'
 ORDER BY d.level, c.oid";

/// A materialised view of the connected database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaterializedView {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// Whether the view is populated, even if its query found no rows.
    pub populated: bool,
}

/// Returns the roles that own an object in the connected database, or have privileges there.
///
/// # Errors
/// Fails with `Unavailable` if the server fails.
pub async fn roles_used(client: &Client) -> Result<Vec<String>> {
    let rows = client.query(ROLES, &[]).await;
    let rows = rows.map_err(|error| server_error("cannot read the roles of the database", error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Returns the materialised views of the connected database, each after the views that it reads.
///
/// # Errors
/// Fails with `Unavailable` if the server fails.
pub async fn materialized_views(client: &Client) -> Result<Vec<MaterializedView>> {
    let rows = client.query(MATERIALIZED_VIEWS, &[]).await;
    let rows = rows.map_err(|error| server_error("cannot read the materialised views", error))?;
    let view = |row: &tokio_postgres::Row| MaterializedView {
        oid: row.get(0),
        schema: row.get(1),
        name: row.get(2),
        populated: row.get(3),
    };
    Ok(rows.iter().map(view).collect())
}
