//! Two years of a history with checkpoints and expiries, by a clock that the test sets: what the rules keep comes back.
//!
//! The calendar is that of central Europe: a leap day, both changes of daylight saving, weeks that belong to the year before,
//! and a source's clock that is set back by a day.

use std::collections::BTreeMap;

use chrono::{DateTime, FixedOffset, Utc};

use crate::support::{Backwhen, Clock};

/// When there is a checkpoint, with the offset of local time then, in the order in which it is made.
const TIMES: &[&str] = &[
    "2027-12-30T23:30:00+01:00",
    "2027-12-31T23:30:00+01:00",
    // A Saturday, in the last week of the year before.
    "2028-01-01T00:30:00+01:00",
    "2028-02-28T08:00:00+01:00",
    "2028-02-29T08:00:00+01:00",
    // The hour from 2 to 3 is skipped.
    "2028-03-26T01:59:00+01:00",
    "2028-03-26T03:01:00+02:00",
    // The hour from 2 to 3 comes twice.
    "2028-10-29T02:30:00+02:00",
    "2028-10-29T02:30:00+01:00",
    "2028-11-05T10:00:00+01:00",
    // The clock is set back by a day, and goes on. A checkpoint bears the time of its latest transaction.
    "2028-11-04T10:00:00+01:00",
    "2028-11-05T11:00:00+01:00",
    "2028-12-31T20:00:00+01:00",
    "2029-01-01T20:00:00+01:00",
    "2029-12-28T10:00:00+01:00",
    "2029-12-28T10:20:00+01:00",
    "2029-12-28T11:10:00+01:00",
    "2029-12-29T11:10:00+01:00",
];

/// The rules, each with the format that tells its periods apart.
const RULES: &[(&str, &str, usize)] = &[
    ("--keep-hourly", "%Y-%m-%d %H", 2),
    ("--keep-daily", "%Y-%m-%d", 3),
    ("--keep-weekly", "%G-%V", 4),
    ("--keep-monthly", "%Y-%m", 7),
    ("--keep-yearly", "%Y", 3),
];

/// The numbers of the checkpoints that the rules keep of those that are there, as the words of the documents say it:
/// counted back from the newest, the newest of each period, and the oldest while a rule has counts left.
fn kept(there: &[usize], times: &[DateTime<FixedOffset>]) -> Vec<usize> {
    let mut kept = vec![*there.last().unwrap()];
    for (_, format, count) in RULES {
        let mut periods = BTreeMap::new();
        for number in there.iter().rev() {
            let period = times[*number].format(format).to_string();
            let known = periods.len();
            if known < *count {
                periods.entry(period).or_insert(*number);
            }
        }
        kept.extend(periods.values());
        if periods.len() < *count {
            kept.push(there[0]);
        }
    }
    kept.sort();
    kept.dedup();
    kept
}

#[test]
fn every_moment_that_the_rules_keep_of_two_years_comes_back() {
    let clock = Clock::make();
    let server = clock.start_server();
    server.psql("postgres", "CREATE DATABASE years");
    server.psql(
        "years",
        "CREATE TABLE diary (id int PRIMARY KEY, line text); CREATE TABLE fixed AS SELECT 1 AS it",
    );
    let times: Vec<_> = TIMES.iter().map(|it| DateTime::parse_from_rfc3339(it).unwrap()).collect();
    // A second later, since the clock is set by whole seconds, and not before the hour.
    let set = |to: &DateTime<FixedOffset>| clock.set((to.to_utc() - Utc::now()).num_seconds() + 1);
    set(&times[0]);
    // The checkpoint of `init` is the first one, of the same minute as the second.
    let times = [&times[..1], &times[..]].concat();
    let latest = |number: usize| times[..=number].iter().max().copied().unwrap();
    let latest: Vec<_> = (0..times.len()).map(latest).collect();
    // A zone by its rule, which needs no files of the system.
    let mut backwhen = Backwhen::new(&server, "years").with_env("TZ", "CET-1CEST,M3.5.0,M10.5.0/3");
    for (name, value) in clock.environment() {
        backwhen = backwhen.with_env(name, &value);
    }
    backwhen.init();
    let mut expire = vec!["expire", "--apply"];
    let counts: Vec<_> =
        RULES.iter().map(|(option, _, count)| [(*option).to_owned(), count.to_string()]).collect();
    expire.extend(counts.iter().flatten().map(String::as_str));
    let mut there = vec![0];
    for (number, time) in times.iter().enumerate().skip(1) {
        set(time);
        // Each line is another, and one row changes in each round.
        server.psql(
            "years",
            &format!("INSERT INTO diary VALUES ({number}, 'round {number}'); UPDATE fixed SET it = {number}"),
        );
        backwhen.ok(&["capture", "--until", "caught-up"]);
        backwhen.ok(&["checkpoint", "--label", &number.to_string()]);
        backwhen.ok(&expire);
        there.push(number);
        there = kept(&there, &latest);
        let listed = backwhen.json_lines(&["list", "checkpoints"]);
        let label = |it: &serde_json::Value| it["label"].as_str().map_or(0, |label| label.parse().unwrap());
        let labels: Vec<usize> = listed.iter().map(label).collect();
        assert_eq!(labels, there, "after {time}");
    }
    assert!(
        there.len() > 8 && there.len() < times.len() - 6,
        "the rules keep some and let some go: {there:?}"
    );
    backwhen.ok(&["verify", "--prove"]);

    foretells(&backwhen);

    let file = backwhen.folder().join("recovered.sql");
    let listed = backwhen.json_lines(&["list", "checkpoints"]);
    for (number, checkpoint) in there.iter().zip(&listed) {
        let _ = std::fs::remove_file(&file);
        let moment = format!("checkpoint:{}", checkpoint["id"].as_str().unwrap());
        backwhen.ok(&["recover", "--to", &moment, "--into", &format!("sql:{}", file.display())]);
        let script = std::fs::read_to_string(&file).unwrap();
        assert_eq!(script.lines().filter(|line| line.contains("\tround ")).count(), *number, "{moment}");
        let last = format!("{number}\tround {number}\n");
        assert_eq!(script.contains(&last), *number > 0, "{moment}");
    }
}

/// The room of this history is foretold by its last month, and by the rules.
fn foretells(backwhen: &Backwhen) {
    let forecast = |quota: &str, rules: &[&str]| {
        backwhen.json(&[&["status", "--quota", quota], rules].concat())["forecast"].clone()
    };
    let held = backwhen.json(&["status"])["room"]["held_bytes"].as_u64().unwrap();
    let narrow = format!("{}kB", held / 1024 + 8);
    let soon = forecast(&narrow, &[]);
    assert_eq!((&soon["measured_seconds"], &soon["rules"]), (&2_592_000.0.into(), &serde_json::json!([])));
    assert!(soon["journal_bytes_per_day"].as_f64() > Some(0.0), "{soon:#}");
    assert!(soon["days_left"].as_f64().is_some_and(|days| days > 1.0 && days < 3650.0), "{soon:#}");
    let kept = forecast(&narrow, &["--keep-within", "2d"]);
    assert_eq!(kept["rules"], serde_json::json!(["--keep-within 2d"]));
    assert!(
        kept["days_left"].is_null() || kept["days_left"].as_f64() > soon["days_left"].as_f64(),
        "{kept:#}"
    );
    let critical = backwhen.run(&["status", "--nagios", "--quota", &format!("{}kB", held / 1024 + 1)]);
    assert!(
        critical.stdout.contains("left of the quota") && critical.stdout.contains("room_days="),
        "{}",
        critical.stdout
    );
}
