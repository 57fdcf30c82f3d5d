//! The door to the disk for every file that must survive a crash.
//!
//! A new file is written under a temporary name that no other process has, it is synced and given its own name, and its
//! folder is synced: the file is there whole or not at all. No file is ever overwritten, every file is readable for its
//! owner alone, and no symbolic link is followed in the place of a file that is written.

mod lock;
mod naming;
pub(super) mod power;
mod private;

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::veil::{VeilWriter, VeiledFile};
use crate::ambient::{pass, point};
use crate::error::{Context, Error, Kind, Result};
pub use lock::Lock;
pub use naming::{is_own_temporary, move_new, temporary_beside};
use private::create_folder_alone;
pub use private::{create_private, is_link, is_open_to_others, read_unfollowed, real_place, unfollowed};

/// The ending of files that are still being written. A process that holds the lock under which they are written may
/// delete the files of other processes.
pub const TEMPORARY: &str = "tmp";

/// A new file may be taken for one that was left, so often in a row at most.
const CREATION_TRIES: u32 = 100;

/// A file that has a temporary name until [`NewFile::publish`] gives it its own. A file that is dropped before is removed.
pub struct NewFile {
    file: Option<File>,
    temporary: PathBuf,
    target: PathBuf,
    /// Encrypts what is written, if the file is a draft that nobody else may read.
    veil: Option<VeilWriter>,
}

impl NewFile {
    /// Makes a file that is to be published as `path`.
    ///
    /// # Errors
    /// `Unavailable` if the folder does not take a file.
    pub fn create(path: &Path) -> Result<NewFile> {
        let (file, temporary) = create_locked(path)?;
        pass("file.create")?;
        power::writing(&temporary, 0);
        Ok(NewFile { file: Some(file), temporary, target: path.to_owned(), veil: None })
    }

    /// Makes a file of which only this process can read what is written to it, and which is never published.
    ///
    /// # Errors
    /// `Unavailable` if the folder does not take a file, or without randomness.
    pub(super) fn create_veiled(path: &Path) -> Result<NewFile> {
        let mut new = NewFile::create(path)?;
        let failed = || format!("cannot encrypt {}", new.temporary.display());
        let opened = unfollowed().read(true).write(true).open(&new.temporary);
        let veil = opened.and_then(VeilWriter::new).context(Kind::Unavailable, failed)?;
        new.veil = Some(veil);
        Ok(new)
    }

    /// Makes a file in memory that other programs of the same user can write to by its path, and which is never published.
    /// Where the system cannot do that, the file lies on the disk as [`NewFile::create`] makes it.
    ///
    /// # Errors
    /// `Unavailable` if the folder does not take a file.
    pub(super) fn create_in_memory(path: &Path) -> Result<NewFile> {
        let Some((file, temporary)) = in_memory() else { return NewFile::create(path) };
        Ok(NewFile { file: Some(file), temporary, target: PathBuf::new(), veil: None })
    }

    /// Returns what was written to a file that only this process can read; `None` for other files.
    pub(super) fn veiled(&self) -> Option<VeiledFile> {
        self.veil.as_ref().map(VeilWriter::veiled)
    }

    /// The temporary path of the file, until the file gets its own name. Another program may write to it there.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Returns how many bytes were written.
    ///
    /// # Errors
    /// `Unavailable` if the file cannot be looked at.
    pub fn size(&self) -> Result<u64> {
        if let Some(veil) = &self.veil {
            return Ok(veil.size());
        }
        let metadata = fs::metadata(&self.temporary);
        Ok(metadata.context(Kind::Unavailable, || format!("cannot read {}", self.temporary.display()))?.len())
    }

    /// Reads all that was written.
    ///
    /// # Errors
    /// `Unavailable` if the file cannot be read.
    pub fn read(&self) -> Result<Vec<u8>> {
        let read = match self.veiled() {
            Some(veiled) => {
                let mut bytes = Vec::new();
                veiled.into_reader().read_to_end(&mut bytes).map(|_| bytes)
            }
            None => fs::read(&self.temporary),
        };
        read.context(Kind::Unavailable, || format!("cannot read {}", self.temporary.display()))
    }

    /// Makes the file durable and gives it its name.
    ///
    /// # Errors
    /// `Unavailable` if the disk does not take it, `Internal` if the name is taken.
    pub fn publish(self) -> Result<()> {
        let target = self.target.clone();
        self.publish_as(&target)
    }

