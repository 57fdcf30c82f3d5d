//! The messages of the stream, borrowed from the bytes from which they were read.

use super::{Lsn, PgTime};

/// One pgoutput message (protocol 1 to 4 without streaming and two-phase).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    Begin {
        final_lsn: Lsn,
        commit_time: PgTime,
        xid: u32,
    },
    Commit {
        commit_lsn: Lsn,
        end_lsn: Lsn,
        commit_time: PgTime,
    },
    Origin,
    Relation(Relation),
    Type,
    Insert {
        relation: u32,
        new: Tuple<'a>,
    },
    Update {
        relation: u32,
        old: Option<OldTuple<'a>>,
        new: Tuple<'a>,
    },
    Delete {
        relation: u32,
        old: OldTuple<'a>,
    },
    Truncate {
        relations: Vec<u32>,
        cascade: bool,
        restart_identity: bool,
    },
    /// A message that `pg_logical_emit_message` wrote.
    Logical {
        transactional: bool,
        lsn: Lsn,
        prefix: &'a [u8],
        content: &'a [u8],
    },
}

/// A table as the stream describes it before its first row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// `d`efault, `n`othing, `f`ull or `i`ndex, as in `pg_class.relreplident`.
    pub replica_identity: u8,
    pub columns: Vec<RelationColumn>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationColumn {
    pub name: String,
    pub type_oid: u32,
    pub type_modifier: i32,
    /// Whether the column is part of the replica identity; under FULL, every column is.
    pub in_identity: bool,
}

/// The values of a row, in the order of the relation's columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuple<'a>(pub Vec<Value<'a>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Null,
    /// An out-of-line value that the statement did not change: the stream leaves it out.
    Unchanged,
    /// The text that the type's output function writes, in the server's encoding.
    Text(&'a [u8]),
}

/// The row before the change, as far as the stream carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OldTuple<'a> {
    /// The key: only the identity columns are filled; the others are NULL.
    Key(Tuple<'a>),
    /// The whole row, under REPLICA IDENTITY FULL.
    Full(Tuple<'a>),
}
