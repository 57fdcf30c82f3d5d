//! Objects in memory, with faults where a test asks for them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Lease, LentFile, NewFile, Object, ObjectKind, ObjectName, Role, Store};
use crate::ambient;
use crate::error::{Error, Result};

/// A fault that a test makes a [`MemoryStore`] have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFault {
    /// The call fails and does nothing.
    Fail,
    /// A put fails after half of the bytes; another call does nothing.
    Tear,
    /// A put or removal is done in full, and yet its caller is told that it failed.
    LoseAnswer,
}

#[derive(Debug, Default)]
struct MemoryContent {
    objects: BTreeMap<ObjectName, Arc<[u8]>>,
    /// When each object was put or renewed.
    put: BTreeMap<ObjectName, DateTime<Utc>>,
    /// Halves of objects whose put was torn: they take room, and nobody sees them.
    torn: Vec<Vec<u8>>,
    /// Objects that were set aside.
    aside: Vec<Arc<[u8]>>,
    calls: u64,
    fault: Option<(u64, StoreFault)>,
    /// Whether every call fails.
    is_away: bool,
    /// Whether no call ends.
    hangs: bool,
    /// Whether every call panics.
    panics: bool,
    /// Whether no object can be put.
    is_full: bool,
    /// The number of times that all leases were lost.
    losses: u64,
    /// How many share a role; `None` if somebody has the role alone.
    leases: BTreeMap<Role, Option<u32>>,
}

/// A store that ends with its last clone.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    content: Arc<Mutex<MemoryContent>>,
}

impl MemoryStore {
    /// The call with this number fails; the next call from now has number 0.
    pub fn fail_at(&self, number: u64, fault: StoreFault) {
        let mut content = self.content();
        content.fault = Some((content.calls + number, fault));
    }

    /// Bytes that torn puts have left behind.
    pub fn torn(&self) -> usize {
        self.content().torn.iter().map(Vec::len).sum()
    }

    /// From now on every call fails, or none.
    pub fn set_away(&self, is_away: bool) {
        self.content().is_away = is_away;
    }

    /// From now on no call ends, until this is called with false.
    pub fn hang(&self, hangs: bool) {
        self.content().hangs = hangs;
    }

    pub fn panic(&self, panics: bool) {
        self.content().panics = panics;
    }

    /// From now on no object can be put.
    pub fn fill_up(&self, is_full: bool) {
        self.content().is_full = is_full;
    }

    /// All leases are lost, and those who have them are told when they look.
    pub fn lose_leases(&self) {
        let mut content = self.content();
        content.leases.clear();
        content.losses += 1;
    }

    /// The number of objects that were set aside.
    pub fn aside(&self) -> usize {
        self.content().aside.len()
    }

    /// Becomes what another store is, as one that is restored from a backup.
    pub fn take_from(&self, other: &MemoryStore) {
        let (objects, put) = {
            let other = other.content();
            (other.objects.clone(), other.put.clone())
        };
        let mut content = self.content();
        (content.objects, content.put) = (objects, put);
    }

    /// Whether another store has the same objects.
    pub fn has_same(&self, other: &MemoryStore) -> bool {
        let objects = other.content().objects.clone();
        self.content().objects == objects
    }

    /// Changes the bytes of an object, as decay does.
    pub fn damage(&self, name: &ObjectName, change: impl Fn(&mut Vec<u8>)) {
        let mut content = self.content();
        let mut bytes = content.objects[name].to_vec();
        change(&mut bytes);
        content.objects.insert(name.clone(), bytes.into());
    }

    fn content(&self) -> MutexGuard<'_, MemoryContent> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call, and tells which fault it meets.
    fn begin(
        &self,
        name: Option<&ObjectName>,
    ) -> Result<(MutexGuard<'_, MemoryContent>, Option<StoreFault>)> {
        name.map_or(Ok(()), ObjectName::check)?;
        while self.content().hangs {
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut content = self.content();
        if content.panics {
            drop(content);
            panic!("a test wants this store to panic");
        }
        if content.is_away {
            return Err(failed());
        }
        let number = content.calls;
        content.calls += 1;
        match content.fault {
            Some((at, StoreFault::Fail)) if at == number => Err(failed()),
            Some((at, fault)) if at == number => Ok((content, Some(fault))),
            _ => Ok((content, None)),
        }
    }

    fn object(&self, name: &ObjectName) -> Result<Option<Arc<[u8]>>> {
        Ok(self.begin(Some(name))?.0.objects.get(name).cloned())
    }
}

fn failed() -> Error {
    Error::unavailable("the memory failed, as a test wants")
}

impl Store for MemoryStore {
    fn list(&self, kind: ObjectKind) -> Result<Vec<ObjectName>> {
        let (content, _) = self.begin(None)?;
        let mut names: Vec<_> = content.objects.keys().filter(|name| name.kind() == kind).cloned().collect();
        // An order that no caller can rely on.
        for last in (1..names.len()).rev() {
            let random = u64::from_le_bytes(ambient::random()?);
            names.swap(last, (random % (last as u64 + 1)) as usize);
        }
        Ok(names)
    }

