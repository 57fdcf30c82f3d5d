//! The objects that lie in the stores of `fixtures/formats`, which must stay readable for ever.

use std::path::{Path, PathBuf};

use super::{ObjectKind, ObjectName};

/// The folder of a fixture.
pub fn place(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/formats").join(name)
}

/// The objects of a store: a pack of so many numbers, and three small ones.
pub fn objects(numbers: u32) -> Vec<(ObjectName, Vec<u8>)> {
    let rows = (0..numbers).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    vec![
        (ObjectName::new(ObjectKind::Pack, "8ecf5337ad9fe267031b2e031c5cc947"), rows),
        (ObjectName::new(ObjectKind::Roles, "empty"), Vec::new()),
        (ObjectName::epoch(1), b"{ \"format\": 1 }".to_vec()),
        (ObjectName::only(ObjectKind::Identity), b"{ \"format\": 2 }".to_vec()),
    ]
}
