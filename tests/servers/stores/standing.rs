//! Copies that a capture keeps up to date by itself.

use backwhen::capture::live::{CopyLive, Live};
use backwhen::model::Lsn;

use super::{Stored, exit, text};
use crate::support::shop::assert_says;
use crate::support::{Backwhen, Capture, Proxy, Server, Stop, wait_for};

/// Leases are settled within seconds and not within half a minute.
pub(super) const QUICK_LEASE: (&str, &str) = ("BACKWHEN_TEST_LEASE", "3");

impl Stored {
    pub(super) fn psql(&self, sql: &str) -> String {
        self.backwhen.server().psql(self.backwhen.database(), sql)
    }

    /// What the server has been told is durable.
    fn confirmed(&self) -> Lsn {
        let slot = self.backwhen.json(&["status", "--offline"])["slot"]["name"].as_str().unwrap().to_owned();
        self.confirmed_of(&slot)
    }

    pub(super) fn confirmed_of(&self, slot: &str) -> Lsn {
        let sql = format!("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{slot}'");
        self.psql(&sql).parse().unwrap()
    }

    pub(super) fn slot(&self) -> String {
        self.backwhen.json(&["status", "--offline"])["slot"]["name"].as_str().unwrap().to_owned()
    }

    /// Commits rows, each in a transaction of its own; returns the end of the log after that.
    pub(super) fn visit(&self, from: u32, to: u32) -> Lsn {
        let rows: String =
            (from..=to).map(|n| format!("INSERT INTO visits (page) VALUES ('visit {n}');\n")).collect();
        self.psql(&rows);
        self.psql("SELECT pg_current_wal_insert_lsn()").parse().unwrap()
    }

    /// The numbers of the visits that a history holds, from its latest moment.
    pub(super) fn visits(&self, history: &str) -> Vec<u32> {
        let sql = "SELECT substr(page, 7)::int FROM visits WHERE page LIKE 'visit %' ORDER BY 1";
        let asked = self.backwhen.ok(&["query", sql, "--at", "latest", "--history", history, "--quiet"]);
        asked.lines().filter_map(|line| line.trim().parse().ok()).collect()
    }
}

pub(super) fn copies(live: &Live) -> &CopyLive {
    static NONE: std::sync::OnceLock<CopyLive> = std::sync::OnceLock::new();
    live.copies.first().unwrap_or_else(|| NONE.get_or_init(CopyLive::default))
}

pub(super) fn wait_copied(capture: &mut Capture<'_>, to: Lsn) {
    capture.wait_for_live(&format!("the copy reaches {to}"), |live| copies(live).end >= Some(to));
}

#[test]
fn what_was_confirmed_under_store_outlives_the_machine_and_capture_goes_on_from_the_copy() {
    let Some(stored) = Stored::begin() else { return };
    let (backwhen, url, slot) = (&stored.backwhen, stored.url(), stored.slot());
    let mut capture = backwhen.spawn_capture_with(&["--also", &url, "--durable", "store"]);
    capture.wait_streaming();
    let first = stored.visit(1, 40);
    wait_for("the copy is confirmed", || stored.confirmed_of(&slot) >= first);
    let shown = backwhen.json(&["status"]);
    assert_eq!(
        (&shown["durable"], &shown["copies"][0]["url"]),
        (&"store".into(), &url.as_str().into()),
        "{shown}"
    );
    assert!(shown["copies"][0]["fault"].is_null() && shown["copies"][0]["end"].is_string(), "{shown}");
    let documented = include_str!("../../../docs/JSON.md").lines().filter_map(|line| {
        line.strip_prefix("| `copies[].")?.split_once('`').map(|(name, _)| name.replace('.', "/"))
    });
    // This copy lies in one store; those of several are in another test.
    for field in documented.filter(|name| !name.starts_with("stores[]")) {
        let copy = &shown["copies"][0];
        assert!(copy.pointer(&format!("/{field}")).is_some(), "{field} in {copy}");
    }
    // A checkpoint comes into the copy beside the journal, and a pin after its checkpoint.
    backwhen.ok(&["checkpoint", "--label", "pinned"]);
    backwhen.ok(&["pin", "pinned", "--reason", "audit"]);
    stored.visit(41, 42);
    let listed = stored.remote(&url, &["list", "checkpoints"]);
    let is_pinned = || backwhen.json_lines(&listed).iter().any(|it| it["pinned"] == "audit");
    wait_for("the pin is in the copy", is_pinned);
    stored.visit(43, 300);
    capture.kill();
    let confirmed = stored.confirmed_of(&slot);

    // The machine is lost.
    std::fs::remove_dir_all(backwhen.history()).unwrap();
    let ends: Lsn = serde_json::from_value(
        backwhen.json(&stored.remote(&url, &["status", "--offline"]))["window"]["latest"]["lsn"].clone(),
    )
    .unwrap();
    assert!(ends >= confirmed, "the slot is at {confirmed}, the copy ends at {ends}");
    let held = stored.visits(&url);
    let expected: Vec<u32> = (1..=held.len() as u32).collect();
    assert!(held == expected && held.len() >= 40, "no prefix of the commits: {held:?}");
    backwhen.ok(&stored.remote(&url, &["verify"]));

    let back = text(&backwhen.folder().join("back"));
    let copied = stored.quick(&["copy", "--history", &url, "--to", &back]);
    assert!(copied.contains("holds all"), "{copied}");
    stored.quick(&[
        "capture",
        "--history",
        &back,
        "--also",
        &url,
        "--durable",
        "store",
        "--until",
        "caught-up",
    ]);
    for history in [&back, &url] {
        assert_eq!(stored.visits(history), (1..=300).collect::<Vec<u32>>(), "{history}");
        let shown = backwhen.json(&["status", "--offline", "--history", history]);
        assert_eq!((&shown["epoch"], &shown["gaps"]), (&1.into(), &serde_json::json!([])), "{shown}");
        backwhen.ok(&["verify", "--prove", "--history", history]);
    }
    assert_eq!(stored.latest(&url), stored.latest(&back));
}

