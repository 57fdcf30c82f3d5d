//! The places of a history's segments: open segments lie in its spool, sealed segments in its store.

use std::sync::Arc;

use super::fault::SegmentFault;
use super::increments;
use super::name::{SegmentHeader, SegmentName};
use crate::error::{Error, Result};
use crate::history::key::{Authorship, SegmentKey};
use crate::store::{FetchedSegments, LocalFolder, Object, ObjectKind, ObjectName, Spool, Store};

/// All segments of one history. A clone is the same journal.
#[derive(Clone, Debug)]
pub struct Journal {
    pub(super) store: Arc<dyn Store>,
    pub(super) spool: Spool,
    pub(in crate::history) authorship: Authorship,
}

impl Journal {
    /// Makes the journal with sealed segments in `store` and open ones in `spool`, which are checked with `authorship`.
    pub fn new(store: Arc<dyn Store>, spool: Spool, authorship: Authorship) -> Journal {
        Journal { store, spool, authorship }
    }

    /// Makes the journal of a history that lies in a local folder.
    pub fn of_local(local: &LocalFolder, authorship: &Authorship) -> Journal {
        Journal::new(local.store(), local.spool(), authorship.clone())
    }

    /// Makes the journal of a history that lies in a local folder, and is not encrypted.
    pub fn in_folder(root: &std::path::Path, authorship: &Authorship) -> Journal {
        Journal::of_local(&LocalFolder::plain(root), authorship)
    }

    /// Makes the journal of a copy in an object store. Its open segments can be written and not read.
    pub fn to_remote(store: Arc<dyn Store>, authorship: &Authorship) -> Journal {
        Journal::new(store, Spool::fetched(FetchedSegments::new()), authorship.clone())
    }

    /// Whether the segments lie in an object store.
    pub fn is_remote(&self) -> bool {
        self.spool.is_fetched()
    }

    /// Lists the segments, by epoch and start; of a segment in both forms, the sealed one.
    ///
    /// # Errors
    /// `Unavailable` if spool or store cannot be listed, `Damaged` if the history lacks the folder.
    pub fn list(&self) -> Result<Vec<SegmentName>> {
        let mut names = self.list_all()?;
        names.sort_by_key(|name| (name.epoch, name.start, !name.sealed));
        names.dedup_by_key(|name| (name.epoch, name.start));
        Ok(names)
    }

    /// Lists every segment, also both forms of one, sorted. Other names are passed over.
    ///
    /// # Errors
    /// Fails as [`Journal::list`] does.
    pub fn list_all(&self) -> Result<Vec<SegmentName>> {
        // The spool first: a segment that is sealed meanwhile is then listed at least once.
        let open = self.spool.list()?;
        let sealed = self.store.list(ObjectKind::Segment)?;
        let open = open.iter().filter_map(|stem| SegmentName::parse(stem, false));
        let mut names: Vec<_> = open.chain(sealed.iter().filter_map(SegmentName::of_object)).collect();
        names.sort();
        Ok(names)
    }

    /// Whether the segment is there in this form.
    ///
    /// # Errors
    /// `Unavailable` if the store does not answer.
    pub fn holds(&self, name: SegmentName) -> Result<bool> {
        match name.sealed {
            true => self.store.holds(&name.object()),
            false if self.spool.is_fetched() => increments::is_there(&*self.store, name),
            false => Ok(self.spool.holds(&name.stem())),
        }
    }

    /// Returns how many bytes the segment has now; 0 if it is not there.
    ///
    /// # Errors
    /// `Unavailable` if spool or store do not answer.
    pub fn size(&self, name: SegmentName) -> Result<u64> {
        let size = if name.sealed {
            self.store.size(&name.object())?
        } else {
            self.spool.open(&name.stem())?.map(|object| object.size())
        };
        Ok(size.unwrap_or(0))
    }

    /// Says where the segment lies, for messages.
    pub fn locate(&self, name: SegmentName) -> String {
        if name.sealed { self.store.locate(&name.object()) } else { self.spool.locate(&name.stem()) }
    }

