//! Reads a whole pack to find damage.

use super::pack::PackReader;
use crate::error::{Kind, Result};
use crate::store::{ObjectName, Store};

/// The findings of reading a whole pack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackCheck {
    /// The number of blocks in the list.
    pub blocks: u64,
    /// The raw bytes of the sound blocks.
    pub bytes: u64,
    /// The faults, a message for each; empty if the pack is sound.
    pub faults: Vec<String>,
}

/// Reads every block of a pack and checks everything: checksums, lengths, digests, the name.
///
/// # Errors
/// `Unavailable` if the store does not answer. Damage is no error here, but a fault in the result.
pub fn verify_pack(store: &dyn Store, name: &ObjectName) -> Result<PackCheck> {
    let mut check = PackCheck::default();
    let Some(reader) = check.note(PackReader::open(store, name))? else {
        return Ok(check);
    };
    check.note(reader.check_name(name))?;
    check.blocks = reader.entries().len() as u64;
    for entry in reader.entries() {
        if let Some(raw) = check.note(reader.read(entry))? {
            check.bytes += raw.len() as u64;
        }
    }
    Ok(check)
}

impl PackCheck {
    /// Notes damage as a fault, and hands on other errors.
    fn note<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == Kind::Damaged => {
                self.faults.push(error.to_string());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
