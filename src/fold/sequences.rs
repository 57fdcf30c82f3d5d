//! The positions of sequences at a moment, by the samples up to it and the first one after it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::follow::{Event, EventKind, TableChange};
use crate::history::checkpoint::Checkpoint;
use crate::model::{Inexact, Lsn, SequenceState, Table};
use crate::signal::{DefinitionSignal, SequenceSample};

/// A sequence that the first sample after the moment lacks is looked for in this many more, which takes some minutes of
/// heartbeats. The transaction that made the sequence may wait this long for a standby. A sequence that the role may
/// not read never comes.
const SAMPLES_AFTER: u32 = 100;

pub(super) struct Sequences {
    /// By oid.
    pub states: BTreeMap<u32, SequenceState>,
    /// The states were read no earlier than this position.
    pub sampled: Lsn,
    /// The oids of sequences that were set back after the moment, before a sample told their positions.
    pub set_back: BTreeSet<u32>,
    /// The oids of sequences that were made since the base and not dropped again.
    made: BTreeSet<u32>,
    /// The number of samples after the first one that follows the moment.
    samples_after: u32,
}

impl Sequences {
    pub fn new(base: &Checkpoint) -> Sequences {
        Sequences {
            states: base.sequences.iter().map(|state| (state.oid, state.clone())).collect(),
            sampled: base.sequences_sampled,
            set_back: BTreeSet::new(),
            made: BTreeSet::new(),
            samples_after: 0,
        }
    }

    /// Takes an event before the moment.
    pub fn take(&mut self, event: &Event<'_>) {
        match &event.kind {
            EventKind::Sequences(sample) => self.update(sample),
            EventKind::Definition { change, tables } => self.define(&change.signal, tables),
            _ => {}
        }
    }

    /// Takes an event after the moment `until`.
    pub fn take_later(&mut self, event: &Event<'_>, until: Lsn) {
        match &event.kind {
            EventKind::Sequences(sample) if self.sampled < until => {
                let before = self.states.clone();
                self.update(sample);
                self.keep_furthest(&before);
            }
            EventKind::Sequences(sample) => self.add_unseen(sample),
            EventKind::Definition { change, .. } => {
                self.made.retain(|oid| !change.signal.dropped.contains(oid));
            }
            EventKind::Truncate { tables, restarts_sequences: true } if self.sampled < until => {
                self.restart(tables);
            }
            _ => {}
        }
    }

    /// Whether no later event tells more of the sequences at the moment `until`.
    pub fn are_known(&self, until: Lsn) -> bool {
        let is_unseen = self.made.iter().any(|oid| !self.states.contains_key(oid));
        self.sampled >= until && (!is_unseen || self.samples_after >= SAMPLES_AFTER)
    }

    pub fn inexact(&self) -> impl Iterator<Item = Inexact> {
        let states = self.set_back.iter().filter_map(|oid| self.states.get(oid));
        states.map(|state| Inexact {
            what: format!("sequence {}.{}", state.schema, state.name),
            why:
                "was set back or dropped after this moment, before it was sampled; it is set beyond its last \
                  sample and every value in use"
                    .to_owned(),
        })
    }

    fn update(&mut self, sample: &SequenceSample) {
        // Two sessions may commit their samples in another order than they read them.
        if sample.sampled < self.sampled {
            return;
        }
        if sample.complete {
            self.states.clear();
        }
        self.states.extend(sample.sequences.iter().map(|state| (state.oid, state.clone())));
        for gone in &sample.dropped {
            self.states.remove(gone);
        }
        self.sampled = sample.sampled;
    }

    fn define(&mut self, signal: &DefinitionSignal, tables: &[TableChange]) {
        for change in tables {
            if let TableChange::Alter { before, now, .. } | TableChange::Rewrite { before, now } = change {
                self.rename_owner(before, now);
            }
        }
        self.made.extend(signal.objects.iter().filter(|it| it.kind == "sequence").map(|it| it.oid));
        for oid in &signal.dropped {
            self.states.remove(oid);
            self.made.remove(oid);
        }
    }

    /// A sequence that was sampled before a rename gets the names that its owner has at the moment.
    fn rename_owner(&mut self, before: &Table, now: &Table) {
        let owners = self.states.values_mut().filter_map(|state| state.owner.as_mut());
        for owner in owners.filter(|it| (&it.schema, &it.table) == (&before.schema, &before.name)) {
            let column = before.columns.iter().find(|column| column.name == owner.column);
            let column = column.and_then(|old| now.columns.iter().find(|it| it.number == old.number));
            (owner.schema, owner.table) = (now.schema.clone(), now.name.clone());
            if let Some(column) = column {
                owner.column.clone_from(&column.name);
            }
        }
    }

    /// `TRUNCATE … RESTART IDENTITY` set back the sequences that these tables own.
    fn restart(&mut self, tables: &[Arc<Table>]) {
        let owned = self.states.values().filter(|state| {
            state.owner.as_ref().is_some_and(|owner| {
                tables.iter().any(|table| table.schema == owner.schema && table.name == owner.table)
            })
        });
        self.set_back.extend(owned.map(|state| state.oid));
    }

    /// The first sample after the moment is no bound for a sequence that was set back in between (`TRUNCATE … RESTART
    /// IDENTITY`, `setval`), since the sample before the moment may be nearer. Nor does it tell of a sequence that was
    /// dropped in between.
    fn keep_furthest(&mut self, before: &BTreeMap<u32, SequenceState>) {
        for (oid, state) in before {
            if !self.states.contains_key(oid) {
                self.states.insert(*oid, state.clone());
                self.set_back.insert(*oid);
            }
        }
        for (oid, state) in &mut self.states {
            let Some(earlier) = before.get(oid) else { continue };
            let went_back = if state.increment < 0 {
                state.last_value > earlier.last_value
            } else {
                state.last_value < earlier.last_value
            };
            if went_back {
                self.set_back.insert(*oid);
                // The earlier state also has the names of the moment.
                *state = earlier.clone();
            }
        }
    }

    /// A commit is in the WAL for a while before other sessions see its changes. So the first sample after a moment may
    /// lack a sequence that was made just before the moment, and a later sample has it.
    fn add_unseen(&mut self, sample: &SequenceSample) {
        self.samples_after += 1;
        for state in sample.sequences.iter().filter(|state| self.made.contains(&state.oid)) {
            self.states.entry(state.oid).or_insert_with(|| state.clone());
        }
    }
}