impl Stored {
    /// Runs a command that must succeed, with leases that are settled soon.
    pub(super) fn quick(&self, arguments: &[&str]) -> String {
        let mut command = self.backwhen.command(arguments);
        let output = command.env(QUICK_LEASE.0, QUICK_LEASE.1).output().unwrap();
        let shown =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {shown}");
        shown
    }
}

/// The same history, with its object store behind a proxy that the test can cut.
pub(super) fn behind_a_proxy(mut stored: Stored) -> (Stored, Proxy) {
    let proxy = Proxy::before_address(("127.0.0.1".into(), stored.server.port()));
    let endpoint = format!("http://127.0.0.1:{}", proxy.port());
    let backwhen: Backwhen = stored.backwhen;
    stored.backwhen = backwhen.with_env("AWS_ENDPOINT_URL", &endpoint).with_env("BACKWHEN_TEST_RETRIES", "1");
    (stored, proxy)
}

#[test]
fn a_store_that_is_away_delays_only_what_is_confirmed_and_only_under_store() {
    let Some(stored) = Stored::begin() else { return };
    let (stored, proxy) = behind_a_proxy(stored);
    let (backwhen, url, slot) = (&stored.backwhen, stored.url(), stored.slot());
    for durable in ["store", "local"] {
        let mut capture = backwhen.spawn_capture_with(&["--also", &url, "--durable", durable]);
        capture.allow("is not kept up to date").allow("a heartbeat of").wait_streaming();
        let before = stored.visit(1, 3);
        wait_copied(&mut capture, before);
        wait_for("that is confirmed", || stored.confirmed_of(&slot) >= before);
        proxy.cut();
        let meanwhile = stored.visit(4, 6);
        capture.wait_caught_up();
        capture.wait_for_live("the fault is told", |live| copies(live).fault.is_some());
        let shown = backwhen.json(&["status"]);
        assert!(shown["state"] == "streaming" && shown["copies"][0]["lag"]["bytes"] != 0, "{shown}");
        assert!(shown["copies"][0]["lag"]["seconds"].as_f64() > Some(0.0), "{shown}");
        let said = backwhen.run(&["status", "--nagios"]);
        assert_eq!(said.status.code(), Some(1), "{}", said.stdout);
        assert_says(&said.stdout, &["the copy", &url, "reaches to"]);
        let metrics = backwhen.ok(&["status", "--output", "prometheus"]);
        assert_says(
            &metrics,
            &["backwhen_copy_failing", "backwhen_copy_lag_seconds", "reason=\"copies\"} 1"],
        );
        if durable == "store" {
            assert!(stored.confirmed_of(&slot) < meanwhile, "what no copy has was confirmed");
        } else {
            wait_for("the local disk counts", || stored.confirmed_of(&slot) >= meanwhile);
        }
        proxy.heal();
        wait_copied(&mut capture, meanwhile);
        capture.wait_for_live("the fault is over", |live| copies(live).fault.is_none());
        wait_for("all is confirmed", || stored.confirmed_of(&slot) >= meanwhile);
        assert!(stored.confirmed() >= meanwhile);
        capture.stop();
    }
    let folder = text(&backwhen.history());
    assert_eq!(stored.latest(&url), stored.latest(&folder), "a capture that ends waits for its copy");
}

