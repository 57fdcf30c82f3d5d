//! Grades how well the schema at a moment is known, by the journal's evidence.
//!
//! Each heartbeat carries a digest of the source's definitions, and so does each checkpoint that was read from the
//! source. A Relation message describes a table's columns before the table's next row. Event triggers tell every
//! change. Without them, the journal shows only that there was a change.

use super::resolve::resolve;
use super::{Past, Reading};
use crate::codec::pgoutput;
use crate::error::{Kind, Result};
use crate::follow;
use crate::history::History;
use crate::history::checkpoint::{Checkpoint, Origin};
use crate::history::definitions::{SchemaKnown, changes_in};
use crate::history::journal::{Segment, TransactionMessage};
use crate::history::timeline::{SegmentView, Stretch};
use crate::model::{Edge, Inexact, Lsn, Message, Moment};
use crate::signal::{DefinitionChange, HEARTBEAT, HeartbeatSignal};

impl Past {
    /// Returns how well the definitions at the moment are known.
    ///
    /// # Errors
    /// `Damaged` if the journal or a manifest is.
    pub fn schema_known(&self) -> Result<SchemaKnown> {
        self.question().answer()
    }

    /// Lists the schema changes that a plan must name, given the grade, with tables that only the next checkpoint
    /// knows.
    pub(super) fn schema_unknown(&self, known: &SchemaKnown) -> Result<Vec<Inexact>> {
        self.question().unknown(known)
    }

    pub(super) fn question(&self) -> SchemaQuestion<'_> {
        let (history, stretch, base) = (self.history(), self.stretch(), &self.base);
        SchemaQuestion { history, stretch, base, at: self.witnessed_at }
    }
}

impl Reading {
    /// Returns how well the definitions are known at the end of the history, whose newest checkpoint is given; `None`
    /// if no moment can be recovered, or if the history cannot be read.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub fn schema_known_at_end(&self, newest: &Checkpoint) -> Result<Option<SchemaKnown>> {
        let look = || {
            let end = resolve(self.timeline(), &Moment::Latest, false)?;
            let at = end.last.map_or(end.until, |last| last.lsn).max(newest.lsn);
            let stretch = self.timeline().current()?;
            SchemaQuestion { history: self.history(), stretch, base: newest, at }.answer().map(Some)
        };
        match look() {
            Err(error) if matches!(error.kind(), Kind::Damaged | Kind::OutsideWindow) => Ok(None),
            done => done,
        }
    }
}

/// Whether a statement may have changed the content of the base's archive. Refreshing a populated view does not.
pub(super) fn changes_archive(change: &DefinitionChange, base: &Checkpoint) -> bool {
    // The server quotes a name only if it must.
    let bare = |name: &str| name.replace('"', "");
    let full = |identity: &str| {
        let mut views = base.schema.materialized_views.iter();
        views.any(|(schema, name)| bare(identity) == bare(&format!("{schema}.{name}")))
    };
    let objects = &change.signal.objects;
    change.signal.tag != "REFRESH MATERIALIZED VIEW" || !objects.iter().all(|object| full(&object.identity))
}

/// Evidence of the definitions at one position.
#[derive(Clone, Debug)]
pub(super) struct Witness {
    pub at: Edge,
    pub fingerprint: String,
}

/// The question how well the definitions are known at one position.
pub(super) struct SchemaQuestion<'a> {
    history: &'a History,
    stretch: &'a Stretch,
    /// The checkpoint whose archive is recovered.
    base: &'a Checkpoint,
    at: Lsn,
}

