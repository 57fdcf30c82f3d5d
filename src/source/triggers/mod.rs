//! Event triggers on the source: they tell each change of its definitions in the log, at its place
//! between the rows, and put new tables into the publications.
//!
//! What they write is read by [`crate::history::signal`]. They live in the schema `backwhen`, named
//! after the history's slot; several histories of one database share the schema.

use std::fmt;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::publication::Publications;
use crate::connect::server_error;
use crate::error::Result;
use crate::history::Identity;
use crate::history::signal::COMMON_TYPES;
use crate::model::Selection;
use crate::model::schema::quote_literal;

const CLEAR: &str = include_str!("clear.sql");
const TABLE: &str = include_str!("table.sql");
const EVENTS: &str = include_str!("events.sql");
const TELL: &str = include_str!("tell.sql");
const ROWS: &str = include_str!("rows.sql");
const AFFECTED: &str = include_str!("affected.sql");
const DEFINITION: &str = include_str!("definition.sql");
const TRIGGERS: &str = include_str!("triggers.sql");
const REMOVE: &str = include_str!("remove.sql");

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

/// How many of them make a whole.
const EVENT_TRIGGERS: i64 = 4;

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
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Broken(what) => f.write_str(what),
            Fault::OtherVersion => f.write_str("another version of backwhen installed them"),
        }
    }
}

impl Triggers {
    pub fn of_slot(slot: &str) -> Triggers {
        Triggers { slot: slot.to_owned() }
    }

    /// Installs them anew, in one transaction; those that are there already are replaced.
    ///
    /// # Errors
    /// `Usage` if a pattern cannot be read; `Unavailable` or `Refused` if the server fails.
    pub async fn install(&self, client: &Client, identity: &Identity) -> Result<Installed> {
        let failed = |error| server_error("cannot install the event triggers on the source", error);
        let query = "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user";
        let superuser = client.query_one(query, &[]).await.map_err(failed)?.get(0);
        match client.batch_execute(&self.statements(identity, superuser)?).await {
            Ok(()) => Ok(Installed::Yes),
            Err(error) => {
                // The session is used again.
                let _ = client.batch_execute("ROLLBACK").await;
                match error.as_db_error() {
                    Some(fault) if *fault.code() == SqlState::INSUFFICIENT_PRIVILEGE => {
                        Ok(Installed::NotAllowed(fault.message().to_owned()))
                    }
                    _ => Err(failed(error)),
                }
            }
        }
    }

    fn statements(&self, identity: &Identity, superuser: bool) -> Result<String> {
        let english = if superuser { ENGLISH } else { "" };
        let functions = [CLEAR, EVENTS, TELL, ROWS, AFFECTED, DEFINITION, TRIGGERS].concat();
        Ok(format!(
            "BEGIN READ WRITE; SET LOCAL backwhen.own = 'install'; SET LOCAL check_function_bodies = on; \
             CREATE SCHEMA IF NOT EXISTS backwhen; {}\n{}\n{} COMMIT",
            self.filled(TABLE),
            self.configuration(identity)?,
            self.filled(&functions)
                .replace("{pins}", &[PINS, PLANS].concat())
                .replace("{joins}", JOINS)
                .replace("{common_types}", &common_types())
                .replace("{values}", VALUES)
                .replace("{english}", english)
        ))
    }

    /// The one row of the table; a limit that somebody has set stays.
    fn configuration(&self, identity: &Identity) -> Result<String> {
        let selection = Selection::parse(&identity.include, &identity.exclude)?;
        let publications = Publications::of_slot(&self.slot);
        let array = |texts: Vec<String>| {
            let quoted: Vec<_> = texts.iter().map(|text| quote_literal(text)).collect();
            format!("ARRAY[{}]::pg_catalog.text[]", quoted.join(", "))
        };
        let published = |name: &str| {
            let name = quote_literal(name);
            format!("(SELECT oid FROM pg_catalog.pg_publication WHERE pubname = {name})")
        };
        let ((include_schema, include_name), (exclude_schema, exclude_name)) = selection.like_patterns();
        let set = [
            ("secret", quote_literal(&identity.secret)),
            ("exact", quote_literal(&publications.exact)),
            ("inserts", quote_literal(&publications.inserts)),
            ("include_schema", array(include_schema)),
            ("include_name", array(include_name)),
            ("exclude_schema", array(exclude_schema)),
            ("exclude_name", array(exclude_name)),
            ("version", quote_literal(&version())),
            ("exact_id", published(&publications.exact)),
            ("inserts_id", published(&publications.inserts)),
        ];
        let (names, values): (Vec<_>, Vec<_>) = set.into_iter().unzip();
        let (names, values) = (names.join(", "), values.join(", "));
        let table = self.filled("backwhen.{slot}_config");
        Ok(format!(
            "UPDATE {table} SET ({names}) = ROW({values}); \
             INSERT INTO {table} ({names}) SELECT {values} WHERE NOT EXISTS (SELECT FROM {table});"
        ))
    }

