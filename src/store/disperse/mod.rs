//! A history that is dispersed over several stores, any `m` of which may be lost.
//!
//! Packs, archives and sealed segments are cut into k+m shards by an erasure code, and each store has one of them; any k give
//! the object. Of small objects each store has a copy. Everything is an object of the stores beneath, written once. Nothing
//! says what a store lacks but the lists of the stores themselves.

mod address;
mod code;
mod leases;
mod members;
mod object;
mod put;
mod repair;
mod shard;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use self::address::{StoreAddress, split_addresses};
use self::code::{Code, Stripes};
use self::members::{Answers, Mark, Member, Members, first_error, gather};
use self::object::{DispersedObject, Shards};
pub use self::repair::Survey;
use self::shard::{is_coded, object_of, shard_name};
use super::{HolderNote, Lease, LentFile, NewFile, Object, ObjectKind, ObjectName, Role, Store, files};
use crate::ambient;
use crate::error::{Context, Error, Kind, Result};

/// Once so many stores have answered a question that the answer is known, the others have this time.
const PATIENCE: Duration = Duration::from_secs(3);

/// A larger object is read twice rather than held in memory.
const LARGEST_HELD: u64 = 256 << 20;

/// Several stores as one.
#[derive(Debug)]
pub struct Dispersed {
    code: Code,
    /// The number of stores that a put may lack.
    tolerate: usize,
    all: Arc<[Arc<Member>]>,
    /// The folder for drafts.
    scratch: PathBuf,
    /// The stores, once their marks were read; `None` as long as no store has one.
    members: Mutex<Option<Members>>,
    /// Objects that are read more than once now.
    held: Mutex<BTreeMap<ObjectName, Arc<[u8]>>>,
    /// Objects that this process has put into too few stores, and so takes for missing.
    unfinished: Mutex<BTreeSet<ObjectName>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Dispersed {
    fn new(code: Code, tolerate: usize, all: Vec<Arc<Member>>, scratch: &Path) -> Dispersed {
        Dispersed {
            code,
            tolerate,
            all: all.into(),
            scratch: scratch.to_owned(),
            members: Mutex::default(),
            held: Mutex::default(),
            unfinished: Mutex::default(),
        }
    }

    /// The stores that must have an object before its put has done well.
    fn quorum(&self) -> usize {
        self.code.shards() - self.tolerate
    }

    /// The stores, by their marks; `None` if no store has one.
    ///
    /// # Errors
    /// `Unavailable` if more than m stores do not answer, `Refused` if the marks do not agree.
    fn members(&self) -> Result<Option<Members>> {
        let mut known = lock(&self.members);
        if known.is_some() {
            return Ok(known.clone());
        }
        let which: Vec<_> = (0..self.all.len()).collect();
        let marks = gather(&self.all, &which, self.code.k, PATIENCE, Member::mark);
        if marks.iter().flatten().filter(|mark| mark.is_ok()).count() < self.code.k {
            return Err(self.too_many_away(&marks));
        }
        let found: Vec<_> =
            marks.into_iter().enumerate().filter_map(|(number, mark)| Some((number, mark?.ok()??))).collect();
        let Some((_, first)) = found.first() else { return Ok(None) };
        found.iter().try_for_each(|(number, mark)| self.all[*number].accept(mark, &first.id, self.code))?;
        *known = Some(Members { all: Arc::clone(&self.all), id: first.id.clone(), code: self.code });
        Ok(known.clone())
    }

    fn too_many_away<T>(&self, answers: &Answers<T>) -> Error {
        let away = answers.iter().flatten().filter(|answer| answer.is_err()).count();
        Error::unavailable(format!(
            "{away} of {} stores do not answer, and at most {} may be away; try again once they answer: {}",
            self.all.len(),
            self.code.m,
            first_error(answers)
        ))
    }

    /// The stores, for a process that writes to them. Their marks are put if none has one.
    ///
    /// # Errors
    /// `Unavailable` if the marks are missing and not all stores take one.
    fn writable(&self) -> Result<Members> {
        if let Some(members) = self.members()?
            && (!self.lacks_marks(&members) || !self.is_unborn(&members)?)
        {
            return Ok(members);
        }
        // The first store's mark decides which of two processes begins the dispersal.
        let begun = lock(&self.members).as_ref().map(|members| members.id.clone());
        let id = match (begun, self.all[0].mark()?) {
            (Some(id), _) => id,
            (None, Some(mark)) => mark.id,
            (None, None) => format!("{:032x}", u128::from_be_bytes(ambient::random()?)),
        };
        for member in self.all.iter() {
            let begun = member.begin(&id, self.code);
            begun.map_err(|error| {
                Error::new(error.kind(), "a dispersed history begins once all its stores answer")
                    .caused_by(error)
            })?;
        }
        let members = Members { all: Arc::clone(&self.all), id, code: self.code };
        *lock(&self.members) = Some(members.clone());
        Ok(members)
    }

    /// Whether a store that answers has no mark.
    fn lacks_marks(&self, members: &Members) -> bool {
        members.all.iter().any(|member| matches!(member.mark(), Ok(None)))
    }

    /// Whether the dispersal was begun, and no history is in it yet.
    fn is_unborn(&self, members: &Members) -> Result<bool> {
        Ok(self.shards(members)?.0.is_empty())
    }

    /// Counts the shards of each object that the stores list. Returns the number of stores that did not answer, too.
    fn shards(&self, members: &Members) -> Result<(BTreeMap<ObjectName, usize>, usize)> {
        let lists =
            members.ask(&members.numbers(), self.code.k, PATIENCE, |_, store| store.list(ObjectKind::Shard));
        let away = lists.iter().flatten().filter(|list| list.is_err()).count();
        if away > self.code.m {
            return Err(self.too_many_away(&lists));
        }
        let mut counts = BTreeMap::new();
        for shard in lists.into_iter().flatten().flatten().flatten() {
            if let Some((name, _)) = object_of(&shard) {
                *counts.entry(name).or_insert(0) += 1;
            }
        }
        Ok((counts, away))
    }

    /// The number of shards that an object is made of.
    fn needed(&self, kind: ObjectKind) -> usize {
        if is_coded(kind) { self.code.k } else { 1 }
    }

    /// Puts an object. What of it is known to be in too few stores counts as missing until it is put again.
    fn put(&self, name: &ObjectName, source: &mut dyn Read, len: u64) -> Result<()> {
        let members = self.writable()?;
        let done = put::put(&members, self.tolerate, name, source, len);
        let is_short = done.as_ref().is_err_and(|error| error.kind() != Kind::Internal);
        let mut unfinished = lock(&self.unfinished);
        if is_short {
            unfinished.insert(name.clone())
        } else {
            unfinished.remove(name)
        };
        done
    }

    /// The stores that have a shard of an object, and how many did not answer.
    fn holders(&self, members: &Members, name: &ObjectName) -> (Vec<usize>, usize) {
        let shards = Shards::new(members, name);
        let wanted: Vec<_> =
            (0..shards.holders.len()).map(|place| shard_name(name, shards.number(place))).collect();
        let by_member: BTreeMap<_, _> = shards.holders.iter().copied().zip(wanted).collect();
        let job = move |member: usize, store: &dyn Store| store.holds(&by_member[&member]);
        let answers = members.ask(&members.numbers(), self.code.k, PATIENCE, job);
        let away = answers.iter().flatten().filter(|it| it.is_err()).count();
        let has = answers
            .iter()
            .enumerate()
            .filter(|(_, it)| matches!(it, Some(Ok(true))))
            .map(|(number, _)| number);
        (has.collect(), away)
    }

    /// Asks each store that has a shard of an object, by the name of the shard.
    fn on_shards<T: Send + 'static>(
        &self,
        members: &Members,
        name: &ObjectName,
        job: impl Fn(&dyn Store, &ObjectName) -> Result<T> + Send + Sync + 'static,
    ) -> Answers<T> {
        let (has, _) = self.holders(members, name);
        let (shards, name) = (Shards::new(members, name), name.clone());
        members.ask(&has, has.len(), PATIENCE, move |member, store| {
            let place = shards.holders.iter().position(|it| *it == member).unwrap_or_default();
            job(store, &shard_name(&name, shards.number(place)))
        })
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
            let kind = if error.kind() == std::io::ErrorKind::InvalidData {
                Kind::Damaged
            } else {
                Kind::Unavailable
            };
            Error::new(kind, format!("cannot read {}", self.locate(name))).caused_by(error)
        })?;
        Ok(Some(bytes))
    }
}

