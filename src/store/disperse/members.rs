//! The stores that hold the shards, and questions to several of them at once.
//!
//! A store that does not answer is left alone for a while, so that a dead one does not hold up every request. A store that is
//! empty where its mark should be, such as a disk that is not mounted, counts as away too, until `repair` gives it a mark.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::code::Code;
use crate::ambient::{self, Steady};
use crate::error::{Context, Error, Kind, Result};
use crate::store::{ObjectKind, ObjectName, Store, layout};

/// The version of `dispersal.json`.
const FORMAT: u32 = 1;

/// A store that failed is asked again after this time.
const AWAY: Duration = Duration::from_secs(10);

/// The content of `dispersal.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    format: u32,
    pub id: String,
    k: usize,
    m: usize,
    number: usize,
}

impl Mark {
    pub fn new(id: &str, code: Code, number: usize) -> Mark {
        Mark { format: FORMAT, id: id.to_owned(), k: code.k, m: code.m, number }
    }

    pub fn name() -> ObjectName {
        ObjectName::only(ObjectKind::Dispersal)
    }
}

/// One of the stores.
#[derive(Debug)]
pub(super) struct Member {
    pub number: usize,
    pub url: String,
    store: Arc<dyn Store>,
    away: Mutex<Option<(Steady, String)>>,
    /// Until when the store is read last, as it was slow.
    slow: Mutex<Option<Steady>>,
    /// Whether the mark of the store was read and is right.
    is_known: Mutex<bool>,
    /// The folder, if the store is one.
    folder: Option<PathBuf>,
}

impl Member {
    pub fn new(number: usize, url: String, store: Arc<dyn Store>, folder: Option<PathBuf>) -> Member {
        let (away, slow, is_known) = (Mutex::default(), Mutex::default(), Mutex::default());
        Member { number, url, store, away, slow, is_known, folder }
    }

    /// Puts the mark into an empty store, which has none.
    ///
    /// # Errors
    /// `Refused` if something else lies there or the mark of another dispersal, `Unavailable` if the store does not take it.
    pub fn begin(&self, id: &str, code: Code) -> Result<()> {
        if let Some(folder) = &self.folder {
            let stranger = layout::first_stranger(folder)?;
            if let Some(other) = stranger.filter(|name| !["shards", "damaged"].contains(&name.as_str())) {
                return Err(Error::refused(format!(
                    "{} holds {other}, which is no part of a dispersed history; name an empty folder",
                    self.url
                )));
            }
            layout::make_locks(folder)?;
        } else if self.store.holds(&ObjectName::only(ObjectKind::Identity))? {
            return Err(Error::refused(format!("{} holds a whole history; name an empty prefix", self.url)));
        }
        let mark = serde_json::to_vec(&Mark::new(id, code, self.number));
        let mark = mark.context(Kind::Internal, || "cannot write a mark".into())?;
        match self.store.put_new(&Mark::name(), &mark) {
            Err(error) if error.kind() == Kind::Internal => {}
            put => put?,
        }
        match self.mark()? {
            Some(mark) => self.accept(&mark, id, code),
            None => Err(Error::unavailable(format!("{} lost its mark at once; try again", self.url))),
        }
    }

    /// Asks the store again from now on.
    pub fn come_back(&self) {
        *self.away() = None;
    }

    fn be_slow(&self) {
        *self.slow.lock().unwrap_or_else(PoisonError::into_inner) = Some(ambient::instant() + AWAY);
    }

    /// Whether the store is asked only if no other one can answer.
    pub fn is_last_choice(&self) -> bool {
        let slow = *self.slow.lock().unwrap_or_else(PoisonError::into_inner);
        slow.is_some_and(|until| ambient::instant() < until) || self.why_away().is_some()
    }

    /// The store itself, for what must not depend on its mark.
    pub fn bare(&self) -> &dyn Store {
        &*self.store
    }

    fn away(&self) -> MutexGuard<'_, Option<(Steady, String)>> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves the store alone for a while.
    pub fn leave_alone(&self, why: &str) {
        *self.away() = Some((ambient::instant() + AWAY, why.to_owned()));
    }

    /// Why the store is left alone now.
    pub fn why_away(&self) -> Option<String> {
        let mut away = self.away();
        away.take_if(|(until, _)| ambient::instant() >= *until);
        away.as_ref().map(|(_, why)| why.clone())
    }

    /// Reads the mark; `None` if the store has none.
    pub fn mark(&self) -> Result<Option<Mark>> {
        let Some(bytes) = self.store.read(&Mark::name())? else { return Ok(None) };
        let place =
            || format!("{} is damaged; remove it, and run backwhen repair", self.store.locate(&Mark::name()));
        serde_json::from_slice(&bytes).context(Kind::Damaged, place).map(Some)
    }

