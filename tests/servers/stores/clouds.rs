//! Copies on the emulators of Google Cloud Storage and of Azure Blob Storage. Without an emulator its test is skipped.

use super::damage::first;
use super::standing::{QUICK_LEASE, wait_copied};
use super::{CHANGES_AGAIN, Stored, exit, text};
use crate::support::shop::assert_says;
use crate::support::stores::azure::AzureEmulator;
use crate::support::stores::google::GoogleEmulator;
use crate::support::stores::s3::S3Server;
use crate::support::{Server, wait_for};

/// A history whose copy is to lie at `url`.
fn begin(url: String, variables: &[(String, String)]) -> Option<Stored> {
    // A `Stored` names the S3 server too, which these tests do not use.
    let server = S3Server::shared()?;
    let mut stored = Stored::begin_at(&Server::shared(None), server, String::new(), url, variables);
    stored.backwhen = stored.backwhen.with_env(QUICK_LEASE.0, QUICK_LEASE.1);
    Some(stored)
}

#[test]
fn google_cloud_storage_keeps_a_copy_that_outlives_the_machine() {
    let Some(google) = GoogleEmulator::shared() else { return };
    let Some(stored) = begin(google.url(&Stored::prefix()), &google.variables()) else { return };
    a_copy_outlives_the_machine(&stored);
}

#[test]
fn azure_blob_storage_keeps_a_copy_that_outlives_the_machine() {
    let Some(azure) = AzureEmulator::shared() else { return };
    let Some(stored) = begin(azure.url(&Stored::prefix()), &azure.variables()) else { return };
    a_copy_outlives_the_machine(&stored);
}

fn a_copy_outlives_the_machine(stored: &Stored) {
    copies_that_race_do_not_mix(stored);
    a_capture_keeps_the_copy_and_no_other_writer_may(stored);
    the_copy_heals_the_folder(stored);
    an_expiry_leaves_what_it_is_to_keep(stored);
    let (backwhen, url) = (&stored.backwhen, stored.url());
    let truth = stored.latest(&text(&backwhen.history()));
    std::fs::remove_dir_all(backwhen.history()).unwrap();
    let row = stored.remote(&url, &["row", "public.orders", "7"]);
    assert!(backwhen.ok(&row).contains("changed"));
    let back = text(&backwhen.folder().join("back"));
    backwhen.ok(&["copy", "--history", &url, "--to", &back]);
    assert_eq!((stored.latest(&url), stored.latest(&back)), (truth.clone(), truth));
    backwhen.ok(&["verify", "--prove", "--history", &back]);
}

fn copies_that_race_do_not_mix(stored: &Stored) {
    let (backwhen, url) = (&stored.backwhen, stored.url());
    let copied: Vec<_> = std::thread::scope(|scope| {
        let copy = || backwhen.run(&["copy", "--to", &url]);
        let racers: Vec<_> = (0..3).map(|_| scope.spawn(copy)).collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    let won = copied.iter().filter(|it| it.status.success()).count();
    assert!(won >= 1, "{}", copied[0].stderr);
    for it in &copied {
        assert!(matches!(it.status.code(), Some(0 | exit::LOCKED)), "{}", it.stderr);
    }
    backwhen.ok(&stored.remote(&url, &["verify"]));
    stored.change(CHANGES_AGAIN);
    assert!(stored.copy()["objects"].as_u64() > Some(0));
    assert_eq!(stored.copy()["objects"], 0, "what is there is not sent again");
    backwhen.ok(&stored.remote(&url, &["verify", "--prove"]));
    assert_eq!(stored.latest(&url), stored.latest(&text(&backwhen.history())));
}

fn a_capture_keeps_the_copy_and_no_other_writer_may(stored: &Stored) {
    let (backwhen, url, slot) = (&stored.backwhen, stored.url(), stored.slot());
    let early = text(&backwhen.folder().join("early"));
    backwhen.ok(&["copy", "--to", &early]);
    let mut capture = backwhen.spawn_capture_with(&["--also", &url, "--durable", "store"]);
    capture.wait_streaming();
    let end = stored.visit(1, 40);
    wait_copied(&mut capture, end);
    wait_for("the copy is confirmed", || stored.confirmed_of(&slot) >= end);
    let elsewhere = || backwhen.json(&stored.remote(&url, &["status", "--offline"]));
    wait_for("its sign of life is seen from elsewhere", || elsewhere()["capture"]["running"] == true);
    for writer in [&["capture", "--history", &early, "--also", &url][..], &["copy", "--to", &url]] {
        let said = backwhen.fails(exit::LOCKED, writer);
        assert_says(&said, &["at work", "leases/capture.json"]);
    }
    capture.kill();
    assert_eq!(stored.visits(&url), (1..=40).collect::<Vec<u32>>());
    // The next capture on the same folder takes the lease of the killed one at once.
    stored.quick(&["capture", "--also", &url, "--durable", "store", "--until", "caught-up"]);
    stored.quick(&["checkpoint"]);
    stored.quick(&["copy", "--to", &url]);
}

fn the_copy_heals_the_folder(stored: &Stored) {
    let (backwhen, url) = (&stored.backwhen, stored.url());
    let name = first(stored, "packs", ".pack");
    let path = backwhen.history().join(&name);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(&path, bytes).unwrap();
    let healed = backwhen.json(&["repair", "--from", &url]);
    assert!(healed["ok"] == true && healed["healed"].to_string().contains(&name), "{healed}");
}

fn an_expiry_leaves_what_it_is_to_keep(stored: &Stored) {
    let (backwhen, url) = (&stored.backwhen, stored.url());
    let checkpoints = || backwhen.json_lines(&stored.remote(&url, &["list", "checkpoints"])).len();
    let (before, truth) = (checkpoints(), stored.latest(&url));
    backwhen.ok(&stored.remote(&url, &["expire", "--keep-last", "1", "--apply"]));
    assert!(before > 1 && checkpoints() == 1, "{before}");
    backwhen.ok(&stored.remote(&url, &["verify"]));
    assert_eq!(stored.latest(&url), truth);
}
