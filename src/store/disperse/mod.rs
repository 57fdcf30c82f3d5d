//! A history that is dispersed over several stores, any `m` of which may be lost.
//!
//! Packs, archives and the journal are cut into k+m shards by an erasure code, and each store has one of them; any k give the
//! object. Of small objects each store has a copy. Everything is an object of the stores beneath, written once. Nothing
//! says what a store lacks but the lists of the stores themselves.

mod address;
mod begin;
mod census;
mod code;
mod heal;
mod leases;
mod mark;
mod member;
mod members;
mod object;
mod policy;
mod put;
mod roles;
mod shard;
mod survey;
mod versions;
mod workers;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use self::address::{StoreAddress, split_addresses};
use self::census::Census;
use self::code::Stripes;
use self::mark::Mark;
use self::member::Member;
use self::members::{Answers, Members, failures, first_error};
use self::object::{DispersedObject, Shards};
use self::policy::{Policy, is_coded};
use self::put::NewObject;
use self::roles::Roles;
use self::shard::{Tail, make_shards};
pub use self::survey::{StoreState, Survey};
use super::drafts::Drafts;
use super::{
    HolderNote, Lease, LentFile, NewFile, Object, ObjectKind, ObjectName, Role, Store, kind_of_failure,
};
use crate::error::{Context, Error, Kind, Result};

/// Once so many stores have answered a question that the answer is known, the others have this time.
const PATIENCE: Duration = Duration::from_millis(700);

/// A larger object is read twice rather than held in memory.
const LARGEST_HELD: u64 = 256 << 20;

/// Several stores as one.
#[derive(Debug)]
pub struct Dispersed {
    policy: Policy,
    all: Arc<[Arc<Member>]>,
    drafts: Arc<Drafts>,
    roles: Arc<Roles>,
    /// The stores, once their marks were read; `None` as long as no store has one.
    members: Mutex<Option<Members>>,
    /// Whether the dispersal is known to have been begun in all stores.
    is_begun: Mutex<bool>,
    /// Objects that are read more than once now.
    held: Mutex<BTreeMap<ObjectName, Arc<[u8]>>>,
    /// Objects that this process has put into too few stores, and so takes for missing.
    unfinished: Mutex<BTreeMap<ObjectName, Tail>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Dispersed {
    fn new(policy: Policy, all: Vec<Arc<Member>>, scratch: &Path) -> Dispersed {
        Dispersed {
            policy,
            all: all.into(),
            drafts: Arc::new(Drafts::new(scratch.to_owned())),
            roles: Arc::default(),
            members: Mutex::default(),
            is_begun: Mutex::default(),
            held: Mutex::default(),
            unfinished: Mutex::default(),
        }
    }

    /// Puts an object. If it comes into too few stores, it counts as missing until it is put again.
    fn put(&self, name: &ObjectName, source: &mut dyn Read, len: u64) -> Result<()> {
        name.check()?;
        let members = self.writable()?;
        let count = if is_coded(name.kind()) { self.all.len() } else { 1 };
        let sinks = (0..count).map(|_| members.sink(name.kind(), len).map(Some)).collect::<Result<_>>()?;
        let shards = make_shards(self.policy.code_of(name.kind()), name, source, len, sinks)?;
        let (tail, earlier) = (shards[0].1.clone(), lock(&self.unfinished).get(name).cloned());
        let done = put::put(&members, NewObject { name, shards, earlier });
        let mut unfinished = lock(&self.unfinished);
        if done.as_ref().is_err_and(|error| error.kind() != Kind::Internal) {
            unfinished.insert(name.clone(), tail)
        } else {
            unfinished.remove(name)
        };
        done
    }

    /// The stores that have a shard of an object, and how many did not answer. Beyond `enough`, only quick stores are waited for.
    fn holders(&self, members: &Members, name: &ObjectName, enough: usize) -> (Vec<usize>, usize) {
        let shards = Shards::new(members, name);
        let job = move |member: usize, store: &dyn Store| store.holds(&shards.shard(shards.place(member)));
        let answers = members.ask(&members.numbers(), enough, PATIENCE, job);
        let has = answers.iter().enumerate().filter(|(_, it)| matches!(it, Some(Ok(true))));
        (has.map(|(number, _)| number).collect(), failures(&answers))
    }

    /// Asks each store that has a shard of an object, by the name of the shard.
    fn on_shards<T: Send + 'static>(
        &self,
        members: &Members,
        name: &ObjectName,
        job: impl Fn(&dyn Store, &ObjectName) -> Result<T> + Send + Sync + 'static,
    ) -> Answers<T> {
        let ((has, _), shards) =
            (self.holders(members, name, self.policy.code.k), Shards::new(members, name));
        members.ask(&has, has.len(), PATIENCE, move |member, store| {
            job(store, &shards.shard(shards.place(member)))
        })
    }

