//! Locks that end with the process.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Context, Error, Kind, Result};

/// A lock on a file that the kernel lets go with the process, however it ends.
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, or says at once who holds it.
    ///
    /// # Errors
    /// `Locked` if another process holds it.
    pub fn take(path: &Path, what: &str) -> Result<Lock> {
        let file = OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(path)
            .context(Kind::Unavailable, || format!("cannot open lock {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let holder = fs::read_to_string(path).unwrap_or_default();
                let holder = holder.trim();
                let holder = if holder.is_empty() { "another process" } else { holder };
                return Err(Error::locked(format!(
                    "{what} is already running on this history ({holder} holds {}); wait for it, or stop it",
                    path.display()
                )));
            }
            Err(fs::TryLockError::Error(error)) => {
                return Err(error).context(Kind::Unavailable, || format!("cannot lock {}", path.display()));
            }
        }
        let mut writer = &file;
        let _ = file.set_len(0);
        let _ = writer.write_all(format!("process {}\n", std::process::id()).as_bytes());
        Ok(Lock { _file: file })
    }

    /// Takes a lock that others share as long as they are at work.
    ///
    /// # Errors
    /// `Locked` if another process shares it or has it alone.
    pub fn take_alone(path: &Path, busy: &str) -> Result<Lock> {
        Lock::take(path, "it").map_err(|error| match error.kind() {
            Kind::Locked => Error::locked(busy),
            _ => error,
        })
    }

    /// Shares the lock with others that share it; waits for somebody who has it alone. None where there can
    /// be no lock, as on a disk that is only read: reading never fails for its sake.
    ///
    /// # Errors
    /// `Locked` if it is still held alone after so long.
    pub fn share(path: &Path, patience: Duration) -> Result<Option<Lock>> {
        let create = || OpenOptions::new().create(true).append(true).open(path);
        let Ok(file) = File::open(path).or_else(|_| create()) else { return Ok(None) };
        let until = Instant::now() + patience;
        loop {
            match file.try_lock_shared() {
                Ok(()) => return Ok(Some(Lock { _file: file })),
                Err(fs::TryLockError::Error(_)) => return Ok(None),
                Err(fs::TryLockError::WouldBlock) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(fs::TryLockError::WouldBlock) => {
                    let holder = fs::read_to_string(path).unwrap_or_default();
                    return Err(Error::locked(format!(
                        "`backwhen expire` is at work on this history ({} holds {}); try again when it has ended",
                        holder.trim(),
                        path.display()
                    )));
                }
            }
        }
    }

    /// Whether some process holds the lock now.
    pub fn is_held(path: &Path) -> bool {
        match File::open(path) {
            Ok(file) => matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock)),
            Err(_) => false,
        }
    }
}
