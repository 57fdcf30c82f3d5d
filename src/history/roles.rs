//! The server's roles at a moment. No event trigger tells changes of roles, so capture reads the roles with its heartbeats.

use super::History;
use super::catalog::Catalog;
use super::checkpoint::Checkpoint;
use super::timeline::{SegmentView, Stretch, Timeline};
use crate::error::Result;
use crate::model::Lsn;
use crate::signal::{ROLES, RolesSignal};
use crate::store::{ObjectKind, ObjectName};

/// Returns the digest of the newest list of roles (`schemas/DIGEST.sql`) at `until`: the last list that capture wrote
/// since the checkpoint, or the list of the checkpoint itself.
///
/// # Errors
/// `Damaged` if the journal is.
pub fn globals_at(
    history: &History,
    stretch: &Stretch,
    base: &Checkpoint,
    until: Lsn,
) -> Result<Option<String>> {
    let told = last_told(history, stretch, base.lsn, until)?.map(|signal| signal.globals);
    Ok(told.or_else(|| base.schema.globals.clone()))
}

/// Returns the digest of the roles that the history knows last.
///
/// # Errors
/// `Damaged` if the history is.
pub fn last_known(history: &History) -> Result<Option<String>> {
    let catalog = Catalog::open(history)?;
    let timeline = Timeline::read(history, &catalog)?;
    let stretch = timeline.current()?;
    let Some(newest) = stretch.checkpoints.last() else { return Ok(None) };
    let newest = history.read_checkpoint(&newest.id)?;
    let told = last_told(history, stretch, newest.lsn, Lsn::MAX)?.map(|signal| signal.digest);
    Ok(told.or(newest.schema.roles_digest))
}

/// Returns the digests of all lists of roles that these segments name.
///
/// # Errors
/// `Damaged` if one of them is.
pub fn told_in<'a>(
    history: &History,
    segments: impl Iterator<Item = &'a SegmentView>,
) -> Result<Vec<String>> {
    let key = history.identity().message_key();
    let mut lists = Vec::new();
    for view in segments.filter(|view| !view.summary.roles.is_empty()) {
        let messages = view.open()?.logical_messages(Lsn::ZERO, Lsn::MAX, ROLES.as_bytes())?;
        let signals = messages.iter().filter_map(|it| RolesSignal::read(&key, it.xid, &it.content));
        lists.extend(signals.map(|signal| signal.globals));
    }
    Ok(lists)
}

/// Returns the last signal of roles that capture wrote in a transaction whose commit lies from `after` to before `until`.
fn last_told(history: &History, stretch: &Stretch, after: Lsn, until: Lsn) -> Result<Option<RolesSignal>> {
    let tells = |view: &&SegmentView| view.summary.roles.iter().any(|lsn| (after..until).contains(lsn));
    for view in stretch.segments.iter().rev().filter(tells) {
        let messages = view.open()?.logical_messages(after, until, ROLES.as_bytes())?;
        let key = history.identity().message_key();
        let mut ours = messages.iter().rev().filter_map(|it| RolesSignal::read(&key, it.xid, &it.content));
        if let Some(signal) = ours.find(|signal| is_held(history, signal)) {
            return Ok(Some(signal));
        }
    }
    Ok(None)
}

/// Whether the signal names a list of roles that the history holds. In older histories without event triggers any role
/// may have written such a message. No path can hide in a digest.
fn is_held(history: &History, signal: &RolesSignal) -> bool {
    let globals = &signal.globals;
    globals.len() == 64
        && globals.bytes().all(|byte| byte.is_ascii_hexdigit())
        && history.store().holds(&ObjectName::new(ObjectKind::Roles, globals)).unwrap_or(false)
}
