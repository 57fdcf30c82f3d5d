//! A history's objects in a local folder.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::files::{self, Lock, NewFile};
use super::{Lease, LentFile, Object, ObjectKind, ObjectName, Role, Store, layout};
use crate::ambient;
use crate::error::{Context, Error, Kind, Result};

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
        layout::lock(&self.root, role)
    }
}

/// Whether histories exist that were begun before this kind had a folder.
fn may_lack_folder(kind: ObjectKind) -> bool {
    use ObjectKind::{Evidence, Expiry, Pin, Shard, StoreKey};
    matches!(kind, Pin | Evidence | Expiry | StoreKey | Shard)
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
        let path = self.path(name)?;
        files::touch(&path)?;
        files::sync_parent(&path)
    }

    fn open(&self, name: &ObjectName) -> Result<Option<Box<dyn Object>>> {
        let path = self.path(name)?;
        Ok(if_there(OpenFile::open(&path), &path)?.map(|file| Box::new(file) as Box<dyn Object>))
    }

    fn read(&self, name: &ObjectName) -> Result<Option<Vec<u8>>> {
        let path = self.path(name)?;
        if_there(fs::read(&path), &path)
    }

    fn put_new(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        let path = self.path(name)?;
        let mut file = self.draft(name.kind())?;
        file.write_all(bytes).context(Kind::Unavailable, || format!("cannot write {}", path.display()))?;
        file.publish_as(&path)
    }

    fn draft(&self, kind: ObjectKind) -> Result<NewFile> {
        let folder = self.folder(kind);
        // A folder of intermediate images begins without any folder in it.
        if may_lack_folder(kind) || (kind == ObjectKind::Pack && !folder.is_dir()) {
            files::create_folder(&folder)?;
        }
        let stem = kind.only_stem().unwrap_or("new");
        NewFile::create(&folder.join(ObjectName::new(kind, stem).file_name()))
    }

    fn put_file(&self, name: &ObjectName, file: NewFile) -> Result<()> {
        file.publish_as(&self.path(name)?)
    }

    fn remove_unfinished(&self, kind: ObjectKind) {
        files::remove_temporaries(&self.folder(kind));
    }

    fn remove(&self, names: &[ObjectName]) -> Result<()> {
        for of_one_kind in names.chunk_by(|one, next| one.kind() == next.kind()) {
            let paths = of_one_kind.iter().map(|name| self.path(name)).collect::<Result<Vec<_>>>()?;
            files::remove_all(&self.folder(of_one_kind[0].kind()), &paths)?;
        }
        Ok(())
    }

    fn set_aside(&self, name: &ObjectName) -> Result<Option<String>> {
        files::set_aside(&self.path(name)?, &layout::damaged(&self.root))
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
pub(super) fn if_there<T>(done: io::Result<T>, path: &Path) -> Result<Option<T>> {
    match done {
        Err(error) if [ErrorKind::NotFound, ErrorKind::InvalidFilename].contains(&error.kind()) => Ok(None),
        done => done.map(Some).context(Kind::Unavailable, || format!("cannot read {}", path.display())),
    }
}

/// A file that is open for reading, with the size that it had when it was opened.
#[derive(Clone, Debug)]
pub(super) struct OpenFile {
    file: Arc<File>,
    size: u64,
}

impl OpenFile {
    pub(super) fn open(path: &Path) -> io::Result<OpenFile> {
        OpenFile::of(File::open(path)?)
    }

    pub(super) fn of(file: File) -> io::Result<OpenFile> {
        Ok(OpenFile { size: file.metadata()?.len(), file: Arc::new(file) })
    }
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
        for kind in [ObjectKind::Pack, ObjectKind::Segment] {
            assert_eq!(folder.list(kind).unwrap_err().kind(), Kind::Damaged, "{kind:?}");
        }
        assert_eq!(folder.list(ObjectKind::Evidence).unwrap(), vec![], "older histories have none");
    }
}
