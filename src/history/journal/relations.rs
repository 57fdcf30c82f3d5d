//! The Relation messages in force at one point of the stream.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::peek::{PeekedMessage, peek};

/// The last Relation message of each table, as received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Relations(BTreeMap<u32, Vec<u8>>);

/// Whether a Relation message describes its table for the first time, as before, or differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RelationNovelty {
    First,
    Same,
    Changed,
}

impl Relations {
    /// Takes a message into force; `None` if it is no Relation message.
    pub(super) fn tell(&mut self, message: &[u8]) -> Option<RelationNovelty> {
        let Some(PeekedMessage::Relation { oid, .. }) = peek(message) else { return None };
        Some(match self.0.entry(oid) {
            Entry::Vacant(entry) => {
                entry.insert(message.to_vec());
                RelationNovelty::First
            }
            Entry::Occupied(entry) if entry.get() == message => RelationNovelty::Same,
            Entry::Occupied(mut entry) => {
                message.clone_into(entry.get_mut());
                RelationNovelty::Changed
            }
        })
    }

    pub(super) fn get(&self, oid: u32) -> Option<&[u8]> {
        self.0.get(&oid).map(Vec::as_slice)
    }

    pub(super) fn messages(&self) -> impl Iterator<Item = &[u8]> {
        self.0.values().map(Vec::as_slice)
    }

    pub(super) fn to_vec(&self) -> Vec<Vec<u8>> {
        self.0.values().cloned().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
