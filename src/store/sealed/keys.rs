//! The key of an encrypted store, and the objects that wrap it, one for each recipient.
//!
//! Everybody who knows a public key can encrypt something for it. An attacker could put a key of his own making into the place
//! of the store's, and a capture would encrypt its data for him. Therefore each wrapped key names the recipient that vouches
//! for it, and has a tag that only this one and the recipient for whom it is wrapped can make.

use std::collections::BTreeSet;
use std::fmt;

use super::age::{self, AgeIdentity, Recipient};
use super::frames::DataCipher;
use super::identity::Identities;
use super::names::NameCipher;
use crate::ambient;
use crate::error::{Error, Kind, Result};
use crate::store::{ObjectKind, ObjectName, Store};

/// The first line of what is wrapped.
const HEAD: &str = "backwhen copy key 1";

/// The random key of one store. All other keys are derived from it.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreKey([u8; 32]);

impl StoreKey {
    /// # Errors
    /// `Internal` without randomness.
    pub(super) fn random() -> Result<StoreKey> {
        Ok(StoreKey(ambient::random()?))
    }

    #[cfg(test)]
    pub fn of_byte(byte: u8) -> StoreKey {
        StoreKey([byte; 32])
    }

    /// A public name of the key, by which two persons find out whether they mean the same one.
    pub fn id(&self) -> String {
        hex(&self.derive("id"))[..16].to_owned()
    }

    pub(super) fn data(&self) -> DataCipher {
        DataCipher::new(&self.derive("data"))
    }

    /// The cipher for what is no object: open segments, the catalog, and the live state.
    pub(in crate::store) fn beside(&self) -> DataCipher {
        DataCipher::new(&self.derive("beside objects"))
    }

    pub(in crate::store) fn names(&self) -> NameCipher {
        NameCipher::new(self.derive("hashes of names"), self.derive("names"))
    }

    fn derive(&self, what: &str) -> [u8; 32] {
        blake3::derive_key(&format!("backwhen 2026-11-29 encrypted store, version 1: {what}"), &self.0)
    }
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreKey({})", self.id())
    }
}

/// A store's key as one identity has found it.
#[derive(Clone, Debug)]
pub struct OpenedKey {
    pub key: StoreKey,
    /// The identity that has opened it.
    pub identity: AgeIdentity,
    /// Who has vouched for it.
    pub vouched_by: Recipient,
    /// The recipients that could open the store when the key was found.
    pub recipients: Vec<Recipient>,
}

impl OpenedKey {
    #[cfg(test)]
    pub fn of_byte(byte: u8) -> OpenedKey {
        let identity = AgeIdentity::random().unwrap();
        let vouched_by = identity.recipient();
        OpenedKey { key: StoreKey::of_byte(byte), identity, vouched_by, recipients: Vec::new() }
    }

    /// Whether the identity itself vouches for the key: nobody else can have put it there.
    pub fn is_own(&self) -> bool {
        self.vouched_by == self.identity.recipient()
    }
}

fn tag(key: &StoreKey, shared: &[u8; 32], by: &Recipient, to: &Recipient) -> blake3::Hash {
    let secret = blake3::derive_key("backwhen 2026-11-29 voucher for the key of an encrypted store", shared);
    let mut hasher = blake3::Hasher::new_keyed(&secret);
    hasher.update(by.bytes()).update(to.bytes()).update(&key.0).finalize()
}

/// Wraps the key for a recipient; `by` vouches for it.
fn wrap(key: &StoreKey, by: &AgeIdentity, to: &Recipient) -> Result<Vec<u8>> {
    let shared = by.shared(to).ok_or_else(|| Error::refused(format!("{to} is no key of a person")))?;
    let tag = tag(key, &shared, &by.recipient(), to).to_hex();
    age::encrypt(format!("{HEAD}\n{}\n{}\n{tag}\n", hex(&key.0), by.recipient()).as_bytes(), to)
}

/// Opens what [`wrap`] has wrapped; `None` if it was not wrapped for this identity, or was changed.
fn unwrap(bytes: &[u8], identity: &AgeIdentity) -> Option<OpenedKey> {
    let text = String::from_utf8(age::decrypt(bytes, identity)?).ok()?;
    let mut lines = text.lines();
    let (head, key, by, given) = (lines.next()?, lines.next()?, lines.next()?, lines.next()?);
    if head != HEAD || lines.next().is_some() {
        return None;
    }
    let (key, by) = (StoreKey(*blake3::Hash::from_hex(key).ok()?.as_bytes()), Recipient::parse(by)?);
    let own = identity.recipient();
    let expected = tag(&key, &identity.shared(&by)?, &by, &own);
    // Hashes are compared in the same time wherever they differ.
    (blake3::Hash::from_hex(given).ok()? == expected).then(|| OpenedKey {
        key,
        identity: identity.clone(),
        vouched_by: by,
        recipients: Vec::new(),
    })
}

fn hex(bytes: &[u8; 32]) -> String {
    blake3::Hash::from_bytes(*bytes).to_hex().to_string()
}

/// The recipient that a wrapped key is for, by its name; `None` if no wrapped key is called so.
fn recipient_of(name: &ObjectName) -> Option<Recipient> {
    Recipient::parse(name.stem().split('-').next()?)
}

