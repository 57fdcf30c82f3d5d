//! The mark on a database that cannot be renamed while it is being built.

use crate::connect::{Session, server_error};
use crate::error::Result;
use crate::model::schema::{quote_ident, quote_literal};

use super::unfinished::COMMENT;

/// The name of the schema that marks the database as unfinished.
pub(in crate::recover) const MARKER: &str = "backwhen_unfinished";

/// Marks a database that cannot be renamed, and makes other users' sessions read-only if that is permitted. Returns
/// whether it was.
///
/// # Errors
/// Fails with `Refused` and the server's words.
pub(super) async fn mark(session: &Session, name: &str) -> Result<bool> {
    let marker = format!("CREATE SCHEMA {MARKER}; COMMENT ON SCHEMA {MARKER} IS {}", quote_literal(COMMENT));
    session
        .batch_execute(&marker)
        .await
        .map_err(|error| server_error(format!("cannot mark database {name} as unfinished"), error))?;
    let sql = format!("ALTER DATABASE {} SET default_transaction_read_only = on", quote_ident(name));
    Ok(session.batch_execute(&sql).await.is_ok())
}

pub(super) async fn unmark(session: &Session, name: &str, read_only: bool) -> Result<()> {
    let reset = format!("ALTER DATABASE {} RESET default_transaction_read_only;", quote_ident(name));
    let sql = format!("BEGIN; {} DROP SCHEMA {MARKER}; COMMIT", if read_only { &reset } else { "" });
    session
        .batch_execute(&sql)
        .await
        .map_err(|error| server_error(format!("cannot take the mark {MARKER} off database {name}"), error))
}
