//! Blocks that were read of an object store are kept on the local disk, and a question reads no more than it needs.

use std::path::{Path, PathBuf};

use super::{CHANGES_AGAIN, Stored, exit, text};
use crate::support::s3_faults::FaultyS3;
use crate::support::shop::assert_says;

/// A copied history, and a proxy that counts what is read of the copy.
fn counted() -> Option<(Stored, FaultyS3)> {
    let (stored, proxy) = Stored::begin_behind_a_proxy(1)?;
    stored.copy();
    proxy.take_traffic();
    Some((stored, proxy))
}

/// The files of the cache of blocks.
fn kept(stored: &Stored) -> Vec<PathBuf> {
    let entries = |folder: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
    };
    entries(&stored.backwhen.folder().join("cache/blocks"))
        .iter()
        .flat_map(|folder| entries(folder))
        .collect()
}

#[test]
fn a_second_question_asks_the_store_for_no_block() {
    let Some((stored, proxy)) = counted() else { return };
    let (backwhen, url) = (&stored.backwhen, stored.url());
    let blocks = || {
        let traffic = proxy.take_traffic();
        traffic.count("GET", "packs/") + traffic.count("GET", "journal/")
    };
    let into = |name: &str| format!("sqlite:{}", backwhen.folder().join(name).display());
    let row = stored.remote(&url, &["row", "public.orders", "7"]);
    let cold = backwhen.ok(&row);
    assert!(blocks() > 0);
    assert_eq!((backwhen.ok(&row), blocks()), (cold.clone(), 0));
    // Another command has read the same part: the row's table, and the journal.
    let (first, second) = (into("first.sqlite"), into("second.sqlite"));
    let recover = |into: &str| {
        let arguments = ["recover", "--to", "latest", "--table", "public.orders", "--into", into];
        backwhen.ok(&stored.remote(&url, &arguments));
    };
    recover(&first);
    blocks();
    recover(&second);
    assert_eq!(blocks(), 0);

    // A damaged file is fetched again, and a deleted folder is made again.
    for path in kept(&stored) {
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        std::fs::write(&path, bytes).unwrap();
    }
    assert_eq!(backwhen.ok(&row), cold);
    assert!(blocks() > 0);
    assert_eq!((backwhen.ok(&row), blocks()), (cold.clone(), 0));
    std::fs::remove_dir_all(backwhen.folder().join("cache/blocks")).unwrap();
    assert_eq!(backwhen.ok(&row), cold);
    assert!(blocks() > 0 && !kept(&stored).is_empty());
    std::fs::remove_dir_all(backwhen.folder().join("cache/blocks")).unwrap();
    assert_eq!(backwhen.ok(&[&row[..], &["--cache-size", "0"]].concat()), cold);
    assert!(blocks() > 0 && kept(&stored).is_empty(), "nothing is kept if nobody wants it");
    let said = backwhen.fails(exit::USAGE, &[&row[..], &["--cache-size", "much"]].concat());
    assert_says(&said, &["500MB"]);
}

