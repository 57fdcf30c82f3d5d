//! `init --full-identity`, for a new history and for one that exists.

use std::time::Duration;

use crate::connect::{Conninfo, Session};
use crate::error::{Error, Result};
use crate::history::History;
use crate::model::Selection;
pub use crate::source::identity::IdentityChanges;
use crate::source::identity::{FullIdentity, Purpose};
use crate::source::inspect;
use crate::source::slot::SlotFacts;
use crate::source::triggers::{InstallOutcome, Triggers};

/// How long a command tries to change tables that other sessions keep locked; afterwards, they are left to capture.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Treats the replica identities of all protected tables, if that is switched on for the history with this slot.
///
/// # Errors
/// `Unavailable` if the server fails.
pub async fn treat_tables(
    session: &Session,
    slot: &str,
    selection: &Selection,
    patience: Duration,
) -> Result<IdentityChanges> {
    let full_identity = FullIdentity::of_slot(slot);
    if !full_identity.is_on(session).await? {
        return Ok(IdentityChanges::default());
    }
    let tables = protected_tables(session, selection).await?;
    full_identity.forget_dropped(session).await?;
    full_identity.change(session, &tables, Purpose::New, patience).await
}

async fn protected_tables(session: &Session, selection: &Selection) -> Result<Vec<u32>> {
    let inventory = inspect::inventory(session, selection).await?;
    Ok(inventory.tables.iter().map(|found| found.table.oid).collect())
}

/// Switches `--full-identity` on for a history that exists. The event triggers tell the changes as if the tables' owners
/// had made them.
///
/// # Errors
/// `Refused` if the source is another cluster, or does not have the history's slot; `Unavailable` if the source fails.
pub async fn switch_on(history: &History, source: &Conninfo) -> Result<IdentityChanges> {
    let identity = history.identity();
    let slot = identity.slot();
    let session = Session::connect_utf8(source, "init").await?;
    inspect::check_cluster(&session, &identity.source.system_identifier).await?;
    if !SlotFacts::read(&session, &slot).await?.exists {
        return Err(Error::refused(format!(
            "replication slot {slot} of this history is not on the source; begin again with: backwhen capture, then \
             try again"
        )));
    }
    let full_identity = FullIdentity::of_slot(&slot);
    full_identity.switch_on(&session).await?;
    if identity.has_event_triggers()
        && let InstallOutcome::NotAllowed(reason) =
            Triggers::of_slot(&slot).install(&session, identity).await?
    {
        tracing::warn!("the event triggers cannot treat new tables, so capture does: {reason}");
    }
    let selection = Selection::parse(&identity.include, &identity.exclude)?;
    let tables = protected_tables(&session, &selection).await?;
    full_identity.change(&session, &tables, Purpose::All, PATIENCE).await
}