impl SchemaQuestion<'_> {
    /// Returns how well the definitions are known at the position.
    fn answer(&self) -> Result<SchemaKnown> {
        let after = self.after()?;
        if self.is_told(after.as_ref())? {
            return Ok(SchemaKnown::Exactly);
        }
        let (from, to) = self.before()?;
        let same = after.as_ref().is_some_and(|after| self.is_same(after));
        if same && to.is_none() {
            return Ok(SchemaKnown::Exactly);
        }
        let to = to.or(after.filter(|after| !self.is_same(after)).map(|after| after.at));
        Ok(SchemaKnown::Within { from, to: self.described(from, to)?.or(to) })
    }

    /// Whether the definitions were then as they are recovered.
    fn is_same(&self, witness: &Witness) -> bool {
        witness.fingerprint == self.base.schema.fingerprint
    }

    /// Whether the event triggers told every change, so that nothing changed if they told nothing. If they told a
    /// change, heartbeats prove nothing for this moment, and the fold finds out whether there was an untold change
    /// besides.
    fn is_told(&self, after: Option<&Witness>) -> Result<bool> {
        let identity = self.history.identity();
        if !identity.has_event_triggers() {
            return Ok(false);
        }
        if after.is_none_or(|after| self.is_same(after)) {
            return Ok(true);
        }
        let end = after.map_or(Lsn::MAX, |after| after.at.lsn);
        // The journal between archive and checkpoint may have been expired.
        let told = !self.base.schema.since.is_empty();
        Ok(told || !changes_in(self.stretch, &identity.message_key(), self.base.lsn, end)?.is_empty())
    }

    /// Returns the first witness at the position or after it.
    pub fn after(&self) -> Result<Option<Witness>> {
        let read = self.read_after()?;
        for view in self.stretch.segments.iter().filter(|view| view.summary.end >= self.at) {
            if read.as_ref().is_some_and(|read| read.at.lsn < view.summary.start) {
                break;
            }
            let segment = view.open()?;
            let Some(first) = segment.transactions().iter().find(|entry| entry.end_lsn >= self.at) else {
                continue;
            };
            let mut found = None;
            let start = first.commit_lsn;
            self.heartbeats(&segment, (start, Lsn::MAX), &mut |witness| {
                found = Some(witness);
                false
            })?;
            let Some(found) = found else { continue };
            return Ok(Some(match read {
                Some(read) if read.at.lsn < found.at.lsn => read,
                _ => found,
            }));
        }
        Ok(read)
    }

    /// Returns the next checkpoint that was read from the source, as a witness.
    fn read_after(&self) -> Result<Option<Witness>> {
        let Some(next) = read_from_source_after(self.history, self.stretch, self.at)? else {
            return Ok(None);
        };
        let at = Edge { lsn: next.schema.lsn, time: next.schema.time };
        Ok(Some(Witness { at, fingerprint: next.schema.fingerprint }))
    }

    /// Returns the last witness before the position that saw the definitions as they are recovered, and the first one
    /// after it, still before the position, that saw others.
    fn before(&self) -> Result<(Edge, Option<Edge>)> {
        let schema = &self.base.schema;
        let mut differs = None;
        let earlier = |view: &&SegmentView| view.summary.start < self.at && view.summary.end > schema.lsn;
        for view in self.stretch.segments.iter().rev().filter(earlier) {
            let mut witnesses = Vec::new();
            let segment = view.open()?;
            self.heartbeats(&segment, (schema.lsn, self.at), &mut |witness| {
                witnesses.push(witness);
                true
            })?;
            let within = |it: &&Witness| it.at.lsn > schema.lsn && it.at.lsn < self.at;
            for witness in witnesses.iter().rev().filter(within) {
                if self.is_same(witness) {
                    return Ok((witness.at, differs));
                }
                differs = Some(witness.at);
            }
        }
        Ok((Edge { lsn: schema.lsn, time: schema.time }, differs))
    }

    /// Visits the heartbeats of a segment that carry a digest of the definitions, until `visit` returns false.
    fn heartbeats(
        &self,
        segment: &Segment,
        (after, until): (Lsn, Lsn),
        visit: &mut dyn FnMut(Witness) -> bool,
    ) -> Result<()> {
        let key = self.history.identity().message_key();
        segment.each_said(after, until, &mut |entry, said| {
            let TransactionMessage::Logical { prefix, content } = said else { return true };
            if prefix != HEARTBEAT.as_bytes() {
                return true;
            }
            // Any session can write such a message; one without a valid signature proves nothing.
            let Some(body) = key.verified(prefix, entry.xid, content) else { return true };
            let Ok(HeartbeatSignal { fingerprint: Some(seen) }) = serde_json::from_slice(body) else {
                return true;
            };
            visit(Witness { at: Edge { lsn: entry.end_lsn, time: entry.time }, fingerprint: seen })
        })
    }

    /// Returns the first transaction between the two edges in which the stream describes a table differently from the
    /// base: often earlier than the next heartbeat.
    fn described(&self, from: Edge, to: Option<Edge>) -> Result<Option<Edge>> {
        let (after, until) = (from.lsn, to.map_or(Lsn::MAX, |to| to.lsn));
        let mut found = None;
        for view in self.stretch.segments_between(after, until) {
            if view.summary.relation_changes.is_empty() && view.summary.relations.is_empty() {
                continue;
            }
            view.open()?.each_said(after, until, &mut |entry, said| {
                let TransactionMessage::Relation(bytes) = said else { return true };
                let Ok(Message::Relation(relation)) = pgoutput::decode(bytes) else { return true };
                let known = self.base.table(relation.oid);
                let differs = known.is_some_and(|it| !follow::differences(&it.table, &relation).is_empty());
                found = differs.then_some(Edge { lsn: entry.end_lsn, time: entry.time });
                !differs
            })?;
            if found.is_some() {
                break;
            }
        }
        Ok(found)
    }

    /// Answers [`Past::schema_unknown`].
    fn unknown(&self, known: &SchemaKnown) -> Result<Vec<Inexact>> {
        let Some(inexact) = known.inexact() else { return Ok(Vec::new()) };
        let mut unknown = vec![inexact];
        let next = read_from_source_after(self.history, self.stretch, self.at)?;
        let Some(next) = next else { return Ok(unknown) };
        for entry in next.tables.iter().filter(|entry| self.base.table(entry.table.oid).is_none()) {
            let why = format!(
                "is protected from {} ({}) on, and is left out of this recovery",
                next.lsn, next.time
            );
            unknown.push(Inexact { what: entry.table.display(), why });
        }
        Ok(unknown)
    }
}

pub(super) fn read_from_source_after(
    history: &History,
    stretch: &Stretch,
    at: Lsn,
) -> Result<Option<Checkpoint>> {
    let next = stretch.checkpoints.iter().find(|row| row.lsn >= at && row.origin == Origin::Source);
    next.map(|row| history.read_checkpoint(&row.id)).transpose()
}
