//! The local folder of a history: its parts, and which of them are no objects.
//!
//! The catalog, the live state, the locks and the objects that `repair` has set aside are never in a store of another
//! kind. Each of them has its one place here.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{ObjectKind, ObjectName, Role, files};
use crate::error::{Context, Kind, Result};

/// The folders that every history has.
const FOLDERS: [&str; 10] =
    ["epochs", "journal", "packs", "checkpoints", "schemas", "pins", "evidence", "expired", "locks", "live"];

/// The folder of the wrapped keys, which only an encrypted history has.
const KEYS: &str = "keys";

/// Begins the names of the files in which objects are made for a store that takes only complete ones.
pub const DRAFT: &str = "draft.";

/// The name of the catalog, which lies in the history's own folder.
pub const CATALOG: &str = "catalog.sqlite";

/// The path of the catalog.
pub fn catalog(root: &Path) -> PathBuf {
    root.join(CATALOG)
}

/// The path of the file that keeps the catalog of an encrypted history.
pub(super) fn sealed_catalog(root: &Path) -> PathBuf {
    root.join("catalog.sealed")
}

/// The path of the file in which `capture` says how it goes.
pub fn live_state(root: &Path) -> PathBuf {
    scratch(root).join("capture.json")
}

/// The folder for files that are gone with the process. It lies on the history's own disk, which has room for an image if
/// any disk has.
pub fn scratch(root: &Path) -> PathBuf {
    root.join("live")
}

/// The folder of the open segments, which they share with the sealed ones.
pub(super) fn journal(root: &Path) -> PathBuf {
    root.join(ObjectKind::Segment.place().0)
}

/// The folder of damaged objects that `repair` took out of the way.
pub(super) fn damaged(root: &Path) -> PathBuf {
    root.join("damaged")
}

/// The path of the lock that stands for a role.
pub(super) fn lock(root: &Path, role: Role) -> PathBuf {
    root.join(match role {
        Role::Capture => "locks/capture.lock",
        Role::Checkpoint => "locks/checkpoint.lock",
        Role::Objects => "locks/objects.lock",
        Role::Repair => "locks/repair.lock",
    })
}

/// Makes the folder of the locks, durable, so that a role can be taken before anything else is made.
///
/// # Errors
/// `Unavailable` if the disk does not take it.
pub fn make_locks(root: &Path) -> Result<()> {
    files::create_folder(&root.join("locks"))
}

/// Makes the local folder of a history in an object store, for what is no object, and removes the drafts of objects there that
/// killed processes have left.
///
/// # Errors
/// `Unavailable` if the disk does not take it.
pub fn make_cache(root: &Path) -> Result<()> {
    files::create_folder(&scratch(root))?;
    files::remove_temporaries_of(&scratch(root), DRAFT);
    Ok(())
}

/// Makes the folders that a history consists of, durable; those that exist stay.
///
/// # Errors
/// `Unavailable` if the disk does not take them.
pub fn make_folders(root: &Path) -> Result<()> {
    FOLDERS.iter().try_for_each(|folder| files::create_folder(&root.join(folder)))
}

/// Removes everything that an unfinished `init` has made at `root`. A folder with a `history.json` is a history's, and
/// stays as it is.
pub fn remove_unfinished_history(root: &Path) {
    let path = |kind| root.join(ObjectName::only(kind).file_name());
    if path(ObjectKind::Identity).symlink_metadata().is_ok() {
        return;
    }
    for folder in ["epochs", "journal", "packs", "checkpoints", "schemas", "live"] {
        let _ = fs::remove_dir_all(root.join(folder));
    }
    let _ = fs::remove_file(catalog(root));
    let _ = fs::remove_file(sealed_catalog(root));
    // The intent goes last: an epoch without it would be taken for a history that has lost its history.json.
    if files::sync_folder(root).is_ok() {
        let _ = files::remove(&path(ObjectKind::InitIntent));
    }
}

/// Names a file that keeps `root` from becoming a history, if there is one. Leftovers of an `init` that was killed do
/// not keep it from that.
///
/// # Errors
/// `Refused` if the folder cannot be read.
pub fn first_stranger(root: &Path) -> Result<Option<String>> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).context(Kind::Refused, || format!("cannot read {}", root.display()));
        }
    };
    for entry in entries {
        let entry = entry.context(Kind::Unavailable, || format!("cannot read {}", root.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // A link in its place would have us read another's file as what an earlier `init` left.
        let is_intent = name == "init.json" && !files::is_link(&entry.path());
        // The key of an encrypted history is there before anything else.
        let is_known = FOLDERS.contains(&name.as_str()) || is_intent || name == "lost+found" || name == KEYS;
        if !is_known && !is_unfinished(&name) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Whether a process that was killed may have left a file of this name while it wrote an object in the root.
fn is_unfinished(name: &str) -> bool {
    let written = ["init.json", "copy.json", "history.json"];
    name.ends_with(&format!(".{}", files::TEMPORARY)) && written.iter().any(|file| name.starts_with(file))
}

/// Whether others than the folder's owner may read or change what the history holds, as in histories that earlier
/// versions made under the usual umask.
pub fn is_open_to_others(root: &Path) -> bool {
    let mut inside = FOLDERS.iter().copied().chain(["history.json"]);
    files::is_open_to_others(root) && inside.any(|name| files::is_open_to_others(&root.join(name)))
}

/// Whether the open segments of an encrypted history grow in its folder, and do not lie there in increments, as those of a
/// copy do. A history without a segment is one that grows.
///
/// # Errors
/// `Unavailable` if the folder cannot be read.
pub fn grows_in_place(root: &Path) -> Result<bool> {
    let folder = journal(root);
    let failed = || format!("cannot read folder {}", folder.display());
    let mut has_increments = false;
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        entries => entries.context(Kind::Unavailable, failed)?,
    };
    for entry in entries {
        let name = entry.context(Kind::Unavailable, failed)?.file_name();
        match Path::new(&name).extension().and_then(|it| it.to_str()) {
            Some("open") => return Ok(true),
            Some("inc") => has_increments = true,
            _ => {}
        }
    }
    Ok(!has_increments)
}

/// Whether a file lies inside a folder that is there.
pub fn is_inside(file: &Path, root: &Path) -> bool {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    fs::canonicalize(root).is_ok_and(|root| files::real_place(&file).starts_with(root))
}

/// Whether two paths lead to one folder.
pub fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| fs::canonicalize(path).ok();
    real(one).is_some_and(|one| real(other) == Some(one))
}
