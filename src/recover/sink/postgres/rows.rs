//! Rows in, and rows read back.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};

use crate::connect::{Session, server_error};
use crate::error::Result;
use crate::model::Table;

use super::super::{Contents, RowDigest, Rows};
use super::Target;
use crate::model::spelling::Spelled;

impl Target {
    /// Loads one table in one transaction: all of its rows or none.
    ///
    /// # Errors
    /// What `rows` says; `Refused` or `Unavailable` with the server's words.
    pub async fn load(&self, table: &Table, rows: Rows) -> Result<()> {
        // After an error or when this future is dropped the session goes, and takes the
        // transaction with it.
        let session = self.row_session().await?;
        copy_in(&session, table, &self.facts.encoding, rows).await?;
        self.idle().push(session);
        Ok(())
    }

    /// Counts and digests the rows of a table, in the server's encoding.
    ///
    /// # Errors
    /// `Refused` or `Unavailable` with the server's words.
    pub async fn read_back(&self, table: &Table) -> Result<Contents> {
        let session = self.row_session().await?;
        let fail = |error| server_error(format!("cannot read back {}", table.display()), error);
        let spelled = Spelled::of(table, &self.facts.encoding);
        let copy = format!("COPY {}{} TO STDOUT", spelled.table, spelled.columns);
        let mut stream = Box::pin(session.copy_out(&copy).await.map_err(fail)?);
        let mut digest = RowDigest::default();
        while let Some(bytes) = stream.next().await {
            digest.update(&bytes.map_err(fail)?);
        }
        drop(stream);
        self.idle().push(session);
        let (rows, digest) = digest.finish();
        Ok(Contents { rows, digest: Some(digest) })
    }
}

async fn copy_in(session: &Session, table: &Table, encoding: &str, mut rows: Rows) -> Result<()> {
    let fail = |error| server_error(format!("cannot load {}", table.display()), error);
    let spelled = Spelled::of(table, encoding);
    // Emptied in the same transaction, so that FREEZE is allowed (rows need no later vacuum) and
    // rows that an extension's script put there do not stay.
    let begin = format!("BEGIN; TRUNCATE ONLY {}", spelled.table);
    session.batch_execute(&begin).await.map_err(fail)?;
    let copy = format!("COPY {}{} FROM STDIN (FREEZE)", spelled.table, spelled.columns);
    let mut sink = Box::pin(session.copy_in::<_, Bytes>(&copy).await.map_err(fail)?);
    while let Some(chunk) = rows.recv().await {
        sink.feed(chunk?).await.map_err(fail)?;
    }
    sink.as_mut().finish().await.map_err(fail)?;
    session.batch_execute("COMMIT").await.map_err(fail)
}
