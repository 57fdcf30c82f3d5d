//! A standing copy in an object store: what is new of a history is put there again and again, while a capture writes it.
//!
//! It consists of the steps of a copy. In one thread go the small objects and the journal, in the order in which they
//! refer to each other; beside it a second thread sends the images of a new checkpoint, which may take long. The manifest of
//! the checkpoint is put once its images are there and the journal of the copy has reached it. What the copy has is known
//! from the lists that were read once, and from what was put since; nothing is listed again but for a new checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::let_go::LetGo;
use super::work::CopyWork;
use super::{begin, epoch_of, list_all};
use crate::ambient::{self, Steady};
use crate::error::{Error, Kind, Result};
use crate::history::checkpoint::{self, Checkpoint};
use crate::history::journal::{self, CopiedEnd, Durable, FollowedSegment, Journal, SegmentName};
use crate::history::{History, HistoryPlace, PATIENCE, inventory, read_object};
use crate::model::Lsn;
use crate::progress::Silent;
use crate::store::{Dispersed, Lease, ObjectKind, ObjectName, Role, Store};

/// An object that could not be copied because it is damaged is looked at again after this time, when it may be healed.
const LOOK_AGAIN: Duration = Duration::from_secs(600);

/// Images that could not be sent are sent again after this time.
const SEND_AGAIN: Duration = Duration::from_secs(30);

/// Small objects that come before the journal, in their order: a record of an expiry before a journal that does not begin
/// where its epoch begins, and a list of roles before the message that names it.
const BEFORE_JOURNAL: [ObjectKind; 4] =
    [ObjectKind::Expiry, ObjectKind::Archive, ObjectKind::Roles, ObjectKind::Epoch];

/// A copy that is kept up to date until the value is dropped.
pub struct StandingCopy {
    history: History,
    store: Arc<dyn Store>,
    to: Journal,
    /// Objects that the copy has.
    done: BTreeSet<ObjectName>,
    /// Why objects were not copied, and since when that is known.
    faults: BTreeMap<ObjectName, (String, Steady)>,
    /// The objects that the copy had let go when this began.
    let_go: LetGo,
    open: Option<FollowedSegment>,
    /// The end of the last segment of each epoch.
    ends: BTreeMap<u32, Lsn>,
    images: Images,
    /// No images are sent before this instant.
    images_wait: Option<Steady>,
    stopping: Arc<AtomicBool>,
    _lease: Lease,
}

/// The images of checkpoints that the copy does not have yet.
enum Images {
    None,
    Sending(JoinHandle<Result<SentImages>>),
    Sent(SentImages),
}

/// The checkpoints whose images are in the copy, and the leases that keep an `expire` from removing them again.
struct SentImages {
    manifests: Vec<ObjectName>,
    _objects: Option<Lease>,
    _objects_there: Option<Lease>,
}

impl StandingCopy {
    /// Takes the lease of the copy and finds what the copy has. `owner` names the history's folder, whose own lock the caller
    /// holds: an earlier process of the same owner is dead.
    ///
    /// # Errors
    /// `Locked` if another process writes to the copy, `Refused` if something else lies at `place` or the store refuses,
    /// `Unavailable` if the store does not answer.
    pub fn begin(history: &History, place: &HistoryPlace, owner: &str) -> Result<StandingCopy> {
        history.authorship().check_may_write(place.to_string().as_ref())?;
        let store = place.store_to_copy()?;
        let take = |store: &dyn Store| store.lease_as(Role::Capture, "capture", owner);
        let lease = begin(history, place, &store, &take)?;
        let to = Journal::to_remote(Arc::clone(&store), history.authorship());
        list_all(&*store)?;
        // The copy is a history at every instant, so the images of these are there too.
        let done = store.list(ObjectKind::Checkpoint)?.into_iter().collect();
        let let_go = LetGo::of(history, &*store)?;
        Ok(StandingCopy {
            let_go,
            history: history.clone(),
            store,
            to,
            done,
            faults: BTreeMap::new(),
            open: None,
            ends: BTreeMap::new(),
            images: Images::None,
            images_wait: None,
            stopping: Arc::default(),
            _lease: lease,
        })
    }

