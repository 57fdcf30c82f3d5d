//! A file that a recovery writes: it gets its name last, and takes no other file's.

use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Kind, Result};
use crate::store::files;

/// Where a file is written before it has its name: under one that no other recovery has, on this machine or another.
///
/// # Errors
/// `Refused` if `path` exists.
pub(super) fn temporary_path(path: &Path) -> Result<PathBuf> {
    // A link that leads nowhere is in the way too.
    if path.symlink_metadata().is_ok() {
        return Err(Error::refused(format!(
            "{} exists already; name another file or remove it",
            path.display()
        )));
    }
    let name = path.file_name().ok_or_else(|| Error::usage(format!("{} names no file", path.display())))?;
    files::temporary_beside(&path.with_file_name(format!("{}.partial", name.to_string_lossy())))
}

/// Syncs a file and gives it its name; a file of that name is never overwritten.
pub(super) fn publish(temporary: &Path, path: &Path) -> Result<()> {
    std::fs::File::open(temporary)
        .and_then(|file| file.sync_all())
        .context(Kind::Unavailable, || format!("cannot sync {}", temporary.display()))?;
    files::move_new(temporary, path).map_err(|error| match path.symlink_metadata() {
        Ok(_) => Error::refused(format!("{} appeared meanwhile; it is left as it is", path.display())),
        Err(_) => error,
    })?;
    files::sync_parent(path)
}
