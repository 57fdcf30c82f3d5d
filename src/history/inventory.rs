//! The objects of a history other than segments: which are there, and whether each is what it should be.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::checkpoint::Checkpoint;
use super::epoch::Epoch;
use super::key::Authorship;
use super::{Identity, evidence, expiry, image, read_object};
use crate::error::{Context, Error, Kind, Result};

/// Folders of objects that are written once under their final name, with the endings of their names.
/// In this order, whatever names an object comes after that object.
pub const FOLDERS: [(&str, &[&str]); 4] = [
    ("packs", &[image::EXTENSION]),
    ("schemas", &["dump", "sql"]),
    ("epochs", &["json"]),
    ("checkpoints", &["json"]),
];

/// The names of the objects in one folder of the history at `root`, sorted, as `packs/NAME.pack`.
///
/// # Errors
/// `Unavailable` if the folder cannot be read; one that is not there holds nothing.
pub fn names(root: &Path, folder: &str, endings: &[&str]) -> Result<Vec<String>> {
    let path = root.join(folder);
    let failed = || format!("cannot read folder {}", path.display());
    let entries = match fs::read_dir(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(Kind::Unavailable, failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.context(Kind::Unavailable, failed)?.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.rsplit_once('.').is_some_and(|(_, ending)| endings.contains(&ending)) {
            names.push(format!("{folder}/{name}"));
        }
    }
    names.sort();
    Ok(names)
}

/// Reads every byte of the object `name` of the history at `root`.
///
/// # Errors
/// `Damaged`, naming it, if it is not what it should be, not written by a holder of the key, or not there; `Refused` if a newer backwhen
/// wrote it; `Unavailable` if the disk does not read.
pub fn check(root: &Path, name: &str, authorship: &Authorship) -> Result<()> {
    let path = root.join(name);
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    match name.split_once('/').map(|(folder, _)| folder) {
        Some("packs") => check_pack(&path),
        Some("schemas") => check_named_by_digest(&path, stem),
        Some("epochs") => {
            let epoch: Epoch = there(&path, read_object(&path, authorship)?)?;
            is_named(&path, format!("{:04}", epoch.number) == stem)
        }
        Some("checkpoints") => {
            let checkpoint: Checkpoint = there(&path, read_object(&path, authorship)?)?;
            is_named(&path, checkpoint.id == stem)
        }
        Some(evidence::FOLDER) => evidence::check(&path, authorship),
        Some(expiry::FOLDER) => expiry::check(&path, authorship),
        _ => {
            let identity: Identity = there(&path, read_object(&path, authorship)?)?;
            identity.id_bytes().map(drop)
        }
    }
}

fn there<T>(path: &Path, object: Option<T>) -> Result<T> {
    object.ok_or_else(|| Error::damaged(format!("{} is missing", path.display())))
}

fn is_named(path: &Path, named: bool) -> Result<()> {
    match named {
        true => Ok(()),
        false => Err(Error::damaged(format!("{} is another object than its name says", path.display()))),
    }
}

fn check_pack(path: &Path) -> Result<()> {
    match image::verify_pack(path)?.faults.into_iter().next() {
        Some(fault) => Err(Error::damaged(fault)),
        None => Ok(()),
    }
}

/// Schema archives and lists of roles bear their own digest.
///
/// # Errors
/// `Damaged` if the file is gone or its digest is not `stem`.
pub fn check_named_by_digest(path: &Path, stem: &str) -> Result<()> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return there(path, None),
        bytes => bytes.context(Kind::Unavailable, || format!("cannot read {}", path.display()))?,
    };
    match blake3::hash(&bytes).to_hex().as_str() == stem {
        true => Ok(()),
        false => Err(Error::damaged(format!("{}: its digest is not its name", path.display()))),
    }
}
