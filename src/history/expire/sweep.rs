//! Sorts the objects of a history into the objects that an expiry keeps and the objects that it removes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::References;
use super::repack::Repacking;
use crate::error::Result;
use crate::history::catalog::{Catalog, CheckpointRow};
use crate::history::expiry::Expiry;
use crate::history::image::{Blocks, MemoryDirectory, PackUse};
use crate::history::journal::SegmentName;
use crate::history::timeline::Timeline;
use crate::history::{History, read_object, roles};
use crate::store::{ObjectKind, ObjectName, Store};

/// A list of roles that is younger than this may be named by no signal yet, as capture writes the list before the signal;
/// an older one that nothing names is removed.
const UNNAMED: Duration = Duration::from_secs(3600);

/// The objects of one kind.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ObjectTally {
    pub kind: &'static str,
    pub stay: u64,
    pub bytes_stay: u64,
    pub go: u64,
    pub bytes_go: u64,
}

/// The objects of one sort that are removed, and the number and size of the objects that are kept.
#[derive(Clone, Debug)]
pub(super) struct SortedObjects {
    pub go: Vec<ObjectName>,
    /// Open segments that are removed.
    pub open: Vec<SegmentName>,
    tally: ObjectTally,
}

/// All objects of a history, in the order in which they are removed.
#[derive(Clone, Debug)]
pub(super) struct ExpiryObjects(pub Vec<SortedObjects>);

/// The name of the tally of expiry records. No plan shows this tally.
const RECORDS: &str = "expired";

impl ExpiryObjects {
    /// Sorts the objects: `kept` are the checkpoints that are kept, and `record` names the position from which on journal
    /// and checkpoints are kept.
    pub(super) fn sort(
        history: &History,
        timeline: &Timeline,
        kept: &[CheckpointRow],
        record: &Expiry,
    ) -> Result<(ExpiryObjects, Repacking)> {
        let ids: BTreeSet<_> = kept.iter().map(|row| row.id.as_str()).collect();
        let (mut needed, packs) = needed(history, timeline, kept, record)?;
        let repacking = Repacking::plan(&packs, std::mem::take(&mut needed.blocks));
        let sort = |tally, kinds: &[ObjectKind], stays: &dyn Fn(&ObjectName) -> bool| {
            SortedObjects::of(history.store(), tally, kinds, stays)
        };
        let newest = newest_evidence(history)?;
        let is_needed = |name: &ObjectName| needed.schemas.contains(&name.file_name());
        let objects = ExpiryObjects(vec![
            sort("checkpoints", &[ObjectKind::Checkpoint], &|name| ids.contains(name.stem()))?,
            segments(history, record)?,
            sort("packs", &[ObjectKind::Pack], &|name| {
                needed.packs.contains(name.stem()) && !repacking.old.contains(name.stem())
            })?,
            sort("schemas", &[ObjectKind::Archive, ObjectKind::Roles], &|name| {
                is_needed(name) || is_new(history, name)
            })?,
            sort("evidence", &[ObjectKind::Evidence], &|name| {
                newest.contains(name) || !record.covers_evidence(history.store(), name, history.authorship())
            })?,
            // The new record says all that these say, and more.
            sort(RECORDS, &[ObjectKind::Expiry], &|name| !is_covered(history, name, record))?,
        ]);
        Ok((objects, repacking))
    }

    /// Keeps packs that were written since the objects were sorted. One of them may have the name of a pack that a killed
    /// expiry has left.
    pub(super) fn spare_packs(&mut self, written: &BTreeSet<String>) {
        let is_spared = |name: &ObjectName| name.kind() == ObjectKind::Pack && written.contains(name.stem());
        self.0.iter_mut().for_each(|sorted| sorted.go.retain(|name| !is_spared(name)));
    }

    /// The objects that a plan shows. Records that a later one covers are not among them: nothing is done for them alone.
    fn shown(&self) -> impl Iterator<Item = &SortedObjects> {
        self.0.iter().filter(|sorted| sorted.tally.kind != RECORDS)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.shown().all(|sorted| sorted.count() == 0)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.shown().map(|sorted| sorted.tally.bytes_go).sum()
    }

    pub(super) fn tallies(&self) -> Vec<ObjectTally> {
        self.shown().map(|sorted| sorted.tally.clone()).collect()
    }

    pub(super) fn packs(&self) -> Vec<String> {
        let packs = self.going().filter(|name| name.kind() == ObjectKind::Pack);
        packs.map(|name| name.stem().to_owned()).collect()
    }

    pub(super) fn schemas(&self) -> Vec<String> {
        let is_schema = |name: &&ObjectName| matches!(name.kind(), ObjectKind::Archive | ObjectKind::Roles);
        self.going().filter(is_schema).map(ObjectName::file_name).collect()
    }

