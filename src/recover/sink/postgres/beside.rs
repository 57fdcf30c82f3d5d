//! Puts recovered tables into a schema of a live database, beside its own tables.
//!
//! The tables are recovered and proved in a database of their own on the same server, which is dropped afterwards. What goes
//! into the live database is rows, in plain tables that nothing of the application acts on: one transaction makes the schema,
//! the tables and their keys, and nothing outside of the schema is touched.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures_util::{SinkExt, TryStreamExt};
use tokio_util::sync::CancellationToken;

use super::super::RowDigest;
use super::PostgresSink;
use super::maintenance::{drop_leftover, lock, maintenance};
use super::unfinished::NAME_LIMIT;
use crate::connect::{Conninfo, Session, server_error};
use crate::error::{Error, Result};
use crate::model::Table;
use crate::model::schema::{quote_ident, quote_literal};
use crate::recover::refused::RefusedObject;

/// Whether there is a schema of this name, and whether something is in it.
const SCHEMA: &str = "
SELECT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
                  AND d.refobjid = n.oid AND d.deptype = 'n')
  FROM pg_catalog.pg_namespace n WHERE n.nspname = $1::text";

/// Selects the columns of tables, of which partitioned ones stand for their partitions: oid, schema, name, whether it is
/// partitioned, and a column's name, type and whether it takes no NULL.
const COLUMNS: &str = "
SELECT DISTINCT c.oid, n.nspname::text, c.relname::text, c.relkind = 'p', a.attnum, a.attname::text,
       pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull
  FROM pg_catalog.unnest($1::text[]) AS wanted (name)
  JOIN pg_catalog.pg_class c ON c.oid = coalesce(pg_catalog.pg_partition_root(pg_catalog.to_regclass(wanted.name)),
                                                 pg_catalog.to_regclass(wanted.name))
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY n.nspname::text, c.relname::text, a.attnum";

/// Selects the unique keys of tables as statements' ends: primary keys, and unique indexes of columns.
const UNIQUE_KEYS: &str = "
SELECT i.indrelid, CASE WHEN i.indisprimary THEN 'PRIMARY KEY ' ELSE 'UNIQUE ' END || pg_catalog.format('(%s)',
       (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY k.at)
          FROM pg_catalog.generate_series(0, i.indnkeyatts - 1) k(at)
          JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.at]))
  FROM pg_catalog.pg_index i
 WHERE i.indrelid = ANY ($1) AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL
   AND NOT i.indisexclusion ORDER BY i.indisprimary DESC, i.indexrelid";

/// Selects the foreign keys between tables: both tables, the name, and what stands before and after the name of the table
/// that is referred to. Keys of periods, which version 18 knows, need what no plain table has.
const FOREIGN_KEYS: &str = "
SELECT f.conrelid, f.confrelid, f.conname::text,
       pg_catalog.format('FOREIGN KEY (%s) REFERENCES ', (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', '
           ORDER BY k.at) FROM pg_catalog.unnest(f.conkey) WITH ORDINALITY k(number, at)
           JOIN pg_catalog.pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.number)),
       pg_catalog.format(' (%s) %s', (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY k.at)
           FROM pg_catalog.unnest(f.confkey) WITH ORDINALITY k(number, at)
           JOIN pg_catalog.pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = k.number),
           CASE f.confmatchtype WHEN 'f' THEN 'MATCH FULL' ELSE '' END)
  FROM pg_catalog.pg_constraint f
 WHERE f.contype = 'f' AND f.conparentid = 0 AND f.convalidated AND f.conrelid = ANY ($1) AND f.confrelid = ANY ($1)
   AND pg_catalog.to_jsonb(f) ->> 'conperiod' IS DISTINCT FROM 'true' ORDER BY f.oid";

/// Selects the type under a domain, and whether a domain is anywhere within a type. A domain's CHECK calls functions of
/// the application with the rights of the user who recovers.
const TYPE: &str = "
WITH RECURSIVE parts (type) AS (
    SELECT pg_catalog.to_regtype($1)::pg_catalog.oid
    UNION SELECT q.part FROM parts p CROSS JOIN LATERAL (
        SELECT t.typbasetype FROM pg_catalog.pg_type t WHERE t.oid = p.type AND t.typtype = 'd'
        UNION ALL SELECT t.typelem FROM pg_catalog.pg_type t WHERE t.oid = p.type AND t.typelem <> 0
        UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE p.type IN (r.rngtypid, r.rngmultitypid)
        UNION ALL SELECT a.atttypid FROM pg_catalog.pg_type t JOIN pg_catalog.pg_attribute a ON a.attrelid = t.typrelid
             AND a.attnum > 0 AND NOT a.attisdropped WHERE t.oid = p.type) q (part))
