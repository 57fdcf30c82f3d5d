//! Finds out what each store lacks or has damaged, and makes it again from the others.
//!
//! Shards are written once, under the condition that their name is free, so several processes may repair at once.

use serde::Serialize;

use super::code::Stripes;
use super::members::{Member, Members};
use super::object::Shards;
use super::shard::{RUN, ShardWriter, Tail, fault, shard_name};
use super::{Dispersed, lock};
use crate::error::{Error, Kind, Result};
use crate::progress::{Progress, Unit};
use crate::store::{NewFile, ObjectKind, ObjectName, Role};

/// Whoever repairs waits so long for an expiry that is at work.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// What one of the stores has of the objects.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StoreState {
    pub store: String,
    /// Why nothing is known of the store.
    pub away: Option<String>,
    /// The number of shards and copies that are not there.
    pub lacks: u64,
    /// The number of those that are damaged.
    pub damaged: u64,
    /// The number of those that were made again.
    pub healed: u64,
}

/// What all stores have, by reading all of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Survey {
    pub stores: Vec<StoreState>,
    /// The number of any further stores whose loss would leave every object whole.
    pub could_lose: usize,
    /// Why objects are lost, or could not be made whole again.
    pub faults: Vec<String>,
}

/// The state of one shard of an object.
#[derive(Debug)]
enum Found {
    Sound(Tail),
    Missing,
    Damaged,
    Away(String),
}

impl Dispersed {
    /// Reads every shard of every object. With `heal`, what a store lacks or has damaged is made again, and an empty store
    /// that stands in the place of a lost one gets its mark.
    ///
    /// # Errors
    /// `Unavailable` if more than m stores do not answer, `Locked` if an expiry is at work, `Refused` if something else lies in
    /// one of the stores.
    pub fn survey(&self, heal: bool, progress: &dyn Progress) -> Result<Survey> {
        let members =
            self.members()?.ok_or_else(|| Error::refused("no history is dispersed over these stores yet"))?;
        if heal {
            self.mark_empty(&members)?;
        }
        // An object must not be removed while its shards are made again.
        let _objects = if heal { self.lease_shared(Role::Objects, PATIENCE)? } else { None };
        let (counts, _) = self.shards(&members)?;
        let names: Vec<_> = counts.into_keys().collect();
        let stores =
            members.all.iter().map(|it| StoreState { store: it.url.clone(), ..StoreState::default() });
        let mut survey =
            Survey { stores: stores.collect(), could_lose: self.code.shards(), faults: Vec::new() };
        progress.phase("reading shards", names.len() as u64, Unit::Objects);
        for name in names {
            self.object_state(&members, &name, heal, &mut survey)?;
            progress.advance(1);
        }
        Ok(survey)
    }

    /// Gives each empty store its mark.
    fn mark_empty(&self, members: &Members) -> Result<()> {
        let empty = |member: &&std::sync::Arc<Member>| matches!(member.mark(), Ok(None));
        members.all.iter().filter(empty).try_for_each(|member| {
            member.begin(&members.id, members.code)?;
            member.come_back();
            Ok(())
        })
    }

