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
pub(super) fn lock(session: &Session, views: &[GatedView]) -> String {
    let encoding = session.server_encoding();
    let lock = |view: &GatedView| {
        let (name, owner) = (view.relation.spelled(encoding), spell(&view.owner, encoding));
        format!("ALTER MATERIALIZED VIEW {name} OWNER TO {owner}; ")
    };
    views.iter().map(lock).collect()
}

/// # Errors
/// `Refused` if the query of a view fails; the views are then unpopulated and still locked.
pub(super) async fn fill(session: &Session, views: &[GatedView]) -> Result<OpenedGate> {
    run(session, "SAVEPOINT backwhen_gate").await?;
    for view in views {
        let name = view.relation.spelled(session.server_encoding());
        let refreshed = session.batch_execute(&format!("REFRESH MATERIALIZED VIEW {name}")).await;
        let Err(error) = refreshed else { continue };
        let error = server_error(format!("cannot fill {}", view.relation.display()), error);
        if ServerFault::of(&error).is_some() {
            run(session, "ROLLBACK TO SAVEPOINT backwhen_gate").await?;
        }
        return Err(error);
    }
    let names = views.iter().map(|view| view.relation.display()).collect();
    Ok(OpenedGate { tables: Vec::new(), views: names, inexact: Vec::new(), took: Duration::ZERO })
}
