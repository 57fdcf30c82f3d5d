//! Heals the damaged and missing objects of a history from another copy of it.
//!
//! Nothing is deleted: a damaged object is set aside, and only after a sound object of the same name has been found in the
//! other copy.

use std::cell::OnceCell;
use std::collections::BTreeSet;

use serde::Serialize;

use super::catalog::Catalog;
use super::copy::copy_object;
use super::epoch::Epoch;
use super::expire::{References, needed_by_the_rest};
use super::expiry::{Expiry, expiry_in};
use super::image::{BlockDirectory, MemoryDirectory, PackReader};
use super::journal::{Journal, SegmentName};
use super::key::Authorship;
use super::verify::AcknowledgedEnd;
use super::{History, Identity, inventory, journal, read_json, read_object};
use crate::error::{Error, Kind, Result};
use crate::model::Lsn;
use crate::progress::{Progress, Unit};
use crate::store::{LocalFolder, ObjectKind, ObjectName, Role, Store, layout};

/// The outcome of a repair.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RepairOutcome {
    /// The objects that were damaged or missing, and are sound now.
    pub healed: Vec<String>,
    /// The objects that remain damaged or missing, and why.
    pub not_healed: Vec<String>,
    /// The places of the damaged objects now.
    pub set_aside: Vec<String>,
}

/// Heals the damaged and missing objects of the history in a local folder from another copy of the history.
///
/// # Errors
/// `Refused` if `from` is another history, has gone its own way, or its key was not given; `Locked` if a capture, copy or
/// checkpoint is at work here; `Unavailable` if a disk fails.
pub fn repair(
    local: &LocalFolder,
    from: &History,
    acknowledged: Option<AcknowledgedEnd>,
    progress: &dyn Progress,
) -> Result<RepairOutcome> {
    // Without the key, a forged object of the copy would pass for a sound one.
    let root = local.root();
    from.authorship().check_may_write(root)?;
    let ours = own_id(local)?;
    if ours != from.identity().id {
        return Err(Error::refused(format!(
            "{} is history {}, and {} is history {ours}; only a copy of the same history can heal it",
            from.place(),
            from.identity().id,
            root.display()
        )));
    }
    if layout::is_same(root, from.root()) {
        return Err(Error::usage("--from is the history itself; name a copy of it"));
    }
    layout::make_folders(root)?;
    let ours = &*local.store();
    let journal = Journal::of_local(local, from.authorship());
    let _capture = ours.lease(Role::Capture, "repair")?;
    let _checkpoint = ours.lease(Role::Checkpoint, "repair")?;
    let _objects = from.hold_objects()?;
    let mut work = RepairWork {
        journal,
        ours,
        from,
        acknowledged,
        progress,
        expired: None,
        done: RepairOutcome::default(),
    };
    work.refuse_a_fork()?;
    work.objects()?;
    // The catalog may hold rows of damaged objects.
    if !work.done.healed.is_empty() {
        Catalog::forget(local);
    }
    Ok(work.done)
}

/// Returns the id of a history whose `history.json` may be damaged or missing, as segments name the id too.
fn own_id(local: &LocalFolder) -> Result<String> {
    let journal = Journal::of_local(local, &Authorship::Unkeyed);
    let segments = match journal.list_all() {
        // The folder is missing, and is about to be made anew.
        Err(error) if error.kind() == Kind::Damaged => Vec::new(),
        listed => listed?,
    };
    let told: BTreeSet<_> = segments.into_iter().filter_map(|name| journal.history_of(name)).collect();
    // Segments come first, as `history.json` may be another history's.
    if let Some(id) = told.first().filter(|_| told.len() == 1) {
        return Ok(id.iter().map(|byte| format!("{byte:02x}")).collect());
    }
    match read_json::<Identity>(&*local.store(), &ObjectName::only(ObjectKind::Identity)) {
        Ok(Some(identity)) => Ok(identity.id),
        Err(error) if error.kind() != Kind::Damaged => Err(error),
        Ok(None) | Err(_) => Err(Error::refused(format!(
            "nothing in {} tells which history it is; make a copy of the other one with: backwhen copy",
            local.root().display()
        ))),
    }
}

struct RepairWork<'a> {
    journal: Journal,
    ours: &'a dyn Store,
    from: &'a History,
    acknowledged: Option<AcknowledgedEnd>,
    progress: &'a dyn Progress,
    /// The objects that an expiry has removed, which are not to come back.
    expired: Option<ExpiredObjects>,
    done: RepairOutcome,
}

