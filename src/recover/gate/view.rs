//! Fills materialised views when they are asked for. The query of a view waits at the gates of its tables, so these tables
//! are loaded first.

use std::time::Duration;

use crate::connect::{ServerFault, Session, server_error};
use crate::error::Result;
use crate::model::spelling::spell;

use super::fill::run;
use super::{GatedView, OpenedGate};

/// Returns the statements that lock the views. No LOCK TABLE takes a view; a change to the owner that it has changes
/// nothing, and holds it ACCESS EXCLUSIVE.
///
/// # Errors
/// `Unavailable` if the server fails.
pub(super) async fn lock(session: &Session, views: &[GatedView]) -> Result<String> {
    let sql = "SELECT pg_catalog.string_agg(pg_catalog.format('ALTER MATERIALIZED VIEW %s OWNER TO %I', \
               oid::pg_catalog.regclass, pg_catalog.pg_get_userbyid(relowner)), '; ') \
               FROM pg_catalog.pg_class WHERE oid = ANY ($1)";
    let oids: Vec<u32> = views.iter().map(|view| view.oid).collect();
    let row = session.query_one(sql, &[&oids]).await;
    let row = row.map_err(|error| server_error("cannot see who owns the materialised views", error))?;
    Ok(row.get::<_, Option<String>>(0).unwrap_or_default())
}

/// # Errors
/// `Refused` if the query of a view fails; the views are then unpopulated and still locked.
pub(super) async fn fill(session: &Session, views: &[GatedView]) -> Result<OpenedGate> {
    run(session, "SAVEPOINT backwhen_gate").await?;
    for view in views {
        let encoding = session.server_encoding();
        let name = format!("{}.{}", spell(&view.schema, encoding), spell(&view.name, encoding));
        let refreshed = session.batch_execute(&format!("REFRESH MATERIALIZED VIEW {name}")).await;
        let Err(error) = refreshed else { continue };
        let error = server_error(format!("cannot fill {}.{}", view.schema, view.name), error);
        if ServerFault::of(&error).is_some() {
            run(session, "ROLLBACK TO SAVEPOINT backwhen_gate").await?;
        }
        return Err(error);
    }
    let names = views.iter().map(|it| format!("{}.{}", it.schema, it.name)).collect();
    Ok(OpenedGate { tables: Vec::new(), views: names, inexact: Vec::new(), took: Duration::ZERO })
}
