//! What a copy has let go by an expiry of its own, and does not get again.
//!
//! A copy may keep less than the original, or more. What its own expiry has removed would come back with every update and be
//! removed again. Nothing else is passed over: an object that a kept checkpoint of the original needs is copied, also if the
//! copy once had it and let it go.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::history::History;
use crate::history::expire::needed_by_the_rest;
use crate::history::expiry::{Expiry, expiry_in};
use crate::history::image::MemoryDirectory;
use crate::history::journal::SegmentName;
use crate::store::{ObjectKind, ObjectName, Store};

/// Empty, unless the copy had an expiry that the original had not.
#[derive(Default)]
pub(super) struct LetGo(Option<OwnExpiry>);

struct OwnExpiry {
    record: Expiry,
    /// The packs of the original that have a block which a kept checkpoint needs and no pack of the copy has: an expiry of the
    /// copy packs blocks anew, so the copy may have them in other packs.
    packs: BTreeSet<String>,
    /// Archives and lists of roles that are needed, by file name.
    schemas: BTreeSet<String>,
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
        let mut needed = needed_by_the_rest(history, &record)?;
        let there = MemoryDirectory::scan(store)?;
        needed.blocks.retain(|id| !there.holds(id));
        let lacking = MemoryDirectory::scan(history.store())?.usage(&needed.blocks);
        let packs = lacking.into_iter().filter(|pack| pack.needed > 0).map(|pack| pack.name).collect();
        Ok(LetGo(Some(OwnExpiry { record, packs, schemas: needed.schemas })))
    }

    /// Whether the copy has let an object of the original go.
    pub(super) fn includes(&self, history: &History, name: &ObjectName) -> bool {
        let Some(OwnExpiry { record, packs, schemas }) = &self.0 else { return false };
        match name.kind() {
            ObjectKind::Checkpoint => record.covers_checkpoint(name.stem()),
            ObjectKind::Pack => {
                record.packs.iter().any(|pack| pack == name.stem()) && !packs.contains(name.stem())
            }
            ObjectKind::Archive | ObjectKind::Roles => {
                let file = name.file_name();
                record.schemas.contains(&file) && !schemas.contains(&file)
            }
            ObjectKind::Evidence => record.covers_evidence(history.store(), name, history.authorship()),
            _ => false,
        }
    }

    pub(super) fn includes_segment(&self, name: SegmentName) -> bool {
        self.0.as_ref().is_some_and(|own| own.record.covers_segment(name))
    }
}
