//! Reads the messages that backwhen wrote into the stream, and passes over those of others.

use super::event::{EventKind, Transaction};
use crate::signal::key::MessageKey;
use crate::signal::{
    DEFINITION, DefinitionChange, DefinitionSignal, HEARTBEAT, HeartbeatSignal, MARK, MarkSignal, ROLES,
    ROWS, RolesSignal, RowsSignal, SEQUENCES, SequenceSample,
};

/// A message of backwhen's own.
pub(super) enum Signal<'a> {
    Definition(Box<DefinitionSignal>),
    Rows(RowsSignal<'a>),
    Plain(PlainSignal),
}

/// A message that does not concern the rows of tables.
#[derive(Debug)]
pub(super) enum PlainSignal {
    Heartbeat(HeartbeatSignal),
    Sequences(SequenceSample),
    Roles(RolesSignal),
    Mark(MarkSignal),
}

impl PlainSignal {
    pub fn event(&self) -> EventKind<'_> {
        match self {
            PlainSignal::Heartbeat(signal) => EventKind::Heartbeat(signal),
            PlainSignal::Sequences(sample) => EventKind::Sequences(sample),
            PlainSignal::Roles(signal) => EventKind::Roles(signal),
            PlainSignal::Mark(signal) => EventKind::Mark(signal),
        }
    }
}

/// Reads a message of `transaction`; `None` if backwhen did not write it there. `earlier` are the schema changes before
/// it in the same transaction.
pub(super) fn read<'a>(
    key: &MessageKey,
    transaction: &Transaction,
    prefix: &[u8],
    content: &'a [u8],
    earlier: &[DefinitionChange],
) -> Option<Signal<'a>> {
    let xid = transaction.xid;
    if prefix == DEFINITION.as_bytes() {
        let earlier = earlier.iter().rev().map(|change| &change.signal);
        return DefinitionSignal::read(key, xid, content, earlier).map(Box::new).map(Signal::Definition);
    }
    let known = [ROWS, HEARTBEAT, SEQUENCES, ROLES, MARK];
    let prefix = known.into_iter().find(|known| known.as_bytes() == prefix)?;
    let body = key.verified(prefix.as_bytes(), xid, content)?;
    Some(Signal::Plain(match prefix {
        ROWS => return RowsSignal::decode(body).map(Signal::Rows),
        HEARTBEAT => PlainSignal::Heartbeat(serde_json::from_slice(body).ok()?),
        SEQUENCES => PlainSignal::Sequences(sample(transaction, body)?),
        ROLES => PlainSignal::Roles(serde_json::from_slice(body).ok()?),
        _ => PlainSignal::Mark(serde_json::from_slice(body).ok()?),
    }))
}

/// A sample cannot be younger than the transaction that tells it.
fn sample(transaction: &Transaction, body: &[u8]) -> Option<SequenceSample> {
    let sample: SequenceSample = serde_json::from_slice(body).ok()?;
    (sample.sampled <= transaction.lsn).then_some(sample)
}