    /// The number of times that any of the stores has failed in this process.
    pub fn failures(&self) -> u64 {
        self.all.iter().map(|member| member.failures()).sum()
    }

    /// The stores, each with the reason why it is left alone now, if it is.
    pub fn away(&self) -> Vec<(String, Option<String>)> {
        self.all.iter().map(|member| (member.url.clone(), member.why_away())).collect()
    }

    /// Has the stores listed anew by whatever asks next, as other processes may have repaired them.
    pub fn list_again(&self) {
        self.all.iter().for_each(|member| member.bare().look_again(ObjectKind::Shard));
    }

    fn object(&self, name: &ObjectName) -> Result<Option<DispersedObject>> {
        name.check()?;
        match self.members()? {
            Some(members) => DispersedObject::open(&members, name),
            None => Ok(None),
        }
    }

    fn read_whole(&self, name: &ObjectName) -> Result<Option<Vec<u8>>> {
        let Some(object) = self.object(name)? else { return Ok(None) };
        let mut bytes = vec![0; object.size() as usize];
        let read = object.read_exact_at(&mut bytes, 0);
        read.map_err(|error| {
            Error::new(kind_of_failure(&error), format!("cannot read {}", self.locate(name))).caused_by(error)
        })?;
        Ok(Some(bytes))
    }
}

impl Store for Dispersed {
    fn list(&self, kind: ObjectKind) -> Result<Vec<ObjectName>> {
        let Some(members) = self.members()? else { return Ok(Vec::new()) };
        let census = Census::take(&members, self.policy.code.k, PATIENCE)?;
        let unfinished = lock(&self.unfinished);
        let of_kind = census.objects().map(|(name, _)| name);
        Ok(of_kind.filter(|name| name.kind() == kind && !unfinished.contains_key(name)).cloned().collect())
    }

    fn size(&self, name: &ObjectName) -> Result<Option<u64>> {
        Ok(if self.holds(name)? { self.object(name)?.map(|object| object.size()) } else { None })
    }

    fn holds(&self, name: &ObjectName) -> Result<bool> {
        name.check()?;
        let Some(members) = self.members()? else { return Ok(false) };
        if lock(&self.unfinished).contains_key(name) {
            return Ok(false);
        }
        let (has, away) = self.holders(&members, name, self.policy.code.k);
        if away > self.policy.code.m {
            return Err(Error::unavailable(format!(
                "{away} of {} stores do not answer, and at most {} may be away; try again once they answer",
                self.all.len(),
                self.policy.code.m
            )));
        }
        Ok(!has.is_empty() && has.len() + away >= self.policy.needed(name.kind()))
    }

    fn may_have_size(&self, name: &ObjectName, len: u64) -> Result<bool> {
        let Some(members) = self.members()? else { return Ok(false) };
        let shards = Shards::new(&members, name);
        let stripes = Stripes::new(shards.code, len);
        let expected = shard::stored_len(stripes);
        let sizes = self.on_shards(&members, name, |store, shard| store.size(shard));
        let sizes: Vec<_> = sizes.into_iter().flatten().flatten().flatten().collect();
        // One shard of another length is damaged, and no more; so is one of this length among others.
        Ok(sizes.iter().filter(|size| **size == expected).count() >= self.policy.needed(name.kind()))
    }

    fn age(&self, name: &ObjectName) -> Option<Duration> {
        let members = self.members().ok()??;
        let ages = self.on_shards(&members, name, |store, shard| Ok(store.age(shard)));
        ages.into_iter().flatten().flatten().flatten().min()
    }

    fn renew(&self, name: &ObjectName) -> Result<()> {
        let members = self.writable()?;
        let is_weak = self.holders(&members, name, self.policy.quorum()).0.len() < self.policy.quorum();
        if is_weak && self.holds(name)? {
            self.strengthen(&members)?;
        }
        let renewed = self.on_shards(&members, name, |store, shard| store.renew(shard));
        let done = renewed.iter().flatten().filter(|it| it.is_ok()).count();
        if done >= self.policy.quorum() {
            return Ok(());
        }
        Err(Error::unavailable(format!(
            "{} was renewed in {done} stores, and {} must have it: {}",
            self.locate(name),
            self.policy.quorum(),
            first_error(&renewed)
        )))
    }

