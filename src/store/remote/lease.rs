//! Leases in an object store.
//!
//! Each role has one small object, which lists the holders and is only ever replaced by a put on the condition that nobody
//! else has replaced it since it was read. No clock of another machine is believed: a holder raises a counter, its
//! heartbeat, again and again, and another process takes a holder for dead only after it has watched the counter stand
//! still for a long time by its own steady clock. A holder that could not raise its counter for half of that time stops
//! writing by itself.
//!
//! A holder may put a note beside its heartbeat, in which others read how it goes. A holder that is named by its owner, of
//! whom there is only one at a time, takes the place of an earlier holder of the same owner at once: that one is dead.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use chrono::{DateTime, Utc};
use object_store::UpdateVersion;
use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

use super::bucket::Bucket;
use crate::ambient::{self, Steady};
use crate::error::{Context, Error, Kind, Result};
use crate::store::{HolderNote, Lease, Role};

/// The most holders of one role. If another one joins, the one that came first is struck off: it belongs to a process that
/// was killed.
const MOST_HOLDERS: usize = 100;

/// A change is tried this often while others change the same object.
const TRIES: u32 = 100;

/// A process that holds a role for long leaves this many times as much time between its heartbeats, each of which is paid for.
const LONG_BEAT: u32 = 2;

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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    /// How it goes, in the holder's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

impl Holder {
    fn is_of(&self, owner: Option<&str>) -> bool {
        owner.is_some() && self.owner.as_deref() == owner
    }
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
    /// Whether another process was found to have taken the role.
    is_lost: AtomicBool,
    note: Mutex<Option<String>>,
    role: Role,
}

/// A role that is held until the value is dropped.
pub(super) struct RemoteLease {
    object: LeaseObject,
    id: u64,
    standing: Arc<Standing>,
    terms: LeaseTerms,
    /// The thread of the heartbeats ends with this.
    _beating: Sender<()>,
}

impl Standing {
    fn known(&self) -> MutexGuard<'_, Option<Steady>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the role is known to be still held, or was given back.
    fn is_sound(&self, terms: LeaseTerms) -> bool {
        self.known().is_none_or(|known| {
            !self.is_lost.load(Ordering::Relaxed) && known.elapsed() <= terms.dead_after / 2
        })
    }

    fn confirm(&self, at: Steady) {
        if let Some(known) = &mut *self.known() {
            *known = at;
        }
    }

    fn note(&self) -> MutexGuard<'_, Option<String>> {
        self.note.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leases {
    pub(super) fn new(bucket: Bucket, terms: LeaseTerms) -> Leases {
        Leases { bucket, terms, held: Mutex::default() }
    }

    fn object(&self, role: Role) -> LeaseObject {
        LeaseObject { bucket: self.bucket.clone(), key: key(role), known: None }
    }

    /// Makes sure that all roles are still held.
    ///
    /// # Errors
    /// `Locked` if another process may have taken one for its own.
    pub(super) fn check(&self) -> Result<()> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|standing| standing.strong_count() > 0);
        let stale = held.iter().filter_map(Weak::upgrade).find(|standing| !standing.is_sound(self.terms));
        stale.map_or(Ok(()), |standing| {
            let place = self.bucket.locate(key(standing.role));
            Err(Error::locked(if standing.is_lost.load(Ordering::Relaxed) {
                format!("another process has taken {place}; end that one, or start the command again")
            } else {
                format!(
                    "{place} was lost, as the object store did not answer for too long; start the command again"
                )
            }))
        })
    }

    /// Sets the note that is put with the next heartbeat of a role that this process holds.
    pub(super) fn note(&self, role: Role, note: &str) {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for standing in held.iter().filter_map(Weak::upgrade).filter(|it| it.role == role) {
            *standing.note() = Some(note.to_owned());
        }
    }

    /// Reads what the holder of a role has put of itself; `None` if nobody holds the role.
    pub(super) fn read_note(&self, role: Role) -> Result<Option<HolderNote>> {
        let Some((content, put)) = self.object(role).read_dated()? else { return Ok(None) };
        let age = (ambient::now() - put).to_std().unwrap_or_default();
        let first = content.holders.into_iter().next();
        Ok(first.map(|Holder { owner, note, .. }| HolderNote { owner, note, age }))
    }

    /// Takes a role for the caller alone. With an `owner`, the heartbeats are for a process that holds the role for long, and
    /// an earlier holder of the same owner is struck off.
    ///
    /// # Errors
    /// `Locked` if another process that lives holds the role.
    pub(super) fn alone(&self, role: Role, command: &str, owner: Option<&str>) -> Result<RemoteLease> {
        let (object, begun, mut watch) = (self.object(role), ambient::instant(), Watch::default());
        for look in 0.. {
            let silent = watch.look(&object.read()?.0, self.terms.dead_after);
            // Others may come and go without end; after this time one of them lives.
            let is_taken = watch.has_seen_life || begun.elapsed() > self.terms.dead_after * 2;
            match self.join(role, Applicant { command, alone: true, owner }, &silent) {
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
            match self.join(role, Applicant { command: "", alone: false, owner: None }, &silent) {
                Err(error) if error.kind() == Kind::Locked && begun.elapsed() < patience => {
                    std::thread::sleep(self.terms.beat.min(patience));
                }
                joined => return joined,
            }
        }
    }

    /// Adds a holder, if those that are not `silent` leave room for it.
    fn join(&self, role: Role, applicant: Applicant<'_>, silent: &[u64]) -> Result<RemoteLease> {
        let Applicant { command, alone, owner } = applicant;
        let (mut object, id) = (self.object(role), u64::from_le_bytes(ambient::random()?));
        let (known, place) = (ambient::instant(), self.bucket.locate(key(role)));
        object.change(|content| {
            content.holders.retain(|it| !silent.contains(&it.id) && it.id != id && !it.is_of(owner));
            if let Some(other) = content.holders.iter().find(|it| alone || it.alone) {
                return Err(taken(other, &place));
            }
            content.fence = content.fence.wrapping_add(1);
            let (command, owner) = (command.to_owned(), owner.map(str::to_owned));
            content.holders.push(Holder { id, alone, command, beat: 0, owner, note: None });
            let surplus = content.holders.len().saturating_sub(MOST_HOLDERS);
            content.holders.drain(..surplus);
            Ok(())
        })?;
        let standing = Arc::new(Standing {
            known: Mutex::new(Some(known)),
            is_lost: AtomicBool::new(false),
            note: Mutex::default(),
            role,
        });
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&standing));
        let period = if owner.is_some() { self.terms.beat * LONG_BEAT } else { self.terms.beat };
        let beating = object.clone().beat(id, period, Arc::clone(&standing));
        Ok(RemoteLease { object, id, standing, terms: self.terms, _beating: beating })
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
        Role::Repair => "leases/repair.json",
    }
}

