//! Loads many small tables in one transaction, and reads many back with one message: a table by itself costs several
//! messages and a transaction, which take longer than its rows.

use bytes::Bytes;
use futures_util::future::try_join_all;

use crate::connect::{ServerFault, Session, server_error};
use crate::error::Result;
use crate::model::Table;
use crate::model::spelling::Spelled;

use super::super::Contents;
use super::PostgresSink;
use super::rows::send_text;

impl PostgresSink {
    /// How many sessions load small tables at the same time.
    pub fn sessions_for_few(&self) -> usize {
        self.room.sessions
    }

    /// Loads the rows of tables, given as lines: all of them or, if the server refuses some, none. Returns whether they
    /// are loaded.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub async fn load_few(&self, tables: &[(&Table, Bytes)]) -> Result<bool> {
        if self.loads_through_roots() {
            return Ok(false);
        }
        let session = self.row_session().await?;
        let loaded = self.copy_together(&session, tables).await;
        if let Err(error) = loaded {
            // The session ends, and its transaction is rolled back.
            let is_refused = ServerFault::of(&error).is_some_and(ServerFault::is_refusal);
            return if is_refused { Ok(false) } else { Err(error) };
        }
        self.idle().push(session);
        Ok(true)
    }

    async fn copy_together(&self, session: &Session, tables: &[(&Table, Bytes)]) -> Result<()> {
        let fail = |error| server_error("cannot load small tables", error);
        let spelled: Vec<_> =
            tables.iter().map(|(table, _)| Spelled::of(table, &self.facts.encoding)).collect();
        // Rows that an extension's script inserted are removed; without extensions nothing has inserted any.
        let has_rows = !self.definitions.extensions().is_empty();
        let empty = spelled.iter().filter(|_| has_rows).map(|it| format!("; DELETE FROM ONLY {}", it.table));
        session.batch_execute(&format!("BEGIN{}", empty.collect::<String>())).await.map_err(fail)?;
        // The session sends each request without waiting for the answers to those before.
        let copies = tables.iter().zip(&spelled).map(async |((_, rows), it)| {
            send_text(session, &format!("COPY {}{} FROM STDIN", it.table, it.columns), rows.clone()).await
        });
        try_join_all(copies).await.map_err(fail)?;
        session.batch_execute("COMMIT").await.map_err(fail)
    }

    /// Counts and digests the rows of tables.
    ///
    /// # Errors
    /// Fails with `Refused` or `Unavailable` and the server's words.
    pub async fn read_back_few(&self, tables: &[&Table]) -> Result<Vec<Contents>> {
        let copy = |table: &&Table| {
            let spelled = Spelled::of(table, &self.facts.encoding);
            format!("COPY {}{} TO STDOUT", spelled.table, spelled.columns)
        };
        self.digests("small tables", tables.iter().map(copy).collect()).await
    }
}