    fn open(&self, name: &ObjectName) -> Result<Option<Box<dyn Object>>> {
        if let Some(bytes) = lock(&self.held).get(name) {
            return Ok(Some(Box::new(Arc::clone(bytes))));
        }
        Ok(self.object(name)?.map(|object| Box::new(object) as Box<dyn Object>))
    }

    fn expect(&self, names: &[ObjectName]) {
        let Ok(Some(members)) = self.members() else { return };
        let mut wanted: BTreeMap<usize, Vec<ObjectName>> = BTreeMap::new();
        for name in names {
            let shards = Shards::new(&members, name);
            for place in 0..self.policy.first_readers(name.kind()) {
                wanted.entry(shards.holders[place]).or_default().push(shards.shard(place));
            }
        }
        wanted.retain(|number, _| !members.all[*number].is_last_choice());
        let which: Vec<_> = wanted.keys().copied().collect();
        members.ask(&which, which.len().min(self.policy.code.k), PATIENCE, move |member, store| {
            store.expect(&wanted[&member]);
            Ok(())
        });
    }

    fn hold(&self, name: &ObjectName) -> Result<()> {
        if self.object(name)?.is_some_and(|object| object.size() <= LARGEST_HELD)
            && let Some(bytes) = self.read_whole(name)?
        {
            lock(&self.held).insert(name.clone(), bytes.into());
        }
        Ok(())
    }

    fn release(&self, name: &ObjectName) {
        lock(&self.held).remove(name);
    }

    fn read(&self, name: &ObjectName) -> Result<Option<Vec<u8>>> {
        if let Some(bytes) = lock(&self.held).get(name) {
            return Ok(Some(bytes.to_vec()));
        }
        self.read_whole(name)
    }

    fn put_new(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        self.put(name, &mut &*bytes, bytes.len() as u64)
    }

    fn draft(&self, kind: ObjectKind) -> Result<NewFile> {
        self.drafts.begin(kind)
    }

    fn put_file(&self, name: &ObjectName, file: NewFile) -> Result<()> {
        let opened = std::fs::File::open(file.path());
        let opened =
            opened.context(Kind::Unavailable, || format!("cannot read {}", file.path().display()))?;
        self.put(name, &mut std::io::BufReader::new(opened), file.size()?)
    }

    fn remove_unfinished(&self, kind: ObjectKind) {
        self.drafts.remove_unfinished(kind);
        self.drafts.remove_unfinished(ObjectKind::Shard);
        // Only who has this role knows that no other process is putting an object now.
        if let Ok(Some(members)) = self.members()
            && self.roles.has(Role::Capture)
        {
            if let Err(error) = self.remove_remnants(&members, kind) {
                tracing::debug!("what was left of unfinished puts stays: {error}");
            }
            members.ask(&members.numbers(), self.policy.quorum(), PATIENCE, |_, store| {
                store.remove_unfinished(ObjectKind::Shard);
                Ok(())
            });
        }
    }

    fn remove(&self, names: &[ObjectName]) -> Result<()> {
        names.iter().try_for_each(ObjectName::check)?;
        let Some(members) = self.members()? else { return Ok(()) };
        // Leftovers of these in a store that is away do no harm: a sealed segment counts before its pieces.
        let is_harmless = |name: &ObjectName| {
            matches!(name.kind(), ObjectKind::Increment | ObjectKind::CopyIntent | ObjectKind::InitIntent)
        };
        let tolerate = if names.iter().all(is_harmless) { self.policy.tolerate } else { 0 };
        let enough = self.all.len() - tolerate;
        let there = members.ask(&members.numbers(), enough, PATIENCE, |_, store| Mark::read(store));
        if failures(&there) > tolerate {
            return Err(Error::unavailable(format!(
                "nothing is removed while {} of {} stores are away, as what they keep would come back with them; try again once they \
                 answer: {}",
                failures(&there),
                self.all.len(),
                first_error(&there)
            )));
        }
        let mut shards: BTreeMap<usize, Vec<ObjectName>> = BTreeMap::new();
        for name in names {
            let of = Shards::new(&members, name);
            for (place, member) in of.holders.iter().enumerate() {
                shards.entry(*member).or_default().push(of.shard(place));
            }
        }
        let roles = Arc::clone(&self.roles);
        let mut removed = members.ask(&members.numbers(), enough, PATIENCE, move |member, store| {
            roles.ensure(member, store)?;
            store.remove(shards.get(&member).map_or(&[], Vec::as_slice))
        });
        names.iter().for_each(|name| drop(lock(&self.unfinished).remove(name)));
        if removed.iter().flatten().filter(|it| it.is_ok()).count() >= enough {
            return Ok(());
        }
        let failed = removed.iter_mut().find_map(|it| it.take_if(|it| it.is_err()));
        failed.unwrap_or(Ok(()))
    }

