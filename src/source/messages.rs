//! Writes backwhen's own messages into the source's WAL.

use crate::connect::{Session, server_error};
use crate::error::{Context, Error, Kind, Result};
use crate::model::Lsn;
use crate::signal::key::MessageKey;

use super::sequences::parse_lsn;

/// Writes signed messages, each a prefix and JSON, in one transaction; returns the position of the last message.
///
/// # Errors
/// `Unavailable` if the source fails; the session cannot be used afterwards.
pub async fn write(session: &Session, key: &MessageKey, messages: &[(&str, &str)]) -> Result<Lsn> {
    session.batch_execute("BEGIN READ WRITE").await.map_err(unwritten)?;
    let last = emit(session, key, messages).await?;
    session.batch_execute("COMMIT").await.map_err(unwritten)?;
    Ok(last)
}

/// Writes signed messages within the session's transaction; returns the position of the last message.
///
/// # Errors
/// `Unavailable` if the source fails.
pub(super) async fn emit(session: &Session, key: &MessageKey, messages: &[(&str, &str)]) -> Result<Lsn> {
    let number = session.query_one("SELECT pg_catalog.pg_current_xact_id()::text", &[]).await;
    let number: String = number.map_err(unwritten)?.get(0);
    let number: u64 =
        number.parse().context(Kind::Internal, || "the server numbered a transaction oddly".into())?;
    let mut last = Lsn::ZERO;
    for (prefix, json) in messages {
        let content = key.sign(prefix, number, ascii(json).as_bytes());
        let content = String::from_utf8_lossy(&content).into_owned();
        let statement = "SELECT pg_catalog.pg_logical_emit_message(true, $1, $2)::text";
        let row = session.query_one(statement, &[prefix, &content]).await;
        last = parse_lsn(row.map_err(unwritten)?.get(0))?;
    }
    Ok(last)
}

fn unwritten(error: tokio_postgres::Error) -> Error {
    server_error("cannot write a message into the source's WAL", error)
}

/// Returns the end of the source's WAL.
///
/// # Errors
/// `Unavailable` if the source fails.
pub async fn wal_end(session: &Session) -> Result<Lsn> {
    let row = session.query_one("SELECT pg_catalog.pg_current_wal_lsn()::text", &[]).await;
    parse_lsn(row.map_err(|error| server_error("cannot ask for the end of the log", error))?.get(0))
}

/// Escapes JSON to ASCII: the server stores a message in the database's encoding, and the reader does not know which
/// encoding that is.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for letter in json.chars() {
        if letter.is_ascii() {
            text.push(letter);
        } else {
            // In JSON, characters beyond ASCII occur only inside strings, where an escape means the same.
            letter.encode_utf16(&mut [0; 2]).iter().for_each(|unit| text += &format!("\\u{unit:04x}"));
        }
    }
    text
}
