//! `init --full-identity`: gives tables without a usable key REPLICA IDENTITY FULL, and puts back what they had.
//!
//! The schema `backwhen` on the source holds all that must be known for this: an empty type for each changed table,
//! whose name says what the table had (see `signal/sql/identities.sql`), and an empty type that says that it is switched
//! on. The event triggers treat new tables in the same statement; sessions of this module treat tables that exist, and
//! all tables where there are no event triggers.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::triggers;
use crate::ambient;
use crate::connect::server_error;
use crate::error::{Error, Result};
use crate::model::LeftOut;
use crate::signal::sql::{IDENTITIES, REMOVE_SCHEMA};

/// Everybody who uses a table waits behind a statement that waits to lock the table, so an attempt waits no longer.
const LOCK_TIMEOUT: &str = "300ms";

/// The pause between two attempts to lock a table.
const PAUSE: Duration = Duration::from_millis(300);

/// How long `drop` tries to put back what tables had.
const DROP_PATIENCE: Duration = Duration::from_secs(10);

/// The replica identities that a history gives to tables of its source.
pub struct FullIdentity {
    slot: String,
}

/// The choice of tables to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Tables get FULL, except those whose replica identity somebody has changed since they got it.
    New,
    /// Tables get FULL, also those whose replica identity somebody has changed since.
    All,
    /// Tables get back what they had.
    None,
}

/// The outcome of changes of replica identities.
#[derive(Debug, Default)]
pub struct IdentityChanges {
    /// How many tables were changed.
    pub changed: usize,
    /// The tables that could not be changed.
    pub refused: Vec<LeftOut>,
}

impl FullIdentity {
    pub fn of_slot(slot: &str) -> FullIdentity {
        FullIdentity { slot: slot.to_owned() }
    }

    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn is_on(&self, client: &Client) -> Result<bool> {
        let row = client.query_one("SELECT pg_catalog.to_regtype($1) IS NOT NULL", &[&self.switch()]).await;
        Ok(row.map_err(not_seen)?.get(0))
    }

    /// Switches it on: new tables are treated from now on. Event triggers have to be installed after this.
    ///
    /// # Errors
    /// `Refused` if the schema `backwhen` cannot be trusted or made; `Unavailable` if the server fails.
    pub async fn switch_on(&self, client: &Client) -> Result<()> {
        triggers::make_schema(client).await?;
        if self.is_on(client).await? {
            return Ok(());
        }
        let made = client.batch_execute(&format!("CREATE TYPE {} AS ()", self.switch())).await;
        made.map_err(|error| server_error("cannot note on the source what --full-identity changes", error))
    }

    fn switch(&self) -> String {
        format!("backwhen.{}_full_identity", self.slot)
    }

    /// Changes those of `tables`, given by oid, that `purpose` concerns. `patience` is for all of them together.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn change(
        &self,
        client: &Client,
        tables: &[u32],
        purpose: Purpose,
        patience: Duration,
    ) -> Result<IdentityChanges> {
        let purpose = match purpose {
            Purpose::New => "new",
            Purpose::All => "all",
            Purpose::None => "none",
        };
        let query = identities(&self.slot, "$1", "$2::text", "true");
        let rows = client.query(&query, &[&tables, &purpose]).await.map_err(not_seen)?;
        let (mut changes, begun) = (IdentityChanges::default(), ambient::instant());
        for row in rows {
            let (table, statements): (String, String) = (row.get(0), row.get(1));
            match attempt(client, &statements, patience.saturating_sub(begun.elapsed())).await? {
                None => changes.changed += 1,
                Some(error) => {
                    let reason = reason(&table, &statements, error);
                    changes.refused.push(LeftOut { table, reason });
                }
            }
        }
        Ok(changes)
    }

    /// Gives every table back what it had, unless somebody has changed its replica identity since, and switches it off.
    ///
    /// # Errors
    /// `Locked` if a table cannot be changed; the other tables are changed. `Unavailable` if the server fails.
    pub async fn put_back(&self, client: &Client) -> Result<()> {
        let query = "SELECT pg_catalog.split_part(relname, '_', 4)::oid FROM pg_catalog.pg_class \
                     WHERE relnamespace = pg_catalog.to_regnamespace('backwhen') AND relkind = 'c' \
                       AND pg_catalog.starts_with(relname, $1)";
        let rows = client.query(query, &[&format!("{}_was_", self.slot)]).await.map_err(not_seen)?;
        let tables: Vec<u32> = rows.iter().map(|row| row.get(0)).collect();
        let changes = self.change(client, &tables, Purpose::None, DROP_PATIENCE).await?;
        if let Some(LeftOut { table, reason }) = changes.refused.first() {
            return Err(Error::locked(format!(
                "{table} on the source still has the REPLICA IDENTITY FULL that --full-identity gave it: {reason}"
            )));
        }
        let forget = [&self.forgetting("true"), REMOVE_SCHEMA].concat();
        let forgotten = client.batch_execute(&forget).await;
        forgotten.map_err(|error| server_error("cannot take backwhen's types off the source", error))
    }

    /// Forgets what dropped tables had.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn forget_dropped(&self, client: &Client) -> Result<()> {
        let gone = "y.relname LIKE '%\\_was\\_%' AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c \
                    WHERE c.oid::text = pg_catalog.split_part(y.relname, '_', 4))";
        let forgotten = client.batch_execute(&self.forgetting(gone)).await;
        forgotten.map_err(|error| server_error("cannot forget what dropped tables had", error))
    }

    /// Returns SQL that drops those of this history's types for which `condition` holds.
    fn forgetting(&self, condition: &str) -> String {
        format!(
            "DO $do$ DECLARE type text; BEGIN FOR type IN SELECT y.relname FROM pg_catalog.pg_class y \
              WHERE y.relnamespace = pg_catalog.to_regnamespace('backwhen') AND y.relkind = 'c' \
                AND pg_catalog.starts_with(y.relname, '{}_') AND {condition} LOOP \
              EXECUTE pg_catalog.format('DROP TYPE backwhen.%I', type); END LOOP; END $do$;",
            self.slot
        )
    }
}

/// Returns the query that selects the tables to change, with its parameters put in as SQL.
pub(super) fn identities(slot: &str, tables: &str, purpose: &str, wanted: &str) -> String {
    let query = IDENTITIES.replace("{slot}", slot).replace("{tables}", tables);
    query.replace("{purpose}", purpose).replace("{wanted}", wanted)
}

/// Runs statements in one transaction, again and again while another session keeps the table locked. Returns the
/// server's error if it refuses them.
async fn attempt(
    client: &Client,
    statements: &str,
    patience: Duration,
) -> Result<Option<tokio_postgres::Error>> {
    let begun = ambient::instant();
    let transaction = format!("BEGIN; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; {statements}; COMMIT");
    loop {
        let Err(error) = client.batch_execute(&transaction).await else { return Ok(None) };
        // The transaction has to end, because the session is used again.
        client.batch_execute("ROLLBACK").await.map_err(not_seen)?;
        if !is_locked(&error) || begun.elapsed() >= patience {
            return Ok(Some(error));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn is_locked(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
}

fn reason(table: &str, statements: &str, error: tokio_postgres::Error) -> String {
    if is_locked(&error) {
        let name = crate::model::schema::quote_literal(table);
        return format!(
            "another session keeps it locked; see: SELECT * FROM pg_locks WHERE granted AND relation = {name}::regclass"
        );
    }
    server_error(format!("the source refuses: {statements}"), error).to_string()
}

fn not_seen(error: tokio_postgres::Error) -> Error {
    server_error("cannot see the tables' replica identities", error)
}
