//! A dispersed store of version 1, which must stay readable for ever.

use std::path::PathBuf;

use super::*;
use crate::store::{Folder, fixtures};

fn place() -> PathBuf {
    fixtures::place("dispersed-v1")
}

/// The stores, without those that a test has lost.
fn stored(without: &[usize]) -> Dispersed {
    let member = |number: usize| {
        let root =
            if without.contains(&number) { place().join("gone") } else { place().join(number.to_string()) };
        Arc::new(Member::new(number, format!("fixture:{number}"), Arc::new(Folder::new(&root)), None))
    };
    let policy = Policy { code: code::Code { k: 2, m: 2 }, tolerate: 1 };
    Dispersed::new(policy, (0..4).map(member).collect(), &ambient::temporary_place())
}

fn objects() -> Vec<(ObjectName, Vec<u8>)> {
    fixtures::objects(36_000)
}

#[test]
fn the_first_version_is_read_from_any_two_of_its_stores() {
    for without in [&[][..], &[0, 1], &[0, 2], &[0, 3], &[1, 2], &[1, 3], &[2, 3]] {
        let store = stored(without);
        for (name, bytes) in objects() {
            assert!(store.read(&name).unwrap().unwrap() == bytes, "{name} without {without:?}");
            assert_eq!(store.size(&name).unwrap(), Some(bytes.len() as u64), "{name}");
            assert_eq!(store.list(name.kind()).unwrap(), [name]);
        }
    }
    assert!(stored(&[]).survey(&Silent).unwrap().is_whole());
}

#[test]
#[ignore = "it writes the fixture, which is done once for a version"]
fn write_the_fixture() {
    for number in 0..4 {
        std::fs::create_dir_all(place().join(number.to_string())).unwrap();
    }
    for (name, bytes) in objects() {
        stored(&[]).put_new(&name, &bytes).unwrap();
    }
}
