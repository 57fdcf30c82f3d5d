//! Checks single objects of a history, each by the rules of its kind.

use serde::de::DeserializeOwned;

use super::checkpoint::Checkpoint;
use super::epoch::Epoch;
use super::evidence::Evidence;
use super::expiry::Expiry;
use super::key::Authorship;
use super::pins::Pin;
use super::{Identity, image, journal, read_object};
use crate::error::{Error, Result};
use crate::store::{ObjectKind, ObjectName, Store};

/// Reads every byte of an object.
///
/// # Errors
/// `Damaged`, naming the object, if the object is damaged, not written by a holder of the key, or missing;
/// `Refused` if a newer backwhen wrote it; `Unavailable` if the store does not answer.
pub fn check(store: &dyn Store, name: &ObjectName, authorship: &Authorship) -> Result<()> {
    match name.kind() {
        ObjectKind::Pack | ObjectKind::Segment if !store.holds(name)? => Err(missing(store, name)),
        ObjectKind::Pack => check_pack(store, name),
        ObjectKind::Archive | ObjectKind::Roles => check_digest(store, name),
        ObjectKind::Segment => journal::check_digest(store, name, authorship).map(drop),
        ObjectKind::Increment => journal::check_increment(store, name),
        ObjectKind::Epoch => {
            let epoch: Epoch = read(store, name, authorship)?;
            check_is_named(store, name, format!("{:04}", epoch.number) == name.stem())
        }
        ObjectKind::Checkpoint => {
            let checkpoint: Checkpoint = read(store, name, authorship)?;
            check_is_named(store, name, checkpoint.id == name.stem())
        }
        ObjectKind::Pin => {
            let pin: Pin = read(store, name, authorship)?;
            check_is_named(store, name, pin.checkpoint == name.stem())
        }
        ObjectKind::Evidence => read::<Evidence>(store, name, authorship).map(drop),
        ObjectKind::Expiry => read::<Expiry>(store, name, authorship).map(drop),
        ObjectKind::Identity => read::<Identity>(store, name, authorship)?.id_bytes().map(drop),
        ObjectKind::Shard | ObjectKind::Dispersal => {
            Err(Error::internal(format!("{name} is part of a dispersed store, and no object of a history")))
        }
        ObjectKind::InitIntent | ObjectKind::CopyIntent => {
            read::<serde_json::Value>(store, name, &Authorship::Unkeyed).map(drop)
        }
        // Only a recipient can open it, which the store does by itself.
        ObjectKind::StoreKey => Ok(()),
    }
}

fn read<T: DeserializeOwned>(store: &dyn Store, name: &ObjectName, authorship: &Authorship) -> Result<T> {
    read_object(store, name, authorship)?.ok_or_else(|| missing(store, name))
}

/// The error for an object that is missing.
pub fn missing(store: &dyn Store, name: &ObjectName) -> Error {
    Error::damaged(format!("{} is missing", store.locate(name)))
}

fn check_is_named(store: &dyn Store, name: &ObjectName, is_named: bool) -> Result<()> {
    if is_named {
        Ok(())
    } else {
        Err(Error::damaged(format!("{} is another object than its name says", store.locate(name))))
    }
}

fn check_pack(store: &dyn Store, name: &ObjectName) -> Result<()> {
    match image::verify_pack(store, name)?.faults.into_iter().next() {
        Some(fault) => Err(Error::damaged(fault)),
        None => Ok(()),
    }
}

/// Checks a schema archive or a list of roles, which are named by their own digest.
fn check_digest(store: &dyn Store, name: &ObjectName) -> Result<()> {
    let bytes = store.read(name)?.ok_or_else(|| missing(store, name))?;
    if blake3::hash(&bytes).to_hex().as_str() == name.stem() {
        Ok(())
    } else {
        Err(Error::damaged(format!("{}: its digest is not its name", store.locate(name))))
    }
}
