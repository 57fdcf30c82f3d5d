//! How long the room lasts: what the history has grown by lately against what expiries let go and the room there is.
//!
//! The forecast moves the history forward, hour by hour. What arrived lately goes on to arrive at the same rate, and what
//! arrived goes once the rules of retention do not keep it any more, if `expire` is run by them. Where it is not known how much
//! a rule frees, it is taken to free nothing: the room lasts at least as long as the forecast says, if the source goes on as before.

use std::time::Duration;

use serde::Serialize;

use crate::history::History;
use crate::history::catalog::CheckpointRow;
use crate::history::expire::{CalendarRules, Period, RetentionRules};
use crate::history::timeline::Timeline;
use crate::model::PgTime;

/// The rate of arrival is measured over this time, or over the age of a younger history.
const MEASURED: Duration = Duration::from_secs(30 * 86_400);

/// A younger history has no rate.
const YOUNGEST: Duration = Duration::from_secs(3600);

/// A forecast looks no further ahead than this.
const FURTHEST_DAYS: u32 = 3650;

const HOUR: f64 = 3600.0;
const DAY: f64 = 24.0 * HOUR;

/// The room for a history, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Room {
    /// Segments and packs of the history.
    pub held_bytes: u64,
    /// Free bytes of the disk, for a history in a folder.
    pub free_bytes: Option<u64>,
    /// The bytes that the history may take in all.
    pub quota_bytes: Option<u64>,
}

/// When the room ends.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// The time over which the rates were measured.
    pub measured_seconds: f64,
    pub journal_bytes_per_day: f64,
    pub checkpoint_bytes_per_day: f64,
    /// The rules by which `expire` is taken to run each day; empty if there are none.
    pub rules: Vec<String>,
    /// `None` if the room lasts for more than ten years.
    pub days_left: Option<f64>,
}

/// Bytes that a history received at a time.
type Arrival = (PgTime, u64);

/// The arrivals of a history, from which its growth is reckoned.
struct Holdings {
    /// Each segment at the time of its last transaction.
    journal: Vec<Arrival>,
    /// The blocks that each checkpoint brought; the first one of all brought all rows, and does not count.
    brought: Vec<Arrival>,
    /// The blocks of these that replaced others, so that as many bytes go with the checkpoints before.
    replaced: Vec<Arrival>,
    first: Option<PgTime>,
    /// The mean time between checkpoints, in seconds.
    spacing: f64,
}

impl Room {
    /// Finds the room for a history whose segments and packs have so many bytes.
    pub fn of(history: &History, held_bytes: u64, quota: Option<u64>) -> Room {
        Room { held_bytes, free_bytes: history.free_bytes(), quota_bytes: quota }
    }

    /// How many bytes may still come; `None` if nobody knows.
    pub fn left(&self) -> Option<u64> {
        let of_quota = self.quota_bytes.map(|quota| quota.saturating_sub(self.held_bytes));
        self.free_bytes.into_iter().chain(of_quota).min()
    }
}

impl Forecast {
    /// Foretells how long the room lasts. `None` if the history is younger than an hour, or the room is not known.
    pub fn of(timeline: &Timeline, rules: &RetentionRules, room: &Room, now: PgTime) -> Option<Forecast> {
        foretell(&Holdings::of(timeline), rules, room.left()?, now)
    }
}

impl Holdings {
    fn of(timeline: &Timeline) -> Holdings {
        let segments = timeline.stretches.iter().flat_map(|stretch| {
            let begun = stretch.epoch.started;
            stretch
                .segments
                .iter()
                .map(move |segment| (segment.summary.max_time.unwrap_or(begun), segment.bytes))
        });
        let rows: Vec<_> = timeline.checkpoints().collect();
        Holdings { journal: segments.collect(), ..Holdings::of_checkpoints(&rows) }
    }

    /// `rows` are ordered by position.
    fn of_checkpoints(rows: &[&CheckpointRow]) -> Holdings {
        let pairs = || rows.windows(2).map(|pair| (pair[0], pair[1]));
        let replaced = |(before, after): (&CheckpointRow, &CheckpointRow)| {
            let grown = after.bytes_total.saturating_sub(before.bytes_total);
            (after.time, after.bytes_new.saturating_sub(grown))
        };
        let (first, last) = (rows.first().map(|row| row.time), rows.last().map(|row| row.time));
        let span = first.zip(last).map_or(0.0, |(first, last)| last.seconds_since(first).max(0.0));
        Holdings {
            journal: Vec::new(),
            brought: pairs().map(|(_, after)| (after.time, after.bytes_new)).collect(),
            replaced: pairs().map(replaced).collect(),
            first,
            spacing: span / rows.len().saturating_sub(1).max(1) as f64,
        }
    }
}

