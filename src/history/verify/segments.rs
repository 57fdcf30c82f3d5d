//! Segments, and that each goes on where the one before it ended.

use super::{Acknowledged, Verified, size};
use crate::error::{Kind, Result};
use crate::history::epoch::Epoch;
use crate::history::expiry::Expiry;
use crate::history::journal::{self, SegmentFile};
use crate::history::segments::Segments;
use crate::history::{History, timeline};
use crate::model::Lsn;
use crate::progress::{Progress, Unit};
use crate::signal::{DEFINITION, DefinitionSignal};

/// Reads all segments, and returns the epochs that can be read.
pub(super) fn check(
    history: &History,
    table: &Segments,
    acknowledged: Option<Acknowledged>,
    progress: &dyn Progress,
    verified: &mut Verified,
) -> Result<Vec<EpochSeen>> {
    let id = history.identity().id_bytes()?;
    let files = journal::list(&history.journal_folder())?;
    progress.phase("reading segments", files.iter().map(|file| size(&file.path)).sum(), Unit::Bytes);
    let mut ends = Vec::new();
    for file in &files {
        verified.segments += 1;
        verified.bytes += size(&file.path);
        match verify_segment(history, file) {
            Ok(report) => {
                let place = file.path.display();
                verified.faults.extend(report.faults.iter().map(|fault| format!("{place}: {fault}")));
            }
            Err(error) => verified.faults.push(error.to_string()),
        }
        if journal::history_of(&file.path).is_some_and(|found| found != id) {
            verified.faults.push(format!("{}: it belongs to another history", file.path.display()));
        }
        let segment = table.open(file).ok();
        verified.notes.extend(segment.as_deref().map_or(Vec::new(), |segment| unreadable(history, segment)));
        let range = segment.map(|segment| (segment.summary().start, segment.summary().end));
        ends.push((file, range));
        progress.advance(size(&file.path));
    }
    match history.epochs() {
        Ok(epochs) => {
            let known = epochs.len() as u32;
            if let Some(orphan) = files.iter().map(|file| file.epoch).filter(|&number| number > known).min() {
                verified.faults.push(timeline::missing_epoch(history, orphan).to_string());
            }
            // One that cannot be read is named with the other objects.
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

/// The schema changes that a segment tells and that cannot be read, by their transactions.
fn unreadable(history: &History, segment: &journal::Segment) -> Vec<String> {
    let key = history.identity().message_key();
    // Damage is a fault of the segment, and named as that.
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

/// Reads a segment, which may have been sealed since the folder was listed.
fn verify_segment(history: &History, file: &SegmentFile) -> Result<journal::Report> {
    let sealed = file.path.with_extension("seg");
    match journal::verify_segment(&file.path, history.authorship()) {
        Err(error) if error.kind() == Kind::Unavailable && sealed.exists() => {
            journal::verify_segment(&sealed, history.authorship())
        }
        read => read,
    }
}

/// An epoch, and whether its journal holds anything.
pub(super) struct EpochSeen {
    pub epoch: Epoch,
    pub has_changes: bool,
}

fn seen(epoch: Epoch, ends: &[(&SegmentFile, Option<(Lsn, Lsn)>)]) -> EpochSeen {
    let mut own = ends.iter().filter(|(file, _)| file.epoch == epoch.number);
    let has_changes = own.any(|(_, range)| range.is_some_and(|(start, end)| end > start));
    EpochSeen { epoch, has_changes }
}

/// What one segment ends with the next begins with, and the last one with what was durable; or
/// something is missing. `ends`: start and end of each segment that could be read.
fn joints(
    epochs: &[Epoch],
    ends: &[(&SegmentFile, Option<(Lsn, Lsn)>)],
    expired: Option<&Expiry>,
    acknowledged: Option<Acknowledged>,
    verified: &mut Verified,
) {
    for epoch in epochs {
        // What an expiry has left, if anything, need not hang together.
        let Some(from) = expired.map_or(Some(epoch.start), |it| it.must_hold_from(epoch)) else { continue };
        // None after a segment that cannot be read: it is named, what follows it is not to blame.
        let mut reached = Some(from);
        let mut last = format!("the journal of epoch {}", epoch.number);
        let held = |file: &SegmentFile| file.epoch == epoch.number && file.start >= from;
        for (file, range) in ends.iter().filter(|(file, _)| held(file)) {
            let place = file.path.display();
            if let (Some((start, _)), Some(expected)) = (range, reached)
                && *start != expected
            {
                verified
                    .faults
                    .push(format!("{place}: the segment before it is missing, from {expected} to {start}"));
            }
            reached = range.map(|(_, end)| end);
            last = place.to_string();
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
