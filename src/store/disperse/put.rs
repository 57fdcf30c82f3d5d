//! Puts an object into all stores.
//!
//! A put has done well once a quorum of the stores has these bytes. Two quorums share a store, and a store takes a name once, so
//! of two puts of one name with other bytes at most one does well, also if they do not see the same stores. The store that
//! comes first for a name is asked before the others, so that usually one does.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::heal::{fill, judge_all, look_at_all, withdraw};
use super::members::{Answers, Members, first_error};
use super::object::Shards;
use super::shard::{OpenShard, Payload, Tail};
use super::versions::Verdict;
use crate::ambient;
use crate::error::{Error, Kind, Result};
use crate::store::{ObjectName, Store};

/// The store that decides is waited for so long.
const FIRST: Duration = Duration::from_secs(3);

/// Once a quorum has an object, the other stores have this time to take it too. What they take later counts as well.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whoever finds the beginning of another put waits so long for its end.
const RACE: Duration = Duration::from_secs(5);

/// The outcome of a put in one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Put {
    New,
    /// The store had the same bytes already.
    Known,
    /// The store has other bytes of this name.
    Other,
}

/// The shards of one object on their way into the stores.
struct PutWork {
    members: Members,
    shards: Shards,
    /// The shards that are still to be put, by the places of their stores.
    payloads: Vec<Mutex<Option<Payload>>>,
    tails: Vec<Tail>,
}

/// An object that is to be put, with its shards.
pub(super) struct NewObject<'a> {
    pub name: &'a ObjectName,
    pub shards: Vec<(Option<Payload>, Tail)>,
    /// The bytes that an earlier put of this process has left in too few stores, and that nobody can have read.
    pub earlier: Option<Tail>,
}

impl PutWork {
    fn new(members: &Members, object: NewObject<'_>) -> PutWork {
        let shards = Shards::new(members, object.name);
        let (mut payloads, mut tails): (Vec<_>, Vec<_>) = object.shards.into_iter().unzip();
        // All stores get the same bytes of a small object.
        if let ([Some(Payload::Memory(bytes))], [tail]) = (&payloads[..], &tails[..]) {
            let (bytes, tail) = (Arc::clone(bytes), tail.clone());
            payloads = shards.holders.iter().map(|_| Some(Payload::Memory(Arc::clone(&bytes)))).collect();
            tails = vec![tail; shards.holders.len()];
        }
        let payloads = payloads.into_iter().map(Mutex::new).collect();
        PutWork { members: members.clone(), shards, payloads, tails }
    }

    fn put(&self, member: usize, store: &dyn Store) -> Result<Put> {
        let (place, name) = (self.shards.place(member), self.shards.name());
        let payload = self.payloads[place].lock().unwrap_or_else(PoisonError::into_inner).take();
        let payload = payload.ok_or_else(|| Error::internal("a shard was put twice; please report this"))?;
        self.members.roles.ensure(member, store)?;
        ambient::pass("disperse.put")?;
        match payload.put(store, &self.shards.shard(place)) {
            Ok(()) => {
                ambient::pass("disperse.put-done")?;
                Ok(Put::New)
            }
            Err(error) if error.kind() == Kind::Internal => {
                match OpenShard::open(store, name, self.shards.number(place)) {
                    Ok(Some(there)) if there.tail == self.tails[place] => Ok(Put::Known),
                    Ok(Some(_)) => Ok(Put::Other),
                    Ok(None) => Err(error),
                    Err(other) => Err(other),
                }
            }
            Err(error) => Err(error),
        }
    }
}

/// Puts an object.
///
/// # Errors
/// `Internal` if the name is taken; `Unavailable`, `Locked` or `Refused` if too few stores take the object. Some may have it then.
pub(super) fn put(members: &Members, object: NewObject<'_>) -> Result<()> {
    let earlier = object.earlier.clone();
    let work = Arc::new(PutWork::new(members, object));
    if let Some(earlier) = earlier.as_ref().filter(|it| !it.is_of_same(&work.tails[0])) {
        clear_way(members, &work.shards, earlier);
    }
    let at_work = Arc::clone(&work);
    let mut question = members.question(false, move |member, store| at_work.put(member, store));
    let mut rest = work.shards.holders.iter().copied();
    for member in rest.by_ref() {
        question.ask(member);
        let is_decided =
            question.next(FIRST).is_some_and(|number| matches!(question.answers[number], Some(Ok(_))));
        if is_decided {
            break;
        }
    }
    let is_other = |it: &Option<Result<Put>>| matches!(it, Some(Ok(Put::Other)));
    let is_good = |it: &Put| *it != Put::Other;
    if !question.answers.iter().any(is_other) {
        rest.for_each(|member| question.ask(member));
    }
    question.wait(members.dispersal.policy.quorum(), PATIENCE, is_good);
    PutEnd { members, work: &work, earlier, answers: std::mem::take(&mut question.answers) }.settle()
}

