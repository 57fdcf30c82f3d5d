//! Counts what each store has of a dispersed history, and what would be lost with it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::census::Census;
use super::heal::{self, Part};
use super::members::Members;
use super::object::Shards;
use super::shard::Tail;
use super::versions::Verdict;
use super::{Dispersed, lock};
use crate::error::{Error, Result};
use crate::progress::{Progress, Unit};
use crate::store::{ObjectKind, ObjectName, Role};

/// Once enough stores have been listed, the others have this time. Who only reads waits for less.
const LISTING: Duration = Duration::from_secs(3);

/// Whoever repairs waits so long for an expiry that is at work.
const PATIENCE: Duration = Duration::from_secs(60);

/// The findings about one of the stores.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StoreState {
    pub store: String,
    /// The reason why the store could not be asked.
    pub away: Option<String>,
    /// The number of objects of which the store has no shard or copy.
    pub lacks: u64,
    /// The number of objects of which the store's shard or copy is damaged, or of other bytes; 0 if only lists were read.
    pub damaged: u64,
    /// The number of shards and copies that were made again.
    pub healed: u64,
    /// The number of objects that could no longer be read if this store were lost now.
    pub would_lose: u64,
}

/// The findings about all stores.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Survey {
    /// The number of stores that give an object, and of those that may be lost.
    pub k: usize,
    pub m: usize,
    pub objects: u64,
    /// The number of any further stores whose loss would leave every object whole.
    pub could_lose: usize,
    pub stores: Vec<StoreState>,
    /// Shards that make no object: of puts and removals that were cut short. The next `copy` or capture removes them.
    pub remnants: u64,
    /// Sentences about shards that could not be made again now, though their objects can be read.
    pub not_healed: Vec<String>,
    /// Sentences about objects that are lost.
    pub faults: Vec<String>,
}

impl Survey {
    fn new(members: &Members) -> Survey {
        let code = members.dispersal.policy.code;
        let stores =
            members.all.iter().map(|it| StoreState { store: it.url.clone(), ..StoreState::default() });
        Survey { k: code.k, m: code.m, could_lose: code.m, stores: stores.collect(), ..Survey::default() }
    }

    /// Whether every store has all that belongs there.
    pub fn is_whole(&self) -> bool {
        self.faults.is_empty()
            && self.not_healed.is_empty()
            && self.stores.iter().all(|it| it.away.is_none() && it.lacks + it.damaged <= it.healed)
    }

    /// Counts an object that can be read from any `needed` of the stores in `sound`.
    fn count(&mut self, sound: &[usize], needed: usize) {
        self.objects += 1;
        self.could_lose = self.could_lose.min(sound.len().saturating_sub(needed));
        if sound.len() == needed {
            sound.iter().for_each(|number| self.stores[*number].would_lose += 1);
        }
    }

    fn count_remnants(&mut self, census: &Census) {
        let of_kind = |kind| census.remnants(kind).map(|(_, holders)| holders.len() as u64).sum::<u64>();
        self.remnants = ObjectKind::ALL.into_iter().chain([ObjectKind::StoreKey]).map(of_kind).sum();
    }
}

impl Dispersed {
    /// Tells what the stores have by their lists alone, and reads no object.
    ///
    /// # Errors
    /// `Unavailable` if more than m stores do not answer, `Refused` if there is no dispersed history yet.
    pub fn glance(&self) -> Result<Survey> {
        let members = self.begun()?;
        let (mut survey, policy) = (Survey::new(&members), members.dispersal.policy);
        let census = Census::take(&members, policy.code.k, LISTING)?;
        for (number, why) in &census.away {
            survey.stores[*number].away = Some(why.clone());
        }
        for (name, holders) in census.objects() {
            let lacks = members
                .numbers()
                .into_iter()
                .filter(|it| !holders.contains(it) && !census.away.contains_key(it));
            lacks.for_each(|number| survey.stores[number].lacks += 1);
            survey.count(holders, policy.code_of(name.kind()).k);
        }
        survey.count_remnants(&census);
        Ok(survey)
    }

    /// Reads every shard of every object.
    ///
    /// # Errors
    /// The errors of [`Dispersed::glance`].
    pub fn survey(&self, progress: &dyn Progress) -> Result<Survey> {
        self.examine(&self.begun()?, false, progress)
    }

