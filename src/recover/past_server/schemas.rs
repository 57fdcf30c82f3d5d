//! The names of schemas where several moments share a database.

use crate::connect::{Conninfo, Session, server_error};
use crate::error::Result;
use crate::model::schema::quote_ident;
use crate::recover::plan::Plan;

/// The name of a schema of a moment, if several moments share a database: `at1` for `public`, `at1_sales` for `sales`.
pub(super) fn moved(prefix: &str, schema: &str) -> String {
    if schema == "public" { prefix.to_owned() } else { format!("{prefix}_{schema}") }
}

/// The quoted name of a table in its moved schema.
pub(super) fn moved_table(plan: &Plan, prefix: &str, quoted: &str) -> String {
    let table = plan.chosen.tables.iter().find(|table| table.quoted() == quoted);
    table.map_or_else(String::new, |table| {
        format!("{}.{}", quote_ident(&moved(prefix, &table.schema)), quote_ident(&table.name))
    })
}

/// Selects the schemas that are no server's and no extension's, `public` last, as another one may have its new name.
const SCHEMAS: &str = "
SELECT n.nspname::text FROM pg_catalog.pg_namespace n
 WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', 'backwhen')
   AND n.nspname !~ '^at[0-9]+(_|$)'
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
                      AND d.objid = n.oid AND d.deptype = 'e')
 ORDER BY n.nspname = 'public', n.nspname";

/// Selects the extensions whose objects are in these schemas.
const EXTENSIONS: &str = "
SELECT e.extname::text, n.nspname::text FROM pg_catalog.pg_extension e
  JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE n.nspname = ANY ($1)";

/// Renames the schemas of a moment. An empty `public` and the extensions stay for the next moment.
///
/// # Errors
/// `Refused` if an extension cannot be taken out of a schema, or if a schema of the source has a name that a moment needs.
pub(super) async fn move_schemas(info: &Conninfo, prefix: &str) -> Result<()> {
    let failed =
        |error| server_error("cannot put several moments side by side; ask for one at a time", error);
    let session = Session::connect_utf8(info, "past").await?;
    let rows = session.query(SCHEMAS, &[]).await.map_err(failed)?;
    let schemas: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let extensions = session.query(EXTENSIONS, &[&schemas]).await.map_err(failed)?;
    let mut sql = String::new();
    for schema in &schemas {
        let new = quote_ident(&moved(prefix, schema));
        sql += &format!("ALTER SCHEMA {} RENAME TO {new}; ", quote_ident(schema));
    }
    sql += "CREATE SCHEMA IF NOT EXISTS public; GRANT ALL ON SCHEMA public TO PUBLIC; ";
    for row in &extensions {
        let (extension, schema): (&str, &str) = (row.get(0), row.get(1));
        let (extension, schema) = (quote_ident(extension), quote_ident(schema));
        sql += &format!(
            "CREATE SCHEMA IF NOT EXISTS {schema}; ALTER EXTENSION {extension} SET SCHEMA {schema}; "
        );
    }
    session.batch_execute(&sql).await.map_err(failed)
}