impl RepairWork<'_> {
    fn authorship(&self) -> &Authorship {
        self.from.authorship()
    }

    /// Refuses two copies that a capture has written to separately: their epochs of the same number differ.
    fn refuse_a_fork(&self) -> Result<()> {
        for name in self.ours.list_sorted(ObjectKind::Epoch)? {
            let read =
                |store: &dyn Store| read_object::<Epoch>(store, &name, self.authorship()).ok().flatten();
            if let (Some(ours), Some(theirs)) = (read(self.ours), read(self.from.store()))
                && ours.number == theirs.number
                && ours != theirs
                && inventory::check(self.ours, &name, self.authorship()).is_ok()
                && ours.slot == self.from.identity().slot()
            {
                return Err(Error::refused(format!(
                    "{name} of the two histories differ: they have gone separate ways, and neither can heal the other"
                )));
            }
        }
        Ok(())
    }

    fn objects(&mut self) -> Result<()> {
        // Records that only the copy has are about the copy.
        for name in self.ours.list_sorted(ObjectKind::Expiry)? {
            self.object(&name)?;
        }
        self.expired = ExpiredObjects::of(self.ours, self.from)?;
        self.kinds("packs", &[ObjectKind::Pack])?;
        self.kinds("schemas", &[ObjectKind::Archive, ObjectKind::Roles])?;
        self.kinds("epochs", &[ObjectKind::Epoch])?;
        for name in self.ours.list_sorted(ObjectKind::Epoch)? {
            if let Ok(Some(epoch)) = read_object::<Epoch>(self.ours, &name, self.authorship()) {
                self.journal(&epoch)?;
            }
        }
        self.kinds("checkpoints", &[ObjectKind::Checkpoint])?;
        // A pin that only the copy has may have been taken back here.
        for name in self.ours.list_sorted(ObjectKind::Pin)? {
            self.object(&name)?;
        }
        self.kinds("evidence", &[ObjectKind::Evidence])?;
        self.object(&ObjectName::only(ObjectKind::Identity))
    }

    fn kinds(&mut self, what: &str, kinds: &[ObjectKind]) -> Result<()> {
        let mut names = BTreeSet::new();
        for kind in kinds {
            names.extend(self.from.store().list(*kind)?);
            names.extend(self.ours.list(*kind)?);
        }
        self.progress.phase(&format!("checking {what}"), names.len() as u64, Unit::Objects);
        let epochs = self.epochs_known()?;
        // Packs that an expiry has packed anew come last: by then the new packs are whole.
        let mut names: Vec<_> = names.into_iter().collect();
        names.sort_by_key(|name| self.expired.as_ref().is_some_and(|it| it.has_record_of(name)));
        for name in names {
            // An epoch that began only in the other copy does not belong to this history.
            let is_here = self.ours.holds(&name)?;
            let foreign = matches!(name.kind(), ObjectKind::Epoch | ObjectKind::Checkpoint)
                && !is_here
                && number_of(&name).is_none_or(|number| !epochs.contains(&number));
            if !foreign && (is_here || !self.is_expired(&name)) {
                self.object(&name)?;
            }
            self.progress.advance(1);
        }
        Ok(())
    }

    fn is_expired(&self, name: &ObjectName) -> bool {
        self.expired.as_ref().is_some_and(|expired| expired.covers(self.ours, self.from, name))
    }

    /// Returns the numbers of the epochs that this history must have had, by its objects, by objects of later epochs, or
    /// by the position that was acknowledged.
    fn epochs_known(&self) -> Result<BTreeSet<u32>> {
        let mut names = self.ours.list(ObjectKind::Epoch)?;
        names.extend(self.ours.list(ObjectKind::Checkpoint)?);
        let segments = self.journal.list_all()?;
        let numbers = names.iter().filter_map(number_of);
        let newest = numbers
            .chain(segments.iter().map(|segment| segment.epoch))
            .chain(self.acknowledged.map(|it| it.epoch))
            .max();
        Ok((1..=newest.unwrap_or(1)).collect())
    }

    fn object(&mut self, name: &ObjectName) -> Result<()> {
        crate::ambient::pause("repair");
        let checked = inventory::check(self.ours, name, self.authorship());
        let Err(fault) = checked.and_then(|()| self.is_ours(name)) else {
            return Ok(());
        };
        if fault.kind() != Kind::Damaged {
            return Err(fault);
        }
        self.from.store().hold(name)?;
        let healed = self.heal(name, &fault);
        self.from.store().release(name);
        healed
    }

    /// Puts a sound object of the other copy in the place of a damaged one.
    fn heal(&mut self, name: &ObjectName, fault: &Error) -> Result<()> {
        match inventory::check(self.from.store(), name, self.authorship()) {
            Ok(()) => {}
            // A copy that does not answer now may well have a sound object.
            Err(theirs) if theirs.kind() == Kind::Unavailable => return Err(theirs),
            Err(theirs) => {
                self.done.not_healed.push(format!("{fault}; and in the copy: {theirs}"));
                return Ok(());
            }
        }
        self.done.set_aside.extend(self.ours.set_aside(name)?);
        copy_object(self.from.store(), self.ours, name)?;
        self.done.healed.push(name.to_string());
        Ok(())
    }

    /// A sound object may still belong to another history.
    fn is_ours(&self, name: &ObjectName) -> Result<()> {
        let ours = match name.kind() {
            ObjectKind::Epoch => read_object::<Epoch>(self.ours, name, self.authorship())?
                .is_some_and(|it| it.slot == self.from.identity().slot()),
            ObjectKind::Identity => read_object::<Identity>(self.ours, name, self.authorship())?
                .is_some_and(|it| it.id == self.from.identity().id),
            _ => true,
        };
        if ours {
            Ok(())
        } else {
            Err(Error::damaged(format!("{} is another history's", self.ours.locate(name))))
        }
    }

    fn set_aside(&mut self, name: SegmentName) -> Result<()> {
        self.done.set_aside.extend(self.journal.set_aside(name)?);
        Ok(())
    }

    /// Heals the segments of an epoch in their order; each begins where the segment before it ends.
    fn journal(&mut self, epoch: &Epoch) -> Result<()> {
        let expired = self.expired.as_ref();
        let from = expired.map_or(Some(epoch.start), |it| it.expiry.must_hold_from(epoch));
        let Some(mut at) = from else { return Ok(()) };
        loop {
            let key = SegmentStart { epoch: epoch.number, start: at };
            let next = self.next_start(key)?;
            let ours = SegmentForms::look(&self.journal, key, self.from)?;
            let theirs = SegmentForms::look(self.from.journal(), key, self.from)?.sound;
            let end = match (&ours.sound, theirs) {
                (Some(sound), theirs) => Some(self.keep(&ours, sound, theirs)?),
                (None, Some(theirs)) if self.is_enough(key, &ours, &theirs, next) => {
                    Some(self.bring(&ours, &theirs)?)
                }
                (None, theirs) => {
                    self.cannot(key, &ours, theirs.as_ref(), next);
                    next
                }
            };
            match end {
                Some(end) if end > at => at = end,
                _ => return Ok(()),
            }
        }
    }

    /// Returns the start of the next segment that this history has; `None` if there is none.
    fn next_start(&self, key: SegmentStart) -> Result<Option<Lsn>> {
        let segments = self.journal.list_all()?;
        let later = segments.iter().filter(|it| it.epoch == key.epoch && it.start > key.start);
        Ok(later.map(|it| it.start).min())
    }

    /// Keeps a sound segment: sets a damaged second form of it aside, and copies the end that the segment has lost, if the
    /// other copy has that end.
    fn keep(
        &mut self,
        ours: &SegmentForms,
        sound: &SoundSegment,
        theirs: Option<SoundSegment>,
    ) -> Result<Lsn> {
        let name = sound.name.file_name();
        for bad in &ours.bad {
            self.set_aside(*bad)?;
            self.done.healed.push(format!("journal/{} (by journal/{name})", bad.file_name()));
        }
        let Some(theirs) = theirs.filter(|theirs| !sound.name.sealed && theirs.end > sound.end) else {
            return Ok(sound.end);
        };
        self.fetch(&theirs)?;
        if theirs.name.sealed {
            self.set_aside(sound.name)?;
        }
        self.done.healed.push(format!("journal/{name} (from {} to {})", sound.end, theirs.end));
        Ok(theirs.end)
    }

    /// Copies a sealed segment of the other copy, or the blocks that the open segment here lacks.
    fn fetch(&self, theirs: &SoundSegment) -> Result<()> {
        if theirs.name.sealed {
            copy_object(self.from.store(), self.ours, &theirs.name.object())?;
        } else {
            journal::mirror(self.from.journal(), &self.journal, theirs.name)?;
        }
        Ok(())
    }

    /// Whether the segment of the other copy holds everything that the segment here held, as far as can be known.
    fn is_enough(
        &self,
        key: SegmentStart,
        ours: &SegmentForms,
        theirs: &SoundSegment,
        next: Option<Lsn>,
    ) -> bool {
        let durable = self.acknowledged.filter(|it| it.epoch == key.epoch).map(|it| it.durable);
        match next {
            Some(next) => theirs.end == next,
            None => theirs.end >= ours.reached.max(durable.unwrap_or_default()),
        }
    }

    fn bring(&mut self, ours: &SegmentForms, theirs: &SoundSegment) -> Result<Lsn> {
        for bad in &ours.bad {
            self.set_aside(*bad)?;
        }
        self.fetch(theirs)?;
        self.done.healed.push(format!("journal/{}", theirs.name.file_name()));
        Ok(theirs.end)
    }

    fn cannot(
        &mut self,
        key: SegmentStart,
        ours: &SegmentForms,
        theirs: Option<&SoundSegment>,
        next: Option<Lsn>,
    ) {
        let end = theirs.map(|theirs| format!("the copy's ends at {}, too early", theirs.end));
        let why = end.unwrap_or_else(|| "the copy has no sound one".to_owned());
        match ours.bad.first() {
            Some(bad) => {
                let place = self.journal.locate(*bad);
                self.done.not_healed.push(format!("{place} is damaged, and {why}"));
            }
            // No segment can be missing behind the last one.
            None if next.is_none() => {}
            None => self.done.not_healed.push(format!("the segment at {} is missing, and {why}", key.start)),
        }
    }
}

