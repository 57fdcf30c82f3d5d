//! Reads ranges of an object from its shards.
//!
//! If all is well, only the pieces that a range lies in are fetched, and they hold its bytes. Where a store lacks its shard,
//! has a damaged one or is slow, any other k shards give the stripes.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::code::{Code, RUN, Stripes};
use super::members::{Heard, Members};
use super::policy::is_coded;
use super::shard::{OpenShard, Tail, fault, shard_name};
use super::versions::{Verdict, judge};
use crate::error::{Error, Kind, Result};
use crate::store::{Object, ObjectName, Store};

/// A store that takes longer than this for a range is slow: other stores are asked for other shards.
const PATIENCE: Duration = Duration::from_millis(700);

/// The number of pieces that are kept of what was read last, since ranges that follow each other share pieces.
const RECENT: usize = 32;

/// The shards of an object, opened as they are needed. The shard at a place lies in the store at the same place of `holders`.
#[derive(Clone, Debug)]
pub(super) struct Shards {
    members: Members,
    name: ObjectName,
    pub code: Code,
    pub holders: Vec<usize>,
    open: Arc<Vec<Mutex<Option<Arc<OpenShard>>>>>,
}

impl Shards {
    pub fn new(members: &Members, name: &ObjectName) -> Shards {
        let holders = members.ranked(name);
        let code = members.dispersal.policy.code_of(name.kind());
        let open = Arc::new(holders.iter().map(|_| Mutex::default()).collect());
        Shards { members: members.clone(), name: name.clone(), code, holders, open }
    }

    pub fn name(&self) -> &ObjectName {
        &self.name
    }

    /// The number of the shard at a place: all copies are called alike.
    pub fn number(&self, place: usize) -> usize {
        if is_coded(self.name.kind()) { place } else { 0 }
    }

    /// The place of a store among the holders.
    pub fn place(&self, member: usize) -> usize {
        self.holders.iter().position(|holder| *holder == member).expect("each store is ranked")
    }

    /// The name of the shard at a place.
    pub fn shard(&self, place: usize) -> ObjectName {
        shard_name(&self.name, self.number(place))
    }

    /// Opens a shard, if that was not done before; `None` if it is not there.
    ///
    /// # Errors
    /// `Damaged` if the shard is, or is one of other bytes; `Unavailable` if the store does not answer.
    pub fn open(
        &self,
        store: &dyn Store,
        place: usize,
        like: Option<&Tail>,
    ) -> Result<Option<Arc<OpenShard>>> {
        let mut open = self.open[place].lock().unwrap_or_else(PoisonError::into_inner);
        if open.is_none() {
            *open = OpenShard::open(store, &self.name, self.number(place))?.map(Arc::new);
        }
        let locate = || store.locate(&self.shard(place));
        match &*open {
            Some(shard)
                if like.is_some_and(|like| !shard.tail.is_of_same(like)) || shard.tail.code != self.code =>
            {
                Err(Error::damaged(format!("{} is a shard of other bytes than the others", locate())))
            }
            open => Ok(open.clone()),
        }
    }

    /// Reads a run of stripes from a shard; `None` if the shard is not there.
    ///
    /// # Errors
    /// Fails as [`Shards::open`] does, and `Damaged` if a piece is.
    pub fn read(
        &self,
        store: &dyn Store,
        place: usize,
        like: &Tail,
        run: &Range<u64>,
    ) -> Result<Option<Vec<u8>>> {
        let Some(shard) = self.open(store, place, Some(like))? else { return Ok(None) };
        let failed = |error| fault(store, &self.shard(place), error);
        shard.read(run).map(Some).map_err(failed)
    }

    /// The stores in the order in which they are read from.
    fn order(&self) -> Vec<usize> {
        // The end of an object is read first, most often, and lies in the last of the data shards.
        let (data, other) = self.holders.split_at(self.code.k);
        let mut order: Vec<_> = data.iter().rev().chain(other).copied().collect();
        order.sort_by_key(|member| self.members.all[*member].is_last_choice());
        order
    }

