//! Loads the rows of gated tables in the transaction that holds the tables.
//!
//! Sessions that wait at the gate may have taken their snapshots before the rows came. The rows are therefore loaded with
//! FREEZE, which makes them visible to every snapshot. FREEZE needs a file that is new in this transaction. CLUSTER of the
//! empty table makes one; TRUNCATE would refuse a table that others refer to.

use tokio::sync::mpsc;

use crate::connect::{ServerFault, Session, server_error};
use crate::error::{Context, Error, Kind, Result};
use crate::fold::Tally;
use crate::history::evidence::TableDigest;
use crate::model::Inexact;
use crate::model::spelling::{Spelled, spell};
use crate::progress::Silent;
use crate::recover::load::{PIECES_WAITING, feed};
use crate::recover::sink::{copy_frozen, digests_of};

use super::{GatedTable, OpenedGate};

/// Marks the state to which a load that fails goes back without letting go of the lock.
const SAVEPOINT: &str = "SAVEPOINT backwhen_gate";
const BACK: &str = "ROLLBACK TO SAVEPOINT backwhen_gate";

/// Selects the triggers of a table that fire although the session is a replica.
const TRIGGERS: &str = "SELECT oid, tgenabled::text FROM pg_catalog.pg_trigger \
                        WHERE tgrelid = $1 AND NOT tgisinternal AND tgenabled IN ('A', 'R')";

/// Selects the index by which a table is to be clustered.
const CLUSTERED: &str = "SELECT indexrelid FROM pg_catalog.pg_index WHERE indrelid = $1 AND indisclustered";

/// # Errors
/// `Damaged` if the history is; `Refused` if the server does not take the rows of a table; `Internal` if it does not hold
/// the rows that it was sent. The tables are then empty and still locked.
pub(super) async fn fill(session: &Session, tables: &[GatedTable]) -> Result<OpenedGate> {
    let (mut digests, mut inexact) = (Vec::new(), Vec::new());
    run(session, SAVEPOINT).await?;
    for table in tables {
        let filling = Filling { session, table };
        match filling.fill(&mut inexact).await {
            Ok(digest) => digests.push(digest),
            Err(error) => {
                run(session, BACK).await?;
                return Err(error);
            }
        }
    }
    set_sequences(session, tables, &mut inexact).await?;
    Ok(OpenedGate { tables: digests, views: Vec::new(), inexact, took: std::time::Duration::ZERO })
}

struct Filling<'a> {
    session: &'a Session,
    table: &'a GatedTable,
}

impl Filling<'_> {
    async fn fill(&self, inexact: &mut Vec<Inexact>) -> Result<TableDigest> {
        let table = self.table.folded.table.display();
        if let Some(why) = &self.table.unfit {
            return Err(Error::refused(format!("{table} cannot take its rows: as replayed, {why}")));
        }
        run(self.session, "SAVEPOINT backwhen_table").await?;
        let sent = match self.load().await {
            Err(error) if ServerFault::of(&error).is_some_and(ServerFault::is_refusal) => {
                run(self.session, "ROLLBACK TO SAVEPOINT backwhen_table").await?;
                let why =
                    format!("its CHECKs were taken away, since the rows of the moment break one: {error}");
                if !self.drop_checks().await? {
                    return Err(error);
                }
                inexact.push(Inexact { what: table.clone(), why });
                self.load().await?
            }
            loaded => loaded?,
        };
        run(self.session, "RELEASE SAVEPOINT backwhen_table").await?;
        Ok(TableDigest { table, rows: sent.rows, digest: sent.digest.to_string() })
    }

    /// Loads the rows, builds the indexes, and compares the rows that the server then holds with those that were sent.
    async fn load(&self) -> Result<Tally> {
        let failed = |error| server_error(format!("cannot load {}", self.name()), error);
        let oid = self.table.oid;
        let triggers = self.session.query(TRIGGERS, &[&oid]).await.map_err(failed)?;
        let clustered = self.session.query_opt(CLUSTERED, &[&oid]).await.map_err(failed)?;
        run(self.session, &self.preparation()).await?;
        let sent = self.copy().await?;
        let mut after = format!("REINDEX TABLE {};", self.spelled().table);
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
        self.prove(&sent).await?;
        Ok(sent)
    }

    /// The statements after which the table has a new file, no trigger fires, and no index takes rows: REINDEX builds the
    /// indexes from all rows at once. The catalogs are written directly, as the indexes keep their oids and comments.
    fn preparation(&self) -> String {
        let (table, oid) = (self.spelled().table, self.table.oid);
        let schema = spell(&self.table.folded.table.schema, self.session.server_encoding());
        format!(
            "UPDATE pg_catalog.pg_trigger SET tgenabled = 'D' \
              WHERE tgrelid = {oid} AND NOT tgisinternal AND tgenabled IN ('A', 'R'); \
             CREATE INDEX backwhen_gate_{oid} ON {table} ((1)); \
             CLUSTER {table} USING backwhen_gate_{oid}; \
             DROP INDEX {schema}.backwhen_gate_{oid}; \
             UPDATE pg_catalog.pg_index SET indisready = false WHERE indrelid = {oid}"
        )
    }

    async fn copy(&self) -> Result<Tally> {
        let (pieces, rows) = mpsc::channel(PIECES_WAITING);
        let folded = self.table.folded.clone();
        let feeding = tokio::task::spawn_blocking(move || feed(folded, pieces, &Silent));
        let encoding = self.session.server_encoding();
        let taken = copy_frozen(self.session, &self.table.folded.table, encoding, rows).await;
        let fed = feeding.await.context(Kind::Internal, || "a feeding thread failed".into())?;
        // If the server fails first, the feeder only knows that its receiver is gone.
        match (taken, fed) {
            (Ok(()), fed) => fed,
            (Err(_), Err(error)) if error.kind() != Kind::Interrupted => Err(error),
            (Err(error), _) => Err(error),
        }
    }

    async fn prove(&self, sent: &Tally) -> Result<()> {
        let spelled = self.spelled();
        let copy = format!("COPY {}{} TO STDOUT", spelled.table, spelled.columns);
        let found = digests_of(self.session, &self.name(), &[copy]).await?;
        let rows = found.iter().map(|it| it.rows).sum::<u64>();
        let is_same = found.iter().all(|it| it.digest == Some(sent.digest.0));
        if rows == sent.rows && (is_same || self.table.is_retyped) {
            return Ok(());
        }
        Err(Error::internal(format!(
            "{} does not hold what was recovered: {rows} rows instead of {}, or other bytes; please report this",
            self.name(),
            sent.rows
        )))
    }

    /// Returns whether there was a CHECK.
    async fn drop_checks(&self) -> Result<bool> {
        for check in &self.table.checks {
            let check = spell(check, self.session.server_encoding());
            let drop = format!("ALTER TABLE {} DROP CONSTRAINT {check}", self.spelled().table);
            run(self.session, &drop).await?;
        }
        Ok(!self.table.checks.is_empty())
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
            run(session, "SET LOCAL client_encoding = 'UTF8'").await?;
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

pub(super) async fn run(session: &Session, sql: &str) -> Result<()> {
    let done = session.batch_execute(sql).await;
    done.map_err(|error| server_error("cannot load a table that is asked for", error))
}
