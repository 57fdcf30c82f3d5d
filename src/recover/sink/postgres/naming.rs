//! Tables whose values are names of other objects.

use std::collections::HashSet;

use crate::connect::server_error;
use crate::error::Result;
use crate::model::Table;

use super::PostgresSink;

/// Selects the tables (schema, name) with a column of a type whose values can name objects that are created after the
/// rows: also in arrays, domains, ranges and row types.
const TABLES: &str = "
WITH RECURSIVE holders (part, whole) AS MATERIALIZED (
    SELECT typbasetype, oid FROM pg_catalog.pg_type WHERE typbasetype <> 0
    UNION ALL SELECT typelem, oid FROM pg_catalog.pg_type WHERE typelem <> 0
    UNION ALL SELECT rngsubtype, rngtypid FROM pg_catalog.pg_range
    UNION ALL SELECT rngtypid, rngmultitypid FROM pg_catalog.pg_range
    UNION ALL SELECT a.atttypid, c.reltype FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
               WHERE a.attnum > 0 AND NOT a.attisdropped AND c.reltype <> 0 AND c.oid >= 16384),
naming (type) AS (
    SELECT oid FROM pg_catalog.pg_type WHERE oid IN ('pg_catalog.regclass'::pg_catalog.regtype, 'pg_catalog.regtype'::pg_catalog.regtype,
        'pg_catalog.regproc'::pg_catalog.regtype, 'pg_catalog.regprocedure'::pg_catalog.regtype)
    UNION SELECT h.whole FROM naming n JOIN holders h ON h.part = n.type)
SELECT DISTINCT s.nspname::text, c.relname::text
  FROM naming n JOIN pg_catalog.pg_attribute a ON a.atttypid = n.type AND a.attnum > 0 AND NOT a.attisdropped
  JOIN pg_catalog.pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p') AND c.oid >= 16384
  JOIN pg_catalog.pg_namespace s ON s.oid = c.relnamespace";

impl PostgresSink {
    /// Returns the oids of the tables whose values may name objects such as an index.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub async fn tables_that_name(&self, tables: &[&Table]) -> Result<HashSet<u32>> {
        let rows = self.session.query(TABLES, &[]).await;
        let rows =
            rows.map_err(|error| server_error("cannot see which tables hold names of others", error))?;
        let found: HashSet<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let names = |table: &&&Table| found.contains(&(table.schema.clone(), table.name.clone()));
        Ok(tables.iter().filter(names).map(|table| table.oid).collect())
    }
}
