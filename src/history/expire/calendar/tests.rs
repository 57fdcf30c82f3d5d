//! The calendar, by hand and by chance: two years with a leap day, daylight saving both ways, and clocks set back.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc, Weekday};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

fn at(text: &str) -> NaiveDateTime {
    NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M").unwrap()
}

fn kept(rules: &[(Period, usize)], times: &[NaiveDateTime]) -> Vec<usize> {
    let kept = CalendarRules(rules.to_vec()).kept(times);
    kept.iter().enumerate().filter(|(_, periods)| !periods.is_empty()).map(|(place, _)| place).collect()
}

/// Central European time, as it has been since 1996: summer time from the last Sunday of March, 01:00 UTC, to the last
/// Sunday of October, 01:00 UTC.
fn berlin(utc: DateTime<Utc>) -> NaiveDateTime {
    let change = |month| {
        let last = NaiveDate::from_ymd_opt(utc.year(), month, 31).unwrap();
        let sunday = last - TimeDelta::days(last.weekday().num_days_from_sunday().into());
        sunday.and_hms_opt(1, 0, 0).unwrap().and_utc()
    };
    let is_summer = (change(3)..change(10)).contains(&utc);
    utc.naive_utc() + TimeDelta::hours(if is_summer { 2 } else { 1 })
}

fn utc(text: &str) -> DateTime<Utc> {
    at(text).and_utc()
}

#[test]
fn the_newest_of_each_period_is_kept_and_the_oldest_while_counts_are_left() {
    let times = ["2026-01-01 03:00", "2026-01-01 20:00", "2026-01-02 03:00", "2026-01-02 20:00"].map(at);
    assert_eq!(kept(&[(Period::Day, 1)], &times), [3]);
    assert_eq!(kept(&[(Period::Day, 2)], &times), [1, 3]);
    assert_eq!(kept(&[(Period::Day, 3)], &times), [0, 1, 3], "a third day is asked for, so the oldest stays");
    assert_eq!(kept(&[(Period::Hour, 9)], &times), [0, 1, 2, 3]);
    assert_eq!(kept(&[(Period::Year, 1)], &times), [3]);
    assert_eq!(kept(&[], &times), [0; 0]);
    assert_eq!(kept(&[(Period::Day, 3)], &[]), [0; 0]);
}

#[test]
fn only_periods_with_a_checkpoint_count() {
    let times = ["2024-02-29 12:00", "2025-06-01 12:00", "2026-01-05 12:00", "2026-01-06 12:00"].map(at);
    assert_eq!(kept(&[(Period::Day, 3)], &times), [1, 2, 3]);
    assert_eq!(kept(&[(Period::Month, 2)], &times), [1, 3]);
    assert_eq!(kept(&[(Period::Year, 2), (Period::Day, 2)], &times), [1, 2, 3]);
}

#[test]
fn weeks_begin_on_monday_and_reach_over_the_new_year() {
    // The 29th of December 2025 is a Monday of the first week of 2026.
    let times = ["2025-12-28 23:59", "2025-12-29 00:00", "2026-01-04 23:59", "2026-01-05 00:00"].map(at);
    assert_eq!(times[1].weekday(), Weekday::Mon);
    assert_eq!(kept(&[(Period::Week, 2)], &times), [2, 3]);
    assert_eq!(kept(&[(Period::Week, 3)], &times), [0, 2, 3]);
}

#[test]
fn a_leap_day_is_a_day_of_its_own() {
    let times = ["2028-02-28 12:00", "2028-02-29 12:00", "2028-03-01 12:00"].map(at);
    assert_eq!(kept(&[(Period::Day, 2)], &times), [1, 2]);
    assert_eq!(kept(&[(Period::Month, 2)], &times), [1, 2]);
}

#[test]
fn the_hour_that_comes_twice_is_one_hour() {
    let hours = ["2026-10-24 23:30", "2026-10-25 00:30", "2026-10-25 01:30", "2026-10-25 02:30"].map(utc);
    let local = hours.map(berlin);
    assert_eq!(local[1], local[2], "02:30 comes twice");
    assert_eq!(kept(&[(Period::Hour, 3)], &local), [0, 2, 3]);
    // In spring, the hour from 02:00 to 03:00 does not exist.
    let hours = ["2026-03-29 00:30", "2026-03-29 01:30", "2026-03-29 02:30"].map(utc).map(berlin);
    assert_eq!(kept(&[(Period::Hour, 2)], &hours), [1, 2]);
    // A day has 23 or 25 hours, and is a day.
    let days = ["2026-03-28 22:59", "2026-03-29 21:59", "2026-03-29 22:00"].map(utc).map(berlin);
    assert_eq!(kept(&[(Period::Day, 2)], &days), [1, 2]);
}

