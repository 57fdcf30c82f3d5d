//! Loads the rows of gated tables in the transaction that holds the tables.
//!
//! Sessions that wait at the gate may have taken their snapshots before the rows came. The rows are therefore loaded with
//! FREEZE, which makes them visible to every snapshot. FREEZE needs a file that is new in this transaction. CLUSTER of the
//! empty table makes one; TRUNCATE would refuse a table that others refer to.

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::connect::{Session, server_error};
use crate::error::{Context, Error, Kind, Result};
use crate::fold::Tally;
use crate::history::evidence::TableDigest;
use crate::model::Inexact;
use crate::model::spelling::{Spelled, spell};
use crate::progress::Silent;
use crate::recover::load::{PIECES_WAITING, feed};
use crate::recover::part::TablePart;
use crate::recover::sink::{MARKER, copy_rows, digests_of};

use super::statements::{BACK, SAVEPOINT, run};
use super::{Content, GatedTable, OpenedGate, found, ledger, part, view};

/// Selects the triggers of a table that fire although the session is a replica.
const TRIGGERS: &str = "SELECT oid, tgenabled::text FROM pg_catalog.pg_trigger \
                        WHERE tgrelid = $1 AND NOT tgisinternal AND tgenabled IN ('A', 'R')";

/// Selects the index by which a table is to be clustered.
const CLUSTERED: &str = "SELECT indexrelid FROM pg_catalog.pg_index WHERE indrelid = $1 AND indisclustered";

/// # Errors
/// `Damaged` if the history is; `Refused` if the server does not take the rows of a table; `Internal` if it does not hold
/// the rows that it was sent. The tables are then empty and still locked.
pub(super) async fn fill(session: &Session, content: &Content, started: Instant) -> Result<OpenedGate> {
    run(session, SAVEPOINT).await?;
    let filled = fill_tables(session, content, started).await;
    if let Err(error) = filled {
        run(session, BACK).await?;
        return Err(error);
    }
    view::fill(session, &content.views).await?;
    let views = content.views.iter().map(|view| view.relation.display()).collect();
    filled.map(|filled| OpenedGate { views, ..filled })
}

async fn fill_tables(session: &Session, content: &Content, started: Instant) -> Result<OpenedGate> {
    let mut filled = OpenedGate::default();
    if content.ledger.is_some() {
        refuse_code(session, &content.tables).await?;
        refuse_written(session, &content.tables).await?;
    }
    for table in &content.tables {
        let filling = Filling { session, table };
        let (sent, held) = filling.load().await?;
        if table.condition.is_some() {
            let (table, left_out) = (filling.name(), sent.rows.saturating_sub(held.rows));
            filled.parts.push(TablePart { table, rows: held.rows, left_out });
        }
        let (table, digest) = (filling.name(), held.digest.to_string());
        filled.tables.push(TableDigest { table, rows: held.rows, digest });
    }
    set_sequences(session, &content.tables, &mut filled.inexact).await?;
    if let Some(gate) = content.ledger {
        ledger::enter_loaded(session, gate, &content.tables, &filled, started.elapsed()).await?;
    }
    Ok(filled)
}

/// In a database that others use, an owner may have given a table something to compute since it was found to have nothing.
/// Now that the table is locked, it stays as it is.
async fn refuse_code(session: &Session, tables: &[GatedTable]) -> Result<()> {
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let running = found::running_code(session, &oids).await?;
    match tables.iter().find(|table| running.contains(&table.oid)) {
        None => Ok(()),
        Some(table) => Err(Error::refused(format!(
            "{} was changed since the recovery began, and would call a function of its owner's with the rights of a superuser; \
             change it back, or recover into another database",
            table.folded.table.display()
        ))),
    }
}

/// Privileges keep superusers and members of `pg_write_all_data` from writing into a table as little as from reading it. What
/// they have written while nobody loaded it is neither the history's nor to be thrown away.
async fn refuse_written(session: &Session, tables: &[GatedTable]) -> Result<()> {
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let sql = format!(
        "SELECT g.oid FROM {MARKER}.gates g WHERE g.oid = ANY ($1) AND pg_catalog.pg_relation_size(g.oid) > g.bytes LIMIT 1"
    );
    let written = session.query_opt(&sql, &[&oids]).await;
    let written = written.map_err(|error| server_error("cannot look at the tables to be loaded", error))?;
    let written = written.map(|row| row.get::<_, u32>(0));
    match tables.iter().find(|table| Some(table.oid) == written) {
        None => Ok(()),
        Some(table) => Err(Error::refused(format!(
            "somebody has written into {} since its loading was interrupted; to have the history's rows, drop the database and \
             recover it anew; to go on without them, empty the table with TRUNCATE and run backwhen recover --resume again",
            table.folded.table.display()
        ))),
    }
}

struct Filling<'a> {
    session: &'a Session,
    table: &'a GatedTable,
}

