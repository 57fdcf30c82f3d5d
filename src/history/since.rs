//! The form in which a manifest holds the statements since its schema archive: a long text in which a client sent many
//! statements is written once.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::signal::{DefinitionChange, Statement};

/// A text of at most this many bytes is written with each of its statements; a longer one only with the first.
const SHORT: usize = 4096;

/// Writes the changes; a long text only with the first of its statements.
///
/// # Errors
/// The serialiser's.
pub fn serialize<S: Serializer>(changes: &[DefinitionChange], serializer: S) -> Result<S::Ok, S::Error> {
    let mut written: Vec<DefinitionChange> = Vec::with_capacity(changes.len());
    let mut before: Option<&DefinitionChange> = None;
    for change in changes {
        let mut change_written = change.clone();
        let query = &change.signal.statement.query;
        if query.len() > SHORT && before.is_some_and(|before| is_same(before, change)) {
            change_written.signal.statement.query = "".into();
        }
        written.push(change_written);
        before = Some(change);
    }
    written.serialize(serializer)
}

/// Reads the changes, each with its text.
///
/// # Errors
/// The deserialiser's.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<DefinitionChange>, D::Error> {
    let mut changes = Vec::<DefinitionChange>::deserialize(deserializer)?;
    for at in 1..changes.len() {
        let (earlier, later) = changes.split_at_mut(at);
        let (before, change) = (&earlier[at - 1], &mut later[0]);
        let statement = &mut change.signal.statement;
        // Where the caller could not be trusted, older versions told neither text nor role.
        if statement.query.is_empty()
            && !statement.role.is_empty()
            && is_sent_with(&before.signal.statement, statement)
        {
            statement.query = Arc::clone(&before.signal.statement.query);
        }
    }
    Ok(changes)
}

fn is_same(before: &DefinitionChange, change: &DefinitionChange) -> bool {
    let (before, now) = (&before.signal.statement, &change.signal.statement);
    is_sent_with(before, now) && before.query == now.query && !now.role.is_empty()
}

/// Whether the client sent both in one message.
fn is_sent_with(before: &Statement, now: &Statement) -> bool {
    (before.process, before.started) == (now.process, now.started)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::DefinitionSignal;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Held(#[serde(with = "super")] Vec<DefinitionChange>);

    fn change(started: i64, query: &str) -> DefinitionChange {
        let statement =
            Statement { query: query.into(), started, role: "app".into(), ..Statement::default() };
        let signal = DefinitionSignal { statement, ..DefinitionSignal::default() };
        DefinitionChange { signal, ..DefinitionChange::default() }
    }

    #[test]
    fn a_long_text_is_written_once_and_comes_back_with_each() {
        let long = "x".repeat(SHORT + 1);
        let mut changes: Vec<_> = (0..50).map(|_| change(1, &long)).collect();
        changes.extend([change(2, "short"), change(2, "short"), change(3, &long), change(4, "")]);
        let held = Held(changes);
        let json = serde_json::to_string(&held).unwrap();
        assert!(json.matches(&long).count() == 2 && json.matches("short").count() == 2, "{}", json.len());
        assert_eq!(serde_json::from_str::<Held>(&json).unwrap(), held);
    }
}
