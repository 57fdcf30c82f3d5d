//! Applies the journal's messages to the tables' deltas.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;

use super::definitions::{self, Definitions};
use super::mapping::{Mapping, identity_fits, key_of};
use super::naming::{self, Names};
use super::retelling::{Late, Retellings};
use super::{Delta, Folded, FoldedTable, Request, stride, undecodable};
use crate::codec::pgoutput;
use crate::codec::retell::Doubts;
use crate::error::{Error, Result};
use crate::history::catalog::Catalog;
use crate::history::definitions::SchemaKnown;
use crate::history::image::Blocks;
use crate::history::journal::Event;
use crate::model::SequenceState;
use crate::model::change::OldTuple;
use crate::model::{Edge, Inexact, Lsn, Message, Relation, Table, Tuple};
use crate::signal::{self, SequenceSample};

const DEFINITION: &[u8] = signal::DEFINITION.as_bytes();
const ROWS: &[u8] = signal::ROWS.as_bytes();

/// In so many samples a sequence is looked for that the first lacks: some minutes of heartbeats. Who made it may
/// wait so long for a standby; one that the role may not read never comes.
const SAMPLES_AFTER: u32 = 100;

/// A relation as the stream last described it.
pub(super) struct Described {
    relation: Relation,
    /// `None` for a table that does not matter, or is gone.
    pub(super) place: Option<usize>,
    /// `None` for one that the base does not hold, that nobody wants, or that cannot be mapped.
    mapping: Option<Mapping>,
    /// What is inexact about its rows; said when the first one comes, because a description alone
    /// may be older than the base.
    to_say: Vec<(String, String)>,
}

/// The lines of one change.
struct Lines {
    late: Option<Late>,
    doubts: Doubts,
}

impl Lines {
    fn correct(&mut self, line: &mut Vec<u8>) {
        if let Some(late) = &self.late {
            late.correct(line, &mut self.doubts);
        }
    }
}

pub(super) struct Applier<'a> {
    pub(super) tables: Vec<FoldedTable>,
    pub(super) places: HashMap<u32, usize>,
    pub(super) wanted: &'a dyn Fn(&Table) -> bool,
    pub(super) blocks: Blocks,
    pub(super) catalog: Arc<Catalog>,
    pub(super) definitions: Definitions,
    pub(super) retellings: Retellings,
    pub(super) names: Names,
    pub(super) described: HashMap<u32, Described>,
    pub(super) sequences: BTreeMap<u32, SequenceState>,
    sampled: Lsn,
    /// By oid: those that were set back after the moment, before a sample told how they stood.
    set_back: BTreeSet<u32>,
    /// By oid: the sequences that were made since the base and not dropped again.
    pub(super) made: BTreeSet<u32>,
    /// Samples that were met after the first one that bounds the moment.
    samples_after: u32,
    pub transactions: u64,
    changes: u64,
    /// The transaction that is being applied, for messages.
    pub(super) current: Lsn,
    /// What, and why: a map so that each is said once.
    inexact: BTreeMap<(String, String), ()>,
    pub(super) unwanted: Vec<u32>,
    until: Lsn,
    definitions_at: Lsn,
    scratch_parent: PathBuf,
    scratch: Option<Arc<TempDir>>,
    line: Vec<u8>,
    old_line: Vec<u8>,
    key: Vec<u8>,
    old_key: Vec<u8>,
}

