//! The publications that decide which tables the stream carries.
//!
//! A history has publications of two kinds, because a table without replica identity in a publication that publishes
//! updates makes the application's own updates fail. Exact publications publish every change of their tables; the others
//! publish only inserts and truncates, for tables whose updates and deletes the stream cannot tell.
//!
//! Of each kind there is a pool: from version 15 on, an `ALTER PUBLICATION` locks its publication until the transaction
//! ends, and each transaction that makes tables chooses one that no other transaction has locked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, Row};

use super::triggers;
use crate::connect::server_error;
use crate::error::{Error, Result};
use crate::model::schema::{quote_ident, quote_literal};
use crate::model::{Grade, Table};

/// How many publications of each kind a history with event triggers has: as many transactions can make tables at the same
/// time without one waiting for another.
const POOL: usize = 24;

/// The names of a history's publications; of each kind, the first is the one that `init` puts the tables into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publications {
    exact: Vec<String>,
    inserts: Vec<String>,
}

/// How much of a history's pool of publications the source has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// A stream can name the whole pool.
    Ready,
    /// The pool is missing, or is younger than transactions that the slot has yet to decode: for those, the publications
    /// do not exist. Nothing is in it.
    Young,
    /// Publications that the stream needs are gone.
    Broken,
}

/// Publications exist for every transaction that a slot has yet to decode if they are older than its `catalog_xmin`.
/// `$1`: all names; `$2`: the first names; `$3`: the slot; `$4`: whether the event triggers use the pool.
const POOL_FACTS: &str = "
SELECT count(*) FILTER (WHERE p.pubname = ANY ($2::text[])), count(*),
       $4 OR coalesce(pg_catalog.bool_or(EXISTS (SELECT FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = p.oid)
                                         AND p.pubname <> ALL ($2::text[])), false),
       coalesce(pg_catalog.bool_and(pg_catalog.age(p.xmin) > pg_catalog.age(s.catalog_xmin)), false)
  FROM pg_catalog.pg_publication p LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = $3
 WHERE p.pubname = ANY ($1::text[])";

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
        let pool = |first: String| {
            let others: Vec<_> = (2..=POOL).map(|number| format!("{first}_{number}")).collect();
            [vec![first], others].concat()
        };
        Publications { exact: pool(slot.to_owned()), inserts: pool(format!("{slot}_inserts")) }
    }

    /// The names of the publications for tables of this grade.
    pub fn names(&self, grade: Grade) -> &[String] {
        match grade {
            Grade::Exact => &self.exact,
            Grade::InsertOnly => &self.inserts,
        }
    }

    fn all(&self) -> Vec<&String> {
        self.exact.iter().chain(&self.inserts).collect()
    }

    fn first(&self) -> [&String; 2] {
        [&self.exact[0], &self.inserts[0]]
    }

    /// Returns the value of pgoutput's option `publication_names`.
    pub fn option(&self, pool: Pool) -> String {
        let names = if pool == Pool::Young { self.first().to_vec() } else { self.all() };
        names.iter().map(|name| quote_ident(name)).collect::<Vec<_>>().join(",")
    }

    /// Creates the publications, the first of each kind with these tables, and with a pool the others. The caller must
    /// commit before it creates the slot: a slot older than its publication cannot decode the WAL between the two.
    ///
    /// # Errors
    /// `Refused` if the server refuses, usually because the role lacks a right; `Unavailable` if the server fails.
    pub async fn create(&self, client: &Client, tables: &[&Table], major: u32, pool: bool) -> Result<()> {
        for grade in [Grade::Exact, Grade::InsertOnly] {
            let members: Vec<_> = tables.iter().filter(|table| table.grade == grade).copied().collect();
            let members = if members.is_empty() { String::new() } else { format!(" FOR {}", list(&members)) };
            run(client, &creation(&self.names(grade)[0], &members, grade, major)).await?;
        }
        if pool { self.create_pool(client, major).await } else { Ok(()) }
    }

    /// Creates the publications of the pool that do not exist.
    ///
    /// # Errors
    /// `Refused` if the server refuses; `Unavailable` if the server fails.
    pub async fn create_pool(&self, client: &Client, major: u32) -> Result<()> {
        let query = "SELECT pubname::text FROM pg_catalog.pg_publication WHERE pubname = ANY ($1::text[])";
        let rows = client.query(query, &[&self.all()]).await.map_err(not_read)?;
        let there: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
        let missing = [Grade::Exact, Grade::InsertOnly].into_iter().flat_map(|grade| {
            let names = self.names(grade).iter().filter(|name| !there.contains(*name));
            names.map(move |name| creation(name, "", grade, major))
        });
        let creations: Vec<_> = missing.collect();
        if creations.is_empty() { Ok(()) } else { run_own(client, &creations.join("; ")).await }
    }

    /// Reads how much of the pool the source has. `is_used`: the event triggers put tables into the pool.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn pool(&self, client: &Client, slot: &str, is_used: bool) -> Result<Pool> {
        let row = client.query_one(POOL_FACTS, &[&self.all(), &&self.first()[..], &slot, &is_used]).await;
        let row = row.map_err(not_read)?;
        let (first, all): (i64, i64) = (row.get(0), row.get(1));
        let is_whole = all == 2 * POOL as i64;
        Ok(match (row.get(2), row.get(3)) {
            _ if first < 2 => Pool::Broken,
            (true, _) if !is_whole => Pool::Broken,
            (true, _) | (false, true) if is_whole => Pool::Ready,
            _ => Pool::Young,
        })
    }

    /// Adds a table to a publication of its grade that nobody has locked, and has committed when it returns.
    ///
    /// # Errors
    /// `Refused` if the server refuses; `Unavailable` if the server fails.
    pub async fn add(&self, client: &Client, table: &Table, pool: Pool) -> Result<()> {
        let name = quote_ident(&self.unlocked(client, table.grade, pool).await?);
        run(client, &format!("ALTER PUBLICATION {name} ADD {}", list(&[table]))).await
    }

    /// Names a publication that nobody has locked, or the first if there is none.
    async fn unlocked(&self, client: &Client, grade: Grade, pool: Pool) -> Result<String> {
        let names = self.names(grade);
        let query = "SELECT p.pubname::text FROM pg_catalog.pg_publication p \
                      WHERE p.pubname = ANY ($1::text[]) AND NOT EXISTS ( \
                            SELECT FROM pg_catalog.pg_locks l WHERE l.locktype = 'object' AND l.objid = p.oid \
                               AND l.classid = 'pg_catalog.pg_publication'::pg_catalog.regclass) \
                      ORDER BY pg_catalog.array_position($1::text[], p.pubname::text) LIMIT 1";
        let usable = if pool == Pool::Ready { names } else { &names[..1] };
        let row = client.query_opt(query, &[&usable]).await.map_err(not_read)?;
        Ok(row.map_or_else(|| names[0].clone(), |row| row.get(0)))
    }

    /// Returns the members as the catalogs have them now: each table's oid, and whether it is in an exact publication. A table can be in publications of both kinds.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn members(&self, client: &Client) -> Result<BTreeSet<(u32, bool)>> {
        let query = "SELECT pr.prrelid, p.pubname = ANY ($1::text[]) FROM pg_catalog.pg_publication_rel pr \
                     JOIN pg_catalog.pg_publication p ON p.oid = pr.prpubid WHERE p.pubname = ANY ($1::text[] || $2::text[])";
        let rows = client.query(query, &[&self.exact, &self.inserts]).await;
        let rows = rows.map_err(not_read)?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Names the tables among these whose changes the stream does not carry in full. Somebody took them out of the
    /// publications, added a row filter or a column list, or changed the kinds of change that are published. A table
    /// that no longer exists, or is unlogged by now, is not named.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn lacking(&self, client: &Client, tables: &[u32]) -> Result<Vec<String>> {
        // The row is read as JSON, since version 14 has neither row filters nor column lists.
        let query = "SELECT pg_catalog.format('%s.%s', n.nspname, c.relname) \
                       FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                      WHERE c.oid = ANY ($3) AND c.relpersistence = 'p' AND NOT EXISTS ( \
                            SELECT FROM pg_catalog.pg_publication_rel pr \
                              JOIN pg_catalog.pg_publication p ON p.oid = pr.prpubid, \
                                   pg_catalog.to_jsonb(pr) member \
                             WHERE pr.prrelid = c.oid AND p.pubname = ANY ($1::text[] || $2::text[]) \
                               AND p.pubinsert AND p.pubtruncate AND NOT p.pubviaroot \
                               AND (p.pubupdate AND p.pubdelete OR p.pubname = ANY ($2::text[])) \
                               AND member->>'prqual' IS NULL AND member->>'prattrs' IS NULL) \
                      ORDER BY 1";
        let rows = client.query(query, &[&self.exact, &self.inserts, &tables]).await;
        let rows = rows.map_err(not_read)?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Names the tables among `exact` that are in inserts-only publications alone, although they were in an exact one and
    /// their replica identity would still serve for it.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn moved(&self, client: &Client, exact: &[u32]) -> Result<Vec<String>> {
        let query = "SELECT pg_catalog.format('%s.%s', n.nspname, c.relname) \
                       FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                      WHERE c.oid = ANY ($3) \
                        AND (SELECT pg_catalog.bool_and(p.pubname = ANY ($2::text[])) FROM pg_catalog.pg_publication_rel pr \
                               JOIN pg_catalog.pg_publication p ON p.oid = pr.prpubid \
                              WHERE pr.prrelid = c.oid AND p.pubname = ANY ($1::text[] || $2::text[])) \
                        AND (c.relreplident = 'f' AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute v \
                                                            WHERE v.attrelid = c.oid AND v.attgenerated = 'v') \
                             OR EXISTS ( \
                             SELECT FROM pg_catalog.pg_index i \
                              WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate \
                                AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END \
                                AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid \
                                                   AND a.attnum = ANY (i.indkey) AND a.attgenerated <> '')))";
        let rows = client.query(query, &[&self.exact, &self.inserts, &exact]).await;
        let rows = rows.map_err(not_read)?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Reads the publications' own rows from the catalogs.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn rows(&self, client: &Client) -> Result<Vec<PublicationRow>> {
        let query = "SELECT oid, xmin::text, pubowner FROM pg_catalog.pg_publication WHERE pubname = ANY ($1::text[] || $2::text[]) ORDER BY pubname";
        let rows = client.query(query, &[&self.exact, &self.inserts]).await;
        let rows = rows.map_err(not_read)?;
        let publication = |row: &Row| PublicationRow { oid: row.get(0), xmin: row.get(1), owner: row.get(2) };
        Ok(rows.iter().map(publication).collect())
    }

    /// Reads the memberships of these tables in all publications.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn memberships(&self, client: &Client, tables: &[u32]) -> Result<Memberships> {
        let query = "SELECT pr.oid, c.oid, pg_catalog.format('%s.%s', n.nspname, c.relname) \
                       FROM pg_catalog.pg_publication_rel pr \
                       JOIN pg_catalog.pg_publication p ON p.oid = pr.prpubid \
                       JOIN pg_catalog.pg_class c ON c.oid = pr.prrelid \
                       JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                      WHERE p.pubname = ANY ($1::text[] || $2::text[]) AND c.oid = ANY ($3)";
        let rows = client.query(query, &[&self.exact, &self.inserts, &tables]).await;
        let rows = rows.map_err(not_read)?;
        Ok(rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect())
    }

    /// Moves a table that has lost its replica identity from the exact publications to an inserts-only one, in one
    /// transaction: a table in neither would look as if somebody had taken it out.
    ///
    /// # Errors
    /// `Refused` if the server refuses; `Unavailable` if the server fails.
    pub async fn demote(&self, client: &Client, table: &Table, pool: Pool) -> Result<()> {
        let query = "SELECT p.pubname::text, p.pubname = ANY ($1::text[]) FROM pg_catalog.pg_publication_rel pr \
                     JOIN pg_catalog.pg_publication p ON p.oid = pr.prpubid \
                     WHERE pr.prrelid = $3 AND p.pubname = ANY ($1::text[] || $2::text[])";
        let rows = client.query(query, &[&self.exact, &self.inserts, &table.oid]).await.map_err(not_read)?;
        let left = rows.iter().filter(|row| row.get(1));
        let left = left.map(|row| format!("{} DROP TABLE ONLY {}", quote_ident(row.get(0)), table.quoted()));
        let mut changes: Vec<_> = left.collect();
        if changes.len() == rows.len() {
            let here = self.unlocked(client, Grade::InsertOnly, pool).await?;
            changes.push(format!("{} ADD {}", quote_ident(&here), list(&[table])));
        }
        let statements: Vec<_> = changes.iter().map(|change| format!("ALTER PUBLICATION {change}")).collect();
        run_own(client, &statements.join("; ")).await
    }

    /// Drops the publications; one that is gone already is no error.
    ///
    /// # Errors
    /// `Refused` if the server refuses; `Unavailable` if the server fails.
    pub async fn drop(&self, client: &Client) -> Result<()> {
        let names: Vec<_> = self.all().iter().map(|name| quote_ident(name)).collect();
        run(client, &format!("DROP PUBLICATION IF EXISTS {}", names.join(", "))).await
    }
}