    /// Takes a mark that was read for the store's own, if it is the one that is expected.
    pub fn accept(&self, found: &Mark, id: &str, code: Code) -> Result<()> {
        let expected = Mark::new(id, code, self.number);
        if *found != expected {
            return Err(Error::refused(format!(
                "{} is store {} of a dispersal with k={},m={}{}, and is named as store {} of k={},m={}; name the stores as they \
                 were named first, in their order",
                self.url,
                found.number,
                found.k,
                found.m,
                if found.id == id { "" } else { " of another history" },
                self.number,
                code.k,
                code.m
            )));
        }
        *self.is_known.lock().unwrap_or_else(PoisonError::into_inner) = true;
        Ok(())
    }

    fn is_known(&self) -> bool {
        *self.is_known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the store, unless it is left alone now.
    ///
    /// # Errors
    /// `Unavailable` if the store is away; otherwise the error of `job`.
    fn ask<T>(&self, dispersal: (&str, Code), job: impl FnOnce(&dyn Store) -> Result<T>) -> Result<T> {
        if let Some(why) = self.why_away() {
            return Err(Error::unavailable(why));
        }
        let known = if self.is_known() { Ok(()) } else { self.know(dispersal) };
        let done = known.and_then(|()| job(&*self.store));
        if let Err(error) = &done
            && error.kind() == Kind::Unavailable
        {
            self.leave_alone(&error.to_string());
        }
        done
    }

    fn know(&self, (id, code): (&str, Code)) -> Result<()> {
        match self.mark()? {
            Some(mark) => self.accept(&mark, id, code),
            None => Err(Error::unavailable(format!(
                "{} is empty: its dispersal.json is missing; if that store was lost and this is a new one, fill it with: \
                 backwhen repair",
                self.url
            ))),
        }
    }
}

/// What became of a question to each store, by their numbers; `None` for those that were not asked.
pub(super) type Answers<T> = Vec<Option<Result<T>>>;

/// All stores of a dispersal whose marks agree.
#[derive(Clone)]
pub(super) struct Members {
    pub all: Arc<[Arc<Member>]>,
    pub id: String,
    pub code: Code,
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all.iter().map(|member| &member.url)).finish()
    }
}

impl Members {
    /// Asks some stores at once, as [`gather`] does.
    pub fn ask<T: Send + 'static>(
        &self,
        which: &[usize],
        enough: usize,
        patience: Duration,
        job: impl Fn(usize, &dyn Store) -> Result<T> + Send + Sync + 'static,
    ) -> Answers<T> {
        let (id, code) = (self.id.clone(), self.code);
        gather(&self.all, which, enough, patience, move |member| {
            member.ask((&id, code), |store| job(member.number, store))
        })
    }

    /// Asks stores until `is_enough` of what they gave. The first `initial` are asked at once; each that fails, gives nothing
    /// or takes longer than `patience` has the next one asked too. Without a next one, those that are slow are waited for.
    /// `order` may name a store once.
    pub fn race<T: Send + 'static>(
        &self,
        order: &[usize],
        initial: usize,
        patience: Duration,
        job: impl Fn(usize, &dyn Store) -> Result<Option<T>> + Send + Sync + 'static,
        is_enough: impl Fn(&BTreeMap<usize, T>) -> bool,
    ) -> Raced<T> {
        let (job, (sender, receiver)) = (Arc::new(job), channel());
        let mut queue = order.iter().copied();
        let start = |number: usize| {
            let (members, job, sender) = (self.clone(), Arc::clone(&job), sender.clone());
            std::thread::spawn(move || {
                let done = members.ask_one(number, |store| job(number, store));
                let _ = sender.send((number, done));
            });
            number
        };
        let mut waiting: BTreeSet<_> = queue.by_ref().take(initial).map(&start).collect();
        let mut raced = Raced { good: BTreeMap::new(), missing: 0, damaged: 0, away: 0, why: None };
        while !waiting.is_empty() && !is_enough(&raced.good) {
            let received = receiver.recv_timeout(patience);
            if let Ok((number, done)) = received {
                waiting.remove(&number);
                if raced.note(number, done) {
                    continue;
                }
            } else {
                waiting.iter().for_each(|number| self.all[*number].be_slow());
            }
            waiting.extend(queue.next().map(&start));
        }
        raced
    }

    /// Asks stores at once, and returns what they gave. A failure ends the wait for the others, as does the end of `patience`,
    /// after which those that have not answered are known to be slow.
    pub fn try_all<T: Send + 'static>(
        &self,
        which: &[usize],
        patience: Duration,
        job: impl Fn(usize, &dyn Store) -> Result<Option<T>> + Send + Sync + 'static,
    ) -> BTreeMap<usize, T> {
        let (job, (sender, receiver)) = (Arc::new(job), channel());
        for &number in which {
            let (members, job, sender) = (self.clone(), Arc::clone(&job), sender.clone());
            std::thread::spawn(move || {
                let done = members.ask_one(number, |store| job(number, store));
                let _ = sender.send((number, done));
            });
        }
        let (mut given, until) = (BTreeMap::new(), ambient::instant() + patience);
        while given.len() < which.len() {
            match receiver.recv_timeout(until.saturating_duration_since(ambient::instant())) {
                Ok((number, Ok(Some(good)))) => drop(given.insert(number, good)),
                Ok(_) => break,
                Err(_) => {
                    let slow = which.iter().filter(|number| !given.contains_key(number));
                    slow.for_each(|number| self.all[*number].be_slow());
                    break;
                }
            }
        }
        given
    }

    /// Asks one store in this thread.
    pub fn ask_one<T>(&self, number: usize, job: impl FnOnce(&dyn Store) -> Result<T>) -> Result<T> {
        self.all[number].ask((&self.id, self.code), job)
    }

    pub fn numbers(&self) -> Vec<usize> {
        (0..self.all.len()).collect()
    }

    /// The stores in the order in which they have the shards of an object.
    pub fn ranked(&self, name: &ObjectName) -> Vec<usize> {
        let score = |number: &usize| {
            let digest = blake3::hash(format!("{name}\0{}", *number as u8 as char).as_bytes());
            let first: [u8; 8] = digest.as_bytes()[..8].try_into().expect("a digest is longer");
            u64::from_be_bytes(first)
        };
        let mut numbers = self.numbers();
        numbers.sort_by_key(score);
        numbers
    }
}

