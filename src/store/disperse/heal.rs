//! Makes shards of one object again from the others.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::code::Stripes;
use super::members::Members;
use super::object::Shards;
use super::policy::is_coded;
use super::shard::{OpenShard, Payload, ShardWriter, Sink, Tail, fault};
use super::versions::{Verdict, judge};
use crate::ambient;
use crate::error::{Error, Kind, Result};
use crate::store::{Lease, ObjectKind, Role, Store};

/// A store that has not read, taken or removed one shard within this time counts as away.
const PATIENCE: Duration = Duration::from_secs(300);

/// The part of an object that one store has.
#[derive(Debug)]
pub(super) enum Part {
    /// The tail of a shard, which is sound as far as it was read.
    Sound(Tail),
    Missing,
    Damaged,
    Away(String),
}

impl Part {
    pub fn tail(&self) -> Option<&Tail> {
        if let Part::Sound(tail) = self { Some(tail) } else { None }
    }

    /// Whether a shard of `tail` can be put there, once those of `own` are taken back.
    pub fn is_free_for(&self, tail: &Tail, own: &Tail) -> bool {
        match self {
            Part::Missing => true,
            Part::Sound(found) => found.is_of_same(own) && !found.is_of_same(tail),
            Part::Damaged | Part::Away(_) => false,
        }
    }
}

/// Decides which object lies under a name, by what all stores have of it. Of those that are away or have damaged shards nothing
/// is known.
pub(super) fn judge_all<'a>(members: &Members, shards: &Shards, parts: &'a [Part]) -> Verdict<'a> {
    let unknown = parts.iter().filter(|it| matches!(it, Part::Away(_) | Part::Damaged)).count();
    let tails = parts.iter().filter_map(Part::tail);
    judge(members.dispersal.policy, shards.name().kind(), tails, unknown, true)
}

/// Looks at the shards in all stores, by their tails alone. The order is that of the places.
pub(super) fn look_at_all(members: &Members, shards: &Shards) -> Vec<Part> {
    examine(members, shards, false)
}

/// Reads all bytes of the shards in all stores.
pub(super) fn read_all(members: &Members, shards: &Shards) -> Vec<Part> {
    examine(members, shards, true)
}

fn examine(members: &Members, shards: &Shards, is_whole: bool) -> Vec<Part> {
    let of_job = shards.clone();
    let job = move |member: usize, store: &dyn Store| {
        let place = of_job.place(member);
        let Some(shard) = OpenShard::open(store, of_job.name(), of_job.number(place))? else {
            return Ok(None);
        };
        if is_whole {
            shard.check().map_err(|error| fault(store, &of_job.shard(place), error))?;
        }
        if shard.tail.code == of_job.code {
            Ok(Some(shard.tail))
        } else {
            Err(Error::damaged("of another dispersal"))
        }
    };
    let mut answers = members.ask_all(&shards.holders, PATIENCE, job);
    let part = |holder: &usize| match answers[*holder].take() {
        Some(Ok(Some(tail))) => Part::Sound(tail),
        Some(Ok(None)) => Part::Missing,
        Some(Err(error)) if error.kind() == Kind::Damaged => Part::Damaged,
        Some(Err(error)) => Part::Away(error.to_string()),
        None => Part::Away("it was not asked".into()),
    };
    shards.holders.iter().map(part).collect()
}

/// The outcome for each place that a shard was made for.
pub(super) type Filled = Vec<(usize, Result<()>)>;

/// Makes the shards for some places, where there is none, and puts them. A shard that another process has put meanwhile is
/// as good.
///
/// # Errors
/// `Damaged` if the other shards do not give the object; `Unavailable` if too many stores do not answer.
pub(super) fn fill(members: &Members, shards: &Shards, like: &Tail, places: &[usize]) -> Result<Filled> {
    put_again(members, shards, like, places, |_, _| Ok(()))
}

/// Does as [`fill`], for places where a shard is damaged or of other bytes. It is set aside before.
///
/// # Errors
/// It fails as [`fill`] does.
pub(super) fn replace(members: &Members, shards: &Shards, like: &Tail, places: &[usize]) -> Result<Filled> {
    let (of_job, expected) = (shards.clone(), like.clone());
    put_again(members, shards, like, places, move |place, store| {
        // Two repairs must not set aside what the other one has made.
        let _lease: Lease = store.lease(Role::Repair, "repair")?;
        let shard = of_job.shard(place);
        let is_sound = match OpenShard::open(store, of_job.name(), of_job.number(place)) {
            Ok(Some(open)) if open.tail.is_of_same(&expected) => open.check().is_ok(),
            Ok(_) => false,
            Err(error) if error.kind() == Kind::Damaged => false,
            Err(error) => return Err(error),
        };
        if !is_sound {
            ambient::pass("disperse.repair")?;
            store.set_aside(&shard)?;
        }
        Ok(())
    })
}

