//! Keeps the rows that are wanted of tables that are loaded and have no foreign keys yet.

use std::collections::BTreeSet;

use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use super::PostgresSink;
use super::rows::digests_of;
use crate::connect::{Session, server_error};
use crate::error::Result;
use crate::model::Table;
use crate::model::spelling::Spelled;
use crate::recover::amend::{Amend, TableChange};
use crate::recover::part::{Search, SplitTable, TablePart};

/// The rows that are wanted: their place, and the round of the search that found them.
const KEPT: &str = "CREATE TEMPORARY TABLE kept (relation pg_catalog.oid, place pg_catalog.tid, round pg_catalog.int4, \
                    PRIMARY KEY (relation, place)); CREATE INDEX ON pg_temp.kept (round)";

/// Selects the statement that finds the rows `p` to which the rows `c` of the round before refer, for each foreign key of
/// the database. The comparison is the constraint's own, as the server makes it for its checks. A key of periods refers to
/// each row whose period overlaps.
const STEPS: &str = "
SELECT 'INSERT INTO pg_temp.kept SELECT p.tableoid, p.ctid, $1 FROM pg_temp.kept k JOIN '
    || CASE child.relkind WHEN 'r' THEN 'ONLY ' ELSE '' END || child.oid::pg_catalog.regclass::text
    || ' c ON c.tableoid = k.relation AND c.ctid = k.place JOIN '
    || CASE parent.relkind WHEN 'r' THEN 'ONLY ' ELSE '' END || parent.oid::pg_catalog.regclass::text
    || ' p ON ' || compared.text || ' WHERE k.round = $1 - 1 ON CONFLICT DO NOTHING'
  FROM pg_catalog.pg_constraint f
  JOIN pg_catalog.pg_class child ON child.oid = f.conrelid
  JOIN pg_catalog.pg_class parent ON parent.oid = f.confrelid
  CROSS JOIN LATERAL (
       SELECT pg_catalog.string_agg(
              CASE WHEN is_period AND key.at = pg_catalog.array_length(f.conkey, 1)
              THEN pg_catalog.format('p.%I OPERATOR(pg_catalog.&&) c.%I', theirs.attname, ours.attname)
              ELSE pg_catalog.format('p.%I%s OPERATOR(%I.%s) c.%I%s', theirs.attname, cast_to(o.oprleft), n.nspname,
                                     o.oprname, ours.attname, cast_to(o.oprright)) END, ' AND ') AS text
         FROM ROWS FROM (pg_catalog.unnest(f.conkey), pg_catalog.unnest(f.confkey), pg_catalog.unnest(f.conpfeqop))
              WITH ORDINALITY AS key (ours, theirs, operator, at)
         JOIN pg_catalog.pg_attribute ours ON ours.attrelid = f.conrelid AND ours.attnum = key.ours
         JOIN pg_catalog.pg_attribute theirs ON theirs.attrelid = f.confrelid AND theirs.attnum = key.theirs
         JOIN pg_catalog.pg_operator o ON o.oid = key.operator
         JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
       ) compared
 WHERE f.contype = 'f' AND f.conparentid = 0 ORDER BY f.oid";

/// Lists the foreign keys of the database.
const KNOWN_KEYS: &str = "SELECT ARRAY(SELECT oid FROM pg_catalog.pg_constraint WHERE contype = 'f')";

/// Selects the statements that drop all foreign keys but those.
const DROP_KEYS: &str = "
SELECT pg_catalog.format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::pg_catalog.regclass, conname)
  FROM pg_catalog.pg_constraint WHERE contype = 'f' AND conparentid = 0 AND NOT oid = ANY ($1)";

/// Spells the parts of [`STEPS`] for which SQL has no name. Only version 18 knows keys of periods. A value is not cast to a
/// polymorphic type.
fn steps() -> String {
    let cast = |operand: &str| {
        format!(
            "(SELECT CASE WHEN t.typtype = 'p' THEN '' ELSE '::' || pg_catalog.format_type(t.oid, -1) END \
             FROM pg_catalog.pg_type t WHERE t.oid = {operand})"
        )
    };
    STEPS
        .replace("is_period", "coalesce((pg_catalog.to_jsonb(f) ->> 'conperiod')::pg_catalog.bool, false)")
        .replace("cast_to(o.oprleft)", &cast("o.oprleft"))
        .replace("cast_to(o.oprright)", &cast("o.oprright"))
}

impl PostgresSink {
    /// Returns the oids of the tables that lack a column of the condition, or that could not be made.
    ///
    /// # Errors
    /// Fails with `Refused` if the server cannot read the condition, and with `Unavailable` if it fails.
    pub async fn lacking_columns(&self, search: &Search<'_>) -> Result<BTreeSet<u32>> {
        let mut lacking = BTreeSet::new();
        for table in &search.tables {
            let Err(error) = self.session.prepare(&finding(search, table)).await else { continue };
            match error.code() {
                Some(&SqlState::UNDEFINED_COLUMN | &SqlState::UNDEFINED_TABLE) => {
                    lacking.insert(table.oid);
                }
                _ => return Err(unreadable(error)),
            }
        }
        Ok(lacking)
    }

