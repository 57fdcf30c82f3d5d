//! Event triggers on the source. They write each schema change into the WAL, at its place between the changes of rows,
//! and put new tables into the publications.
//!
//! [`crate::signal`] reads the messages that the event triggers write. The event triggers' functions live in the schema
//! `backwhen` and are named after the history's slot; several histories of one database share the schema.

mod install;
mod schema;

use std::fmt;

use tokio_postgres::Client;

use crate::connect::server_error;
use crate::error::{Error, Result};
use crate::signal::COMMON_TYPES;
use crate::signal::sql::{
    AFFECTED, CLEAR, DEFINITION, EVENTS, IDENTIFY, IDENTITIES, OLDER, OWN, REMOVE, REMOVE_SCHEMA, RETOLD,
    ROWS, TABLE, TELL, TRIGGERS,
};

/// Settings of every function that the event triggers call, so that each name means the object of the catalogs. Each
/// setting costs time at every statement, so settings that only few functions need stand in [`VALUES`] and [`ENGLISH`].
const PINS: &str = "SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off";

/// Settings of the functions that read values, so that the text of a value is the same as in the stream.
const VALUES: &str = "SET datestyle = 'ISO, MDY' SET intervalstyle = postgres SET extra_float_digits = 3 \
     SET timezone = 'UTC' SET bytea_output = hex SET lc_monetary = 'C'";

/// Planner settings: a statement concerns a few rows of the catalogs, which indexes find, and is planned once a
/// session.
const PLANS: &str = " SET jit = off SET plan_cache_mode = force_generic_plan SET enable_seqscan = off \
     SET enable_bitmapscan = off";

/// Further planner settings, for the functions that join.
const JOINS: &str = "SET enable_hashjoin = off SET enable_mergejoin = off SET enable_material = off";

/// Keeps the server from translating the context of an error. Only a superuser may set it.
const ENGLISH: &str = "SET lc_messages = 'C'";

/// Computes a digest of everything that the catalogs say about a history's functions.
const FUNCTIONS: &str = "SELECT pg_catalog.md5(pg_catalog.string_agg(pg_catalog.concat_ws('|', p.proname, \
     pg_catalog.pg_get_function_identity_arguments(p.oid), p.prorettype::pg_catalog.regtype, p.proowner, p.prolang, \
     p.prosecdef, p.proconfig, p.prosrc), E'\\n' ORDER BY p.proname, p.proargtypes::text)) FROM pg_catalog.pg_proc p \
     WHERE p.pronamespace = (SELECT n.oid FROM pg_catalog.pg_namespace n WHERE n.nspname = 'backwhen') \
       AND p.proname LIKE '{slot}\\_%'";

/// How many event triggers a history has.
const EVENT_TRIGGERS: i64 = 5;

/// A history's event triggers.
pub struct Triggers {
    slot: String,
}

/// The outcome of an attempt to install the event triggers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstallOutcome {
    Installed,
    /// The role lacks the right; the text is the server's message.
    NotAllowed(String),
}

/// A reason why the event triggers do not tell every schema change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Some or all schema changes are not told; the text says which parts are gone or disabled.
    Broken(String),
    /// Another version of backwhen installed the event triggers, and they tell only what that version could read.
    OtherVersion,
    /// The configuration table of the event triggers is unlogged: a crash of the server emptied it, and since then they
    /// have told nothing.
    Emptied,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Broken(what) => f.write_str(what),
            Fault::OtherVersion => f.write_str("another version of backwhen installed them"),
            Fault::Emptied => f.write_str("a crash of the server emptied their table"),
        }
    }
}

impl Triggers {
    pub fn of_slot(slot: &str) -> Triggers {
        Triggers { slot: slot.to_owned() }
    }