#[test]
fn a_store_that_is_away_does_not_keep_the_source_from_shutting_down() {
    let source = Server::start(None);
    let Some(stored) = Stored::begin_on(&source, "first") else { return };
    let (stored, proxy) = behind_a_proxy(stored);
    let url = stored.url();
    let mut capture = stored.backwhen.spawn_capture_with(&["--also", &url, "--durable", "store"]);
    capture.allow("is not kept up to date").allow("trying again").allow("a heartbeat of").wait_streaming();
    let before = stored.visit(1, 3);
    wait_copied(&mut capture, before);
    proxy.cut();
    stored.visit(4, 6);
    capture.wait_caught_up();
    capture.wait_for_live("the copy is behind", |live| copies(live).end < Some(live.durable));
    let begun = std::time::Instant::now();
    source.stop(Stop::Fast);
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    capture.kill();
}

#[test]
fn a_second_writer_is_refused_and_one_whose_lease_was_taken_puts_nothing_more() {
    let Some(mut stored) = Stored::begin() else { return };
    stored.backwhen = stored.backwhen.with_env(QUICK_LEASE.0, QUICK_LEASE.1);
    let (backwhen, url) = (&stored.backwhen, stored.url());
    let mut first = backwhen.command(&["capture", "--also", &url, "--durable", "store", "--heartbeat", "1h"]);
    first.env("BACKWHEN_LOG", "info,backwhen::store::remote=trace");
    let mut first = Capture::start(backwhen, first);
    first.allow("is not kept up to date").allow("trying again").allow("a heartbeat of").wait_streaming();
    let end = stored.visit(1, 3);
    wait_copied(&mut first, end);
    let elsewhere = || backwhen.json(&stored.remote(&url, &["status", "--offline"]));
    wait_for("its sign of life is seen from elsewhere", || elsewhere()["capture"]["running"] == true);
    let shown = elsewhere();
    assert!(shown["state"] == "streaming" && shown["capture"]["seen"].is_string(), "{shown}");
    assert!(shown["cause"].as_str().unwrap().contains("another machine"), "{shown}");

    let early = text(&backwhen.folder().join("early"));
    stored.quick(&["copy", "--to", &early]);
    let said = backwhen.fails(exit::LOCKED, &["capture", "--history", &early, "--also", &url]);
    assert_says(&said, &["capture is at work", "leases/capture.json"]);
    let said = backwhen.fails(exit::LOCKED, &["copy", "--to", &url]);
    assert_says(&said, &["capture is at work"]);

    // The first machine stands still with something to put, and the second takes its place.
    stored.visit(4, 4);
    first.signal("STOP");
    stored.psql(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots
          WHERE active_pid IS NOT NULL AND database = current_database()",
    );
    let before = puts(&first);
    let other = text(&backwhen.folder().join("other"));
    stored.quick(&["copy", "--history", &url, "--to", &other]);
    let second = backwhen.command(&["capture", "--history", &other, "--also", &url, "--heartbeat", "200ms"]);
    let mut second = Capture::start(backwhen, second);
    second.allow("shows no sign of life");
    let end = stored.visit(5, 6);
    wait_for("the second goes on with the copy", || {
        let latest: Lsn = serde_json::from_value(elsewhere()["window"]["latest"]["lsn"].clone()).unwrap();
        latest >= end
    });
    first.signal("CONT");
    first.wait_for_line("has taken the copy");
    assert_eq!(puts(&first), before, "{}", first.printed());
    first.kill();
    second.stop();
    backwhen.ok(&stored.remote(&url, &["verify"]));
    let shown = elsewhere();
    assert!(shown["capture"]["running"] == false && shown["state"] == "blackout", "{shown}");
}

/// How many objects, which are no leases, a capture has begun to put.
fn puts(capture: &Capture<'_>) -> usize {
    let is_put = |line: &&str| line.contains("request PUT ") && !line.contains("leases/");
    capture.printed().lines().filter(is_put).count()
}

/// The requests of a capture of each sort: lists, reads, puts.
fn requests(capture: &Capture<'_>) -> [usize; 3] {
    let printed = capture.printed();
    let count =
        |verb: &str| printed.lines().filter(|line| line.contains(&format!("request {verb} "))).count();
    [count("LIST"), count("GET") + count("HEAD"), count("PUT") + count("DELETE")]
}

