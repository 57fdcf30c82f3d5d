//! The publications that decide which tables the stream carries.
//!
//! A history has two publications, because a table without replica identity in a publication that publishes updates
//! makes the application's own updates fail. One publishes every change of its tables; the other publishes only inserts
//! and truncates, for tables whose updates and deletes the stream cannot tell.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, Row};

use super::triggers;
use crate::connect::server_error;
use crate::error::Result;
use crate::model::schema::{quote_ident, quote_literal};
use crate::model::{Grade, Table};

/// The names of a history's two publications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publications {
    pub exact: String,
    pub inserts: String,
}

/// Memberships by their own oid, each with its table's oid and name. A table that is taken out and put back gets a
/// membership with another oid.
pub type Memberships = BTreeMap<u32, (u32, String)>;

/// The columns of a publication's row in the catalogs that change whenever somebody alters the publication.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicationRow {
    oid: u32,
    /// The transaction that wrote the row: its `xmin`.
    #[serde(rename = "by")]
    xmin: String,
    owner: u32,
}

impl PublicationRow {
    /// Whether anything but the owner may have been altered between this row and the row `now`.
    pub fn was_altered(&self, now: &PublicationRow) -> bool {
        self.oid != now.oid || (self.xmin != now.xmin && self.owner == now.owner)
    }
}

impl Publications {
    /// Names the publications after the slot.
    pub fn of_slot(slot: &str) -> Publications {
        Publications { exact: slot.to_owned(), inserts: format!("{slot}_inserts") }
    }

    fn name(&self, grade: Grade) -> &str {
        match grade {
            Grade::Exact => &self.exact,
            Grade::InsertOnly => &self.inserts,
        }
    }

    /// Returns the value of pgoutput's option `publication_names`.
    pub fn option(&self) -> String {
        format!("{},{}", quote_ident(&self.exact), quote_ident(&self.inserts))
    }

    /// Creates both publications with these tables. The caller must commit before it creates the slot: a slot older
    /// than its publication cannot decode the WAL between the two.
    ///
    /// # Errors
    /// `Refused` if the server refuses, usually because the role lacks a right; `Unavailable` if the server fails.
    pub async fn create(&self, client: &Client, tables: &[&Table], major: u32) -> Result<()> {
        for (grade, publish) in
            [(Grade::Exact, "insert, update, delete, truncate"), (Grade::InsertOnly, "insert, truncate")]
        {
            let members: Vec<_> = tables.iter().filter(|table| table.grade == grade).copied().collect();
            let members = if members.is_empty() { String::new() } else { format!(" FOR {}", list(&members)) };
            // Without this, an UPDATE of a table with REPLICA IDENTITY FULL and a stored generated
            // column fails at the source from version 18 on.
            let generated = if major >= 18 { ", publish_generated_columns = stored" } else { "" };
            let statement = format!(
                "CREATE PUBLICATION {}{members} WITH (publish = {}, publish_via_partition_root = false{generated})",
                quote_ident(self.name(grade)),
                quote_literal(publish)
            );
            run(client, &statement).await?;
        }
        Ok(())
    }

    /// Adds a table to the publication of its grade, and has committed when it returns.
    ///
    /// # Errors
    /// `Refused` if the server refuses; `Unavailable` if the server fails.
    pub async fn add(&self, client: &Client, table: &Table) -> Result<()> {
        let name = quote_ident(self.name(table.grade));
        run(client, &format!("ALTER PUBLICATION {name} ADD {}", list(&[table]))).await
    }