    fn object_state(
        &self,
        members: &Members,
        name: &ObjectName,
        heal: bool,
        survey: &mut Survey,
    ) -> Result<()> {
        let shards = Shards::new(members, name);
        let mut found: Vec<_> =
            (0..shards.holders.len()).map(|place| look(members, &shards, name, place)).collect();
        let Some(like) = most_common(&found) else {
            // Leftovers of a put or of a removal that was cut short are no damage.
            if found.iter().any(|it| matches!(it, Found::Damaged)) {
                survey.faults.push(format!("{name} is lost: no store has a sound shard of it"));
                survey.could_lose = 0;
            }
            return Ok(());
        };
        for state in &mut found {
            if matches!(state, Found::Sound(tail) if !tail.is_of_same(&like)) {
                *state = Found::Damaged;
            }
        }
        let sound = found.iter().filter(|it| matches!(it, Found::Sound(_))).count();
        let away = found.iter().filter(|it| matches!(it, Found::Away(_))).count();
        let needed = self.needed(name.kind());
        let mut kept = sound;
        for (place, state) in found.iter().enumerate() {
            let store = &mut survey.stores[shards.holders[place]];
            match state {
                Found::Sound(_) => {}
                Found::Missing => store.lacks += 1,
                Found::Damaged => store.damaged += 1,
                Found::Away(why) => store.away = Some(why.clone()),
            }
        }
        let is_damaged = found.iter().any(|it| matches!(it, Found::Damaged));
        if sound < needed {
            if away == 0 && !is_damaged {
                return Ok(());
            }
            survey.faults.push(format!(
                "{name} cannot be read: {sound} of the {needed} shards that it takes are sound"
            ));
            survey.could_lose = 0;
            return Ok(());
        }
        if heal && found.iter().any(|it| matches!(it, Found::Missing | Found::Damaged)) {
            for (place, done) in make_again(members, &shards, name, &like, &found)? {
                match done {
                    Ok(()) => {
                        kept += 1;
                        survey.stores[shards.holders[place]].healed += 1;
                    }
                    Err(error) => survey.faults.push(format!("{name} was not made whole: {error}")),
                }
            }
            lock(&self.unfinished).remove(name);
        }
        survey.could_lose = survey.could_lose.min(kept - needed);
        Ok(())
    }
}

/// The tail that most of the sound shards share.
fn most_common(found: &[Found]) -> Option<Tail> {
    let tails = || found.iter().filter_map(|it| if let Found::Sound(tail) = it { Some(tail) } else { None });
    tails().max_by_key(|one| tails().filter(|other| one.is_of_same(other)).count()).cloned()
}

/// Reads all of a shard.
fn look(members: &Members, shards: &Shards, name: &ObjectName, place: usize) -> Found {
    let number = shards.number(place);
    let looked = members.ask_one(shards.holders[place], |store| {
        let Some(shard) = shards.open(store, place, None)? else { return Ok(None) };
        shard.check().map_err(|error| fault(store, &shard_name(name, number), error))?;
        Ok(Some(shard.tail.clone()))
    });
    match looked {
        Ok(Some(tail)) => Found::Sound(tail),
        Ok(None) => Found::Missing,
        Err(error) if error.kind() == Kind::Damaged => Found::Damaged,
        Err(error) => Found::Away(error.to_string()),
    }
}

/// Makes the missing and damaged shards of an object again, and tells how that went for each.
fn make_again(
    members: &Members,
    shards: &Shards,
    name: &ObjectName,
    like: &Tail,
    found: &[Found],
) -> Result<Vec<(usize, Result<()>)>> {
    let stripes = Stripes::new(shards.code, like.len);
    let wanted = |place: usize| matches!(found[place], Found::Missing | Found::Damaged);
    let draft = |place: usize| -> Option<NewFile> {
        let member = shards.holders[place];
        members.ask_one(member, |store| store.draft(ObjectKind::Shard)).ok().filter(|_| wanted(place))
    };
    let mut writer = ShardWriter::new(shards.code, (0..found.len()).map(draft).collect());
    for begin in (0..stripes.count()).step_by(RUN as usize) {
        let run = begin..stripes.count().min(begin + RUN);
        let data = shards.restore(like, &run)?;
        writer.write(stripes, &run, data)?;
    }
    let mut done = Vec::new();
    for (place, (file, _)) in writer.finish(name, like.len, like.whole)?.into_iter().enumerate() {
        let Some(file) = file else { continue };
        let shard = shard_name(name, shards.number(place));
        let put = members.ask_one(shards.holders[place], |store| {
            crate::ambient::pass("disperse.repair")?;
            if matches!(found[place], Found::Damaged) {
                store.set_aside(&shard)?;
            }
            match store.put_file(&shard, file) {
                // Another process has made it again meanwhile.
                Err(error) if error.kind() == Kind::Internal && store.holds(&shard)? => Ok(()),
                put => put,
            }
        });
        done.push((place, put));
    }
    Ok(done)
}
