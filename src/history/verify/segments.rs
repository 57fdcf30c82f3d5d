//! Verifies segments, and that each segment begins where the one before it ends.

use super::{AcknowledgedEnd, Findings};
use crate::error::{Kind, Result};
use crate::history::epoch::Epoch;
use crate::history::expiry::Expiry;
use crate::history::journal::{self, Journal, SegmentName};
use crate::history::segments::Segments;
use crate::history::{History, timeline};
use crate::model::Lsn;
use crate::progress::{Progress, Unit};
use crate::signal::{DEFINITION, DefinitionSignal};

/// Reads all segments, and returns the epochs that can be read.
pub(super) fn check(
    history: &History,
    table: &Segments,
    acknowledged: Option<AcknowledgedEnd>,
    progress: &dyn Progress,
    verified: &mut Findings,
) -> Result<Vec<VerifiedEpoch>> {
    let id = history.identity().id_bytes()?;
    let journal = history.journal();
    let size = |name: &SegmentName| journal.size(*name).unwrap_or(0);
    let names = journal.list()?;
    progress.phase("reading segments", names.iter().map(size).sum(), Unit::Bytes);
    let mut ends = Vec::new();
    for name in names {
        let place = journal.locate(name);
        verified.segments += 1;
        verified.bytes += size(&name);
        match verify_segment(journal, name) {
            Ok(report) => {
                verified.faults.extend(report.faults.iter().map(|fault| format!("{place}: {fault}")));
            }
            Err(error) => verified.faults.push(error.to_string()),
        }
        if journal.history_of(name).is_some_and(|found| found != id) {
            verified.faults.push(format!("{place}: it belongs to another history"));
        }
        let segment = table.open(name).ok();
        verified.notes.extend(segment.as_deref().map_or(Vec::new(), |segment| unreadable(history, segment)));
        let range = segment.map(|segment| (segment.summary().start, segment.summary().end));
        ends.push(SegmentEnds { name, place, range });
        progress.advance(size(&name));
    }
    match history.epochs() {
        Ok(epochs) => {
            let known = epochs.len() as u32;
            if let Some(orphan) = ends.iter().map(|it| it.name.epoch).filter(|&number| number > known).min() {
                verified.faults.push(timeline::missing_epoch(history, orphan).to_string());
            }
            // A record that cannot be read is named with the other objects.
            let expired = history.expiry().ok().flatten();
            joints(&epochs, &ends, expired.as_ref(), acknowledged, verified);
            Ok(epochs.into_iter().map(|epoch| seen(epoch, &ends)).collect())
        }
        Err(error) => {
            verified.faults.push(error.to_string());
            Ok(Vec::new())
        }
    }
}

/// Names the transactions whose schema changes cannot be read from the segment.
fn unreadable(history: &History, segment: &journal::Segment) -> Vec<String> {
    let key = history.identity().message_key();
    // A damaged block is named as a fault of the segment.
    let messages = segment.logical_messages(Lsn::ZERO, Lsn::MAX, DEFINITION.as_bytes()).unwrap_or_default();
    let told = messages.iter().filter_map(|message| {
        let signal = DefinitionSignal::read(&key, message.xid, &message.content, std::iter::empty())?;
        signal.is_unreadable().then(|| {
            let why = signal.trouble.unwrap_or_default();
            format!("a schema change in the transaction at {} is not known: {why}", message.commit_lsn)
        })
    });
    told.collect()
}

/// Reads a segment, which may have been sealed since the segments were listed.
fn verify_segment(journal: &Journal, name: SegmentName) -> Result<journal::SegmentReport> {
    let sealed = name.form(true);
    match journal::verify_segment(journal, name) {
        Err(error) if error.kind() == Kind::Unavailable && journal.holds(sealed)? => {
            journal::verify_segment(journal, sealed)
        }
        read => read,
    }
}

/// The place of a segment, and its start and end if the segment could be read.
struct SegmentEnds {
    name: SegmentName,
    place: String,
    range: Option<(Lsn, Lsn)>,
}

/// An epoch, and whether its journal holds anything.
pub(super) struct VerifiedEpoch {
    pub epoch: Epoch,
    pub has_changes: bool,
}

fn seen(epoch: Epoch, ends: &[SegmentEnds]) -> VerifiedEpoch {
    let mut own = ends.iter().filter(|it| it.name.epoch == epoch.number);
    let has_changes = own.any(|it| it.range.is_some_and(|(start, end)| end > start));
    VerifiedEpoch { epoch, has_changes }
}

/// Finds missing segments: each segment must begin where the one before it ends, and the last one must reach the position
/// that was acknowledged as durable.
fn joints(
    epochs: &[Epoch],
    ends: &[SegmentEnds],
    expired: Option<&Expiry>,
    acknowledged: Option<AcknowledgedEnd>,
    verified: &mut Findings,
) {
    for epoch in epochs {
        // Segments that an expiry covers need not join.
        let Some(from) = expired.map_or(Some(epoch.start), |it| it.must_hold_from(epoch)) else { continue };
        // `None` behind a segment that cannot be read: that segment is named, and the next one is not at fault.
        let mut reached = Some(from);
        let mut last = format!("the journal of epoch {}", epoch.number);
        let must_join = |name: &SegmentName| name.epoch == epoch.number && name.start >= from;
        for SegmentEnds { place, range, .. } in ends.iter().filter(|it| must_join(&it.name)) {
            if let (Some((start, _)), Some(expected)) = (range, reached)
                && *start != expected
            {
                verified
                    .faults
                    .push(format!("{place}: the segment before it is missing, from {expected} to {start}"));
            }
            reached = range.map(|(_, end)| end);
            last.clone_from(place);
        }
        let durable = acknowledged.filter(|it| it.epoch == epoch.number).map(|it| it.durable);
        if let (Some(durable), Some(end)) = (durable, reached)
            && end < durable
        {
            verified
                .faults
                .push(format!("{last}: ends at {end}, but everything up to {durable} had been durable"));
        }
    }
}
