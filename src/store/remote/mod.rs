//! A history's objects in an object store: S3 and what speaks it, Google Cloud Storage, Azure Blob Storage.
//!
//! An object is one put that succeeds only if the name is free, so nothing unfinished can be left and nothing is ever
//! replaced. Each kind is listed at most once, and from then on this process's own puts and removals are added to the
//! list: no request lists the bucket in a loop, and a command sees one state of the history. Leases and the dates of
//! renewals are not objects; they lie under `leases/` and `renewed/`, and are the only keys that are overwritten.

mod address;
mod blocks;
mod bucket;
mod lease;
mod object;
mod profile;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use object_store::PutPayload;

pub(super) use self::address::{Address, is_address};
pub use self::blocks::BlockCache;
use self::blocks::CachedObject;
use self::bucket::{Bucket, Stored};
use self::lease::{LeaseTerms, Leases};
use self::object::RemoteObject;
use super::drafts::Drafts;
use super::{HolderNote, Lease, LentFile, NewFile, Object, ObjectKind, ObjectName, Role, Store};
use crate::ambient;
use crate::error::{Error, Kind, Result};

/// The objects under one prefix of a bucket.
#[derive(Debug)]
pub struct Remote {
    bucket: Bucket,
    leases: Leases,
    /// The folder for drafts.
    drafts: Drafts,
    /// Keeps what is read on the local disk. Without one, all bytes come from the store.
    blocks: Option<Arc<BlockCache>>,
    /// The objects of each kind that was listed.
    listings: Mutex<BTreeMap<ObjectKind, BTreeMap<ObjectName, Stored>>>,
    /// Objects of which the ends have been fetched, and that nobody has opened yet.
    expected: Mutex<BTreeMap<ObjectName, RemoteObject>>,
    /// Objects that are read more than once now.
    held: Mutex<BTreeMap<ObjectName, Bytes>>,
}

/// The most bytes that all stores take in one put: 5 GB is the limit of S3, and the others take more.
const LARGEST_PUT: u64 = 5_000_000_000;

/// A larger object is fetched twice rather than held in memory. Only a segment with one huge transaction is larger.
const LARGEST_HELD: u64 = 256 << 20;

/// The number of objects whose ends are fetched at a time.
const FETCHERS: usize = 8;

/// From this many objects on, a removal sends one request for many of them.
const MANY: usize = 8;

impl Remote {
    /// Makes the store; nothing is asked yet. `scratch` is a local folder for objects that are being made.
    fn new(bucket: Bucket, scratch: PathBuf, blocks: Option<Arc<BlockCache>>, terms: LeaseTerms) -> Remote {
        Remote {
            leases: Leases::new(bucket.clone(), terms),
            bucket,
            drafts: Drafts::new(scratch),
            blocks,
            listings: Mutex::default(),
            expected: Mutex::default(),
            held: Mutex::default(),
        }
    }

    fn key(name: &ObjectName) -> Result<String> {
        name.check()?;
        Ok(name.to_string())
    }

    fn listings(&self) -> MutexGuard<'_, BTreeMap<ObjectKind, BTreeMap<ObjectName, Stored>>> {
        self.listings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists the folder of a kind, with the other kinds that share it.
    fn load(&self, kind: ObjectKind) -> Result<()> {
        let folder = kind.place().0;
        let kinds = ObjectKind::ALL.into_iter().chain([ObjectKind::StoreKey, ObjectKind::Shard]);
        let kinds = kinds.filter(|it| it.place().0 == folder);
        let mut found: BTreeMap<_, BTreeMap<_, _>> = kinds.map(|kind| (kind, BTreeMap::new())).collect();
        for (file, stored) in self.bucket.list(&format!("{folder}/"))? {
            for (kind, objects) in &mut found {
                objects.extend(kind.object_in(&file).map(|name| (name, stored)));
            }
        }
        self.listings().extend(found);
        Ok(())
    }

    fn listed(&self, name: &ObjectName) -> Option<Stored> {
        self.listings().get(&name.kind())?.get(name).copied()
    }

    fn head(&self, name: &ObjectName) -> Result<Option<Stored>> {
        let key = Remote::key(name)?;
        self.listed(name).map_or_else(|| self.bucket.head(&key), |stored| Ok(Some(stored)))
    }

