//! A history's objects in a local folder.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::files::{self, Lock, NewFile};
use super::{Lease, LentFile, Object, ObjectKind, ObjectName, Role, Store};
use crate::ambient;
use crate::error::{Context, Error, Kind, Result};

/// An object is copied in pieces of this many bytes.
const PIECE: u64 = 1 << 20;

/// The folder `root`, where each kind of object has a folder of its own.
#[derive(Clone, Debug)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    pub fn new(root: &Path) -> Folder {
        Folder { root: root.to_owned() }
    }

    fn path(&self, name: &ObjectName) -> Result<PathBuf> {
        name.check()?;
        Ok(self.path_unchecked(name))
    }

    fn path_unchecked(&self, name: &ObjectName) -> PathBuf {
        self.folder(name.kind()).join(name.file_name())
    }

    fn folder(&self, kind: ObjectKind) -> PathBuf {
        match kind.place().0 {
            "" => self.root.clone(),
            folder => self.root.join(folder),
        }
    }

    /// Whether a folder that a whole history has is missing: to list nothing would pass for a history that holds nothing.
    fn misses_folder(&self, kind: ObjectKind) -> bool {
        let identity = ObjectName::only(ObjectKind::Identity);
        !may_lack_folder(kind) && self.path_unchecked(&identity).exists()
    }

    fn lock(&self, role: Role) -> PathBuf {
        self.root.join(match role {
            Role::Capture => "locks/capture.lock",
            Role::Checkpoint => "locks/checkpoint.lock",
            Role::Objects => "locks/objects.lock",
        })
    }
}

/// Whether histories exist that were begun before this kind had a folder.
fn may_lack_folder(kind: ObjectKind) -> bool {
    matches!(kind, ObjectKind::Evidence | ObjectKind::Expiry)
}

impl Store for Folder {
    fn list(&self, kind: ObjectKind) -> Result<Vec<ObjectName>> {
        let folder = self.folder(kind);
        let failed = || format!("cannot read folder {}", folder.display());
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound && !self.misses_folder(kind) => {
                return Ok(Vec::new());
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Error::damaged(format!(
                    "{} is missing from the history; bring it back from a copy with: backwhen repair --from COPY",
                    folder.display()
                ))
                    .caused_by(error));
            }
            entries => entries.context(Kind::Unavailable, failed)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let file = entry.context(Kind::Unavailable, failed)?.file_name();
            names.extend(file.to_str().and_then(|file| kind.object_in(file)));
        }
        Ok(names)
    }

    fn size(&self, name: &ObjectName) -> Result<Option<u64>> {
        let path = self.path(name)?;
        let metadata = if_there(fs::metadata(&path), &path)?;
        Ok(metadata.map(|metadata| metadata.len()))
    }

    fn age(&self, name: &ObjectName) -> Option<Duration> {
        let put = fs::metadata(self.path(name).ok()?).and_then(|metadata| metadata.modified()).ok()?;
        SystemTime::from(ambient::now()).duration_since(put).ok()
    }

    fn renew(&self, name: &ObjectName) -> Result<()> {
        files::touch(&self.path(name)?)
    }

    fn open(&self, name: &ObjectName) -> Result<Option<Box<dyn Object>>> {
        let path = self.path(name)?;
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let opened = if_there(opened, &path)?;
        Ok(opened.map(|(size, file)| Box::new(OpenFile { file, size }) as Box<dyn Object>))
    }

    fn read(&self, name: &ObjectName) -> Result<Option<Vec<u8>>> {
        let path = self.path(name)?;
        if_there(fs::read(&path), &path)
    }

    fn put_new(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        if may_lack_folder(name.kind()) {
            files::create_folder(&self.folder(name.kind()))?;
        }
        files::write_new(&self.path(name)?, bytes)
    }

    fn copy_new(&self, name: &ObjectName, object: &dyn Object) -> Result<u64> {
        if may_lack_folder(name.kind()) {
            files::create_folder(&self.folder(name.kind()))?;
        }
        let path = self.path(name)?;
        let mut file = NewFile::create(&path)?;
        let copied = write_pieces(&mut file, object);
        copied.context(Kind::Unavailable, || format!("cannot copy an object to {}", path.display()))?;
        file.publish()?;
        Ok(object.size())
    }

    fn remove(&self, names: &[ObjectName]) -> Result<()> {
        for of_one_kind in names.chunk_by(|one, next| one.kind() == next.kind()) {
            let paths = of_one_kind.iter().map(|name| self.path(name)).collect::<Result<Vec<_>>>()?;
            files::remove_all(&self.folder(of_one_kind[0].kind()), &paths)?;
        }
        Ok(())
    }

    fn lease(&self, role: Role, command: &str) -> Result<Lease> {
        Lock::take(&self.lock(role), command).map(Lease::new)
    }

    fn share(&self, role: Role, patience: Duration) -> Result<Option<Lease>> {
        Ok(Lock::share(&self.lock(role), patience)?.map(Lease::new))
    }

    fn is_leased(&self, role: Role) -> bool {
        Lock::is_held(&self.lock(role))
    }

    fn lend(&self, name: &ObjectName) -> Result<Option<LentFile>> {
        let path = self.path(name)?;
        let there = if_there(fs::metadata(&path), &path)?;
        Ok(there.map(|_| LentFile { path, _copy: None }))
    }

    fn locate(&self, name: &ObjectName) -> String {
        self.path_unchecked(name).display().to_string()
    }
}

/// `None` for an object that is not there; a name that is too long for the disk is not there either.
fn if_there<T>(done: io::Result<T>, path: &Path) -> Result<Option<T>> {
    match done {
        Err(error) if [ErrorKind::NotFound, ErrorKind::InvalidFilename].contains(&error.kind()) => Ok(None),
        done => done.map(Some).context(Kind::Unavailable, || format!("cannot read {}", path.display())),
    }
}

/// Copies an object without holding all of it in memory.
fn write_pieces(file: &mut NewFile, object: &dyn Object) -> io::Result<()> {
    let mut piece = vec![0; PIECE.min(object.size()) as usize];
    let mut offset = 0;
    while offset < object.size() {
        piece.truncate((object.size() - offset).min(PIECE) as usize);
        object.read_exact_at(&mut piece, offset)?;
        file.write_all(&piece)?;
        offset += piece.len() as u64;
    }
    Ok(())
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    size: u64,
}

impl Object for OpenFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > self.size) {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.file.read_exact_at(bytes, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_a_history_must_have_is_missed() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        assert_eq!(folder.list(ObjectKind::Checkpoint).unwrap(), vec![], "no history is there yet");
        folder.put_new(&ObjectName::only(ObjectKind::Identity), b"{}").unwrap();
        let missed = folder.list(ObjectKind::Checkpoint).unwrap_err();
        assert_eq!(missed.kind(), Kind::Damaged, "{missed}");
        assert!(
            missed.to_string().contains("checkpoints is missing")
                && missed.to_string().contains("backwhen repair"),
            "{missed}"
        );
        assert_eq!(folder.list(ObjectKind::Evidence).unwrap(), vec![], "older histories have none");
    }
}
