//! How well the schema is known at a moment, by what heartbeats and event triggers tell up to it.

use crate::follow::{Event, EventKind};
use crate::history::checkpoint::{Checkpoint, SchemaFacts};
use crate::history::definitions::SchemaKnown;
use crate::model::{Edge, Lsn};

/// Compares the fingerprints of the schema that heartbeats carry, to notice a schema change that no event trigger told.
pub(super) struct SchemaGrade {
    /// The fingerprint of the last heartbeat, or of the base.
    fingerprint: String,
    /// The end of the last transaction that told a schema change which no heartbeat has seen yet.
    unseen_since: Option<Lsn>,
    /// Up to this moment all schema changes were told.
    known_at: Edge,
    /// The first heartbeat after that moment which saw a change that nothing had told.
    changed_at: Option<Edge>,
    /// Up to this position a heartbeat tells of the schema.
    seen_at: Lsn,
    /// The fingerprint that the transaction being read carries.
    seen: Option<String>,
    /// The position that the WAL had reached before the fingerprint was taken.
    looked: Lsn,
    /// Whether the transaction being read changes the schema.
    is_changing: bool,
}

impl SchemaGrade {
    pub fn new(base: &Checkpoint) -> SchemaGrade {
        let SchemaFacts { lsn, time, fingerprint, since, .. } = &base.schema;
        SchemaGrade {
            fingerprint: fingerprint.clone(),
            // A folded base has the fingerprint of its archive, which is older.
            unseen_since: (!since.is_empty()).then_some(base.lsn),
            known_at: Edge { lsn: *lsn, time: *time },
            changed_at: None,
            seen_at: *lsn,
            seen: None,
            looked: Lsn::default(),
            is_changing: false,
        }
    }

    pub fn take(&mut self, event: &Event<'_>) {
        match &event.kind {
            // A heartbeat counts when its transaction ends, so that a mark is its own witness.
            EventKind::Heartbeat(signal) => {
                if let Some(fingerprint) = &signal.fingerprint {
                    self.seen = Some(fingerprint.clone());
                }
            }
            EventKind::Sequences(sample) => self.looked = sample.sampled,
            EventKind::Definition { .. } => self.is_changing = true,
            EventKind::Commit => self.commit(event.transaction.end()),
            _ => {}
        }
    }

    fn commit(&mut self, end: Edge) {
        if std::mem::take(&mut self.is_changing) {
            self.unseen_since = Some(end.lsn);
        }
        let Some(seen) = self.seen.take() else { return };
        self.seen_at = end.lsn;
        let is_told = seen == self.fingerprint || self.unseen_since.is_some();
        // The next heartbeat cannot see a change anew that this one has seen after its commit.
        if self.unseen_since.is_some_and(|since| since <= self.looked) {
            self.unseen_since = None;
        }
        self.fingerprint = seen;
        if self.changed_at.is_none() {
            if is_told { self.known_at = end } else { self.changed_at = Some(end) }
        }
    }

    /// Whether a heartbeat has told of the schema at this position.
    pub fn is_seen(&self, at: Lsn) -> bool {
        self.seen_at >= at
    }

    pub fn known(&self) -> SchemaKnown {
        match self.changed_at {
            None => SchemaKnown::Exactly,
            to => SchemaKnown::Within { from: self.known_at, to },
        }
    }
}
