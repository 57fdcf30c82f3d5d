//! `capture --also`: standing copies of the history in object stores, each kept up to date by a thread of its own.
//!
//! A store that is slow or away holds up its own thread and nothing else. Under `--durable store` the position that the first
//! copy has reached decides, together with the journal's own, what is confirmed to the server.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::copy_stores::CopyStores;
use super::live::{Board, CopyLive, Live};
use super::local_end::{LocalEnd, LocalState};
use crate::ambient::{self, Steady};
use crate::error::{Context, Error, Kind, Result};
use crate::history::copy::StandingCopy;
use crate::history::journal::CopiedEnd;
use crate::history::{History, HistoryPlace};
use crate::model::PgTime;
use crate::model::moment::roughly;
use crate::store::{Role, files, layout};

/// A change is put at most so long after it became durable in the history, if the store is quick.
const PUT_EVERY: Duration = Duration::from_secs(1);

/// Heartbeats alone are put so seldom, as each put is paid for.
const PUT_HEARTBEATS_EVERY: Duration = Duration::from_secs(10);

/// The state of the capture is written down for others so often; it is put with the lease's sign of life.
const NOTE_EVERY: Duration = Duration::from_secs(3);

/// With more objects than this the copy of the open segment is slow to read, and the segment is sealed early.
const MOST_INCREMENTS: usize = 1000;

/// The pauses after a failure.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The capture begins without a copy whose store does not answer within this time.
const STORE_WAIT: Duration = Duration::from_secs(5);
/// The capture begins without a copy whose lease is not settled within this time.
const LEASE_WAIT: Duration = Duration::from_secs(120);

/// A capture that ends waits so long for its copies, or for its patience where it must not end without one.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// The longest file in which the history's folder has its name, in bytes. [`files::replace_volatile`] fills the file up with
/// blanks.
const LONGEST_OWNER: u64 = 64 << 10;

/// The note that others read of a capture names at most so many tables and transitions.
const NOTED: usize = 10;

/// The position that a copy has reached, as it is told.
pub type Copied = watch::Receiver<Option<CopiedEnd>>;

/// The standing copies of one capture.
pub struct Copies {
    places: Vec<HistoryPlace>,
    owner: String,
    local: Arc<LocalEnd>,
    board: Arc<OnceLock<Board>>,
    /// Whether the first copy is tried again and again also when the capture ends.
    insists: Arc<AtomicBool>,
    copies: Vec<Copy>,
}

/// The capture's end of one copy.
struct Copy {
    url: String,
    copied: Copied,
    settled: Option<oneshot::Receiver<Result<()>>>,
    /// Whether the thread waits to see whether the holder of the lease lives.
    watches: Arc<AtomicBool>,
    ended: oneshot::Receiver<()>,
}

impl Copies {
    /// Starts the threads. With `insists` the first copy is tried again and again also when the capture ends.
    ///
    /// # Errors
    /// `Unavailable` if the disk does not take a small file, `Internal` if a thread cannot be started.
    pub fn start(
        history: &History,
        places: &[HistoryPlace],
        local: &Arc<LocalEnd>,
        insists: bool,
    ) -> Result<Copies> {
        let board = Arc::new(OnceLock::new());
        let owner = if places.is_empty() { String::new() } else { owner(history)? };
        let insists = Arc::new(AtomicBool::new(insists));
        let mut copies = Vec::new();
        for (number, place) in places.iter().enumerate() {
            let (copied, copied_receiver) = watch::channel(None);
            let (settle, settled) = oneshot::channel();
            let (end, ended) = oneshot::channel();
            let watches = Arc::new(AtomicBool::new(false));
            let thread = CopyThread {
                number,
                history: history.clone(),
                place: place.clone(),
                owner: owner.clone(),
                local: Arc::clone(local),
                board: Arc::clone(&board),
                copied,
                settle: Some(settle),
                watches: Arc::clone(&watches),
                insists: (number == 0).then(|| Arc::clone(&insists)),
                shown: CopyLive { url: place.to_string(), ..CopyLive::default() },
                noted: None,
                stores: CopyStores::default(),
                _end: end,
            };
            let spawned = std::thread::Builder::new().name("copy".into()).spawn(move || thread.run());
            spawned.context(Kind::Internal, || "cannot start a thread".into())?;
            let (url, settled, copied) = (place.to_string(), Some(settled), copied_receiver);
            copies.push(Copy { url, copied, settled, watches, ended });
        }
        Ok(Copies { places: places.to_vec(), owner, local: Arc::clone(local), board, insists, copies })
    }

