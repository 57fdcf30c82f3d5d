//! The live state of capture, in a small file that `status` reads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use super::published::KnownPublications;
use super::state::{Event, State};
use crate::ambient;
use crate::error::{Error, Result};
use crate::model::{LeftOut, Lsn, PgTime};
use crate::source::stream::Backend;
use crate::store::VolatileFile;

/// The content of `live/capture.json`. It is not part of the history, and may be missing or old.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Live {
    pub state: State,
    /// Why it is in this state.
    pub cause: String,
    /// When it came into this state, by this machine's clock.
    pub since: PgTime,
    /// When this was written, by this machine's clock.
    pub written: PgTime,
    pub process: u32,
    /// The epoch that `durable` is a position of; 0 until the stream is open.
    #[serde(default)]
    pub epoch: u32,
    /// The end of what is durable in the history.
    pub durable: Lsn,
    /// The end of what the server has written, when it was last asked.
    pub source_head: Option<Lsn>,
    pub source_asked: Option<PgTime>,
    /// Up to here the stream is known to carry all protected tables.
    #[serde(default)]
    pub published_until: Option<Lsn>,
    /// Commit time of the last durable transaction.
    pub durable_time: Option<PgTime>,
    /// Received since capture was started.
    pub bytes: u64,
    pub bytes_per_second: f64,
    /// Tables that exist on the source and are not in the history.
    pub unprotected: Vec<LeftOut>,
    /// The source's definitions differ from those of the newest checkpoint.
    pub schema_changed: bool,
    /// Why changes of the schema are not told by event triggers now, though they should be.
    #[serde(default)]
    pub triggers_fault: Option<String>,
    /// The server's process that streamed to us last: it may have the slot still.
    #[serde(default)]
    pub walsender: Option<Backend>,
    /// The transitions that led to this state, the newest last.
    #[serde(default)]
    pub transitions: Vec<Transition>,
    /// The publications as they were last found.
    #[serde(default)]
    pub published: Option<KnownPublications>,
    /// Why the slot was given up, until a new epoch is begun.
    #[serde(default)]
    pub given_up: Option<String>,
    /// The options of the running capture; `None` if an older version wrote the file.
    #[serde(default)]
    pub options: Option<LiveOptions>,
    /// The standing copies, in the order in which they were named.
    #[serde(default)]
    pub copies: Vec<CopyLive>,
}

/// How it goes with a standing copy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CopyLive {
    pub url: String,
    /// The epoch that `end` is a position of.
    pub epoch: u32,
    /// The end of what the copy has; `None` until it is of use.
    pub end: Option<Lsn>,
    /// The time since which the copy lacks something that is durable here, by this machine's clock.
    pub behind_since: Option<PgTime>,
    /// When the copy was last found up to date, by this machine's clock.
    pub put: Option<PgTime>,
    /// Why it is not kept up to date.
    pub fault: Option<String>,
    /// The stores that it is dispersed over, if there are several.
    #[serde(default)]
    pub stores: Vec<CopyStore>,
    /// How many of any of these could be lost now without a loss; `None` if that is not known, or if there is one store.
    #[serde(default)]
    pub could_lose: Option<usize>,
}

/// One of the stores of a dispersed copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyStore {
    pub store: String,
    /// Why the store could not be asked.
    pub away: Option<String>,
    /// The number of objects of which the store has no shard or copy; `None` if too few stores answered to tell.
    pub lacks: Option<u64>,
}

impl CopyStore {
    /// Whether the store answers and lacks nothing.
    pub fn is_whole(&self) -> bool {
        self.away.is_none() && self.lacks == Some(0)
    }
}

/// The places that must have a position before it is confirmed to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// The disk of this machine.
    #[default]
    Local,
    /// This disk and the first standing copy.
    Store,
}

/// The options of a capture that decide how its figures are judged.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LiveOptions {
    pub heartbeat_seconds: f64,
    /// The most WAL that the slot may retain, in bytes; none means that there is no limit.
    pub max_retained_wal: Option<u64>,
    #[serde(default)]
    pub durable: Durability,
}

/// A step of the protection cycle from one state to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// The time, by this machine's clock.
    pub at: PgTime,
    pub from: State,
    pub to: State,
    pub cause: String,
}

/// A file that is longer is not ours, in bytes.
const LONGEST: u64 = 64 << 20;

/// The number of transitions that are kept: the newest, also those of earlier captures.
const TRANSITIONS: usize = 20;

