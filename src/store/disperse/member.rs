//! One of the stores of a dispersal.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::mark::{Dispersal, Mark};
use super::workers::Workers;
use crate::ambient::{self, Steady};
use crate::error::{Error, Kind, Result};
use crate::store::{ObjectKind, ObjectName, Store, layout};

/// A store that failed is asked again after this time.
const AWAY: Duration = Duration::from_secs(10);

/// A store that was slow is asked last, and waited for no longer than for the others, for this time.
const SLOW: Duration = Duration::from_secs(30);

/// A store, and what is known of how it answers.
#[derive(Debug)]
pub(super) struct Member {
    pub number: usize,
    pub url: String,
    /// The folder, if the store is one.
    pub folder: Option<PathBuf>,
    pub workers: Workers,
    store: Arc<dyn Store>,
    state: Mutex<MemberState>,
    /// How often the store has failed to answer.
    failures: AtomicU64,
}

#[derive(Debug, Default)]
struct MemberState {
    /// The instant until which the store is left alone, and the reason.
    away: Option<(Steady, String)>,
    slow_until: Option<Steady>,
    /// Whether the mark of the store was read and is right.
    is_known: bool,
    /// Whether a person was told that the store is away.
    is_told: bool,
}

impl Member {
    pub fn new(number: usize, url: String, store: Arc<dyn Store>, folder: Option<PathBuf>) -> Member {
        Member {
            number,
            url,
            folder,
            workers: Workers::default(),
            store,
            state: Mutex::default(),
            failures: AtomicU64::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, MemberState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store itself, for questions that ask nothing of it and those that come before its mark.
    pub fn bare(&self) -> &dyn Store {
        &*self.store
    }

    /// Returns the reason why the store is left alone now; `None` if it may be asked.
    pub fn why_away(&self) -> Option<String> {
        let mut state = self.state();
        state.away.take_if(|(until, _)| ambient::instant() >= *until);
        state.away.as_ref().map(|(_, why)| why.clone())
    }

    /// How often the store has failed in this process.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Leaves the store alone for a while.
    pub fn leave_alone(&self, time: Duration, why: String) {
        let mut state = self.state();
        if !std::mem::replace(&mut state.is_told, true) {
            tracing::warn!("{} is away, and is left out meanwhile: {why}", self.url);
        }
        state.away = Some((ambient::instant() + time, why));
    }

    /// Asks the store again from now on.
    pub fn come_back(&self) {
        self.state().away = None;
    }

    pub fn be_slow(&self) {
        self.state().slow_until = Some(ambient::instant() + SLOW);
    }

    /// Whether the store has been too slow of late to be waited for.
    pub fn is_slow(&self) -> bool {
        self.state().slow_until.is_some_and(|until| ambient::instant() < until)
    }

    /// Whether the store is asked only if no other one can answer.
    pub fn is_last_choice(&self) -> bool {
        self.is_slow() || self.why_away().is_some()
    }

    /// Takes the store for the one that is named here.
    pub fn accept(&self) {
        self.state().is_known = true;
    }

    /// Asks the store. It is read only once it is known to be the one that is named: a folder each time, as its disk may be
    /// unmounted at any instant.
    ///
    /// # Errors
    /// `Unavailable` if the store is away; `Refused` if it is another one; otherwise the error of `job`.
    pub fn ask<T>(&self, dispersal: &Dispersal, job: impl FnOnce(&dyn Store) -> Result<T>) -> Result<T> {
        if let Some(why) = self.why_away() {
            return Err(Error::unavailable(why));
        }
        ambient::pause(&format!("disperse.{}", self.number));
        let is_known = self.state().is_known && self.folder.is_none();
        let known = if is_known { Ok(()) } else { self.recognise(dispersal) };
        let mut done = known.and_then(|()| job(&*self.store));
        if self.folder.is_some() && done.is_ok() {
            // Bytes that were put below the mount point of a disk that went meanwhile are not in this store.
            done = done.and_then(|given| self.recognise(dispersal).map(|()| given));
        }
        if done.is_err() {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        match &done {
            Err(error) if error.kind() == Kind::Unavailable => self.leave_alone(AWAY, error.to_string()),
            _ => self.state().is_told = false,
        }
        done
    }

    fn recognise(&self, dispersal: &Dispersal) -> Result<()> {
        let mark = Mark::read(&*self.store)?.ok_or_else(|| {
            Error::unavailable(format!(
                "{} is empty: its dispersal.json is missing; mount what belongs there, or, if that store is lost and this is a new \
                 one, fill it with: backwhen repair --refill {}",
                self.url, self.url
            ))
        })?;
        mark.check(&self.url, dispersal, self.number)?;
        self.accept();
        Ok(())
    }

    /// Puts the mark into an empty store.
    ///
    /// # Errors
    /// `Refused` if something else lies there or the mark of another dispersal, `Unavailable` if the store does not take it.
    pub fn begin(&self, dispersal: &Dispersal) -> Result<()> {
        if let Some(folder) = &self.folder {
            let ours = ["shards", "damaged", "dispersal.json"];
            let stranger = layout::first_stranger(folder)?;
            if let Some(other) =
                stranger.filter(|name| !ours.contains(&name.as_str()) && !name.starts_with("dispersal.json."))
            {
                return Err(Error::refused(format!(
                    "{} holds {other}, which is no part of a dispersed history; name an empty folder",
                    self.url
                )));
            }
            layout::make_locks(folder)?;
        } else if self.store.holds(&ObjectName::only(ObjectKind::Identity))? {
            return Err(Error::refused(format!("{} holds a whole history; name an empty prefix", self.url)));
        }
        Mark::new(dispersal, self.number).put(&*self.store)?;
        match Mark::read(&*self.store)? {
            Some(mark) => mark.check(&self.url, dispersal, self.number)?,
            None => return Err(Error::unavailable(format!("{} lost its mark at once; try again", self.url))),
        }
        self.accept();
        self.come_back();
        Ok(())
    }
}
