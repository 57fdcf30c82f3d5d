//! Finds out how the capture of a history goes, also one on another machine, and how its copies stand.

use std::time::Duration;

use serde::Serialize;

use super::Lag;
use crate::ambient;
use crate::capture::live::{self, CopyLive, CopyStore, Live};
use crate::cli::ui;
use crate::error::{Kind, Result};
use crate::history::History;
use crate::model::{Lsn, PgTime};
use crate::store::{HolderNote, Role};

/// A capture on another machine whose last sign of life is older than this is taken for ended. It gives one each ten seconds.
const SILENT: Duration = Duration::from_secs(45);

/// The capture that writes the history.
#[derive(Default)]
pub(super) struct KnownCapture {
    /// The state that the last capture told of itself.
    pub live: Option<Live>,
    pub running: bool,
    /// When a capture on another machine gave its last sign of life, by the clock of that machine.
    pub seen: Option<PgTime>,
    /// A sentence on where the capture is, if the history lies in an object store.
    pub elsewhere: Option<String>,
    /// Whether nobody can tell from here how the capture goes; `elsewhere` says why.
    pub is_unknown: bool,
}

impl KnownCapture {
    /// Looks in the folder or, of a history in an object store, at what its capture has put there.
    ///
    /// # Errors
    /// `Unavailable` if the store does not answer.
    pub(super) fn of(history: &History) -> Result<KnownCapture> {
        if !history.is_remote() {
            let (live, running) = (live::read(&history.live_state()), history.capture_is_running());
            return Ok(KnownCapture { live, running, ..KnownCapture::default() });
        }
        let store = history.store();
        if !store.keeps_notes() {
            let is_at_work = store.is_leased(Role::Capture);
            return Ok(KnownCapture::unknown(
                is_at_work,
                "the copy lies in folders, which hold no signs of life of a capture",
            ));
        }
        let held = match store.read_note(Role::Capture) {
            Err(error) if error.kind() == Kind::Unavailable => {
                return Ok(KnownCapture::unknown(false, error.message()));
            }
            held => held?,
        };
        // Its first word comes with its second sign of life.
        let is_new = |it: &HolderNote| it.owner.is_some() && it.note.is_none() && it.age <= SILENT;
        let has_just_begun = held.as_ref().is_some_and(is_new);
        let note = held.and_then(|held| Some((serde_json::from_str::<Live>(&held.note?).ok()?, held.age)));
        let Some((live, age)) = note else {
            let elsewhere = if has_just_begun {
                "a capture on another machine has just begun to keep this copy up to date; ask again in ten \
                 seconds"
                    .to_owned()
            } else {
                format!(
                    "no capture keeps this copy up to date; it is as of its last `backwhen copy --to {}`, or as an earlier \
                     capture left it",
                    history.place()
                )
            };
            return Ok(KnownCapture { elsewhere: Some(elsewhere), ..KnownCapture::default() });
        };
        let (running, age_text) = (age <= SILENT, format!("{} s", age.as_secs()));
        let elsewhere = if running {
            format!("on another machine, which gave its last sign of life {age_text} ago")
        } else {
            format!(
                "the capture on another machine has given no sign of life for {age_text}: it was killed, or does not reach \
                 the store"
            )
        };
        let seen = Some(live.written);
        let elsewhere = Some(elsewhere);
        Ok(KnownCapture { live: Some(live), running, seen, elsewhere, is_unknown: false })
    }

    /// Nobody can tell from here how the capture goes, for this reason.
    fn unknown(running: bool, why: &str) -> KnownCapture {
        let at_work = if running { "; a capture or a copy is at work on it" } else { "" };
        let elsewhere = format!(
            "from here nobody can tell how the capture goes: {why}{at_work}; ask on the machine that captures, with: backwhen status"
        );
        KnownCapture { running, elsewhere: Some(elsewhere), is_unknown: true, ..KnownCapture::default() }
    }
}

/// A standing copy.
#[derive(Serialize)]
pub(super) struct CopyShown {
    pub url: String,
    pub epoch: u32,
    /// The end of what the copy has.
    pub end: Option<Lsn>,
    pub lag: Lag,
    /// When it was last found up to date.
    pub put: Option<PgTime>,
    pub fault: Option<String>,
    /// The stores that it is dispersed over, if there are several.
    pub stores: Vec<CopyStore>,
    /// How many of any of these could be lost now.
    pub could_lose: Option<usize>,
}

impl CopyShown {
    pub(super) fn all(live: &Live) -> Vec<CopyShown> {
        live.copies.iter().map(|copy| CopyShown::of(copy, live)).collect()
    }

    fn of(copy: &CopyLive, live: &Live) -> CopyShown {
        let now = PgTime::from_utc(ambient::now());
        let is_same = copy.epoch == live.epoch;
        let bytes = copy.end.filter(|_| is_same).map(|end| live.durable.0.saturating_sub(end.0));
        let behind = copy.behind_since.map(|since| now.seconds_since(since).max(0.0));
        // Before the first update nothing is known.
        let seconds = behind.or_else(|| copy.put.map(|_| 0.0));
        let lag = Lag { bytes, seconds };
        let CopyLive { url, epoch, end, put, fault, stores, could_lose, .. } = copy.clone();
        CopyShown { url, epoch, end, lag, put, fault, stores, could_lose }
    }

    /// Whether monitoring is to warn of the copy.
    pub(super) fn needs_attention(&self, limit: f64) -> bool {
        let is_late = self.lag.seconds.is_none_or(|seconds| seconds >= limit);
        self.fault.is_some() || is_late || !self.stores.iter().all(CopyStore::is_whole)
    }

    /// The stores that are away or lack something, in words, and how many may be lost.
    pub(super) fn describe_stores(&self) -> Vec<String> {
        let mut told: Vec<_> = self.stores.iter().filter(|it| !it.is_whole()).map(describe_store).collect();
        if let Some(could_lose) = self.could_lose.filter(|_| !told.is_empty()) {
            told.push(format!(
                "any {could_lose} of the {} stores may be lost; once they answer, make what is missing with: backwhen repair --history {}",
                self.stores.len(),
                self.url
            ));
        }
        told
    }

    pub(super) fn describe(&self) -> String {
        let end = self.end.map_or_else(|| "is of no use yet".to_owned(), |end| format!("reaches to {end}"));
        let lag = match (self.lag.bytes, self.lag.seconds) {
            (Some(bytes), Some(seconds)) => format!(", {} and {seconds:.1} s behind", ui::bytes(bytes)),
            (_, Some(seconds)) => format!(", {seconds:.1} s behind"),
            _ => String::new(),
        };
        let fault = self.fault.as_ref().map_or_else(String::new, |fault| format!(": {fault}"));
        format!("{} {end}{lag}{fault}", self.url)
    }
}

fn describe_store(it: &CopyStore) -> String {
    let mut text = it.store.clone();
    if let Some(why) = &it.away {
        text.push_str(&format!(" is away ({why})"));
    }
    match it.lacks {
        Some(0) => {}
        Some(lacks) => text.push_str(&format!(" lacks {lacks} objects")),
        None => text.push_str(" may lack objects: too few stores answer to tell"),
    }
    text
}