impl<'a> Applier<'a> {
    pub fn new(request: &Request<'a>, blocks: &Blocks) -> Applier<'a> {
        let (wanted, unwanted): (Vec<_>, Vec<_>) =
            request.base.tables.iter().partition(|entry| (request.wanted)(&entry.table));
        let tables: Vec<_> = wanted.iter().map(|entry| FoldedTable::new(entry, blocks)).collect();
        let places = tables.iter().enumerate().map(|(place, table)| (table.table.oid, place)).collect();
        let retellings = definitions::retellings(request, &tables);
        let sequences = request.base.sequences.iter().map(|state| (state.oid, state.clone())).collect();
        let inexact = request.base.inexact.iter().map(|it| ((it.what.clone(), it.why.clone()), ())).collect();
        Applier {
            tables,
            places,
            wanted: request.wanted,
            blocks: blocks.clone(),
            catalog: Arc::clone(request.catalog),
            definitions: Definitions::new(request),
            retellings,
            names: Names::of(request),
            described: HashMap::new(),
            sequences,
            sampled: request.base.sequences_sampled,
            set_back: BTreeSet::new(),
            made: BTreeSet::new(),
            samples_after: 0,
            transactions: 0,
            changes: 0,
            current: request.base.lsn,
            inexact,
            unwanted: unwanted.iter().map(|entry| entry.table.oid).collect(),
            until: request.until,
            definitions_at: request.definitions_at,
            scratch_parent: request.scratch.to_owned(),
            scratch: None,
            line: Vec::new(),
            old_line: Vec::new(),
            key: Vec::new(),
            old_key: Vec::new(),
        }
    }

    pub fn event(&mut self, event: Event<'_>) -> Result<()> {
        let bytes = match event {
            Event::Relation(bytes) | Event::Message(bytes) => bytes,
            Event::Idle { .. } => return Ok(()),
        };
        match pgoutput::decode(bytes).map_err(|error| undecodable(error, self.current))? {
            Message::Begin { final_lsn, commit_time, xid } => {
                self.current = final_lsn;
                self.definitions.begin(final_lsn, commit_time, xid);
                self.retellings.begin();
            }
            Message::Commit { end_lsn, commit_time, .. } => {
                self.transactions += 1;
                self.definitions.commit(Edge { lsn: end_lsn, time: commit_time }, true);
            }
            Message::Origin | Message::Type => {}
            Message::Relation(relation) => self.relation(relation),
            Message::Insert { relation, new } => self.insert(relation, &new)?,
            Message::Update { relation, old, new } => self.update(relation, old.as_ref(), &new)?,
            Message::Delete { relation, old } => self.delete(relation, &old)?,
            Message::Truncate { relations, .. } => self.truncate(&relations),
            Message::Logical { prefix, content, transactional, .. } => match prefix {
                DEFINITION if transactional => self.definition(content)?,
                ROWS if transactional => self.given_rows(content)?,
                _ => self.logical(prefix, content),
            },
        }
        Ok(())
    }

    /// Looks only for what heartbeats tell, and for what makes them tell less.
    pub fn look_after(&mut self, event: Event<'_>) -> Result<()> {
        let Event::Message(bytes @ [b'B' | b'M' | b'T' | b'C', ..]) = event else { return Ok(()) };
        match pgoutput::decode(bytes).map_err(|error| undecodable(error, self.current))? {
            Message::Begin { final_lsn, commit_time, xid } => {
                self.definitions.begin(final_lsn, commit_time, xid)
            }
            Message::Logical { prefix, content, lsn, .. } => {
                self.current = lsn;
                if prefix == DEFINITION {
                    if let Some(signal) = self.definitions.signal(content) {
                        self.made.retain(|oid| !signal.dropped.contains(oid));
                        self.definitions.note_later(signal);
                    }
                } else if prefix == signal::HEARTBEAT.as_bytes() {
                    self.definitions.heartbeat(content);
                } else if prefix == signal::SEQUENCES.as_bytes() {
                    let before = (self.sampled < self.until).then(|| self.sequences.clone());
                    self.sequences(content, before.is_some());
                    match before {
                        Some(before) => self.keep_furthest(&before),
                        None => self.add_unseen(content),
                    }
                }
            }
            Message::Commit { end_lsn, commit_time, .. } => {
                self.definitions.commit(Edge { lsn: end_lsn, time: commit_time }, false);
            }
            Message::Truncate { relations, restart_identity: true, .. } if self.sampled < self.until => {
                let tables = relations.iter().filter_map(|oid| self.places.get(oid));
                let names: Vec<_> = tables.map(|place| &self.tables[*place].table).collect();
                let owned = self.sequences.values().filter(|state| {
                    state.owner.as_ref().is_some_and(|owner| {
                        names.iter().any(|table| table.schema == owner.schema && table.name == owner.table)
                    })
                });
                self.set_back.extend(owned.map(|state| state.oid));
            }
            _ => {}
        }
        Ok(())
    }

    /// The first sample after the moment is no bound for a sequence that was set back in between
    /// (`TRUNCATE … RESTART IDENTITY`, `setval`): the one before the moment may be the nearer.
    ///
    /// Nor does it tell of one that was dropped in between.
    fn keep_furthest(&mut self, before: &BTreeMap<u32, SequenceState>) {
        for (oid, state) in before {
            if !self.sequences.contains_key(oid) {
                self.sequences.insert(*oid, state.clone());
                self.set_back.insert(*oid);
            }
        }
        for (oid, state) in &mut self.sequences {
            let Some(earlier) = before.get(oid) else { continue };
            let went_back = if state.increment < 0 {
                state.last_value > earlier.last_value
            } else {
                state.last_value < earlier.last_value
            };
            if went_back {
                self.set_back.insert(*oid);
                // With its names: those of the moment.
                *state = earlier.clone();
            }
        }
    }

    /// A commit is in the log a while before others see what it did. So the first sample after a moment may lack
    /// a sequence that was made just before it; a later one has it.
    fn add_unseen(&mut self, content: &[u8]) {
        let Some(sample) = self.sample(content) else { return };
        self.samples_after += 1;
        for state in sample.sequences.into_iter().filter(|state| self.made.contains(&state.oid)) {
            self.sequences.entry(state.oid).or_insert(state);
        }
    }

    /// Nothing that comes later is news of the moment.
    pub fn knows_all(&self) -> bool {
        let unseen = self.made.iter().any(|oid| !self.sequences.contains_key(oid));
        self.sampled >= self.until
            && (!unseen || self.samples_after >= SAMPLES_AFTER)
            && self.definitions.seen_at >= self.definitions_at
    }

    fn logical(&mut self, prefix: &[u8], content: &[u8]) {
        if prefix == signal::HEARTBEAT.as_bytes() {
            self.definitions.heartbeat(content);
        } else if prefix == signal::SEQUENCES.as_bytes() {
            self.sequences(content, true);
        } else if prefix == signal::ROLES.as_bytes() && self.definitions.own(signal::ROLES, content).is_some()
        {
            self.say_renamed(&[naming::REGROLE].into(), "a role");
        }
    }

    fn sequences(&mut self, content: &[u8], counts: bool) {
        let Some(sample) = self.sample(content) else { return };
        self.definitions.looked(sample.sampled);
        self.retellings.began(self.definitions.open_xid, sample.sampled);
        // Two sessions may commit their samples in another order than they read them.
        if !counts || sample.sampled < self.sampled {
            return;
        }
        if sample.complete {
            self.sequences.clear();
        }
        self.sequences.extend(sample.sequences.into_iter().map(|state| (state.oid, state)));
        for gone in &sample.dropped {
            self.sequences.remove(gone);
        }
        self.sampled = sample.sampled;
    }

    /// A sample of ours. One from a position that its own transaction does not reach tells nothing: what is read
    /// cannot be younger than what says so.
    fn sample(&self, content: &[u8]) -> Option<SequenceSample> {
        let body = self.definitions.own(signal::SEQUENCES, content)?;
        let sample: SequenceSample = serde_json::from_slice(body).ok()?;
        (sample.sampled <= self.definitions.open_lsn).then_some(sample)
    }

    fn relation(&mut self, relation: Relation) {
        let described = self.described_as(&relation);
        self.described.insert(relation.oid, described);
    }

    /// The table is another now than when the stream described it.
    pub(super) fn redescribe(&mut self, oid: u32) {
        if let Some(known) = self.described.remove(&oid) {
            self.relation(known.relation);
        }
    }

    fn described_as(&self, relation: &Relation) -> Described {
        let Some(place) = self.places.get(&relation.oid) else {
            let what = format!("{}.{}", relation.schema, relation.name);
            let why = "was not protected yet at the checkpoint that the recovery starts from".into();
            let to_say = if self.unwanted.contains(&relation.oid) { vec![] } else { vec![(what, why)] };
            return Described { relation: relation.clone(), place: None, mapping: None, to_say };
        };
        let (mapping, to_say) = describe(&self.tables[*place].table, relation, self.current);
        Described { relation: relation.clone(), place: Some(*place), mapping, to_say }
    }

    /// The table that a row belongs to; `None` if it does not matter.
    fn table(&mut self, relation: u32) -> Result<Option<(&mut FoldedTable, &Mapping)>> {
        let Some(described) = self.described.get_mut(&relation) else {
            return Err(undecodable(
                format!("relation {relation} was not described before its row"),
                self.current,
            ));
        };
        self.inexact.extend(described.to_say.drain(..).map(|it| (it, ())));
        let Some(place) = self.places.get(&relation).copied() else { return Ok(None) };
        self.settle(place)?;
        let Some(mapping) = self.described.get(&relation).and_then(|described| described.mapping.as_ref())
        else {
            return Ok(None);
        };
        self.changes += 1;
        let table = &mut self.tables[place];
        table.touched = true;
        Ok(Some((table, mapping)))
    }

    /// What becomes of the relation's rows, if they are late.
    fn late(&self, relation: u32) -> Lines {
        Lines { late: self.retellings.late(relation), doubts: Doubts::default() }
    }

    pub(super) fn say(&mut self, what: String, why: String) {
        self.inexact.insert((what, why), ());
    }

    /// The folder for intermediate images, made when it is first needed.
    pub(super) fn scratch(&mut self) -> Result<Arc<TempDir>> {
        if let Some(scratch) = &self.scratch {
            return Ok(Arc::clone(scratch));
        }
        let made = Arc::new(super::scratch_folder(&self.scratch_parent)?);
        self.scratch = Some(Arc::clone(&made));
        Ok(made)
    }

    fn insert(&mut self, relation: u32, new: &Tuple<'_>) -> Result<()> {
        let (mut line, mut key, current) =
            (std::mem::take(&mut self.line), std::mem::take(&mut self.key), self.current);
        line.clear();
        let mut late = self.late(relation);
        if let Some((table, mapping)) = self.table(relation)? {
            mapping.push_line(new, &mut line).map_err(|error| undecodable(error, current))?;
            late.correct(&mut line);
            let key = key_of(&table.shape, &line, &mut key).ok_or_else(|| no_key(table, current))?;
            let done = match &mut table.delta {
                Delta::Keyed(delta) => delta.insert(key, &line),
                Delta::Bag(delta) => delta.insert(key, &line),
            };
            done.map_err(|error| undecodable(error, current))?;
        }
        self.doubt(relation, &late.doubts);
        (self.line, self.key) = (line, key);
        Ok(())
    }

    fn update(&mut self, relation: u32, old: Option<&OldTuple<'_>>, new: &Tuple<'_>) -> Result<()> {
        let (mut line, mut old_line) = (std::mem::take(&mut self.line), std::mem::take(&mut self.old_line));
        let (mut key, mut old_key) = (std::mem::take(&mut self.key), std::mem::take(&mut self.old_key));
        let current = self.current;
        line.clear();
        old_line.clear();
        let mut late = self.late(relation);
        if let Some((table, mapping)) = self.table(relation)? {
            mapping.push_updated(new, old, &mut line).map_err(|error| undecodable(error, current))?;
            late.correct(&mut line);
            let new_key = key_of(&table.shape, &line, &mut key).ok_or_else(|| no_key(table, current))?;
            let before = match old {
                Some(OldTuple::Key(tuple) | OldTuple::Full(tuple)) => {
                    mapping.push_line(tuple, &mut old_line).map_err(|error| undecodable(error, current))?;
                    late.correct(&mut old_line);
                    key_of(&table.shape, &old_line, &mut old_key).ok_or_else(|| no_key(table, current))?
                }
                None => new_key,
            };
            let done = match &mut table.delta {
                Delta::Keyed(delta) => delta.update(before, new_key, &line),
                Delta::Bag(_) if old.is_none() => return Err(no_key(table, current)),
                Delta::Bag(delta) => {
                    delta.delete(before);
                    delta.insert(new_key, &line)
                }
            };
            done.map_err(|error| undecodable(error, current))?;
        }
        self.doubt(relation, &late.doubts);
        (self.line, self.old_line, self.key, self.old_key) = (line, old_line, key, old_key);
        Ok(())
    }

    fn delete(&mut self, relation: u32, old: &OldTuple<'_>) -> Result<()> {
        let (mut line, mut key, current) =
            (std::mem::take(&mut self.line), std::mem::take(&mut self.key), self.current);
        let (OldTuple::Key(tuple) | OldTuple::Full(tuple)) = old;
        line.clear();
        let mut late = self.late(relation);
        if let Some((table, mapping)) = self.table(relation)? {
            mapping.push_line(tuple, &mut line).map_err(|error| undecodable(error, current))?;
            late.correct(&mut line);
            let key = key_of(&table.shape, &line, &mut key).ok_or_else(|| no_key(table, current))?;
            match &mut table.delta {
                Delta::Keyed(delta) => delta.delete(key),
                Delta::Bag(delta) => delta.delete(key),
            }
        }
        self.doubt(relation, &late.doubts);
        (self.line, self.key) = (line, key);
        Ok(())
    }

    fn truncate(&mut self, relations: &[u32]) {
        for relation in relations {
            if let Some(place) = self.places.get(relation) {
                self.tables[*place].truncate();
            }
        }
    }

    /// Merges the largest deltas into intermediate images while all together are too large.
    pub fn keep_within_budget(&mut self, request: &Request<'_>) -> Result<()> {
        while self.tables.iter().map(FoldedTable::delta_bytes).sum::<usize>() > request.budget {
            let largest = self.tables.iter().max_by_key(|table| table.delta_bytes());
            let Some(table) = largest.filter(|table| table.delta_bytes() > 0) else { return Ok(()) };
            let place = self.places.get(&table.table.oid).copied();
            let Some(place) = place else { return Ok(()) };
            let scratch = self.scratch()?;
            stride::merge_delta(&mut self.tables[place], scratch.path(), &self.catalog)?;
        }
        Ok(())
    }

    pub fn finish(mut self) -> Result<Folded> {
        self.settle_keys()?;
        for state in self.set_back.iter().filter_map(|oid| self.sequences.get(oid)) {
            let what = format!("sequence {}.{}", state.schema, state.name);
            let why = "was set back or dropped after this moment, before it was sampled; it is set beyond its last \
                       sample and every value in use";
            self.inexact.insert((what, why.to_owned()), ());
        }
        let inexact: Vec<_> = self.inexact.into_keys().map(|(what, why)| Inexact { what, why }).collect();
        let definitions = self.definitions;
        self.tables.retain(|table| !table.dropped);
        Ok(Folded {
            tables: self.tables,
            sequences: self.sequences.into_values().collect(),
            sequences_sampled: self.sampled,
            sequences_set_back: self.set_back,
            transactions: self.transactions,
            changes: self.changes,
            definitions: match definitions.changed_at {
                None => SchemaKnown::Exactly,
                to => SchemaKnown::Within { from: definitions.known_at, to },
            },
            definition_changes: definitions.changes,
            inexact,
            _scratch: self.scratch,
        })
    }
}

fn describe(table: &Table, relation: &Relation, at: Lsn) -> (Option<Mapping>, Vec<(String, String)>) {
    let mapping = Mapping::of(table, relation);
    let what = table.display();
    let schema = |difference: &String| {
        (what.clone(), format!("{difference} (seen at {at}); its schema is recovered as it was before"))
    };
    let mut to_say: Vec<_> = mapping.differences.iter().map(schema).collect();
    let fits = identity_fits(table, relation);
    if !fits {
        let why = format!(
            "changed its replica identity (seen at {at}); its rows are recovered as they were before"
        );
        to_say.push((what, why));
    }
    (fits.then_some(mapping), to_say)
}

fn no_key(table: &FoldedTable, at: Lsn) -> Error {
    undecodable(format!("a row of {} does not tell which row it was before", table.table.display()), at)
}
