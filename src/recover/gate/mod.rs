//! Gates: the structure of a database is there, and the rows of a table come when somebody asks for the table.
//!
//! A gate is a session that holds tables ACCESS EXCLUSIVE. Whoever touches one of them waits, and the server's list of locks
//! tells which table is wanted. The session then loads the table's rows and lets go of the lock. See `docs/on-demand.md`.

mod fill;
mod view;
mod watch;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::ambient;
use crate::connect::{Conninfo, Session, connect, server_error};
use crate::error::{Error, Result};
use crate::fold::FoldedTable;
use crate::history::evidence::TableDigest;
use crate::model::spelling::{Spelled, spell};
use crate::model::{Inexact, Table};

use super::sink::SequenceValue;
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
    /// Whether values may read differently from how they were written; then only the rows are counted.
    pub is_retyped: bool,
    /// The partitioned tables above it. Loading a partition reads their definitions, so the gate locks them too: otherwise it
    /// could come to wait for a client that has locked one of them and waits for the gate.
    pub ancestors: Vec<Relation>,
    /// The names of its own CHECKs.
    pub checks: Vec<String>,
    /// Why the table cannot take its rows, if its definition does not fit them.
    pub unfit: Option<String>,
}

impl GatedTable {
    fn table(&self) -> &Table {
        &self.folded.table
    }
}

/// A materialised view that is to be filled from tables.
#[derive(Clone)]
pub struct GatedView {
    pub relation: Relation,
    pub owner: String,
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

    fn display(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }
}

/// The relations behind one gate.
pub enum Content {
    Tables(Vec<GatedTable>),
    Views(Vec<GatedView>),
}

impl Content {
    /// The relations on which somebody who waits for this gate may wait.
    fn oids(&self) -> BTreeSet<u32> {
        match self {
            Content::Tables(tables) => {
                let above = tables.iter().flat_map(|table| &table.ancestors).map(|it| it.oid);
                tables.iter().map(|table| table.oid).chain(above).collect()
            }
            Content::Views(views) => views.iter().map(|view| view.relation.oid).collect(),
        }
    }

    fn names(&self) -> Vec<String> {
        match self {
            Content::Tables(tables) => tables.iter().map(|table| table.table().display()).collect(),
            Content::Views(views) => views.iter().map(|view| view.relation.display()).collect(),
        }
    }
}

/// A session that holds relations ACCESS EXCLUSIVE.
struct Gate {
    session: Session,
    content: Content,
}

/// The relations of a gate that has opened.
#[derive(Debug)]
pub struct OpenedGate {
    pub tables: Vec<TableDigest>,
    pub views: Vec<String>,
    pub inexact: Vec<Inexact>,
    pub took: Duration,
}

impl Gate {
    /// # Errors
    /// `Unavailable` or `Refused` if the server does not give the locks.
    async fn close(info: &Conninfo, content: Content) -> Result<Gate> {
        let session = connect(info, "gate").await?;
        let lock = match &content {
            Content::Tables(tables) => lock_tables(&session, tables),
            Content::Views(views) => view::lock(&session, views),
        };
        let sql = format!("BEGIN; SET LOCAL session_replication_role = replica; {lock}");
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
        let filled = match &self.content {
            Content::Tables(tables) => fill::fill(&self.session, tables).await,
            Content::Views(views) => view::fill(&self.session, views).await,
        };
        match filled {
            Ok(filled) => match self.session.batch_execute("COMMIT").await {
                Ok(()) => Ok(OpenedGate { took: started.elapsed(), ..filled }),
                Err(error) => Err((self, server_error("cannot commit rows", error))),
            },
            Err(error) => Err((self, error)),
        }
    }
}

fn lock_tables(session: &Session, tables: &[GatedTable]) -> String {
    let encoding = session.server_encoding();
    let above: BTreeSet<&Relation> = tables.iter().flat_map(|table| &table.ancestors).collect();
    let above =
        above.iter().map(|it| format!("LOCK TABLE ONLY {} IN ACCESS SHARE MODE; ", it.spelled(encoding)));
    let name = |table: &GatedTable| Spelled::of(table.table(), encoding).table;
    let names: Vec<_> = tables.iter().map(|table| format!("ONLY {}", name(table))).collect();
    format!("{}LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", above.collect::<String>(), names.join(", "))
}
