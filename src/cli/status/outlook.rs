//! Whether the history does what is needed of it, and how long its room lasts.

use std::time::Duration;

use serde::Serialize;

use super::prometheus::Text;
use crate::cli::retention::OutlookOptions;
use crate::cli::ui;
use crate::error::Result;
use crate::history::checkpoint::Checkpoint;
use crate::history::outlook::{
    DiscoverNeed, Forecast, RecoverNeed, RecoveryPace, Room, next_checkpoint_bytes,
};
use crate::model::PgTime;
use crate::model::moment::{format_duration, roughly};
use crate::past::Reading;

#[derive(Serialize)]
pub(super) struct Outlook {
    needs: NeedsShown,
    room: RoomShown,
    /// `None` if the history is too young, or the room is not known.
    forecast: Option<Forecast>,
    /// The days left from which monitoring warns, and from which it is critical.
    #[serde(skip)]
    limits: (f64, f64),
}

/// The judgements that were asked for with --time-to-discover and --time-to-recover.
#[derive(Serialize)]
struct NeedsShown {
    time_to_discover: Option<DiscoverNeed>,
    time_to_recover: Option<RecoverNeed>,
}

#[derive(Serialize)]
struct RoomShown {
    #[serde(flatten)]
    room: Room,
    /// How many bytes may still come.
    left_bytes: Option<u64>,
    /// The bytes that the next checkpoint may add, at a rather high estimate.
    next_checkpoint_bytes: Option<u64>,
}

impl Outlook {
    /// `newest` is the newest checkpoint of the epoch that is written, and `held` are the bytes of all segments and packs.
    ///
    /// # Errors
    /// `Damaged` if the history is.
    pub(super) fn of(
        reading: &Reading,
        newest: Option<&Checkpoint>,
        held: u64,
        options: &OutlookOptions,
        now: PgTime,
    ) -> Result<Outlook> {
        let (timeline, history) = (reading.timeline(), reading.history());
        let wanted = options.needs();
        let pace = match wanted.time_to_recover {
            Some(_) => RecoveryPace::of(history)?,
            None => RecoveryPace::default(),
        };
        let room = Room::of(history, held, options.quota());
        let stretch = timeline.current()?;
        Ok(Outlook {
            needs: NeedsShown {
                time_to_discover: wanted.discover(timeline, now),
                time_to_recover: wanted.recover(timeline, &pace, now),
            },
            forecast: Forecast::of(timeline, &options.rules(), &room, now),
            room: RoomShown {
                left_bytes: room.left(),
                next_checkpoint_bytes: newest.map(|newest| next_checkpoint_bytes(newest, stretch)),
                room,
            },
            limits: options.limits(),
        })
    }

    /// Whether the next checkpoint may not fit.
    fn is_too_full(&self) -> bool {
        self.room.left_bytes.zip(self.room.next_checkpoint_bytes).is_some_and(|(left, next)| left < next)
    }

    pub(super) fn days_left(&self) -> Option<f64> {
        self.forecast.as_ref().and_then(|forecast| forecast.days_left)
    }

    pub(super) fn room_warns(&self) -> bool {
        self.is_too_full() || self.days_left().is_some_and(|days| days < self.limits.0)
    }

    pub(super) fn room_is_critical(&self) -> bool {
        self.days_left().is_some_and(|days| days < self.limits.1)
    }

    /// Whether a need is not met, or is not known to be.
    pub(super) fn needs_warn(&self) -> bool {
        self.unmet().next().is_some()
    }

    /// A few words about each need that is not met or not known to be met.
    fn unmet(&self) -> impl Iterator<Item = String> {
        let discover = self.needs.time_to_discover.as_ref().filter(|it| !it.met);
        let discover =
            discover.map(|it| format!("time to discover: {}", it.why.as_deref().unwrap_or_default()));
        let recover = self.needs.time_to_recover.as_ref().filter(|it| it.met != Some(true));
        let recover = recover.map(|it| format!("time to recover: {}", it.why.as_deref().unwrap_or_default()));
        discover.into_iter().chain(recover)
    }

    /// The sentences for monitoring, one for each reason to warn.
    pub(super) fn warnings(&self) -> Vec<String> {
        let room = self.room_warns().then(|| self.describe_room());
        self.unmet().chain(room).collect()
    }

