//! A dispersed store of version 1, which must stay readable for ever.

use std::path::PathBuf;

use super::*;
use crate::store::Folder;

fn place() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/formats/dispersed-v1")
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
    let rows: Vec<u8> =
        (0..36_000_u32).flat_map(|number| (number.wrapping_mul(2_654_435_761)).to_le_bytes()).collect();
    vec![
        (ObjectName::new(ObjectKind::Pack, "8ecf5337ad9fe267031b2e031c5cc947"), rows),
        (ObjectName::new(ObjectKind::Roles, "empty"), Vec::new()),
        (ObjectName::epoch(1), b"{ \"format\": 1 }".to_vec()),
        (ObjectName::only(ObjectKind::Identity), b"{ \"format\": 2 }".to_vec()),
    ]
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