    /// Removes the segment in this form; one that is already gone is fine.
    ///
    /// # Errors
    /// `Unavailable` if spool or store refuse.
    pub fn remove(&self, name: SegmentName) -> Result<()> {
        match name.sealed {
            true => self.store.remove(&[name.object()]),
            false if self.spool.is_fetched() => increments::remove(&*self.store, name),
            false => self.spool.remove(&[name.stem()]),
        }
    }

    /// Takes a damaged segment out of the way, as [`Store::set_aside`] does with an object.
    ///
    /// # Errors
    /// `Unavailable` if spool or store refuse.
    pub fn set_aside(&self, name: SegmentName) -> Result<Option<String>> {
        if name.sealed { self.store.set_aside(&name.object()) } else { self.spool.set_aside(&name.stem()) }
    }

    /// Returns the id of the history that the segment's header names; `None` if the header does not check.
    pub fn history_of(&self, name: SegmentName) -> Option<[u8; 16]> {
        self.open(name).ok()?.header().ok().map(|header| header.history)
    }

    /// Opens the segment in this form.
    ///
    /// # Errors
    /// `Unavailable` if the segment is not there in this form, or cannot be opened.
    pub(super) fn open(&self, name: SegmentName) -> Result<SegmentBytes> {
        let place = self.locate(name);
        let object =
            if name.sealed { self.store.open(&name.object())? } else { self.spool.open(&name.stem())? };
        SegmentBytes::new(name, place, object)
    }
}

/// The bytes of a segment in one of its forms, of which nothing is believed yet.
#[derive(Debug)]
pub(super) struct SegmentBytes {
    pub(super) name: SegmentName,
    pub(super) place: String,
    pub(super) object: Box<dyn Object>,
}

impl SegmentBytes {
    fn new(name: SegmentName, place: String, object: Option<Box<dyn Object>>) -> Result<SegmentBytes> {
        let missing = || Error::unavailable(format!("cannot open segment {place}: it is not there"));
        Ok(SegmentBytes { object: object.ok_or_else(missing)?, name, place })
    }

    /// Opens a sealed segment of a store.
    ///
    /// # Errors
    /// `Unavailable` if it is not there or cannot be opened, `Damaged` if no segment has such a name.
    pub(super) fn sealed(store: &dyn Store, name: &ObjectName) -> Result<SegmentBytes> {
        let place = store.locate(name);
        let segment = SegmentName::of_object(name)
            .ok_or_else(|| Error::damaged(format!("{place} is no segment's name")))?;
        SegmentBytes::new(segment, place, store.open(name)?)
    }

    pub(super) fn len(&self) -> u64 {
        self.object.size()
    }

    pub(super) fn header(&self) -> Result<SegmentHeader, SegmentFault> {
        SegmentHeader::read(&*self.object, self.name.sealed)
    }

    /// Returns the header, and the key that the segment's tags are checked with, if the history's key was given.
    ///
    /// # Errors
    /// `Damaged` if the header does not check or names another segment, `Refused` if it is of a newer version.
    pub(super) fn begin(&self, authorship: &Authorship) -> Result<(SegmentHeader, Option<SegmentKey>)> {
        let begun = self.header().and_then(|header| Ok((header, header.key(self.name, authorship)?)));
        begun.map_err(|fault| self.fault(0, fault))
    }

    /// The error for a fault at `offset`.
    pub(super) fn fault(&self, offset: u64, fault: SegmentFault) -> Error {
        fault.at(&self.place, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_listed_in_order_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let journal = Journal::in_folder(root.path(), &Authorship::Unkeyed);
        assert!(journal.list().unwrap().is_empty(), "the folder is not there yet");
        std::fs::create_dir(root.path().join("journal")).unwrap();
        for name in [
            "0002-0000000000000010.open",
            "0001-0000000000000020.open",
            "0001-0000000000000020.seg",
            "0001-0000000000000003.seg",
            "0001-0000000000000030.seg.77.tmp",
            "1-30.seg",
            "0001-00000000000000AB.seg",
            "notes.txt",
        ] {
            std::fs::write(root.path().join("journal").join(name), b"").unwrap();
        }
        let found: Vec<_> =
            journal.list().unwrap().iter().map(|it| (it.epoch, it.start.0, it.sealed)).collect();
        assert_eq!(found, [(1, 3, true), (1, 0x20, true), (2, 0x10, false)]);
        assert_eq!(journal.list_all().unwrap().len(), 4);
    }
}
