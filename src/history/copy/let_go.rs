//! Passes over what a copy has let go by an expiry of its own, so that the copy does not get it again.
//!
//! A copy may keep less than the original, or more. What its own expiry has removed would come back with every update and be
//! removed again. Nothing else is passed over: an object that a kept checkpoint of the original needs is copied, also if the
//! copy once had it and let it go.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::history::History;
use crate::history::catalog::Catalog;
use crate::history::expire::needed_by_the_rest;
use crate::history::expiry::{Expiry, expiry_in};
use crate::history::image::{BlockDirectory, MemoryDirectory};
use crate::history::journal::SegmentName;
use crate::store::{ObjectKind, ObjectName, Store};

/// The objects that a copy does not get again; none, unless the copy had an expiry that the original had not.
pub(super) struct LetGo(Option<OwnExpiry>);

struct OwnExpiry {
    record: Expiry,
    /// The packs, archives and lists of roles of the original that the copy has removed and does not need.
    removed: BTreeSet<ObjectName>,
}

impl LetGo {
    /// # Errors
    /// `Damaged` if the original is, or if a record of the copy cannot be read; `Unavailable` if a store does not answer.
    pub(super) fn of(history: &History, store: &dyn Store) -> Result<LetGo> {
        let known = history.store().list(ObjectKind::Expiry)?;
        let is_own = |name: &ObjectName| !known.contains(name);
        if !store.list(ObjectKind::Expiry)?.iter().any(is_own) {
            return Ok(LetGo(None));
        }
        let Some(record) = expiry_in(store, history.authorship())? else { return Ok(LetGo(None)) };
        let removed = removed_for_good(history, store, &record)?;
        Ok(LetGo(Some(OwnExpiry { record, removed })))
    }

    /// Whether the copy has let an object of the original go.
    pub(super) fn includes(&self, history: &History, name: &ObjectName) -> bool {
        let Some(OwnExpiry { record, removed }) = &self.0 else { return false };
        match name.kind() {
            ObjectKind::Checkpoint => record.covers_checkpoint(name.stem()),
            ObjectKind::Evidence => record.covers_evidence(history.store(), name, history.authorship()),
            _ => removed.contains(name),
        }
    }

    pub(super) fn includes_segment(&self, name: SegmentName) -> bool {
        self.0.as_ref().is_some_and(|own| own.record.covers_segment(name))
    }
}

/// Returns those of the original's packs, archives and lists of roles that the copy has removed, but for what a kept checkpoint
/// needs. The blocks of the copy are read only if there are any.
fn removed_for_good(history: &History, store: &dyn Store, record: &Expiry) -> Result<BTreeSet<ObjectName>> {
    let (packs, schemas): (BTreeSet<_>, BTreeSet<_>) =
        (record.packs.iter().collect(), record.schemas.iter().collect());
    let mut removed = BTreeSet::new();
    for kind in [ObjectKind::Pack, ObjectKind::Archive, ObjectKind::Roles] {
        removed.extend(history.store().list(kind)?.into_iter().filter(|name| match kind {
            ObjectKind::Pack => packs.contains(&name.stem().to_owned()),
            _ => schemas.contains(&name.file_name()),
        }));
    }
    if removed.is_empty() {
        return Ok(removed);
    }
    let mut needed = needed_by_the_rest(history, record)?;
    // An expiry of the copy packs blocks anew, so the copy may have them in other packs than the original.
    let there = MemoryDirectory::scan(store)?;
    needed.blocks.retain(|id| !there.holds(id));
    let catalog = Catalog::open(history)?;
    let mut packs = BTreeSet::new();
    for id in &needed.blocks {
        packs.extend(catalog.locate(id)?.map(|location| location.pack));
    }
    removed.retain(|name| match name.kind() {
        ObjectKind::Pack => !packs.contains(name.stem()),
        _ => !needed.schemas.contains(&name.file_name()),
    });
    Ok(removed)
}
