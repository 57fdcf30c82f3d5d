//! An encrypted store of version 1, which must stay readable for ever.

use std::path::{Path, PathBuf};

use super::*;
use crate::store::Folder;

fn place() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/formats/sealed-v1")
}

/// The file in the repository may be read by all, as Git keeps no more of a mode.
fn identities() -> IdentitySource {
    IdentitySource::of_command(format!("cat {}", place().join("identity").display()))
}

fn objects() -> Vec<(ObjectName, Vec<u8>)> {
    let rows: Vec<u8> =
        (0..18_000_u32).flat_map(|number| (number.wrapping_mul(2_654_435_761)).to_le_bytes()).collect();
    vec![
        (ObjectName::new(ObjectKind::Pack, "8ecf5337ad9fe267031b2e031c5cc947"), rows),
        (ObjectName::new(ObjectKind::Roles, "empty"), Vec::new()),
        (ObjectName::epoch(1), b"{ \"format\": 1 }".to_vec()),
        (ObjectName::only(ObjectKind::Identity), b"{ \"format\": 2 }".to_vec()),
    ]
}

#[test]
fn the_first_version_is_read() {
    let secrecy = Secrecy::new(Some(identities()), NewCopy::default(), Vec::new());
    let folder = Arc::new(Folder::new(&place().join("store")));
    let store = secrecy.open(folder, "fixture", crate::ambient::temporary_place()).unwrap();
    for (name, bytes) in objects() {
        assert!(store.read(&name).unwrap().unwrap() == bytes, "{name}");
        assert_eq!(store.size(&name).unwrap(), Some(bytes.len() as u64), "{name}");
        assert_eq!(store.list(name.kind()).unwrap(), [name]);
    }
}

#[test]
#[ignore = "it writes the fixture, which is done once for a version"]
fn write_the_fixture() {
    let folder = Folder::new(&place().join("store"));
    for name in ["packs", "epochs", "schemas", "keys"] {
        std::fs::create_dir_all(place().join("store").join(name)).unwrap();
    }
    let opened = super::super::keys::make(&folder, &identities().read().unwrap(), "fixture").unwrap();
    let store = Sealed::new(Arc::new(folder), &opened.key, crate::ambient::temporary_place());
    for (name, bytes) in objects() {
        store.put_new(&name, &bytes).unwrap();
    }
}
