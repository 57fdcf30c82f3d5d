//! Mirrors a history to a second folder and keeps the copy up to date.
//!
//! The copy is a valid history at every instant, whenever the command is killed, and also while a capture writes to the
//! original: the objects that an object names are copied before it, segments are copied in their order, and
//! `history.json` is copied last. An object that the copy has already is never touched. Only the open segment grows, as
//! it did in the original. A damaged object is not copied, nor are the objects that depend on it. The copy keeps objects
//! that the original has expired, until `expire` is run on the copy too.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::journal::{self, Journal, SegmentName};
use super::key::Authorship;
use super::{FORMAT, History, Identity, inventory, read_json, write_json};
use crate::error::{Error, Kind, Result};
use crate::model::Lsn;
use crate::progress::{Progress, Unit};
use crate::store::{Folder, Lease, ObjectKind, ObjectName, Role, Store, layout};

/// The content of `copy.json`: of which history a folder is becoming a copy.
#[derive(Serialize, Deserialize)]
struct CopyIntent {
    format: u32,
    history: String,
}

/// The outcome of a copy.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CopyOutcome {
    /// Objects that were not there yet; an open segment that grew is one.
    pub objects: u64,
    /// Bytes that were written for them.
    pub bytes: u64,
    /// Where the copy's journal ends.
    pub end: Option<Lsn>,
    /// Why objects could not be copied, a sentence for each object.
    pub faults: Vec<String>,
}

/// Copies the objects that the history at `to` does not have yet.
///
/// # Errors
/// `Refused` if something else lies at `to`, or the history's key was not given; `Locked` if a copy or a capture is at work there;
/// `Unavailable` if a disk fails. Damage of single objects is no error, but told in the result.
pub fn copy(history: &History, to: &Path, progress: &dyn Progress) -> Result<CopyOutcome> {
    history.authorship().check_may_write(to)?;
    let _objects = history.hold_objects()?;
    let _lock = begin(history, to)?;
    // A copied object may be named by no manifest there yet, and must not be expired meanwhile.
    let _objects_there = Folder::new(to).share(Role::Objects, super::PATIENCE)?;
    let authorship = history.authorship();
    let (from_store, to_store) = (history.store(), &Folder::new(to));
    let (from, to) = (history.journal(), &Journal::in_folder(to, authorship));
    let mut work =
        CopyWork { from, to, from_store, to_store, authorship, progress, copied: CopyOutcome::default() };
    // In this order, every object that a listed manifest names is in a later list.
    let manifests = work.list(&[ObjectKind::Checkpoint])?;
    let epochs = work.list(&[ObjectKind::Epoch])?;
    let (packs, schemas) =
        (work.list(&[ObjectKind::Pack])?, work.list(&[ObjectKind::Archive, ObjectKind::Roles])?);
    // The record comes before a journal that does not begin where its epoch begins.
    if !work.all(&work.list(&[ObjectKind::Expiry])?)? {
        return finish(work);
    }
    progress.phase("copying images", (packs.len() + schemas.len()) as u64, Unit::Objects);
    let leant_on = [packs, schemas].concat();
    let whole = work.all(&leant_on)?;
    progress.phase("copying journal and checkpoints", epochs.len() as u64, Unit::Objects);
    for name in &epochs {
        // The segments and checkpoints of an epoch that cannot be read are of no use.
        if !work.all(std::slice::from_ref(name))? {
            break;
        }
        let number = epoch_of(name);
        work.segments(number)?;
        let own: Vec<_> = manifests.iter().filter(|name| epoch_of(name) == number).cloned().collect();
        if whole {
            work.all(&own)?;
        } else {
            work.skip(&own);
        }
    }
    work.all(&work.list(&[ObjectKind::Evidence])?)?;
    finish(work)
}

/// Makes the folders, unless something else lies there, and takes the copy's lock.
fn begin(history: &History, to: &Path) -> Result<Lease> {
    if layout::is_same(to, history.root()) {
        return Err(Error::usage(format!("{} is the history itself; name another folder", to.display())));
    }
    let id = &history.identity().id;
    let other = |found: &str| {
        Error::refused(format!(
            "{} holds a copy of another history ({found}, not {id}); name a new folder",
            to.display()
        ))
    };
    let (store, begun) = (Folder::new(to), ObjectName::only(ObjectKind::CopyIntent));
    let earlier = match read_json::<Identity>(&store, &ObjectName::only(ObjectKind::Identity))? {
        Some(identity) => Some(identity.id),
        None => read_json::<CopyIntent>(&store, &begun)?.map(|begun| begun.history),
    };
    let lock = match earlier {
        Some(earlier) if earlier != *id => return Err(other(&earlier)),
        Some(_) => {
            layout::make_folders(to)?;
            store.lease(Role::Capture, "copy")?
        }
        None => {
            let lock = History::prepare(to, "copy")?;
            write_json(&store, &begun, &CopyIntent { format: FORMAT, history: id.clone() })?;
            lock
        }
    };
    for kind in ObjectKind::ALL {
        store.remove_unfinished(kind);
    }
    Ok(lock)
}