/// The time for which each sort of object is kept, in seconds; `None` means for ever.
struct Reach {
    journal: Option<f64>,
    blocks: Option<f64>,
}

impl Reach {
    fn of(rules: &RetentionRules, spacing: f64) -> Reach {
        if rules.is_empty() {
            return Reach { journal: None, blocks: None };
        }
        // The checkpoint before the window stays too, and an expiry runs once a day.
        let slack = spacing + DAY;
        let within = rules.within.map(|within| within.as_secs_f64());
        let last = rules.last.map(|last| spacing * last as f64);
        let window = within.into_iter().chain(last).fold(0.0, f64::max) + slack;
        let calendar = Reach::of_calendar(&rules.calendar);
        Reach { journal: Some(window), blocks: calendar.map(|calendar| window.max(calendar + slack)) }
    }

    /// How far back the calendar keeps checkpoints. A block that one of them holds is taken to be held by the oldest.
    fn of_calendar(rules: &CalendarRules) -> Option<f64> {
        let reach = |(period, count): &(Period, usize)| {
            (*count != usize::MAX).then_some(*count as f64 * period.longest_seconds())
        };
        rules.0.iter().map(reach).try_fold(0.0, |furthest, reach| Some(f64::max(furthest, reach?)))
    }
}

fn foretell(holdings: &Holdings, rules: &RetentionRules, left: u64, now: PgTime) -> Option<Forecast> {
    let age = now.seconds_since(holdings.first?);
    if age < YOUNGEST.as_secs_f64() {
        return None;
    }
    let measured = age.min(MEASURED.as_secs_f64());
    let per_second = |arrivals: &[Arrival]| {
        let lately = arrivals.iter().filter(|(time, _)| now.seconds_since(*time) <= measured);
        lately.map(|(_, bytes)| *bytes as f64).sum::<f64>() / measured
    };
    let reach = Reach::of(rules, holdings.spacing);
    let (came, brought) = (per_second(&holdings.journal), per_second(&holdings.brought));
    let journal = Stock::new(&holdings.journal, (came, came), reach.journal, now);
    let blocks = Stock::new(&holdings.replaced, (brought, per_second(&holdings.replaced)), reach.blocks, now);
    let grown = |seconds: f64| journal.grown(seconds) + blocks.grown(seconds);
    let hours = (1..=FURTHEST_DAYS * 24).map(|hour| f64::from(hour) * HOUR);
    // The room is full at the first of these hours: it lasts until the one before.
    let full = hours.into_iter().find(|seconds| grown(*seconds) > left as f64);
    Some(Forecast {
        measured_seconds: measured,
        journal_bytes_per_day: journal.arriving * DAY,
        checkpoint_bytes_per_day: blocks.arriving * DAY,
        rules: rules.describe(),
        days_left: full.map(|seconds| (seconds - HOUR) / DAY),
    })
}

/// The objects of one sort, of which some come and some go.
struct Stock {
    /// The objects that go one day, the oldest first: the age of each in seconds, and the bytes of those that are as old or
    /// older.
    there: Vec<(f64, f64)>,
    /// Bytes that arrive in a second.
    arriving: f64,
    /// The part of these that goes again one day, in bytes a second.
    going: f64,
    /// The time for which an object is kept, in seconds; `None` means for ever.
    reach: Option<f64>,
}

impl Stock {
    fn new(arrivals: &[Arrival], (arriving, going): (f64, f64), reach: Option<f64>, now: PgTime) -> Stock {
        let mut there: Vec<_> =
            arrivals.iter().map(|(time, bytes)| (now.seconds_since(*time), *bytes as f64)).collect();
        there.sort_by(|one, other| other.0.total_cmp(&one.0));
        let mut sum = 0.0;
        for (_, bytes) in &mut there {
            sum += *bytes;
            *bytes = sum;
        }
        Stock { there, arriving, going, reach }
    }

