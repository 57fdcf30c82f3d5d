//! Decides whether a copy is encrypted, and finds the key that opens it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::keys::{self, OpenedKey};
use super::{Identities, IdentitySource, Recipient, Sealed};
use crate::error::{Error, Result};
use crate::store::{ObjectKind, ObjectName, Role, Store, layout};

/// The wish of a person for a copy that is not there yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NewCopy {
    /// A copy in an object store is encrypted if an identity is named, and a copy in a folder is not.
    #[default]
    ByIdentity,
    Encrypted,
    /// The copy is not encrypted; one that is there already is brought up to date although an identity is named.
    Plain,
}

/// How a person wants the objects of one place kept from others. A clone shares the key that was found.
#[derive(Clone, Debug, Default)]
pub struct Secrecy {
    pub identities: Option<IdentitySource>,
    pub new_copy: NewCopy,
    /// The recipients that can open a new copy besides the identity.
    pub recipients: Vec<Recipient>,
    found: Arc<OnceLock<OpenedKey>>,
}

impl Secrecy {
    pub fn new(identities: Option<IdentitySource>, new_copy: NewCopy, recipients: Vec<Recipient>) -> Secrecy {
        Secrecy { identities, new_copy, recipients, found: Arc::default() }
    }

    /// Opens a store to be read. Without an identity it is returned as it is: what is encrypted in it is told when it is
    /// read.
    ///
    /// # Errors
    /// `Refused` if the identity does not open it, or if an identity is named and the history there is not encrypted.
    pub fn open(&self, inner: Arc<dyn Store>, place: &str, scratch: PathBuf) -> Result<Arc<dyn Store>> {
        let Some(source) = &self.identities else { return Ok(inner) };
        if self.found.get().is_none() && !keys::is_encrypted(&*inner)? {
            if self.new_copy != NewCopy::Plain && is_begun(&*inner)? {
                return Err(not_encrypted(place, source));
            }
            return Ok(inner);
        }
        let opened = self.key(|| keys::find(&*inner, &source.read()?, place))?;
        Ok(Arc::new(Sealed::new(inner, &opened.key, scratch)))
    }

    /// Opens a store for a copy that is made or brought up to date. An encrypted copy that is not there yet gets its key now.
    ///
    /// # Errors
    /// `Refused` as by [`Secrecy::open`], and if somebody else has vouched for the key; `Usage` if the copy is to be encrypted
    /// and no identity is named.
    pub fn open_to_copy(
        &self,
        inner: Arc<dyn Store>,
        place: &str,
        scratch: PathBuf,
    ) -> Result<Arc<dyn Store>> {
        let Some(source) = &self.identities else {
            // Whether the copy there is encrypted shows when its history.json is read, without a request of its own.
            return if self.new_copy == NewCopy::Encrypted { Err(wants_identity()) } else { Ok(inner) };
        };
        let is_encrypted = self.found.get().is_some() || keys::is_encrypted(&*inner)?;
        let opened = if is_encrypted {
            self.key(|| keys::find(&*inner, &source.read()?, place))?
        } else if is_begun(&*inner)? {
            return if self.new_copy == NewCopy::Plain {
                Ok(inner)
            } else {
                Err(not_encrypted(place, source))
            };
        } else if self.new_copy == NewCopy::Plain {
            return Ok(inner);
        } else {
            // Two processes must not both make a key.
            let _lease = inner.lease(Role::Capture, "copy")?;
            inner.look_again(ObjectKind::StoreKey);
            self.key(|| make(&*inner, source, place))?
        };
        check_is_own(&opened, place)?;
        for recipient in &self.recipients {
            keys::add(&*inner, &opened, &opened.identity, recipient)?;
        }
        Ok(Arc::new(Sealed::new(inner, &opened.key, scratch)))
    }

    /// Finds the key of an encrypted place.
    ///
    /// # Errors
    /// `Refused` if no identity is named, or none that opens it; otherwise the errors of [`keys::find`].
    pub fn find(&self, inner: &dyn Store, place: &str) -> Result<OpenedKey> {
        let Some(source) = &self.identities else { return Err(needs_identity(inner, place)) };
        self.key(|| keys::find(inner, &source.read()?, place))
    }

    /// Returns the key, if it was found before.
    pub fn found(&self) -> Option<&OpenedKey> {
        self.found.get()
    }

