//! Rows first: takes away what refuses a table's rows, and brings it back after all rows as far as they allow.
//!
//! A CHECK may have become false, look at tables that are not loaded yet, or call a function that fails. A type may
//! have lost a label, a hash may put a row into another partition than on the source. The rows are loaded all the
//! same.

use std::collections::BTreeSet;
use std::sync::{MutexGuard, PoisonError};

use crate::connect::{ServerFault, server_error};
use crate::error::{Error, Result};
use crate::model::schema::{quote_ident, quote_literal};
use crate::model::{Inexact, Table};

use super::super::Contents;
use super::PostgresSink;
use super::retry::{add_not_valid, attempt};

/// The SQLSTATE of a CHECK, or of a partition's condition, that a row does not fulfil.
const CHECK_VIOLATION: &str = "23514";

/// Selects a table's CHECKs, where they are defined: in the table or in those from which it inherits, the topmost
/// first.
const CHECKS: &str = "WITH RECURSIVE up (relation, height) AS (
        SELECT $1::text::pg_catalog.regclass::oid, 0
        UNION SELECT i.inhparent, u.height + 1 FROM up u JOIN pg_catalog.pg_inherits i ON i.inhrelid = u.relation)
    SELECT 'TABLE ' || k.conrelid::pg_catalog.regclass::text, pg_catalog.quote_ident(k.conname),
           pg_catalog.pg_get_constraintdef(k.oid)
      FROM pg_catalog.pg_constraint k JOIN (SELECT u.relation, max(u.height) AS height FROM up u GROUP BY 1) u
        ON u.relation = k.conrelid
     WHERE k.contype = 'c' AND k.conislocal AND k.conname = coalesce($2::text, k.conname) ORDER BY u.height DESC, 2";

/// Selects the CHECKs of the domains that a column's values pass.
const DOMAIN_CHECKS: &str = "WITH RECURSIVE domains (type) AS (
        SELECT a.atttypid FROM pg_catalog.pg_attribute a
         WHERE a.attrelid = $1::text::pg_catalog.regclass AND a.attname = $2::text
        UNION SELECT coalesce(nullif(t.typbasetype, 0), t.typelem) FROM domains d JOIN pg_catalog.pg_type t ON t.oid = d.type)
    SELECT 'DOMAIN ' || k.contypid::pg_catalog.regtype::text, pg_catalog.quote_ident(k.conname),
           pg_catalog.pg_get_constraintdef(k.oid)
      FROM pg_catalog.pg_constraint k JOIN domains d ON d.type = k.contypid WHERE k.contype = 'c' ORDER BY 1, 2";

/// Selects the stored generated columns of a table and their expressions.
const GENERATED: &str = "SELECT pg_catalog.quote_ident(a.attname), pg_catalog.pg_get_expr(d.adbin, d.adrelid)
      FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE a.attrelid = $1::text::pg_catalog.regclass AND a.attgenerated = 's' ORDER BY 1";

/// Selects the type of a column, and the table that defines the column for all of a partitioned table.
const TYPE: &str = "SELECT pg_catalog.format_type(a.atttypid, a.atttypmod),
           coalesce(pg_catalog.pg_partition_root(a.attrelid), a.attrelid)::pg_catalog.regclass::text
      FROM pg_catalog.pg_attribute a WHERE a.attrelid = $1::text::pg_catalog.regclass AND a.attname = $2::text";

/// Selects the partitioned table at the root of a partition.
const ROOT: &str = "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.oid = pg_catalog.pg_partition_root($1::text::pg_catalog.regclass) AND c.relkind = 'p'";

/// Selects the partitions below a table that hold rows.
const LEAVES: &str = "SELECT n.nspname::text, c.relname::text
      FROM pg_catalog.pg_partition_tree($1::text::pg_catalog.regclass) p
      JOIN pg_catalog.pg_class c ON c.oid = p.relid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE p.isleaf AND c.relkind = 'r' ORDER BY 1, 2";

/// The obstacles that were taken out of the rows' way.
#[derive(Debug, Default)]
pub(super) struct Cleared {
    checks: Vec<RemovedCheck>,
    /// The columns, by their table's oid, that were given the type text.
    texts: BTreeSet<(u32, String)>,
    /// The roots (schema, name) of partitioned tables that distribute their rows themselves.
    roots: BTreeSet<(String, String)>,
    /// The partitions, by oid, whose rows are loaded through a root.
    distributed: BTreeSet<u32>,
    /// The rows that were loaded through a root, by the oid of the partition that they were in on the source.
    through_root: Vec<(u32, Contents)>,
}