    /// What is wrong with them; `None` if nothing is.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn fault(&self, client: &Client) -> Result<Option<Fault>> {
        let failed = |error| server_error("cannot look at the source's event triggers", error);
        let query = "SELECT count(*) FILTER (WHERE e.evtenabled = 'A'), count(*), \
                            pg_catalog.to_regclass($1) IS NOT NULL, \
                            (SELECT count(*) FROM pg_catalog.pg_proc p \
                               JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace \
                              WHERE n.nspname = 'backwhen' AND p.proname LIKE $2) \
                       FROM pg_catalog.pg_event_trigger e WHERE e.evtname LIKE $3";
        let table = self.filled("backwhen.{slot}_config");
        let (functions, triggers) = (self.filled("{slot}\\_%"), self.filled("!{slot}\\_%"));
        let row = client.query_one(query, &[&table, &functions, &triggers]).await.map_err(failed)?;
        let (enabled, there): (i64, i64) = (row.get(0), row.get(1));
        if there < EVENT_TRIGGERS {
            let gone = EVENT_TRIGGERS - there;
            return Ok(Some(Fault::Broken(format!("{gone} of {EVENT_TRIGGERS} event triggers are gone"))));
        }
        if enabled < EVENT_TRIGGERS {
            let disabled = there - enabled;
            return Ok(Some(Fault::Broken(format!("{disabled} event triggers are disabled"))));
        }
        let lacking = Fault::Broken("functions or the table of the schema backwhen are gone".into());
        if !row.get::<_, bool>(2) {
            return Ok(Some(lacking));
        }
        let rows = client.query(&format!("SELECT version FROM {table}"), &[]).await.map_err(failed)?;
        // How many functions another version has is not known here.
        match rows.first().map(|row| row.get::<_, String>(0)) {
            Some(installed) if installed != version() => Ok(Some(Fault::OtherVersion)),
            Some(_) if row.get::<_, i64>(3) >= functions_expected() => Ok(None),
            _ => Ok(Some(lacking)),
        }
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
        let removed = client.batch_execute(&self.filled(&[CLEAR, REMOVE].concat())).await;
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
    let trial = "BEGIN READ WRITE; SET LOCAL backwhen.own = 'install'; \
         CREATE FUNCTION pg_temp.backwhen_trial() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; \
         CREATE EVENT TRIGGER \"!backwhen_trial\" ON table_rewrite EXECUTE FUNCTION pg_temp.backwhen_trial(); \
         ROLLBACK";
    let Err(error) = client.batch_execute(trial).await else { return Ok(None) };
    let _ = client.batch_execute("ROLLBACK").await;
    match error.as_db_error() {
        Some(fault) => Ok(Some(fault.message().to_owned())),
        None => Err(server_error("cannot try to make an event trigger", error)),
    }
}

fn functions_expected() -> i64 {
    [EVENTS, TELL, ROWS, AFFECTED, DEFINITION]
        .iter()
        .map(|text| text.matches("CREATE OR REPLACE FUNCTION").count())
        .sum::<usize>() as i64
}

/// The oids of the types whose names the reader knows.
fn common_types() -> String {
    let oids: Vec<_> = COMMON_TYPES.iter().map(|(oid, _)| oid.to_string()).collect();
    oids.join(", ")
}

/// Changes with the text of what is installed.
fn version() -> String {
    let text = [
        CLEAR,
        TABLE,
        EVENTS,
        TELL,
        ROWS,
        AFFECTED,
        DEFINITION,
        TRIGGERS,
        PINS,
        PLANS,
        JOINS,
        VALUES,
        ENGLISH,
        &common_types(),
    ]
    .concat();
    blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
}