fn put_again(
    members: &Members,
    shards: &Shards,
    like: &Tail,
    places: &[usize],
    make_room: impl Fn(usize, &dyn Store) -> Result<()> + Send + Sync + 'static,
) -> Result<Filled> {
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let payloads = make_again(members, shards, like, places)?;
    let payloads: Vec<_> = payloads.into_iter().map(Mutex::new).collect();
    let (of_job, expected, of_put) = (shards.clone(), like.clone(), members.clone());
    let holders: Vec<_> = places.iter().map(|place| shards.holders[*place]).collect();
    let put = move |member: usize, store: &dyn Store| {
        let place = of_job.place(member);
        let payload = payloads[place].lock().unwrap_or_else(PoisonError::into_inner).take();
        let payload = payload.ok_or_else(|| Error::internal("a shard was not made; please report this"))?;
        of_put.roles.ensure(member, store)?;
        make_room(place, store)?;
        ambient::pass("disperse.repair")?;
        match payload.put(store, &of_job.shard(place)) {
            Err(error) if error.kind() == Kind::Internal => {
                let there = OpenShard::open(store, of_job.name(), of_job.number(place))?;
                if there.is_some_and(|it| it.tail.is_of_same(&expected)) { Ok(()) } else { Err(error) }
            }
            put => put,
        }
    };
    let mut answers = members.ask_all(&holders, PATIENCE, put);
    let unasked = || Err(Error::unavailable("it was not asked"));
    Ok(places
        .iter()
        .map(|place| (*place, answers[shards.holders[*place]].take().unwrap_or_else(unasked)))
        .collect())
}

/// Makes shards from k others, and checks that these give the object that they say they are of.
fn make_again(
    members: &Members,
    shards: &Shards,
    like: &Tail,
    places: &[usize],
) -> Result<Vec<Option<Payload>>> {
    let (stripes, name) = (Stripes::new(shards.code, like.len), shards.name());
    let is_copied = !is_coded(name.kind());
    let sink = |place: usize| {
        let is_wanted = is_copied || places.contains(&place);
        is_wanted.then(|| members.sink(name.kind(), like.len)).transpose()
    };
    let count = if is_copied { 1 } else { shards.holders.len() };
    let sinks = (0..count).map(sink).collect::<Result<_>>()?;
    let mut writer = ShardWriter::new(shards.code, like.len, sinks);
    for run in stripes.runs() {
        let data = shards.restore(like, &run)?;
        writer.write(&run, &stripes.join(&run, &data))?;
    }
    let made = writer.finish(name, like.len)?;
    if made.iter().any(|(_, tail)| !tail.is_of_same(like)) {
        return Err(Error::damaged(format!(
            "{name} is damaged: its shards agree with their own digests, and do not give the object that they name"
        )));
    }
    let mut payloads: Vec<_> = made.into_iter().map(|(payload, _)| payload).collect();
    if let ([Some(Payload::Memory(bytes))], true) = (&payloads[..], is_copied) {
        let bytes = Arc::clone(bytes);
        let copy = |place| places.contains(&place).then(|| Payload::Memory(Arc::clone(&bytes)));
        payloads = (0..shards.holders.len()).map(copy).collect();
    }
    Ok(payloads)
}

/// Takes shards of `tail` out of stores again. One that cannot be removed is no object by itself.
pub(super) fn withdraw(members: &Members, shards: &Shards, tail: &Tail, which: &[usize]) {
    let (of_job, tail) = (shards.clone(), tail.clone());
    members.ask_all(which, PATIENCE, move |member, store| {
        let place = of_job.place(member);
        let there = OpenShard::open(store, of_job.name(), of_job.number(place))?;
        if there.is_some_and(|it| it.tail.is_of_same(&tail)) {
            store.remove(&[of_job.shard(place)])?;
        }
        Ok(())
    });
}

/// A larger object's shards are made in local files.
const IN_MEMORY: u64 = 8 << 20;

impl Members {
    /// Begins a shard of an object of `len` bytes, in memory or in a local file.
    ///
    /// # Errors
    /// `Unavailable` if the local disk does not take a file.
    pub fn sink(&self, kind: ObjectKind, len: u64) -> Result<Sink> {
        if len <= IN_MEMORY || !is_coded(kind) {
            return Ok(Sink::Memory(Vec::new()));
        }
        self.drafts.begin(ObjectKind::Shard).map(Sink::File)
    }
}
