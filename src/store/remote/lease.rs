//! Leases in an object store.
//!
//! Each role has one small object, which lists the holders and is only ever replaced by a put on the condition that nobody
//! else has replaced it since it was read. No clock of another machine is believed: a holder raises a counter, its
//! heartbeat, again and again, and another process takes a holder for dead only after it has watched the counter stand
//! still for a long time by its own steady clock. A holder that could not raise its counter for half of that time stops
//! writing by itself.

use std::collections::BTreeMap;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use object_store::UpdateVersion;
use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

use super::bucket::Bucket;
use crate::ambient::{self, Steady};
use crate::error::{Context, Error, Kind, Result};
use crate::store::Role;

/// The most holders of one role. If another one joins, the one that came first is struck off: it belongs to a process that
/// was killed.
const MOST_HOLDERS: usize = 100;

/// A change is tried this often while others change the same object.
const TRIES: u32 = 100;

/// How often a holder shows that it lives, and when another process takes it for dead.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeaseTerms {
    pub beat: Duration,
    pub dead_after: Duration,
}

impl LeaseTerms {
    pub(super) fn usual() -> LeaseTerms {
        let seconds = ambient::test_number("BACKWHEN_TEST_LEASE").unwrap_or(30);
        LeaseTerms { beat: Duration::from_secs(seconds) / 6, dead_after: Duration::from_secs(seconds) }
    }

    /// Heartbeats come often, so that a test need not wait for one, and nobody is ever taken for dead.
    #[cfg(test)]
    pub(super) fn for_tests() -> LeaseTerms {
        LeaseTerms { beat: Duration::from_millis(20), dead_after: Duration::from_secs(3600) }
    }
}

/// The holders of one role: the content of the role's object.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Holders {
    /// The number of the last lease that was given out.
    fence: u64,
    holders: Vec<Holder>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Holder {
    id: u64,
    /// Whether nobody else may hold the role.
    alone: bool,
    command: String,
    beat: u64,
}

/// The leases that this process has from one store.
#[derive(Debug)]
pub(super) struct Leases {
    bucket: Bucket,
    terms: LeaseTerms,
    held: Mutex<Vec<Weak<Standing>>>,
}

/// When a holder last knew that it holds its role; `None` once it has given the role back.
#[derive(Debug)]
struct Standing {
    known: Mutex<Option<Steady>>,
    role: Role,
}

/// A role that is held until the value is dropped.
pub(super) struct RemoteLease {
    object: LeaseObject,
    id: u64,
    standing: Arc<Standing>,
    /// The thread of the heartbeats ends with this.
    _beating: Sender<()>,
}

impl Standing {
    fn known(&self) -> MutexGuard<'_, Option<Steady>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn confirm(&self, at: Steady) {
        if let Some(known) = &mut *self.known() {
            *known = at;
        }
    }
}

impl Leases {
    pub(super) fn new(bucket: Bucket, terms: LeaseTerms) -> Leases {
        Leases { bucket, terms, held: Mutex::default() }
    }

    fn object(&self, role: Role) -> LeaseObject {
        LeaseObject { bucket: self.bucket.clone(), key: key(role) }
    }

