//! Enters into the ledger of an unfinished database which tables are loaded. `recover::on_demand` keeps the ledger.

use std::time::Duration;

use crate::ambient;
use crate::connect::Session;
use crate::error::Result;
use crate::history::evidence::TableDigest;
use crate::recover::sink::MARKER;

use super::GatedTable;
use super::statements::run;

/// Gives the relations of a gate their privileges back, in the transaction that loads their rows, and lets them be queried.
///
/// # Errors
/// `Unavailable` if the server fails.
pub(super) async fn enter_loaded(
    session: &Session,
    gate: i32,
    tables: &[GatedTable],
    loaded: &[TableDigest],
    took: Duration,
) -> Result<()> {
    let mut sql = format!(
        "UPDATE pg_catalog.pg_class c SET relacl = g.acl, relispopulated = relispopulated OR relkind = 'r' \
           FROM {MARKER}.gates g WHERE g.gate = {gate} AND c.oid = g.oid; \
         UPDATE pg_catalog.pg_attribute a SET attacl = k.acl FROM {MARKER}.columns k JOIN {MARKER}.gates g ON g.oid = k.oid \
          WHERE g.gate = {gate} AND a.attrelid = k.oid AND a.attnum = k.number; \
         UPDATE {MARKER}.gates SET loaded = true, seconds = {} WHERE gate = {gate};",
        took.as_secs_f64()
    );
    for (table, digest) in tables.iter().zip(loaded) {
        sql += &format!(
            "UPDATE {MARKER}.gates SET rows = {}, digest = '{}' WHERE oid = {};",
            digest.rows, digest.digest, table.oid
        );
    }
    run(session, &sql).await?;
    ambient::pass("demand.loaded")
}
