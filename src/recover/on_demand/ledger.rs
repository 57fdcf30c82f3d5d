//! The ledger of an unfinished database: which of its tables are not loaded yet, and what the report will have to say. It is
//! a schema in the database, so that it cannot be apart from it, and goes with the last table.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio_postgres::Row;

use crate::connect::{Conninfo, ServerFault, Session, server_error};
use crate::error::{Context, Error, Kind, Result};
use crate::history::definitions::SchemaKnown;
use crate::history::evidence::TableDigest;
use crate::model::schema::quote_ident;
use crate::model::schema_digests::SchemaProof;
use crate::model::{Inexact, Lsn};
use crate::recover::gate::Content;
use crate::recover::plan::Plan;
use crate::recover::refused::RefusedObject;
use crate::recover::sink::{MARKER, SequenceValue};

const MAKE: &str = include_str!("ledger.sql");
const CLOSE: &str = include_str!("ledger_close.sql");

/// Selects the tables with the sessions that wait for a relation of their gate, and whether one is being loaded.
const STATUS: &str = "
SELECT g.name, g.kind, g.loaded, g.seconds, g.rows, coalesce(w.pids, '{}'), w.longest,
       EXISTS (SELECT FROM pg_catalog.pg_stat_progress_copy p JOIN backwhen_unfinished.gates o ON o.oid = p.relid
                WHERE o.gate = g.gate)
       OR EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index p JOIN backwhen_unfinished.gates o ON o.oid = p.relid
                   WHERE o.gate = g.gate)
  FROM backwhen_unfinished.gates g LEFT JOIN LATERAL (
    SELECT pg_catalog.array_agg(DISTINCT l.pid ORDER BY l.pid) AS pids,
           EXTRACT(epoch FROM pg_catalog.clock_timestamp() - min(l.waitstart))::float8 AS longest
      FROM pg_catalog.pg_locks l JOIN backwhen_unfinished.gates o ON o.oid = l.relation
     WHERE NOT l.granted AND o.gate = g.gate
       AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())) w ON true
 WHERE g.kind IN ('table', 'view') ORDER BY g.gate, g.kind, g.name";

/// Whether a process of backwhen holds gates in the database.
const LOADING: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE datname = pg_catalog.current_database() \
                       AND application_name LIKE 'backwhen gate%' AND pid <> pg_catalog.pg_backend_pid())";

/// Whether a superuser made the ledger. Statements in it are run.
const OURS: &str = "
SELECT coalesce(pg_catalog.bool_and(r.rolsuper), true) FROM (
    SELECT n.nspowner FROM pg_catalog.pg_namespace n WHERE n.nspname = 'backwhen_unfinished'
    UNION ALL SELECT c.relowner FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = 'backwhen_unfinished') o (owner) JOIN pg_catalog.pg_roles r ON r.oid = o.owner";

/// The part of the report that is known when the database is opened.
#[derive(Serialize, Deserialize)]
pub(super) struct Known {
    pub schema: SchemaKnown,
    pub schema_proof: SchemaProof,
    pub transactions: u64,
    pub inexact: Vec<Inexact>,
    pub left_out: Vec<RefusedObject>,
    pub notes: Vec<String>,
    pub digests: Vec<TableDigest>,
}

/// The facts about a table that the ledger keeps besides its oid.
#[derive(Serialize, Deserialize)]
pub(super) struct Details {
    pub is_retyped: bool,
    pub sequences: Vec<SequenceValue>,
}

/// The recovery that a database is from.
#[derive(Debug)]
pub struct Identified {
    /// The history's own number.
    pub history: String,
    pub epoch: u32,
    pub lsn: Lsn,
}

/// The state of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GateState {
    /// Nobody has begun to load it.
    Closed,
    Loading,
    Loaded,
}

/// A table or materialised view that stood behind a gate.
#[derive(Clone, Debug, Serialize)]
pub struct GateStatus {
    pub table: String,
    pub state: GateState,
    /// Whether somebody waits for it, or has waited.
    pub wanted: bool,
    /// The processes of the server that wait for it.
    pub waiting: Vec<i32>,
    /// How long loading took; if it is not loaded, how long somebody has been waiting for it.
    pub seconds: Option<f64>,
    pub rows: Option<u64>,
}

fn failed(error: tokio_postgres::Error) -> Error {
    server_error("cannot keep the list of tables that are not loaded", error)
}

/// Makes the ledger, and takes the privileges on what stands behind gates away, in one transaction.
///
/// # Errors
/// `Unavailable` if the server fails.
pub(super) async fn make(
    session: &Session,
    plan: &Plan,
    contents: &[Content],
    known: &Known,
    own_comment: &str,
) -> Result<()> {
    session.batch_execute(&format!("BEGIN; {MAKE}")).await.map_err(failed)?;
    let known = json(known)?;
    let (history, epoch) = (&plan.past.history().identity().id, plan.epoch as i32);
    let sql = "INSERT INTO backwhen_unfinished.recovery VALUES ($1, $2, $3, $4, $5)";
    let lsn = plan.moment.lsn.to_string();
    session.execute(sql, &[history, &epoch, &lsn, &known, &own_comment]).await.map_err(failed)?;
    for content in contents {
        enter(session, content).await?;
    }
    session.batch_execute(&format!("{CLOSE}; COMMIT")).await.map_err(failed)
}