/// The live state, shared by capture's tasks.
#[derive(Clone)]
pub struct Board {
    kept: VolatileFile,
    live: Arc<Mutex<Live>>,
    /// Held while the file is written, so that the last one to write has the newest state.
    file: Arc<Mutex<()>>,
    /// A write was asked for and has not begun yet.
    waiting: Arc<AtomicBool>,
}

impl Board {
    /// Takes over what an earlier capture left.
    pub fn new(kept: VolatileFile, durable: Lsn, options: LiveOptions) -> Board {
        let now = PgTime::from_utc(ambient::now());
        let before = read(&kept);
        let state = before.as_ref().map_or(State::Blackout, |before| before.state);
        let live = Live {
            state,
            cause: before.as_ref().map_or_else(String::new, |before| before.cause.clone()),
            since: before.as_ref().map_or(now, |before| before.since),
            written: now,
            process: std::process::id(),
            epoch: 0,
            durable,
            source_head: None,
            source_asked: None,
            published_until: before.as_ref().and_then(|before| before.published_until),
            durable_time: None,
            bytes: 0,
            bytes_per_second: 0.0,
            unprotected: Vec::new(),
            schema_changed: false,
            triggers_fault: None,
            walsender: before.as_ref().and_then(|before| before.walsender.clone()),
            published: before.as_ref().and_then(|before| before.published.clone()),
            given_up: before.as_ref().and_then(|before| before.given_up.clone()),
            options: Some(options),
            copies: Vec::new(),
            transitions: before.map(|before| before.transitions).unwrap_or_default(),
        };
        Board { kept, live: Arc::new(Mutex::new(live)), file: Arc::default(), waiting: Arc::default() }
    }

    /// Changes what is known; written with the next [`Board::write`].
    pub fn update(&self, change: impl FnOnce(&mut Live)) {
        if let Ok(mut live) = self.live.lock() {
            change(&mut live);
        }
    }

    /// Moves the protection cycle on, logs it with its cause, and has the file written.
    ///
    /// # Errors
    /// `Internal` if the event cannot happen in this state.
    pub fn step(&self, event: Event, cause: impl Into<String>) -> Result<State> {
        let cause = cause.into();
        let mut stepped = Err(Error::internal("the live state is not available"));
        self.update(|live| {
            let before = live.state;
            let Some(after) = before.after(event) else {
                stepped = Err(Error::internal(format!(
                    "{event:?} cannot happen while {before:?}; please report this"
                )));
                return;
            };
            if after != before {
                tracing::info!("{before:?} → {after:?}: {cause}");
                live.since = PgTime::from_utc(ambient::now());
                let cause = cause.clone();
                live.transitions.push(Transition { at: live.since, from: before, to: after, cause });
                let old = live.transitions.len().saturating_sub(TRANSITIONS);
                live.transitions.drain(..old);
            }
            live.state = after;
            live.cause = cause;
            stepped = Ok(after);
        });
        self.write();
        stepped
    }

    /// Has the file written by another thread, and does not wait for it: a slow disk holds nobody up.
    pub fn write(&self) {
        if !self.waiting.swap(true, Ordering::AcqRel) {
            let board = self.clone();
            drop(tokio::task::spawn_blocking(move || board.write_now()));
        }
    }

    /// Returns once the file holds what is known now.
    pub async fn written(&self) {
        let board = self.clone();
        let writing = ambient::blocking("writing the live state", move || {
            board.write_now();
            Ok(())
        });
        if let Err(error) = writing.await {
            tracing::warn!("{error}");
        }
    }

    /// Writes the file. Capture goes on if that fails.
    pub(super) fn write_now(&self) {
        let Ok(_file) = self.file.lock() else { return };
        self.waiting.store(false, Ordering::Release);
        ambient::pause("board");
        let now = PgTime::from_utc(ambient::now());
        self.update(|live| live.written = now);
        let Some(live) = self.read() else { return };
        if let Ok(bytes) = serde_json::to_vec_pretty(&live) {
            let _ = self.kept.replace_text(&bytes);
        }
    }

    pub fn read(&self) -> Option<Live> {
        self.live.lock().ok().map(|live| live.clone())
    }
}

/// Reads what the last capture wrote.
pub fn read(kept: &VolatileFile) -> Option<Live> {
    serde_json::from_slice(&kept.read_text(LONGEST)?).ok()
}
