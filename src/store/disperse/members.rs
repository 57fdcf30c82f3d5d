//! Questions to several stores at once.
//!
//! Nobody waits for a store that the answer does not depend on: each question says how many answers are enough, and how long the
//! other stores have after these.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::mark::Dispersal;
use super::member::Member;
use super::roles::Roles;
use crate::ambient;
use crate::error::{Error, Kind, Result};
use crate::store::drafts::Drafts;
use crate::store::{ObjectName, Store};

/// A store that has not answered for this long counts as away, also where its answer is needed.
const LONGEST: Duration = Duration::from_secs(600);

/// The answers of stores, by their numbers; `None` for those that were not asked.
pub(super) type Answers<T> = Vec<Option<Result<T>>>;

/// One question to several stores, each of which is asked in a thread of its own.
pub(super) struct Question<T> {
    all: Arc<[Arc<Member>]>,
    job: Arc<dyn Fn(&Member) -> Result<T> + Send + Sync>,
    sender: Sender<(usize, Result<T>)>,
    receiver: Receiver<(usize, Result<T>)>,
    /// Set once nobody waits any more: who has not begun by then need not begin.
    is_over: Arc<AtomicBool>,
    is_cancelled_at_end: bool,
    waiting: BTreeSet<usize>,
    pub answers: Answers<T>,
}

impl<T: Send + 'static> Question<T> {
    /// With `is_cancelled_at_end`, what was not begun when the value is dropped is not done any more.
    pub fn new(
        all: &Arc<[Arc<Member>]>,
        is_cancelled_at_end: bool,
        job: impl Fn(&Member) -> Result<T> + Send + Sync + 'static,
    ) -> Question<T> {
        let (sender, receiver) = channel();
        Question {
            all: Arc::clone(all),
            job: Arc::new(job),
            sender,
            receiver,
            is_over: Arc::default(),
            is_cancelled_at_end,
            waiting: BTreeSet::new(),
            answers: all.iter().map(|_| None).collect(),
        }
    }

    /// Asks a store. Every store that was asked answers, if only with an error.
    pub fn ask(&mut self, number: usize) {
        self.waiting.insert(number);
        let (member, job) = (Arc::clone(&self.all[number]), Arc::clone(&self.job));
        let (sender, is_over) = (self.sender.clone(), Arc::clone(&self.is_over));
        let url = member.url.clone();
        let work = move || {
            if is_over.load(Ordering::Relaxed) {
                return;
            }
            let done = catch_unwind(AssertUnwindSafe(|| job(&member)));
            let broken =
                || Error::internal(format!("a thread failed that asked {}; please report this", member.url));
            let _ = sender.send((number, done.unwrap_or_else(|_| Err(broken()))));
        };
        if !self.all[number].workers.take(Box::new(work)) {
            self.all[number].be_slow();
            let behind = Error::unavailable(format!("{url} is far behind with its answers"));
            let _ = self.sender.send((number, Err(behind)));
        }
    }

    pub fn is_unasked(&self, number: usize) -> bool {
        self.answers[number].is_none() && !self.waiting.contains(&number)
    }

    /// Waits for one more answer. Returns the number of the store that gave it; `None` after `patience`.
    pub fn next(&mut self, patience: Duration) -> Option<usize> {
        let (number, done) = self.receiver.recv_timeout(patience).ok()?;
        self.waiting.remove(&number);
        self.answers[number] = Some(done);
        Some(number)
    }

    fn count(&self, is_good: &impl Fn(&T) -> bool) -> usize {
        self.answers.iter().flatten().filter(|it| it.as_ref().is_ok_and(is_good)).count()
    }

    /// Waits for `enough` good answers, and then as long as `patience` for the others; for stores that have been slow of late
    /// not at all. Those that have not answered are slow from now on.
    pub fn wait(&mut self, enough: usize, patience: Duration, is_good: impl Fn(&T) -> bool) {
        let (mut left, mut is_enough, mut is_late) = (LONGEST, false, true);
        while !self.waiting.is_empty() {
            if self.count(&is_good) >= enough {
                if !std::mem::replace(&mut is_enough, true) {
                    left = patience;
                }
                if self.waiting.iter().all(|number| self.all[*number].is_slow()) {
                    is_late = false;
                    break;
                }
            }
            let begun = ambient::instant();
            if self.next(left).is_none() {
                break;
            }
            left = left.saturating_sub(begun.elapsed());
        }
        for number in std::mem::take(&mut self.waiting) {
            // A store that was not waited for is tried again in time.
            if is_late {
                self.all[number].be_slow();
            }
            let why = format!("{} has not answered yet, and the others have", self.all[number].url);
            self.answers[number] = Some(Err(Error::unavailable(why)));
        }
    }
}

impl<T: Send + 'static> Question<T> {
    /// Waits for every store, also for slow ones. One that has not answered within `patience` is left alone for long.
    pub fn wait_for_all(&mut self, patience: Duration) {
        let begun = ambient::instant();
        while !self.waiting.is_empty() && self.next(patience.saturating_sub(begun.elapsed())).is_some() {}
        for number in std::mem::take(&mut self.waiting) {
            let why = format!("{} has not answered for {} s", self.all[number].url, patience.as_secs());
            self.all[number].leave_alone(LONGEST, why.clone());
            self.answers[number] = Some(Err(Error::unavailable(why)));
        }
    }
}