    /// Makes again what the stores lack or have damaged. The stores that are named in `refill` are new and empty: they stand in
    /// the place of lost ones, and get all that belongs there.
    ///
    /// # Errors
    /// The errors of [`Dispersed::glance`]; `Locked` if an expiry is at work, `Usage` if a name in `refill` is none of the stores, `Refused` if
    /// something else lies in one of these.
    pub fn heal(&self, refill: &[String], progress: &dyn Progress) -> Result<Survey> {
        let members = self.begun()?;
        for url in refill {
            let member = members
                .all
                .iter()
                .find(|member| member.url.trim_end_matches('/') == url.trim_end_matches('/'));
            let member = member.ok_or_else(|| {
                Error::usage(format!(
                    "{url} is none of the stores; name one as it stands in the history's address"
                ))
            })?;
            member.begin(&members.dispersal)?;
        }
        self.examine(&members, true, progress)
    }

    fn begun(&self) -> Result<Members> {
        self.members()?.ok_or_else(|| {
            Error::refused(
                "no history is dispersed over these stores yet; make one with: backwhen copy --to disperse:…",
            )
        })
    }

    fn examine(&self, members: &Members, is_to_heal: bool, progress: &dyn Progress) -> Result<Survey> {
        // An object must not be removed while its shards are made again.
        let _objects = self.lease_shared(Role::Objects, PATIENCE)?;
        let census = Census::take(members, members.dispersal.policy.quorum(), LISTING)?;
        let mut survey = Survey::new(members);
        survey.count_remnants(&census);
        let names: Vec<_> = census.objects().map(|(name, _)| name.clone()).collect();
        progress.phase("reading shards", names.len() as u64, Unit::Objects);
        for name in names {
            self.examine_object(members, &name, is_to_heal, &mut survey)?;
            progress.advance(1);
        }
        Ok(survey)
    }

    fn examine_object(
        &self,
        members: &Members,
        name: &ObjectName,
        is_to_heal: bool,
        survey: &mut Survey,
    ) -> Result<()> {
        let shards = Shards::new(members, name);
        let mut object = Examined::read(members, &shards);
        let Some(like) = object.like.clone() else {
            // A put or a removal of another process is on its way; the lists were older.
            if object.is_lost {
                survey.faults.push(format!(
                    "{name} cannot be read: too few of its shards are sound; bring back the stores that are away, or make a new copy with: \
                     backwhen copy"
                ));
                survey.could_lose = 0;
            }
            return Ok(());
        };
        object.note(&shards, survey);
        if is_to_heal {
            for (place, done) in object.heal(members, &shards, &like)? {
                match done {
                    Ok(()) => {
                        survey.stores[shards.holders[place]].healed += 1;
                        object.parts.insert(place, Part::Sound(like.clone()));
                    }
                    Err(error) => survey.not_healed.push(format!("{name} was not made whole: {error}")),
                }
            }
            lock(&self.unfinished).remove(name);
        }
        survey.count(&object.sound(&shards), shards.code.k);
        Ok(())
    }

    /// Makes the objects whole that are in fewer stores than a quorum, as an earlier process left them. From then on, every object
    /// that is listed is in as many stores as one that this process puts.
    ///
    /// # Errors
    /// `Unavailable` if too few stores answer, `Locked` if an expiry is at work.
    pub(super) fn strengthen(&self, members: &Members) -> Result<()> {
        let policy = members.dispersal.policy;
        let census = Census::take(members, policy.quorum(), LISTING)?;
        let weak: Vec<_> = census.objects().filter(|(_, holders)| holders.len() < policy.quorum()).collect();
        if weak.is_empty() {
            return Ok(());
        }
        tracing::info!("{} objects are in too few stores, and are put into the others", weak.len());
        let _objects = self.lease_shared(Role::Objects, PATIENCE)?;
        for (name, _) in weak {
            let shards = Shards::new(members, name);
            let object = Examined::look(members, &shards);
            let Some(like) = &object.like else {
                object.check_may_be_left(name)?;
                continue;
            };
            let before = object.sound(&shards).len();
            let healed = object.heal(members, &shards, like)?;
            let now = before + healed.iter().filter(|(_, done)| done.is_ok()).count();
            if now < policy.quorum() {
                let why = healed
                    .into_iter()
                    .find_map(|(_, done)| done.err())
                    .map_or_else(String::new, |it| it.to_string());
                return Err(Error::unavailable(format!(
                    "{name} is in {now} stores, and {} must have it before this command goes on; try again once all answer: {why}",
                    policy.quorum()
                )));
            }
        }
        Ok(())
    }