    /// Returns the members as the catalogs have them now: each table's oid, and whether it is in the exact publication.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn members(&self, client: &Client) -> Result<BTreeSet<(u32, bool)>> {
        let query = "SELECT pr.prrelid, p.pubname = $1 FROM pg_catalog.pg_publication_rel pr \
                     JOIN pg_catalog.pg_publication p ON p.oid = pr.prpubid WHERE p.pubname IN ($1, $2)";
        let rows = client.query(query, &[&self.exact, &self.inserts]).await;
        let rows = rows.map_err(|error| server_error("cannot read the publications", error))?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Names the tables among these whose changes the stream does not carry in full. Somebody took them out of the
    /// publications, added a row filter or a column list, or changed the kinds of change that are published. A table
    /// that no longer exists is not named.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn lacking(&self, client: &Client, tables: &[u32]) -> Result<Vec<String>> {
        // The row is read as JSON, since version 14 has neither row filters nor column lists.
        let query = "SELECT pg_catalog.format('%s.%s', n.nspname, c.relname) \
                       FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                      WHERE c.oid = ANY ($3) AND NOT EXISTS ( \
                            SELECT FROM pg_catalog.pg_publication_rel pr \
                              JOIN pg_catalog.pg_publication p ON p.oid = pr.prpubid, \
                                   pg_catalog.to_jsonb(pr) member \
                             WHERE pr.prrelid = c.oid AND p.pubname IN ($1, $2) \
                               AND p.pubinsert AND p.pubtruncate AND NOT p.pubviaroot \
                               AND (p.pubupdate AND p.pubdelete OR p.pubname = $2) \
                               AND member->>'prqual' IS NULL AND member->>'prattrs' IS NULL) \
                      ORDER BY 1";
        let rows = client.query(query, &[&self.exact, &self.inserts, &tables]).await;
        let rows = rows.map_err(|error| server_error("cannot read the publications", error))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Names the tables among `exact` that are in the inserts-only publication, although they were in the exact one and
    /// their replica identity would still serve for it.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn moved(&self, client: &Client, exact: &[u32]) -> Result<Vec<String>> {
        let query = "SELECT pg_catalog.format('%s.%s', n.nspname, c.relname) \
                       FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                      WHERE c.oid = ANY ($3) \
                        AND (SELECT pg_catalog.array_agg(p.pubname::text) FROM pg_catalog.pg_publication_rel pr \
                               JOIN pg_catalog.pg_publication p ON p.oid = pr.prpubid \
                              WHERE pr.prrelid = c.oid AND p.pubname IN ($1, $2)) = ARRAY[$2::text] \
                        AND (c.relreplident = 'f' OR EXISTS ( \
                             SELECT FROM pg_catalog.pg_index i \
                              WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate \
                                AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END \
                                AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid \
                                                   AND a.attnum = ANY (i.indkey) AND a.attgenerated <> '')))";
        let rows = client.query(query, &[&self.exact, &self.inserts, &exact]).await;
        let rows = rows.map_err(|error| server_error("cannot read the publications", error))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Reads the publications' own rows from the catalogs.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn rows(&self, client: &Client) -> Result<Vec<PublicationRow>> {
        let query = "SELECT oid, xmin::text, pubowner FROM pg_catalog.pg_publication WHERE pubname IN ($1, $2) ORDER BY pubname";
        let rows = client.query(query, &[&self.exact, &self.inserts]).await;
        let rows = rows.map_err(|error| server_error("cannot read the publications", error))?;
        let publication = |row: &Row| PublicationRow { oid: row.get(0), xmin: row.get(1), owner: row.get(2) };
        Ok(rows.iter().map(publication).collect())
    }

    /// Reads the memberships of these tables in both publications.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn memberships(&self, client: &Client, tables: &[u32]) -> Result<Memberships> {
        let query = "SELECT pr.oid, c.oid, pg_catalog.format('%s.%s', n.nspname, c.relname) \
                       FROM pg_catalog.pg_publication_rel pr \
                       JOIN pg_catalog.pg_publication p ON p.oid = pr.prpubid \
                       JOIN pg_catalog.pg_class c ON c.oid = pr.prrelid \
                       JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                      WHERE p.pubname IN ($1, $2) AND c.oid = ANY ($3)";
        let rows = client.query(query, &[&self.exact, &self.inserts, &tables]).await;
        let rows = rows.map_err(|error| server_error("cannot read the publications", error))?;
        Ok(rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect())
    }

    /// Moves a table from the other publication to the publication of its grade in one transaction: a table in neither
    /// would look as if somebody had taken it out.
    ///
    /// # Errors
    /// `Refused` if the server refuses; `Unavailable` if the server fails.
    pub async fn move_here(&self, client: &Client, table: &Table) -> Result<()> {
        let (here, other) = match table.grade {
            Grade::Exact => (&self.exact, &self.inserts),
            Grade::InsertOnly => (&self.inserts, &self.exact),
        };
        let statement = format!(
            "BEGIN; {} ALTER PUBLICATION {} DROP TABLE ONLY {}; ALTER PUBLICATION {} ADD {}; COMMIT",
            triggers::own("publish"),
            quote_ident(other),
            table.quoted(),
            quote_ident(here),
            list(&[table])
        );
        let moved = run(client, &statement).await;
        if moved.is_err() {
            // The transaction has to end, because the session is used again.
            let _ = client.batch_execute("ROLLBACK").await;
        }
        moved
    }

    /// Returns how many of the two publications exist.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn count(&self, client: &Client) -> Result<i64> {
        let query = "SELECT count(*) FROM pg_catalog.pg_publication WHERE pubname IN ($1, $2)";
        let row = client.query_one(query, &[&self.exact, &self.inserts]).await;
        Ok(row.map_err(|error| server_error("cannot read the publications", error))?.get(0))
    }

    /// Drops both publications; a publication that is gone already is no error.
    ///
    /// # Errors
    /// `Refused` if the server refuses; `Unavailable` if the server fails.
    pub async fn drop(&self, client: &Client) -> Result<()> {
        let names = format!("{}, {}", quote_ident(&self.exact), quote_ident(&self.inserts));
        run(client, &format!("DROP PUBLICATION IF EXISTS {names}")).await
    }
}

fn list(tables: &[&Table]) -> String {
    // Version 14 accepts the keyword TABLE only once; later versions give the following members the first one's kind.
    let members: Vec<_> = tables.iter().map(|table| format!("ONLY {}", table.quoted())).collect();
    format!("TABLE {}", members.join(", "))
}

async fn run(client: &Client, statement: &str) -> Result<()> {
    let done = client.batch_execute(statement).await;
    done.map_err(|error| server_error("the source refused to change backwhen's publications", error))
}

/// Limits how long any later statement of the session waits for a lock; zero means that there is no limit.
///
/// # Errors
/// `Unavailable` if the server fails.
pub async fn set_lock_timeout(client: &Client, patience: Duration) -> Result<()> {
    let set = format!("SET lock_timeout = {}", patience.as_millis());
    let done = client.batch_execute(&set).await;
    done.map_err(|error| server_error("cannot set a session's timer", error))
}
