//! Times, and the moments that `--to` accepts.

use std::fmt;

use chrono::{DateTime, FixedOffset, Local, LocalResult, NaiveDateTime, TimeDelta, TimeZone, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Lsn;
use super::zone::Zone;

/// A server's timestamp: microseconds since 2000-01-01 00:00:00 UTC, as PostgreSQL counts them.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PgTime(pub i64);

/// Microseconds from 1970-01-01 to 2000-01-01.
const PG_EPOCH_MICROS: i64 = 946_684_800_000_000;

impl PgTime {
    pub const MIN: PgTime = PgTime(i64::MIN);
    pub const MAX: PgTime = PgTime(i64::MAX);

    /// Returns the time in UTC. It saturates far outside the years in which PostgreSQL itself can commit.
    pub fn to_utc(self) -> DateTime<Utc> {
        let micros = self.0.saturating_add(PG_EPOCH_MICROS);
        Utc.timestamp_micros(micros).single().unwrap_or(if self.0 < 0 {
            DateTime::<Utc>::MIN_UTC
        } else {
            DateTime::<Utc>::MAX_UTC
        })
    }

    pub fn from_utc(time: DateTime<Utc>) -> PgTime {
        PgTime(time.timestamp_micros().saturating_sub(PG_EPOCH_MICROS))
    }

    /// Seconds from `earlier` to this time; negative if `earlier` is later.
    pub fn seconds_since(self, earlier: PgTime) -> f64 {
        (self.0.saturating_sub(earlier.0)) as f64 / 1e6
    }
}

/// A position in the WAL and the commit time that belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    pub lsn: Lsn,
    pub time: PgTime,
}

/// Formats the time as RFC 3339 in UTC with microseconds.
impl fmt::Display for PgTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_utc().format("%Y-%m-%dT%H:%M:%S%.6fZ"))
    }
}

impl Serialize for PgTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PgTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PgTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time = DateTime::parse_from_rfc3339(&text).map_err(serde::de::Error::custom)?;
        Ok(PgTime::from_utc(time.to_utc()))
    }
}

/// A point in a database's past, as a person names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The state after every transaction before the first one that committed later than this time.
    Time(PgTime),
    /// The state after every transaction whose commit record lies before this position.
    Lsn(Lsn),
    /// The state just after this transaction.
    Xid(u64),
    Mark(String),
    Checkpoint(String),
    /// The state after the last transaction in the history.
    Latest,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseMomentError {
    #[error("{text:?} {why}: write {}", readings.join(", or "))]
    NoZone {
        text: String,
        why: &'static str,
        /// Each a time to write instead, and when to write it.
        readings: Vec<String>,
    },
    #[error(
        "{0:?} is not a moment; it can be a time with zone (2026-11-22T10:00:00Z), a relative time ('10 minutes ago', -90s), an LSN (0/16B3748), xid:N, mark:NAME, checkpoint:ID or latest"
    )]
    Unknown(String),
}

impl Moment {
    /// Parses the argument of `--to`; relative times count from `now`.
    ///
    /// # Errors
    /// Fails with [`ParseMomentError::NoZone`] for a time that could be read in several ways.
    pub fn parse(text: &str, now: DateTime<Utc>) -> Result<Moment, ParseMomentError> {
        let text = text.trim();
        let unknown = || ParseMomentError::Unknown(text.chars().take(80).collect());
        if text == "latest" {
            return Ok(Moment::Latest);
        }
        if let Some((kind, rest)) = text.split_once(':') {
            match kind {
                "xid" => return rest.parse().ok().map(Moment::Xid).ok_or_else(unknown),
                "mark" if !rest.is_empty() => return Ok(Moment::Mark(rest.to_owned())),
                "checkpoint" if !rest.is_empty() => return Ok(Moment::Checkpoint(rest.to_owned())),
                _ => {}
            }
        }
        if let Ok(lsn) = text.parse() {
            return Ok(Moment::Lsn(lsn));
        }
        if let Some(back) = parse_relative(text) {
            let time = now.checked_sub_signed(back).ok_or_else(unknown)?;
            return Ok(Moment::Time(PgTime::from_utc(time)));
        }
        if let Some(time) = parse_zoned(text) {
            return Ok(Moment::Time(PgTime::from_utc(time.to_utc())));
        }
        match parse_naive(text) {
            Some(naive) => Err(no_zone(text, naive)),
            None => parse_abbreviated(text).unwrap_or_else(|| Err(unknown())),
        }
    }
}

const RFC_3339: &str = "%Y-%m-%dT%H:%M:%S%.f";

fn no_zone(text: &str, naive: NaiveDateTime) -> ParseMomentError {
    let mut readings = vec![format!("{}Z if it is UTC", naive.format(RFC_3339))];
    let local = |time: DateTime<Local>| time.format(&format!("{RFC_3339}%:z")).to_string();
    match Local.from_local_datetime(&naive) {
        LocalResult::Single(time) => {
            readings.push(format!("{} if it is this machine's local time", local(time)))
        }
        LocalResult::Ambiguous(first, second) => readings.extend([
            format!("{} if it is this machine's local time before its clock was set back", local(first)),
            format!("{} if after that", local(second)),
        ]),
        // The clock was set forward over it: no local time is meant.
        LocalResult::None => {}
    }
    ParseMomentError::NoZone { text: text.to_owned(), why: "has no time zone", readings }
}

