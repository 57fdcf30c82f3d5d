//! An encrypted store of version 1, which must stay readable for ever.

use std::path::PathBuf;

use super::*;
use crate::store::{Folder, fixtures};

fn place() -> PathBuf {
    fixtures::place("sealed-v1")
}

/// The file in the repository may be read by all, as Git keeps no more of a mode.
fn identities() -> IdentitySource {
    IdentitySource::of_command(format!("cat {}", place().join("identity").display()))
}

fn objects() -> Vec<(ObjectName, Vec<u8>)> {
    fixtures::objects(18_000)
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