#[test]
fn a_clock_that_was_set_back_does_not_use_up_the_counts() {
    // The clock ran a day ahead twice.
    let times = ["2026-05-01 12:00", "2026-05-03 12:00", "2026-05-02 12:00", "2026-05-03 11:00"];
    let times = [times[0], times[1], times[2], times[1], times[2], times[3]].map(at);
    assert_eq!(kept(&[(Period::Day, 3)], &times), [0, 4, 5], "three days: the 1st, the 2nd and the 3rd");
}

/// States the rules from the other end: each kept checkpoint is the last of its period, and the periods are the newest ones.
fn check(rules: &[(Period, usize)], times: &[NaiveDateTime]) {
    let kept = CalendarRules(rules.to_vec()).kept(times);
    for (period, count) in rules {
        let places: Vec<_> = (0..times.len()).filter(|place| kept[*place].contains(period)).collect();
        let mut periods: Vec<_> = times.iter().map(|time| period.of(*time)).collect();
        let last_of = |wanted| times.iter().rposition(|time| period.of(*time) == wanted).unwrap();
        periods.sort_unstable();
        periods.dedup();
        let mut last: Vec<_> = periods.iter().map(|wanted| last_of(*wanted)).collect();
        last.sort_unstable();
        let newest = last.len().saturating_sub(*count);
        let mut expected = last[newest..].to_vec();
        if !times.is_empty() && *count > last.len() && !expected.contains(&0) {
            expected.insert(0, 0);
        }
        assert_eq!(places, expected, "{period:?} {count} of {times:?}");
    }
}

/// Carries the rules out day after day on what the days before left, as a timer does, and compares with what the rules
/// keep of all checkpoints that there ever were. Thinning every day must not lose what thinning once would keep.
#[test]
fn two_years_day_after_day_keep_what_two_years_at_once_keep() {
    let rules = [(Period::Day, 30), (Period::Week, 12), (Period::Month, 18), (Period::Year, 3)];
    for seed in 0..2 {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut all, mut left): (Vec<NaiveDateTime>, Vec<NaiveDateTime>) = Default::default();
        let mut now = utc("2027-03-01 02:00");
        for day in 0..731 {
            // A checkpoint may fail, and there may be several; the timer is off by up to two hours.
            let is_leap_day = day == 365;
            for _ in 0..random.random_range(i32::from(is_leap_day)..3) {
                now += TimeDelta::minutes(random.random_range(1..60));
                all.push(berlin(now));
                left.push(berlin(now));
            }
            if day % 7 == 0 {
                check(&rules, &left);
            }
            let kept = CalendarRules(rules.to_vec()).kept(&left);
            let mut places = kept.iter();
            left.retain(|_| places.next().is_some_and(|periods| !periods.is_empty()));
            now = utc("2027-03-01 02:00") + TimeDelta::days(day + 1);
        }
        assert!(all.iter().any(|time| (time.month(), time.day()) == (2, 29)), "2028 has a leap day");
        let at_once = kept(&rules, &all);
        for place in at_once {
            let period_is_held =
                |period: Period| left.iter().any(|it| period.of(*it) == period.of(all[place]));
            assert!(period_is_held(Period::Day), "seed {seed}: {} is lost", all[place]);
        }
        assert!(left.len() <= 30 + 12 + 18 + 3 + 1, "{}", left.len());
    }
}

#[test]
fn whatever_the_clock_does_the_newest_periods_are_kept() {
    for seed in 0..100 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut now = utc("2027-01-01 00:00");
        let times: Vec<_> = (0..random.random_range(1..120))
            .map(|_| {
                // Mostly forward; now and then the clock is set back by up to three days.
                let hours = if random.random_bool(0.05) {
                    -random.random_range(1..72)
                } else {
                    random.random_range(0..100)
                };
                now += TimeDelta::hours(hours);
                berlin(now)
            })
            .collect();
        let mut count = || random.random_range(1..40);
        let rules = [
            (Period::Hour, count()),
            (Period::Day, count()),
            (Period::Week, count()),
            (Period::Month, count()),
            (Period::Year, count()),
        ];
        check(&rules, &times);
    }
}