impl<T> Drop for Question<T> {
    fn drop(&mut self) {
        self.is_over.store(self.is_cancelled_at_end, Ordering::Relaxed);
    }
}

/// The stores of a dispersal.
#[derive(Clone)]
pub(super) struct Members {
    pub all: Arc<[Arc<Member>]>,
    pub dispersal: Arc<Dispersal>,
    pub roles: Arc<Roles>,
    pub drafts: Arc<Drafts>,
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all.iter().map(|member| &member.url)).finish()
    }
}

impl Members {
    /// A question to stores of this dispersal.
    pub fn question<T: Send + 'static>(
        &self,
        is_cancelled_at_end: bool,
        job: impl Fn(usize, &dyn Store) -> Result<T> + Send + Sync + 'static,
    ) -> Question<T> {
        let dispersal = Arc::clone(&self.dispersal);
        Question::new(&self.all, is_cancelled_at_end, move |member| {
            member.ask(&dispersal, |store| job(member.number, store))
        })
    }

    /// Asks stores at once, as [`Question::wait`] does.
    pub fn ask<T: Send + 'static>(
        &self,
        which: &[usize],
        enough: usize,
        patience: Duration,
        job: impl Fn(usize, &dyn Store) -> Result<T> + Send + Sync + 'static,
    ) -> Answers<T> {
        let mut question = self.question(true, job);
        which.iter().for_each(|number| question.ask(*number));
        question.wait(enough, patience, |_| true);
        std::mem::take(&mut question.answers)
    }

    /// Asks stores at once, and waits for all, as [`Question::wait_for_all`] does.
    pub fn ask_all<T: Send + 'static>(
        &self,
        which: &[usize],
        patience: Duration,
        job: impl Fn(usize, &dyn Store) -> Result<T> + Send + Sync + 'static,
    ) -> Answers<T> {
        let mut question = self.question(true, job);
        which.iter().for_each(|number| question.ask(*number));
        question.wait_for_all(patience);
        std::mem::take(&mut question.answers)
    }

    /// Asks stores one after the other until `decide` comes to a result. The first `initial` of `order` are asked at once. For
    /// each that fails, gives nothing or takes longer than `patience`, and whenever all have answered, the next one is asked.
    /// Returns the result, if there was one, and the answers.
    pub fn race<T: Send + 'static, R>(
        &self,
        order: &[usize],
        initial: usize,
        patience: Duration,
        job: impl Fn(usize, &dyn Store) -> Result<Option<T>> + Send + Sync + 'static,
        decide: impl Fn(&Heard<T>) -> Option<R>,
    ) -> (Option<R>, Heard<T>) {
        let (mut question, mut rest) = (self.question(true, job), order.iter().copied());
        rest.by_ref().take(initial).for_each(|number| question.ask(number));
        let mut heard =
            Heard { good: BTreeMap::new(), missing: 0, damaged: 0, away: 0, is_late: false, why: None };
        loop {
            if let Some(result) = decide(&heard) {
                return (Some(result), heard);
            }
            if question.waiting.is_empty() {
                match rest.next() {
                    Some(number) => question.ask(number),
                    None => return (None, heard),
                }
            }
            let is_last = rest.len() == 0 && heard.is_late;
            match question.next(if is_last { LONGEST } else { patience }) {
                Some(number) => {
                    let answer = question.answers[number].take();
                    if !answer.is_some_and(|answer| heard.note(number, answer)) {
                        rest.next().into_iter().for_each(|number| question.ask(number));
                    }
                }
                None if is_last => {
                    heard.away += question.waiting.len();
                    return (decide(&heard), heard);
                }
                None => {
                    heard.is_late = true;
                    let late: Vec<_> = question.waiting.iter().copied().collect();
                    late.iter().for_each(|number| self.all[*number].be_slow());
                    rest.by_ref().take(late.len()).for_each(|number| question.ask(number));
                }
            }
        }
    }

    pub fn numbers(&self) -> Vec<usize> {
        (0..self.all.len()).collect()
    }

    /// The stores in the order in which they have the shards of an object.
    pub fn ranked(&self, name: &ObjectName) -> Vec<usize> {
        let mut numbers = self.numbers();
        numbers.sort_by_cached_key(|number| {
            let digest = blake3::hash(format!("{name}\0{}", char::from(*number as u8)).as_bytes());
            digest.as_bytes().first_chunk::<8>().map(|first| u64::from_be_bytes(*first))
        });
        numbers
    }
}

/// The answers that were heard in a race.
pub(super) struct Heard<T> {
    pub good: BTreeMap<usize, T>,
    /// The number of stores that have nothing of that name.
    pub missing: usize,
    pub damaged: usize,
    pub away: usize,
    /// Whether a store has been too slow.
    pub is_late: bool,
    /// The first failure.
    pub why: Option<Error>,
}

impl<T> Heard<T> {
    /// Notes an answer, and tells whether it was good.
    fn note(&mut self, number: usize, answer: Result<Option<T>>) -> bool {
        match answer {
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

/// The first error of some answers, in words.
pub(super) fn first_error<T>(answers: &Answers<T>) -> String {
    let first = answers.iter().flatten().find_map(|answer| answer.as_ref().err());
    first.map_or_else(String::new, ToString::to_string)
}

pub(super) fn failures<T>(answers: &Answers<T>) -> usize {
    answers.iter().flatten().filter(|answer| answer.is_err()).count()
}