impl Store for Dispersed {
    fn list(&self, kind: ObjectKind) -> Result<Vec<ObjectName>> {
        let Some(members) = self.members()? else { return Ok(Vec::new()) };
        let (counts, away) = self.shards(&members)?;
        // With fewer than it is made of, an object was not put to its end, or not removed to its end.
        let is_there = |(name, count): (ObjectName, usize)| {
            (name.kind() == kind && count + away >= self.needed(kind)).then_some(name)
        };
        Ok(counts.into_iter().filter_map(is_there).collect())
    }

    fn size(&self, name: &ObjectName) -> Result<Option<u64>> {
        Ok(if self.holds(name)? { self.object(name)?.map(|object| object.size()) } else { None })
    }

    fn holds(&self, name: &ObjectName) -> Result<bool> {
        name.check()?;
        let Some(members) = self.members()? else { return Ok(false) };
        if lock(&self.unfinished).contains(name) {
            return Ok(false);
        }
        let (has, away) = self.holders(&members, name);
        if away > self.code.m {
            return Err(Error::unavailable(format!(
                "{away} of {} stores do not answer, and at most {} may be away; try again once they answer",
                self.all.len(),
                self.code.m
            )));
        }
        Ok(!has.is_empty() && has.len() + away >= self.needed(name.kind()))
    }

