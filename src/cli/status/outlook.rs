//! Whether the history does what is needed of it, and how long its room lasts.

use serde::Serialize;

use super::prometheus::Text;

use crate::cli::retention::OutlookOptions;
use crate::cli::ui;
use crate::error::Result;
use crate::history::outlook::{CheckpointSize, DiscoverNeed, Forecast, RecoverNeed, RecoveryPace, Room};
use crate::model::PgTime;
use crate::model::moment::format_duration;
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

/// What was asked for with --time-to-discover and --time-to-recover.
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
    /// What the next checkpoint may add, at a rather high estimate.
    next_checkpoint_bytes: Option<u64>,
}

impl Outlook {
    /// # Errors
    /// `Damaged` if the history is.
    pub(super) fn of(reading: &Reading, options: &OutlookOptions, now: PgTime) -> Result<Outlook> {
        let (timeline, catalog, history) = (reading.timeline(), reading.catalog(), reading.history());
        let wanted = options.needs();
        let pace = match wanted.time_to_recover {
            Some(_) => RecoveryPace::of(history)?,
            None => RecoveryPace::default(),
        };
        let room = Room::of(history, timeline, catalog, options.quota())?;
        let next = CheckpointSize::next(history, timeline.current()?)?;
        Ok(Outlook {
            needs: NeedsShown {
                time_to_discover: wanted.discover(timeline, now),
                time_to_recover: wanted.recover(timeline, &pace, now),
            },
            forecast: Forecast::of(timeline, &options.rules(), &room, now),
            room: RoomShown {
                left_bytes: room.left(),
                next_checkpoint_bytes: next.map(|next| next.bytes),
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

    /// What monitoring says of it, each with a reason to warn.
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
        let of = match self.room.room.quota_bytes {
            Some(quota) => format!("of the quota of {}", ui::bytes(quota)),
            None => "on the disk".to_owned(),
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
    let wanted = format_duration(std::time::Duration::from_secs_f64(wanted));
    let why = why.map_or_else(String::new, |why| format!(" ({why})"));
    match met {
        Some(true) => format!("{wanted} is met{why}"),
        Some(false) => format!("{wanted} is NOT met{why}"),
        None => format!("whether {wanted} is met is unknown{why}"),
    }
}

/// Two units at most: these are estimates, or ages.
fn in_words(seconds: f64) -> String {
    const UNITS: [(f64, &str); 4] = [(86_400.0, "d"), (3600.0, "h"), (60.0, "m"), (1.0, "s")];
    let seconds = seconds.max(0.0);
    let Some(at) = UNITS.iter().position(|(unit, _)| seconds >= *unit) else {
        return format!("{seconds:.1}s");
    };
    let (unit, name) = UNITS[at];
    let whole = format!("{}{name}", (seconds / unit).floor());
    match UNITS.get(at + 1) {
        // From ten of a unit on, the next one does not matter.
        Some((next, name)) if seconds < 10.0 * unit => {
            format!("{whole}{}{name}", ((seconds % unit) / next).floor())
        }
        _ => whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_two_units_at_most() {
        let texts = [0.25, 7.0, 75.0, 3600.0, 90_000.0, 86_400.0 * 40.5].map(in_words);
        assert_eq!(texts, ["0.2s", "7s", "1m15s", "1h0m", "1d1h", "40d"]);
    }
}