    fn going(&self) -> impl Iterator<Item = &ObjectName> {
        self.0.iter().flat_map(|sorted| &sorted.go)
    }
}

impl SortedObjects {
    fn new(kind: &'static str) -> SortedObjects {
        SortedObjects {
            go: Vec::new(),
            open: Vec::new(),
            tally: ObjectTally { kind, ..ObjectTally::default() },
        }
    }

    fn of(
        store: &dyn Store,
        tally: &'static str,
        kinds: &[ObjectKind],
        stays: &dyn Fn(&ObjectName) -> bool,
    ) -> Result<SortedObjects> {
        let mut sorted = SortedObjects::new(tally);
        for kind in kinds {
            for name in store.list_sorted(*kind)? {
                let stays = stays(&name);
                sorted.count_in(stays, store.size(&name)?.unwrap_or(0));
                if !stays {
                    sorted.go.push(name);
                }
            }
        }
        Ok(sorted)
    }

    fn count_in(&mut self, stays: bool, bytes: u64) {
        let tally = &mut self.tally;
        if stays {
            (tally.stay, tally.bytes_stay) = (tally.stay + 1, tally.bytes_stay + bytes);
        } else {
            (tally.go, tally.bytes_go) = (tally.go + 1, tally.bytes_go + bytes);
        }
    }

    /// How many objects and open segments are removed.
    pub(super) fn count(&self) -> u64 {
        (self.go.len() + self.open.len()) as u64
    }
}

/// Sorts the segments by their names, since a segment that an interrupted expiry has left belongs to no stretch. Both
/// forms of a segment are sorted, if there are two.
fn segments(history: &History, record: &Expiry) -> Result<SortedObjects> {
    let mut sorted = SortedObjects::new("journal");
    for name in history.journal().list_all()? {
        let stays = !record.covers_segment(name);
        sorted.count_in(stays, history.journal().size(name)?);
        match (stays, name.sealed) {
            (true, _) => {}
            (false, true) => sorted.go.push(name.object()),
            (false, false) => sorted.open.push(name),
        }
    }
    Ok(sorted)
}

/// Returns the objects that a history needs for the moments that an expiry, perhaps another copy's, does not cover.
///
/// # Errors
/// `Damaged` if the history is.
pub fn needed_by_the_rest(history: &History, expiry: &Expiry) -> Result<References> {
    let timeline = Timeline::read(history, &Catalog::open(history)?)?;
    let kept: Vec<_> =
        timeline.checkpoints().filter(|row| !expiry.covers_checkpoint(&row.id)).cloned().collect();
    needed(history, &timeline, &kept, expiry).map(|(needed, _)| needed)
}

/// Returns the objects that the checkpoints name and the lists of roles that the journal names, and how much of each pack
/// is needed.
fn needed(
    history: &History,
    timeline: &Timeline,
    kept: &[CheckpointRow],
    record: &Expiry,
) -> Result<(References, Vec<PackUse>)> {
    // Read from the packs themselves, as the catalog may be older than they are.
    let directory = Arc::new(MemoryDirectory::scan(history.store())?);
    let blocks = Blocks::new(history.shared_store(), Arc::clone(&directory) as Arc<_>);
    let mut needed = References::default();
    for row in kept {
        needed.add(&history.read_checkpoint(&row.id)?, &blocks, &*directory)?;
    }
    let segments = timeline.stretches.iter().flat_map(|stretch| &stretch.segments);
    let lists = roles::told_in(history, segments.filter(|segment| !record.covers_segment(segment.name)))?;
    needed.schemas.extend(lists.into_iter().map(|digest| format!("{digest}.sql")));
    let packs = directory.usage(&needed.blocks);
    Ok((needed, packs))
}

/// Whether a signal may still come that names this list of roles. A list of unknown age counts as new.
fn is_new(history: &History, name: &ObjectName) -> bool {
    name.kind() == ObjectKind::Roles && history.store().age(name).is_none_or(|age| age < UNNAMED)
}

/// The newest evidence of each kind, by name.
fn newest_evidence(history: &History) -> Result<BTreeSet<ObjectName>> {
    let mut kinds = BTreeSet::new();
    let mut newest = BTreeSet::new();
    for (name, evidence) in history.evidence()?.rev() {
        if kinds.insert(evidence.how) {
            newest.insert(name);
        }
    }
    Ok(newest)
}

fn is_covered(history: &History, name: &ObjectName, record: &Expiry) -> bool {
    let earlier = read_object::<Expiry>(history.store(), name, history.authorship()).ok().flatten();
    earlier.is_some_and(|it| {
        (it.epoch, it.lsn, it.journal_from) <= (record.epoch, record.lsn, record.journal_from)
    })
}