    /// Removes the shards of puts and removals that were cut short.
    pub(super) fn remove_remnants(&self, members: &Members, kind: ObjectKind) -> Result<()> {
        let census = Census::take(members, members.dispersal.policy.quorum(), LISTING)?;
        let mut going: BTreeMap<usize, Vec<ObjectName>> = BTreeMap::new();
        for (name, holders) in census.remnants(kind) {
            let shards = Shards::new(members, name);
            for number in holders {
                going.entry(*number).or_default().push(shards.shard(shards.place(*number)));
            }
        }
        let which: Vec<_> = going.keys().copied().collect();
        members.ask_all(&which, PATIENCE, move |number, store| store.remove(&going[&number]));
        Ok(())
    }
}

/// One object, as all stores have it.
struct Examined {
    /// The parts, by the places of the stores.
    parts: BTreeMap<usize, Part>,
    /// The tail of the object; `None` if there is none, or if it cannot be told.
    like: Option<Tail>,
    /// Whether there should be an object that cannot be read.
    is_lost: bool,
}

impl Examined {
    fn read(members: &Members, shards: &Shards) -> Examined {
        Examined::of(members, shards, heal::read_all(members, shards))
    }

    fn look(members: &Members, shards: &Shards) -> Examined {
        Examined::of(members, shards, heal::look_at_all(members, shards))
    }

    fn of(members: &Members, shards: &Shards, parts: Vec<Part>) -> Examined {
        let sound =
            |like: &Tail| parts.iter().filter_map(Part::tail).filter(|it| it.is_of_same(like)).count();
        let (like, is_lost) = match heal::judge_all(members, shards, &parts) {
            Verdict::Is(tail) if sound(tail) >= shards.code.k => (Some(tail.clone()), false),
            Verdict::Is(_) | Verdict::Unclear => (None, true),
            Verdict::IsNot => (None, false),
        };
        Examined { parts: parts.into_iter().enumerate().collect(), like, is_lost }
    }

    /// Checks that an object of which too few parts are known may stay as it is.
    ///
    /// # Errors
    /// `Unavailable` if stores that are away may have the others. What is only damaged is told by `verify`.
    fn check_may_be_left(&self, name: &ObjectName) -> Result<()> {
        let away =
            self.parts.values().find_map(|part| if let Part::Away(why) = part { Some(why) } else { None });
        match away {
            Some(why) if self.is_lost => Err(Error::unavailable(format!(
                "{name} was put into too few stores, and the others do not tell whether it is there; try again once they answer: {why}"
            ))),
            _ => Ok(()),
        }
    }

    fn is_sound(&self, part: &Part) -> bool {
        part.tail().is_some_and(|tail| self.like.as_ref().is_some_and(|like| tail.is_of_same(like)))
    }

    /// The numbers of the stores whose shard is sound.
    fn sound(&self, shards: &Shards) -> Vec<usize> {
        let sound = self.parts.iter().filter(|(_, part)| self.is_sound(part));
        sound.map(|(place, _)| shards.holders[*place]).collect()
    }

    fn note(&self, shards: &Shards, survey: &mut Survey) {
        for (place, part) in &self.parts {
            let store = &mut survey.stores[shards.holders[*place]];
            match part {
                Part::Missing => store.lacks += 1,
                Part::Away(why) => store.away = Some(why.clone()),
                Part::Damaged => store.damaged += 1,
                Part::Sound(_) => store.damaged += u64::from(!self.is_sound(part)),
            }
        }
    }

    /// Puts the shards that are missing, and replaces those that are damaged.
    fn heal(&self, members: &Members, shards: &Shards, like: &Tail) -> Result<heal::Filled> {
        let places = |is_wanted: &dyn Fn(&Part) -> bool| -> Vec<usize> {
            self.parts.iter().filter(|(_, part)| is_wanted(part)).map(|(place, _)| *place).collect()
        };
        let missing = places(&|part| matches!(part, Part::Missing));
        let is_bad =
            |part: &Part| matches!(part, Part::Damaged) || part.tail().is_some() && !self.is_sound(part);
        let mut healed = heal::fill(members, shards, like, &missing)?;
        healed.extend(heal::replace(members, shards, like, &places(&is_bad))?);
        Ok(healed)
    }
}