#[test]
fn verify_reads_the_store_and_not_what_is_kept_of_it() {
    let Some((stored, proxy)) = counted() else { return };
    let (backwhen, url) = (&stored.backwhen, stored.url());
    let pack = super::damage::first(&stored, "packs", ".pack");
    stored.latest(&url);
    proxy.take_traffic();
    backwhen.ok(&stored.remote(&url, &["verify"]));
    assert!(proxy.take_traffic().count("GET", &pack) > 0);
    let mut bytes = std::fs::read(backwhen.history().join(&pack)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    stored.server.overwrite(&format!("{}/{pack}", stored.path), &bytes);
    let found = backwhen.run(&stored.remote(&url, &["verify"]));
    assert_says(&format!("{}{}", found.stdout, found.stderr), &[&pack]);
}

#[test]
fn a_question_about_a_small_table_reads_little_of_a_large_copy() {
    let Some((stored, proxy)) = Stored::begin_behind_a_proxy(1) else { return };
    let (backwhen, url) = (&stored.backwhen, stored.url());
    // Text that does not compress, so that the tables are of many blocks.
    stored.change(
        "CREATE TABLE bulk (id int PRIMARY KEY, data text);
         INSERT INTO bulk SELECT n, (SELECT string_agg(md5(n::text || m), '') FROM generate_series(1, 20) m)
         FROM generate_series(1, 12000) n",
    );
    backwhen.ok(&["checkpoint"]);
    stored.change(CHANGES_AGAIN);
    stored.copy();
    proxy.take_traffic();
    let all: u64 = ["packs", "journal"]
        .iter()
        .flat_map(|folder| {
            std::fs::read_dir(backwhen.history().join(folder))
                .unwrap()
                .map(|entry| entry.unwrap().metadata().unwrap().len())
        })
        .sum();
    // The catalog of the copy is made on first use, of footers and manifests.
    backwhen.ok(&stored.remote(&url, &["list", "checkpoints"]));
    let catalog = proxy.take_traffic();
    let costs = |arguments: &[&str]| {
        backwhen.ok(&stored.remote(&url, arguments));
        let traffic = proxy.take_traffic();
        println!(
            "{}: {} requests, {} of {all} bytes",
            arguments[0],
            traffic.requests.len(),
            traffic.received
        );
        traffic
    };
    println!("catalog: {} requests, {} of {all} bytes", catalog.requests.len(), catalog.received);
    let into = format!("sqlite:{}", backwhen.folder().join("one.sqlite").display());
    let row = costs(&["row", "public.customers", "7"]);
    let table = costs(&["recover", "--to", "latest", "--table", "public.customers", "--into", &into]);
    for traffic in [&row, &table] {
        assert!(traffic.received < all / 5 && traffic.requests.len() < 60, "{traffic:?} of {all}");
    }
}

#[test]
fn the_cache_of_blocks_keeps_its_bound() {
    let Some((stored, _proxy)) = counted() else { return };
    let url = stored.url();
    let backwhen = &stored.backwhen;
    backwhen.ok(&stored.remote(&url, &["row", "public.orders", "7", "--cache-size", "100kB"]));
    backwhen.ok(&stored.remote(&url, &["log", "--table", "public.orders", "--cache-size", "100kB"]));
    let total: u64 = kept(&stored).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(total > 0 && total <= 100 << 10, "{total}");
}

#[test]
fn a_copy_from_a_store_to_a_folder_reads_each_object_once() {
    let Some((stored, proxy)) = counted() else { return };
    let (backwhen, url) = (&stored.backwhen, stored.url());
    let back = text(&backwhen.folder().join("back"));
    backwhen.ok(&["copy", "--history", &url, "--to", &format!("file://{back}")]);
    let traffic = proxy.take_traffic();
    let mut objects: Vec<_> = traffic
        .requests
        .iter()
        .filter(|it| ["GET packs/", "GET schemas/", "GET journal/"].iter().any(|begin| it.starts_with(begin)))
        .collect();
    objects.sort();
    let count = objects.len();
    objects.dedup();
    assert_eq!(objects.len(), count, "{:?}", traffic.requests);
    assert_eq!(stored.latest(&back), stored.latest(&url));
}

#[test]
fn an_object_that_one_put_cannot_store_is_refused() {
    let Some((stored, _proxy)) = Stored::begin_behind_a_proxy(1) else { return };
    let mut command = stored.backwhen.command(&["copy", "--to", &stored.url()]);
    let output = command.env("BACKWHEN_TEST_LARGEST_PUT", "3000").output().unwrap();
    assert_eq!(output.status.code(), Some(exit::REFUSED));
    assert_says(&String::from_utf8_lossy(&output.stderr), &["at most 3000", "backwhen copy --to FOLDER"]);
}