    /// Waits until each copy has its lease, or its store has shown that it does not answer now: that is told later.
    ///
    /// # Errors
    /// `Locked` if another capture writes to a copy, and whatever else a person must put right, such as a URL or rights.
    pub async fn settled(&mut self) -> Result<()> {
        for copy in &mut self.copies {
            let Some(mut settled) = copy.settled.take() else { continue };
            let found = match tokio::time::timeout(STORE_WAIT, &mut settled).await {
                Err(_) if copy.watches.load(Ordering::Relaxed) => {
                    tokio::time::timeout(LEASE_WAIT, settled).await
                }
                found => found,
            };
            match found {
                Ok(Ok(Err(error))) if error.kind() != Kind::Unavailable => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Looks whether another capture has taken a copy, before this one follows the source: two captures would take the slot
    /// from each other. A store that does not answer holds up nothing.
    ///
    /// # Errors
    /// `Locked` if another capture has a copy.
    pub async fn check_are_ours(&self) -> Result<()> {
        if self.places.is_empty() {
            return Ok(());
        }
        let (places, owner) = (self.places.clone(), self.owner.clone());
        let looking = ambient::blocking("looking for other captures", move || {
            for place in &places {
                let held = place.store().and_then(|store| store.read_note(Role::Capture));
                if held.ok().flatten().and_then(|held| held.owner).is_some_and(|other| other != owner) {
                    return Err(Error::locked(format!(
                        "another capture has taken the copy {place}, and follows the source in the place of this one; end \
                         one of them"
                    )));
                }
            }
            Ok(())
        });
        tokio::time::timeout(STORE_WAIT, looking).await.unwrap_or(Ok(()))
    }

    /// Shows the state of the copies on this board from now on.
    pub fn show_on(&self, board: &Board) {
        let _ = self.board.set(board.clone());
    }

    /// The positions that the first copy reaches.
    pub fn first(&self) -> Option<Copied> {
        self.copies.first().map(|copy| copy.copied.clone())
    }

    /// Waits for what is not copied yet, for as long as may be expected of a capture that ends; for the first copy as long as
    /// `patience`, if there is one. The caller has made sure that nothing more is written.
    ///
    /// # Errors
    /// `Unavailable` if `patience` ended, and the first copy is not complete.
    pub async fn finish(mut self, patience: Option<Duration>, stop: &CancellationToken) -> Result<()> {
        self.local.end();
        let begun = ambient::instant();
        let mut lacking = None;
        for (number, copy) in std::mem::take(&mut self.copies).into_iter().enumerate() {
            let patience = patience.filter(|_| number == 0);
            let wait = patience.map_or(LAST_WAIT, |patience| patience.max(LAST_WAIT));
            let ending = tokio::time::timeout_at(begun + wait, copy.ended);
            let ended = match patience {
                Some(_) => stop.run_until_cancelled(ending).await.is_some_and(|it| it.is_ok()),
                None => ending.await.is_ok(),
            };
            if ended {
                continue;
            }
            if patience.is_some() && !stop.is_cancelled() {
                lacking = Some((copy.url, wait));
            } else {
                tracing::info!("{} is not complete yet; the next capture goes on with it", copy.url);
            }
        }
        match lacking {
            None => Ok(()),
            Some((url, wait)) => Err(Error::unavailable(format!(
                "the history is caught up, but the store of its copy {url} has not taken the rest within {}; nothing is lost, \
                 start the capture again",
                roughly(wait)
            ))),
        }
    }
}

impl Drop for Copies {
    /// The threads end also if the capture could not begin: with `--wait` another one begins in the same process.
    fn drop(&mut self) {
        self.insists.store(false, Ordering::Relaxed);
        self.local.end();
    }
}

/// The name of the history's folder among those who may write to a copy. It does not belong to the history: a folder that is
/// made of the copy has another one.
fn owner(history: &History) -> Result<String> {
    let path = layout::scratch(history.root()).join("owner");
    let known = files::read_unfollowed(&path, LONGEST_OWNER).ok().and_then(|it| String::from_utf8(it).ok());
    if let Some(known) = known.map(|it| it.trim().to_owned()).filter(|it| it.len() == 32) {
        return Ok(known);
    }
    let new = format!("{:032x}", u128::from_be_bytes(ambient::random()?));
    files::replace_volatile(&path, new.as_bytes())?;
    Ok(new)
}

fn most_increments() -> usize {
    ambient::test_number("BACKWHEN_TEST_INCREMENTS").map_or(MOST_INCREMENTS, |most| most as usize)
}

/// When a copy is looked at next.
struct Pace {
    /// The state that the last update was given; `None` if there was none, or if it failed.
    known: Option<LocalState>,
    /// The number of changes by then.
    changes: u64,
    /// The earliest time of the next update.
    next: Steady,
}

/// Keeps one copy up to date.
struct CopyThread {
    number: usize,
    history: History,
    place: HistoryPlace,
    owner: String,
    local: Arc<LocalEnd>,
    board: Arc<OnceLock<Board>>,
    copied: watch::Sender<Option<CopiedEnd>>,
    settle: Option<oneshot::Sender<Result<()>>>,
    watches: Arc<AtomicBool>,
    /// Whether the thread goes on trying after the capture's end; `None` if it never does.
    insists: Option<Arc<AtomicBool>>,
    shown: CopyLive,
    noted: Option<Steady>,
    stores: CopyStores,
    _end: oneshot::Sender<()>,
}

impl CopyThread {
    /// Begins anew after each failure, ever more slowly, until the capture ends.
    fn run(mut self) {
        let mut pause = SHORTEST_PAUSE;
        loop {
            let begun = ambient::instant();
            let Err(error) = self.follow() else { return };
            self.fail(&error);
            if begun.elapsed() > LONGEST_PAUSE {
                pause = SHORTEST_PAUSE;
            }
            let until = ambient::instant() + pause;
            while ambient::instant() < until {
                let known = self.local.now();
                let insists = self.insists.as_ref().is_some_and(|it| it.load(Ordering::Relaxed));
                if known.ends && !insists {
                    return;
                }
                self.local.wait(known, until - ambient::instant());
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Takes the lease and keeps the copy up to date, until the capture ends or the lease is lost.
    fn follow(&mut self) -> Result<()> {
        let mut copy = self.begin()?;
        let mut pause = SHORTEST_PAUSE;
        let mut pace = Pace { known: None, changes: 0, next: ambient::instant() };
        loop {
            let state = self.wait(&pace, &copy);
            let (begun, changes) = (ambient::instant(), self.local.changes());
            match self.update(&mut copy, state) {
                Ok(()) if state.ends => return Ok(()),
                Ok(()) => {
                    pause = SHORTEST_PAUSE;
                    pace = Pace { known: Some(state), changes, next: begun + PUT_EVERY };
                }
                // The store is away, which passes: what it has is known.
                Err(error) if error.kind() == Kind::Unavailable && !state.ends => {
                    self.fail(&error);
                    pace = Pace { known: None, changes, next: ambient::instant() + pause };
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn begin(&mut self) -> Result<StandingCopy> {
        if let Ok(store) = self.place.store() {
            self.watches.store(store.is_leased(Role::Capture), Ordering::Relaxed);
        }
        let begun = StandingCopy::begin(&self.history, &self.place, &self.owner);
        if let Some(settle) = self.settle.take() {
            let verdict =
                begun.as_ref().map(drop).map_err(|error| Error::new(error.kind(), error.to_string()));
            let _ = settle.send(verdict);
        }
        begun
    }

    /// Waits until it is time to look again: soon after a change, and later if only heartbeats came.
    fn wait(&mut self, pace: &Pace, copy: &StandingCopy) -> LocalState {
        let idle = pace.next + (PUT_HEARTBEATS_EVERY - PUT_EVERY);
        loop {
            self.note(copy);
            if copy.dispersal().is_some_and(|it| self.stores.look(it, &mut self.shown)) {
                self.show();
            }
            let (state, now) = (self.local.now(), ambient::instant());
            let is_new = pace.known.is_none_or(|known| known.durable != state.durable);
            if is_new && self.shown.behind_since.is_none() {
                self.shown.behind_since = Some(PgTime::from_utc(ambient::now()));
                self.show();
            }
            let has_changes = is_new && self.local.changes() != pace.changes;
            let is_soon = has_changes || copy.is_busy() || pace.known.is_none();
            let due = if is_soon { pace.next } else { idle };
            if state.ends || now >= due {
                return state;
            }
            self.local.wait(state, (due - now).min(PUT_EVERY));
        }
    }

    fn update(&mut self, copy: &mut StandingCopy, state: LocalState) -> Result<()> {
        let begun = PgTime::from_utc(ambient::now());
        let (copied, board, number, shown) = (&self.copied, self.board.get(), self.number, &mut self.shown);
        let updated = copy.update(state.durable, &mut |end| {
            let is_new = copied.send_if_modified(|known| {
                let is_further = known.is_none_or(|it| (it.epoch(), it.lsn()) < (end.epoch(), end.lsn()));
                if is_further {
                    *known = Some(end);
                }
                is_further
            });
            if is_new {
                tracing::trace!("copied up to {}", end.lsn());
                (shown.epoch, shown.end) = (end.epoch(), Some(end.lsn()));
                if let Some(board) = board {
                    board.update(|live| {
                        if let Some(shown) = live.copies.get_mut(number) {
                            (shown.epoch, shown.end) = (end.epoch(), Some(end.lsn()));
                        }
                    });
                }
            }
        });
        updated?;
        if copy.increments() >= most_increments() {
            self.local.want_roll();
        }
        if self.shown.fault.take().is_some() {
            tracing::info!("{} is up to date again", self.shown.url);
        }
        self.shown.fault = copy.fault().map(str::to_owned);
        self.shown.put = Some(begun);
        self.shown.behind_since = (self.local.now().durable != state.durable).then_some(begun);
        self.show();
        Ok(())
    }

    /// Warns of a failure, once for each cause.
    fn fail(&mut self, error: &Error) {
        let is_new = self.shown.fault.as_deref() != Some(error.message());
        if is_new {
            tracing::warn!("the copy {} is not kept up to date: {error}; trying again", self.shown.url);
        }
        self.shown.fault = Some(error.message().to_owned());
        if self.shown.behind_since.is_none() {
            self.shown.behind_since = Some(PgTime::from_utc(ambient::now()));
        }
        self.show();
    }

    fn show(&self) {
        let Some(board) = self.board.get() else { return };
        board.update(|live| {
            let missing = (self.number + 1).saturating_sub(live.copies.len());
            live.copies.extend((0..missing).map(|_| CopyLive::default()));
            live.copies[self.number] = self.shown.clone();
        });
        board.write_now();
    }

    /// Lets others read in the store how the capture goes.
    fn note(&mut self, copy: &StandingCopy) {
        if self.noted.is_some_and(|at| at.elapsed() < NOTE_EVERY) {
            return;
        }
        let Some(live) = self.board.get().and_then(Board::read) else { return };
        self.noted = Some(ambient::instant());
        let transitions = live.transitions[live.transitions.len().saturating_sub(NOTED)..].to_vec();
        let unprotected = live.unprotected.iter().take(NOTED).cloned().collect();
        let written = PgTime::from_utc(ambient::now());
        let live = Live { published: None, transitions, unprotected, written, ..live };
        if let Ok(text) = serde_json::to_string(&live) {
            copy.note(&text);
        }
    }
}
