//! Moves the rows of a scratch database from one moment to another.

use bytes::Bytes;
use futures_util::SinkExt;

use super::changes::{Lines, NetChange};
use crate::connect::{Session, server_error};
use crate::error::{Error, Result};
use crate::model::Table;
use crate::model::spelling::Spelled;

/// Selects the columns of a unique index in which no value is NULL, each with the operator that its rows are compared by;
/// the primary key first. Operators are named in full, as no schema is searched.
const KEY: &str = "
SELECT a.attname::text, pg_catalog.format('OPERATOR(%I.%s)', n.nspname, o.oprname)
  FROM (SELECT i.* FROM pg_catalog.pg_index i
         WHERE i.indrelid = $1::text::pg_catalog.regclass AND i.indisunique AND i.indisvalid
           AND i.indpred IS NULL AND i.indexprs IS NULL
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = i.indrelid
                              AND a.attnum = ANY (i.indkey) AND (NOT a.attnotnull OR a.attgenerated <> ''))
         ORDER BY i.indisprimary DESC, i.indexrelid LIMIT 1) i
  CROSS JOIN LATERAL pg_catalog.generate_series(0, i.indnkeyatts - 1) AS k
  JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k]
  JOIN pg_catalog.pg_opclass c ON c.oid = i.indclass[k]
  JOIN pg_catalog.pg_amop p ON p.amopfamily = c.opcfamily AND p.amoplefttype = c.opcintype
   AND p.amoprighttype = c.opcintype AND p.amopstrategy = 3
  JOIN pg_catalog.pg_operator o ON o.oid = p.amopopr
  JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
 ORDER BY k";

/// A session in which rows are written, in the server's encoding.
pub struct RowWriter<'a> {
    /// For catalogs, in UTF-8.
    pub catalogs: &'a Session,
    pub session: &'a Session,
}

impl RowWriter<'_> {
    /// Begins the transaction that [`RowWriter::write`] writes in. Rows come one table after the other, so that only the
    /// whole fulfils all constraints.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn begin(&self) -> Result<()> {
        self.execute("BEGIN; SET CONSTRAINTS ALL DEFERRED", "cannot begin to move the rows").await
    }

    /// # Errors
    /// `Refused` if the rows break a constraint, which those of a moment do not.
    pub async fn commit(&self) -> Result<()> {
        self.execute("COMMIT", "cannot commit the rows of another moment").await
    }

    /// Makes a net change: removes all rows that are gone, then adds the new ones.
    ///
    /// # Errors
    /// `Damaged` if a row that is to go is not there; `Refused` if the server refuses a row.
    pub async fn write(&self, changes: &mut [NetChange]) -> Result<()> {
        for change in changes.iter_mut().filter(|change| change.gone.count > 0) {
            self.remove(&change.table, &mut change.gone).await?;
        }
        for change in changes.iter_mut().filter(|change| change.new.count > 0) {
            let spelled = Spelled::of(&change.table, self.session.server_encoding());
            let target = format!("{}{}", spelled.table, spelled.columns);
            self.copy(&change.table, &target, &mut change.new).await?;
        }
        Ok(())
    }

    async fn remove(&self, table: &Table, gone: &mut Lines) -> Result<()> {
        let what = || format!("cannot remove rows of {}", table.display());
        let spelled = Spelled::of(table, self.session.server_encoding());
        let (target, list) = (&spelled.table, &spelled.list);
        let stage =
            format!("CREATE TEMP TABLE backwhen_gone AS SELECT {list} FROM ONLY {target} WITH NO DATA");
        self.execute(&stage, &what()).await?;
        self.copy(table, "pg_temp.backwhen_gone", gone).await?;
        self.execute("ANALYZE pg_temp.backwhen_gone", &what()).await?;
        let delete = match self.same_key(table, &spelled).await? {
            Some(same) => format!("DELETE FROM ONLY {target} t USING pg_temp.backwhen_gone g WHERE {same}"),
            // If several rows are equal, only as many of them are deleted as are gone.
            None => format!(
                "DELETE FROM ONLY {target} WHERE ctid = ANY (ARRAY (SELECT t.ctid FROM (SELECT ctid, \
                 ROW({list})::pg_catalog.text AS line, pg_catalog.row_number() OVER (PARTITION BY \
                 ROW({list})::pg_catalog.text) AS number FROM ONLY {target}) t JOIN (SELECT \
                 ROW({list})::pg_catalog.text AS line, pg_catalog.count(*) AS number FROM pg_temp.backwhen_gone \
                 GROUP BY 1) g ON g.line OPERATOR(pg_catalog.=) t.line \
                 AND t.number OPERATOR(pg_catalog.<=) g.number))"
            ),
        };
        let removed =
            self.session.execute(&delete, &[]).await.map_err(|error| server_error(what(), error))?;
        self.execute("DROP TABLE pg_temp.backwhen_gone", &what()).await?;
        if removed != gone.count {
            return Err(Error::damaged(format!(
                "{} of {} rows of {} are not as the history has them; check it with: backwhen verify --prove",
                gone.count - removed.min(gone.count),
                gone.count,
                table.display()
            )));
        }
        Ok(())
    }

    /// The condition that `t` and `g` are one row; `None` if only all values tell rows apart.
    async fn same_key(&self, table: &Table, spelled: &Spelled) -> Result<Option<String>> {
        let rows = self.catalogs.query(KEY, &[&table.quoted()]).await;
        let rows = rows
            .map_err(|error| server_error(format!("cannot ask for a key of {}", table.display()), error))?;
        let part = |row: &tokio_postgres::Row| {
            let (name, operator): (String, String) = (row.get(0), row.get(1));
            let column = table.columns.iter().position(|column| column.name == name)?;
            let column = &spelled.each[column];
            Some(format!("t.{column} {operator} g.{column}"))
        };
        let parts: Option<Vec<_>> = rows.iter().map(part).collect();
        Ok(parts.filter(|parts| !parts.is_empty()).map(|parts| parts.join(" AND ")))
    }

    async fn copy(&self, table: &Table, target: &str, lines: &mut Lines) -> Result<()> {
        let failed = |error| server_error(format!("cannot write rows of {}", table.display()), error);
        let sink = self.session.copy_in(&format!("COPY {target} FROM STDIN")).await.map_err(failed)?;
        let mut sink = std::pin::pin!(sink);
        sink.send(Bytes::from(std::mem::take(&mut lines.text))).await.map_err(failed)?;
        sink.finish().await.map(drop).map_err(failed)
    }

    async fn execute(&self, sql: &str, what: &str) -> Result<()> {
        self.session.batch_execute(sql).await.map_err(|error| server_error(what, error))
    }
}
