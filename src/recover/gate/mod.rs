//! Gates: the structure of a database is there, and the rows of a table come when somebody asks for the table.
//!
//! A gate is a session that holds tables ACCESS EXCLUSIVE. Whoever touches one of them waits, and the server's list of locks
//! tells which table is wanted. The session then loads the table's rows and lets go of the lock. See `docs/on-demand.md`.

mod fill;
mod found;
mod ledger;
mod part;
mod statements;
mod view;
mod watch;

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};

use crate::ambient;
use crate::connect::{Conninfo, Session, connect, server_error};
use crate::error::{Error, Result};
use crate::fold::FoldedTable;
use crate::history::evidence::TableDigest;
use crate::model::spelling::{Spelled, spell};
use crate::model::{Inexact, Table};

use super::part::TablePart;
use super::sink::SequenceValue;
pub(in crate::recover) use found::{ancestors, by_oid, empty, oids, owned, running_code};
pub use ledger::enter_inexact;
pub use watch::{GateEvent, Gates};

/// The most gates for single tables, for tables that share a gate, and for materialised views. Each gate is a session.
const GATE_LIMIT: usize = 48;

/// The sessions that the gates of a database may take, with the one that watches them.
pub const MOST_SESSIONS: usize = 3 * GATE_LIMIT + 1;

/// A table that has its structure, and not its rows yet.
#[derive(Clone)]
pub struct GatedTable {
    pub folded: FoldedTable,
    /// The table's oid in the gated database.
    pub oid: u32,
    /// The sequences whose values depend on the table's rows.
    pub sequences: Vec<SequenceValue>,
    /// The sequences among them that the gate locks, so that nobody takes a value before the rows are there.
    pub locked_sequences: Vec<OwnedRelation>,
    /// Whether values may read differently from how they were written; then only the rows are counted.
    pub is_retyped: bool,
    /// The tables from which it inherits, and the partitioned tables above it. Loading a partition reads their definitions, so
    /// the gate locks them too: otherwise it could come to wait for a client that has locked one of them and waits for the
    /// gate.
    pub ancestors: Vec<Relation>,
    /// Why the table cannot take its rows, if its definition does not fit them.
    pub unfit: Option<String>,
    /// Whether nobody can look at the table while it is loaded. Its rows then come into the file that it has.
    pub is_unseen: bool,
    /// The condition that rows must meet to be loaded, in a database that is thrown away.
    pub condition: Option<String>,
}

impl GatedTable {
    fn table(&self) -> &Table {
        &self.folded.table
    }
}

/// A relation that no LOCK TABLE takes: a materialised view or a sequence.
#[derive(Clone)]
pub struct OwnedRelation {
    pub relation: Relation,
    pub owner: String,
}

impl OwnedRelation {
    /// The statement that holds the relation ACCESS EXCLUSIVE: it gives the relation the owner that it has.
    fn lock(&self, kind: &str, encoding: &str) -> String {
        let (name, owner) = (self.relation.spelled(encoding), spell(&self.owner, encoding));
        format!("ALTER {kind} {name} OWNER TO {owner}; ")
    }
}

/// A relation of the gated database.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Relation {
    pub schema: String,
    pub name: String,
    pub oid: u32,
}

impl Relation {
    /// The name in SQL; see [`spell`].
    fn spelled(&self, encoding: &str) -> String {
        format!("{}.{}", spell(&self.schema, encoding), spell(&self.name, encoding))
    }

    pub fn display(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }
}

/// The relations behind one gate. The views are filled, in their order, once the tables are loaded.
#[derive(Default)]
pub struct Content {
    pub tables: Vec<GatedTable>,
    pub views: Vec<OwnedRelation>,
    /// The number of the gate in the ledger of a database that outlives backwhen; see `recover::on_demand`.
    pub ledger: Option<i32>,
}

impl Content {
    /// The relations on which somebody who waits for this gate may wait.
    fn oids(&self) -> BTreeSet<u32> {
        let above = self.tables.iter().flat_map(|table| &table.ancestors).map(|it| it.oid);
        let sequences = self.tables.iter().flat_map(|table| &table.locked_sequences);
        let owned = self.views.iter().chain(sequences).map(|it| it.relation.oid);
        self.tables.iter().map(|table| table.oid).chain(above).chain(owned).collect()
    }