    fn put(&self, name: &ObjectName, payload: PutPayload) -> Result<()> {
        let key = Remote::key(name)?;
        self.check_fits(name, payload.content_length() as u64)?;
        self.leases.check()?;
        ambient::pass("store.put")?;
        let size = payload.content_length() as u64;
        self.bucket.create(&key, payload)?;
        ambient::pass("store.put-done")?;
        if let Some(objects) = self.listings().get_mut(&name.kind()) {
            objects.insert(name.clone(), Stored { size, put: ambient::now(), version: None });
        }
        Ok(())
    }

    /// # Errors
    /// `Refused` if an object of so many bytes cannot be stored by one put.
    fn check_fits(&self, name: &ObjectName, size: u64) -> Result<()> {
        let limit = ambient::test_number("BACKWHEN_TEST_LARGEST_PUT").unwrap_or(LARGEST_PUT);
        if size <= limit {
            return Ok(());
        }
        Err(Error::refused(format!(
            "{} has {size} bytes, and an object store takes at most {limit} in one put; only several puts could store more, and \
             these cannot be kept from replacing an object: keep this copy in a folder, with backwhen copy --to FOLDER",
            self.locate(name)
        )))
    }

    fn forget(&self, name: &ObjectName) {
        if let Some(objects) = self.listings().get_mut(&name.kind()) {
            objects.remove(name);
        }
    }

    fn object(&self, name: &ObjectName) -> Result<Option<RemoteObject>> {
        let key = Remote::key(name)?;
        Ok(self.head(name)?.map(|stored| {
            let cached = self.cached(&key, stored);
            RemoteObject::new(self.bucket.clone(), key, stored.size, cached)
        }))
    }

    fn cached(&self, key: &str, stored: Stored) -> Option<CachedObject> {
        let (blocks, version) = (self.blocks.as_ref()?, stored.version?);
        Some(CachedObject::new(Arc::clone(blocks), &self.bucket.locate(key), version, stored.size))
    }

    /// Reads a whole object. Only of an object that was listed is it known which version is there now, without a request.
    fn read_whole(&self, name: &ObjectName) -> Result<Option<Bytes>> {
        let key = Remote::key(name)?;
        let cached = self.listed(name).and_then(|stored| self.cached(&key, stored));
        if let Some(known) = cached.as_ref().and_then(CachedObject::whole) {
            return Ok(Some(known));
        }
        let found = self.bucket.get(&key)?;
        if let (Some(cached), Some(bytes)) = (cached, &found) {
            cached.keep_whole(bytes);
        }
        Ok(found)
    }

    /// Fetches the ends of an object, unless that fails.
    fn fetch_ends(&self, name: &ObjectName) {
        if let Ok(Some(object)) = self.object(name)
            && object.fetch_ends().is_ok()
        {
            self.expected().insert(name.clone(), object);
        }
    }

    fn expected(&self) -> MutexGuard<'_, BTreeMap<ObjectName, RemoteObject>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<ObjectName, Bytes>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn renewed(name: &ObjectName) -> String {
        format!("renewed/{name}")
    }

    /// A key under `damaged/` that is free.
    fn place_aside(&self, name: &ObjectName) -> Result<String> {
        let file = name.file_name();
        let numbered = (2..).map(|number| format!("damaged/{file}.{number}"));
        for key in std::iter::once(format!("damaged/{file}")).chain(numbered) {
            if self.bucket.head(&key)?.is_none() {
                return Ok(key);
            }
        }
        unreachable!("a place is found free before the numbers end")
    }
}

impl Store for Remote {
    fn list(&self, kind: ObjectKind) -> Result<Vec<ObjectName>> {
        if kind.only_stem().is_some() {
            let only = ObjectName::only(kind);
            return Ok(self.bucket.head(&Remote::key(&only)?)?.map(|_| only).into_iter().collect());
        }
        if !self.listings().contains_key(&kind) {
            self.load(kind)?;
        }
        Ok(self.listings().get(&kind).into_iter().flat_map(BTreeMap::keys).cloned().collect())
    }

    fn size(&self, name: &ObjectName) -> Result<Option<u64>> {
        Ok(self.head(name)?.map(|stored| stored.size))
    }

    fn age(&self, name: &ObjectName) -> Option<Duration> {
        let put = self.head(name).ok()??.put;
        let renewed = self.bucket.head(&Remote::renewed(name)).ok()?.map(|stored| stored.put);
        (ambient::now() - renewed.unwrap_or(put).max(put)).to_std().ok()
    }