/// Makes the copy a history, if it is not one yet.
fn finish(mut work: CopyWork<'_>) -> Result<CopyOutcome> {
    let name = ObjectName::only(ObjectKind::Identity);
    // A history without its first image would have no moment.
    let has_image = !work.to_store.list(ObjectKind::Checkpoint)?.is_empty();
    if !work.to_store.holds(&name)? && (work.copied.faults.is_empty() || has_image) {
        work.all(std::slice::from_ref(&name))?;
    }
    if work.to_store.holds(&name)? {
        work.to_store.remove(&[ObjectName::only(ObjectKind::CopyIntent)])?;
    }
    Ok(work.copied)
}

/// `epochs/0002.json` and `checkpoints/0002-….json` are of epoch 2.
fn epoch_of(name: &ObjectName) -> u32 {
    let digits: String = name.stem().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

/// Copies an object between stores; returns how many bytes it has.
///
/// # Errors
/// `Damaged` if the object is gone; otherwise it fails as `copy_new` of a store does.
pub(super) fn copy_object(from: &dyn Store, to: &dyn Store, name: &ObjectName) -> Result<u64> {
    let object = from.open(name)?.ok_or_else(|| inventory::missing(from, name))?;
    to.copy_new(name, &*object)
}

struct CopyWork<'a> {
    from: &'a Journal,
    to: &'a Journal,
    from_store: &'a dyn Store,
    to_store: &'a dyn Store,
    authorship: &'a Authorship,
    progress: &'a dyn Progress,
    copied: CopyOutcome,
}

impl CopyWork<'_> {
    fn list(&self, kinds: &[ObjectKind]) -> Result<Vec<ObjectName>> {
        let lists =
            kinds.iter().map(|kind| self.from_store.list_sorted(*kind)).collect::<Result<Vec<_>>>()?;
        Ok(lists.concat())
    }

    /// Copies the objects that the copy does not have. Returns false if one of them could not be copied.
    fn all(&mut self, names: &[ObjectName]) -> Result<bool> {
        let mut whole = true;
        for name in names {
            crate::ambient::pause("copy");
            self.progress.advance(1);
            if self.to_store.holds(name)? {
                whole &= self.agrees(name)?;
                continue;
            }
            match inventory::check(self.from_store, name, self.authorship) {
                Ok(()) => {
                    let bytes = copy_object(self.from_store, self.to_store, name)?;
                    self.count(bytes);
                }
                Err(error) => whole &= self.fault(error)?,
            }
        }
        Ok(whole)
    }

    /// Whether the object in the copy may be the same, by its length; only `verify` reads all of it.
    fn agrees(&mut self, name: &ObjectName) -> Result<bool> {
        let size = self.to_store.size(name)?;
        let agrees = self.from_store.size(name)?.is_none_or(|len| size == Some(len));
        if !agrees {
            let what = "has another length here than in the original; run `backwhen verify` on both, \
                        then `backwhen repair`";
            self.copied.faults.push(format!("{} {what}", self.to_store.locate(name)));
        }
        Ok(agrees)
    }

    fn skip(&mut self, names: &[ObjectName]) {
        for name in names.iter().filter(|name| !self.to_store.holds(name).unwrap_or(false)) {
            let fault = format!("{} waits for what could not be copied", self.to_store.locate(name));
            self.copied.faults.push(fault);
        }
    }

    /// Notes damage of one object, after which the copy goes on; any other error ends the copy.
    fn fault(&mut self, error: Error) -> Result<bool> {
        match error.kind() {
            Kind::Damaged => self.copied.faults.push(error.to_string()),
            _ => return Err(error),
        }
        Ok(false)
    }

    fn count(&mut self, bytes: u64) {
        self.copied.objects += 1;
        self.copied.bytes += bytes;
    }

    /// Copies the segments of one epoch in their order. No segment behind a damaged one is copied, since the journal of the
    /// copy would have a hole.
    fn segments(&mut self, epoch: u32) -> Result<()> {
        for name in self.from.list()?.into_iter().filter(|name| name.epoch == epoch) {
            crate::ambient::pause("copy");
            if let Err(error) = self.segment(name) {
                self.fault(error)?;
                return Ok(());
            }
        }
        Ok(())
    }

    fn segment(&mut self, name: SegmentName) -> Result<()> {
        let (open, sealed) = (name.form(false), name.object());
        if !name.sealed {
            match journal::mirror(self.from, self.to, open) {
                Ok(bytes) => {
                    if bytes > 0 {
                        self.count(bytes);
                    }
                    self.copied.end = Some(journal::open_segment_end(self.to, open)?.end);
                    return Ok(());
                }
                // The segment was sealed since the segments were listed.
                Err(error) if error.kind() == Kind::Unavailable && self.from_store.holds(&sealed)? => {}
                Err(error) => return Err(error),
            }
        }
        if !self.to_store.holds(&sealed)? {
            inventory::check(self.from_store, &sealed, self.authorship)?;
            let bytes = copy_object(self.from_store, self.to_store, &sealed)?;
            self.count(bytes);
        }
        let footer = journal::read_footer(self.to_store, &sealed, self.authorship)?;
        self.copied.end = Some(footer.summary.end);
        // The open file is a second form of the same segment, as it is right after sealing.
        if self.to.holds(open)? { self.to.remove(open) } else { Ok(()) }
    }
}
