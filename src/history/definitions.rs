//! The statements that changed the source's definitions, as the journal holds them.

use super::journal::{LogicalMessage, Segment};
use super::signal::{DEFINITION, DefinitionChange, DefinitionSignal};
use super::timeline::Stretch;
use crate::error::{Context, Kind, Result};
use crate::model::Lsn;

/// The statements of one epoch, whose commits lie from `after` to before `until`.
///
/// # Errors
/// `Damaged` if the journal is, or if a message under our seal cannot be read.
pub fn changes_in(stretch: &Stretch, secret: &str, after: Lsn, until: Lsn) -> Result<Vec<DefinitionChange>> {
    let mut changes: Vec<DefinitionChange> = Vec::new();
    for view in stretch.segments_between(after, until) {
        if !view.summary.definitions.iter().any(|lsn| (after..until).contains(lsn)) {
            continue;
        }
        let segment = Segment::open(&view.file.path)?;
        for message in segment.logical_messages(after, until, DEFINITION.as_bytes())? {
            let LogicalMessage { commit_lsn: lsn, end_lsn, time, xid, content } = message;
            let of_transaction = changes.iter().rev().take_while(|it: &&DefinitionChange| it.lsn == lsn);
            let earlier = of_transaction.map(|change| &change.signal);
            let Some(signal) = DefinitionSignal::read(secret, &content, earlier) else { continue };
            let signal = signal.context(Kind::Damaged, || {
                format!("a definition in the transaction at {lsn} cannot be read")
            })?;
            changes.push(DefinitionChange { lsn, end_lsn, time, xid, signal });
        }
    }
    Ok(changes)
}