    /// The metrics.
    pub(super) fn expose(&self, text: &mut Text) {
        let bytes = |bytes: Option<u64>| bytes.map(|bytes| bytes as f64);
        text.maybe(
            "backwhen_room_bytes",
            "Bytes that may still come, on the disk and by --quota.",
            bytes(self.room.left_bytes),
        );
        text.maybe(
            "backwhen_next_checkpoint_bytes",
            "What the next checkpoint may add, at a rather high estimate.",
            bytes(self.room.next_checkpoint_bytes),
        );
        text.maybe(
            "backwhen_room_days",
            "Days for which the room lasts; left out if they are more than ten years, or not known.",
            self.days_left(),
        );
        let forecast = self.forecast.as_ref();
        text.maybe(
            "backwhen_growth_bytes_per_day",
            "What came a day lately, journal and checkpoints, before anything is expired.",
            forecast.map(|it| it.journal_bytes_per_day + it.checkpoint_bytes_per_day),
        );
        let discover = self.needs.time_to_discover.as_ref();
        text.maybe(
            "backwhen_discover_met",
            "1 if every moment of --time-to-discover is held, or of a younger history all.",
            discover.map(|it| f64::from(u8::from(it.met))),
        );
        let recover = self.needs.time_to_recover.as_ref();
        text.maybe(
            "backwhen_recover_met",
            "1 if a recovery of each of these moments takes no longer than --time-to-recover, as far as was measured.",
            recover.map(|it| f64::from(u8::from(it.met == Some(true)))),
        );
        text.maybe(
            "backwhen_recover_seconds",
            "What a recovery of the slowest of these moments takes.",
            recover.and_then(|it| it.worst_seconds),
        );
    }

    /// The lines of `status`.
    pub(super) fn describe(&self) -> String {
        let mut text = String::new();
        if let Some(need) = &self.needs.time_to_discover {
            let held = in_words(need.held_seconds);
            text.push_str(&format!(
                "discover     every moment of {held} is held; {}\n",
                standing(Some(need.met), need.wanted_seconds, need.why.as_deref())
            ));
        }
        if let Some(need) = &self.needs.time_to_recover {
            let time = |seconds: Option<f64>| seconds.map_or_else(|| "unknown".to_owned(), in_words);
            let at = need.worst_at.map_or_else(String::new, |at| format!(" (as of {})", at.time));
            text.push_str(&format!(
                "recover      about {} for the newest moment, {}{at} at most; {}\n",
                time(need.newest_seconds),
                time(need.worst_seconds),
                standing(need.met, need.wanted_seconds, need.why.as_deref())
            ));
        }
        text.push_str(&format!("room         {}\n", self.describe_room()));
        text
    }

    fn describe_room(&self) -> String {
        let Some(left) = self.room.left_bytes else {
            return "unknown: an object store does not tell; name what the history may take with --quota"
                .to_owned();
        };
        // The narrower of both is what is left.
        let of = match self.room.room.quota_bytes {
            Some(quota) if self.room.room.free_bytes != Some(left) => {
                format!("of the quota of {}", ui::bytes(quota))
            }
            _ => "on the disk".to_owned(),
        };
        let left = format!("{} left {of}", ui::bytes(left));
        let lasts = match &self.forecast {
            None => "; the history is too young for a forecast".to_owned(),
            Some(forecast) => lasts(forecast),
        };
        let too_full = if self.is_too_full() {
            "; the next checkpoint may not fit: run backwhen expire --apply, or make room"
        } else {
            ""
        };
        format!("{left}{lasts}{too_full}")
    }
}

fn lasts(forecast: &Forecast) -> String {
    let per_day = forecast.journal_bytes_per_day + forecast.checkpoint_bytes_per_day;
    let rules = match &forecast.rules[..] {
        [] => "nothing is expired".to_owned(),
        rules => format!("expire {} runs each day", rules.join(" ")),
    };
    match forecast.days_left {
        None => format!(", for more than ten years, if {rules} and {} come a day", ui::bytes(per_day as u64)),
        Some(days) => format!(
            ", for about {}, if {rules} and {} come a day",
            in_words(days * 86_400.0),
            ui::bytes(per_day as u64)
        ),
    }
}

fn standing(met: Option<bool>, wanted: f64, why: Option<&str>) -> String {
    let wanted = format_duration(Duration::from_secs_f64(wanted));
    let why = why.map_or_else(String::new, |why| format!(" ({why})"));
    match met {
        Some(true) => format!("{wanted} is met{why}"),
        Some(false) => format!("{wanted} is NOT met{why}"),
        None => format!("whether {wanted} is met is unknown{why}"),
    }
}

fn in_words(seconds: f64) -> String {
    roughly(Duration::from_secs_f64(seconds))
}
