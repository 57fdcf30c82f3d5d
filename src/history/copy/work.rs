//! Copies single objects and segments: the steps that a copy and a standing copy are made of.

use std::sync::{Mutex, PoisonError};

use super::let_go::LetGo;
use super::{CopyOutcome, SENDERS, copy_checked};
use crate::ambient;
use crate::error::{Error, Kind, Result};
use crate::history::History;
use crate::history::journal::{self, Journal, SegmentName};
use crate::history::key::Authorship;
use crate::progress::Progress;
use crate::store::{ObjectKind, ObjectName, Store};

pub(super) struct CopyWork<'a> {
    pub(super) from: &'a Journal,
    pub(super) to: &'a Journal,
    pub(super) from_store: &'a dyn Store,
    pub(super) to_store: &'a dyn Store,
    pub(super) authorship: &'a Authorship,
    pub(super) progress: &'a dyn Progress,
    pub(super) copied: CopyOutcome,
}

impl<'a> CopyWork<'a> {
    pub(super) fn new(
        history: &'a History,
        to: &'a Journal,
        to_store: &'a dyn Store,
        progress: &'a dyn Progress,
    ) -> CopyWork<'a> {
        let (from, from_store, authorship) = (history.journal(), history.store(), history.authorship());
        CopyWork { from, to, from_store, to_store, authorship, progress, copied: CopyOutcome::default() }
    }

    pub(super) fn list(&self, kinds: &[ObjectKind]) -> Result<Vec<ObjectName>> {
        let lists =
            kinds.iter().map(|kind| self.from_store.list_sorted(*kind)).collect::<Result<Vec<_>>>()?;
        Ok(lists.concat())
    }

    /// Copies the objects that the copy does not have. Returns false if one of them could not be copied.
    pub(super) fn all(&mut self, names: &[ObjectName]) -> Result<bool> {
        let mut whole = true;
        for name in names {
            let sent = self.one(name);
            whole &= self.note(sent)?;
        }
        Ok(whole)
    }

    /// Does as [`CopyWork::all`], several objects at a time. The objects must not name each other.
    pub(super) fn all_at_once(&mut self, names: &[ObjectName]) -> Result<bool> {
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
    pub(super) fn one(&self, name: &ObjectName) -> Result<Option<u64>> {
        ambient::pause("copy");
        self.progress.advance(1);
        if self.to_store.holds(name)? {
            return self.check_agrees(name).map(|()| None);
        }
        copy_checked(self.from_store, self.to_store, name, self.authorship).map(Some)
    }

    /// Copies `history.json`, which makes the copy a history, if the copy has an image by now.
    pub(super) fn identity(&mut self) -> Result<()> {
        let name = ObjectName::only(ObjectKind::Identity);
        // A history without its first image would have no moment.
        let has_image = !self.to_store.list(ObjectKind::Checkpoint)?.is_empty();
        if !self.to_store.holds(&name)? && (self.copied.faults.is_empty() || has_image) {
            self.all(std::slice::from_ref(&name))?;
        }
        let intent = ObjectName::only(ObjectKind::CopyIntent);
        if self.to_store.holds(&name)? && self.to_store.holds(&intent)? {
            match self.to_store.remove(&[intent]) {
                // A role that may remove nothing leaves the intent, which says nothing beside a `history.json`.
                Err(error) if error.kind() == Kind::Refused && self.to.is_remote() => {}
                removed => removed?,
            }
        }
        Ok(())
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
    pub(super) fn check_agrees(&self, name: &ObjectName) -> Result<()> {
        let agrees = match self.from_store.size(name)? {
            Some(len) => self.to_store.may_have_size(name, len)?,
            None => true,
        };
        if agrees {
            return Ok(());
        }
        let what = "has another length here than in the original; run `backwhen verify` on both, \
                    then `backwhen repair`";
        Err(Error::damaged(format!("{} {what}", self.to_store.locate(name))))
    }

    pub(super) fn skip(&mut self, names: &[ObjectName]) {
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
    pub(super) fn segments(&mut self, epoch: u32, let_go: &LetGo) -> Result<()> {
        let wanted = |name: &SegmentName| name.epoch == epoch && !let_go.includes_segment(*name);
        for name in self.from.list()?.into_iter().filter(wanted) {
            ambient::pause("copy");
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
        self.sealed(&sealed)?;
        let footer = journal::read_footer(self.to_store, &sealed, self.authorship)?;
        self.copied.end = Some(footer.summary.end);
        // The open file is a second form of the same segment, as it is right after sealing.
        self.remove_open(open)
    }

    /// Copies a sealed segment that the copy does not have.
    pub(super) fn sealed(&mut self, sealed: &ObjectName) -> Result<()> {
        if !self.to_store.holds(sealed)? {
            let bytes = copy_checked(self.from_store, self.to_store, sealed, self.authorship)?;
            self.count(bytes);
        }
        Ok(())
    }

    /// Removes the open form of a segment that the copy has in its sealed form.
    pub(super) fn remove_open(&self, open: SegmentName) -> Result<()> {
        if self.to.holds(open)? { self.to.remove(open) } else { Ok(()) }
    }
}
