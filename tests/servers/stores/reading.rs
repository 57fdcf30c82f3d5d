//! Questions to a history in an object store, and the requests that they cost.

use std::collections::BTreeMap;

use super::{Stored, exit, text};
use crate::demand::{Served, psql};
use crate::support::shop::assert_says;

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
    let first = |list: &[&str], key: &str| {
        let id = &backwhen.json_lines(list)[0][key];
        id.as_str().map_or_else(|| id.to_string(), str::to_owned)
    };
    let checkpoint = format!("checkpoint:{}", first(&["list", "checkpoints"], "id"));
    let transaction = format!("xid:{}", first(&["log", "--table", "public.orders"], "xid"));
    for command in [
        &["list", "checkpoints"][..],
        &["list", "segments"],
        &["list", "gaps"],
        &["log", "--table", "public.orders"],
        &["row", "public.orders", "7"],
        &["diff", &checkpoint, "latest"],
        &["show", &transaction],
        &["expire", "--keep-last", "1"],
    ] {
        let of =
            |history: &str| backwhen.run(&[command, &["--history", history, "--output", "json"]].concat());
        let (ours, theirs) = (of(&folder), of(&url));
        assert!(ours.status.success(), "{command:?}: {}", ours.stderr);
        assert!(theirs.status.success(), "{command:?}: {}", theirs.stderr);
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
    assert!(lists <= 9, "each folder once, and whether keys of an encrypted copy are there: {lists}");
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

#[test]
fn bisect_and_serve_work_on_an_object_store() {
    let Some(stored) = Stored::begin() else { return };
    let (backwhen, url) = (&stored.backwhen, stored.url());
    stored.copy();
    let good = &backwhen.json_lines(&["list", "checkpoints"])[0]["id"];
    let good = format!("checkpoint:{}", good.as_str().unwrap());
    let check = "SELECT count(*) < 3010 FROM orders";
    let check = ["bisect", "--good", &good, "--bad", "latest", "--check", check];
    let found = backwhen.json(&stored.remote(&url, &check));
    assert_eq!(found["changed"][0]["inserts"], 50, "{found}");
    let served = Served::start(backwhen, &stored.remote(&url, &["--at", "latest"]));
    let count = "SELECT count(*) FROM orders";
    assert_eq!(
        psql(backwhen.server(), served.connection(), count),
        backwhen.server().psql(backwhen.database(), count)
    );
    served.stop();
}

#[test]
fn a_profile_of_the_aws_command_line_leads_to_the_store() {
    let Some(stored) = Stored::begin() else { return };
    let (backwhen, url) = (&stored.backwhen, stored.url());
    stored.copy();
    let variables: BTreeMap<_, _> = stored.server.variables("owner").into_iter().collect();
    let value = |name: &str| &variables[name];
    let (id, secret) = (value("AWS_ACCESS_KEY_ID"), value("AWS_SECRET_ACCESS_KEY"));
    let (region, endpoint) = (value("AWS_REGION"), value("AWS_ENDPOINT_URL"));
    let keys = format!("[shop]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
    let place = format!("[profile shop]\nregion = {region}\nendpoint_url = {endpoint}\n");
    // The commands of a test have its folder as their home.
    let home = backwhen.folder().join(".aws");
    std::fs::create_dir(&home).unwrap();
    std::fs::write(home.join("credentials"), keys).unwrap();
    std::fs::write(home.join("config"), place).unwrap();
    let status = |profile: &str| {
        let mut command = backwhen.command(&stored.remote(&url, &["status", "--offline"]));
        for name in variables.keys() {
            command.env_remove(name);
        }
        let output = command.env("AWS_PROFILE", profile).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = status("shop");
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = status("shopp");
    assert_eq!(code, Some(exit::USAGE), "{said}");
    assert_says(&said, &["shopp", "aws configure list-profiles"]);
}