/// Puts down what is known by now.
///
/// # Errors
/// `Unavailable` if the server fails.
pub(super) async fn update(session: &Session, known: &Known) -> Result<()> {
    let sql = "UPDATE backwhen_unfinished.recovery SET known = $1";
    session.execute(sql, &[&json(known)?]).await.map(drop).map_err(failed)
}

async fn enter(session: &Session, content: &Content) -> Result<()> {
    let gate = content.ledger.unwrap_or_default();
    let sql = "INSERT INTO backwhen_unfinished.gates (oid, gate, kind, name, source, details) \
               VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
    let none: (Option<u32>, Option<String>) = (None, None);
    for table in &content.tables {
        let details = Details { is_retyped: table.is_retyped, sequences: table.sequences.clone() };
        let (name, details) = (table.folded.table.display(), json(&details)?);
        let source = table.folded.table.oid;
        session
            .execute(sql, &[&table.oid, &gate, &"table", &name, &source, &details])
            .await
            .map_err(failed)?;
    }
    let above = content.tables.iter().flat_map(|table| &table.ancestors).map(|it| ("parent", it));
    let sequences = content.tables.iter().flat_map(|table| &table.locked_sequences);
    let sequences = sequences.map(|it| ("sequence", &it.relation));
    let views = content.views.iter().map(|it| ("view", &it.relation));
    for (kind, relation) in above.chain(sequences).chain(views) {
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
            [&relation.oid, &gate, &kind, &relation.display(), &none.0, &none.1];
        session.execute(sql, &values).await.map_err(failed)?;
    }
    Ok(())
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).context(Kind::Internal, || "the ledger cannot be written".into())
}

pub(super) fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T> {
    serde_json::from_str(text).context(Kind::Refused, || {
        "another version of backwhen began this recovery; go on with that one, or drop the database".into()
    })
}

/// Finds out which recovery a database is from that is not finished.
///
/// # Errors
/// `Refused` if no recovery on demand was begun in the database.
pub async fn identify(info: &Conninfo) -> Result<Identified> {
    let session = Session::connect_utf8(info, "recover").await?;
    require_ours(&session, info).await?;
    let sql = format!("SELECT history, epoch, lsn FROM {MARKER}.recovery");
    let row = session.query_one(&sql, &[]).await.map_err(|error| not_there(info, error))?;
    let lsn: String = row.get(2);
    let lsn = lsn.parse().map_err(|_| {
        Error::refused("the list of unloaded tables names no position; drop the database, and begin again")
    })?;
    Ok(Identified { history: row.get(0), epoch: row.get::<_, i32>(1) as u32, lsn })
}

/// # Errors
/// `Refused` if somebody else made a schema of the ledger's name.
async fn require_ours(session: &Session, info: &Conninfo) -> Result<()> {
    let row = session.query_one(OURS, &[]).await.map_err(failed)?;
    if row.get(0) {
        return Ok(());
    }
    Err(Error::refused(format!(
        "the schema {MARKER} in database {} was not made by a superuser, so it is not believed; begin again in another database",
        info.dbname()
    )))
}

fn not_there(info: &Conninfo, error: tokio_postgres::Error) -> Error {
    let error = server_error("cannot read which tables are not loaded", error);
    // No such schema or table; or the schema is that of another kind of recovery.
    if ServerFault::sqlstate_of(&error).is_some_and(|code| matches!(code, "3F000" | "42P01")) {
        return Error::refused(format!(
            "database {} holds no recovery on demand that is unfinished; begin one with: backwhen recover --on-demand --to …",
            info.dbname()
        ));
    }
    error
}

/// Returns how the gates of a database stand, and whether a process of backwhen is loading.
///
/// # Errors
/// `Refused` if no recovery on demand was begun in the database.
pub async fn status(info: &Conninfo) -> Result<(Vec<GateStatus>, bool)> {
    let session = Session::connect_utf8(info, "status").await?;
    require_ours(&session, info).await?;
    let rows = session.query(STATUS, &[]).await.map_err(|error| not_there(info, error))?;
    let loading = session.query_one(LOADING, &[]).await.map_err(failed)?.get(0);
    Ok((rows.iter().map(of_row).collect(), loading))
}

