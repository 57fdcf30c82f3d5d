#![doc = include_str!("FORMAT.md")]

mod age;
mod envelope;
mod frames;
mod growing;
mod identity;
mod keys;
mod names;
mod secrecy;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

pub use self::age::{AgeIdentity, Recipient};
pub use self::envelope::{ENCRYPTED_FORMAT, is_envelope};
pub(super) use self::frames::DataCipher;
use self::frames::{SealFault, SealedObject, Shape};
pub(super) use self::growing::{GrowingCipher, GrowingEnd};
pub use self::identity::{Identities, IdentitySource};
pub use self::keys::{OpenedKey, StoreKey, add, find, is_encrypted, recipients, remove};
use self::names::NameCipher;
pub use self::secrecy::{
    NewCopy, Secrecy, check_is_own, needs_identity, wants_identity, wants_identity_for_history,
};
use super::drafts::Drafts;
use super::folder::{Folder, OpenFile};
use super::{Dispersed, HolderNote, Lease, LentFile, NewFile, Object, ObjectKind, ObjectName, Role, Store};
use crate::error::{Context, Error, Kind, Result};

/// A store of encrypted objects in another store.
///
/// An object is read only if a holder of the key has put it under that name; otherwise reading fails. The store beneath
/// keeps encrypted bytes in its cache.
pub struct Sealed {
    inner: Arc<dyn Store>,
    data: DataCipher,
    names: NameCipher,
    drafts: Drafts,
}

impl Sealed {
    /// Makes the store; nothing is asked. `scratch` is a local folder for objects that are being made.
    pub fn new(inner: Arc<dyn Store>, key: &StoreKey, scratch: PathBuf) -> Sealed {
        Sealed { inner, data: key.data(), names: key.names(), drafts: Drafts::veiled(scratch) }
    }

    /// The name in the store beneath.
    fn sealed(&self, name: &ObjectName) -> Result<ObjectName> {
        name.check()?;
        Ok(self.names.seal(name))
    }

    fn sealed_all(&self, names: &[ObjectName]) -> Result<Vec<ObjectName>> {
        names.iter().map(|name| self.sealed(name)).collect()
    }

    fn open_bytes(&self, name: &ObjectName, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let sealed = match name.kind().only_stem() {
            Some(_) => envelope::open(&bytes).ok_or(SealFault::NoTrailer),
            None => Ok(bytes),
        };
        let opened = sealed.and_then(|sealed| frames::open(&self.data, &name.to_string(), &sealed));
        opened.map_err(|fault| fault.at(&self.locate(name)))
    }

    fn seal_bytes(&self, name: &ObjectName, bytes: &[u8]) -> Result<Vec<u8>> {
        let sealed = frames::seal(&self.data, &name.to_string(), bytes)?;
        Ok(if name.kind().only_stem().is_some() { envelope::close(&sealed) } else { sealed })
    }
}

/// The subject of a note, which its cipher vouches for.
fn note_of(role: Role) -> &'static str {
    match role {
        Role::Capture => "note of capture",
        Role::Checkpoint => "note of checkpoint",
        Role::Objects => "note of objects",
        Role::Repair => "note of repair",
    }
}

impl Store for Sealed {
    fn list(&self, kind: ObjectKind) -> Result<Vec<ObjectName>> {
        // The wrapped keys belong to the store beneath.
        if kind == ObjectKind::StoreKey {
            return Ok(Vec::new());
        }
        let open = |sealed: ObjectName| {
            self.names.open(&sealed).ok_or_else(|| {
                Error::damaged(format!(
                    "{} is no object of this encrypted place: it was put there by somebody without its key; find out by whom, \
                     and remove it",
                    self.inner.locate(&sealed)
                ))
            })
        };
        self.inner.list(kind)?.into_iter().map(open).collect()
    }

    fn size(&self, name: &ObjectName) -> Result<Option<u64>> {
        let size = self.inner.size(&self.sealed(name)?)?;
        let is_envelope = name.kind().only_stem().is_some();
        let sealed = size.map(|size| if is_envelope { envelope::sealed_size(size) } else { size });
        Ok(sealed.map(Shape::len_of_sealed))
    }

    fn age(&self, name: &ObjectName) -> Option<Duration> {
        self.inner.age(&self.sealed(name).ok()?)
    }

    fn renew(&self, name: &ObjectName) -> Result<()> {
        self.inner.renew(&self.sealed(name)?)
    }

    fn open(&self, name: &ObjectName) -> Result<Option<Box<dyn Object>>> {
        if name.kind().only_stem().is_some() {
            return Ok(self.read(name)?.map(|bytes| Box::new(bytes) as Box<dyn Object>));
        }
        let Some(object) = self.inner.open(&self.sealed(name)?)? else { return Ok(None) };
        let opened = SealedObject::new(object, self.data.clone(), name.to_string(), self.locate(name))?;
        Ok(Some(Box::new(opened)))
    }

