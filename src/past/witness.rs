//! Finds the source's own digests of its definitions that are nearest to a moment.

use super::schema::{changes_archive, read_from_source_after};
use super::{Past, Reading};
use crate::error::Result;
use crate::history::checkpoint::{Checkpoint, Origin};
use crate::history::definitions::changes_in;
use crate::history::journal::LogicalMessage;
use crate::model::schema_digests::SchemaDigests;
use crate::model::{Edge, Lsn, Snapshot};
use crate::signal::{DIGESTS, DefinitionChange, DigestsSignal};

/// The source's definitions at one position, as digests.
#[derive(Clone, Debug)]
pub struct SchemaWitness {
    pub at: Edge,
    pub digests: SchemaDigests,
    /// The statements told after the moment that the digests show.
    pub later: Vec<DefinitionChange>,
    /// Whether definitions were seen to be the same before the moment and after it.
    pub is_of_moment: bool,
    /// The last digests before the moment that do not show all of the statements told before it. An object that they
    /// have and the witness lacks may have been there at the moment.
    pub earlier: Option<EarlierDigests>,
}

/// The source's definitions at a position before the moment.
#[derive(Clone, Debug)]
pub struct EarlierDigests {
    pub at: Edge,
    pub digests: SchemaDigests,
    /// How many of the statements told since the archive the digests show.
    pub shown: usize,
}

/// A set of digests in the stream.
struct DigestSet<'a> {
    /// The message's transaction.
    commit_lsn: Lsn,
    at: Edge,
    snapshot: Snapshot,
    fingerprint: &'a str,
    digests: &'a SchemaDigests,
}

impl Past {
    /// Returns the source's definitions at the first position, at or after the moment, at which the history holds their
    /// digests.
    ///
    /// # Errors
    /// `Damaged` if the journal or a manifest is.
    pub fn schema_witness(&self) -> Result<Option<SchemaWitness>> {
        let told = self.changes_since_archive()?;
        let next =
            read_from_source_after(self.history(), self.stretch(), self.until)?.map(|next| next.schema);
        let base = &self.base.schema;
        let is_told = |it: &&SchemaDigests| told.is_empty() && !it.objects.is_empty();
        let base_digests = base.digests.clone().unwrap_or_default();
        let mut before =
            Some(&base_digests).filter(is_told).map(|digests| (base.fingerprint.clone(), digests.clone()));
        let (mut after, mut earlier) = (None, None);
        let end = next.as_ref().map_or(Lsn::MAX, |next| next.lsn);
        self.each_set(&base_digests, end, &mut |set| {
            let shows = |change: &DefinitionChange| set.snapshot.shows(change.xid as u32);
            let shown = told.iter().take_while(|change| shows(change)).count();
            if set.commit_lsn < self.until && !told[shown..].iter().any(shows) {
                earlier = Some(EarlierDigests { at: set.at, digests: set.digests.clone(), shown });
            }
            if shown < told.len() {
                return true;
            }
            if set.commit_lsn < self.until {
                before = Some((set.fingerprint.to_owned(), set.digests.clone()));
                return true;
            }
            after = Some((set.at, set.commit_lsn, set.digests.clone(), Some(set.snapshot)));
            false
        })?;
        if let (Some((fingerprint, digests)), Some(seen)) = (before, self.question().after()?)
            && seen.fingerprint == fingerprint
        {
            let (at, later) = (seen.at, Vec::new());
            return Ok(Some(SchemaWitness { at, digests, later, is_of_moment: true, earlier: None }));
        }
        let next = || {
            let next = next?;
            Some((Edge { lsn: next.lsn, time: next.time }, next.lsn, next.digests?, None))
        };
        let Some((at, end, digests, snapshot)) = after.or_else(next) else { return Ok(None) };
        let key = self.history().identity().message_key();
        let mut later = changes_in(self.stretch(), &key, self.until, end)?;
        later.retain(|change| snapshot.as_ref().is_none_or(|snapshot| snapshot.shows(change.xid as u32)));
        Ok(Some(SchemaWitness { at, digests, later, is_of_moment: false, earlier }))
    }

    /// Returns the digests of the definitions at the moment: the last ones taken before it that show all statements told
    /// until then. `None` if there are none, or if schema changes are not told.
    ///
    /// # Errors
    /// `Damaged` if the journal or a manifest is.
    pub fn known_digests(&self) -> Result<Option<SchemaDigests>> {
        if !self.history().identity().has_event_triggers() {
            return Ok(None);
        }
        let told = self.changes_since_archive()?;
        let base = self.base.schema.digests.clone().unwrap_or_default();
        let mut known = Some(base.clone()).filter(|digests| told.is_empty() && !digests.objects.is_empty());
        self.each_set(&base, self.until, &mut |set| {
            if told.iter().all(|change| set.snapshot.shows(change.xid as u32)) {
                known = Some(set.digests.clone());
            }
            true
        })?;
        Ok(known)
    }

