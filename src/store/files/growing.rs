//! A file that is appended to: the open segment.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{power, unfollowed};
use crate::ambient::point;
use crate::error::{Context, Kind, Result};

/// An open segment's file, for its one writer. What is written counts only once it is synced.
#[derive(Debug)]
pub struct Growing {
    file: File,
    path: PathBuf,
}

impl Growing {
    /// # Errors
    /// `Unavailable` if it cannot be opened.
    pub fn open(path: &Path) -> Result<Growing> {
        let file = unfollowed().read(true).write(true).open(path);
        let file = file.context(Kind::Unavailable, || format!("cannot open {}", path.display()))?;
        Ok(Growing { file, path: path.to_owned() })
    }

    /// Writes at `offset`, which is the end of all that was written before.
    ///
    /// # Errors
    /// The disk's.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        point("journal.append")?;
        power::writing(&self.path, offset);
        self.file.write_all_at(bytes, offset)
    }

    /// Waits until the bytes are on disk.
    ///
    /// # Errors
    /// The disk's; then nothing is known of what was written since the last sync.
    pub fn sync(&self) -> io::Result<()> {
        point("journal.sync")?;
        self.file.sync_data()?;
        power::synced(&self.path);
        point("journal.synced")
    }

    /// Makes the file `len` bytes long, durable: no crash can bring the old end back behind a new one.
    ///
    /// # Errors
    /// The disk's.
    pub fn cut(&self, len: u64) -> io::Result<()> {
        point("journal.cut")?;
        self.file.set_len(len)?;
        self.file.sync_all()?;
        power::synced(&self.path);
        Ok(())
    }
}
