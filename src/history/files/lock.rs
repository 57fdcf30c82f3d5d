//! Locks that end with the process.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

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

    /// Whether some process holds the lock now.
    pub fn is_held(path: &Path) -> bool {
        match File::open(path) {
            Ok(file) => matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock)),
            Err(_) => false,
        }
    }
}
