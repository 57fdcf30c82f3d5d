//! Questions to a history in an object store, and the requests that they cost.

use super::{Stored, text};

/// Runs a command that logs each request, and returns how many there were of each sort.
fn requests(stored: &Stored, arguments: &[&str]) -> (usize, usize, usize) {
    let mut command = stored.backwhen.command(arguments);
    // No heartbeat of a lease adds to them, however slow the machine is.
    command.env("BACKWHEN_LOG", "backwhen::store::remote=trace").env("BACKWHEN_TEST_LEASE", "6000");
    let output = command.output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {log}");
    let count = |verb: &str| log.lines().filter(|line| line.contains(&format!("request {verb} "))).count();
    assert!(count("GET") > 0, "no request is logged: {log}");
    (count("LIST"), count("GET") + count("HEAD"), count("PUT") + count("DELETE"))
}

#[test]
fn every_reading_command_answers_from_an_object_store_as_from_the_folder() {
    let Some(stored) = Stored::begin() else { return };
    let (backwhen, url, folder) = (&stored.backwhen, stored.url(), text(&stored.backwhen.history()));
    backwhen.ok(&["copy", "--to", &url]);
    for command in [
        &["list", "checkpoints"][..],
        &["list", "segments"],
        &["list", "gaps"],
        &["log", "--table", "public.orders"],
        &["row", "public.orders", "7"],
        &["diff", "--from", "earliest", "--to", "latest", "--summary"],
        &["show", "--at", "latest"],
        &["expire", "--keep-last", "1"],
    ] {
        let of =
            |history: &str| backwhen.run(&[command, &["--history", history, "--output", "json"]].concat());
        let (ours, theirs) = (of(&folder), of(&url));
        assert_eq!(ours.status.code(), theirs.status.code(), "{command:?}: {}", theirs.stderr);
        assert_eq!(ours.stdout, theirs.stdout.replace(&url, &folder), "{command:?}: {}", theirs.stderr);
    }
    let count = "SELECT count(*) FROM orders";
    let asked = |history: &str| backwhen.ok(&["query", count, "--at", "latest", "--history", history]);
    assert_eq!(asked(&folder), asked(&url));
}

#[test]
fn a_bucket_is_not_listed_in_a_loop_and_a_second_question_asks_for_less() {
    let Some(stored) = Stored::begin() else { return };
    let url = stored.url();
    let (lists, first, _) = requests(&stored, &["copy", "--to", &url]);
    assert!(lists <= 8, "each folder once: {lists}");
    let row = stored.remote(&url, &["row", "public.orders", "7"]);
    let (lists, cold, puts) = requests(&stored, &row);
    assert!(lists <= 5 && puts <= 2, "each folder once, and a lease: {lists} lists, {puts} puts");
    let (lists, warm, _) = requests(&stored, &row);
    assert!(lists <= 5 && warm < cold, "{lists} lists, {cold} reads and then {warm}");
    // However many objects there are, an update lists as often and reads little.
    let (lists, again, puts) = requests(&stored, &["copy", "--to", &url]);
    assert!(
        lists <= 8 && again <= first && puts <= 6,
        "{lists} lists, {first} reads and then {again}, {puts} puts"
    );
}
