//! The events that a reader of the journal sees.

use std::sync::Arc;

use super::reshape::Reshape;
use crate::model::{Edge, Lsn, PgTime, Table};
use crate::signal::{DefinitionChange, HeartbeatSignal, MarkSignal, RolesSignal, SequenceSample};

/// One transaction of the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// The position of the commit.
    pub lsn: Lsn,
    /// The position behind the commit.
    pub end_lsn: Lsn,
    pub time: PgTime,
    pub xid: u32,
}

impl Transaction {
    /// The end of the transaction, as a moment.
    pub fn end(&self) -> Edge {
        Edge { lsn: self.end_lsn, time: self.time }
    }
}

/// One event of the journal, and the transaction that it belongs to.
#[derive(Debug)]
pub struct Event<'a> {
    pub transaction: &'a Transaction,
    pub kind: EventKind<'a>,
}

#[derive(Debug)]
pub enum EventKind<'a> {
    /// A row of a table was inserted, updated or deleted. The table is as it was at that time.
    Row {
        table: &'a Arc<Table>,
        change: RowChange<'a>,
    },
    /// All rows of these tables were removed.
    Truncate {
        tables: &'a [Arc<Table>],
        restarts_sequences: bool,
    },
    /// A statement replaced all rows of a table, as a rewrite does. The new rows follow as [`RowChange::Given`].
    Replace {
        table: &'a Arc<Table>,
    },
    /// A statement changed the schema. `tables` says how that concerns the tables that are followed.
    Definition {
        change: &'a DefinitionChange,
        tables: &'a [TableChange],
    },
    Heartbeat(&'a HeartbeatSignal),
    Sequences(&'a SequenceSample),
    /// The server's roles have changed.
    Roles(&'a RolesSignal),
    Mark(&'a MarkSignal),
    /// The transaction ends here.
    Commit,
}

/// A row at some time, as far as the stream tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// The sort key, by the table's replica identity; see [`KeyShape`](crate::codec::key::KeyShape).
    pub key: &'a [u8],
    /// The row as a line of COPY text, without its newline. A [`HOLE`](crate::codec::copy_text::HOLE) stands for each
    /// value that the stream does not carry.
    pub line: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowChange<'a> {
    Insert {
        new: Row<'a>,
    },
    /// `old` is `None` where the stream carries nothing of the row before. The key was the same then.
    Update {
        old: Option<Row<'a>>,
        new: Row<'a>,
    },
    Delete {
        old: Row<'a>,
    },
    /// A row that a statement gave to the table, other than by an INSERT: it was computed by CREATE TABLE AS or
    /// rewritten by ALTER TABLE.
    Given {
        new: Row<'a>,
    },
}

impl<'a> RowChange<'a> {
    /// The row before the change and the row after it, as far as the stream tells them.
    pub fn sides(&self) -> (Option<Row<'a>>, Option<Row<'a>>) {
        match *self {
            RowChange::Insert { new } | RowChange::Given { new } => (None, Some(new)),
            RowChange::Update { old, new } => (old, Some(new)),
            RowChange::Delete { old } => (Some(old), None),
        }
    }
}

/// How a statement concerns one of the tables that are followed.
#[derive(Clone, Debug)]
pub enum TableChange {
    /// The table is followed from here on, and has no rows yet.
    Create { table: Arc<Table> },
    /// The table's definition has changed, or its values are written otherwise from here on. Rows from before become
    /// rows of `now` by `reshape`, and stay as they are if that is `None`.
    Alter { before: Arc<Table>, now: Arc<Table>, reshape: Option<Reshape> },
    /// The statement wrote all rows anew. They follow.
    Rewrite { before: Arc<Table>, now: Arc<Table> },
    /// The table was dropped, or the stream carries its rows no longer.
    Drop { table: Arc<Table> },
}