SELECT CASE t.typtype WHEN 'd' THEN pg_catalog.format_type(t.typbasetype, t.typtypmod) END,
       EXISTS (SELECT FROM parts p JOIN pg_catalog.pg_type d ON d.oid = p.type WHERE d.typtype = 'd')
  FROM pg_catalog.pg_type t WHERE t.oid = pg_catalog.to_regtype($1)";

/// A schema of a live database, which is to be made.
pub struct SideSchema {
    live: Conninfo,
    name: String,
}

/// A table as it is to be made.
struct PlainTable {
    schema: String,
    name: String,
    is_partitioned: bool,
    columns: Vec<PlainColumn>,
}

struct PlainColumn {
    name: String,
    kind: String,
    is_not_null: bool,
}

impl SideSchema {
    pub fn new(live: &Conninfo, name: &str) -> SideSchema {
        SideSchema { live: live.clone(), name: name.to_owned() }
    }

    /// # Errors
    /// Fails with `Usage` for a name that no schema of a user can have, with `Refused` if the schema is not empty, and with
    /// `Unavailable` if the server cannot be asked.
    pub async fn require_free(&self) -> Result<()> {
        let is_taken = self.name.starts_with("pg_") || self.name == "backwhen";
        if is_taken || self.name.is_empty() || self.name.len() > NAME_LIMIT {
            return Err(Error::usage(format!(
                "--into-schema {:?}: this name is the server's or backwhen's own, or has no or more than {NAME_LIMIT} bytes; \
                 choose another one",
                self.name
            )));
        }
        let session = Session::connect_utf8(&self.live, "recover").await?;
        self.is_there(&session).await.map(drop)
    }

    /// The database in which the tables are recovered first.
    pub fn workshop(&self) -> Conninfo {
        self.live.with_dbname(&format!("{}.{}", self.live.dbname(), self.name))
    }

    /// Drops the database that a killed recovery into this schema left.
    ///
    /// # Errors
    /// Fails with `Locked` if another recovery into the schema is running, and with `Unavailable` if the server fails.
    pub async fn drop_leftover(&self) -> Result<()> {
        let workshop = self.workshop();
        let session = maintenance(&workshop).await?;
        lock(&session, workshop.dbname()).await?;
        drop_leftover(&session, &workshop, &mut Vec::new()).await
    }

    /// Refuses a schema in which something is. Returns whether the schema is there.
    async fn is_there(&self, session: &Session) -> Result<bool> {
        let row = session.query_opt(SCHEMA, &[&self.name]).await;
        let row = row.map_err(|error| server_error("cannot look at the schemas", error))?;
        match row.map(|row| row.get::<_, bool>(0)) {
            Some(true) => Err(Error::refused(format!(
                "schema {} of database {} is not empty; choose another name for --into-schema, or drop it with: DROP SCHEMA \
                 {} CASCADE",
                self.name,
                self.live.dbname(),
                quote_ident(&self.name)
            ))),
            found => Ok(found.is_some()),
        }
    }

    fn quoted(&self, table: &PlainTable) -> String {
        format!("{}.{}", quote_ident(&self.name), quote_ident(&table.name))
    }
}

impl PostgresSink {
    /// Puts the tables into a schema of the live database, in one transaction, and drops the database in which they were
    /// recovered. Returns what is left out of them, and notes.
    ///
    /// # Errors
    /// Fails with `Refused` or `Unavailable`; the live database is then as it was.
    pub async fn put_into(
        self,
        schema: &SideSchema,
        tables: &[Table],
        comment: &str,
        interrupt: &CancellationToken,
    ) -> Result<(Vec<RefusedObject>, Vec<String>)> {
        let known = self.refused.notes().len();
        let put = tokio::select! {
            put = self.put_tables(schema, tables, comment) => put,
            () = interrupt.cancelled() => Err(Error::interrupted()),
        };
        let of_tables = |it: &RefusedObject| {
            let kinds = [
                "rows of ",
                "type of ",
                "expression of ",
                "columns of ",
                "TABLE ",
                "unique key ",
                "foreign key ",
            ];
            kinds.iter().any(|kind| it.what.starts_with(kind)) || it.what.starts_with("FK CONSTRAINT ")
        };
        let left_out = self.refused.take().into_iter().filter(of_tables).collect();
        let notes = self.refused.notes().split_off(known);
        let abandoned = self.abandon().await;
        put?;
        abandoned.map(|()| (left_out, notes))
    }