    /// Reads a run of stripes from any k shards, and returns all data shards.
    ///
    /// # Errors
    /// `Damaged` if fewer than k are sound, `Unavailable` if too many stores do not answer.
    pub fn restore(&self, like: &Tail, run: &Range<u64>) -> Result<Vec<Vec<u8>>> {
        let (k, shards, like, run) = (self.code.k, self.clone(), like.clone(), run.clone());
        let job =
            move |member: usize, store: &dyn Store| shards.read(store, shards.place(member), &like, &run);
        let is_enough = |heard: &Heard<_>| (heard.good.len() >= k).then_some(());
        let (_, heard) = self.members.race(&self.order(), k, PATIENCE, job, is_enough);
        if heard.good.len() < k {
            return Err(self.too_few(heard));
        }
        let mut found = vec![None; self.holders.len()];
        heard.good.into_iter().for_each(|(member, bytes)| found[self.place(member)] = Some(bytes));
        self.code.decode(&mut found)?;
        Ok(found.into_iter().take(k).flatten().collect())
    }

    /// The error for an object of which too few shards can be read.
    fn too_few<T>(&self, heard: Heard<T>) -> Error {
        let (k, good, away) = (self.code.k, heard.good.len(), heard.away);
        let kind = if good + away < k { Kind::Damaged } else { Kind::Unavailable };
        let next = if kind == Kind::Damaged { "see backwhen verify" } else { "try again once they answer" };
        let error = Error::new(
            kind,
            format!(
                "{} needs {k} of its {} shards, and {good} can be read: {} are missing, {} damaged, and {away} stores do not \
                 answer; {next}",
                self.name,
                self.holders.len(),
                heard.missing,
                heard.damaged
            ),
        );
        match heard.why {
            Some(why) => error.caused_by(why),
            None => error,
        }
    }

    /// Finds out which object lies under the name; `None` if there is none.
    ///
    /// # Errors
    /// `Damaged` if no shard is sound, `Unavailable` if too many stores do not answer.
    pub fn look(&self) -> Result<Option<Tail>> {
        let (policy, kind, shards) = (self.members.dispersal.policy, self.name.kind(), self.clone());
        let job = move |member: usize, store: &dyn Store| {
            Ok(shards.open(store, shards.place(member), None)?.map(|shard| shard.tail.clone()))
        };
        let judged = |heard: &Heard<Tail>, is_all: bool| {
            let unknown = policy.stores() - heard.good.len() - heard.missing;
            match judge(policy, kind, heard.good.values(), unknown, is_all) {
                Verdict::Is(tail) => Some(Some(tail.clone())),
                Verdict::IsNot => Some(None),
                Verdict::Unclear => None,
            }
        };
        let first = policy.first_readers(kind);
        let (found, heard) =
            self.members.race(&self.order(), first, PATIENCE, job, |heard| judged(heard, false));
        match found.or_else(|| judged(&heard, true)) {
            Some(found) => Ok(found),
            None => Err(self.too_few(heard)),
        }
    }
}

/// An object that is open for reading.
#[derive(Debug)]
pub(super) struct DispersedObject {
    shards: Shards,
    tail: Tail,
    /// Pieces that were read last, by their stripes and data shards.
    recent: Mutex<VecDeque<((u64, usize), Arc<[u8]>)>>,
}

impl DispersedObject {
    /// Opens an object; `None` if it is not there.
    ///
    /// # Errors
    /// Fails as [`Shards::look`] does.
    pub fn open(members: &Members, name: &ObjectName) -> Result<Option<DispersedObject>> {
        let shards = Shards::new(members, name);
        Ok(shards.look()?.map(|tail| DispersedObject { shards, tail, recent: Mutex::default() }))
    }

    fn stripes(&self) -> Stripes {
        Stripes::new(self.shards.code, self.tail.len)
    }