    /// Visits the sets of digests in the stream from the base's archive to `end`, as long as `visit` returns true. A set
    /// that follows another one than the history holds is passed over.
    fn each_set(
        &self,
        root: &SchemaDigests,
        end: Lsn,
        visit: &mut dyn FnMut(DigestSet<'_>) -> bool,
    ) -> Result<()> {
        let start = self.base.schema.lsn;
        let (mut digests, first) = (root.clone(), root.name());
        let mut name = first.clone();
        for message in self.digest_messages(start, end)? {
            let key = self.history().identity().message_key();
            let Some(signal) = DigestsSignal::read(&key, message.xid, &message.content) else { continue };
            if signal.follows != name {
                if signal.follows != first {
                    continue;
                }
                digests = root.clone();
            }
            digests.apply(signal.changes);
            name = digests.name();
            let Some(snapshot) = Snapshot::parse(&signal.snapshot) else { continue };
            let at = Edge { lsn: message.end_lsn, time: message.time };
            let (commit_lsn, fingerprint) = (message.commit_lsn, &*signal.fingerprint);
            if !visit(DigestSet { commit_lsn, at, snapshot, fingerprint, digests: &digests }) {
                break;
            }
        }
        Ok(())
    }

    fn digest_messages(&self, start: Lsn, end: Lsn) -> Result<Vec<LogicalMessage>> {
        let mut messages = Vec::new();
        for view in self.stretch().segments_between(start, end) {
            if view.summary.digests.iter().any(|lsn| (start..end).contains(lsn)) {
                messages.extend(view.open()?.logical_messages(start, end, DIGESTS.as_bytes())?);
            }
        }
        Ok(messages)
    }

    /// Returns the next checkpoint whose archive was read from the source, if nothing was told or seen to change between
    /// the moment and that archive. Large objects must be as at the moment, so there may be none.
    ///
    /// # Errors
    /// `Damaged` if the journal or a manifest is.
    pub fn later_archive(&self) -> Result<Option<Checkpoint>> {
        let Some(next) = read_from_source_after(self.history(), self.stretch(), self.until)? else {
            return Ok(None);
        };
        let seen = self.question().after()?;
        let is_seen = seen.is_some_and(|seen| seen.fingerprint == next.schema.fingerprint);
        let has_objects = self.base.schema.large_objects > 0 || next.schema.large_objects > 0;
        if !is_seen || has_objects || !self.holds_rows(&next)? {
            return Ok(None);
        }
        let key = self.history().identity().message_key();
        let told = changes_in(self.stretch(), &key, self.until, next.schema.lsn)?;
        Ok((!told.iter().any(|change| changes_archive(change, &self.base))).then_some(next))
    }

    /// Whether the rows of the moment fit the tables of a later checkpoint, as far as it has these tables.
    fn holds_rows(&self, later: &Checkpoint) -> Result<bool> {
        let fits = |table: &crate::model::Table| {
            later.table(table.oid).is_none_or(|there| {
                there.table.display() == table.display() && there.table.columns == table.columns
            })
        };
        Ok(self.tables()?.iter().all(fits))
    }

    /// Returns the digests of the source's definitions at each checkpoint up to the moment that holds them.
    ///
    /// # Errors
    /// `Damaged` if a manifest is.
    pub fn schema_digests(&self) -> Result<Vec<SchemaDigests>> {
        let rows = self.stretch().checkpoints.iter();
        let rows = rows.filter(|row| row.lsn <= self.until && row.origin == Origin::Source);
        let digests = rows.map(|row| Ok(self.history().read_checkpoint(&row.id)?.schema.digests));
        digests.filter_map(Result::transpose).collect()
    }
}

impl Reading {
    /// Returns the last position at which the source's definitions were digested, in the epoch of its newest checkpoint.
    ///
    /// # Errors
    /// `Damaged` if a segment is.
    pub fn schema_digested(&self, newest: &Checkpoint) -> Result<Option<Edge>> {
        let (stretch, schema) = (self.stretch(newest.epoch)?, &newest.schema);
        let read = schema.digests.as_ref().map(|_| Edge { lsn: schema.lsn, time: schema.time });
        let told = stretch.segments.iter().rev().find_map(|view| Some((view, *view.summary.digests.last()?)));
        let Some((view, told)) = told.filter(|(_, told)| *told > schema.lsn) else { return Ok(read) };
        let segment = view.open()?;
        let entry = segment.transactions().iter().find(|entry| entry.commit_lsn == told);
        Ok(entry.map(|entry| Edge { lsn: entry.end_lsn, time: entry.time }).or(read))
    }
}
