//! Whether a database is empty.

use crate::connect::{Session, server_error};
use crate::error::{Error, Result};

/// Selects every object in the database that initdb did not create, with kind and name. Objects that belong to
/// another listed object (a table's row type, everything in an extension) are not listed again.
const FOREIGN_OBJECTS: &str = "
WITH mine(kind, name, oid, catalog) AS (
  SELECT CASE relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialised view' WHEN 'S' THEN 'sequence'
                      WHEN 'f' THEN 'foreign table' ELSE 'table' END,
         relnamespace::regnamespace || '.' || relname, oid, 'pg_class'::regclass
    FROM pg_class WHERE relkind IN ('r','p','v','m','S','f') AND relnamespace <> 'pg_toast'::regnamespace
     AND NOT EXISTS (SELECT 1 FROM pg_namespace n WHERE n.oid = relnamespace AND n.nspname LIKE 'pg\\_temp%')
  UNION ALL SELECT 'function', oid::regprocedure::text, oid, 'pg_proc'::regclass FROM pg_proc
  UNION ALL SELECT 'type', oid::regtype::text, oid, 'pg_type'::regclass FROM pg_type t WHERE typelem = 0
     AND (typrelid = 0 OR EXISTS (SELECT 1 FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c'))
  UNION ALL SELECT 'schema', nspname::text, oid, 'pg_namespace'::regclass FROM pg_namespace
     WHERE nspname <> 'public' AND nspname NOT LIKE 'pg\\_temp%' AND nspname NOT LIKE 'pg\\_toast\\_temp%'
  UNION ALL SELECT 'extension', extname::text, oid, 'pg_extension'::regclass FROM pg_extension WHERE extname <> 'plpgsql'
  UNION ALL SELECT 'large object', oid::text, oid, 'pg_largeobject_metadata'::regclass FROM pg_largeobject_metadata
  UNION ALL SELECT 'publication', pubname::text, oid, 'pg_publication'::regclass FROM pg_publication
  UNION ALL SELECT 'event trigger', evtname::text, oid, 'pg_event_trigger'::regclass FROM pg_event_trigger
  UNION ALL SELECT 'foreign data wrapper', fdwname::text, oid, 'pg_foreign_data_wrapper'::regclass FROM pg_foreign_data_wrapper
  UNION ALL SELECT 'operator', oid::regoperator::text, oid, 'pg_operator'::regclass FROM pg_operator
  UNION ALL SELECT 'collation', collname::text, oid, 'pg_collation'::regclass FROM pg_collation WHERE collnamespace <> 'pg_catalog'::regnamespace
  UNION ALL SELECT 'text search configuration', cfgname::text, oid, 'pg_ts_config'::regclass FROM pg_ts_config
  UNION ALL SELECT 'cast', castsource::regtype || ' to ' || casttarget::regtype, oid, 'pg_cast'::regclass FROM pg_cast
)
SELECT kind || ' ' || name, count(*) OVER () FROM mine
 WHERE (oid >= 16384 OR kind = 'large object')
   AND NOT (kind = 'extension' AND name = ANY ($1))
   AND NOT (kind = 'schema' AND EXISTS (SELECT 1 FROM pg_extension e WHERE e.extnamespace = mine.oid AND e.extname = ANY ($1)))
   AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = mine.oid AND d.classid = catalog AND d.deptype = 'e')
 ORDER BY kind = 'function', kind, name LIMIT 4";

/// Refuses a database that is not empty. One of the `extensions` does not count: where the recovering user may not make
/// it, somebody else has made it before.
///
/// # Errors
/// Fails with `Refused`, and names a few of the objects and the command to type.
pub(super) async fn require_empty(session: &Session, name: &str, extensions: &[String]) -> Result<()> {
    // The session's search path is empty, so pg_catalog comes first all the same.
    let rows = session
        .query(FOREIGN_OBJECTS, &[&extensions])
        .await
        .map_err(|error| server_error(format!("cannot see what database {name} holds"), error))?;
    let Some(first) = rows.first() else { return Ok(()) };
    let total: i64 = first.get(1);
    let mut names: Vec<String> = rows.iter().take(3).map(|row| row.get(0)).collect();
    if total > 3 {
        names.push(format!("{} more", total - 3));
    }
    Err(Error::refused(format!(
        "database {name} is not empty: it holds {}; recover into a new one (--create with a name that is not taken) \
         or empty this one with DROP DATABASE and CREATE DATABASE",
        names.join(", ")
    )))
}