    /// Makes sure that all roles are still held.
    ///
    /// # Errors
    /// `Locked` if another process may have taken one for its own.
    pub(super) fn check(&self) -> Result<()> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|standing| standing.strong_count() > 0);
        let stale = held.iter().filter_map(Weak::upgrade).find(|standing| {
            standing.known().is_some_and(|known| known.elapsed() > self.terms.dead_after / 2)
        });
        stale.map_or(Ok(()), |standing| {
            Err(Error::locked(format!(
                "{} was lost, as the object store did not answer for too long; start the command again",
                self.bucket.locate(key(standing.role))
            )))
        })
    }

    /// Takes a role for the caller alone.
    ///
    /// # Errors
    /// `Locked` if another process that lives holds the role.
    pub(super) fn alone(&self, role: Role, command: &str) -> Result<RemoteLease> {
        let (object, begun, mut watch) = (self.object(role), ambient::instant(), Watch::default());
        for look in 0.. {
            let silent = watch.look(&object.read()?.0, self.terms.dead_after);
            // Others may come and go without end; after this time one of them lives.
            let is_taken = watch.has_seen_life || begun.elapsed() > self.terms.dead_after * 2;
            match self.join(role, command, true, &silent) {
                Err(error) if error.kind() == Kind::Locked && !is_taken => {
                    if look == 2 {
                        warn!(
                            "{error}, but shows no sign of life; watching it for {:?}",
                            self.terms.dead_after
                        );
                    }
                    std::thread::sleep(self.terms.beat);
                }
                joined => return joined,
            }
        }
        unreachable!("the watch ends before the numbers do")
    }

    /// Shares a role, and waits for a process that has it alone.
    ///
    /// # Errors
    /// `Locked` if it has it alone after `patience` too.
    pub(super) fn shared(&self, role: Role, patience: Duration) -> Result<RemoteLease> {
        let (object, begun, mut watch) = (self.object(role), ambient::instant(), Watch::default());
        loop {
            let silent = watch.look(&object.read()?.0, self.terms.dead_after);
            match self.join(role, "", false, &silent) {
                Err(error) if error.kind() == Kind::Locked && begun.elapsed() < patience => {
                    std::thread::sleep(self.terms.beat.min(patience));
                }
                joined => return joined,
            }
        }
    }

    /// Adds a holder, if those that are not `silent` leave room for it.
    fn join(&self, role: Role, command: &str, alone: bool, silent: &[u64]) -> Result<RemoteLease> {
        let (object, id) = (self.object(role), u64::from_le_bytes(ambient::random()?));
        let known = ambient::instant();
        object.change(|content| {
            content.holders.retain(|it| !silent.contains(&it.id) && it.id != id);
            if let Some(other) = content.holders.iter().find(|it| alone || it.alone) {
                return Err(object.taken(other));
            }
            content.fence = content.fence.wrapping_add(1);
            content.holders.push(Holder { id, alone, command: command.to_owned(), beat: 0 });
            let surplus = content.holders.len().saturating_sub(MOST_HOLDERS);
            content.holders.drain(..surplus);
            Ok(())
        })?;
        let standing = Arc::new(Standing { known: Mutex::new(Some(known)), role });
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&standing));
        let beating = object.clone().beat(id, self.terms.beat, Arc::clone(&standing));
        Ok(RemoteLease { object, id, standing, _beating: beating })
    }

    pub(super) fn is_leased(&self, role: Role) -> bool {
        self.object(role).read().is_ok_and(|(content, _)| !content.holders.is_empty())
    }
}

fn key(role: Role) -> &'static str {
    match role {
        Role::Capture => "leases/capture.json",
        Role::Checkpoint => "leases/checkpoint.json",
        Role::Objects => "leases/objects.json",
    }
}

/// Watches the heartbeats of holders.
#[derive(Default)]
struct Watch {
    /// The heartbeat of each holder, and since when it has stood there.
    beats: BTreeMap<u64, (u64, Steady)>,
    has_seen_life: bool,
}

impl Watch {
    /// Notes the heartbeats, and returns the holders that have been silent for so long that they are dead.
    fn look(&mut self, content: &Holders, dead_after: Duration) -> Vec<u64> {
        let now = ambient::instant();
        let mut silent = Vec::new();
        for holder in &content.holders {
            let (beat, since) = self.beats.entry(holder.id).or_insert((holder.beat, now));
            if *beat != holder.beat {
                self.has_seen_life = true;
                (*beat, *since) = (holder.beat, now);
            }
            if since.elapsed() >= dead_after {
                silent.push(holder.id);
            }
        }
        silent
    }
}

/// The object of one role.
#[derive(Clone)]
struct LeaseObject {
    bucket: Bucket,
    key: &'static str,
}

impl LeaseObject {
    fn read(&self) -> Result<(Holders, Option<UpdateVersion>)> {
        let Some((bytes, version)) = self.bucket.get_version(self.key)? else {
            return Ok((Holders::default(), None));
        };
        let place = || format!("{} is no lease; remove it from the bucket", self.bucket.locate(self.key));
        Ok((serde_json::from_slice(&bytes).context(Kind::Damaged, place)?, Some(version)))
    }

    /// Changes the holders. Where another process has changed them meanwhile, `change` is called with its change too.
    fn change(&self, change: impl Fn(&mut Holders) -> Result<()>) -> Result<()> {
        for _ in 0..TRIES {
            let (mut content, version) = self.read()?;
            change(&mut content)?;
            let text =
                serde_json::to_vec(&content).context(Kind::Internal, || "cannot write a lease".into())?;
            let stored = match version {
                Some(version) => self.bucket.update(self.key, text, version)?,
                None => match self.bucket.create(self.key, text.into()) {
                    Err(error) if error.kind() == Kind::Internal => false,
                    created => created.map(|()| true)?,
                },
            };
            if stored {
                return Ok(());
            }
            let jitter = u64::from(u8::from_le_bytes(ambient::random()?));
            std::thread::sleep(Duration::from_millis(10 + jitter));
        }
        Err(Error::unavailable(format!(
            "too many change {} at once; try again",
            self.bucket.locate(self.key)
        )))
    }

