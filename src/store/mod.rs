//! Where the objects of a history lie, and the one way to them.
//!
//! An object is written once, whole, and never again; its name says of which kind it is. [`Store`] is what any place
//! for objects must be able to do, and [`Folder`] is the place that every history has today. The catalog, the live
//! state and the open segment are no objects. Every method blocks, so async code calls a store from a thread that may
//! wait.

#[cfg(test)]
mod conformance;
mod disperse;
mod drafts;
pub mod files;
#[cfg(test)]
mod fixtures;
mod folder;
pub mod layout;
mod local;
#[cfg(test)]
mod memory;
mod name;
mod remote;
pub mod sealed;
mod spool;
mod veil;

use std::any::Any;
use std::fmt::Debug;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::ambient;
use crate::error::{Context, Error, Kind, Result};
pub use disperse::{Dispersed, StoreAddress, StoreState, Survey, split_addresses};
pub use files::NewFile;
pub use folder::Folder;
pub use local::{LocalFolder, VolatileFile};
#[cfg(test)]
pub use memory::{MemoryStore, StoreFault};
pub use name::{ObjectKind, ObjectName};
pub use remote::BlockCache;
pub use spool::{FetchedSegments, Growing, Spool};
pub use veil::{VeilWriter, VeiledFile};

/// An object is copied in pieces of this many bytes.
const PIECE: u64 = 1 << 20;

/// A place that holds the objects of one history.
pub trait Store: Debug + Send + Sync {
    /// Lists the objects of a kind, in no particular order. Unfinished objects are not listed.
    ///
    /// # Errors
    /// `Unavailable` if the place cannot be listed.
    fn list(&self, kind: ObjectKind) -> Result<Vec<ObjectName>>;

    /// Tells how many bytes an object has; `None` if there is no such object.
    ///
    /// # Errors
    /// `Unavailable` if the place does not answer.
    fn size(&self, name: &ObjectName) -> Result<Option<u64>>;

    /// Tells how long ago an object was put or renewed, by this machine's clock; `None` if there is no such object, or if
    /// its age cannot be told.
    fn age(&self, name: &ObjectName) -> Option<Duration>;

    /// Makes an object as young, and as durable, as one that is put now; its bytes stay as they are.
    ///
    /// # Errors
    /// `Unavailable` if there is no such object, or if the place refuses.
    fn renew(&self, name: &ObjectName) -> Result<()>;

    /// Opens an object, so that ranges of it can be read; `None` if there is no such object.
    ///
    /// # Errors
    /// `Unavailable` if the place does not answer.
    fn open(&self, name: &ObjectName) -> Result<Option<Box<dyn Object>>>;

    /// Tells the store that objects are about to be opened or read one after the other, of which the beginning and the end
    /// are wanted. A store that is far away fetches these at once; what cannot be fetched is asked for again later.
    fn expect(&self, _names: &[ObjectName]) {}

    /// Tells the store that all of an object is about to be read more than once. A store that is far away keeps its bytes in
    /// memory until [`Store::release`].
    ///
    /// # Errors
    /// `Unavailable` if the place does not answer.
    fn hold(&self, _name: &ObjectName) -> Result<()> {
        Ok(())
    }

    /// Gives back the memory of an object that was held.
    fn release(&self, _name: &ObjectName) {}

    /// Reads a whole object; `None` if there is no such object.
    ///
    /// # Errors
    /// `Unavailable` if the place does not answer.
    fn read(&self, name: &ObjectName) -> Result<Option<Vec<u8>>>;

    /// Stores a new object and returns once it is durable. An object of that name is never replaced, and a put that
    /// fails or is cut short leaves nothing that is listed.
    ///
    /// # Errors
    /// `Internal` if the name is taken, `Unavailable` if the place does not take the object.
    fn put_new(&self, name: &ObjectName, bytes: &[u8]) -> Result<()>;

    /// Begins a new object of a kind as a local file that grows until [`Store::put_file`] is called. The file goes with
    /// the value.
    ///
    /// # Errors
    /// `Unavailable` if no file can be made.
    fn draft(&self, kind: ObjectKind) -> Result<NewFile>;

    /// Stores a complete local file, which [`Store::draft`] of this store has made, as a new object, as
    /// [`Store::put_new`] does.
    ///
    /// # Errors
    /// `Internal` if the name is taken, `Unavailable` if the place does not take the object.
    fn put_file(&self, name: &ObjectName, file: NewFile) -> Result<()>;

    /// Removes what killed processes left of unfinished objects of a kind. Only a process with a role under which such
    /// objects are put may call this. A leftover that cannot be removed does no harm.
    fn remove_unfinished(&self, kind: ObjectKind);

    /// Removes objects, durable once this returns. Objects that are already gone are no error. A removal that is cut
    /// short may leave any of them.
    ///
    /// # Errors
    /// `Unavailable` if the place refuses.
    fn remove(&self, names: &[ObjectName]) -> Result<()>;

