//! The statements that changed the source's definitions, as the journal holds them.

use super::checkpoint::Checkpoint;
use super::journal::{LogicalMessage, Segment};
use super::signal::{DEFINITION, DefinitionChange, unsealed};
use super::timeline::{Stretch, Timeline};
use crate::error::{Context, Error, Kind, Result};
use crate::model::Lsn;

/// The statements of the transactions that committed between a checkpoint and `until`, in the order
/// of their commits. `secret` is the history's, see [`super::Identity::secret`].
///
/// # Errors
/// `Damaged` if the journal is, or if a message under our seal cannot be read.
pub fn changes_between(
    timeline: &Timeline,
    secret: &str,
    base: &Checkpoint,
    until: Lsn,
) -> Result<Vec<DefinitionChange>> {
    let stretch = timeline.stretches.iter().find(|stretch| stretch.epoch.number == base.epoch);
    let stretch = stretch.ok_or_else(|| Error::internal("the checkpoint's epoch is missing"))?;
    changes_in(stretch, secret, base.lsn, until)
}

/// The statements of one epoch, whose commits lie from `after` to before `until`.
///
/// # Errors
/// As [`changes_between`].
pub fn changes_in(stretch: &Stretch, secret: &str, after: Lsn, until: Lsn) -> Result<Vec<DefinitionChange>> {
    // Without a secret anybody's message would pass.
    if secret.is_empty() {
        return Ok(Vec::new());
    }
    let mut changes = Vec::new();
    for view in stretch.segments_between(after, until) {
        if !view.summary.definitions.iter().any(|lsn| (after..until).contains(lsn)) {
            continue;
        }
        let segment = Segment::open(&view.file.path)?;
        for message in segment.logical_messages(after, until, DEFINITION.as_bytes())? {
            changes.extend(change(secret, message)?);
        }
    }
    Ok(changes)
}

/// `None` for a message that is not under our seal: anybody may write one.
fn change(secret: &str, message: LogicalMessage) -> Result<Option<DefinitionChange>> {
    let LogicalMessage { commit_lsn: lsn, end_lsn, time, xid, content } = message;
    let Some(body) = unsealed(secret, &content) else { return Ok(None) };
    let signal = serde_json::from_slice(body)
        .context(Kind::Damaged, || format!("a definition in the transaction at {lsn} cannot be read"))?;
    Ok(Some(DefinitionChange { lsn, end_lsn, time, xid, signal }))
}