    fn set_aside(&self, name: &ObjectName) -> Result<Option<String>> {
        name.check()?;
        let Some(members) = self.members()? else { return Ok(None) };
        let aside = self.on_shards(&members, name, |store, shard| store.set_aside(shard));
        let mut places = Vec::new();
        for place in aside.into_iter().flatten() {
            places.extend(place?);
        }
        let file = name.file_name();
        Ok(places
            .first()
            .map(|first| format!("damaged/{file} in {} stores, the first at {first}", places.len())))
    }

    fn lease(&self, role: Role, command: &str) -> Result<Lease> {
        self.lease_alone(role, command, None)
    }

    fn lease_as(&self, role: Role, command: &str, owner: &str) -> Result<Lease> {
        self.lease_alone(role, command, Some(owner))
    }

    fn note(&self, role: Role, note: &str) {
        self.all.iter().for_each(|member| member.bare().note(role, note));
    }

    fn keeps_notes(&self) -> bool {
        self.all.iter().any(|member| member.bare().keeps_notes())
    }

    fn read_note(&self, role: Role) -> Result<Option<HolderNote>> {
        let Some(members) = self.members()? else { return Ok(None) };
        let mut keepers = members.numbers();
        keepers.retain(|number| members.all[*number].bare().keeps_notes());
        let enough = self.policy.witnesses().min(keepers.len());
        let notes = members.ask(&keepers, enough, PATIENCE, move |_, store| store.read_note(role));
        let answered = notes.iter().flatten().filter(|it| it.is_ok()).count();
        let away = Error::unavailable(format!(
            "too few of the stores answer that keep notes: {}",
            first_error(&notes)
        ));
        match notes.into_iter().flatten().flatten().flatten().min_by_key(|note| note.age) {
            // A note may lie in those that do not answer.
            None if answered < enough => Err(away),
            found => Ok(found),
        }
    }

    fn look_again(&self, _: ObjectKind) {
        self.list_again();
    }

    fn share(&self, role: Role, patience: Duration) -> Result<Option<Lease>> {
        self.lease_shared(role, patience)
    }

    fn is_leased(&self, role: Role) -> bool {
        let Ok(Some(members)) = self.members() else { return false };
        let leased = members
            .ask(&members.numbers(), self.policy.code.k, PATIENCE, move |_, store| Ok(store.is_leased(role)));
        leased.into_iter().flatten().flatten().any(|it| it)
    }

    fn lend(&self, name: &ObjectName) -> Result<Option<LentFile>> {
        self.read(name)?.map(|bytes| LentFile::copied(name, &bytes)).transpose()
    }

    fn locate(&self, name: &ObjectName) -> String {
        format!("disperse:{},…/{name}", self.all[0].url)
    }

    fn dispersal(&self) -> Option<&Dispersed> {
        Some(self)
    }
}

/// Dispersed stores for the tests that every store passes: over stores in memory and folders, of which one is away.
#[cfg(test)]
pub(super) fn for_tests(scratch: &Path) -> Vec<Dispersed> {
    let made = [(4, 2, 1), (2, 1, 0), (1, 1, 0), (3, 3, 2)].map(|(k, m, tolerate)| {
        let (memory, folders) = (tests::stores(k), (0..m).map(|_| scratch_folder(scratch)));
        let folder = |number: usize, root: std::path::PathBuf| {
            Member::new(
                number,
                format!("file://{}", root.display()),
                Arc::new(super::Folder::new(&root)),
                Some(root),
            )
        };
        let in_memory = memory.into_iter().enumerate().map(|(number, it)| tests::member(number, it));
        let members = in_memory.chain(folders.enumerate().map(|(number, root)| folder(k + number, root)));
        let policy = Policy { code: code::Code { k, m }, tolerate };
        Dispersed::new(policy, members.map(Arc::new).collect(), scratch)
    });
    made.into()
}

/// A new folder that goes with the test's own.
#[cfg(test)]
fn scratch_folder(scratch: &Path) -> std::path::PathBuf {
    let number = u64::from_le_bytes(crate::ambient::random().unwrap());
    let folder = scratch.join(format!("member-{number:x}"));
    super::files::create_folder(&folder).unwrap();
    folder
}

#[cfg(test)]
mod tests;
