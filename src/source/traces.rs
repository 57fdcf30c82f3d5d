//! Finds the slots, publications and event triggers that histories have created on the source, by their names.

use tokio_postgres::Client;

use crate::connect::server_error;
use crate::error::Result;

/// A history of which the source has a slot, a publication, an event trigger or a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The name of the history's slot, whether or not the slot exists.
    pub slot: String,
    /// Whether a connection streams from the slot.
    pub active: bool,
    /// The kinds of objects that the history has on the source: its slot, publications, event triggers, its table.
    kinds: String,
}

/// The history's slot, and the kinds of objects that bear its name.
impl std::fmt::Display for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.slot, self.kinds)
    }
}

/// Reads which histories have left something in the database.
///
/// # Errors
/// `Unavailable` if the server fails.
pub async fn slots(client: &Client) -> Result<Vec<Trace>> {
    let query = "
        SELECT own.slot, coalesce(pg_catalog.bool_or(s.active), false),
               pg_catalog.string_agg(DISTINCT named.kind, ', ')
          FROM (SELECT slot_name::text, 'slot' FROM pg_catalog.pg_replication_slots
                 WHERE database = pg_catalog.current_database() AND NOT temporary
                UNION ALL SELECT pubname::text, 'publications' FROM pg_catalog.pg_publication
                UNION ALL SELECT evtname::text, 'event triggers' FROM pg_catalog.pg_event_trigger
                UNION ALL SELECT relname::text, 'table of keys' FROM pg_catalog.pg_class
                           WHERE relnamespace = pg_catalog.to_regnamespace('backwhen')) AS named (name, kind)
         CROSS JOIN LATERAL (SELECT pg_catalog.substring(name, '^!?(backwhen_[0-9a-f]{12})(?:_|$)')) AS own (slot)
          LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = own.slot
         WHERE own.slot IS NOT NULL GROUP BY 1 ORDER BY 1";
    let rows = client.query(query, &[]).await;
    let rows =
        rows.map_err(|error| server_error("cannot look for what backwhen has left on the source", error))?;
    Ok(rows.iter().map(|row| Trace { slot: row.get(0), active: row.get(1), kinds: row.get(2) }).collect())
}
