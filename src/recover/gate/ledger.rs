//! Enters into the ledger of an unfinished database which tables are loaded. `recover::on_demand` keeps the ledger.

use std::time::Duration;

use crate::ambient;
use crate::connect::{Session, server_error};
use crate::error::{Context, Kind, Result};
use crate::model::Inexact;
use crate::recover::sink::MARKER;

use super::statements::run;
use super::{GatedTable, OpenedGate};

/// Gives the relations of a gate their privileges back, in the transaction that loads their rows, and lets them be queried.
/// The ledger also gets what is not exact about them, so that the report of a later run says it if this process dies.
///
/// # Errors
/// `Unavailable` if the server fails.
pub(super) async fn enter_loaded(
    session: &Session,
    gate: i32,
    tables: &[GatedTable],
    filled: &OpenedGate,
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
    for (table, digest) in tables.iter().zip(&filled.tables) {
        sql += &format!(
            "UPDATE {MARKER}.gates SET rows = {}, digest = '{}' WHERE oid = {};",
            digest.rows, digest.digest, table.oid
        );
    }
    run(session, &sql).await?;
    if let (Some(table), false) = (tables.first(), filled.inexact.is_empty()) {
        enter_inexact(session, table.oid, &filled.inexact).await?;
    }
    ambient::pass("demand.loaded")
}

/// Enters what is not exact about a relation, in place of what was entered before.
///
/// # Errors
/// `Unavailable` if the server fails.
pub async fn enter_inexact(session: &Session, oid: u32, inexact: &[Inexact]) -> Result<()> {
    let inexact = serde_json::to_string(inexact)
        .context(Kind::Internal, || "what is not exact cannot be written".into())?;
    let sql = format!("UPDATE {MARKER}.gates SET inexact = $1 WHERE oid = $2");
    let entered = session.execute(&sql, &[&inexact, &oid]).await;
    entered.map(drop).map_err(|error| server_error("cannot enter what is not exact", error))
}
