//! Mirrors a history to a second place, a folder or a prefix in an object store, and keeps the copy up to date.
//!
//! The copy is a valid history at every instant, whenever the command is killed, and also while a capture writes to the
//! original: the objects that an object names are copied before it, segments are copied in their order, and
//! `history.json` is copied last. An object that the copy has already is never touched. Only the open segment grows, as
//! it did in the original. A damaged object is not copied, nor are the objects that depend on it. The copy keeps objects
//! that the original has expired, until `expire` is run on the copy too.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::epoch::Epoch;
use super::journal::{self, Journal, SegmentName};
use super::key::Authorship;
use super::{
    FORMAT, History, HistoryPlace, Identity, inventory, is_orphaned, read_json, read_object, write_json,
};
use crate::error::{Error, Kind, Result};
use crate::model::Lsn;
use crate::progress::{Progress, Unit};
use crate::store::{Lease, ObjectKind, ObjectName, Role, Store, layout};

/// The number of images that are sent to an object store at a time. Each is held in memory meanwhile, and is at most as large
/// as a pack.
const SENDERS: usize = 3;

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
pub fn copy(history: &History, place: &HistoryPlace, progress: &dyn Progress) -> Result<CopyOutcome> {
    history.authorship().check_may_write(Path::new(&place.to_string()))?;
    let _objects = history.hold_objects()?;
    let store = place.store()?;
    let _lock = begin(history, place, &store)?;
    // A copied object may be named by no manifest there yet, and must not be expired meanwhile.
    let _objects_there = store.share(Role::Objects, super::PATIENCE)?;
    let authorship = history.authorship();
    let (from_store, to_store) = (history.store(), &*store);
    let to = match place {
        HistoryPlace::Folder(root) => Journal::in_folder(root, authorship),
        HistoryPlace::Remote { .. } => Journal::to_remote(Arc::clone(&store), authorship)?,
    };
    let (from, to) = (history.journal(), &to);
    let mut work =
        CopyWork { from, to, from_store, to_store, authorship, progress, copied: CopyOutcome::default() };
    if to.is_remote() {
        // From these lists it is known at once which objects are there, without a request for each.
        let kinds = ObjectKind::ALL.into_iter().filter(|kind| kind.only_stem().is_none());
        kinds.map(|kind| store.list(kind)).collect::<Result<Vec<_>>>()?;
    }
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
    let whole = if to.is_remote() { work.all_at_once(&leant_on)? } else { work.all(&leant_on)? };
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
fn begin(history: &History, place: &HistoryPlace, store: &Arc<dyn Store>) -> Result<Lease> {
    if layout::is_same(place.local(), history.root()) {
        return Err(Error::usage(format!("{place} is the history itself; name another place")));
    }
    let id = &history.identity().id;
    let other = |found: &str| {
        Error::refused(format!(
            "{place} holds a copy of another history ({found}, not {id}); name a new place"
        ))
    };
    let (store, begun) = (&**store, ObjectName::only(ObjectKind::CopyIntent));
    let earlier = match read_json::<Identity>(store, &ObjectName::only(ObjectKind::Identity))? {
        Some(identity) => Some(identity.id),
        None => read_json::<CopyIntent>(store, &begun)?.map(|begun| begun.history),
    };
    let lock = match earlier {
        Some(earlier) if earlier != *id => return Err(other(&earlier)),
        Some(_) => {
            if let HistoryPlace::Folder(root) = place {
                layout::make_folders(root)?;
            }
            store.lease(Role::Capture, "copy")?
        }
        None => {
            let lock = prepare(history, place, store)?;
            write_json(store, &begun, &CopyIntent { format: FORMAT, history: id.clone() })?;
            lock
        }
    };
    for kind in ObjectKind::ALL {
        store.remove_unfinished(kind);
    }
    Ok(lock)
}

/// Takes the lock of a copy that will exist.
fn prepare(history: &History, place: &HistoryPlace, store: &dyn Store) -> Result<Lease> {
    match place {
        HistoryPlace::Folder(root) => History::prepare(root, "copy"),
        HistoryPlace::Remote { .. } if is_orphaned(store) && !is_of_same_slot(history, store) => {
            Err(Error::refused(format!(
                "{place} holds objects of a history without its history.json, and not of this one; name a new prefix"
            )))
        }
        HistoryPlace::Remote { .. } => store.lease(Role::Capture, "copy"),
    }
}

/// Whether the first epoch in the store is one of this history.
fn is_of_same_slot(history: &History, store: &dyn Store) -> bool {
    let epoch = read_object::<Epoch>(store, &ObjectName::epoch(1), history.authorship());
    epoch.is_ok_and(|epoch| epoch.is_some_and(|epoch| epoch.slot == history.identity().slot()))
}

/// Makes the copy a history, if it is not one yet.
fn finish(mut work: CopyWork<'_>) -> Result<CopyOutcome> {
    let name = ObjectName::only(ObjectKind::Identity);
    // A history without its first image would have no moment.
    let has_image = !work.to_store.list(ObjectKind::Checkpoint)?.is_empty();
    if !work.to_store.holds(&name)? && (work.copied.faults.is_empty() || has_image) {
        work.all(std::slice::from_ref(&name))?;
    }
    let intent = ObjectName::only(ObjectKind::CopyIntent);
    if work.to_store.holds(&name)? && work.to_store.holds(&intent)? {
        match work.to_store.remove(&[intent]) {
            // A role that may remove nothing leaves the intent, which says nothing beside a `history.json`.
            Err(error) if error.kind() == Kind::Refused && work.to.is_remote() => {}
            removed => removed?,
        }
    }
    Ok(work.copied)
}

/// `epochs/0002.json` and `checkpoints/0002-….json` are of epoch 2.
fn epoch_of(name: &ObjectName) -> u32 {
    let digits: String = name.stem().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

/// Checks an object and copies it; returns how many bytes it has. The object is read once from a store that is far away.
///
/// # Errors
/// Fails as [`inventory::check`] and [`copy_object`] do.
fn copy_checked(from: &dyn Store, to: &dyn Store, name: &ObjectName, authorship: &Authorship) -> Result<u64> {
    from.hold(name)?;
    let copied = inventory::check(from, name, authorship).and_then(|()| copy_object(from, to, name));
    from.release(name);
    copied
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
            let sent = self.one(name);
            whole &= self.note(sent)?;
        }
        Ok(whole)
    }

    /// Does as [`CopyWork::all`], several objects at a time. The objects must not name each other.
    fn all_at_once(&mut self, names: &[ObjectName]) -> Result<bool> {
        let queue = Mutex::new(names.iter());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = &*self;
        let send = || {
            let mut sent = Vec::new();
            while let Some(name) = next() {
                sent.push(work.one(name));
                if sent.last().is_some_and(|it| it.as_ref().is_err_and(|error| error.kind() != Kind::Damaged))
                {
                    break;
                }
            }
            sent
        };
        let sent: Vec<_> = std::thread::scope(|scope| {
            let senders: Vec<_> = (0..SENDERS).map(|_| scope.spawn(send)).collect();
            let done = senders.into_iter().map(|sender| sender.join());
            done.flat_map(|sent| {
                sent.unwrap_or_else(|_| vec![Err(Error::internal("a thread failed while copying"))])
            })
            .collect()
        });
        let mut whole = true;
        for sent in sent {
            whole &= self.note(sent)?;
        }
        Ok(whole)
    }

    /// Copies an object that the copy does not have, and returns its bytes; `None` if the copy has it.
    ///
    /// # Errors
    /// `Damaged` if the object is, or if the copy has another one of that name.
    fn one(&self, name: &ObjectName) -> Result<Option<u64>> {
        crate::ambient::pause("copy");
        self.progress.advance(1);
        if self.to_store.holds(name)? {
            return self.check_agrees(name).map(|()| None);
        }
        copy_checked(self.from_store, self.to_store, name, self.authorship).map(Some)
    }

    /// Counts a copied object, or notes why it could not be copied. Returns false in that case.
    fn note(&mut self, sent: Result<Option<u64>>) -> Result<bool> {
        match sent {
            Ok(bytes) => bytes.into_iter().for_each(|bytes| self.count(bytes)),
            Err(error) => return self.fault(error),
        }
        Ok(true)
    }

    /// Checks that the object in the copy may be the same, by its length; only `verify` reads all of it.
    fn check_agrees(&self, name: &ObjectName) -> Result<()> {
        let size = self.to_store.size(name)?;
        if self.from_store.size(name)?.is_none_or(|len| size == Some(len)) {
            return Ok(());
        }
        let what = "has another length here than in the original; run `backwhen verify` on both, \
                    then `backwhen repair`";
        Err(Error::damaged(format!("{} {what}", self.to_store.locate(name))))
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
                Ok(mirrored) => {
                    if mirrored.bytes > 0 {
                        self.count(mirrored.bytes);
                    }
                    self.copied.end = Some(mirrored.end);
                    return Ok(());
                }
                // The segment was sealed since the segments were listed.
                Err(error) if error.kind() == Kind::Unavailable && self.from_store.holds(&sealed)? => {}
                Err(error) => return Err(error),
            }
        }
        if !self.to_store.holds(&sealed)? {
            let bytes = copy_checked(self.from_store, self.to_store, &sealed, self.authorship)?;
            self.count(bytes);
        }
        let footer = journal::read_footer(self.to_store, &sealed, self.authorship)?;
        self.copied.end = Some(footer.summary.end);
        // The open file is a second form of the same segment, as it is right after sealing.
        if self.to.holds(open)? { self.to.remove(open) } else { Ok(()) }
    }
}