    /// Publishes the file under a name in the same folder that is known only now.
    ///
    /// # Errors
    /// Fails as [`NewFile::publish`] does.
    pub fn publish_as(mut self, path: &Path) -> Result<()> {
        if self.veil.is_some() || self.target.as_os_str().is_empty() {
            return Err(Error::internal(format!("{} is a draft, and no object", self.temporary.display())));
        }
        let file = self.file.take().expect("published once");
        let synced = point("file.sync").and_then(|()| file.sync_all());
        synced.context(Kind::Unavailable, || format!("cannot sync {}", path.display()))?;
        power::synced(&self.temporary);
        drop(file);
        pass("file.link")?;
        power::linking(&self.temporary, path);
        let named = move_new(&self.temporary, path);
        if named.is_err() {
            let _ = fs::remove_file(&self.temporary);
        }
        named?;
        pass("file.linked")?;
        sync_parent(path)
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        point("file.write")?;
        match &mut self.veil {
            Some(veil) => veil.write(bytes),
            None => self.file.as_mut().expect("not yet published").write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.as_mut().expect("not yet published").flush()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        let is_on_disk = !self.target.as_os_str().is_empty();
        if self.file.take().is_some() && is_on_disk {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// A file without a name on any disk, and the path by which the programs that this process starts reach it.
fn in_memory() -> Option<(File, PathBuf)> {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;

        let file = rustix::fs::memfd_create("backwhen", rustix::fs::MemfdFlags::CLOEXEC).ok()?;
        let file = File::from(file);
        let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()));
        // Without /proc there is no path.
        path.exists().then_some((file, path))
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// Makes a folder's entries durable.
///
/// # Errors
/// `Unavailable` if the folder cannot be opened or synced.
pub fn sync_folder(folder: &Path) -> Result<()> {
    point("folder.sync")
        .and_then(|()| File::open(folder))
        .and_then(|file| file.sync_all())
        .context(Kind::Unavailable, || format!("cannot sync folder {}", folder.display()))?;
    power::folder_synced(folder);
    Ok(())
}

/// Syncs the folder that holds `path`.
///
/// # Errors
/// Fails as [`sync_folder`] does.
pub fn sync_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => sync_folder(folder),
        _ => sync_folder(Path::new(".")),
    }
}

/// Makes a folder and its missing parents, for their owner alone. Once this returns, no power cut takes any of them away:
/// each is made durable in its parent before the next one is made in it.
///
/// # Errors
/// `Unavailable` if the folder cannot be made.
pub fn create_folder(folder: &Path) -> Result<()> {
    let mut missing: Vec<&Path> = folder.ancestors().take_while(|folder| !is_folder(folder)).collect();
    if missing.is_empty() {
        // A process that was killed may have made the folder and not synced its parent.
        return sync_parent(folder);
    }
    missing.reverse();
    for folder in missing {
        power::making(folder);
        create_folder_alone(folder)
            .context(Kind::Unavailable, || format!("cannot create folder {}", folder.display()))?;
        sync_parent(folder)?;
    }
    Ok(())
}

/// Reads a file that a person named.
///
/// # Errors
/// `Usage` if the file cannot be read as text.
pub fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).context(Kind::Usage, || format!("cannot read {}", path.display()))
}

/// Whether the folder is there. The empty path is the current folder.
fn is_folder(folder: &Path) -> bool {
    folder.as_os_str().is_empty() || folder.is_dir()
}

/// Whether there is a file at `path`.
pub fn is_there(path: &Path) -> bool {
    path.exists()
}

/// Deletes a file on which nothing depends, such as a derived or an unfinished one. A failure does no harm.
pub fn discard(path: &Path) {
    let _ = fs::remove_file(path);
}

/// Deletes a file, which is gone for good once this returns. A file that is already gone is no error.
///
/// # Errors
/// `Unavailable` if the disk refuses.
pub fn remove(path: &Path) -> Result<()> {
    power::removing(path);
    match point("file.remove").and_then(|()| fs::remove_file(path)) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).context(Kind::Unavailable, || format!("cannot remove {}", path.display())),
    }
}

/// Sets the time of a file to now, and leaves its bytes as they are.
///
/// # Errors
/// `Unavailable` if the disk refuses.
pub fn touch(path: &Path) -> Result<()> {
    let now = std::time::SystemTime::from(crate::ambient::now());
    let touched = unfollowed().write(true).open(path).and_then(|file| file.set_modified(now));
    touched.context(Kind::Unavailable, || format!("cannot date {}", path.display()))
}

