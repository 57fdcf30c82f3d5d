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
use crate::model::Selection;
use crate::model::schema::quote_literal;
use crate::source::identity::{FullIdentity, identities};
use crate::source::publication::Publications;

/// The columns that each installation writes anew.
const COLUMNS: &str = "inner_key, outer_key, exact, inserts, include_schema, include_name, exclude_schema, exclude_name, \
                       image_limit, taken_out, version";

/// The call that treats the replica identities of a statement's tables.
const IDENTIFY_CALL: &str = "PERFORM backwhen.{slot}_identify(relations);";

/// Whether the history protects a table, in the query for the tables to treat.
const WANTED: &str = "backwhen.{slot}_wants(n.nspname, c.relname)";

/// The values that an installation takes over from the one before: the limit of an image in bytes, and how often a
/// table was taken out of the publications.
type Inherited = (i64, i64);

impl Triggers {
    /// Installs the event triggers, in place of an earlier installation.
    ///
    /// # Errors
    /// `Usage` if a pattern cannot be parsed; `Refused` if the schema `backwhen` cannot be trusted; `Unavailable` or
    /// `Refused` if the server fails.
    pub async fn install(&self, client: &Client, identity: &Identity) -> Result<InstallOutcome> {
        let row = self.row(identity)?;
        let installed = self.install_in_transaction(client, identity, &row).await;
        if !matches!(installed, Ok(Ok(None))) {
            // The transaction has to end, because the session is used again.
            let _ = client.batch_execute("ROLLBACK").await;
        }
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
        identity: &Identity,
        row: &(dyn Fn(Inherited) -> Bytes + Sync),
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
        Ok(self.fill(client, identity, (superuser, full_identity), row).await.map(|()| None))
    }

    async fn fill(
        &self,
        client: &Client,
        identity: &Identity,
        (superuser, full_identity): (bool, bool),
        row: &(dyn Fn(Inherited) -> Bytes + Sync),
    ) -> Result<(), ServerError> {
        client.batch_execute(&self.filled(TABLE)).await?;
        let table = self.filled("backwhen.{slot}_config");
        let inherited = client.query_opt(&format!("SELECT image_limit, taken_out FROM {table}"), &[]).await?;
        let inherited = inherited.map_or((1 << 30, 0), |row| (row.get(0), row.get(1)));
        client.batch_execute(&format!("DELETE FROM {table}")).await?;
        // The row holds the keys. By COPY, because the data of a COPY are not written to the server's statement log.
        let mut sink = std::pin::pin!(client.copy_in(&format!("COPY {table} ({COLUMNS}) FROM STDIN")).await?);
        sink.send(row(inherited)).await?;
        sink.finish().await?;
        client.batch_execute(&self.statements(identity, superuser, full_identity)).await
    }

    fn statements(&self, identity: &Identity, superuser: bool, full_identity: bool) -> String {
        let english = if superuser { ENGLISH } else { "" };
        let publications = Publications::of_slot(&identity.slot());
        let published = |name: &str| {
            format!("(SELECT oid FROM pg_catalog.pg_publication WHERE pubname = {})", quote_literal(name))
        };
        let (exact, inserts) = (published(&publications.exact), published(&publications.inserts));
        let ids = format!(
            "UPDATE {} SET exact_id = {exact}, inserts_id = {inserts}, own = pg_catalog.pg_current_xact_id();",
            self.filled("backwhen.{slot}_config")
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
        format!("{ids}\n{}\nCOMMIT", self.filled(&functions))
    }

    /// Returns a function that makes the configuration table's row, a COPY line; it keeps a limit that somebody has
    /// set.
    fn row(&self, identity: &Identity) -> Result<impl Fn(Inherited) -> Bytes + use<>> {
        let selection = Selection::parse(&identity.include, &identity.exclude)?;
        let publications = Publications::of_slot(&self.slot);
        let (inner, outer) = identity.message_key().halves();
        let ((include_schema, include_name), (exclude_schema, exclude_name)) = selection.like_patterns();
        let before = [
            hexadecimal(&inner),
            hexadecimal(&outer),
            publications.exact,
            publications.inserts,
            array(&include_schema),
            array(&include_name),
            array(&exclude_schema),
            array(&exclude_name),
        ];
        Ok(move |(image_limit, taken_out): Inherited| {
            let mut line = Vec::new();
            for value in &before {
                push_escaped(&mut line, value.as_bytes());
                line.push(b'\t');
            }
            line.extend_from_slice(format!("{image_limit}\t{taken_out}\t{}\n", version()).as_bytes());
            Bytes::from(line)
        })
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
