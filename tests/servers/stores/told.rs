//! The state of a capture and of its copies, as `status` shows it where the copies are dispersed over folders.

use std::collections::BTreeSet;

use super::dispersed::Shop;
use crate::support::shop::assert_says;
use crate::support::wait_for;

impl Shop {
    fn visit(&self, from: u32, to: u32) -> backwhen::model::Lsn {
        let rows: String =
            (from..=to).map(|n| format!("INSERT INTO visits (page) VALUES ('visit {n}');\n")).collect();
        self.backwhen.server().psql(self.backwhen.database(), &rows);
        let end = self.backwhen.server().psql(self.backwhen.database(), "SELECT pg_current_wal_insert_lsn()");
        end.parse().unwrap()
    }

    /// The copies as `status` shows them.
    fn copies(&self) -> serde_json::Value {
        self.backwhen.json(&["status"])["copies"].clone()
    }
}

#[test]
fn status_names_the_store_of_a_dispersed_copy_that_is_away_or_lacks_something() {
    let shop = Shop::begin(2, 2);
    let (backwhen, address) = (&shop.backwhen, shop.address());
    let folder = backwhen.folder().display();
    let second = format!("disperse:k=1,m=1,file://{folder}/second-0,file://{folder}/second-1");
    let mut capture = backwhen.spawn_capture_with(&["--also", &address, "--also", &second]);
    capture.allow("is away").wait_streaming();
    let both_reach = |end: backwhen::model::Lsn| {
        wait_for("both copies are up to date", || {
            let copies = shop.copies();
            let end_of = |at: usize| copies[at]["end"].as_str().and_then(|it| it.parse().ok());
            end_of(0) >= Some(end) && end_of(1) >= Some(end)
        });
    };
    both_reach(shop.visit(1, 20));
    wait_for("all stores are whole", || shop.copies()[0]["could_lose"] == 2);
    let shown = shop.copies();
    let stores = shown[0]["stores"].as_array().unwrap();
    let named: Vec<_> = stores.iter().map(|it| it["store"].as_str().unwrap().to_owned()).collect();
    assert_eq!(named, (0..4).map(|number| shop.member(number)).collect::<Vec<_>>());
    let fields: BTreeSet<_> = stores[0].as_object().unwrap().keys().map(String::as_str).collect();
    let documented = include_str!("../../../docs/JSON.md").lines();
    let documented =
        documented.filter_map(|line| line.strip_prefix("| `copies[].stores[].")?.split('`').next());
    assert_eq!(fields, documented.collect());

    let away = backwhen.folder().join("away");
    std::fs::rename(shop.folder(1), &away).unwrap();
    // The other copy is not held up, and the dispersed one can do without one store.
    both_reach(shop.visit(21, 40));
    wait_for("the store is named", || shop.copies()[0]["stores"][1]["away"].is_string());
    let shown = shop.copies();
    assert!(shown[0]["stores"][0]["away"].is_null() && shown[0]["could_lose"] == 1, "{shown}");
    assert!(shown[1]["stores"][0]["away"].is_null() && shown[1]["could_lose"] == 1, "{shown}");
    let member = shop.member(1);
    assert_says(
        &backwhen.ok(&["status"]),
        &[&format!("{member} is away"), "any 1 of the 4 stores may be lost"],
    );
    let metrics = backwhen.ok(&["status", "--output", "prometheus"]);
    let sample = |name: &str| {
        let mut lines =
            metrics.lines().filter(|it| it.starts_with(name) && it.contains(&format!("store=\"{member}\"")));
        lines.next().and_then(|it| it.rsplit_once(' ')).map(|(_, value)| value.to_owned())
    };
    assert_eq!(sample("backwhen_copy_store_away").as_deref(), Some("1"), "{metrics}");
    let watched = backwhen.run(&["status", "--nagios"]);
    assert!(watched.status.code() == Some(1) && watched.stdout.contains(&member), "{}", watched.stdout);

    std::fs::rename(&away, shop.folder(1)).unwrap();
    both_reach(shop.visit(41, 60));
    let lacks = || {
        let store = shop.copies()[0]["stores"][1].clone();
        store["away"].is_null().then(|| store["lacks"].as_u64()).flatten()
    };
    wait_for("what the store lacks is counted", || lacks() > Some(0));
    backwhen.ok(&["repair", "--history", &address]);
    wait_for("the store is whole again", || lacks() == Some(0));
    assert_eq!(shop.copies()[0]["could_lose"], 2);
    capture.stop();
    backwhen.ok(&["verify", "--prove", "--history", &second]);
}

#[test]
fn an_address_whose_stores_cannot_tell_how_the_capture_goes_says_so() {
    let shop = Shop::begin(2, 1);
    let (backwhen, address) = (&shop.backwhen, shop.address());
    let mut capture = backwhen.spawn_capture_with(&["--also", &address]);
    capture.wait_streaming();
    let end = shop.visit(1, 5);
    wait_for("the copy is up to date", || {
        shop.copies()[0]["end"].as_str().and_then(|it| it.parse().ok()) >= Some(end)
    });
    let asked = ["status", "--offline", "--history", &address];
    let shown = backwhen.json(&asked);
    assert!(shown["state"] == "unknown" && shown["capture"]["running"] == true, "{shown}");
    assert_says(
        shown["cause"].as_str().unwrap(),
        &["nobody can tell", "folders", "is at work", "backwhen status"],
    );
    capture.stop();
    let shown = backwhen.json(&asked);
    assert!(shown["state"] == "unknown" && shown["capture"]["running"] == false, "{shown}");
    let told = backwhen.ok(&asked);
    assert!(told.starts_with("state        unknown") && !told.contains("blackout"), "{told}");
    let metrics = backwhen.ok(&[&asked[..], &["--output", "prometheus"]].concat());
    let states: Vec<_> =
        metrics.lines().filter(|it| it.starts_with("backwhen_state{") && it.ends_with(" 1")).collect();
    assert!(states.len() == 1 && states[0].contains("state=\"unknown\""), "{states:?}");
}