#[test]
fn a_copy_costs_a_put_each_second_under_load_and_nothing_for_each_heartbeat() {
    let Some(stored) = Stored::begin() else { return };
    let (backwhen, url) = (&stored.backwhen, stored.url());
    let mut command = backwhen.command(&["capture", "--also", &url, "--heartbeat", "100ms"]);
    command
        .env("BACKWHEN_LOG", "info,backwhen::store::remote=trace")
        .env("BACKWHEN_TEST_ROLL_AT", "100000000");
    let mut capture = Capture::start(backwhen, command);
    capture.wait_streaming();
    let end = stored.visit(1, 1);
    wait_copied(&mut capture, end);
    let [lists, ..] = requests(&capture);
    assert!(lists <= 12, "each of nine folders once, and three again for the first image: {lists}");

    let seconds = |begun: std::time::Instant| begun.elapsed().as_secs_f64();
    let (begun, before) = (std::time::Instant::now(), requests(&capture));
    wait_for("some heartbeats have come", || seconds(begun) > 2.5);
    let idle = requests(&capture);
    assert_eq!(idle[..2], before[..2], "no lists and no reads");
    assert!(
        idle[2] - before[2] <= 2,
        "a put and a sign of life each ten seconds: {before:?} and then {idle:?}"
    );

    let mut last = end;
    let begun = std::time::Instant::now();
    wait_for("there was a load", || {
        last = stored.visit(1, 20);
        seconds(begun) > 2.5
    });
    wait_copied(&mut capture, last);
    let (busy, most) = (requests(&capture), seconds(begun).ceil() as usize + 2);
    assert_eq!(busy[..2], idle[..2], "no lists and no reads");
    assert!(busy[2] - idle[2] <= most, "a put each second: {idle:?} and then {busy:?} after {most} s");
    capture.stop();
}

/// The names of what lies in a folder of the history.
fn names(backwhen: &Backwhen, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(backwhen.history().join(folder)).unwrap();
    entries.map(|entry| format!("{folder}/{}", entry.unwrap().file_name().to_str().unwrap())).collect()
}

#[test]
fn what_the_copy_has_let_go_is_not_put_again() {
    let Some(stored) = Stored::begin() else { return };
    let (backwhen, url) = (&stored.backwhen, stored.url());
    for round in 0..3 {
        stored.psql(&format!("UPDATE orders SET note = md5('{round}' || id)"));
        backwhen.ok(&["capture", "--until", "caught-up"]);
        backwhen.ok(&["checkpoint"]);
    }
    stored.copy();
    let expired = backwhen.json(&stored.remote(&url, &["expire", "--keep-last", "1", "--apply"]));
    assert!(expired["bytes_freed"].as_u64() > Some(0), "{expired:#}");
    // The journal's last segment goes on, and is there.
    let old = [names(backwhen, "packs"), names(backwhen, "checkpoints")].concat();
    let mut command = backwhen.command(&["capture", "--also", &url]);
    command.env("BACKWHEN_LOG", "info,backwhen::store::remote=trace");
    let mut capture = Capture::start(backwhen, command);
    capture.wait_streaming();
    stored.psql("UPDATE orders SET note = md5('last' || id) WHERE id < 100");
    let end = stored.visit(1, 1);
    wait_copied(&mut capture, end);
    let made = backwhen.json(&["checkpoint"])["id"].as_str().unwrap().to_owned();
    let printed =
        |capture: &Capture<'_>, name: &str| capture.printed().contains(&format!("request PUT {name}"));
    wait_for("the copy has the new checkpoint", || printed(&capture, &format!("checkpoints/{made}")));
    let again: Vec<_> = old.iter().filter(|name| printed(&capture, name)).collect();
    assert!(again.is_empty(), "{again:?}");
    capture.stop();
    backwhen.ok(&stored.remote(&url, &["verify", "--prove"]));
}

#[test]
fn what_decides_without_a_copy_or_is_no_object_store_is_refused() {
    let Some(stored) = Stored::begin() else { return };
    let backwhen = &stored.backwhen;
    let said = backwhen.fails(exit::USAGE, &["capture", "--durable", "store"]);
    assert_says(&said, &["--durable store", "--also"]);
    let said = backwhen.fails(exit::USAGE, &["capture", "--also", "/srv/copy"]);
    assert_says(&said, &["--also", "/srv/copy", "backwhen copy --to"]);
    let other = Stored::begin().unwrap();
    other.copy();
    let said = backwhen.fails(exit::REFUSED, &["capture", "--also", &other.url()]);
    assert_says(&said, &["another history"]);
}
