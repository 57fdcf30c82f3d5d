//! Puts an object into all stores.
//!
//! A name can be had only once, also by two processes that do not see the same stores: a put has done well only if all
//! stores but those that are tolerated have these bytes, and of any two such sets of stores one store is in both. The store
//! that comes first for a name is asked before the others, so that of two puts that race one wins.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::members::{Answers, Members, first_error};
use super::object::Shards;
use super::shard::{OpenShard, Tail, shard_name, write_shards};
use crate::ambient;
use crate::error::{Error, Kind, Result};
use crate::store::{NewFile, ObjectKind, ObjectName, Store};

/// Once enough stores have an object, the others have this time to take it too.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a store made of a put.
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
    name: ObjectName,
    shards: Shards,
    /// By the place of each store: the file that is still to be put, and the tail by which equal bytes are known.
    files: Vec<Mutex<Option<NewFile>>>,
    tails: Vec<Tail>,
}

impl PutWork {
    fn put(&self, place: usize, store: &dyn Store) -> Result<Put> {
        let number = self.shards.number(place);
        let file = self.files[place].lock().unwrap_or_else(PoisonError::into_inner).take();
        let file = file.ok_or_else(|| Error::unavailable("the store was away when the object was made"))?;
        ambient::pass("disperse.put")?;
        match store.put_file(&shard_name(&self.name, number), file) {
            Ok(()) => Ok(Put::New),
            Err(error) if error.kind() == Kind::Internal => {
                match OpenShard::open(store, &self.name, number) {
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

/// Puts an object of `len` bytes. `tolerate` stores may lack it.
///
/// # Errors
/// `Internal` if the name is taken, `Unavailable` or `Locked` if too few stores take the object. In this case some may have it,
/// and the same put makes it whole.
pub(super) fn put(
    members: &Members,
    tolerate: usize,
    name: &ObjectName,
    source: &mut dyn Read,
    len: u64,
) -> Result<()> {
    name.check()?;
    let shards = Shards::new(members, name);
    let draft = |member: &usize| members.ask_one(*member, |store| store.draft(ObjectKind::Shard)).ok();
    let files = shards.holders.iter().map(draft).collect();
    let (files, tails) =
        write_shards(shards.code, name, source, len, files)?.into_iter().unzip::<_, _, Vec<_>, _>();
    let files = files.into_iter().map(Mutex::new).collect();
    let holders = shards.holders.clone();
    let (work, needed) =
        (Arc::new(PutWork { name: name.clone(), shards, files, tails }), holders.len() - tolerate);
    let mut answers: Answers<Put> = holders.iter().map(|_| None).collect();
    let mut rest = holders.iter().copied();
    for member in rest.by_ref() {
        let done = members.ask_one(member, |store| work.put(place(&holders, member), store));
        let is_decided = done.is_ok();
        answers[member] = Some(done);
        if is_decided {
            break;
        }
    }
    if !answers.iter().flatten().any(|answer| matches!(answer, Ok(Put::Other))) {
        let (order, at_work) = (holders.clone(), Arc::clone(&work));
        let job = move |member: usize, store: &dyn Store| at_work.put(place(&order, member), store);
        let others: Vec<_> = rest.collect();
        let enough = needed.saturating_sub(1);
        let given = members.ask(&others, enough, PATIENCE, job);
        given
            .into_iter()
            .enumerate()
            .filter(|(_, it)| it.is_some())
            .for_each(|(member, it)| answers[member] = it);
    }
    outcome(members, name, &answers, needed)
}

fn place(holders: &[usize], member: usize) -> usize {
    holders.iter().position(|holder| *holder == member).expect("each store is ranked")
}

fn outcome(members: &Members, name: &ObjectName, answers: &Answers<Put>, needed: usize) -> Result<()> {
    let count =
        |wanted: Put| answers.iter().flatten().filter(|it| it.as_ref().is_ok_and(|it| *it == wanted)).count();
    let has = count(Put::New) + count(Put::Known);
    if count(Put::Other) > 0 {
        return Err(Error::internal(format!(
            "{name} exists already with other bytes; objects are written once"
        )));
    }
    if has < needed {
        let is_locked = |it: &Result<Put>| it.as_ref().is_err_and(|error| error.kind() == Kind::Locked);
        let is_refused = |it: &Result<Put>| it.as_ref().is_err_and(|error| error.kind() == Kind::Refused);
        let answers_ = || answers.iter().flatten();
        let kind = match (answers_().any(is_locked), answers_().any(is_refused)) {
            (true, _) => Kind::Locked,
            (_, true) => Kind::Refused,
            _ => Kind::Unavailable,
        };
        return Err(Error::new(
            kind,
            format!(
                "{has} of {} stores have {name}, and {needed} must; start the same command again once they answer: {}",
                members.all.len(),
                first_error(answers)
            ),
        ));
    }
    if count(Put::New) == 0 {
        return Err(Error::internal(format!("{name} exists already; objects are written once")));
    }
    for (number, answer) in answers.iter().enumerate() {
        if let Some(Err(error)) = answer {
            tracing::debug!("{} lacks {name}: {error}", members.all[number].url);
        }
    }
    Ok(())
}