fn of_row(row: &Row) -> GateStatus {
    let (loaded, is_loading): (bool, bool) = (row.get(2), row.get(7));
    let waiting: Vec<i32> = row.get(5);
    let state = match (loaded, is_loading) {
        (true, _) => GateState::Loaded,
        (false, true) => GateState::Loading,
        (false, false) => GateState::Closed,
    };
    let seconds = if loaded { row.get(3) } else { row.get(6) };
    let rows = row.get::<_, Option<i64>>(4).map(|rows| rows as u64);
    GateStatus { table: row.get(0), state, wanted: !waiting.is_empty(), waiting, seconds, rows }
}

/// Returns all gates in the session's database, and the digests of the tables that are loaded.
///
/// # Errors
/// `Unavailable` if the server fails.
pub(super) async fn gates(session: &Session) -> Result<(Vec<GateStatus>, Vec<TableDigest>)> {
    let rows = session.query(STATUS, &[]).await.map_err(failed)?;
    let sql = "SELECT name, rows, digest FROM backwhen_unfinished.gates WHERE digest IS NOT NULL ORDER BY gate, name";
    let digests = session.query(sql, &[]).await.map_err(failed)?;
    let digest =
        |row: &Row| TableDigest { table: row.get(0), rows: row.get::<_, i64>(1) as u64, digest: row.get(2) };
    Ok((rows.iter().map(of_row).collect(), digests.iter().map(digest).collect()))
}

/// Returns what is not exact about the relations that stood behind gates.
///
/// # Errors
/// `Unavailable` if the server fails.
pub(super) async fn inexact(session: &Session) -> Result<Vec<Inexact>> {
    let sql = "SELECT inexact FROM backwhen_unfinished.gates WHERE inexact IS NOT NULL ORDER BY gate, oid";
    let rows = session.query(sql, &[]).await.map_err(failed)?;
    let parsed = rows.iter().map(|row| parse::<Vec<Inexact>>(row.get(0)));
    Ok(parsed.collect::<Result<Vec<_>>>()?.concat())
}

/// A relation that is not loaded, as the ledger has it.
pub(super) struct Unloaded {
    pub oid: u32,
    pub gate: i32,
    pub kind: String,
    pub name: String,
    pub source: Option<u32>,
    pub details: Option<String>,
    /// Whether the table's file is no longer the one that it had, or the table is gone.
    pub is_changed: bool,
}

/// Returns what is not loaded, by gates, and what is known.
///
/// # Errors
/// `Refused` if another version of backwhen made the ledger.
pub(super) async fn unloaded(session: &Session) -> Result<(BTreeMap<i32, Vec<Unloaded>>, Known)> {
    let sql = "SELECT g.oid, g.gate, g.kind, g.name, g.source, g.details, \
               pg_catalog.pg_relation_filenode(g.oid) IS DISTINCT FROM g.file \
               FROM backwhen_unfinished.gates g WHERE NOT g.loaded ORDER BY g.gate, g.oid";
    let rows = session.query(sql, &[]).await.map_err(failed)?;
    let mut gates: BTreeMap<i32, Vec<Unloaded>> = BTreeMap::new();
    for row in rows {
        let unloaded = Unloaded {
            oid: row.get(0),
            gate: row.get(1),
            kind: row.get(2),
            name: row.get(3),
            source: row.get(4),
            details: row.get(5),
            is_changed: row.get(6),
        };
        gates.entry(unloaded.gate).or_default().push(unloaded);
    }
    let known = session.query_one("SELECT known FROM backwhen_unfinished.recovery", &[]).await;
    let known: String = known.map_err(failed)?.get(0);
    Ok((gates, parse(&known)?))
}

/// The last step: the ledger goes, event triggers are again as they were, and the database gets its own comment.
///
/// # Errors
/// `Unavailable` if the server fails; the database then stays unfinished.
pub(super) async fn close(session: &Session) -> Result<()> {
    let row = session.query_one("SELECT own_comment FROM backwhen_unfinished.recovery", &[]).await;
    let own_comment: String = row.map_err(failed)?.get(0);
    let sql = "SELECT e.evtname::text, CASE t.enabled WHEN 'A' THEN 'ENABLE ALWAYS' WHEN 'R' THEN 'ENABLE REPLICA' \
               ELSE 'ENABLE' END FROM backwhen_unfinished.event_triggers t \
               JOIN pg_catalog.pg_event_trigger e ON e.oid = t.oid ORDER BY e.oid";
    let triggers = session.query(sql, &[]).await.map_err(failed)?;
    let enable =
        |row: &Row| format!("ALTER EVENT TRIGGER {} {};", quote_ident(row.get(0)), row.get::<_, &str>(1));
    let again: String = triggers.iter().map(enable).collect();
    // Event triggers of the application do not fire in a replica, and the others are enabled last.
    let sql = format!(
        "SET synchronous_commit = on; BEGIN; SET LOCAL session_replication_role = replica; \
         {own_comment}; DROP SCHEMA {MARKER} CASCADE; {again} COMMIT"
    );
    session.batch_execute(&sql).await.map_err(failed)
}
