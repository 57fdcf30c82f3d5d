//! Locks that end with the process.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use super::{is_link, read_unfollowed, unfollowed};
use crate::ambient;
use crate::error::{Context, Error, Kind, Result, one_line};

/// The text that a holder writes into the file before the number of its process.
const HOLDER: &str = "process ";
/// At most this many bytes of a lock file are read.
const LONGEST: u64 = 64;

/// A lock on a file, which the kernel releases with the process, however the process ends.
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, or says at once who holds it.
    ///
    /// # Errors
    /// `Locked` if another process holds it, `Refused` if a link lies in its place.
    pub fn take(path: &Path, what: &str) -> Result<Lock> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let holder = holder(path);
                return Err(Error::locked(format!(
                    "{what} is already running on this history ({holder} holds {}); wait for it, or stop it",
                    path.display()
                )));
            }
            Err(fs::TryLockError::Error(error)) => {
                return Err(error).context(Kind::Unavailable, || format!("cannot lock {}", path.display()));
            }
        }
        write_holder(&file);
        Ok(Lock { _file: file })
    }

    /// Shares the lock with others that share it, and waits for a process that has it alone. `None` where there can be no
    /// lock, as on a read-only disk: reading never fails for want of a lock.
    ///
    /// # Errors
    /// `Locked` if another process still has the lock alone after that time.
    pub fn share(path: &Path, patience: Duration) -> Result<Option<Lock>> {
        let create = || unfollowed().create(true).append(true).open(path);
        let Ok(file) = unfollowed().read(true).open(path).or_else(|_| create()) else { return Ok(None) };
        let until = ambient::instant() + patience;
        loop {
            match file.try_lock_shared() {
                Ok(()) => return Ok(Some(Lock { _file: file })),
                Err(fs::TryLockError::Error(_)) => return Ok(None),
                Err(fs::TryLockError::WouldBlock) if ambient::instant() < until => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(fs::TryLockError::WouldBlock) => {
                    let holder = holder(path);
                    return Err(Error::locked(format!(
                        "`backwhen expire` is at work on this history ({} holds {}); try again when it has ended",
                        holder,
                        path.display()
                    )));
                }
            }
        }
    }

    /// Whether some process holds the lock now.
    pub fn is_held(path: &Path) -> bool {
        match unfollowed().read(true).open(path) {
            Ok(file) => matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock)),
            Err(_) => false,
        }
    }
}

fn open(path: &Path) -> Result<File> {
    unfollowed().create(true).read(true).write(true).open(path).map_err(|error| {
        if is_link(path) {
            return Error::refused(format!(
                "{} is a symbolic link, which no lock follows; see who put it there, and remove it",
                path.display()
            ));
        }
        Error::unavailable(format!("cannot open lock {}", path.display())).caused_by(error)
    })
}

/// Says who holds the lock, for a message.
fn holder(path: &Path) -> String {
    let text = read_unfollowed(path, LONGEST).unwrap_or_default();
    let text = one_line(String::from_utf8_lossy(&text).trim());
    if text.is_empty() { "another process".to_owned() } else { text }
}

/// Writes the holder into the lock file. A file with other content, such as somebody's file under a second name, is left
/// as it is.
fn write_holder(file: &File) {
    let mut before = String::new();
    let read = file.take(LONGEST).read_to_string(&mut before);
    if read.is_ok() && (before.is_empty() || names_a_holder(&before)) {
        let _ = file.set_len(0);
        let _ = file.write_all_at(format!("{HOLDER}{}\n", std::process::id()).as_bytes(), 0);
    }
}

fn names_a_holder(text: &str) -> bool {
    let number = text.strip_prefix(HOLDER).and_then(|rest| rest.strip_suffix('\n'));
    number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_in_place_of_a_lock_is_refused_and_what_it_leads_to_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("victim"), "process of a letter\n").unwrap();
        symlink(at("victim"), at("lock")).unwrap();
        symlink(at("nowhere"), at("dangling")).unwrap();
        for name in ["lock", "dangling"] {
            let error = Lock::take(&at(name), "capture").err().unwrap();
            assert_eq!(error.kind(), Kind::Refused, "{error}");
            assert!(Lock::share(&at(name), Duration::ZERO).unwrap().is_none());
            assert!(!Lock::is_held(&at(name)));
        }
        fs::hard_link(at("victim"), at("hard")).unwrap();
        drop(Lock::take(&at("hard"), "capture").unwrap());
        assert_eq!(fs::read_to_string(at("victim")).unwrap(), "process of a letter\n");
        assert!(!at("nowhere").exists());
    }

    #[test]
    fn a_lock_names_its_holder_also_over_an_earlier_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        std::fs::write(&path, "process 123456789\n").unwrap();
        let _lock = Lock::take(&path, "capture").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("process {}\n", std::process::id()));
        let error = Lock::take(&path, "capture").err().unwrap();
        assert!(error.message().contains(&format!("(process {} holds", std::process::id())), "{error}");
    }
}
