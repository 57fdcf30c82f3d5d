//! A server whose clock is set back while it runs.

use crate::support::shop::{assert_says, shop};
use crate::support::{Clock, Dump, assert_same};
use crate::trouble::exit;

#[test]
fn a_server_whose_clock_is_set_back_is_followed_and_the_step_is_told() {
    let clock = Clock::make();
    let server = clock.start_server();
    // One heartbeat, and none in between.
    let backwhen = shop(&server).with_env("BACKWHEN_HEARTBEAT", "60m");
    let database = backwhen.database();
    let visit = |page: &str| server.psql(database, &format!("INSERT INTO visits (page) VALUES ('{page}')"));
    let now =
        || server.psql(database, "SELECT to_char(clock_timestamp(), 'YYYY-MM-DD HH24:MI:SS.US TZH:TZM')");
    backwhen.init();
    let mut capture = backwhen.spawn_capture();
    // Set forward again by an hour, a server may take that for an hour without a word from us.
    capture.allow("trying again");
    let live = backwhen.history().join("live/capture.json");
    capture.wait_until("the heartbeat", |_| {
        let text = std::fs::read_to_string(&live).unwrap_or_default();
        serde_json::from_str::<serde_json::Value>(&text).is_ok_and(|live| live["source_head"].is_string())
    });
    let earlier = now();
    visit("/before");
    capture.wait_caught_up();
    let before = now();
    clock.set(-3600);
    assert!(now() < before, "the server's clock was not set back, so this proves nothing");
    visit("/an hour ago");
    capture.wait_caught_up();
    let an_hour_ago = now();
    clock.set(0);
    visit("/after");
    capture.wait_caught_up();
    capture.stop();

    assert_eq!(backwhen.json_lines(&["list", "gaps"]).len(), 0);
    let into = format!("clock_of_{database}");
    backwhen.ok(&["recover", "--to", "latest", "--create", "--into", &server.conninfo(&into)]);
    assert_same(&Dump::of(&server, database), &Dump::of(&server, &into));
    // A prefix of the commit order, whatever the clock did: all before the first one that is later.
    let into = format!("step_of_{database}");
    backwhen.ok(&["recover", "--to", &before, "--create", "--into", &server.conninfo(&into)]);
    assert_eq!(
        server.psql(&into, "SELECT string_agg(page, ' ' ORDER BY page) FROM visits"),
        "/ /an hour ago /before /cart"
    );
    // Before the first one that is later, and what came after that with an earlier time is told of.
    let plan = backwhen.run(&["recover", "--to", &earlier, "--dry-run"]);
    assert_says(&(plan.stdout + &plan.stderr), &["stepped back"]);
    // By that clock the history had not yet begun.
    backwhen.fails(exit::OUTSIDE_WINDOW, &["recover", "--to", &an_hour_ago, "--dry-run"]);
}
