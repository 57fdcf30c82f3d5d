//! Installs a history's event triggers, in one transaction.

use bytes::Bytes;
use futures_util::SinkExt;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error as ServerError};

use super::{
    AFFECTED, CLEAR, DEFINITION, ENGLISH, EVENTS, FUNCTIONS, IDENTIFY, InstallOutcome, JOINS, OLDER, PINS,
    PLANS, RETOLD, ROWS, TABLE, TELL, TRIGGERS, Triggers, VALUES, common_types, own, schema, version,
};
use crate::codec::copy_text::push_escaped;
use crate::connect::server_error;
use crate::error::Result;
use crate::history::Identity;
use crate::model::schema::quote_literal;
use crate::model::{Grade, Selection};
use crate::signal::key::MessageKey;
use crate::source::identity::{FullIdentity, identities};
use crate::source::publication::Publications;

/// How often an installation is tried while another one makes the same schema.
const ATTEMPTS: u32 = 3;

/// The columns that each installation writes anew.
const COLUMNS: &str = "inner_key, outer_key, include_schema, include_name, exclude_schema, exclude_name, \
                       image_limit, taken_out, version";

/// The call that treats the replica identities of a statement's tables.
const IDENTIFY_CALL: &str = "PERFORM backwhen.{slot}_identify(relations);";

/// Whether the history protects a table, in the query for the tables to treat.
const WANTED: &str = "backwhen.{slot}_wants(c.oid)";

/// The values that an installation takes over from the one before: the limit of an image in bytes, and how often a
/// table was taken out of the publications.
type Inherited = (i64, i64);

/// Whether another installation made the schema, or a function in it, at the same time.
fn is_made_by_another<T>(installed: &Result<Result<T, ServerError>>) -> bool {
    matches!(installed, Ok(Err(error)) if error.code() == Some(&SqlState::UNIQUE_VIOLATION))
}

impl Triggers {
    /// Installs the event triggers, in place of an earlier installation.
    ///
    /// # Errors
    /// `Usage` if a pattern cannot be parsed; `Refused` if the schema `backwhen` cannot be trusted; `Unavailable` or
    /// `Refused` if the server fails.
    pub async fn install(&self, client: &Client, identity: &Identity) -> Result<InstallOutcome> {
        let selection = Selection::parse(&identity.include, &identity.exclude)?;
        let row = row(&identity.message_key(), &selection);
        self.attempt(client, &row, "COMMIT").await
    }

    /// Tries the whole installation under a slot's name that no history has, and rolls it back.
    ///
    /// # Errors
    /// The errors of [`Triggers::install`].
    pub async fn try_install(client: &Client) -> Result<InstallOutcome> {
        let row = row(&MessageKey::new("", 2), &Selection::parse(&[], &[])?);
        Triggers::of_slot("backwhen_trial").attempt(client, &row, "ROLLBACK").await
    }

    async fn attempt(
        &self,
        client: &Client,
        row: &(dyn Fn(Inherited) -> Bytes + Sync),
        end: &str,
    ) -> Result<InstallOutcome> {
        let mut attempts = 0;
        let installed = loop {
            let installed = self.install_in_transaction(client, row, end).await;
            if !matches!(installed, Ok(Ok(None))) {
                // The transaction has to end, because the session is used again.
                let _ = client.batch_execute("ROLLBACK").await;
            }
            attempts += 1;
            if attempts == ATTEMPTS || !is_made_by_another(&installed) {
                break installed;
            }
        };
        match installed? {
            Ok(None) => Ok(InstallOutcome::Installed),
            Ok(Some(fault)) => Err(schema::untrusted(&fault)),
            Err(error) => match error.as_db_error() {
                Some(fault) if *fault.code() == SqlState::INSUFFICIENT_PRIVILEGE => {
                    Ok(InstallOutcome::NotAllowed(fault.message().to_owned()))
                }
                _ => Err(server_error("cannot install the event triggers on the source", error)),
            },
        }
    }

    async fn install_in_transaction(
        &self,
        client: &Client,
        row: &(dyn Fn(Inherited) -> Bytes + Sync),
        end: &str,
    ) -> Result<Result<Option<schema::SchemaFault>, ServerError>> {
        let query = "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user";
        let superuser = match client.query_one(query, &[]).await {
            Ok(row) => row.get(0),
            Err(error) => return Ok(Err(error)),
        };
        // A migration at work reads the configuration table until the migration ends. The migration goes first: this
        // attempt gives up, and the caller tries again.
        let begin = format!(
            "BEGIN READ WRITE; SET LOCAL lock_timeout = '5s'; SET LOCAL check_function_bodies = on; {} \
             CREATE SCHEMA IF NOT EXISTS backwhen; {}",
            own("install"),
            self.filled(OLDER),
        );
        if let Err(error) = client.batch_execute(&begin).await {
            return Ok(Err(error));
        }
        // The check comes after the creation, since somebody may have created the schema in between.
        if let Some(fault) = schema::fault(client).await? {
            return Ok(Ok(Some(fault)));
        }
        let full_identity = FullIdentity::of_slot(&self.slot).is_on(client).await?;
        Ok(self.fill(client, (superuser, full_identity), row, end).await.map(|()| None))
    }

