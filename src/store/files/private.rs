//! Opens files so that nobody else can read a new file, and no symbolic link leads elsewhere.
//!
//! Somebody who may write into the history's folder can put a link there. A link in the last part of a path is never
//! followed for files that are written in place: locks, live state, open segments, temporary files and the catalog.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// The modes of a file and of a folder, whatever the umask.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Returns options that follow no link, make files for their owner alone, and do not wait for the reader of a pipe.
pub fn unfollowed() -> OpenOptions {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut options = OpenOptions::new();
    options.mode(FILE_MODE).custom_flags(flags.bits().cast_signed());
    options
}

/// Makes a file for its owner alone, to be written.
///
/// # Errors
/// `AlreadyExists` if the name is taken, even by a link that leads nowhere.
pub fn create_private(path: &Path) -> io::Result<File> {
    unfollowed().read(true).write(true).create_new(true).open(path)
}

/// Makes one folder for its owner alone. A folder that another process has just made is as good.
pub(super) fn create_folder_alone(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)
}

/// Reads a file that others may have put there. It must be no link and no pipe, and have at most `most` bytes.
///
/// # Errors
/// `InvalidData` if it is anything else; otherwise an error of the disk.
pub fn read_unfollowed(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let file = unfollowed().read(true).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > most {
        return Err(io::Error::new(ErrorKind::InvalidData, "it is not a small file"));
    }
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Returns `path` with the links in the path of its folder resolved, for a program that accepts no link in a path.
pub fn real_place(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (parent.canonicalize(), path.file_name()) {
        (Ok(parent), Some(name)) => parent.join(name),
        _ => path.to_owned(),
    }
}

/// Whether there is a symbolic link at `path`.
pub fn is_link(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink())
}

/// Whether others than the owner have any right on the file or folder at `path`.
pub fn is_open_to_others(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

#[cfg(test)]
mod tests {
    use super::super::create_folder;
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_is_neither_followed_nor_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("victim"), "untouched").unwrap();
        symlink(at("victim"), at("link")).unwrap();
        symlink(at("nowhere"), at("dangling")).unwrap();
        for name in ["link", "dangling"] {
            assert_eq!(create_private(&at(name)).unwrap_err().kind(), ErrorKind::AlreadyExists);
            assert!(unfollowed().read(true).write(true).create(true).open(at(name)).is_err());
            assert!(read_unfollowed(&at(name), 100).is_err());
            assert!(is_link(&at(name)), "{name} is as it was");
        }
        assert_eq!(std::fs::read_to_string(at("victim")).unwrap(), "untouched");
        assert!(!at("nowhere").exists());
    }

    #[test]
    fn what_is_read_is_a_file_of_bounded_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("live");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read_unfollowed(&path, 5).unwrap(), b"12345");
        assert!(read_unfollowed(&path, 4).is_err());
        assert!(read_unfollowed(folder.path(), 100).is_err(), "a folder");
        assert!(read_unfollowed(Path::new("/dev/zero"), 100).is_err());
    }

    #[test]
    fn folders_and_files_are_their_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (outer, inner) = (folder.path().join("a"), folder.path().join("a/b"));
        create_folder(&inner).unwrap();
        create_private(&inner.join("file")).unwrap();
        for path in [&outer, &inner, &inner.join("file")] {
            assert!(!is_open_to_others(path), "{}", path.display());
        }
    }
}