fn taken(by: &Holder, place: &str) -> Error {
    let command = if by.command.is_empty() { "a command that reads it" } else { &by.command };
    Error::locked(format!("{command} is at work on this history: {place} says so"))
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

/// A process that wants a role.
#[derive(Clone, Copy)]
struct Applicant<'a> {
    command: &'a str,
    alone: bool,
    owner: Option<&'a str>,
}

/// The object of one role.
#[derive(Clone)]
struct LeaseObject {
    bucket: Bucket,
    key: &'static str,
    /// The content and the version that this process put last. As long as nobody else changes the object, a heartbeat is one
    /// request.
    known: Option<(Vec<u8>, UpdateVersion)>,
}

impl LeaseObject {
    fn read(&self) -> Result<(Holders, Option<UpdateVersion>)> {
        match self.bucket.get_version(self.key)? {
            Some((bytes, version)) => Ok((self.parse(&bytes)?, Some(version))),
            None => Ok((Holders::default(), None)),
        }
    }

    fn read_dated(&self) -> Result<Option<(Holders, DateTime<Utc>)>> {
        let found = self.bucket.get_dated(self.key)?;
        found.map(|(bytes, put)| Ok((self.parse(&bytes)?, put))).transpose()
    }

    fn parse(&self, bytes: &[u8]) -> Result<Holders> {
        let place = || format!("{} is no lease; remove it from the bucket", self.bucket.locate(self.key));
        serde_json::from_slice(bytes).context(Kind::Damaged, place)
    }

    /// Changes the holders. Where another process has changed them meanwhile, `change` is called with its change too.
    fn change(&mut self, change: impl Fn(&mut Holders) -> Result<()>) -> Result<()> {
        for _ in 0..TRIES {
            let (mut content, version) = match self.known.take() {
                Some((bytes, version)) => (self.parse(&bytes)?, Some(version)),
                None => self.read()?,
            };
            change(&mut content)?;
            let text =
                serde_json::to_vec(&content).context(Kind::Internal, || "cannot write a lease".into())?;
            let stored = match version {
                Some(version) => self.bucket.update(self.key, text.clone(), version)?,
                None => match self.bucket.create(self.key, text.into()) {
                    Err(error) if error.kind() == Kind::Internal => continue,
                    created => return created,
                },
            };
            if let Some(version) = stored {
                self.known = Some((text, version));
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

    /// Raises the heartbeat of a holder in a thread of its own, until the sender that is returned is dropped.
    fn beat(mut self, id: u64, period: Duration, standing: Arc<Standing>) -> Sender<()> {
        let (sender, ended) = channel();
        std::thread::spawn(move || {
            while ended.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                let asked = ambient::instant();
                match self.raise(id, &standing) {
                    Ok(()) => standing.confirm(asked),
                    Err(error) => warn!("a heartbeat of {} failed: {error}", self.bucket.locate(self.key)),
                }
                if standing.is_lost.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        sender
    }

    fn raise(&mut self, id: u64, standing: &Standing) -> Result<()> {
        let note = standing.note().clone();
        self.change(|content| {
            let Some(ours) = content.holders.iter_mut().find(|it| it.id == id) else {
                standing.is_lost.store(true, Ordering::Relaxed);
                return Err(Error::locked("another process has taken this lease"));
            };
            ours.beat = ours.beat.wrapping_add(1);
            ours.note.clone_from(&note);
            Ok(())
        })
    }
}

impl From<RemoteLease> for Lease {
    fn from(lease: RemoteLease) -> Lease {
        let (standing, terms) = (Arc::clone(&lease.standing), lease.terms);
        Lease::that_may_be_lost(lease, move || standing.is_sound(terms))
    }
}

impl Drop for RemoteLease {
    fn drop(&mut self) {
        let id = self.id;
        *self.standing.known() = None;
        if self.standing.is_lost.load(Ordering::Relaxed) {
            return;
        }
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
mod tests;