    /// Makes the key of a new history for the own identity and the recipients, or takes over the one that a killed process
    /// has made.
    ///
    /// # Errors
    /// `Usage` if no identity is named; `Refused` if it is not sure who has made the key; otherwise the errors of
    /// [`keys::find`].
    pub fn begin(&self, inner: &dyn Store, place: &str) -> Result<OpenedKey> {
        let source = self.identities.as_ref().ok_or_else(wants_identity_for_history)?;
        let opened = self.key(|| make(inner, source, place))?;
        check_is_own(&opened, place)?;
        for recipient in &self.recipients {
            keys::add(inner, &opened, &opened.identity, recipient)?;
        }
        Ok(opened)
    }

    /// # Errors
    /// `Usage` if the identity file lies in the folder that it is to open.
    pub fn refuse_an_identity_in(&self, root: &Path) -> Result<()> {
        match &self.identities {
            Some(IdentitySource::File(file)) if layout::is_inside(file, root) => Err(Error::usage(format!(
                "the identity file {} would lie inside the history {}, which it opens; name a file elsewhere",
                file.display(),
                root.display()
            ))),
            _ => Ok(()),
        }
    }

    fn key(&self, find: impl FnOnce() -> Result<OpenedKey>) -> Result<OpenedKey> {
        match self.found.get() {
            Some(known) => Ok(known.clone()),
            None => find().map(|found| self.found.get_or_init(|| found).clone()),
        }
    }
}

fn make(inner: &dyn Store, source: &IdentitySource, place: &str) -> Result<OpenedKey> {
    if keys::is_encrypted(inner)? {
        return keys::find(inner, &source.read()?, place);
    }
    let (identities, is_new): (Identities, bool) = source.read_or_make()?;
    if is_new {
        tracing::warn!("made {source}: keep a copy of it elsewhere, as without it nobody can read {place}");
    }
    keys::make(inner, &identities, place)
}

/// Whether a copy has been begun that is not encrypted, as there are no keys.
fn is_begun(inner: &dyn Store) -> Result<bool> {
    let begun = [
        ObjectName::only(ObjectKind::Identity),
        ObjectName::only(ObjectKind::CopyIntent),
        ObjectName::epoch(1),
    ];
    for name in begun {
        if inner.size(&name)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn not_encrypted(place: &str, source: &IdentitySource) -> Error {
    Error::refused(format!(
        "{place} is not encrypted, and {source} is named: either the copy was made without encryption, or somebody has put another \
         one into its place; leave the identity away, or give `copy` and `capture` --no-encrypt, only if you trust all who can \
         write there"
    ))
}

/// The error for an encrypted copy that is wanted without an identity.
pub fn wants_identity() -> Error {
    Error::usage(
        "an encrypted copy needs an identity that opens it, also to be kept up to date; name a file with --identity-file, which \
         is made if it is not there",
    )
}

/// The error for an encrypted history that is begun without an identity.
pub fn wants_identity_for_history() -> Error {
    Error::usage(
        "an encrypted history needs an identity that opens it, and every command needs it again; name a file with \
         --identity-file: it is made if it is not there, and may be one of `age-keygen -o FILE`. Keep a copy of it elsewhere",
    )
}

/// The error for what is encrypted and is read without an identity.
pub fn needs_identity(inner: &dyn Store, place: &str) -> Error {
    let number = keys::recipients(inner).map_or(0, |found| found.len());
    if number == 0 {
        return Error::damaged(format!(
            "{place} is encrypted, and nobody's key is there: bring its folder keys/ back from a backup of the same place. \
             Another copy of the history has another key: recover from that, or make a new history of it with: backwhen copy"
        ));
    }
    let many = if number == 1 { "1 recipient".to_owned() } else { format!("{number} recipients") };
    Error::refused(format!(
        "{place} is encrypted for {many}; name the file with your identity with --identity-file, or a program that prints it with \
         --identity-command"
    ))
}

/// # Errors
/// `Refused` if the key may have been put there by somebody who wants to read what is encrypted with it.
pub fn check_is_own(opened: &OpenedKey, place: &str) -> Result<()> {
    if opened.is_own() {
        return Ok(());
    }
    Err(Error::refused(format!(
        "{place} has the key {}, which {} has made or passed on, and not your identity {}: nothing is encrypted with it until you say \
         that it is right; compare the key with theirs (backwhen key list), then run: backwhen key add {}",
        opened.key.id(),
        opened.vouched_by,
        opened.identity.recipient(),
        opened.identity.recipient()
    )))
}
