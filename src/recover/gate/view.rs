//! Fills materialised views when they are asked for. The query of a view waits at the gates of its tables, so these tables
//! are loaded first.

use crate::connect::{ServerFault, Session, server_error};
use crate::error::Result;

use super::OwnedRelation;
use super::statements::{BACK, run};

/// # Errors
/// `Refused` if the query of a view fails; the views are then unpopulated and still locked.
pub(super) async fn fill(session: &Session, views: &[OwnedRelation]) -> Result<()> {
    for view in views {
        let name = view.relation.spelled(session.server_encoding());
        let refreshed = session.batch_execute(&format!("REFRESH MATERIALIZED VIEW {name}")).await;
        let Err(error) = refreshed else { continue };
        let error = server_error(format!("cannot fill {}", view.relation.display()), error);
        if ServerFault::of(&error).is_some() {
            run(session, BACK).await?;
        }
        return Err(error);
    }
    Ok(())
}