impl Filling<'_> {
    /// Loads the rows, builds the indexes, and compares the rows that the server then holds with those that were sent. Returns
    /// both: they differ only if some rows are not wanted.
    async fn load(&self) -> Result<(Tally, Tally)> {
        if let Some(why) = &self.table.unfit {
            return Err(Error::refused(format!("{} cannot take its rows: as replayed, {why}", self.name())));
        }
        let failed = |error| server_error(format!("cannot load {}", self.name()), error);
        let oid = self.table.oid;
        let triggers = self.session.query(TRIGGERS, &[&oid]).await.map_err(failed)?;
        let clustered = self.session.query_opt(CLUSTERED, &[&oid]).await.map_err(failed)?;
        let preparation = if self.table.is_unseen { self.switch_off() } else { self.preparation() };
        run(self.session, &preparation).await?;
        let sent = self.copy().await?;
        let mut after = format!(
            "UPDATE pg_catalog.pg_class SET relchecks = (SELECT pg_catalog.count(*) FROM pg_catalog.pg_constraint \
              WHERE conrelid = {oid} AND contype = 'c') WHERE oid = {oid};"
        );
        if !self.table.is_unseen {
            after += &format!("REINDEX TABLE {};", self.spelled().table);
        }
        for trigger in triggers {
            let (number, when): (u32, String) = (trigger.get(0), trigger.get(1));
            after += &format!("UPDATE pg_catalog.pg_trigger SET tgenabled = '{when}' WHERE oid = {number};");
        }
        if let Some(index) = clustered {
            let index: u32 = index.get(0);
            after +=
                &format!("UPDATE pg_catalog.pg_index SET indisclustered = true WHERE indexrelid = {index};");
        }
        after += &format!("ANALYZE {}", self.spelled().table);
        run(self.session, &after).await?;
        let held = self.prove(&sent).await?;
        Ok((sent, held))
    }

    /// The statements after which no trigger fires, no CHECK is looked at, and the table may be queried. The source looked at
    /// the CHECKs, and the rows are proved to be the source's.
    fn switch_off(&self) -> String {
        let oid = self.table.oid;
        format!(
            "UPDATE pg_catalog.pg_trigger SET tgenabled = 'D' \
              WHERE tgrelid = {oid} AND NOT tgisinternal AND tgenabled IN ('A', 'R'); \
             UPDATE pg_catalog.pg_class SET relchecks = 0, relispopulated = true \
              WHERE oid = {oid} AND (relchecks <> 0 OR NOT relispopulated); "
        )
    }

    /// The statements after which, moreover, the table has a new file, and no index takes rows: REINDEX builds the indexes
    /// from all rows at once. The catalogs are written directly, as the indexes keep their oids and comments.
    fn preparation(&self) -> String {
        let (table, oid) = (self.spelled().table, self.table.oid);
        let schema = spell(&self.table.folded.table.schema, self.session.server_encoding());
        format!(
            "{} CREATE INDEX backwhen_gate_{oid} ON {table} ((1)); \
             CLUSTER {table} USING backwhen_gate_{oid}; \
             DROP INDEX {schema}.backwhen_gate_{oid}; \
             UPDATE pg_catalog.pg_index SET indisready = false WHERE indrelid = {oid}",
            self.switch_off()
        )
    }

    async fn copy(&self) -> Result<Tally> {
        let (pieces, rows) = mpsc::channel(PIECES_WAITING);
        let folded = self.table.folded.clone();
        let feeding = tokio::task::spawn_blocking(move || feed(folded, pieces, &Silent));
        let encoding = self.session.server_encoding();
        let table = &self.table.folded.table;
        let condition = self.table.condition.as_deref();
        let taken = copy_rows(self.session, table, encoding, !self.table.is_unseen, condition, rows).await;
        let fed = feeding.await.context(Kind::Internal, || "a feeding thread failed".into())?;
        // If the server fails first, the feeder only knows that its receiver is gone.
        match (taken, fed) {
            (Ok(()), fed) => fed,
            (Err(_), Err(error)) if error.kind() != Kind::Interrupted => Err(error),
            (Err(error), _) => Err(error),
        }
    }

    /// Compares the rows that the server holds with those that were sent, and returns the former.
    async fn prove(&self, sent: &Tally) -> Result<Tally> {
        let spelled = self.spelled();
        let copy = format!("COPY {}{} TO STDOUT", spelled.table, spelled.columns);
        if self.table.condition.is_some() {
            return part::prove(self.session, &self.table.folded, &copy, self.table.is_retyped).await;
        }
        let found = digests_of(self.session, &self.name(), &[copy]).await?;
        let rows = found.iter().map(|it| it.rows).sum::<u64>();
        let is_same = found.iter().all(|it| it.digest == Some(sent.digest.0));
        if rows == sent.rows && (is_same || self.table.is_retyped) {
            return Ok(*sent);
        }
        Err(Error::internal(format!(
            "{} does not hold what was recovered: {rows} rows instead of {}, or other bytes; please report this",
            self.name(),
            sent.rows
        )))
    }

    fn spelled(&self) -> Spelled {
        Spelled::of(&self.table.folded.table, self.session.server_encoding())
    }

    fn name(&self) -> String {
        self.table.folded.table.display()
    }
}

/// Sets the sequences that stand behind the largest value of a loaded column.
async fn set_sequences(session: &Session, tables: &[GatedTable], inexact: &mut Vec<Inexact>) -> Result<()> {
    let values = tables.iter().flat_map(|table| &table.sequences);
    for (number, value) in values.enumerate() {
        if number == 0 {
            run(session, "SET LOCAL client_encoding = 'UTF8'; SET LOCAL constraint_exclusion = off").await?;
        }
        run(session, "SAVEPOINT backwhen_sequence").await?;
        if let Err(error) = session.batch_execute(&value.statement()).await {
            run(session, "ROLLBACK TO SAVEPOINT backwhen_sequence").await?;
            let why = server_error("it stands at its start, since the server does not take its value", error);
            inexact.push(Inexact {
                what: format!("sequence {}.{}", value.schema, value.name),
                why: why.to_string(),
            });
        }
    }
    Ok(())
}