fn number_of(name: &ObjectName) -> Option<u32> {
    let digits: String = name.stem().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// The objects that an expiry has removed here, and the objects that the other copy still needs.
struct ExpiredObjects {
    expiry: Expiry,
    /// The objects that the other copy needs; `None` if that cannot be known, so that all may be needed.
    needed: Option<References>,
    /// The blocks in the sound packs here.
    here: OnceCell<MemoryDirectory>,
}

impl ExpiredObjects {
    fn of(ours: &dyn Store, from: &History) -> Result<Option<ExpiredObjects>> {
        let expiry = match expiry_in(ours, from.authorship()) {
            // The damaged record is named already.
            Err(error) if error.kind() == Kind::Damaged => None,
            read => read?,
        };
        Ok(expiry.map(|expiry| {
            let needed = needed_by_the_rest(from, &expiry).ok();
            ExpiredObjects { expiry, needed, here: OnceCell::new() }
        }))
    }

    /// Whether a record names this pack.
    fn has_record_of(&self, name: &ObjectName) -> bool {
        name.kind() == ObjectKind::Pack && self.expiry.packs.iter().any(|pack| pack == name.stem())
    }

    /// Whether a pack of the copy was packed anew here: all of its blocks that matter lie in other packs here.
    fn was_repacked(&self, ours: &dyn Store, from: &History, name: &ObjectName) -> bool {
        let Some(needed) = self.needed.as_ref().filter(|_| self.has_record_of(name)) else { return false };
        let Ok(pack) = PackReader::open(from.store(), name) else { return false };
        let here = self.here.get_or_init(|| MemoryDirectory::scan_readable(ours));
        pack.entries()
            .iter()
            .all(|entry| !needed.blocks.contains(&entry.id) || matches!(here.locate(&entry.id), Ok(Some(_))))
    }

    fn covers(&self, ours: &dyn Store, from: &History, name: &ObjectName) -> bool {
        let unneeded = |needs: fn(&References) -> &BTreeSet<String>, name: &str| {
            self.needed.as_ref().is_some_and(|needed| !needs(needed).contains(name))
        };
        match name.kind() {
            ObjectKind::Checkpoint => self.expiry.covers_checkpoint(name.stem()),
            ObjectKind::Pack => {
                unneeded(|needed| &needed.packs, name.stem()) || self.was_repacked(ours, from, name)
            }
            ObjectKind::Archive | ObjectKind::Roles => unneeded(|needed| &needed.schemas, &name.file_name()),
            ObjectKind::Evidence => self.expiry.covers_evidence(from.store(), name, from.authorship()),
            _ => false,
        }
    }
}

#[derive(Clone, Copy)]
struct SegmentStart {
    epoch: u32,
    start: Lsn,
}

/// The forms in which one history has a segment.
struct SegmentForms {
    sound: Option<SoundSegment>,
    bad: Vec<SegmentName>,
    /// How far the damaged forms can be read.
    reached: Lsn,
}

struct SoundSegment {
    name: SegmentName,
    end: Lsn,
}

impl SegmentForms {
    fn look(journal: &Journal, key: SegmentStart, history: &History) -> Result<SegmentForms> {
        let id = history.identity().id_bytes()?;
        let mut forms = SegmentForms { sound: None, bad: Vec::new(), reached: Lsn::ZERO };
        let mut names = journal.list_all()?;
        names.retain(|name| name.epoch == key.epoch && name.start == key.start);
        // The sealed form, if sound, is the one that counts.
        names.sort_by_key(|name| !name.sealed);
        for name in names {
            let report = journal::verify_segment(journal, name)?;
            let ours = journal.history_of(name) == Some(id);
            let end = report.summary.as_ref().map(|summary| summary.end);
            match end.filter(|_| ours && report.faults.is_empty()) {
                None => {
                    forms.reached = forms.reached.max(end.unwrap_or_default());
                    forms.bad.push(name);
                }
                Some(end) if forms.sound.is_none() => forms.sound = Some(SoundSegment { name, end }),
                Some(_) => {}
            }
        }
        Ok(forms)
    }
}