    /// Returns a fault of the event triggers, or `None` if they tell every schema change.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn fault(&self, client: &Client) -> Result<Option<Fault>> {
        if let Some(fault) = schema::fault(client).await? {
            return Ok(Some(Fault::Broken(fault.to_string())));
        }
        if let Some(fault) = self.triggers_fault(client).await? {
            return Ok(Some(fault));
        }
        self.functions_fault(client).await
    }

    async fn triggers_fault(&self, client: &Client) -> Result<Option<Fault>> {
        let query = "SELECT count(*) FILTER (WHERE e.evtenabled = 'A' AND p.pronamespace = n.oid), count(*) \
                       FROM pg_catalog.pg_event_trigger e \
                       LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = 'backwhen' \
                       LEFT JOIN pg_catalog.pg_proc p ON p.oid = e.evtfoid WHERE e.evtname LIKE $1";
        let row = client.query_one(query, &[&self.filled("!{slot}\\_%")]).await.map_err(not_looked)?;
        let (enabled, there): (i64, i64) = (row.get(0), row.get(1));
        // An older version had one trigger less; the version that is installed is checked below.
        if there < EVENT_TRIGGERS - 1 {
            let gone = EVENT_TRIGGERS - there;
            return Ok(Some(Fault::Broken(format!("{gone} of {EVENT_TRIGGERS} event triggers are gone"))));
        }
        if enabled < there {
            let disabled = there - enabled;
            return Ok(Some(Fault::Broken(format!("{disabled} event triggers are disabled"))));
        }
        Ok(None)
    }

    /// Checks that the functions are those that were installed, and that no other function of a like name is there:
    /// PostgreSQL would call another function if its parameters fit the call better.
    async fn functions_fault(&self, client: &Client) -> Result<Option<Fault>> {
        let table = self.table();
        let query = "SELECT version, pg_catalog.to_jsonb(c)->>'functions' FROM {table} c";
        let there = "SELECT pg_catalog.to_regclass($1) IS NOT NULL";
        let lacking =
            Fault::Broken("functions or the table of the schema backwhen are gone or are others".into());
        if !client.query_one(there, &[&table]).await.map_err(not_looked)?.get::<_, bool>(0) {
            return Ok(Some(lacking));
        }
        let rows = client.query(&query.replace("{table}", &table), &[]).await.map_err(not_looked)?;
        let Some(row) = rows.first() else { return Ok(Some(Fault::Emptied)) };
        if row.get::<_, &str>(0) != version() {
            return Ok(Some(Fault::OtherVersion));
        }
        let now: Option<String> =
            client.query_one(&self.filled(FUNCTIONS), &[]).await.map_err(not_looked)?.get(0);
        let same = now.is_some() && now == row.get::<_, Option<String>>(1);
        let whole = self.triggers_count(client).await? == EVENT_TRIGGERS;
        Ok((!same || !whole).then_some(lacking))
    }

    async fn triggers_count(&self, client: &Client) -> Result<i64> {
        let query = "SELECT count(*) FROM pg_catalog.pg_event_trigger e WHERE e.evtname LIKE $1";
        Ok(client.query_one(query, &[&self.filled("!{slot}\\_%")]).await.map_err(not_looked)?.get(0))
    }

    /// Returns how often somebody else has taken a table out of the publications while the triggers were there to see
    /// it; 0 without triggers.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn taken_out(&self, client: &Client) -> Result<i64> {
        Ok(self.remembered(client, "taken_out").await?.and_then(|count| count.parse().ok()).unwrap_or(0))
    }

    /// Whether the event triggers put tables into all publications of the pool.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn are_pooled(&self, client: &Client) -> Result<bool> {
        Ok(self.remembered(client, "pooled").await?.is_some_and(|pooled| pooled == "true"))
    }

    /// Has the event triggers put tables into all publications of the pool. The stream must name all of them.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn use_pool(&self, client: &Client) -> Result<()> {
        if self.remembered(client, "pooled").await?.is_some_and(|pooled| pooled == "false") {
            client.batch_execute(&self.pool_update(true)).await.map_err(not_looked)?;
        }
        Ok(())
    }

    /// Reads a column of the event triggers' table; `None` if there is no table, no row, or no such column, as in the
    /// table of an older version.
    async fn remembered(&self, client: &Client, column: &str) -> Result<Option<String>> {
        let table = self.table();
        let query = "SELECT pg_catalog.to_regclass($1) IS NOT NULL";
        if !client.query_one(query, &[&table]).await.map_err(not_looked)?.get::<_, bool>(0) {
            return Ok(None);
        }
        let query = format!("SELECT pg_catalog.to_jsonb(c) ->> $1 FROM {table} c");
        Ok(client.query_opt(&query, &[&column]).await.map_err(not_looked)?.and_then(|row| row.get(0)))
    }

    /// Removes the event triggers from the source, and the schema `backwhen` if no other history lives in it.
    ///
    /// # Errors
    /// `Unavailable` or `Refused` if the server fails.
    pub async fn remove(&self, client: &Client) -> Result<()> {
        let sql =
            format!("BEGIN READ WRITE; {} COMMIT", [&own("install"), CLEAR, REMOVE, REMOVE_SCHEMA].concat());
        let removed = client.batch_execute(&self.filled(&sql)).await;
        if removed.is_err() {
            // The transaction has to end, because the session is used again.
            let _ = client.batch_execute("ROLLBACK").await;
        }
        removed.map_err(|error| server_error("cannot take the event triggers off the source", error))
    }

    fn table(&self) -> String {
        self.filled("backwhen.{slot}_config")
    }

    fn filled(&self, template: &str) -> String {
        template.replace("{slot}", &self.slot)
    }
}

/// Makes the schema `backwhen`, unless it exists.
///
/// # Errors
/// `Refused` if the server refuses, or if somebody else decides what lies in the schema; `Unavailable` if the server
/// fails.
pub(super) async fn make_schema(client: &Client) -> Result<()> {
    let made = client.batch_execute("CREATE SCHEMA IF NOT EXISTS backwhen").await;
    made.map_err(|error| server_error("cannot make the schema backwhen on the source", error))?;
    schema::fault(client).await?.map_or(Ok(()), |fault| Err(schema::untrusted(&fault)))
}

fn not_looked(error: tokio_postgres::Error) -> Error {
    server_error("cannot look at the source's event triggers", error)
}

/// Returns SQL that marks the rest of its transaction as backwhen's own work, which no event trigger of backwhen's
/// tells.
pub(super) fn own(what: &str) -> String {
    OWN.replace("{own}", what)
}

/// Lists the oids of the types whose names the reader of the messages knows.
fn common_types() -> String {
    let oids: Vec<_> = COMMON_TYPES.iter().map(|(oid, _)| oid.to_string()).collect();
    oids.join(", ")
}

/// Returns a version of the installed SQL, which changes with every change of its text.
fn version() -> String {
    let text = [
        OWN,
        OLDER,
        CLEAR,
        TABLE,
        EVENTS,
        TELL,
        ROWS,
        RETOLD,
        AFFECTED,
        IDENTIFY,
        IDENTITIES,
        DEFINITION,
        TRIGGERS,
        PINS,
        PLANS,
        JOINS,
        VALUES,
        ENGLISH,
        FUNCTIONS,
        &common_types(),
    ]
    .concat();
    blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
}