    /// Deletes the rows of `tables` that the search does not find, and digests what stays and what goes.
    ///
    /// # Errors
    /// Fails with `Refused` if the server refuses the condition, and with `Unavailable` if it fails.
    pub async fn keep_part(&self, search: &Search<'_>, tables: &[&Table]) -> Result<Vec<SplitTable>> {
        let session = Session::connect_utf8(&self.info, "recover").await?;
        self.place.settle(&session).await?;
        let failed = |error| server_error("cannot look for the rows that are wanted", error);
        session.batch_execute(KEPT).await.map_err(failed)?;
        let lacking = self.lacking_columns(search).await?;
        for table in search.tables.iter().filter(|table| !lacking.contains(&table.oid)) {
            let insert = format!("INSERT INTO pg_temp.kept {}", finding(search, table));
            session.execute(&insert, &[]).await.map_err(unreadable)?;
        }
        if search.with_references {
            let steps = self.foreign_key_steps(&session).await?;
            let mut round = 1_i32;
            loop {
                session.batch_execute("ANALYZE pg_temp.kept").await.map_err(failed)?;
                let mut found = 0;
                for step in &steps {
                    found += session.execute(step, &[&round]).await.map_err(failed)?;
                }
                if found == 0 {
                    break;
                }
                round += 1;
            }
        }
        let encoding = format!("SET client_encoding = '{}'", session.server_encoding());
        session.batch_execute(&encoding).await.map_err(failed)?;
        let mut split = Vec::new();
        for table in tables {
            split.push(self.split(&session, table).await?);
        }
        Ok(split)
    }

    /// Has rows changed under the foreign keys, before the rows are deleted that are not wanted. The keys are dropped
    /// afterwards: they are made for good when only the wanted rows are there.
    ///
    /// # Errors
    /// Fails with the error of the change, and with `Unavailable` if the server fails.
    pub async fn amend_whole(&self, amend: &dyn Amend) -> Result<Vec<TableChange>> {
        let failed = |error| server_error("cannot make the foreign keys for a while", error);
        let session = Session::connect_utf8(&self.info, "recover").await?;
        self.place.settle(&session).await?;
        let before: Vec<u32> = match session.query_one(KNOWN_KEYS, &[]).await {
            Ok(row) => row.get(0),
            Err(error) => return Err(failed(error)),
        };
        self.make_foreign_keys(&session).await?;
        session.batch_execute("COMMIT").await.map_err(failed)?;
        let changes = amend.amend(&self.info).await?;
        for row in session.query(DROP_KEYS, &[&before]).await.map_err(failed)? {
            session.batch_execute(row.get(0)).await.map_err(failed)?;
        }
        Ok(changes)
    }

    /// Makes the foreign keys, reads how they compare, and takes them back.
    async fn foreign_key_steps(&self, session: &Session) -> Result<Vec<String>> {
        let failed = |error| server_error("cannot read the foreign keys", error);
        self.make_foreign_keys(session).await?;
        let rows = session.query(&steps(), &[]).await.map_err(failed)?;
        session.batch_execute("ROLLBACK").await.map_err(failed)?;
        Ok(rows.iter().map(|row: &Row| row.get(0)).collect())
    }

    /// Makes the foreign keys, in a transaction that is left open. No row is looked at, except where the server makes no
    /// unchecked key: on partitioned tables.
    async fn make_foreign_keys(&self, session: &Session) -> Result<()> {
        let failed = |error| server_error("cannot make the foreign keys", error);
        let toc = &self.definitions.archive.toc;
        session.batch_execute("BEGIN").await.map_err(failed)?;
        for entry in self.definitions.selection.entries(toc).filter(|entry| entry.kind == "FK CONSTRAINT") {
            let definition = entry.definition.trim_end().trim_end_matches(';');
            for suffix in [" NOT VALID", ""] {
                let made = session.batch_execute(&format!("SAVEPOINT key; {definition}{suffix}")).await;
                let Err(error) = made else { break };
                tracing::debug!("{}: {error}", entry.display());
                session.batch_execute("ROLLBACK TO key").await.map_err(failed)?;
            }
        }
        Ok(())
    }

    async fn split(&self, session: &Session, table: &Table) -> Result<SplitTable> {
        let failed = |error| server_error(format!("cannot leave out rows of {}", table.display()), error);
        let spelled = Spelled::of(table, &self.facts.encoding);
        let name = &spelled.table;
        let values: Vec<_> = spelled.each.iter().map(|column| format!("t.{column}")).collect();
        // A row of a table without stored columns is an empty line.
        let values = if values.is_empty() { "''::pg_catalog.text".to_owned() } else { values.join(", ") };
        let delete = format!(
            "COPY (DELETE FROM ONLY {name} t WHERE NOT EXISTS (SELECT FROM pg_temp.kept k WHERE k.relation = t.tableoid \
             AND k.place = t.ctid) RETURNING {values}) TO STDOUT"
        );
        let gone =
            digests_of(session, &format!("what is left out of {}", table.display()), &[delete]).await?;
        let left_out = gone.iter().filter_map(|it| it.digest).fold(0, u128::wrapping_add);
        let gone = gone.iter().map(|it| it.rows).sum();
        let stays = self.read_one(table, 1).await?;
        if gone > stays.rows {
            // Nobody else is here, and a table without its rows should not keep their room.
            session.batch_execute(&format!("VACUUM (FULL) {name}")).await.map_err(failed)?;
        }
        let part = TablePart { table: table.display(), rows: stays.rows, left_out: gone };
        Ok(SplitTable { part, kept: stays.digest.unwrap_or_default(), left_out })
    }
}

/// The query for the places of the wanted rows of a table.
fn finding(search: &Search<'_>, table: &Table) -> String {
    let condition = search.condition.map_or_else(String::new, |text| format!(" WHERE (\n{text}\n)"));
    format!(
        "SELECT {0}.tableoid, {0}.ctid, 0 FROM ONLY {1} AS {0}{condition}",
        crate::model::schema::quote_ident(&table.name),
        table.quoted()
    )
}

fn unreadable(error: tokio_postgres::Error) -> crate::error::Error {
    server_error("cannot use --where", error)
}