/// Parses a time that ends with the abbreviation of a zone, as lines of a server's log begin.
fn parse_abbreviated(text: &str) -> Option<Result<Moment, ParseMomentError>> {
    let (time, abbreviation) = text.rsplit_once(' ')?;
    let naive = parse_naive(time.trim_end())?;
    let unclear = |why, readings| Err(ParseMomentError::NoZone { text: text.to_owned(), why, readings });
    Some(match Zone::of(abbreviation) {
        Some(Zone::Offset(offset)) => {
            let zoned = DateTime::parse_from_rfc3339(&format!("{}{offset}", naive.format(RFC_3339))).ok()?;
            Ok(Moment::Time(PgTime::from_utc(zoned.to_utc())))
        }
        Some(Zone::Several(zones)) => {
            let reading =
                |(offset, place): &(_, _)| format!("{}{offset} for {place}", naive.format(RFC_3339));
            let why = "ends with an abbreviation that several zones share";
            unclear(why, zones.iter().map(reading).collect())
        }
        None if abbreviation.bytes().all(|byte| byte.is_ascii_alphabetic()) => {
            let readings =
                vec![format!("{} with the zone's offset from UTC, such as +02:00", naive.format(RFC_3339))];
            unclear("ends with an abbreviation of a time zone that is not known", readings)
        }
        None => return None,
    })
}

/// Parses RFC 3339, and PostgreSQL's own output: a space instead of the `T`, a zone of hours alone.
fn parse_zoned(text: &str) -> Option<DateTime<FixedOffset>> {
    let mut text = text.to_owned();
    if let Some(sign) = text.rfind(['+', '-'])
        && sign > 10
        && text.len() - sign == 3
    {
        text.push_str(":00");
    }
    const FORMATS: [&str; 4] =
        ["%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z", "%Y-%m-%d %H:%M%#z"];
    let zoned = match text.strip_suffix(['Z', 'z']) {
        Some(bare) => format!("{}+00:00", bare.trim_end()),
        None => text,
    };
    FORMATS.iter().find_map(|format| DateTime::parse_from_str(&zoned, format).ok())
}

fn parse_naive(text: &str) -> Option<NaiveDateTime> {
    const FORMATS: [&str; 4] =
        ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"];
    FORMATS.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok()).or_else(|| {
        let date = chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
        date.and_hms_opt(0, 0, 0)
    })
}

/// Parses a relative time such as `-90s`, `10 minutes ago`, `1h30m ago`, `now`.
fn parse_relative(text: &str) -> Option<TimeDelta> {
    if text == "now" {
        return Some(TimeDelta::zero());
    }
    let amount = text.strip_prefix('-').or_else(|| text.strip_suffix("ago"))?;
    parse_duration(amount)
}

/// Parses a length of time such as `90s`, `10 minutes`, `1h 30m`, `2 days`.
pub fn parse_duration(text: &str) -> Option<TimeDelta> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut total = TimeDelta::zero();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let count: i64 = rest[..digits].parse().ok()?;
        let after = rest[digits..].trim_start();
        let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let millis: i64 = match &after[..end] {
            "ms" | "millisecond" | "milliseconds" => 1,
            "s" | "sec" | "secs" | "second" | "seconds" => 1_000,
            "m" | "min" | "mins" | "minute" | "minutes" => 60_000,
            "h" | "hour" | "hours" => 3_600_000,
            "d" | "day" | "days" => 86_400_000,
            "w" | "week" | "weeks" => 604_800_000,
            _ => return None,
        };
        total = total.checked_add(&TimeDelta::try_milliseconds(count.checked_mul(millis)?)?)?;
        rest = after[end..].trim_start();
    }
    Some(total)
}

/// Writes a length of time that is only known roughly, in two units at most: `0.2s`, `1m15s`, `40d`.
pub fn roughly(length: std::time::Duration) -> String {
    const UNITS: [(u64, char); 4] = [(86_400, 'd'), (3_600, 'h'), (60, 'm'), (1, 's')];
    let seconds = length.as_secs();
    let Some(at) = UNITS.iter().position(|(unit, _)| seconds >= *unit) else {
        return format!("{:.1}s", length.as_secs_f64());
    };
    let (unit, name) = UNITS[at];
    let whole = format!("{}{name}", seconds / unit);
    match UNITS.get(at + 1) {
        // Beside ten of a unit, the next smaller one does not matter.
        Some((next, name)) if seconds < 10 * unit => format!("{whole}{}{name}", seconds % unit / next),
        _ => whole,
    }
}