#[derive(Debug)]
struct RemovedCheck {
    /// `TABLE public.t` or `DOMAIN public.d`.
    of: String,
    name: String,
    definition: String,
}

impl PostgresSink {
    pub(super) fn cleared(&self) -> MutexGuard<'_, Cleared> {
        self.cleared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes away what refused the rows of a table; returns false, and names the rows, if nothing is left that could be
    /// taken away.
    ///
    /// # Errors
    /// Fails with `error` if nothing may be left out or the server did not refuse the rows, and with `Unavailable` if
    /// the server fails.
    pub async fn make_way(&self, table: &Table, error: Error) -> Result<bool> {
        let fault = match ServerFault::of(&error) {
            Some(fault) if !self.refused.strict => fault,
            _ => return Err(error),
        };
        let name = table.quoted();
        let of_domain = match &fault.part.column {
            Some(column) => self.remove_checks(DOMAIN_CHECKS, &[&name, column]).await?,
            None => false,
        };
        let way = of_domain
            || match (&fault.part.column, fault.sqlstate.as_str(), &fault.part.constraint) {
                (Some(column), _, _) => self.make_text(table, column, fault).await?,
                (None, CHECK_VIOLATION, None) => self.load_through_root(table).await?,
                (None, _, constraint) => self.remove_checks(CHECKS, &[&name, constraint]).await?,
            }
            || self.stop_computing(table, fault).await?;
        if !way {
            let why = format!("{fault}; find them in --into sqlite:FILE");
            self.refused.add(format!("rows of {}", table.display()), why, String::new())?;
        }
        Ok(way)
    }

    /// Removes the CHECKs that a query finds, and returns whether there were any.
    async fn remove_checks(
        &self,
        query: &str,
        parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<bool> {
        let rows = self.session.query(query, parameters).await.map_err(not_seen)?;
        let found =
            rows.iter().map(|row| RemovedCheck { of: row.get(0), name: row.get(1), definition: row.get(2) });
        let mut removed = false;
        for check in found {
            let sql = format!("ALTER {} DROP CONSTRAINT {};", check.of, check.name);
            if attempt(&self.session, &sql).await?.is_none() {
                self.cleared().checks.push(check);
                removed = true;
            }
        }
        Ok(removed)
    }

    /// Gives a column the type text, which takes every value as it is.
    async fn make_text(&self, table: &Table, column: &str, fault: &ServerFault) -> Result<bool> {
        if !self.cleared().texts.insert((table.oid, column.to_owned())) {
            return Ok(false);
        }
        let row = self.session.query_opt(TYPE, &[&table.quoted(), &column]).await.map_err(not_seen)?;
        let Some(row) = row else { return Ok(false) };
        let (was, defined_by): (String, String) = (row.get(0), row.get(1));
        let alter = format!("ALTER TABLE {defined_by} ALTER COLUMN {}", quote_ident(column));
        let plain = format!("{alter} TYPE text;");
        if attempt(&self.session, &plain).await?.is_some()
            && attempt(&self.session, &format!("{alter} DROP DEFAULT; {plain}")).await?.is_some()
        {
            return Ok(false);
        }
        let what = format!("type of COLUMN {}.{column}", table.display());
        let sql = format!("{alter} TYPE {was} USING {}::{was};", quote_ident(column));
        self.refused.add(what, format!("{fault}; the column is of type text"), sql)?;
        Ok(true)
    }

    /// Turns generated columns into plain columns without values.
    async fn stop_computing(&self, table: &Table, fault: &ServerFault) -> Result<bool> {
        let name = table.quoted();
        let mut stopped = false;
        for row in self.session.query(GENERATED, &[&name]).await.map_err(not_seen)? {
            let (column, expression): (String, String) = (row.get(0), row.get(1));
            let alter = format!("ALTER TABLE {name} ALTER COLUMN {column}");
            if attempt(&self.session, &format!("{alter} DROP EXPRESSION;")).await?.is_some() {
                continue;
            }
            let sql = format!(
                "ALTER TABLE {name} DROP COLUMN {column}; ALTER TABLE {name} ADD COLUMN {column} {} GENERATED ALWAYS AS \
                 ({expression}) STORED;",
                self.type_of(&name, &column).await?
            );
            let what = format!("expression of COLUMN {}.{column}", table.display());
            self.refused.add(what, format!("{fault}; the column is empty"), sql)?;
            stopped = true;
        }
        Ok(stopped)
    }

    async fn type_of(&self, table: &str, column: &str) -> Result<String> {
        let sql = format!(
            "SELECT pg_catalog.format_type(atttypid, atttypmod) FROM pg_catalog.pg_attribute \
             WHERE attrelid = {}::pg_catalog.regclass AND pg_catalog.quote_ident(attname) = $1::text",
            quote_literal(table)
        );
        Ok(self.session.query_one(&sql, &[&column]).await.map_err(not_seen)?.get(0))
    }

    async fn load_through_root(&self, table: &Table) -> Result<bool> {
        let root = self.session.query_opt(ROOT, &[&table.quoted()]).await.map_err(not_seen)?;
        let Some(root) = root else { return Ok(false) };
        let mut cleared = self.cleared();
        cleared.roots.insert((root.get(0), root.get(1)));
        Ok(cleared.distributed.insert(table.oid))
    }

    /// Whether partitioned tables distribute rows themselves.
    pub(super) fn loads_through_roots(&self) -> bool {
        !self.cleared().roots.is_empty()
    }

    /// Returns the table through which the rows of a partition are loaded, with the partition's columns, if another
    /// partition may have to take some.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub(super) async fn root_of(&self, table: &Table) -> Result<Option<Table>> {
        if !self.loads_through_roots() {
            return Ok(None);
        }
        let root = self.session.query_opt(ROOT, &[&table.quoted()]).await.map_err(not_seen)?;
        let root = root.map(|row| (row.get(0), row.get(1)));
        let root = root.filter(|root| self.cleared().roots.contains(root));
        Ok(root.map(|(schema, name)| Table { schema, name, ..table.clone() }))
    }