    /// Puts what is new. `durable` is the epoch that the capture writes, and the end of what is durable there. `reached` is
    /// called with each position that the copy has reached, once the copy is of use up to there.
    ///
    /// # Errors
    /// `Unavailable` if the store does not answer; what was put counts, and another call goes on. `Locked` if another process
    /// has taken the lease, `Refused` if the copy holds a journal that has gone another way, `Damaged` if the journal of the
    /// history is.
    pub fn update(
        &mut self,
        durable: Option<(u32, Durable)>,
        reached: &mut dyn FnMut(CopiedEnd),
    ) -> Result<()> {
        self.faults.retain(|_, (_, since)| since.elapsed() < LOOK_AGAIN);
        // In this order, every object that a listed manifest names is in a later list.
        let manifests = self.new_objects(ObjectKind::Checkpoint)?;
        for kind in BEFORE_JOURNAL {
            self.put_all(kind)?;
        }
        self.journal(durable, reached)?;
        self.images(manifests)?;
        // A pin of a checkpoint that is not there would be a fault of the copy.
        let mut pins = self.new_objects(ObjectKind::Pin)?;
        pins.retain(|pin| self.done.contains(&checkpoint::manifest(pin.stem())));
        pins.iter().try_for_each(|pin| self.put(pin))?;
        self.put_all(ObjectKind::Evidence)?;
        if !self.done.contains(&ObjectName::only(ObjectKind::Identity)) {
            self.found()?;
        }
        if let Some((epoch, end)) = self.ends.last_key_value() {
            self.tell(*epoch, *end, reached);
        }
        Ok(())
    }

    /// The first reason why an object is not copied.
    pub fn fault(&self) -> Option<&str> {
        self.faults.values().next().map(|(why, _)| why.as_str())
    }

    /// Whether the images of a checkpoint are on their way.
    pub fn is_busy(&self) -> bool {
        !matches!(self.images, Images::None)
    }

    /// The number of objects that the open segment consists of in the copy.
    pub fn increments(&self) -> usize {
        self.open.as_ref().map_or(0, FollowedSegment::increments)
    }

    /// The stores that the copy is dispersed over, if there are several.
    pub fn dispersal(&self) -> Option<&Dispersed> {
        self.store.dispersal()
    }

    /// Lets others read how the capture goes.
    pub fn note(&self, note: &str) {
        self.store.note(Role::Capture, note);
    }

    fn new_objects(&self, kind: ObjectKind) -> Result<Vec<ObjectName>> {
        let mut names = self.history.store().list_sorted(kind)?;
        names.retain(|name| !self.done.contains(name) && !self.faults.contains_key(name));
        names.retain(|name| !self.let_go.includes(&self.history, name));
        Ok(names)
    }

