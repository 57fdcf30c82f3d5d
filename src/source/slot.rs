//! A history's replication slot, as the source's catalog shows it.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::sequences::parse_lsn;
use crate::connect::server_error;
use crate::error::{Error, Result};
use crate::model::Lsn;

/// How often the drop of a slot in use is tried again before it fails.
const DROP_TRIES: u32 = 50;
const DROP_PAUSE: Duration = Duration::from_millis(200);

/// The slot's row in `pg_replication_slots`, and the end of the WAL at the same moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotFacts {
    /// The server is in recovery, so it writes no WAL of its own.
    pub is_standby: bool,
    /// The end of the WAL: written, or on a standby replayed.
    pub head: Lsn,
    /// There is a slot of this name; without one, all fields below are empty.
    pub exists: bool,
    /// The slot belongs to the database that was asked.
    pub in_this_database: bool,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// The output plugin.
    pub plugin: Option<String>,
    /// Every transaction that committed before this position has been acknowledged.
    pub confirmed: Option<Lsn>,
    /// Bytes of WAL that the slot retains; none if the slot retains no WAL any more.
    pub retained: Option<u64>,
    /// Bytes of WAL after `confirmed`.
    pub lag: Option<u64>,
}

const FACTS: &str = "
SELECT wal.standby, wal.head::text, s.slot_name IS NOT NULL,
       coalesce(s.database = pg_catalog.current_database(), false), s.wal_status, s.plugin::text,
       s.confirmed_flush_lsn::text,
       pg_catalog.pg_wal_lsn_diff(wal.head, s.restart_lsn)::int8,
       pg_catalog.pg_wal_lsn_diff(wal.head, s.confirmed_flush_lsn)::int8
  FROM (SELECT r.standby, CASE WHEN r.standby THEN pg_catalog.pg_last_wal_replay_lsn()
                               ELSE pg_catalog.pg_current_wal_lsn() END AS head
          FROM (SELECT pg_catalog.pg_is_in_recovery() AS standby) AS r) AS wal
  LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = $1";

impl SlotFacts {
    /// Asks the server for a slot by its name.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn read(client: &Client, slot: &str) -> Result<SlotFacts> {
        let row = client.query_one(FACTS, &[&slot]).await;
        let row = row.map_err(|error| server_error("cannot look at the replication slot", error))?;
        let position = |column| {
            let text = row.get::<_, Option<String>>(column);
            text.map(|text| parse_lsn(&text)).transpose()
        };
        let bytes = |column| row.get::<_, Option<i64>>(column).map(|bytes| bytes.max(0).cast_unsigned());
        Ok(SlotFacts {
            is_standby: row.get(0),
            head: position(1)?.unwrap_or_default(),
            exists: row.get(2),
            in_this_database: row.get(3),
            wal_status: row.get(4),
            plugin: row.get(5),
            confirmed: position(6)?,
            retained: bytes(7),
            lag: bytes(8),
        })
    }
}

/// Drops a history's slot and nothing else; a slot that is gone already is no error. A walsender that served the slot
/// may need a moment to notice that its client has gone, so the drop is tried again for a while.
///
/// # Errors
/// `Unavailable` if the server fails, `Locked` if the slot stays in use.
pub async fn drop_slot(client: &Client, slot: &str) -> Result<()> {
    let query = "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots \
                 WHERE slot_name = $1";
    let mut tries = 0;
    loop {
        let Err(error) = client.execute(query, &[&slot]).await else { return Ok(()) };
        let in_use = error.code() == Some(&SqlState::OBJECT_IN_USE);
        if !in_use || tries == DROP_TRIES {
            let error = server_error(format!("cannot drop replication slot {slot}"), error);
            return Err(if in_use {
                Error::locked(format!(
                    "{error}; end that process with SELECT pg_terminate_backend, then try again"
                ))
            } else {
                error
            });
        }
        tries += 1;
        tokio::time::sleep(DROP_PAUSE).await;
    }
}
