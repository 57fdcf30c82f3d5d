//! An object store that is slow, throttles, breaks connections, loses answers, or is away.

use super::{CHANGES_AGAIN, Stored, exit, text};
use crate::support::s3_faults::S3Fault;
use crate::support::seed;
use crate::support::shop::assert_says;

/// The number of requests among a thousand that go wrong.
const TROUBLE: u32 = 250;

#[test]
fn nothing_is_lost_or_doubled_in_a_store_that_fails_now_and_then() {
    let seed = seed();
    println!("BACKWHEN_TEST_SEED={seed}");
    let Some((stored, proxy)) = Stored::begin_behind_a_proxy(seed) else { return };
    let (backwhen, url, folder) = (&stored.backwhen, stored.url(), text(&stored.backwhen.history()));
    proxy.trouble(TROUBLE);
    stored.copy();
    stored.change(CHANGES_AGAIN);
    backwhen.ok(&["checkpoint"]);
    assert_eq!(stored.copy()["ok"], true);
    assert_eq!(stored.latest(&url), stored.latest(&folder));
    backwhen.ok(&stored.remote(&url, &["verify"]));
    let row = |history: &str| backwhen.ok(&["row", "public.orders", "7", "--history", history]);
    assert_eq!(row(&url), row(&folder));

    let lost = super::damage::first(&stored, "packs", ".pack");
    std::fs::remove_file(backwhen.history().join(&lost)).unwrap();
    let healed = backwhen.json(&["repair", "--from", &url]);
    assert!(healed["ok"] == true && healed["healed"].to_string().contains(&lost), "{healed}");
    backwhen.ok(&stored.remote(&url, &["expire", "--keep-last", "1", "--apply"]));
    let faults = proxy.take_traffic().faults;
    let total: u32 = faults.values().sum();
    assert!(total > 20 && faults.len() > 3, "{faults:?}");

    // The store has the objects that the commands told of, and no others.
    proxy.trouble(0);
    backwhen.ok(&stored.remote(&url, &["verify", "--prove"]));
    assert_eq!(stored.latest(&url), stored.latest(&folder));
    assert_eq!(stored.copy()["ok"], true);
    let again = stored.copy();
    assert_eq!((&again["objects"], &again["bytes"]), (&0.into(), &0.into()), "{again}");
}

#[test]
fn a_store_that_is_away_ends_a_command_which_goes_on_once_it_is_back() {
    let Some((stored, proxy)) = Stored::begin_behind_a_proxy(1) else { return };
    let (backwhen, url) = (&stored.backwhen, &*stored.url());
    stored.copy();
    stored.change(CHANGES_AGAIN);
    proxy.go_away();
    for command in [
        &["copy", "--to", url][..],
        &["repair", "--from", url],
        &["status", "--offline", "--history", url],
        &["verify", "--history", url],
        &["expire", "--keep-last", "1", "--apply", "--history", url],
        &["recover", "--to", "latest", "--into", "sql:never.sql", "--history", url],
    ] {
        let said = backwhen.fails(exit::UNAVAILABLE, command);
        assert_says(&said, &[url, "start the same command again"]);
    }
    proxy.come_back();
    // The store goes away in the middle of a repair: that an object of the copy cannot be read does not make it damaged.
    let lost = super::damage::first(&stored, "packs", ".pack");
    std::fs::remove_file(backwhen.history().join(&lost)).unwrap();
    for at in ["GET packs/", "HEAD packs/", "LIST packs/"] {
        proxy.go_away_at(at);
        let repaired = backwhen.run(&["repair", "--from", url]);
        let is_away = repaired.status.code() == Some(exit::UNAVAILABLE);
        assert!(is_away || repaired.status.success(), "{at}: {}{}", repaired.stdout, repaired.stderr);
        assert!(is_away || at != "GET packs/", "it read nothing of the copy");
        proxy.come_back();
    }
    backwhen.ok(&["repair", "--from", url]);
    backwhen.ok(&["verify"]);
    assert_eq!(stored.copy()["ok"], true);
    backwhen.ok(&["verify", "--history", url]);
    assert_eq!(stored.latest(url), stored.latest(&text(&backwhen.history())));
}

#[test]
fn a_request_that_fails_three_times_in_a_row_is_carried_out_once() {
    let Some((stored, proxy)) = Stored::begin_behind_a_proxy(7) else { return };
    let url = stored.url();
    proxy.trouble(1000);
    let faults = [S3Fault::Throttle, S3Fault::CutRequest, S3Fault::LoseAnswer, S3Fault::ResetAnswer];
    for fault in faults.into_iter().chain([S3Fault::CutAnswer]) {
        proxy.only(fault);
        assert_eq!(stored.copy()["ok"], true, "{fault:?}");
        let happened = proxy.take_traffic().faults[&fault];
        assert!(happened > 20, "{fault:?}: {happened}");
        stored.change(CHANGES_AGAIN);
    }
    proxy.trouble(0);
    stored.copy();
    stored.backwhen.ok(&stored.remote(&url, &["verify"]));
    assert_eq!(stored.latest(&url), stored.latest(&text(&stored.backwhen.history())));
}