fn objects_for(store: &dyn Store, recipient: &Recipient) -> Result<Vec<ObjectName>> {
    let mut names = store.list_sorted(ObjectKind::StoreKey)?;
    names.retain(|name| recipient_of(name).as_ref() == Some(recipient));
    Ok(names)
}

/// Lists for whom a store is encrypted; nobody, if it is not.
///
/// # Errors
/// `Unavailable` if the store does not answer.
pub fn recipients(store: &dyn Store) -> Result<Vec<Recipient>> {
    let names = store.list_sorted(ObjectKind::StoreKey)?;
    let texts: BTreeSet<_> = names.iter().filter_map(recipient_of).map(|it| it.to_string()).collect();
    Ok(texts.iter().filter_map(|text| Recipient::parse(text)).collect())
}

/// Whether there is any wrapped key, also one whose name is no recipient.
///
/// # Errors
/// `Unavailable` if the store does not answer.
pub fn is_encrypted(store: &dyn Store) -> Result<bool> {
    Ok(!store.list(ObjectKind::StoreKey)?.is_empty())
}

/// Finds the key of a store, preferring one that the own identity vouches for.
///
/// # Errors
/// `Refused` if no identity is a recipient, `Damaged` if none opens although one is, `Unavailable` if the store does not answer.
pub fn find(store: &dyn Store, identities: &Identities, place: &str) -> Result<OpenedKey> {
    let (mut opened, mut shut) = (Vec::new(), Vec::new());
    for identity in identities.all() {
        for name in objects_for(store, &identity.recipient())? {
            match store.read(&name)?.and_then(|bytes| unwrap(&bytes, identity)) {
                Some(key) => opened.push(key),
                None => shut.push(store.locate(&name)),
            }
        }
    }
    opened.sort_by_key(|key: &OpenedKey| !key.is_own());
    match (opened.into_iter().next(), shut.first()) {
        (Some(key), _) => Ok(OpenedKey { recipients: recipients(store)?, ..key }),
        (None, Some(shut)) => Err(Error::damaged(format!(
            "{shut} is damaged: {} does not open it, although it is the right one; somebody with another identity can put it \
             there anew, with: backwhen key remove, and backwhen key add",
            identities.source()
        ))),
        (None, None) => {
            let others = list(&recipients(store)?);
            Err(Error::refused(format!(
                "{place} is encrypted for {others}, and {} is the identity of {}; name the right one with --identity-file or \
                 --identity-command",
                identities.source(),
                list(&identities.recipients())
            )))
        }
    }
}

fn list(recipients: &[Recipient]) -> String {
    let texts: Vec<_> = recipients.iter().map(Recipient::to_string).collect();
    if texts.is_empty() { "nobody whose key can be read".to_owned() } else { texts.join(", ") }
}

/// Lets a recipient open the store: wraps its key, which `by` vouches for. Returns false if this recipient has one already
/// that `by` need not replace.
///
/// # Errors
/// `Unavailable` if the store does not answer, `Refused` if it refuses or the recipient is no key of a person.
pub fn add(store: &dyn Store, opened: &OpenedKey, by: &AgeIdentity, to: &Recipient) -> Result<bool> {
    let before = objects_for(store, to)?;
    // The own key can be read, and so it is known whether it is the store's.
    let is_good = |name: &ObjectName| -> Result<bool> {
        let found = store.read(name)?.and_then(|bytes| unwrap(&bytes, by));
        Ok(found.is_some_and(|found| found.is_own() && found.key == opened.key))
    };
    let is_own = by.recipient() == *to;
    if !is_own && !before.is_empty() {
        return Ok(false);
    }
    for name in &before {
        if is_good(name)? {
            return Ok(false);
        }
    }
    let bytes = wrap(&opened.key, by, to)?;
    store.put_numbered(ObjectKind::StoreKey, &to.to_string(), |name| store.put_new(name, &bytes))?;
    // The new one is there before the old one goes.
    store.remove(&before)?;
    Ok(true)
}

/// Takes a recipient's wrapped keys away.
///
/// # Errors
/// `Refused` if there are none, or if nobody could open the store any more; `Unavailable` if the store does not answer.
pub fn remove(store: &dyn Store, recipient: &Recipient, place: &str) -> Result<()> {
    let names = objects_for(store, recipient)?;
    if names.is_empty() {
        return Err(Error::refused(format!(
            "{place} is not encrypted for {recipient}; see for whom with: backwhen key list"
        )));
    }
    if recipients(store)?.len() < 2 {
        return Err(Error::refused(format!(
            "{recipient} is the last one who can open {place}, and without its key the copy is lost; add another one first, with: \
             backwhen key add RECIPIENT"
        )));
    }
    store.remove(&names)
}

/// Makes the key of a new store, for the first identity and the other recipients. If another process has just done so, its key
/// counts.
///
/// # Errors
/// Fails as [`add`] and [`find`] do.
pub(super) fn make(store: &dyn Store, identities: &Identities, place: &str) -> Result<OpenedKey> {
    let identity = identities.first().clone();
    let own = identity.recipient();
    let name = ObjectName::new(ObjectKind::StoreKey, own.to_string());
    let bytes = wrap(&StoreKey::random()?, &identity, &own)?;
    match store.put_new(&name, &bytes) {
        Err(error) if error.kind() == Kind::Internal => store.look_again(ObjectKind::StoreKey),
        put => put?,
    }
    find(store, identities, place)
}