/// Takes back what an earlier put of this process has left, if nobody can have taken that for an object.
fn clear_way(members: &Members, shards: &Shards, earlier: &Tail) {
    if judge_all(members, shards, &look_at_all(members, shards)) == Verdict::IsNot {
        withdraw(members, shards, earlier, &shards.holders);
    }
}

/// A put after the answers of the stores.
struct PutEnd<'a> {
    members: &'a Members,
    work: &'a Arc<PutWork>,
    earlier: Option<Tail>,
    answers: Answers<Put>,
}

impl PutEnd<'_> {
    fn count(&self, wanted: Put) -> usize {
        self.answers.iter().flatten().filter(|it| it.as_ref().is_ok_and(|it| *it == wanted)).count()
    }

    fn name(&self) -> &ObjectName {
        self.work.shards.name()
    }

    fn taken(&self) -> Error {
        Error::internal(format!("{} exists already; objects are written once", self.name()))
    }

    fn settle(self) -> Result<()> {
        if self.count(Put::New) + self.count(Put::Known) >= self.members.dispersal.policy.quorum() {
            let is_own = self.earlier.as_ref().is_some_and(|it| it.is_of_same(&self.work.tails[0]));
            return if self.count(Put::New) > 0 || is_own { Ok(()) } else { Err(self.taken()) };
        }
        if self.count(Put::Other) > 0 { self.give_way() } else { Err(self.too_few()) }
    }

    fn too_few(&self) -> Error {
        let has = self.count(Put::New) + self.count(Put::Known);
        let is = |kind: Kind| {
            self.answers.iter().flatten().any(|it| it.as_ref().is_err_and(|it| it.kind() == kind))
        };
        let kind =
            [Kind::Locked, Kind::Refused].into_iter().find(|kind| is(*kind)).unwrap_or(Kind::Unavailable);
        let (all, needed) = (self.members.all.len(), self.members.dispersal.policy.quorum());
        Error::new(
            kind,
            format!(
                "{has} of {all} stores have {}, and {needed} must; start the same command again once they answer: {}",
                self.name(),
                first_error(&self.answers)
            ),
        )
    }

    /// Other bytes are in the way. If they are an object, or may be one, this put has come too late, and makes that object
    /// whole, as its own put may have been cut short. If they are no object, another put is on its way, or was cut short.
    fn give_way(self) -> Result<()> {
        let begun = ambient::instant();
        loop {
            let shards = Shards::new(self.members, self.name());
            let parts = look_at_all(self.members, &shards);
            let own = &self.work.tails[0];
            match judge_all(self.members, &shards, &parts) {
                Verdict::Is(tail) if tail.is_of_same(own) => return Err(self.too_few()),
                Verdict::Is(tail) => {
                    let tail = tail.clone();
                    self.withdraw_new(&shards);
                    let missing: Vec<_> =
                        (0..parts.len()).filter(|place| parts[*place].is_free_for(&tail, own)).collect();
                    let held =
                        parts.iter().filter(|it| it.tail().is_some_and(|it| it.is_of_same(&tail))).count();
                    let filled = fill(self.members, &shards, &tail, &missing)?;
                    let now = held + filled.iter().filter(|(_, done)| done.is_ok()).count();
                    return Err(if now >= self.members.dispersal.policy.quorum() {
                        self.taken()
                    } else {
                        self.too_few()
                    });
                }
                Verdict::Unclear => return Err(self.too_few()),
                Verdict::IsNot if begun.elapsed() < RACE => std::thread::sleep(Duration::from_millis(50)),
                Verdict::IsNot => {
                    self.withdraw_new(&shards);
                    return Err(self.too_few());
                }
            }
        }
    }

    /// Takes back what this put has put, which is in too few stores to be an object.
    fn withdraw_new(&self, shards: &Shards) {
        let is_new = |number: &usize| matches!(self.answers[*number], Some(Ok(Put::New)));
        let new: Vec<_> = self.members.numbers().into_iter().filter(is_new).collect();
        withdraw(self.members, shards, &self.work.tails[0], &new);
    }
}