    /// Returns what all partitions below `root` hold together.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub(super) async fn contents_below(&self, root: &Table) -> Result<Contents> {
        let mut whole = Contents { rows: 0, digest: Some(0) };
        for row in self.session.query(LEAVES, &[&root.quoted()]).await.map_err(not_seen)? {
            let leaf = Table { schema: row.get(0), name: row.get(1), ..root.clone() };
            let part = self.read_one(&leaf, 1).await?;
            whole.rows += part.rows;
            whole.digest = whole.digest.zip(part.digest).map(|(sum, digest)| sum.wrapping_add(digest));
        }
        Ok(whole)
    }

    /// Remembers what a load through a root added to the partitions.
    pub(super) fn note_through_root(&self, table: &Table, before: Contents, after: Contents) {
        let added = Contents {
            rows: after.rows - before.rows,
            digest: after.digest.zip(before.digest).map(|(after, before)| after.wrapping_sub(before)),
        };
        self.cleared().through_root.push((table.oid, added));
    }

    pub(super) fn loaded_through_root(&self, table: &Table) -> Option<Contents> {
        let cleared = self.cleared();
        cleared.through_root.iter().find(|(oid, _)| *oid == table.oid).map(|(_, contents)| *contents)
    }

    /// Whether a column of the table has another type than on the source.
    pub(super) fn has_text_instead(&self, table: &Table) -> bool {
        self.cleared().texts.iter().any(|(oid, _)| *oid == table.oid)
    }

    /// Brings back the CHECKs that were removed: NOT VALID where a row does not fulfil one, or cannot be asked. Returns
    /// the tables whose rows are in other partitions than on the source.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub async fn bring_back_checks(&self) -> Result<Vec<Inexact>> {
        let checks = std::mem::take(&mut self.cleared().checks);
        for RemovedCheck { of, name, definition } in checks {
            let add = format!("ALTER {of} ADD CONSTRAINT {name} {definition}");
            let Some(fault) = attempt(&self.session, &format!("{add};")).await? else { continue };
            let (kind, relation) = of.split_once(' ').unwrap_or((&of, ""));
            let what = format!("CHECK {name} of {kind} {relation}");
            let (weaker, validate) =
                (format!("{add} NOT VALID;"), format!("ALTER {of} VALIDATE CONSTRAINT {name};"));
            if !add_not_valid(&self.session, &self.refused, (&what, &fault), &weaker, validate).await? {
                self.refused.add(what, fault, format!("{add};"))?;
            }
        }
        let why = "all its rows are there, in other partitions than on the source, as their key's hash is another here";
        let roots = std::mem::take(&mut self.cleared().roots);
        let named =
            |(schema, name)| Inexact { what: format!("partitions of {schema}.{name}"), why: why.into() };
        Ok(roots.into_iter().map(named).collect())
    }
}

fn not_seen(error: tokio_postgres::Error) -> Error {
    server_error("cannot see what refuses the rows", error)
}