    fn work(&self) -> CopyWork<'_> {
        CopyWork::new(&self.history, &self.to, &*self.store, &Silent)
    }

    fn put_all(&mut self, kind: ObjectKind) -> Result<()> {
        self.new_objects(kind)?.iter().try_for_each(|name| self.put(name))
    }

    /// Copies an object; damage is noted.
    fn put(&mut self, name: &ObjectName) -> Result<()> {
        match self.work().one(name) {
            Ok(_) => drop(self.done.insert(name.clone())),
            // An `expire` has removed the object since it was listed.
            Err(_) if !self.history.store().holds(name)? => {}
            Err(error) if error.kind() == Kind::Damaged => {
                self.faults.insert(name.clone(), (error.to_string(), ambient::instant()));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn lacks(&self, kind: ObjectKind) -> bool {
        self.faults.keys().any(|name| name.kind() == kind)
    }

    /// Copies the segments in their order. No segment behind a damaged one is copied.
    fn journal(&mut self, durable: Option<(u32, Durable)>, reached: &mut dyn FnMut(CopiedEnd)) -> Result<()> {
        if self.lacks(ObjectKind::Expiry) || self.lacks(ObjectKind::Epoch) {
            return Err(Error::damaged(self.fault().unwrap_or_default()));
        }
        for name in self.history.journal().list()? {
            if self.done.contains(&name.object()) || self.let_go.includes_segment(name) {
                continue;
            }
            let of_epoch = durable.filter(|(epoch, _)| *epoch == name.epoch).map(|(_, durable)| durable);
            let end = match self.open_segment(name, of_epoch)? {
                Some(end) => end,
                None => self.sealed_segment(name)?,
            };
            self.ends.insert(name.epoch, end);
            self.tell(name.epoch, end, reached);
        }
        Ok(())
    }

    /// Copies what is new of an open segment; `None` if the segment is sealed by now.
    fn open_segment(&mut self, name: SegmentName, durable: Option<Durable>) -> Result<Option<Lsn>> {
        if name.sealed {
            return Ok(None);
        }
        let (from, store) = (self.history.journal(), &*self.store);
        let followed = match self.open.take() {
            Some(open) if open.name() == name => Ok(open),
            _ => FollowedSegment::begin(from, store, name),
        };
        let sent = followed.and_then(|mut open| {
            let sent = open.follow(from, store, durable);
            // After a failure the next call goes on where this one came to.
            self.open = Some(open);
            sent
        });
        match sent {
            Ok(sent) => Ok(Some(sent.end)),
            Err(error)
                if error.kind() == Kind::Unavailable && self.history.store().holds(&name.object())? =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn sealed_segment(&mut self, name: SegmentName) -> Result<Lsn> {
        let (sealed, open) = (name.object(), name.form(false));
        let mut work = self.work();
        work.sealed(&sealed)?;
        work.check_agrees(&sealed)?;
        let footer = journal::read_footer(self.history.store(), &sealed, self.history.authorship())?;
        work.remove_open(open)?;
        self.open.take_if(|followed| followed.name() == open);
        self.done.insert(sealed);
        Ok(footer.summary.end)
    }

    /// Sends the images of new checkpoints in a thread of its own, and puts the manifests whose images are there.
    fn images(&mut self, new: Vec<ObjectName>) -> Result<()> {
        match std::mem::replace(&mut self.images, Images::None) {
            Images::None if new.is_empty() => {}
            Images::None if self.images_wait.is_some_and(|until| ambient::instant() < until) => {}
            Images::None => self.images = Images::Sending(self.send_images(new)),
            Images::Sending(thread) if !thread.is_finished() => self.images = Images::Sending(thread),
            Images::Sending(thread) => match thread.join() {
                Ok(Ok(sent)) => return self.manifests(sent),
                Ok(Err(error)) if error.kind() == Kind::Damaged => {
                    let fault = (error.to_string(), ambient::instant());
                    self.faults.extend(new.into_iter().map(|name| (name, fault.clone())));
                }
                failed => {
                    self.images_wait = Some(ambient::instant() + SEND_AGAIN);
                    failed.map_err(|_| Error::internal("a thread failed while it sent images"))??;
                }
            },
            Images::Sent(sent) => return self.manifests(sent),
        }
        Ok(())
    }

    /// Puts the manifests that the journal of the copy has reached.
    fn manifests(&mut self, mut sent: SentImages) -> Result<()> {
        let mut wait = Vec::new();
        for name in std::mem::take(&mut sent.manifests) {
            let manifest = read_object(self.history.store(), &name, self.history.authorship());
            let is_early = |it: Checkpoint| self.ends.get(&it.epoch).is_some_and(|end| *end < it.lsn);
            if manifest.ok().flatten().is_some_and(is_early) {
                wait.push(name);
            } else if let Err(error) = self.put(&name) {
                self.images_wait = Some(ambient::instant() + SEND_AGAIN);
                return Err(error);
            }
        }
        if !wait.is_empty() {
            self.images = Images::Sent(SentImages { manifests: wait, ..sent });
        }
        Ok(())
    }

    fn send_images(&self, manifests: Vec<ObjectName>) -> JoinHandle<Result<SentImages>> {
        let (history, store, to) = (self.history.clone(), Arc::clone(&self.store), self.to.clone());
        let stopping = Arc::clone(&self.stopping);
        std::thread::spawn(move || {
            let _objects = history.hold_objects()?;
            let _objects_there = store.share(Role::Objects, PATIENCE)?;
            let work = CopyWork::new(&history, &to, &*store, &Silent);
            // An `expire` of the copy may have removed what no manifest there named, and a new manifest may name it.
            let kinds = [ObjectKind::Archive, ObjectKind::Roles, ObjectKind::Pack];
            kinds.iter().chain([&ObjectKind::Expiry]).for_each(|kind| store.look_again(*kind));
            let let_go = LetGo::of(&history, &*store)?;
            for kind in kinds {
                store.list(kind)?;
                for name in history.store().list_sorted(kind)? {
                    if stopping.load(Ordering::Relaxed) {
                        return Err(Error::unavailable("images are sent no further, as capture ends"));
                    }
                    if !let_go.includes(&history, &name) {
                        work.one(&name)?;
                    }
                }
            }
            Ok(SentImages { manifests, _objects, _objects_there })
        })
    }

    /// Makes the copy a history once it has an image.
    fn found(&mut self) -> Result<()> {
        if self.done.iter().any(|name| name.kind() == ObjectKind::Checkpoint) {
            self.work().identity()?;
            let identity = ObjectName::only(ObjectKind::Identity);
            if self.store.holds(&identity)? {
                self.done.insert(identity);
            } else {
                inventory::check(self.history.store(), &identity, self.history.authorship())?;
            }
        }
        Ok(())
    }

    /// Tells a position, if the copy is a history, and has an image of the epoch to recover from.
    fn tell(&self, epoch: u32, end: Lsn, reached: &mut dyn FnMut(CopiedEnd)) {
        let is_image = |name: &ObjectName| name.kind() == ObjectKind::Checkpoint && epoch_of(name) == epoch;
        if self.done.contains(&ObjectName::only(ObjectKind::Identity)) && self.done.iter().any(is_image) {
            reached(CopiedEnd::new(epoch, end));
        }
    }
}

impl Drop for StandingCopy {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}