    async fn fill(
        &self,
        client: &Client,
        (superuser, full_identity): (bool, bool),
        row: &(dyn Fn(Inherited) -> Bytes + Sync),
        end: &str,
    ) -> Result<(), ServerError> {
        client.batch_execute(&self.filled(TABLE)).await?;
        let table = self.table();
        let inherited = client.query_opt(&format!("SELECT image_limit, taken_out FROM {table}"), &[]).await?;
        let inherited = inherited.map_or((1 << 30, 0), |row| (row.get(0), row.get(1)));
        client.batch_execute(&format!("DELETE FROM {table}")).await?;
        // The row holds the keys. By COPY, because the data of a COPY are not written to the server's statement log.
        let mut sink = std::pin::pin!(client.copy_in(&format!("COPY {table} ({COLUMNS}) FROM STDIN")).await?);
        sink.send(row(inherited)).await?;
        sink.finish().await?;
        client.batch_execute(&format!("{}{end}", self.statements(superuser, full_identity))).await
    }

    fn statements(&self, superuser: bool, full_identity: bool) -> String {
        let english = if superuser { ENGLISH } else { "" };
        let ids = format!(
            "{}; UPDATE {} SET own = pg_catalog.pg_current_xact_id();",
            self.pool_update(false),
            self.table()
        );
        // Without --full-identity, the function that every statement runs has nothing of it.
        let (identify, hook) = if full_identity { (IDENTIFY, IDENTIFY_CALL) } else { ("", "") };
        let functions =
            [CLEAR, EVENTS, TELL, ROWS, RETOLD, AFFECTED, identify, DEFINITION, TRIGGERS].concat();
        let functions = functions
            .replace("{identify}", hook)
            .replace("{identities}", &identities(&self.slot, "reached", "'new'", WANTED))
            .replace("{functions}", FUNCTIONS)
            .replace("{pins}", &[PINS, PLANS].concat())
            .replace("{joins}", JOINS)
            .replace("{common_types}", &common_types())
            .replace("{values}", VALUES)
            .replace("{english}", english);
        format!("{ids}\n{}\n", self.filled(&functions))
    }

    /// Returns SQL that tells the event triggers the oids of the publications, and whether to use the whole pool: if the
    /// stream names it, or if there is no slot yet.
    pub(super) fn pool_update(&self, is_named: bool) -> String {
        let publications = Publications::of_slot(&self.slot);
        let oids = |grade| {
            let names = quote_literal(&array(publications.names(grade)));
            format!(
                "ARRAY(SELECT oid FROM pg_catalog.pg_publication WHERE pubname = ANY ({names}::text[]) \
                 ORDER BY pg_catalog.array_position({names}::text[], pubname::text))"
            )
        };
        // A transaction that has taken a table out of the publications keeps the row locked until the transaction ends.
        format!(
            "UPDATE {table} SET exact_ids = {}, inserts_ids = {}, \
                    pooled = {is_named} OR NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots WHERE slot_name = {}) \
              WHERE ctid IN (SELECT ctid FROM {table} FOR UPDATE SKIP LOCKED)",
            oids(Grade::Exact),
            oids(Grade::InsertOnly),
            quote_literal(&self.slot),
            table = self.table(),
        )
    }
}

/// Returns a function that makes the configuration table's row, a COPY line; it keeps a limit that somebody has set.
fn row(key: &MessageKey, selection: &Selection) -> impl Fn(Inherited) -> Bytes + use<> {
    let (inner, outer) = key.halves();
    let ((include_schema, include_name), (exclude_schema, exclude_name)) = selection.like_patterns();
    let before = [
        hexadecimal(&inner),
        hexadecimal(&outer),
        array(&include_schema),
        array(&include_name),
        array(&exclude_schema),
        array(&exclude_name),
    ];
    move |(image_limit, taken_out): Inherited| {
        let mut line = Vec::new();
        for value in &before {
            push_escaped(&mut line, value.as_bytes());
            line.push(b'\t');
        }
        line.extend_from_slice(format!("{image_limit}\t{taken_out}\t{}\n", version()).as_bytes());
        Bytes::from(line)
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\\x{digits}")
}

/// Writes an array of text in the syntax that the server reads.
fn array(texts: &[String]) -> String {
    let quoted = |text: &String| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    format!("{{{}}}", texts.iter().map(quoted).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_quoted() {
        assert_eq!(array(&[]), "{}");
        assert_eq!(array(&["a".into(), r#"\_"%"#.into()]), r#"{"a","\\_\"%"}"#);
    }
}