    fn taken(&self, by: &Holder) -> Error {
        let command = if by.command.is_empty() { "a command that reads it" } else { &by.command };
        Error::locked(format!(
            "{command} is at work on this history: {} says so",
            self.bucket.locate(self.key)
        ))
    }

    /// Raises the heartbeat of a holder in a thread of its own, until the sender that is returned is dropped.
    fn beat(self, id: u64, period: Duration, standing: Arc<Standing>) -> Sender<()> {
        let (sender, ended) = channel();
        std::thread::spawn(move || {
            while ended.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                let asked = ambient::instant();
                match self.raise(id) {
                    Ok(()) => standing.confirm(asked),
                    Err(error) => warn!("a heartbeat of {} failed: {error}", self.bucket.locate(self.key)),
                }
            }
        });
        sender
    }

    fn raise(&self, id: u64) -> Result<()> {
        self.change(|content| {
            let ours = content.holders.iter_mut().find(|it| it.id == id);
            let ours = ours.ok_or_else(|| Error::locked("another process has taken this lease"))?;
            ours.beat = ours.beat.wrapping_add(1);
            Ok(())
        })
    }
}

impl Drop for RemoteLease {
    fn drop(&mut self) {
        let id = self.id;
        *self.standing.known() = None;
        let given_back = self.object.change(|content| {
            content.holders.retain(|it| it.id != id);
            Ok(())
        });
        if let Err(error) = given_back {
            debug!("a lease was not given back: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leases(terms: LeaseTerms) -> Leases {
        let store = Arc::new(object_store::memory::InMemory::new());
        Leases::new(Bucket::new(store, "", "memory://bucket"), terms)
    }

    /// Adds a holder that never raises its heartbeat, as a process that was killed leaves it.
    fn leave_behind(leases: &Leases, role: Role, alone: bool) {
        let holder = |id| Holder { id, alone, command: "expire".into(), beat: 3 };
        let add = |content: &mut Holders| {
            content.holders.push(holder(77));
            Ok(())
        };
        leases.object(role).change(add).unwrap();
    }

    #[test]
    fn a_holder_that_was_killed_is_taken_for_dead_once_its_heartbeat_has_stood_still() {
        let short = LeaseTerms { beat: Duration::from_millis(5), dead_after: Duration::from_millis(40) };
        for alone in [true, false] {
            let leases = leases(short);
            leave_behind(&leases, Role::Objects, alone);
            assert!(leases.is_leased(Role::Objects));
            let begun = ambient::instant();
            let lease = leases.alone(Role::Objects, "expire").unwrap();
            assert!(begun.elapsed() >= short.dead_after, "it was watched first");
            drop(lease);
            assert!(!leases.is_leased(Role::Objects));
        }
        let leases = leases(short);
        leave_behind(&leases, Role::Objects, true);
        assert_eq!(leases.shared(Role::Objects, Duration::ZERO).err().unwrap().kind(), Kind::Locked);
        assert!(leases.shared(Role::Objects, Duration::from_secs(60)).is_ok());
    }

    #[test]
    fn a_holder_whose_lease_was_taken_stops_writing() {
        let leases =
            leases(LeaseTerms { beat: Duration::from_millis(5), dead_after: Duration::from_millis(200) });
        let lease = leases.alone(Role::Capture, "copy").unwrap();
        let strike_off = |content: &mut Holders| {
            content.holders.clear();
            Ok(())
        };
        leases.object(Role::Capture).change(strike_off).unwrap();
        let begun = ambient::instant();
        let lost = loop {
            match leases.check() {
                Err(error) => break error,
                Ok(()) => assert!(begun.elapsed() < Duration::from_secs(60), "it goes on"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(lost.kind(), Kind::Locked);
        drop(lease);
        leases.check().unwrap();
    }

    #[test]
    fn many_share_a_role_and_give_it_back_at_once() {
        let leases = leases(LeaseTerms::for_tests());
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| drop(leases.shared(Role::Objects, Duration::ZERO).unwrap()));
            }
        });
        assert!(!leases.is_leased(Role::Objects));
        let content = leases.object(Role::Objects).read().unwrap().0;
        assert_eq!(content.fence, 8, "each lease has a number of its own");
    }
}
