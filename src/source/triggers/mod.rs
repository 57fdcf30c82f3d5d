//! Event triggers on the source: they tell each change of its definitions in the log, at its place
//! between the rows, and put new tables into the publications.
//!
//! [`crate::signal`] reads the messages that the event triggers write. The event triggers live in the schema `backwhen`, named
//! after the history's slot; several histories of one database share the schema.

mod install;
mod schema;

use std::fmt;

use tokio_postgres::Client;

use crate::connect::server_error;
use crate::error::{Error, Result};
use crate::signal::COMMON_TYPES;
use crate::signal::sql::{
    AFFECTED, CLEAR, DEFINITION, EVENTS, OLDER, OWN, REMOVE, RETOLD, ROWS, TABLE, TELL, TRIGGERS,
};

/// What the functions run under that the event triggers call: names are all found. Each setting costs
/// time at every statement, so what few need stands in [`VALUES`] and [`ENGLISH`].
const PINS: &str = "SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off";

/// What the functions run under that read values: they come out as they do in the stream.
const VALUES: &str = "SET datestyle = 'ISO, MDY' SET intervalstyle = postgres SET extra_float_digits = 3 \
     SET timezone = 'UTC' SET bytea_output = hex SET lc_monetary = 'C'";

/// Of the catalogs, a statement concerns a few rows, which indexes find; planned once in a session.
const PLANS: &str = " SET jit = off SET plan_cache_mode = force_generic_plan SET enable_seqscan = off \
     SET enable_bitmapscan = off";

/// As [`PLANS`], for the functions that join.
const JOINS: &str = "SET enable_hashjoin = off SET enable_mergejoin = off SET enable_material = off";

/// Only a superuser may set it; it keeps the words of a context from being translated.
const ENGLISH: &str = "SET lc_messages = 'C'";

/// A digest of a history's functions: of all that the server has to say of them.
const FUNCTIONS: &str = "SELECT pg_catalog.md5(pg_catalog.string_agg(pg_catalog.concat_ws('|', p.proname, \
     pg_catalog.pg_get_function_identity_arguments(p.oid), p.prorettype::pg_catalog.regtype, p.proowner, p.prolang, \
     p.prosecdef, p.proconfig, p.prosrc), E'\\n' ORDER BY p.proname, p.proargtypes::text)) FROM pg_catalog.pg_proc p \
     WHERE p.pronamespace = (SELECT n.oid FROM pg_catalog.pg_namespace n WHERE n.nspname = 'backwhen') \
       AND p.proname LIKE '{slot}\\_%'";

/// How many of them make a whole.
const EVENT_TRIGGERS: i64 = 5;

/// A history's event triggers.
pub struct Triggers {
    slot: String,
}

/// What came of an attempt to install them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Installed {
    Yes,
    /// The role lacks the right, in the server's words.
    NotAllowed(String),
}

/// What is wrong with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Schema changes are not told, or not all: in words, what is gone or disabled.
    Broken(String),
    /// Another version of backwhen installed them: they tell what that one could.
    OtherVersion,
    /// Their table is unlogged: a crash of the server emptied it, and they have told nothing since.
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

    /// What is wrong with them; `None` if nothing is.
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
        // An older version had one less; what is installed tells its version.
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

    /// The functions must be those that were installed, and no other of a like name may be there: one that fits a
    /// call better would be called.
    async fn functions_fault(&self, client: &Client) -> Result<Option<Fault>> {
        let table = self.filled("backwhen.{slot}_config");
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

    /// How often somebody else has taken a table out of the publications, as far as the triggers were there to see
    /// it; 0 without them.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn taken_out(&self, client: &Client) -> Result<i64> {
        let failed = |error| server_error("cannot look at what the event triggers remember", error);
        // An older version's table lacks the column.
        let query = "SELECT count(*) FROM pg_catalog.pg_attribute \
                      WHERE attrelid = pg_catalog.to_regclass($1) AND attname = 'taken_out'";
        let table = self.filled("backwhen.{slot}_config");
        let known: i64 = client.query_one(query, &[&table]).await.map_err(failed)?.get(0);
        if known == 0 {
            return Ok(0);
        }
        let rows = client.query(&format!("SELECT taken_out FROM {table}"), &[]).await.map_err(failed)?;
        Ok(rows.first().map_or(0, |row| row.get(0)))
    }

    /// Takes them off the source, and the schema if no other history lives in it.
    ///
    /// # Errors
    /// `Unavailable` or `Refused` if the server fails.
    pub async fn remove(&self, client: &Client) -> Result<()> {
        let sql = format!("BEGIN READ WRITE; {} COMMIT", [&own("install"), CLEAR, REMOVE].concat());
        let removed = client.batch_execute(&self.filled(&sql)).await;
        if removed.is_err() {
            // The session is used again.
            let _ = client.batch_execute("ROLLBACK").await;
        }
        removed.map_err(|error| server_error("cannot take the event triggers off the source", error))
    }

    fn filled(&self, template: &str) -> String {
        template.replace("{slot}", &self.slot)
    }
}

/// Why the connected role may not install event triggers; `None` if it may. Nothing stays of the trial.
///
/// # Errors
/// `Unavailable` if the server fails.
pub async fn refusal(client: &Client) -> Result<Option<String>> {
    let trial = "BEGIN READ WRITE; \
         CREATE FUNCTION pg_temp.backwhen_trial() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; \
         CREATE EVENT TRIGGER \"!backwhen_trial\" ON table_rewrite EXECUTE FUNCTION pg_temp.backwhen_trial(); \
         ROLLBACK";
    let trial = trial.replacen("; ", &format!("; {}", own("install")), 1);
    let Err(error) = client.batch_execute(&trial).await else { return Ok(None) };
    let _ = client.batch_execute("ROLLBACK").await;
    match error.as_db_error() {
        Some(fault) => Ok(Some(fault.message().to_owned())),
        None => Err(server_error("cannot try to make an event trigger", error)),
    }
}

fn not_looked(error: tokio_postgres::Error) -> Error {
    server_error("cannot look at the source's event triggers", error)
}

/// SQL that makes what follows it in its transaction backwhen's own doing, which no event trigger of ours tells.
pub(super) fn own(what: &str) -> String {
    OWN.replace("{own}", what)
}

/// The oids of the types whose names the reader knows.
fn common_types() -> String {
    let oids: Vec<_> = COMMON_TYPES.iter().map(|(oid, _)| oid.to_string()).collect();
    oids.join(", ")
}

/// Changes with the text of what is installed.
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