/// What stores gave that were asked one after the other.
pub(super) struct Raced<T> {
    pub good: BTreeMap<usize, T>,
    pub missing: usize,
    pub damaged: usize,
    pub away: usize,
    /// The first failure.
    pub why: Option<Error>,
}

impl<T> Raced<T> {
    /// Notes an answer, and tells whether it was good.
    fn note(&mut self, number: usize, done: Result<Option<T>>) -> bool {
        match done {
            Ok(Some(given)) => {
                self.good.insert(number, given);
                return true;
            }
            Ok(None) => self.missing += 1,
            Err(error) => {
                let is_damage = error.kind() == Kind::Damaged;
                self.damaged += usize::from(is_damage);
                self.away += usize::from(!is_damage);
                self.why.get_or_insert(error);
            }
        }
        false
    }
}

/// Asks some stores at once. Once `enough` have done well, the others have `patience` more; those that have not answered by
/// then are left alone, and their threads end by themselves.
pub(super) fn gather<T: Send + 'static>(
    all: &[Arc<Member>],
    which: &[usize],
    enough: usize,
    patience: Duration,
    job: impl Fn(&Member) -> Result<T> + Send + Sync + 'static,
) -> Answers<T> {
    let (job, (sender, receiver)) = (Arc::new(job), channel());
    for &number in which {
        let (member, job, sender) = (Arc::clone(&all[number]), Arc::clone(&job), sender.clone());
        std::thread::spawn(move || {
            let done = job(&member);
            let _ = sender.send((member.number, done));
        });
    }
    drop(sender);
    let mut answers: Answers<T> = all.iter().map(|_| None).collect();
    let (mut well, mut until) = (0, None);
    for _ in which {
        if well >= enough {
            until.get_or_insert_with(|| ambient::instant() + patience);
        }
        let received = match until {
            Some(until) => receiver.recv_timeout(until.saturating_duration_since(ambient::instant())),
            None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let Ok((number, done)) = received else { break };
        well += usize::from(done.is_ok());
        answers[number] = Some(done);
    }
    for &number in which.iter().filter(|number| answers[**number].is_none()).collect::<Vec<_>>() {
        let why = format!("{} has not answered for {patience:?}, and the others have", all[number].url);
        all[number].leave_alone(&why);
        answers[number] = Some(Err(Error::unavailable(why)));
    }
    answers
}

/// The first error of some answers, in words.
pub(super) fn first_error<T>(answers: &Answers<T>) -> String {
    let first = answers.iter().flatten().find_map(|answer| answer.as_ref().err());
    first.map_or_else(String::new, ToString::to_string)
}