    fn renew(&self, name: &ObjectName) -> Result<()> {
        let there = self.head(name)?.is_some();
        let missing = || Error::unavailable(format!("{} is not there", self.locate(name)));
        if there { self.bucket.overwrite(&Remote::renewed(name), Vec::new()) } else { Err(missing()) }
    }

    fn open(&self, name: &ObjectName) -> Result<Option<Box<dyn Object>>> {
        if let Some(bytes) = self.held().get(name) {
            return Ok(Some(Box::new(bytes.clone())));
        }
        let expected = self.expected().remove(name);
        let opened = expected.map_or_else(|| self.object(name), |object| Ok(Some(object)))?;
        Ok(opened.map(|object| Box::new(object) as Box<dyn Object>))
    }

    fn expect(&self, names: &[ObjectName]) {
        self.expected().clear();
        let queue = Mutex::new(names.iter());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let fetch = || std::iter::from_fn(next).for_each(|name| self.fetch_ends(name));
        std::thread::scope(|scope| {
            (0..FETCHERS.min(names.len())).for_each(|_| drop(scope.spawn(fetch)));
        });
    }

    fn hold(&self, name: &ObjectName) -> Result<()> {
        if self.head(name)?.is_some_and(|stored| stored.size <= LARGEST_HELD)
            && let Some(bytes) = self.read_whole(name)?
        {
            self.held().insert(name.clone(), bytes);
        }
        Ok(())
    }

    fn release(&self, name: &ObjectName) {
        self.held().remove(name);
    }

    fn read(&self, name: &ObjectName) -> Result<Option<Vec<u8>>> {
        if let Some(bytes) = self.held().get(name) {
            return Ok(Some(bytes.to_vec()));
        }
        match self.expected().remove(name).and_then(|object| object.whole()) {
            Some(whole) => Ok(Some(whole.into())),
            None => Ok(self.read_whole(name)?.map(Vec::from)),
        }
    }

    fn put_new(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        self.put(name, bytes.to_vec().into())
    }

    fn draft(&self, kind: ObjectKind) -> Result<NewFile> {
        self.drafts.begin(kind)
    }

    fn put_file(&self, name: &ObjectName, file: NewFile) -> Result<()> {
        // Before the file is read into memory.
        self.check_fits(name, file.size()?)?;
        self.put(name, file.read()?.into())
    }

    fn remove_unfinished(&self, kind: ObjectKind) {
        self.drafts.remove_unfinished(kind);
    }

    fn remove(&self, names: &[ObjectName]) -> Result<()> {
        if names.len() >= MANY {
            self.leases.check()?;
            let keys = names.iter().map(Remote::key).collect::<Result<Vec<_>>>()?;
            if self.bucket.delete_many(keys).is_ok() {
                names.iter().for_each(|name| self.forget(name));
                return Ok(());
            }
            // The error of a single removal is plainer.
        }
        for name in names {
            self.leases.check()?;
            self.bucket.delete(&Remote::key(name)?)?;
            self.forget(name);
        }
        Ok(())
    }

    fn set_aside(&self, name: &ObjectName) -> Result<Option<String>> {
        self.leases.check()?;
        let (key, aside) = (Remote::key(name)?, self.place_aside(name)?);
        if !self.bucket.copy(&key, &aside)? {
            return Ok(None);
        }
        self.bucket.delete(&key)?;
        self.forget(name);
        Ok(Some(self.bucket.locate(&aside)))
    }

    fn lease(&self, role: Role, command: &str) -> Result<Lease> {
        self.leases.alone(role, command, None).map(Lease::from)
    }

    fn lease_as(&self, role: Role, command: &str, owner: &str) -> Result<Lease> {
        self.leases.alone(role, command, Some(owner)).map(Lease::from)
    }

    fn note(&self, role: Role, note: &str) {
        self.leases.note(role, note);
    }

    fn keeps_notes(&self) -> bool {
        true
    }

    fn read_note(&self, role: Role) -> Result<Option<HolderNote>> {
        self.leases.read_note(role)
    }

    fn look_again(&self, kind: ObjectKind) {
        self.listings().remove(&kind);
    }

    fn share(&self, role: Role, patience: Duration) -> Result<Option<Lease>> {
        match self.leases.shared(role, patience) {
            // Who may only read does without a lease, as on a disk that is only read.
            Err(error) if error.kind() == Kind::Refused => Ok(None),
            shared => shared.map(|lease| Some(Lease::from(lease))),
        }
    }