    /// Takes a damaged object out of the way: its name is free, and its bytes are kept where no command looks for
    /// objects. Returns the place where they lie now; `None` if there is no such object.
    ///
    /// # Errors
    /// `Unavailable` if the place refuses.
    fn set_aside(&self, name: &ObjectName) -> Result<Option<String>>;

    /// Takes a role for the caller alone. `command` is the command that another process is told to wait for.
    ///
    /// # Errors
    /// `Locked` if another process has the role, alone or shared.
    fn lease(&self, role: Role, command: &str) -> Result<Lease>;

    /// Takes a role as [`Store::lease`] does, for a process that has it for long. `owner` names a place that only one process
    /// works for at a time: an earlier process of the same owner is known to be dead, and is not waited for.
    ///
    /// # Errors
    /// `Locked` if a process of another owner has the role.
    fn lease_as(&self, role: Role, command: &str, _owner: &str) -> Result<Lease> {
        self.lease(role, command)
    }

    /// Lets others read how it goes with a role that this process has: `note` is put with the next sign of life.
    fn note(&self, _role: Role, _note: &str) {}

    /// Whether notes are kept there at all. Where they are not, nobody can tell from there how a process goes.
    fn keeps_notes(&self) -> bool {
        false
    }

    /// Reads what the process that has a role has put there of itself; `None` if no process has the role.
    ///
    /// # Errors
    /// `Unavailable` if the place does not answer.
    fn read_note(&self, _role: Role) -> Result<Option<HolderNote>> {
        Ok(None)
    }

    /// Forgets what was listed of a kind, because another process may have removed objects since.
    fn look_again(&self, _kind: ObjectKind) {}

    /// Shares a role with others that share it, and waits as long as `patience` for a process that has the role alone.
    /// `None` where there can be no lease, as on a disk that can only be read: reading never fails for want of one.
    ///
    /// # Errors
    /// `Locked` if another process still has the role alone after that time.
    fn share(&self, role: Role, patience: Duration) -> Result<Option<Lease>>;

    /// Whether another lease of this role is in force.
    fn is_leased(&self, role: Role) -> bool;

    /// Lends an object as a local file, for programs that read nothing else; `None` if there is no such object.
    ///
    /// # Errors
    /// `Unavailable` if the place does not answer, or a local copy cannot be made.
    fn lend(&self, name: &ObjectName) -> Result<Option<LentFile>>;

    /// Says where an object lies, for messages.
    fn locate(&self, name: &ObjectName) -> String;

    /// Whether there is such an object.
    ///
    /// # Errors
    /// `Unavailable` if the place does not answer.
    fn holds(&self, name: &ObjectName) -> Result<bool> {
        Ok(self.size(name)?.is_some())
    }

    /// Whether an object may have `len` bytes, as far as that is known without a request; false if there is no such object.
    ///
    /// # Errors
    /// `Unavailable` if the place does not answer.
    fn may_have_size(&self, name: &ObjectName, len: u64) -> Result<bool> {
        Ok(self.size(name)? == Some(len))
    }

    /// The stores that the objects are dispersed over, if there are several.
    fn dispersal(&self) -> Option<&Dispersed> {
        None
    }
}

impl dyn Store + '_ {
    /// Lists the objects of a kind, sorted by name.
    ///
    /// # Errors
    /// `Unavailable` if the place cannot be listed.
    pub fn list_sorted(&self, kind: ObjectKind) -> Result<Vec<ObjectName>> {
        let mut names = self.list(kind)?;
        names.sort();
        Ok(names)
    }

    /// Stores a new object with the bytes of one that is open in any store, as [`Store::put_new`] does. Returns how many
    /// bytes there are.
    ///
    /// # Errors
    /// `Internal` if the name is taken, `Unavailable` if `object` cannot be read or the place does not take it.
    pub fn copy_new(&self, name: &ObjectName, object: &dyn Object) -> Result<u64> {
        let mut file = self.draft(name.kind())?;
        let copied = write_pieces(&mut file, object, object.size());
        if let Err(error) = copied {
            let kind = kind_of_failure(&error);
            return Err(error).context(kind, || format!("cannot copy an object to {}", self.locate(name)));
        }
        self.put_file(name, file)?;
        Ok(object.size())
    }

    /// Stores a local file under a name that is made of its content: an object of that name, which has the same bytes,
    /// is made as young and as durable as a new one instead.
    ///
    /// # Errors
    /// `Unavailable` if the place does not take the object.
    pub fn put_content(&self, name: &ObjectName, file: NewFile) -> Result<()> {
        if !self.holds(name)? {
            match self.put_file(name, file) {
                // Another process has just put the same object.
                Err(error) if error.kind() == Kind::Internal && self.holds(name)? => {}
                put => return put,
            }
        }
        self.renew(name)
    }

    /// Stores a new object under `stem` or, where that name is taken, under `stem-2`, `stem-3` and so on. `put` is
    /// called with each name in turn. Returns the name that was free.
    ///
    /// # Errors
    /// Fails if `put` fails for another reason than a taken name.
    pub fn put_numbered(
        &self,
        kind: ObjectKind,
        stem: &str,
        put: impl Fn(&ObjectName) -> Result<()>,
    ) -> Result<ObjectName> {
        let mut name = ObjectName::new(kind, stem);
        for number in 2.. {
            match put(&name) {
                Err(error) if error.kind() == Kind::Internal && self.holds(&name)? => {
                    name = ObjectName::new(kind, format!("{stem}-{number}"));
                }
                done => return done.map(|()| name),
            }
        }
        unreachable!("an object is found free before the numbers end")
    }
}