    async fn put_tables(&self, schema: &SideSchema, tables: &[Table], comment: &str) -> Result<()> {
        let from = Session::connect_utf8(&self.info, "recover").await?;
        let live = Session::connect_utf8(&schema.live, "recover").await?;
        if from.server_encoding() != live.server_encoding()
            && [&from, &live].iter().any(|it| it.server_encoding() == "SQL_ASCII")
        {
            return Err(Error::refused(format!(
                "database {} is in encoding {}, the source in {}: nothing says which letters the bytes are",
                schema.live.dbname(),
                live.server_encoding(),
                from.server_encoding()
            )));
        }
        let run = async |sql: &str| {
            let done = live.batch_execute(sql).await;
            done.map_err(|error| server_error(format!("cannot fill schema {}", schema.name), error))
        };
        let plain = self.plain_tables(&from, tables).await?;
        require_distinct(plain.values())?;
        run("BEGIN READ WRITE").await?;
        if !schema.is_there(&live).await? {
            let name = quote_ident(&schema.name);
            let comment = quote_literal(comment);
            run(&format!("CREATE SCHEMA {name}; COMMENT ON SCHEMA {name} IS {comment}")).await?;
        }
        for table in plain.values() {
            self.put_table(schema, &from, &live, table).await?;
        }
        for statement in self.keys(schema, &from, &plain).await? {
            run("SAVEPOINT key").await?;
            if let Err(error) = live.batch_execute(&statement.sql).await {
                let error = server_error("the live database does not take it", error);
                run("ROLLBACK TO key").await?;
                self.refused.add(statement.what, error, statement.sql)?;
            }
        }
        run("COMMIT").await?;
        crate::ambient::pass("recover.beside")
    }

    async fn plain_tables(&self, from: &Session, tables: &[Table]) -> Result<BTreeMap<u32, PlainTable>> {
        let names: Vec<String> = tables.iter().map(Table::quoted).collect();
        let rows = from.query(COLUMNS, &[&names]).await;
        let rows = rows.map_err(|error| server_error("cannot read the recovered tables", error))?;
        let mut found = BTreeMap::<u32, PlainTable>::new();
        for row in rows {
            let table = found.entry(row.get(0)).or_insert_with(|| PlainTable {
                schema: row.get(1),
                name: row.get(2),
                is_partitioned: row.get(3),
                columns: Vec::new(),
            });
            if let Some(name) = row.get::<_, Option<String>>(5) {
                table.columns.push(PlainColumn { name, kind: row.get(6), is_not_null: row.get(7) });
            }
        }
        Ok(found)
    }

    /// Makes a table and sends its rows. If the live database's own types do not take a value, its column becomes text.
    async fn put_table(
        &self,
        schema: &SideSchema,
        from: &Session,
        live: &Session,
        table: &PlainTable,
    ) -> Result<()> {
        let failed = |error| server_error(format!("cannot put {}.{} there", table.schema, table.name), error);
        live.batch_execute("SAVEPOINT made").await.map_err(failed)?;
        for is_plain in [false, true] {
            let mut columns = Vec::new();
            for column in &table.columns {
                let kind = live_type(live, &column.kind, is_plain).await?;
                if kind != column.kind {
                    self.refused.note(format!(
                        "{}.{}: column {} is of type {kind} instead of {}",
                        schema.name, table.name, column.name, column.kind
                    ));
                }
                let not_null = if column.is_not_null { " NOT NULL" } else { "" };
                columns.push(format!("{} {kind}{not_null}", quote_ident(&column.name)));
            }
            let make = format!("CREATE TABLE {} ({})", schema.quoted(table), columns.join(", "));
            live.batch_execute(&make).await.map_err(failed)?;
            match copy_over(schema, from, live, table).await {
                Err(error) if error.code().is_some() && !is_plain => {
                    live.batch_execute("ROLLBACK TO made").await.map_err(failed)?;
                }
                Err(error) => return Err(failed(error)),
                Ok(true) => return Ok(()),
                Ok(false) => {
                    return Err(Error::internal(format!(
                        "{}.{} does not hold what was recovered; please report this",
                        schema.name, table.name
                    )));
                }
            }
        }
        Ok(())
    }

