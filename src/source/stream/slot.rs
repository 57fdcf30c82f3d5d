//! Creates and drops slots.

use std::time::Duration;

use super::client::ReplicationClient;
use super::fault::Operation;
use crate::connect::quoted;
use crate::error::Result;
use crate::model::Lsn;

/// A new slot, and the state of the database at the position where the slot begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedSlot {
    /// The slot sends every transaction that commits after this position, and none before.
    pub consistent_point: Lsn,
    /// The snapshot at that position, for `SET TRANSACTION SNAPSHOT`. The snapshot lives until the next command on the
    /// connection that created the slot, or until that connection ends.
    pub snapshot: String,
}

impl ReplicationClient {
    /// Creates a slot that lasts until it is dropped. `failover` has an effect only on servers of version 17 and later.
    /// The creation waits for all transactions that run now, for each at most `lock_timeout`; if one takes longer, no
    /// slot remains.
    ///
    /// # Errors
    /// With [`super::StreamFault`] as cause: `Unavailable` after `lock_timeout`; `Refused` if a slot of this name
    /// exists or the server has no slot free.
    pub async fn create_slot(
        &mut self,
        name: &str,
        failover: bool,
        lock_timeout: Duration,
    ) -> Result<CreatedSlot> {
        let command = create_command(name, self.server_version(), false, failover);
        self.create(name, &command, lock_timeout).await
    }

    /// Creates a slot that is dropped when this connection ends.
    ///
    /// # Errors
    /// The same as for [`ReplicationClient::create_slot`].
    pub async fn create_temporary_slot(&mut self, name: &str, lock_timeout: Duration) -> Result<CreatedSlot> {
        let command = create_command(name, self.server_version(), true, false);
        self.create(name, &command, lock_timeout).await
    }

    async fn create(&mut self, name: &str, command: &str, lock_timeout: Duration) -> Result<CreatedSlot> {
        // Zero would switch the limit off.
        let milliseconds = lock_timeout.as_millis().clamp(1, i32::MAX as u128);
        self.query(&format!("SET lock_timeout = '{milliseconds}ms'")).await?;
        let rows = self.command(command, Operation::CreateSlot, Some(name)).await?;
        match rows.first().map(Vec::as_slice).unwrap_or_default() {
            [_, Some(point), Some(snapshot), ..] => Ok(CreatedSlot {
                consistent_point: point.parse().map_err(|_| self.odd_answer("CREATE_REPLICATION_SLOT"))?,
                snapshot: snapshot.clone(),
            }),
            _ => Err(self.odd_answer("CREATE_REPLICATION_SLOT")),
        }
    }

    /// Drops a slot.
    ///
    /// # Errors
    /// With [`super::StreamFault`] as cause: `Locked` if a connection streams from the slot; `Refused` if there is no
    /// such slot.
    pub async fn drop_slot(&mut self, name: &str) -> Result<()> {
        let command = format!("DROP_REPLICATION_SLOT {}", quoted(name, '"'));
        self.command(&command, Operation::DropSlot, Some(name)).await.map(|_| ())
    }
}

fn create_command(name: &str, version: u32, temporary: bool, failover: bool) -> String {
    let temporary = if temporary { " TEMPORARY" } else { "" };
    let options = match version {
        ..15 => "EXPORT_SNAPSHOT",
        17.. if failover => "(SNAPSHOT 'export', FAILOVER true)",
        _ => "(SNAPSHOT 'export')",
    };
    format!("CREATE_REPLICATION_SLOT {}{temporary} LOGICAL pgoutput {options}", quoted(name, '"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_gets_its_own_words() {
        for (version, temporary, failover, expected) in [
            (12, false, true, "CREATE_REPLICATION_SLOT \"s\" LOGICAL pgoutput EXPORT_SNAPSHOT"),
            (14, true, false, "CREATE_REPLICATION_SLOT \"s\" TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT"),
            (16, false, true, "CREATE_REPLICATION_SLOT \"s\" LOGICAL pgoutput (SNAPSHOT 'export')"),
            (
                17,
                false,
                true,
                "CREATE_REPLICATION_SLOT \"s\" LOGICAL pgoutput (SNAPSHOT 'export', FAILOVER true)",
            ),
        ] {
            assert_eq!(create_command("s", version, temporary, failover), expected);
        }
    }
}
