//! Slots: made, and taken away.

use std::time::Duration;

use super::client::ReplicationClient;
use super::fault::Doing;
use crate::connect::quoted;
use crate::error::Result;
use crate::model::Lsn;

/// A new slot and the state of the database where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedSlot {
    /// The slot gives every transaction that commits after this position, and none before.
    pub consistent_point: Lsn,
    /// The snapshot just before it, for `SET TRANSACTION SNAPSHOT`. It lives until the next command
    /// on the connection that made the slot, or its end.
    pub snapshot: String,
}

impl ReplicationClient {
    /// Makes a slot that lasts until it is dropped. `failover` counts on servers of version 17 and
    /// later only. Creation waits for all transactions that run now, each for at most `lock_timeout`;
    /// if that is too short, no slot is left behind.
    ///
    /// # Errors
    /// With [`super::StreamFault`] as cause: unavailable after `lock_timeout`, refused if a slot of
    /// this name exists or the server takes no more slots.
    pub async fn create_slot(
        &mut self,
        name: &str,
        failover: bool,
        lock_timeout: Duration,
    ) -> Result<CreatedSlot> {
        let command = create_command(name, self.server_version(), false, failover);
        self.create(name, &command, lock_timeout).await
    }

    /// Makes a slot that ends with this connection.
    ///
    /// # Errors
    /// As [`ReplicationClient::create_slot`].
    pub async fn create_temporary_slot(&mut self, name: &str, lock_timeout: Duration) -> Result<CreatedSlot> {
        let command = create_command(name, self.server_version(), true, false);
        self.create(name, &command, lock_timeout).await
    }

    async fn create(&mut self, name: &str, command: &str, lock_timeout: Duration) -> Result<CreatedSlot> {
        // Zero would mean for ever.
        let milliseconds = lock_timeout.as_millis().clamp(1, i32::MAX as u128);
        self.query(&format!("SET lock_timeout = '{milliseconds}ms'")).await?;
        let rows = self.command(command, Doing::CreateSlot, Some(name)).await?;
        match rows.first().map(Vec::as_slice).unwrap_or_default() {
            [_, Some(point), Some(snapshot), ..] => Ok(CreatedSlot {
                consistent_point: point.parse().map_err(|_| self.odd_answer("CREATE_REPLICATION_SLOT"))?,
                snapshot: snapshot.clone(),
            }),
            _ => Err(self.odd_answer("CREATE_REPLICATION_SLOT")),
        }
    }

    /// # Errors
    /// With [`super::StreamFault`] as cause: locked, if a connection streams from it; refused, if
    /// there is no such slot.
    pub async fn drop_slot(&mut self, name: &str) -> Result<()> {
        let command = format!("DROP_REPLICATION_SLOT {}", quoted(name, '"'));
        self.command(&command, Doing::DropSlot, Some(name)).await.map(|_| ())
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