    pub fn names(&self) -> Vec<String> {
        let views = self.views.iter().map(|view| view.relation.display());
        self.tables.iter().map(|table| table.table().display()).chain(views).collect()
    }

    /// The statements that lock the relations.
    fn lock(&self, encoding: &str) -> String {
        // A role that reads a parent needs no privilege on its children, so the ledger takes the privileges on the parent
        // away, too.
        let mode = if self.ledger.is_some() { "ACCESS EXCLUSIVE" } else { "ACCESS SHARE" };
        let above: BTreeSet<&Relation> = self.tables.iter().flat_map(|table| &table.ancestors).collect();
        let above =
            above.iter().map(|it| format!("LOCK TABLE ONLY {} IN {mode} MODE; ", it.spelled(encoding)));
        let mut sql: String = above.collect();
        let name = |table: &GatedTable| format!("ONLY {}", Spelled::of(table.table(), encoding).table);
        let names: Vec<_> = self.tables.iter().map(name).collect();
        if !names.is_empty() {
            sql += &format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE; ", names.join(", "));
        }
        let sequences = self.tables.iter().flat_map(|table| &table.locked_sequences);
        sql.extend(sequences.map(|sequence| sequence.lock("SEQUENCE", encoding)));
        sql.extend(self.views.iter().map(|view| view.lock("MATERIALIZED VIEW", encoding)));
        sql
    }
}

/// A session that holds relations ACCESS EXCLUSIVE.
struct Gate {
    session: Session,
    content: Content,
}

/// The relations of a gate that has opened.
#[derive(Debug, Default)]
pub struct OpenedGate {
    pub tables: Vec<TableDigest>,
    pub views: Vec<String>,
    /// The tables of which only the rows that meet a condition were loaded.
    pub parts: Vec<TablePart>,
    pub inexact: Vec<Inexact>,
    /// The time from the beginning of the load until the gate opened.
    pub took: Duration,
    /// Whether somebody waited at the gate.
    pub wanted: bool,
}

impl Gate {
    /// # Errors
    /// `Unavailable` or `Refused` if the server does not give the locks.
    async fn close(info: &Conninfo, content: Content) -> Result<Gate> {
        let session = connect(info, "gate").await?;
        // While CHECKs are not looked at, newer servers would log that the catalog has more of them than it says.
        let sql = format!(
            "BEGIN; SET LOCAL session_replication_role = replica; SET LOCAL log_min_messages = error; \
             SET LOCAL synchronous_commit = off; {}",
            content.lock(session.server_encoding())
        );
        let locked = session.batch_execute(&sql).await;
        locked.map_err(|error| server_error("cannot lock the tables that are not loaded yet", error))?;
        Ok(Gate { session, content })
    }

    /// Loads what is behind the gate, and opens it.
    ///
    /// # Errors
    /// Returns the gate with the error: its relations stay locked, and are as empty as before.
    async fn open(self) -> Result<OpenedGate, (Gate, Error)> {
        let started = ambient::instant();
        match fill::fill(&self.session, &self.content, started).await {
            Ok(filled) => match self.session.batch_execute("COMMIT").await {
                Ok(()) => Ok(OpenedGate { took: started.elapsed(), ..filled }),
                Err(error) => Err((self, server_error("cannot commit rows", error))),
            },
            Err(error) => Err((self, error)),
        }
    }
}

/// Loads tables into a database that nobody else can enter yet, `jobs` contents at a time.
///
/// # Errors
/// `Damaged` if the history is; `Refused` if the server does not take the rows of a table.
pub(in crate::recover) async fn load_before_others(
    info: &Conninfo,
    contents: Vec<Content>,
    jobs: usize,
) -> Result<OpenedGate> {
    let opening = contents.into_iter().map(async |content| {
        let gate = Gate::close(info, content).await?;
        gate.open().await.map_err(|(_, error)| error)
    });
    let mut all = OpenedGate::default();
    let mut opening = std::pin::pin!(futures_util::stream::iter(opening).buffer_unordered(jobs.max(1)));
    while let Some(opened) = opening.try_next().await? {
        all.tables.extend(opened.tables);
        all.inexact.extend(opened.inexact);
    }
    Ok(all)
}
