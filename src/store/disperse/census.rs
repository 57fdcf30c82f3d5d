//! Tells which store has a shard of which object, by the lists of the stores.

use std::collections::BTreeMap;
use std::time::Duration;

use super::members::{Answers, Members, failures, first_error};
use super::policy::{Policy, is_coded};
use super::shard::object_of;
use crate::error::{Error, Result};
use crate::store::{ObjectKind, ObjectName};

/// The lists of all stores that answer.
#[derive(Debug)]
pub(super) struct Census {
    policy: Policy,
    /// The stores that have a shard of each object, in which it belongs there.
    pub holders: BTreeMap<ObjectName, Vec<usize>>,
    /// The reason why a store was not listed, by its number.
    pub away: BTreeMap<usize, String>,
}

impl Census {
    /// Lists the stores. Those beyond `enough` have as long as `patience` after these.
    ///
    /// # Errors
    /// `Unavailable` if more than m stores do not answer.
    pub fn take(members: &Members, enough: usize, patience: Duration) -> Result<Census> {
        let lists =
            members.ask(&members.numbers(), enough, patience, |_, store| store.list(ObjectKind::Shard));
        let policy = members.dispersal.policy;
        if failures(&lists) > policy.code.m {
            return Err(too_many_away(policy, &lists));
        }
        let (mut holders, mut away) = (BTreeMap::<_, Vec<_>>::new(), BTreeMap::new());
        for (number, list) in lists.into_iter().enumerate() {
            match list {
                Some(Ok(shards)) => {
                    for (name, index) in shards.iter().filter_map(object_of) {
                        holders.entry(name).or_default().push((number, index));
                    }
                }
                Some(Err(error)) => drop(away.insert(number, error.to_string())),
                None => {}
            }
        }
        let at_their_place = |(name, found): (ObjectName, Vec<(usize, usize)>)| {
            let ranked = members.ranked(&name);
            let belongs =
                |(number, index): &(usize, usize)| !is_coded(name.kind()) || ranked[*index] == *number;
            let found: Vec<_> = found.iter().filter(|it| belongs(it)).map(|(number, _)| *number).collect();
            (name, found)
        };
        Ok(Census { policy, holders: holders.into_iter().map(at_their_place).collect(), away })
    }

    /// Whether so many stores have a part of an object that there is one. Stores that are away may have one too, so that an object
    /// is never passed over in silence.
    pub fn is_object(&self, name: &ObjectName, holders: &[usize]) -> bool {
        !holders.is_empty() && holders.len() + self.away.len() >= self.policy.needed(name.kind())
    }

    /// The objects, with the stores that have parts of each.
    pub fn objects(&self) -> impl Iterator<Item = (&ObjectName, &[usize])> {
        let all = self.holders.iter().map(|(name, holders)| (name, &holders[..]));
        all.filter(|(name, holders)| self.is_object(name, holders))
    }

    /// Names that have shards in so few stores that there is no such object: puts and removals that were cut short.
    pub fn remnants(&self, kind: ObjectKind) -> impl Iterator<Item = (&ObjectName, &[usize])> {
        let all = self.holders.iter().map(|(name, holders)| (name, &holders[..]));
        all.filter(move |(name, holders)| name.kind() == kind && !self.is_object(name, holders))
    }
}

pub(super) fn too_many_away<T>(policy: Policy, answers: &Answers<T>) -> Error {
    Error::unavailable(format!(
        "{} of {} stores do not answer, and at most {} may be away; try again once they answer: {}",
        failures(answers),
        policy.stores(),
        policy.code.m,
        first_error(answers)
    ))
}