    fn is_leased(&self, role: Role) -> bool {
        self.leases.is_leased(role)
    }

    fn lend(&self, name: &ObjectName) -> Result<Option<LentFile>> {
        self.read(name)?.map(|bytes| LentFile::copied(name, &bytes)).transpose()
    }

    fn locate(&self, name: &ObjectName) -> String {
        self.bucket.locate(&name.to_string())
    }
}

#[cfg(test)]
#[expect(dead_code, clippy::print_stderr, reason = "other tests, whose file this is, need more of it")]
#[path = "../../../tests/servers/support/stores/mod.rs"]
mod servers;

/// Stores for tests: one in memory and, where they were fetched, a prefix of its own on the S3 server and on the emulators of
/// the other clouds. Each keeps what is read.
#[cfg(test)]
pub(super) fn for_tests(scratch: &std::path::Path) -> Vec<Remote> {
    use self::servers::{azure::AzureEmulator, google::GoogleEmulator, s3::S3Server};
    let memory = Arc::new(object_store::memory::InMemory::new());
    let mut buckets = vec![Bucket::new(memory, "a/b", "memory://bucket/a/b")];
    let prefix = format!("{:x}", u64::from_le_bytes(ambient::random().unwrap()));
    let there = [
        S3Server::shared().map(|it| (it.variables("owner").to_vec(), format!("s3://first/{prefix}"))),
        GoogleEmulator::shared().map(|it| (it.variables(), it.url(&prefix))),
        AzureEmulator::shared().map(|it| (it.variables(), it.url(&prefix))),
    ];
    buckets.extend(
        there.into_iter().flatten().map(|(variables, url)| address::bucket_of_a_test(&variables, &url)),
    );
    let store = |bucket| {
        let blocks = Arc::new(BlockCache::new(&scratch.join("blocks"), 32 << 20));
        Remote::new(bucket, scratch.to_owned(), Some(blocks), LeaseTerms::for_tests())
    };
    buckets.into_iter().map(store).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_expected_needs_no_request_later() {
        let folder = tempfile::tempdir().unwrap();
        for remote in for_tests(folder.path()) {
            let store: &dyn Store = &remote;
            let sizes = [1_usize, 65_536, 65_537, 200_000];
            let name = |size: usize| ObjectName::new(ObjectKind::Pack, size.to_string());
            let bytes = |size: usize| (0..size).map(|at| (at % 251) as u8).collect::<Vec<_>>();
            sizes.iter().for_each(|&size| store.put_new(&name(size), &bytes(size)).unwrap());
            store.expect(&sizes.map(name));
            sizes.iter().for_each(|&size| remote.bucket.delete(&name(size).to_string()).unwrap());
            assert_eq!(store.read(&name(1)).unwrap().unwrap(), bytes(1));
            for size in &sizes[1..] {
                let (object, whole) = (store.open(&name(*size)).unwrap().unwrap(), bytes(*size));
                for at in [0, size - 60_000] {
                    let mut found = vec![0; 60_000];
                    object.read_exact_at(&mut found, at as u64).unwrap();
                    assert!(found == whole[at..at + 60_000], "{size} from {at}");
                }
            }
            assert!(store.open(&name(1)).unwrap().is_none(), "it was read, and is gone");
        }
    }

    #[test]
    fn of_those_who_race_for_a_role_one_has_it_alone_and_all_can_share_it() {
        let folder = tempfile::tempdir().unwrap();
        for remote in for_tests(folder.path()) {
            let store: &dyn Store = &remote;
            for round in 0..3 {
                let all: Vec<_> = std::thread::scope(|scope| {
                    let take = || store.lease(Role::Capture, "copy");
                    let racers: Vec<_> = (0..5).map(|_| scope.spawn(take)).collect();
                    racers.into_iter().map(|racer| racer.join().unwrap()).collect()
                });
                let (won, lost): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
                assert_eq!(won.len(), 1, "round {round} on {}", remote.bucket.locate(""));
                assert!(lost.iter().all(|it| it.as_ref().is_err_and(|it| it.kind() == Kind::Locked)));
            }
            std::thread::scope(|scope| {
                for _ in 0..5 {
                    scope.spawn(|| drop(store.share(Role::Objects, Duration::ZERO).unwrap().unwrap()));
                }
            });
            assert!(!store.is_leased(Role::Capture) && !store.is_leased(Role::Objects));
        }
    }
}