    /// Returns the growth in bytes after so many seconds, which is less than zero if more went than came.
    fn grown(&self, seconds: f64) -> f64 {
        let came = self.arriving * seconds;
        let Some(reach) = self.reach else { return came };
        let gone = self.there.partition_point(|(age, _)| age + seconds > reach);
        let of_there = gone.checked_sub(1).map_or(0.0, |last| self.there[last].1);
        came - of_there - self.going * (seconds - reach).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::checkpoint::Origin;
    use crate::model::Lsn;

    const NOW: PgTime = PgTime(800 * 86_400 * 1_000_000);

    fn days_ago(days: f64) -> PgTime {
        PgTime(NOW.0 - (days * DAY * 1e6) as i64)
    }

    /// A history of `age` days with a checkpoint and a segment each day: each segment has 100 bytes, each checkpoint brings
    /// `new` bytes, of which `replaced` replace others.
    fn daily(age: u32, new: u64, replaced: u64) -> Holdings {
        let row = |number: u32| CheckpointRow {
            id: number.to_string(),
            epoch: 1,
            lsn: Lsn(number.into()),
            time: days_ago(f64::from(age - number)),
            label: None,
            origin: Origin::Fold,
            rows: 0,
            bytes_new: if number == 0 { 10_000 } else { new },
            bytes_total: 10_000 + u64::from(number) * (new - replaced),
        };
        let rows: Vec<_> = (0..=age).map(row).collect();
        let journal = (1..=age).map(|number| (days_ago(f64::from(age - number)), 100)).collect();
        Holdings { journal, ..Holdings::of_checkpoints(&rows.iter().collect::<Vec<_>>()) }
    }

    fn within(days: u64) -> RetentionRules {
        RetentionRules { within: Some(Duration::from_secs(days * 86_400)), ..RetentionRules::default() }
    }

    fn days_left(holdings: &Holdings, rules: &RetentionRules, left: u64) -> Option<u32> {
        let forecast = foretell(holdings, rules, left, NOW).expect("it is old enough");
        forecast.days_left.map(|days| days.round() as u32)
    }

    #[test]
    fn without_rules_the_room_ends_at_the_rate_of_the_last_days() {
        let holdings = daily(60, 50, 50);
        let forecast = foretell(&holdings, &RetentionRules::default(), 15_000, NOW).unwrap();
        // 31 segments lie within 30 days, both ends counted.
        assert!((forecast.journal_bytes_per_day - 100.0).abs() < 5.0, "{forecast:?}");
        assert!((forecast.checkpoint_bytes_per_day - 50.0).abs() < 3.0, "{forecast:?}");
        assert_eq!(forecast.days_left.map(|days| days.round()), Some(97.0));
    }

    #[test]
    fn what_the_rules_let_go_makes_room_for_what_comes() {
        // A steady state: as much goes each day as comes.
        let steady = daily(60, 50, 50);
        assert_eq!(days_left(&steady, &within(30), 1_000), None);
        // A young history grows until the first day goes: 150 bytes a day for 20 + 2 days.
        let young = daily(10, 50, 50);
        assert_eq!(days_left(&young, &within(30), 22 * 150 + 400), None);
        assert!(days_left(&young, &within(30), 1_500).is_some_and(|days| (8..=10).contains(&days)));
        // Rows that only become more are never let go. The journal of 28 days goes at once.
        let growing = daily(60, 50, 0);
        assert!(days_left(&growing, &within(30), 5_000).is_some_and(|days| (145..=155).contains(&days)));
    }

    #[test]
    fn a_calendar_holds_blocks_for_as_long_as_it_reaches() {
        let holdings = daily(60, 50, 50);
        let calendar =
            |counts: Vec<(Period, usize)>| RetentionRules { calendar: CalendarRules(counts), ..within(30) };
        // 50 bytes a day for about 340 more days.
        let yearly = calendar(vec![(Period::Week, 4), (Period::Month, 12)]);
        assert_eq!(days_left(&holdings, &yearly, 340 * 52), None);
        assert!(days_left(&holdings, &yearly, 5_000).is_some_and(|days| (145..=155).contains(&days)));
        let for_ever = calendar(vec![(Period::Day, usize::MAX)]);
        assert!(days_left(&holdings, &for_ever, 100_000).is_some_and(|days| days > 1_800));
    }

    #[test]
    fn a_history_without_past_has_no_forecast() {
        let mut holdings = daily(1, 50, 50);
        holdings.first = Some(days_ago(0.03));
        assert_eq!(foretell(&holdings, &within(1), 1_000, NOW), None);
        holdings.first = None;
        assert_eq!(foretell(&holdings, &within(1), 1_000, NOW), None);
    }

    #[test]
    fn the_narrower_of_disk_and_quota_is_the_room() {
        let room = |free_bytes, quota_bytes| Room { held_bytes: 100, free_bytes, quota_bytes };
        assert_eq!(room(Some(50), None).left(), Some(50));
        assert_eq!(room(Some(50), Some(120)).left(), Some(20));
        assert_eq!(room(Some(50), Some(90)).left(), Some(0));
        assert_eq!(room(None, None).left(), None);
    }
}