/// Writes a length of time in whole seconds as a person types it: `7d`, `1d12h`, `90s` as `1m30s`.
///
/// [`parse_duration`] reads it back.
pub fn format_duration(length: std::time::Duration) -> String {
    const UNITS: [(u64, char); 4] = [(86_400, 'd'), (3_600, 'h'), (60, 'm'), (1, 's')];
    let mut rest = length.as_secs();
    let mut text = String::new();
    for (seconds, unit) in UNITS {
        if rest >= seconds {
            text.push_str(&format!("{}{unit}", rest / seconds));
            rest %= seconds;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).expect("a test's own time").to_utc()
    }

    fn time(text: &str) -> Moment {
        Moment::Time(PgTime::from_utc(at(text)))
    }

    #[test]
    fn reads_every_kind_of_moment() {
        let now = at("2026-11-22T10:00:00Z");
        let cases = [
            ("2026-11-22T10:00:00.123456Z", time("2026-11-22T10:00:00.123456Z")),
            ("2026-11-22 10:00:00+01", time("2026-11-22T09:00:00Z")),
            ("2026-11-22 10:00:00.5+05:30", time("2026-11-22T04:30:00.5Z")),
            ("2026-11-22 10:00-08", time("2026-11-22T18:00:00Z")),
            ("2026-11-22 10:00:00 UTC", time("2026-11-22T10:00:00Z")),
            ("2026-11-27 22:30:00 CET", time("2026-11-27T21:30:00Z")),
            ("2026-11-27 22:30:00.123 EST", time("2026-11-28T03:30:00.123Z")),
            ("10 minutes ago", time("2026-11-22T09:50:00Z")),
            ("-90s", time("2026-11-22T09:58:30Z")),
            ("1h 30m ago", time("2026-11-22T08:30:00Z")),
            ("now", time("2026-11-22T10:00:00Z")),
            ("0/16B3748", Moment::Lsn(Lsn(0x16B3748))),
            ("xid:744", Moment::Xid(744)),
            ("xid:4294967309", Moment::Xid(4294967309)),
            ("mark:before deploy", Moment::Mark("before deploy".into())),
            ("checkpoint:0001-000000000152D2B8", Moment::Checkpoint("0001-000000000152D2B8".into())),
            ("latest", Moment::Latest),
        ];
        for (text, moment) in cases {
            assert_eq!(Moment::parse(text, now), Ok(moment), "{text}");
        }
    }

    #[test]
    fn a_time_without_zone_is_refused_with_both_readings() {
        for text in ["2026-11-22 10:00:00", "2026-11-22T10:00", "2026-11-22"] {
            let error = Moment::parse(text, Utc::now()).unwrap_err();
            assert!(matches!(error, ParseMomentError::NoZone { .. }), "{text}: {error}");
            assert!(error.to_string().contains('Z'), "{error}");
        }
    }

    #[test]
    fn a_time_that_can_be_read_in_several_ways_is_refused_with_each() {
        let refusal = |text| Moment::parse(text, Utc::now()).unwrap_err().to_string();
        assert_eq!(
            refusal("2026-11-27 22:30:00 CDT"),
            "\"2026-11-27 22:30:00 CDT\" ends with an abbreviation that several zones share: write \
             2026-11-27T22:30:00-05:00 for North America, or 2026-11-27T22:30:00-04:00 for Cuba"
        );
        assert!(refusal("2026-11-27 22:30:00 XYZ").contains("not known: write 2026-11-27T22:30:00 with"));
    }

    #[test]
    fn refuses_what_is_no_moment() {
        for text in [
            "",
            "xid:",
            "xid:x",
            "xid:-1",
            "xid:18446744073709551616",
            "mark:",
            "yesterday",
            "-",
            "ago",
            "-5",
            "-5 parsecs",
            "99:99",
        ] {
            let parsed = Moment::parse(text, Utc::now());
            assert!(matches!(parsed, Err(ParseMomentError::Unknown(_))), "{text}: {parsed:?}");
        }
    }

    #[test]
    fn durations_are_written_as_they_are_typed() {
        for (seconds, text) in [(0, "0s"), (90, "1m30s"), (3_600, "1h"), (129_600, "1d12h"), (604_800, "7d")]
        {
            assert_eq!(format_duration(std::time::Duration::from_secs(seconds)), text);
            assert_eq!(parse_duration(text), TimeDelta::try_seconds(seconds.cast_signed()));
        }
    }

    #[test]
    fn server_times_are_written_in_utc() {
        assert_eq!(PgTime(0).to_string(), "2000-01-01T00:00:00.000000Z");
        assert_eq!(PgTime::from_utc(at("2026-11-22T10:00:00.25Z")).to_utc(), at("2026-11-22T10:00:00.25Z"));
    }

    #[test]
    fn a_rough_time_has_two_units_at_most() {
        let lengths = [0.25, 7.0, 75.0, 3600.0, 90_000.0, 86_400.0 * 40.5];
        let texts = lengths.map(|seconds| roughly(std::time::Duration::from_secs_f64(seconds)));
        assert_eq!(texts, ["0.2s", "7s", "1m15s", "1h0m", "1d1h", "40d"]);
    }
}
