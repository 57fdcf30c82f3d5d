//! The statements that changed the source's definitions, as the journal holds them.

use serde::Serialize;

use super::journal::LogicalMessage;
use super::timeline::Stretch;
use crate::error::Result;
use crate::model::{Edge, Inexact, Lsn};
use crate::signal::key::{MessageKey, transaction_of};
use crate::signal::{DEFINITION, DefinitionChange, DefinitionSignal};

/// How well the definitions of a moment are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "known", rename_all = "lowercase")]
pub enum SchemaKnown {
    /// The definitions are recovered as they were.
    Exactly,
    /// The definitions are recovered as they were at `from`, and may have changed since.
    Within {
        /// The last moment at which the definitions are known to be as they are recovered.
        from: Edge,
        /// The first moment at which the definitions are known to be others; `None` if the history does not tell.
        to: Option<Edge>,
    },
    /// The definitions are known, but some statements that led to them could not be replayed. Each is named.
    Except {
        /// How many statements could not be replayed.
        statements: usize,
        /// The transaction of the first of them.
        at: Edge,
    },
}

impl SchemaKnown {
    /// Returns the message with which a recovery describes the definitions, besides naming statements.
    pub fn inexact(&self) -> Option<Inexact> {
        let SchemaKnown::Within { to, .. } = self else { return None };
        let why = match to {
            Some(_) => format!(
                "schema {self}: definitions changed in between, and are recovered as they were at the former"
            ),
            None => {
                format!("schema {self}: nothing held tells whether definitions changed before this moment")
            }
        };
        Some(Inexact { what: "schema".into(), why })
    }
}

/// The text continues a sentence after the word "schema".
impl std::fmt::Display for SchemaKnown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (from, to) = match self {
            SchemaKnown::Within { from, to } => (from, to),
            SchemaKnown::Exactly => return f.write_str("known exactly"),
            SchemaKnown::Except { statements, at: Edge { lsn, time } } => {
                let but = "statements that could not be replayed, the first at";
                return write!(f, "known exactly but for {statements} {but} {lsn} ({time})");
            }
        };
        write!(f, "known within [{} ({}), ", from.lsn, from.time)?;
        match to {
            Some(to) => write!(f, "{} ({})]", to.lsn, to.time),
            None => f.write_str("the end of the history]"),
        }
    }
}

impl DefinitionSignal {
    /// Returns the parts of a statement, in the transaction at `lsn`, that the event triggers could not tell in full.
    pub fn untold(&self, lsn: Lsn) -> Option<Inexact> {
        let trouble = self.trouble.as_ref()?;
        let table = self.tables.first();
        let what = table.map_or("schema".into(), |it| format!("{}.{}", it.facts.schema, it.facts.name));
        Some(Inexact { what, why: format!("{} at {lsn} was not told in full: {trouble}", self.tag) })
    }
}

/// Returns the statements of one epoch whose commits lie from `after` to before `until`.
///
/// # Errors
/// `Damaged` if the journal is damaged.
pub fn changes_in(
    stretch: &Stretch,
    key: &MessageKey,
    after: Lsn,
    until: Lsn,
) -> Result<Vec<DefinitionChange>> {
    let mut changes: Vec<DefinitionChange> = Vec::new();
    for view in stretch.segments_between(after, until) {
        if !view.summary.definitions.iter().any(|lsn| (after..until).contains(lsn)) {
            continue;
        }
        let segment = view.open()?;
        for message in segment.logical_messages(after, until, DEFINITION.as_bytes())? {
            let LogicalMessage { commit_lsn: lsn, end_lsn, time, xid, content } = message;
            let of_transaction = changes.iter().rev().take_while(|it: &&DefinitionChange| it.lsn == lsn);
            let earlier = of_transaction.map(|change| &change.signal);
            let Some(signal) = DefinitionSignal::read(key, xid, &content, earlier) else { continue };
            let xid = transaction_of(&content).unwrap_or(xid.into());
            changes.push(DefinitionChange { lsn, end_lsn, time, xid, signal });
        }
    }
    Ok(changes)
}