fn list(tables: &[&Table]) -> String {
    // Version 14 accepts the keyword TABLE only once; later versions give the following members the first one's kind.
    let members: Vec<_> = tables.iter().map(|table| format!("ONLY {}", table.quoted())).collect();
    format!("TABLE {}", members.join(", "))
}

fn creation(name: &str, members: &str, grade: Grade, major: u32) -> String {
    let publish = match grade {
        Grade::Exact => "insert, update, delete, truncate",
        Grade::InsertOnly => "insert, truncate",
    };
    // Without this, an UPDATE of a table with REPLICA IDENTITY FULL and a stored generated column fails at the source
    // from version 18 on.
    let generated = if major >= 18 { ", publish_generated_columns = stored" } else { "" };
    format!(
        "CREATE PUBLICATION {}{members} WITH (publish = {}, publish_via_partition_root = false{generated})",
        quote_ident(name),
        quote_literal(publish)
    )
}

/// Runs statements as backwhen's own work, in a transaction of their own.
async fn run_own(client: &Client, statements: &str) -> Result<()> {
    let done = run(client, &format!("BEGIN; {} {statements}; COMMIT", triggers::own("publish"))).await;
    if done.is_err() {
        // The transaction has to end, because the session is used again.
        let _ = client.batch_execute("ROLLBACK").await;
    }
    done
}

fn not_read(error: tokio_postgres::Error) -> Error {
    server_error("cannot read the publications", error)
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