    /// The statements that make the keys, unique ones first.
    async fn keys(
        &self,
        schema: &SideSchema,
        from: &Session,
        tables: &BTreeMap<u32, PlainTable>,
    ) -> Result<Vec<RefusedObject>> {
        let failed = |error| server_error("cannot read the keys of the recovered tables", error);
        let oids: Vec<u32> = tables.keys().copied().collect();
        let mut keys = Vec::new();
        let mut add = |table: &PlainTable, name: &str, definition: String| {
            let what = format!("{name} of {}.{}", schema.name, table.name);
            let sql = format!("ALTER TABLE {} ADD {definition};", schema.quoted(table));
            keys.push(RefusedObject { what, why: String::new(), sql });
        };
        for row in from.query(UNIQUE_KEYS, &[&oids]).await.map_err(failed)? {
            add(&tables[&row.get(0)], "unique key", row.get(1));
        }
        for row in from.query(FOREIGN_KEYS, &[&oids]).await.map_err(failed)? {
            let (before, after): (String, String) = (row.get(3), row.get(4));
            let parent = schema.quoted(&tables[&row.get(1)]);
            let name = format!("foreign key {}", row.get::<_, String>(2));
            add(&tables[&row.get(0)], &name, format!("{before}{parent}{after}"));
        }
        Ok(keys)
    }
}

/// Refuses tables that would have the same name.
fn require_distinct<'a>(tables: impl Iterator<Item = &'a PlainTable>) -> Result<()> {
    let mut names = BTreeSet::new();
    for table in tables {
        if !names.insert(&table.name) {
            return Err(Error::refused(format!(
                "several tables have the name {}, and one schema has room for one of them; choose with --table SCHEMA.{}",
                table.name, table.name
            )));
        }
    }
    Ok(())
}

/// Returns the type that a column has in the live database: its own, if nothing of the application acts on its values.
/// With `is_plain`, only the server's own types are used.
async fn live_type(live: &Session, kind: &str, is_plain: bool) -> Result<String> {
    let mut kind = kind.to_owned();
    loop {
        let row = live.query_opt(TYPE, &[&kind]).await;
        let row = row.map_err(|error| server_error("cannot look at the types", error))?;
        // The server writes its own types without a schema.
        let is_own = !kind.contains('.');
        match row.map(|row| (row.get::<_, Option<String>>(0), row.get::<_, bool>(1))) {
            Some((Some(base), _)) => kind = base,
            Some((None, false)) if is_own || !is_plain => return Ok(kind),
            _ => return Ok("text".to_owned()),
        }
    }
}

/// Sends the rows of a table, and reads them back. Returns whether they are the same.
async fn copy_over(
    schema: &SideSchema,
    from: &Session,
    live: &Session,
    table: &PlainTable,
) -> Result<bool, tokio_postgres::Error> {
    let columns: Vec<_> = table.columns.iter().map(|column| quote_ident(&column.name)).collect();
    let (columns, name) = (columns.join(", "), schema.quoted(table));
    let only = if table.is_partitioned { "" } else { "ONLY " };
    let select = format!(
        "COPY (SELECT {columns} FROM {only}{}.{}) TO STDOUT",
        quote_ident(&table.schema),
        quote_ident(&table.name)
    );
    let (mut sent, mut found) = (RowDigest::default(), RowDigest::default());
    let mut rows = std::pin::pin!(from.copy_out(&select).await?);
    let mut sink = std::pin::pin!(live.copy_in::<_, Bytes>(&format!("COPY {name} FROM STDIN")).await?);
    while let Some(piece) = rows.try_next().await? {
        sent.update(&piece);
        sink.send(piece).await?;
    }
    sink.as_mut().finish().await?;
    let mut back = std::pin::pin!(live.copy_out(&format!("COPY {name} TO STDOUT")).await?);
    while let Some(piece) = back.try_next().await? {
        found.update(&piece);
    }
    Ok(sent.finish() == found.finish())
}