/// Deletes files that lie in `folder`, which are gone for good once this returns. Files that are already gone are no error.
/// If the process is killed meanwhile, any of the files may be left.
///
/// # Errors
/// `Unavailable` if the disk refuses.
pub fn remove_all(folder: &Path, paths: &[PathBuf]) -> Result<()> {
    for path in paths {
        power::removing(path);
        match point("file.remove").and_then(|()| fs::remove_file(path)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).context(Kind::Unavailable, || format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    if paths.is_empty() { Ok(()) } else { sync_folder(folder) }
}

/// Moves a file into `folder` under its own name or, if that is taken, under a numbered one; the move is durable once this
/// returns. Returns where the file lies now; `None` if there is no such file.
///
/// # Errors
/// `Unavailable` if the disk refuses.
pub(super) fn set_aside(path: &Path, folder: &Path) -> Result<Option<String>> {
    if !path.exists() {
        return Ok(None);
    }
    create_folder(folder)?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("object");
    let numbered = (2..).map(|number| format!("{name}.{number}"));
    let free = std::iter::once(name.to_owned()).chain(numbered).find(|name| !folder.join(name).exists());
    let target = folder.join(free.unwrap_or_default());
    pass("file.set-aside")?;
    move_new(path, &target)?;
    pass("file.set-aside-done")?;
    sync_folder(folder)?;
    sync_parent(path)?;
    Ok(Some(target.display().to_string()))
}

/// Removes files that killed processes have left under temporary names. Only a process that holds the lock under which they
/// are written may call this. A file that cannot be removed does no harm. Files of this process are still being written,
/// and stay; so does each [`NewFile`] of another process on this machine.
pub fn remove_temporaries(folder: &Path) {
    remove_temporaries_of(folder, "");
}

/// Does as [`remove_temporaries`], for files that were to get a name that begins like this.
pub fn remove_temporaries_of(folder: &Path, begin: &str) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let ending = format!(".{TEMPORARY}");
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_candidate = name.starts_with(begin) && name.ends_with(&ending) && !is_own_temporary(&name);
        if is_candidate {
            remove_unless_written(&entry.path());
        }
    }
}

/// Removes a temporary file, unless a process that lives has a [`NewFile`] there. It holds the file's lock meanwhile, so that
/// whoever is about to lock the file finds that out.
fn remove_unless_written(path: &Path) {
    let file = unfollowed().read(true).open(path);
    let is_written =
        file.as_ref().is_ok_and(|file| matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)));
    if !is_written {
        let _ = fs::remove_file(path);
    }
}

/// Makes a temporary file beside `path`, with a lock that tells it from one that a killed process has left.
///
/// # Errors
/// `Unavailable` if the folder does not take a file.
fn create_locked(path: &Path) -> Result<(File, PathBuf)> {
    let mut tries = 0..CREATION_TRIES;
    loop {
        let temporary = temporary_beside(path)?;
        let failed = || format!("cannot create {}", temporary.display());
        let file = create_private(&temporary).context(Kind::Unavailable, failed)?;
        // Between both calls another process may have taken the file for one that was left, and removes it.
        let is_taken = matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock));
        let links = file.metadata().context(Kind::Unavailable, failed)?.nlink();
        // A file system that counts no links has no last say.
        if !is_taken && links > 0 || tries.next().is_none() {
            return Ok((file, temporary));
        }
    }
}

/// Checks that the disk has room for this many bytes, by writing them to a file that is removed again.
///
/// # Errors
/// `Unavailable` if the disk has no room.
pub fn find_room(folder: &Path, bytes: usize) -> Result<()> {
    let mut trial = NewFile::create(&folder.join("room"))?;
    let written = trial.write_all(&vec![0xA5; bytes]);
    written.context(Kind::Unavailable, || format!("there is no room in {}", folder.display()))
}

/// The length of a volatile file is a multiple of this.
const VOLATILE: usize = 16 << 10;

/// Replaces a small text that is no object (the live state for `status`), whole or not at all, without waiting for the
/// disk. Blanks fill the file up, so that on a full disk, where the text is worth most, the next text fits in the place of
/// this one; a reader may then meet a part of it.
///
/// # Errors
/// `Unavailable` if the disk does not take it.
pub fn replace_volatile(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut text = bytes.to_vec();
    text.resize(bytes.len().next_multiple_of(VOLATILE), b' ');
    rename_over(&temporary_beside(path)?, path, &text)
        .or_else(|_| unfollowed().write(true).open(path)?.write_all(&text))
        .context(Kind::Unavailable, || format!("cannot write {}", path.display()))
}

/// Replaces a file that can be made anew at any time, whole or not at all, without waiting for the disk.
///
/// # Errors
/// `Unavailable` if the disk does not take it; the file is then as it was.
pub fn replace_cache(path: &Path, bytes: &[u8]) -> Result<()> {
    let replaced = rename_over(&temporary_beside(path)?, path, bytes);
    replaced.context(Kind::Unavailable, || format!("cannot write {}", path.display()))
}

/// Writes a file under a temporary name, and gives it that of another one. A file that could not be written whole is removed.
fn rename_over(temporary: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let written = create_private(temporary)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(temporary, path));
    written.inspect_err(|_| drop(fs::remove_file(temporary)))
}

#[cfg(test)]
mod tests;
