//! The statements that changed the source's definitions, as the journal holds them.

use serde::{Deserialize, Serialize};

use super::journal::LogicalMessage;
use super::timeline::Stretch;
use crate::error::Result;
use crate::model::{Edge, Inexact, Lsn};
use crate::signal::key::{MessageKey, transaction_of};
use crate::signal::{DEFINITION, DefinitionChange, DefinitionSignal};

/// How well the definitions of a moment are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Whether the statement may have changed an object, by the object's name in the digests: the statement changed or
    /// dropped that object, or another that the object belongs to.
    pub fn accounts_for(&self, object: &str) -> bool {
        let tables = self.tables.iter().map(|it| format!("{}.{}", it.facts.schema, it.facts.name));
        let objects = self.objects.iter().map(|it| it.identity.clone());
        let dropped = self.dropped_identities.iter().map(|(_, identity)| identity.clone());
        let names = tables.chain(objects).chain(dropped).chain(self.dropped_names.iter().cloned());
        // The server quotes a name only if it must.
        let object = object.replace('"', "");
        // Up to version 16 the server does not say which indexes were built again.
        let index = object.strip_prefix("index ").and_then(|name| name.rsplit('.').next());
        if self.tag == "REINDEX" && index.is_some_and(|index| self.statement.query.contains(index)) {
            return true;
        }
        let is_inside = |c: char| c.is_alphanumeric() || "_$".contains(c);
        names.map(|name| name.replace('"', "")).filter(|name| !name.is_empty()).any(|name| {
            object.match_indices(&name).any(|(at, _)| {
                let (before, after) = (&object[..at], &object[at + name.len()..]);
                !before.ends_with(is_inside) && !after.starts_with(is_inside)
            })
        })
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::DefinedObject;

    #[test]
    fn a_statement_accounts_for_what_it_names() {
        let object = DefinedObject { identity: "public.t".into(), ..DefinedObject::default() };
        let signal = DefinitionSignal {
            objects: vec![object],
            dropped_names: vec!["gone".into()],
            ..DefinitionSignal::default()
        };
        for (object, accounts) in [
            ("table public.t", true),
            ("trigger a on public.t", true),
            ("table public.t2", false),
            ("table other_public.t", false),
            ("function s.gone(integer)", true),
            ("view s.gone_too", false),
        ] {
            assert_eq!(signal.accounts_for(object), accounts, "{object}");
        }
    }
}
