//! Files of the history's `schemas` folder, read and checked by the digest that is their name.

use std::path::Path;

use crate::error::{Context, Error, Kind, Result};
use crate::past::Past;

/// The content of a file that bears its digest as its name.
///
/// # Errors
/// `Damaged` if it does not.
pub(super) fn read_checked(path: &Path, digest: &str) -> Result<Vec<u8>> {
    let bytes = std::fs::read(path).context(Kind::Damaged, || format!("cannot read {}", path.display()))?;
    match blake3::hash(&bytes).to_hex().as_str() == digest {
        true => Ok(bytes),
        false => Err(Error::damaged(format!("{} is damaged: its digest is not its name", path.display()))),
    }
}

/// The list of the server's roles at a moment, as pg_dumpall writes it.
///
/// # Errors
/// `Damaged` if it is.
pub(super) fn globals(past: &Past) -> Result<Option<String>> {
    let Some(digest) = past.roles()? else { return Ok(None) };
    let path = past.history().schemas_folder().join(format!("{digest}.sql"));
    Ok(Some(String::from_utf8_lossy(&read_checked(&path, digest)?).into_owned()))
}
