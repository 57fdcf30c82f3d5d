//! The names of files: temporary ones that no other process has, and final ones that are never taken from another file.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

use super::TEMPORARY;
use crate::ambient;
use crate::error::{Error, Result};

/// Makes a name beside `path` for a file that is still being written. No other process has the same name, also on another
/// machine that shares the folder, whatever the process ids are.
///
/// # Errors
/// `Internal` if the operating system has no randomness to give.
pub fn temporary_beside(path: &Path) -> Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("object");
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    Ok(path.with_file_name(format!("{name}.{}-{number}.{TEMPORARY}", own_token()?)))
}

/// Whether this process has made the temporary name.
pub fn is_own_temporary(name: &str) -> bool {
    own_token().is_ok_and(|token| name.contains(&format!(".{token}-")))
}

/// Returns random digits that tell this process from all others, also from a process with the same process id in another
/// container or on another machine.
fn own_token() -> Result<&'static str> {
    static TOKEN: OnceLock<String> = OnceLock::new();
    if let Some(token) = TOKEN.get() {
        return Ok(token);
    }
    let token = ambient::random::<8>()?.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(TOKEN.get_or_init(|| token))
}

/// Gives a file another name on the same file system. A file that has this name already is never overwritten.
///
/// # Errors
/// `Internal` if the name is taken; `Unavailable` if the disk refuses, or if the file system can neither link nor
/// rename without overwriting.
pub fn move_new(from: &Path, to: &Path) -> Result<()> {
    move_by(link_and_remove, rename_without_overwriting, from, to).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => {
            Error::internal(format!("{} exists already; objects are written once", to.display()))
        }
        _ if is_unsupported(&error) => Error::unavailable(format!(
            "the file system of {} can neither link files nor rename them without overwriting; put it on a local disk, \
             or on NFS",
            to.display()
        ))
        .caused_by(error),
        _ => Error::unavailable(format!("cannot give {} the name {}", from.display(), to.display()))
            .caused_by(error),
    })
}

type Move = fn(&Path, &Path) -> io::Result<()>;

/// Moves a file by `link`, or by `rename` on a file system that knows no links.
fn move_by(link: Move, rename: Move, from: &Path, to: &Path) -> io::Result<()> {
    match link(from, to) {
        Err(error) if is_unsupported(&error) => rename(from, to),
        done => done,
    }
}

fn link_and_remove(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to)?;
    // If the file keeps its old name beside the new one, that does no harm.
    let _ = fs::remove_file(from);
    Ok(())
}

/// Whether the file system does not know the operation. Linux returns EPERM where it knows no links (vfat, exfat).
fn is_unsupported(error: &io::Error) -> bool {
    let unsupported = [Errno::PERM, Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL];
    Errno::from_io_error(error).is_some_and(|errno| unsupported.contains(&errno))
}

#[cfg(any(target_os = "linux", target_os = "macos"))]
fn rename_without_overwriting(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn rename_without_overwriting(_: &Path, _: &Path) -> io::Result<()> {
    Err(Errno::NOSYS.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_links(_: &Path, _: &Path) -> io::Result<()> {
        Err(Errno::PERM.into())
    }

    fn disk_fails(_: &Path, _: &Path) -> io::Result<()> {
        Err(Errno::IO.into())
    }

    #[test]
    fn without_links_a_name_that_is_taken_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("taken"), "first").unwrap();
        fs::write(at("new"), "second").unwrap();
        let rename = rename_without_overwriting;
        let refused = move_by(no_links, rename, &at("new"), &at("taken")).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(at("taken")).unwrap(), "first");
        assert_eq!(fs::read_to_string(at("new")).unwrap(), "second");

        move_by(no_links, rename, &at("new"), &at("free")).unwrap();
        assert_eq!(fs::read_to_string(at("free")).unwrap(), "second");
        assert!(!at("new").exists());
    }

    #[test]
    fn a_link_that_fails_for_another_reason_is_no_reason_to_rename() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("new"), "second").unwrap();
        let failed = move_by(disk_fails, rename_without_overwriting, &at("new"), &at("free"));
        assert_eq!(Errno::from_io_error(&failed.unwrap_err()), Some(Errno::IO));
        assert!(at("new").exists() && !at("free").exists());
    }

    #[test]
    fn each_temporary_name_is_used_once_and_known_as_our_own() {
        let path = Path::new("folder/0001.json");
        let [first, second] = [temporary_beside(path).unwrap(), temporary_beside(path).unwrap()];
        assert_ne!(first, second);
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(name(&first).starts_with("0001.json.") && name(&first).ends_with(".tmp"));
        assert!(is_own_temporary(&name(&first)));
        // A process with the same process id on another machine has written this file.
        let other = format!("0001.json.{}.tmp", std::process::id());
        assert!(!is_own_temporary(&other) && !is_own_temporary("0001.json.0123456789abcdef-0.tmp"));
    }
}
