//! Networks that break, fall silent and stall, and a server that gives us up: followed again, and
//! nothing is lost.

use std::time::{Duration, Instant};

use crate::support::shop::{assert_says, assert_visits_are_held, shop};
use crate::support::{Backwhen, Capture, Proxy, Server, wait_for};
use backwhen::capture::state::State;

/// After so long either side gives up the other.
const SILENCE: &str = "options='-c wal_sender_timeout=2s'";

fn behind_a_proxy(server: &Server, options: &str) -> (Proxy, Backwhen) {
    let proxy = Proxy::before(server);
    let backwhen = shop(server).with_env("BACKWHEN_HEARTBEAT", "300ms");
    let source = format!("{} {options}", proxy.conninfo(backwhen.database()));
    backwhen.ok(&["init", "--source", &source]);
    (proxy, backwhen)
}

fn capture(backwhen: &Backwhen) -> Capture<'_> {
    let mut capture = backwhen.spawn_capture();
    capture.allow("trying again");
    capture.wait_caught_up();
    capture
}

/// Tells whether the server has given up the walsender that streams now.
fn walsender_is_gone(backwhen: &Backwhen) -> impl Fn() -> bool {
    let slot = "SELECT active_pid FROM pg_replication_slots WHERE database = current_database()";
    let walsender = move || backwhen.server().psql(backwhen.database(), slot);
    let now = walsender();
    move || walsender() != now
}

fn visit(backwhen: &Backwhen, page: &str) {
    let sql = format!("INSERT INTO visits (page) SELECT '{page}' FROM generate_series(1, 100)");
    backwhen.server().psql(backwhen.database(), &sql);
}

fn ends_well(backwhen: &Backwhen, mut capture: Capture<'_>) {
    visit(backwhen, "/after");
    capture.wait_caught_up();
    capture.stop();
    assert_eq!(backwhen.json_lines(&["list", "gaps"]).len(), 0);
    assert_visits_are_held(backwhen, backwhen.server());
}

#[test]
fn a_network_that_is_cut_is_waited_for() {
    let server = Server::shared(None);
    let (proxy, backwhen) = behind_a_proxy(&server, "");
    let mut capture = capture(&backwhen);
    for _ in 0..2 {
        proxy.cut();
        visit(&backwhen, "/meanwhile");
        capture.wait_for_live("it has noticed", |live| live.state == State::Blackout);
        let status = backwhen.json(&["status", "--offline"]);
        assert_eq!(status["state"], "blackout");
        proxy.heal();
        capture.wait_caught_up();
        capture.wait_streaming();
    }
    ends_well(&backwhen, capture);
}

/// Both ends believe in the connection, and nothing arrives.
#[test]
fn a_half_open_connection_is_given_up() {
    let server = Server::shared(None);
    let (proxy, backwhen) = behind_a_proxy(&server, SILENCE);
    let mut capture = capture(&backwhen);
    proxy.fall_silent();
    visit(&backwhen, "/unheard");
    let begun = Instant::now();
    capture.wait_for_step(State::Blackout, "has been silent");
    assert!(begun.elapsed() < Duration::from_secs(15), "it took {:?}", begun.elapsed());
    proxy.heal();
    ends_well(&backwhen, capture);
}

/// The same while a backlog is drained, when the server is silent for long of itself.
#[test]
fn a_half_open_connection_in_a_drain_is_given_up() {
    let server = Server::shared(None);
    let (proxy, backwhen) = behind_a_proxy(&server, SILENCE);
    let rows = "INSERT INTO visits (page) SELECT repeat(md5(n::text), 200) FROM generate_series(1, 6000) n";
    server.psql(backwhen.database(), rows);
    let mut capture = backwhen.spawn_capture_where("BACKWHEN_TEST_DRAIN", "0:1000000000");
    capture.allow("trying again").allow("is in use");
    capture.wait_for_step(State::Streaming, "draining what was committed");
    proxy.fall_silent();
    let begun = Instant::now();
    capture.wait_for_step(State::Blackout, "does not work for this connection");
    assert!(begun.elapsed() < Duration::from_secs(30), "it took {:?}", begun.elapsed());
    proxy.heal();
    ends_well(&backwhen, capture);
}

/// The same while an image is read: the server is asked whether it still works for each session.
#[test]
fn a_half_open_connection_in_an_image_is_given_up() {
    let server = Server::shared(None);
    let (proxy, backwhen) = (Proxy::before(&server), shop(&server));
    let rows = "INSERT INTO visits (page) SELECT repeat(md5(n::text), 200) FROM generate_series(1, 15000) n";
    server.psql(backwhen.database(), rows);
    let source = format!("{} {SILENCE}", proxy.conninfo(backwhen.database()));
    std::thread::scope(|scope| {
        let init = scope.spawn(|| backwhen.fails(10, &["init", "--jobs", "1", "--source", &source]));
        while proxy.sent() < 20 << 20 {
            std::thread::yield_now();
        }
        proxy.fall_silent();
        let begun = Instant::now();
        assert_says(&init.join().expect("it fails"), &["does not work for this connection"]);
        assert!(begun.elapsed() < Duration::from_secs(30), "it took {:?}", begun.elapsed());
    });
    proxy.heal();
    backwhen.ok(&["init", "--source", &source]);
    ends_well(&backwhen, capture(&backwhen));
}

/// The server believes in a capture that is gone, for much longer than anybody wants to wait.
#[test]
fn a_slot_that_our_own_former_walsender_holds_is_taken_back() {
    let server = Server::shared(None);
    let (proxy, backwhen) = behind_a_proxy(&server, "");
    let first = capture(&backwhen);
    proxy.fall_silent();
    first.kill();
    visit(&backwhen, "/meanwhile");
    proxy.heal();
    let begun = Instant::now();
    let mut second = backwhen.spawn_capture();
    second.allow("is in use");
    second.wait_caught_up();
    assert!(begun.elapsed() < Duration::from_secs(30), "it took {:?}", begun.elapsed());
    assert_says(&second.printed(), &["ended backwhen's own former walsender"]);
    ends_well(&backwhen, second);
}

/// Whoever reads slowly holds up the server, which keeps what it cannot send.
#[test]
fn a_stream_that_stalls_goes_on_where_it_stood() {
    let server = Server::shared(None);
    let (proxy, backwhen) = behind_a_proxy(&server, SILENCE);
    let mut capture = capture(&backwhen);
    let gone = walsender_is_gone(&backwhen);
    proxy.stall();
    // More than fits into the sockets between.
    let sql = "INSERT INTO visits (page) SELECT repeat(md5(n::text), 30) FROM generate_series(1, 5000) n";
    server.psql(backwhen.database(), sql);
    capture.wait_until("the server has given up the stream", |_| gone());
    proxy.heal();
    ends_well(&backwhen, capture);
}

/// A machine that sleeps for longer than the server's `wal_sender_timeout`.
#[test]
fn a_capture_that_the_server_has_given_up_begins_anew() {
    let server = Server::start(None);
    let (_proxy, backwhen) = behind_a_proxy(&server, SILENCE);
    let mut capture = capture(&backwhen);
    let gone = walsender_is_gone(&backwhen);
    capture.signal("STOP");
    visit(&backwhen, "/meanwhile");
    wait_for("the server has given up the stream", gone);
    capture.signal("CONT");
    capture.wait_for_step(State::Blackout, "");
    ends_well(&backwhen, capture);
}