    fn may_have_size(&self, name: &ObjectName, len: u64) -> Result<bool> {
        let Some(members) = self.members()? else { return Ok(false) };
        let shards = Shards::new(&members, name);
        let stripes = Stripes::new(shards.code, len);
        let expected = shard::stored_len(stripes);
        let sizes = self.on_shards(&members, name, |store, shard| store.size(shard));
        let sizes: Vec<_> = sizes.into_iter().flatten().flatten().flatten().collect();
        // One shard of another length is damaged, and no more; so is one of this length among others.
        Ok(sizes.iter().filter(|size| **size == expected).count() >= self.needed(name.kind()))
    }

    fn age(&self, name: &ObjectName) -> Option<Duration> {
        let members = self.members().ok()??;
        let ages = self.on_shards(&members, name, |store, shard| Ok(store.age(shard)));
        ages.into_iter().flatten().flatten().flatten().min()
    }

    fn renew(&self, name: &ObjectName) -> Result<()> {
        let members = self.writable()?;
        let renewed = self.on_shards(&members, name, |store, shard| store.renew(shard));
        if renewed.iter().flatten().filter(|it| it.is_ok()).count() >= self.needed(name.kind()) {
            return Ok(());
        }
        Err(Error::unavailable(format!("{} is not there: {}", self.locate(name), first_error(&renewed))))
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
            for place in BTreeSet::from([0, shards.code.k - 1]) {
                let shard = shard_name(name, shards.number(place));
                wanted.entry(shards.holders[place]).or_default().push(shard);
            }
        }
        let which: Vec<_> = wanted.keys().copied().collect();
        members.ask(&which, which.len().min(self.code.k), PATIENCE, move |member, store| {
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
        files::create_folder(&self.scratch)?;
        NewFile::create(&self.scratch.join(format!("draft.{}", kind.place().1)))
    }

    fn put_file(&self, name: &ObjectName, file: NewFile) -> Result<()> {
        let opened = std::fs::File::open(file.path());
        let opened =
            opened.context(Kind::Unavailable, || format!("cannot read {}", file.path().display()))?;
        self.put(name, &mut std::io::BufReader::new(opened), file.size()?)
    }

    fn remove_unfinished(&self, _: ObjectKind) {
        if let Ok(Some(members)) = self.members() {
            members.ask(&members.numbers(), self.all.len(), PATIENCE, |_, store| {
                store.remove_unfinished(ObjectKind::Shard);
                Ok(())
            });
        }
    }

    fn remove(&self, names: &[ObjectName]) -> Result<()> {
        names.iter().try_for_each(ObjectName::check)?;
        let Some(members) = self.members()? else { return Ok(()) };
        // What a store that is away keeps of these does no harm: a sealed segment counts before its pieces.
        let is_harmless = |name: &ObjectName| {
            matches!(name.kind(), ObjectKind::Increment | ObjectKind::CopyIntent | ObjectKind::InitIntent)
        };
        let tolerate = if names.iter().all(is_harmless) { self.tolerate } else { 0 };
        let there =
            members.ask(&members.numbers(), self.all.len(), PATIENCE, |_, store| store.read(&Mark::name()));
        let away = there.iter().flatten().filter(|it| it.is_err()).count();
        if away > tolerate {
            return Err(Error::unavailable(format!(
                "nothing is removed while {away} of {} stores are away, as what they keep would come back with them; try again \
                 once they answer: {}",
                self.all.len(),
                first_error(&there)
            )));
        }
        let mut shards: BTreeMap<usize, Vec<ObjectName>> = BTreeMap::new();
        for name in names {
            let of = Shards::new(&members, name);
            for (place, member) in of.holders.iter().enumerate() {
                shards.entry(*member).or_default().push(shard_name(name, of.number(place)));
            }
        }
        let enough = self.all.len() - tolerate;
        let mut removed = members
            .ask(&members.numbers(), enough, PATIENCE, move |member, store| store.remove(&shards[&member]));
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

    fn read_note(&self, role: Role) -> Result<Option<HolderNote>> {
        let Some(members) = self.members()? else { return Ok(None) };
        let notes =
            members.ask(&members.numbers(), self.code.k, PATIENCE, move |_, store| store.read_note(role));
        if notes.iter().flatten().all(Result::is_err) {
            return Err(self.too_many_away(&notes));
        }
        Ok(notes.into_iter().flatten().flatten().flatten().min_by_key(|note| note.age))
    }

    fn look_again(&self, _: ObjectKind) {
        self.all.iter().for_each(|member| member.bare().look_again(ObjectKind::Shard));
    }

    fn share(&self, role: Role, patience: Duration) -> Result<Option<Lease>> {
        self.lease_shared(role, patience)
    }

    fn is_leased(&self, role: Role) -> bool {
        let Ok(Some(members)) = self.members() else { return false };
        let leased =
            members.ask(&members.numbers(), self.code.k, PATIENCE, move |_, store| Ok(store.is_leased(role)));
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

#[cfg(test)]
mod tests;
