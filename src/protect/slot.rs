//! Makes slots whose snapshots can be trusted with the text of stored values.
//!
//! A slot begins when all transactions have ended that ran while it was made. A transaction that begins late in that time may
//! still be open then. If a type is altered in between (an enum's label is renamed, say), the snapshot shows the new text, and the
//! stream brings that transaction's rows with the old text, of which nothing in the history after the snapshot tells. So a slot
//! is only taken if no type was altered while it was made.

use std::time::Duration;

use super::Access;
use crate::ambient;
use crate::connect::{Conninfo, Session};
use crate::error::{Error, Result};
use crate::history::History;
use crate::model::Lsn;
use crate::source::blocker::{while_waiting, with_blocker};
use crate::source::inspect::{same_cluster, value_spelling};
use crate::source::snapshot::Snapshot;
use crate::source::stream::{CreatedSlot, ReplicationClient};

/// How long the creation of a slot may wait for each running transaction to end.
const SLOT_WAIT: Duration = Duration::from_secs(60);

/// How long the creation of a slot may wait for all running transactions together.
const SLOT_LIMIT: Duration = Duration::from_secs(180);

/// How often a slot is made anew because somebody altered a type meanwhile.
const ATTEMPTS: u32 = 5;

/// Makes the history's slot, or a temporary one, and returns the snapshot where it begins.
///
/// # Errors
/// `Unavailable` if transactions do not end, or types are altered all the time.
pub(super) async fn create(
    source: &Conninfo,
    client: &mut ReplicationClient,
    name: &str,
    temporary: bool,
) -> Result<(Snapshot, Lsn)> {
    // Without failover slots being set up, the option does no harm; versions before 17 do not have it.
    let failover = client.server_version() >= 17;
    for _ in 0..ATTEMPTS {
        let session = Session::connect_utf8(source, "slot").await?;
        let before = value_spelling(&session).await?;
        let created = create_once(source, client, name, temporary, failover).await?;
        let snapshot = Snapshot { name: created.snapshot };
        let session = snapshot.session(source, "slot").await?;
        if value_spelling(&session).await? == before {
            return Ok((snapshot, created.consistent_point));
        }
        tracing::info!("a type was altered while slot {name} was made; it is made anew");
        client.drop_slot(name).await?;
    }
    Err(Error::unavailable(format!(
        "types of the source were altered each of {ATTEMPTS} times while slot {name} was made; try again when that migration has \
         ended"
    )))
}

/// Makes a slot. While the server waits for transactions to end, the log names them.
async fn create_once(
    source: &Conninfo,
    client: &mut ReplicationClient,
    name: &str,
    temporary: bool,
    failover: bool,
) -> Result<CreatedSlot> {
    let process = client.backend().pid;
    let creating = async {
        let creating = async {
            if temporary {
                client.create_temporary_slot(name, SLOT_WAIT).await
            } else {
                client.create_slot(name, failover, SLOT_WAIT).await
            }
        };
        let late =
            |_| Error::unavailable(format!("slot {name} was not made within {} s", SLOT_LIMIT.as_secs()));
        tokio::time::timeout(SLOT_LIMIT, creating).await.map_err(late)?
    };
    let what = "the creation of the replication slot";
    let (created, blocker) = while_waiting(source, process, what, creating).await;
    created.map_err(|error| with_blocker(error, blocker))
}

/// A snapshot whose position is known exactly, because a slot began there. The slot goes with the connection.
///
/// # Errors
/// As [`create`].
pub(super) async fn temporary_snapshot(
    access: &Access<'_>,
    history: &History,
    purpose: &str,
) -> Result<(ReplicationClient, Snapshot, Lsn)> {
    let mut client = ReplicationClient::connect(access.source, purpose).await?;
    let identity = client.identify_system().await?;
    same_cluster(&history.identity().source.system_identifier, &identity.system_identifier)?;
    // The slot of a command that was killed stays until the server has noticed.
    let name =
        format!("{}_{purpose}_{:08x}", history.identity().slot(), u32::from_ne_bytes(ambient::random()?));
    let (snapshot, lsn) = create(access.source, &mut client, &name, true).await?;
    Ok((client, snapshot, lsn))
}