    fn expect(&self, names: &[ObjectName]) {
        if let Ok(sealed) = self.sealed_all(names) {
            self.inner.expect(&sealed);
        }
    }

    fn hold(&self, name: &ObjectName) -> Result<()> {
        self.inner.hold(&self.sealed(name)?)
    }

    fn release(&self, name: &ObjectName) {
        self.inner.release(&self.names.seal(name));
    }

    fn read(&self, name: &ObjectName) -> Result<Option<Vec<u8>>> {
        let read = self.inner.read(&self.sealed(name)?)?;
        read.map(|bytes| self.open_bytes(name, bytes)).transpose()
    }

    fn put_new(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        self.inner.put_new(&self.sealed(name)?, &self.seal_bytes(name, bytes)?)
    }

    fn draft(&self, kind: ObjectKind) -> Result<NewFile> {
        self.drafts.begin(kind)
    }

    fn put_file(&self, name: &ObjectName, file: NewFile) -> Result<()> {
        if name.kind().only_stem().is_some() {
            return self.put_new(name, &file.read()?);
        }
        let to = self.sealed(name)?;
        let failed = || format!("cannot encrypt {} for {}", file.path().display(), self.locate(name));
        let plain: Box<dyn Object> = match file.veiled() {
            Some(veiled) => Box::new(veiled),
            None => Box::new(OpenFile::open(file.path()).context(Kind::Unavailable, failed)?),
        };
        let mut sealed = self.inner.draft(name.kind())?;
        let written = frames::seal_into(&self.data, &name.to_string(), &*plain, &mut sealed)?;
        written.context(Kind::Unavailable, failed)?;
        self.inner.put_file(&to, sealed)
    }

    fn remove_unfinished(&self, kind: ObjectKind) {
        self.drafts.remove_unfinished(kind);
        self.inner.remove_unfinished(kind);
    }

    fn remove(&self, names: &[ObjectName]) -> Result<()> {
        self.inner.remove(&self.sealed_all(names)?)
    }

    fn set_aside(&self, name: &ObjectName) -> Result<Option<String>> {
        let aside = self.inner.set_aside(&self.sealed(name)?)?;
        Ok(aside.map(|place| format!("{place}, which was {name}")))
    }

    fn lease(&self, role: Role, command: &str) -> Result<Lease> {
        self.inner.lease(role, command)
    }

    fn lease_as(&self, role: Role, command: &str, owner: &str) -> Result<Lease> {
        self.inner.lease_as(role, command, owner)
    }

    fn note(&self, role: Role, note: &str) {
        // A note that cannot be encrypted is not put: others find none.
        if let Ok(sealed) = self.data.seal_text(note_of(role), note.as_bytes()) {
            self.inner.note(role, &STANDARD_NO_PAD.encode(sealed));
        }
    }

    fn keeps_notes(&self) -> bool {
        self.inner.keeps_notes()
    }

    fn read_note(&self, role: Role) -> Result<Option<HolderNote>> {
        let open = |note: String| {
            let sealed = STANDARD_NO_PAD.decode(note).ok()?;
            String::from_utf8(self.data.open_text(note_of(role), &sealed)?).ok()
        };
        let held = self.inner.read_note(role)?;
        Ok(held.map(|held| HolderNote { note: held.note.and_then(open), ..held }))
    }

    fn look_again(&self, kind: ObjectKind) {
        self.inner.look_again(kind);
    }

    fn share(&self, role: Role, patience: Duration) -> Result<Option<Lease>> {
        self.inner.share(role, patience)
    }

    fn is_leased(&self, role: Role) -> bool {
        self.inner.is_leased(role)
    }

    fn lend(&self, name: &ObjectName) -> Result<Option<LentFile>> {
        self.read(name)?.map(|bytes| LentFile::copied(name, &bytes)).transpose()
    }

    fn dispersal(&self) -> Option<&Dispersed> {
        self.inner.dispersal()
    }

    fn locate(&self, name: &ObjectName) -> String {
        let place = self.inner.locate(&self.names.seal(name));
        if name.kind().only_stem().is_some() { place } else { format!("{place}, which is {name}") }
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({:?})", self.inner)
    }
}

/// Makes a store in an empty folder of which only this process can read the objects: the key is nowhere but in memory.
///
/// # Errors
/// `Internal` without randomness.
pub fn unreadable_elsewhere(folder: &Path) -> Result<Arc<dyn Store>> {
    Ok(Arc::new(Sealed::new(Arc::new(Folder::new(folder)), &StoreKey::random()?, folder.to_owned())))
}

/// A sealed store for the tests that every store passes.
#[cfg(test)]
pub(super) fn for_tests(inner: Arc<dyn Store>, scratch: &std::path::Path) -> Sealed {
    Sealed::new(inner, &StoreKey::of_byte(1), scratch.to_owned())
}

#[cfg(test)]
mod tests;