    fn size(&self, name: &ObjectName) -> Result<Option<u64>> {
        Ok(self.object(name)?.map(|bytes| bytes.len() as u64))
    }

    fn age(&self, name: &ObjectName) -> Option<Duration> {
        let put = *self.content().put.get(name)?;
        (ambient::now() - put).to_std().ok()
    }

    fn renew(&self, name: &ObjectName) -> Result<()> {
        let (mut content, _) = self.begin(Some(name))?;
        let put = content.put.get_mut(name).ok_or_else(failed)?;
        *put = ambient::now();
        Ok(())
    }

    fn open(&self, name: &ObjectName) -> Result<Option<Box<dyn Object>>> {
        Ok(self.object(name)?.map(|bytes| Box::new(bytes) as Box<dyn Object>))
    }

    fn read(&self, name: &ObjectName) -> Result<Option<Vec<u8>>> {
        Ok(self.object(name)?.map(|bytes| bytes.to_vec()))
    }

    fn put_new(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        let (mut content, fault) = self.begin(Some(name))?;
        if content.is_full {
            return Err(failed());
        }
        if content.objects.contains_key(name) {
            return Err(Error::internal(format!("{name} exists already; objects are written once")));
        }
        if fault == Some(StoreFault::Tear) {
            content.torn.push(bytes[..bytes.len() / 2].to_vec());
            return Err(failed());
        }
        content.objects.insert(name.clone(), bytes.into());
        content.put.insert(name.clone(), ambient::now());
        fault.map_or(Ok(()), |_| Err(failed()))
    }

    fn draft(&self, kind: ObjectKind) -> Result<NewFile> {
        if self.begin(None)?.0.is_full {
            return Err(failed());
        }
        NewFile::create(&ambient::temporary_place().join(kind.place().1))
    }

    fn put_file(&self, name: &ObjectName, file: NewFile) -> Result<()> {
        self.put_new(name, &file.read()?)
    }

    fn remove_unfinished(&self, _: ObjectKind) {
        self.content().torn.clear();
    }

    fn remove(&self, names: &[ObjectName]) -> Result<()> {
        let (mut content, fault) = self.begin(None)?;
        if fault != Some(StoreFault::Tear) {
            content.objects.retain(|name, _| !names.contains(name));
            content.put.retain(|name, _| !names.contains(name));
        }
        fault.map_or(Ok(()), |_| Err(failed()))
    }

    fn set_aside(&self, name: &ObjectName) -> Result<Option<String>> {
        let (mut content, fault) = self.begin(Some(name))?;
        if fault == Some(StoreFault::Tear) {
            return Err(failed());
        }
        let Some(bytes) = content.objects.remove(name) else { return Ok(None) };
        content.put.remove(name);
        content.aside.push(bytes);
        fault.map_or(Ok(Some(format!("memory:damaged/{}", name.file_name()))), |_| Err(failed()))
    }

    fn lease(&self, role: Role, command: &str) -> Result<Lease> {
        let (mut content, _) = self.begin(None)?;
        if content.leases.contains_key(&role) {
            return Err(Error::locked(format!("{command} is already running on this history")));
        }
        content.leases.insert(role, None);
        let (losses, memory) = (content.losses, self.clone());
        let lease = MemoryLease { role, memory: self.clone(), losses };
        Ok(Lease::that_may_be_lost(lease, move || memory.content().losses == losses))
    }

    fn share(&self, role: Role, patience: Duration) -> Result<Option<Lease>> {
        let (mut content, _) = self.begin(None)?;
        match content.leases.entry(role).or_insert(Some(0)) {
            Some(sharers) => *sharers += 1,
            None if patience.is_zero() => {
                return Err(Error::locked("`backwhen expire` is at work on this history"));
            }
            None => {
                drop(content);
                let wait = patience.min(Duration::from_millis(1));
                std::thread::sleep(wait);
                return self.share(role, patience.saturating_sub(wait));
            }
        }
        let losses = content.losses;
        Ok(Some(Lease::new(MemoryLease { role, memory: self.clone(), losses })))
    }

    fn is_leased(&self, role: Role) -> bool {
        self.content().leases.contains_key(&role)
    }

    fn lend(&self, name: &ObjectName) -> Result<Option<LentFile>> {
        self.object(name)?.map(|bytes| LentFile::copied(name, &bytes)).transpose()
    }

    fn locate(&self, name: &ObjectName) -> String {
        format!("memory:{name}")
    }
}

/// A lease that ends when the value is dropped.
struct MemoryLease {
    role: Role,
    memory: MemoryStore,
    losses: u64,
}

impl Drop for MemoryLease {
    fn drop(&mut self) {
        let mut content = self.memory.content();
        if content.losses > self.losses {
            return;
        }
        match content.leases.get_mut(&self.role) {
            Some(Some(sharers)) if *sharers > 1 => *sharers -= 1,
            _ => drop(content.leases.remove(&self.role)),
        }
    }
}
