//! Makes up for what was lost on the replay's server, where the target may have what that server lacks.

use std::collections::BTreeMap;

use crate::connect::server_error;
use crate::error::Result;
use crate::model::schema::quote_ident;
use crate::model::{Column, Inexact, Table};

use super::PostgresSink;
use super::retry::{attempt, column_type, plain_table};

/// The kinds of object that are made after the rows.
const AFTER_ROWS: [&str; 11] = [
    "CONSTRAINT",
    "FK CONSTRAINT",
    "INDEX",
    "INDEX ATTACH",
    "TRIGGER",
    "RULE",
    "POLICY",
    "ROW SECURITY",
    "STATISTICS",
    "PUBLICATION",
    "EVENT TRIGGER",
];

/// Selects the columns of a table, and whether each is computed.
const COLUMNS: &str = "SELECT attname::text, attgenerated <> '' FROM pg_catalog.pg_attribute \
    WHERE attrelid = pg_catalog.to_regclass($1) AND attnum > 0 AND NOT attisdropped";

impl PostgresSink {
    /// Makes the objects that the replay's server refused, before the rows or after them. Those that this server refuses
    /// too are named.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails, and with `Refused` if nothing may be left out.
    pub(super) async fn make_missing(&self, after_rows: bool) -> Result<()> {
        let is_later = |what: &str| AFTER_ROWS.iter().any(|kind| what.starts_with(&format!("{kind} ")));
        for object in self.missing.iter().filter(|object| is_later(&object.what) == after_rows) {
            if let Some(fault) = attempt(&self.session, &object.sql).await? {
                self.refused.add(object.what.clone(), fault, object.sql.clone())?;
            }
        }
        Ok(())
    }

    /// Gives the tables that the replay could not make as they were what they need for their rows, and names them.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails, and with `Refused` if nothing may be left out.
    pub(super) async fn fit_tables(&self) -> Result<()> {
        for Inexact { what, why } in &self.unfit {
            let Some(table) = self.tables.iter().find(|table| table.display() == *what) else { continue };
            let rows = self.session.query(COLUMNS, &[&table.quoted()]).await;
            let rows = rows.map_err(|error| server_error("cannot see which columns a table has", error))?;
            let found: BTreeMap<String, bool> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
            let mut lacking =
                table.columns.iter().filter(|it| found.get(&it.name) != Some(&false)).peekable();
            if lacking.peek().is_none() && !found.is_empty() {
                continue;
            }
            if found.is_empty() {
                attempt(&self.session, &plain_table(&self.session, table).await?).await?;
            }
            let mut sql = String::new();
            for column in lacking {
                sql += &self.add_column(table, column, found.contains_key(&column.name)).await?;
            }
            let why = format!(
                "as replayed, {why}; its rows are there, in columns of type text where the type is missing"
            );
            self.refused.add(format!("columns of TABLE {what}"), why, sql)?;
        }
        Ok(())
    }

    /// Adds a column, or lets a computed one take values. Returns the statement that gives the column its type.
    async fn add_column(&self, table: &Table, column: &Column, is_computed: bool) -> Result<String> {
        let (name, kind) = (quote_ident(&column.name), column_type(&self.session, column).await?);
        let alter = format!("ALTER TABLE {}", table.quoted());
        let add = if is_computed {
            format!("{alter} ALTER COLUMN {name} DROP EXPRESSION;")
        } else {
            format!("{alter} ADD COLUMN IF NOT EXISTS {name} {kind};")
        };
        attempt(&self.session, &add).await?;
        let was = &column.type_name;
        Ok(if kind == *was {
            String::new()
        } else {
            format!("{alter} ALTER COLUMN {name} TYPE {was} USING {name}::{was};\n")
        })
    }
}
