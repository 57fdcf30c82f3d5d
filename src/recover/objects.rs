//! Reads objects of the history's `schemas` folder and checks them against the digest that is their name.

use crate::error::{Error, Result};
use crate::history::History;
use crate::history::inventory::missing;
use crate::past::Past;
use crate::store::{ObjectKind, ObjectName};

/// Reads an object that is named by the digest of its content.
///
/// # Errors
/// `Damaged` if the object is missing, or if its content has another digest.
pub(super) fn read_checked(history: &History, name: &ObjectName) -> Result<Vec<u8>> {
    let bytes = history.store().read(name)?.ok_or_else(|| missing(history.store(), name))?;
    if blake3::hash(&bytes).to_hex().as_str() == name.stem() {
        return Ok(bytes);
    }
    let place = history.store().locate(name);
    Err(Error::damaged(format!("{place} is damaged: its digest is not its name")))
}

/// Returns the list of the server's roles at a moment, as pg_dumpall writes it.
///
/// # Errors
/// `Damaged` if the list is.
pub(super) fn globals(past: &Past) -> Result<Option<String>> {
    let Some(digest) = past.roles()? else { return Ok(None) };
    let name = ObjectName::new(ObjectKind::Roles, digest);
    Ok(Some(String::from_utf8_lossy(&read_checked(past.history(), &name)?).into_owned()))
}