/// An object that is open for reading.
pub trait Object: Debug + Send + Sync {
    /// How many bytes the object has.
    fn size(&self) -> u64;

    /// Fills `bytes` from the object, beginning at `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the object ends before; otherwise an error of the place.
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
}

/// Tells whether an object is damaged of which a range cannot be read, or its store does not do its part. Only a store that
/// checks what it reads finds bytes that are not those that were put.
pub fn kind_of_failure(error: &io::Error) -> Kind {
    if error.kind() == io::ErrorKind::InvalidData { Kind::Damaged } else { Kind::Unavailable }
}

/// The error for an object of which a range cannot be read.
pub fn cannot_read(object: &str, error: io::Error) -> Error {
    Error::new(kind_of_failure(&error), format!("cannot read {object}")).caused_by(error)
}

/// Bytes in memory are read as an object is.
impl<T: AsRef<[u8]> + Debug + Send + Sync> Object for T {
    fn size(&self) -> u64 {
        self.as_ref().len() as u64
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        self.as_ref().get(offset..).unwrap_or_default().read_exact(bytes)
    }
}

/// Copies the first `len` bytes of an object without holding all of them in memory.
fn write_pieces(file: &mut dyn Write, object: &dyn Object, len: u64) -> io::Result<()> {
    let mut piece = vec![0; PIECE.min(len) as usize];
    let mut offset = 0;
    while offset < len {
        piece.truncate((len - offset).min(PIECE) as usize);
        object.read_exact_at(&mut piece, offset)?;
        file.write_all(&piece)?;
        offset += piece.len() as u64;
    }
    Ok(())
}

/// A kind of work that only one process may do in a history at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Write the journal. `copy` and `repair` take this role in the history that they write to.
    Capture,
    /// Make a checkpoint, or expire.
    Checkpoint,
    /// Use objects (shared), or remove objects (alone).
    Objects,
    /// Set damaged shards aside in one of the stores of a dispersed history.
    Repair,
}

/// A note that a process that has a role has put into the store about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HolderNote {
    /// The owner that the process has named.
    pub owner: Option<String>,
    pub note: Option<String>,
    /// How long ago it was put, by the clocks of this machine and of the store.
    pub age: Duration,
}

/// A role that is taken until the value is dropped or the process ends.
pub struct Lease {
    _hold: Box<dyn Any + Send + Sync>,
    /// Tells whether the role is known to be held, for a lease that can be lost.
    check: Option<Box<dyn Fn() -> bool + Send + Sync>>,
}

impl Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lease")
    }
}

impl Lease {
    /// Makes a lease that is in force as long as `hold` lives.
    pub(in crate::store) fn new(hold: impl Any + Send + Sync) -> Lease {
        Lease { _hold: Box::new(hold), check: None }
    }

    /// Makes a lease that may be lost; `check` tells whether it is known to be in force.
    pub(in crate::store) fn that_may_be_lost(
        hold: impl Any + Send + Sync,
        check: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Lease {
        Lease { _hold: Box::new(hold), check: Some(Box::new(check)) }
    }

    /// Whether the lease is known to be in force without a break since it was given.
    pub(in crate::store) fn is_sound(&self) -> bool {
        self.check.as_ref().is_none_or(|check| check())
    }
}

/// A local file with the bytes of an object. A file that was made only for this goes with the value.
#[derive(Debug)]
pub struct LentFile {
    path: PathBuf,
    _copy: Option<TempDir>,
}

impl LentFile {
    /// Makes a lent file of one that lies in a folder of its own; the folder goes with the value.
    pub fn in_scratch(path: PathBuf, folder: TempDir) -> LentFile {
        LentFile { path, _copy: Some(folder) }
    }

    /// Writes the bytes of an object into a folder of its own.
    ///
    /// # Errors
    /// `Unavailable` if the file cannot be written.
    pub(in crate::store) fn copied(name: &ObjectName, bytes: &[u8]) -> Result<LentFile> {
        let folder = ambient::temporary_folder()?;
        let path = folder.path().join(name.file_name());
        let written = std::fs::write(&path, bytes);
        written.context(Kind::Unavailable, || format!("cannot write {}", path.display()))?;
        Ok(LentFile::in_scratch(path, folder))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}
