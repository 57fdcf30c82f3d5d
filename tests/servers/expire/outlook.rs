//! A history is judged by the times that are needed of it, as far as they were measured, and its room is foretold.

use crate::support::shop::{assert_says, captured_shop};
use crate::support::{Backwhen, Server};

const REFUSED: i32 = 14;

/// A shop whose journal is long enough to be measured.
fn busy_shop(server: &Server) -> Backwhen {
    let backwhen = captured_shop(server);
    server.psql(
        backwhen.database(),
        "INSERT INTO visits (page) SELECT md5(n::text) FROM generate_series(1, 10000) n",
    );
    backwhen.ok(&["capture", "--until", "caught-up"]);
    backwhen
}

#[test]
fn the_times_that_are_needed_are_judged_by_a_recovery_that_was_measured() {
    let server = Server::shared(None);
    let backwhen = busy_shop(&server);
    let status = |needs: &[&str]| backwhen.json(&[&["status"], needs].concat());
    assert_eq!(status(&[])["needs"], serde_json::json!({"time_to_discover": null, "time_to_recover": null}));

    // Nothing was measured: that is unknown, and no good news.
    let needs = ["--time-to-discover", "30d", "--time-to-recover", "1h"];
    let unknown = &status(&needs)["needs"];
    assert_eq!(unknown["time_to_discover"]["met"], true, "nothing of a young history is gone: {unknown:#}");
    assert_says(unknown["time_to_discover"]["why"].as_str().unwrap(), &["not for the whole time yet"]);
    assert_eq!(unknown["time_to_recover"]["met"], serde_json::Value::Null);
    assert_says(unknown["time_to_recover"]["why"].as_str().unwrap(), &["verify --restore"]);
    let nagios = backwhen.run(&[&["status", "--nagios"], &needs[..]].concat());
    assert_says(&nagios.stdout, &["WARNING", "time to recover: how long a recovery takes was not measured"]);

    let into = server.conninfo("postgres");
    backwhen.ok(&["verify", "--restore", "--into", &into]);
    let measured = &status(&needs)["needs"]["time_to_recover"];
    assert_eq!(measured["met"], true, "{measured:#}");
    assert!(measured["newest_seconds"].as_f64().unwrap() > 0.0, "{measured:#}");
    assert!(measured["worst_seconds"].as_f64() >= measured["newest_seconds"].as_f64(), "{measured:#}");
    let missed = &status(&["--time-to-recover", "0s"])["needs"]["time_to_recover"];
    assert_eq!(missed["met"], false);
    assert_says(missed["why"].as_str().unwrap(), &["the rows alone", "--on-demand"]);
    let text = backwhen.ok(&[&["status"], &needs[..]].concat());
    assert_says(&text, &["discover     every moment of", "recover      about", "1h is met"]);

    // Half of an hour is far away.
    let checkpoint = |arguments: &[&str]| backwhen.json(&[&["checkpoint"], arguments].concat());
    let not_due = checkpoint(&["--if-needed", "--time-to-recover", "1h"]);
    assert_eq!(not_due["existing"], true, "{not_due:#}");
    assert_says(not_due["why"].as_str().unwrap(), &["a recovery takes about", "--time-to-recover is 1h"]);
    // One of two reasons suffices.
    let old = checkpoint(&["--if-needed", "--time-to-recover", "1h", "--if-older-than", "0s"]);
    assert_eq!(old["existing"], false, "{old:#}");

    // A part that was let go, and is needed.
    backwhen.ok(&["expire", "--keep-last", "1", "--apply"]);
    let gone = &status(&needs)["needs"]["time_to_discover"];
    assert_eq!(gone["met"], false, "{gone:#}");
    assert_says(gone["why"].as_str().unwrap(), &["was expired at", "--keep-last 1"]);
    let nagios = backwhen.run(&[&["status", "--nagios"], &needs[..]].concat());
    assert_says(&nagios.stdout, &["time to discover: what came before"]);
}

#[test]
fn what_was_not_measured_makes_a_checkpoint_rather_than_none() {
    let backwhen = busy_shop(&Server::shared(None));
    let made = backwhen.json(&["checkpoint", "--if-needed", "--time-to-recover", "1h"]);
    assert_eq!(made["existing"], false, "{made:#}");
    assert_says(made["why"].as_str().unwrap(), &["was not measured yet", "verify --restore"]);
    assert_says(&backwhen.fails(2, &["checkpoint", "--if-needed"]), &["--time-to-recover"]);
}

/// The time to discover is a rule of retention, too.
#[test]
fn an_expiry_keeps_what_is_needed_to_discover() {
    let backwhen = busy_shop(&Server::shared(None));
    backwhen.ok(&["checkpoint"]);
    let kept = backwhen.json(&["expire", "--time-to-discover", "30d", "--keep-last", "1"]);
    assert_eq!(kept["rules"], serde_json::json!(["--keep-last 1", "--keep-within 30d"]));
    assert!(kept["checkpoints"].as_array().unwrap().iter().all(|it| it["fate"] == "every"), "{kept:#}");
}

#[test]
fn a_checkpoint_that_does_not_fit_is_refused_before_it_begins() {
    let server = Server::shared(None);
    let backwhen = busy_shop(&server);
    server.psql(backwhen.database(), "UPDATE orders SET note = md5(id::text)");
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let status = backwhen.json(&["status", "--quota", "1GB"]);
    let room = &status["room"];
    let (held, next) =
        (room["held_bytes"].as_u64().unwrap(), room["next_checkpoint_bytes"].as_u64().unwrap());
    assert!(held > 0 && next > 0 && room["free_bytes"].as_u64() > Some(0), "{room:#}");
    assert_eq!(
        room["left_bytes"].as_u64().unwrap(),
        room["free_bytes"].as_u64().unwrap().min((1 << 30) - held)
    );
    assert_eq!(status["forecast"], serde_json::Value::Null, "it is too young");
    assert_says(&backwhen.ok(&["status", "--quota", "1GB"]), &["left of the quota of 1.0 GiB"]);
    assert_says(&backwhen.ok(&["status", "--quota", "100000TB"]), &["left on the disk"]);

    let quota = format!("{}kB", held / 1024 + 1);
    let before = backwhen.json_lines(&["list", "checkpoints"]).len();
    let refused = backwhen.fails(REFUSED, &["checkpoint", "--quota", &quota]);
    assert_says(&refused, &["a checkpoint may need up to", "expire --apply", "--despite-room"]);
    assert_eq!(
        backwhen.json_lines(&["list", "checkpoints"]).len(),
        before,
        "nothing was made, and nothing dropped"
    );
    let nagios = backwhen.run(&["status", "--nagios", "--quota", &quota]);
    assert_says(&nagios.stdout, &["the next checkpoint may not fit"]);

    // The estimate is not less than what the checkpoint takes.
    let made = backwhen.json(&["checkpoint", "--quota", &quota, "--despite-room"]);
    assert!(made["bytes_new"].as_u64().unwrap() <= next, "{next} were foretold: {made:#}");
    let after = backwhen.json(&["status"]);
    assert_eq!(after["room"]["next_checkpoint_bytes"], 0, "nothing has changed since");
}