    /// Reads the runs of stripes from those shards that hold the wanted bytes as they are; `None` if one of their stores fails
    /// or is slow.
    fn fetch_plain(&self, needed: &[(usize, Range<u64>)]) -> Option<Vec<(usize, Range<u64>, Vec<u8>)>> {
        let holders: Vec<_> = needed.iter().map(|(place, _)| self.shards.holders[*place]).collect();
        if holders.iter().any(|member| self.shards.members.all[*member].is_last_choice()) {
            return None;
        }
        let (shards, like) = (self.shards.clone(), self.tail.clone());
        let runs: BTreeMap<_, _> = needed.iter().cloned().collect();
        let job = move |member: usize, store: &dyn Store| {
            let place = shards.place(member);
            shards.read(store, place, &like, &runs[&place])
        };
        let decide = |heard: &Heard<_>| {
            let is_all = heard.good.len() == holders.len();
            let has_failed = heard.is_late || heard.missing + heard.damaged + heard.away > 0;
            (is_all || has_failed).then_some(is_all)
        };
        let (done, mut heard) = self.shards.members.race(&holders, holders.len(), PATIENCE, job, decide);
        if done != Some(true) {
            return None;
        }
        let given = needed.iter().zip(&holders);
        Some(
            given
                .filter_map(|((place, run), holder)| Some((*place, run.clone(), heard.good.remove(holder)?)))
                .collect(),
        )
    }

    /// Returns data shards, each with a run of stripes in which the pieces lie that are asked for.
    fn fetch(&self, needed: &[(usize, Range<u64>)]) -> Result<Vec<(usize, Range<u64>, Vec<u8>)>> {
        if let Some(plain) = self.fetch_plain(needed) {
            return Ok(plain);
        }
        let begin = needed.iter().map(|(_, run)| run.start).min().unwrap_or(0);
        let run = begin..needed.iter().map(|(_, run)| run.end).max().unwrap_or(0);
        let restored = self.shards.restore(&self.tail, &run)?;
        Ok(restored.into_iter().enumerate().map(|(place, bytes)| (place, run.clone(), bytes)).collect())
    }

    /// Fills `target` with a range that lies in few stripes.
    fn read(&self, range: &Range<u64>, target: &mut [u8]) -> Result<()> {
        let (stripes, mut needed) = (self.stripes(), self.stripes().needed(range));
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner).clone();
        needed.retain(|(place, run)| {
            let is_known = |stripe| recent.iter().any(|(key, _)| *key == (stripe, *place));
            !run.clone().all(is_known)
        });
        if !needed.is_empty() {
            for (place, run, bytes) in self.fetch(&needed)? {
                let begin = stripes.offset(run.start);
                for stripe in run {
                    let piece = (stripes.offset(stripe) - begin) as usize
                        ..(stripes.offset(stripe + 1) - begin) as usize;
                    recent.push_back(((stripe, place), Arc::from(&bytes[piece])));
                }
            }
        }
        for ((stripe, place), piece) in &recent {
            stripes.place(*stripe, *place, piece, range, target);
        }
        recent.drain(..recent.len().saturating_sub(RECENT));
        *self.recent.lock().unwrap_or_else(PoisonError::into_inner) = recent;
        Ok(())
    }
}

impl Object for DispersedObject {
    fn size(&self) -> u64 {
        self.tail.len
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= self.tail.len);
        let end = end.ok_or_else(|| io::Error::from(ErrorKind::UnexpectedEof))?;
        let (stripes, mut at) = (self.stripes(), offset);
        while at < end {
            let first = stripes.around(&(at..at + 1)).start;
            let to = stripes.bytes(&(first..first + RUN)).end.min(end);
            let part = &mut bytes[(at - offset) as usize..(to - offset) as usize];
            self.read(&(at..to), part).map_err(|error| match error.kind() {
                Kind::Damaged => io::Error::new(ErrorKind::InvalidData, error),
                _ => io::Error::other(error),
            })?;
            at = to;
        }
        Ok(())
    }
}
