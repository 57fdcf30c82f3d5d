//! The history of one protected database: a folder that is complete in itself.
//!
//! ```text
//! history.json          who this is; written last by `init`, and never again
//! epochs/0001.json      a stretch without gaps: where it began, and why
//! journal/              segments of transactions (see `journal`)
//! packs/                blocks of checkpoint images (see `image`)
//! checkpoints/ID.json   a checkpoint's manifest
//! schemas/DIGEST.dump   pg_dump archives, and DIGEST.sql the server's roles
//! pins/ID.json          that a checkpoint is kept whatever the rules say, and why
//! evidence/TIME.json    the findings of each verification
//! expired/TIME.json     the records of expiries, which say what may be missing
//! catalog.sqlite        an index of all this; derived, may be deleted
//! locks/ live/          who is at work now, and how it goes; not part of the history
//! damaged/              objects that `repair` set aside; not part of the history
//! ```

pub mod catalog;
pub mod checkpoint;
pub mod copy;
pub mod definitions;
pub mod epoch;
pub mod evidence;
pub mod expire;
pub mod expiry;
#[cfg(test)]
mod hostile;
pub mod image;
pub mod inventory;
pub mod journal;
pub mod key;
mod object;
pub mod outlook;
pub mod pins;
mod place;
pub mod repair;
pub mod resolution;
pub mod resync;
pub mod roles;
pub mod segments;
mod since;
pub mod timeline;
pub mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ambient;
use crate::error::{Context, Error, Kind, Result};
use crate::model::PgTime;
use crate::signal::key::MessageKey;
use crate::store::{
    Folder, Lease, LocalFolder, ObjectKind, ObjectName, Role, Store, StoreAddress, VolatileFile, layout,
};
use image::Cuts;
use journal::Journal;
use key::{Authorship, Key};
pub use object::{read_json, read_object, write_json, write_object};
pub use place::HistoryPlace;

/// The version of the folder's layout; a history with a higher one was written by a newer backwhen.
pub const FORMAT: u32 = 1;

/// The version of `history.json` in a history whose messages are signed: an older backwhen would not find them.
pub const SIGNED_FORMAT: u32 = 2;

/// The version of `history.json` in a history with a key: a backwhen that knows no keys would write objects
/// without tags, and must not.
pub const KEYED_FORMAT: u32 = 3;

/// The rule by which a history cuts its tables under a key of its own. An older backwhen cuts by the common rule, which
/// costs room and nothing else.
pub const KEYED_CUTS: u32 = 1;

/// The version of an expiry's record that keeps single checkpoints: a backwhen that knows of none would remove them.
pub const THINNED_FORMAT: u32 = 2;

/// Work waits for a running `expire`, which removes objects, as long as this; then it fails as `Locked`.
const PATIENCE: Duration = Duration::from_secs(60);

/// A history's unchanging facts: the content of `history.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub format: u32,
    /// 32 hexadecimal digits, which stand in the header of every segment too.
    pub id: String,
    pub created: PgTime,
    pub backwhen: String,
    pub source: Source,
    /// Patterns of the tables to protect; without any, all tables are protected.
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    /// The secret that backwhen's messages in the source's WAL are signed with, see [`Identity::message_key`]; 64
    /// hexadecimal digits. It is empty in histories without event triggers that were begun before messages were signed.
    #[serde(default)]
    pub secret: String,
    /// The rule for which messages are believed: [`SIGNED`](crate::signal::key::SIGNED), or 0 in a history that was begun
    /// before messages were signed.
    #[serde(default)]
    pub messages: u32,
    /// The rule by which tables are cut into blocks: [`KEYED_CUTS`], or 0 in a history that was begun before it had a rule of its
    /// own.
    #[serde(default)]
    pub cuts: u32,
    /// Whether the source has event triggers. `None` in histories that were begun before messages were signed, where a
    /// secret is there exactly if there are event triggers.
    #[serde(default)]
    pub event_triggers: Option<bool>,
    /// The key that the objects are tagged with; `None` in a history that was begun without `--key-file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyRecord>,
}

/// Which key a history's objects are tagged with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// The id of the key, see [`Key::id`].
    pub id: String,
}

/// The database that the history is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// A libpq connection string, without password.
    pub connection: String,
    /// `pg_control_system().system_identifier`, which follows a cluster and its standbys.
    pub system_identifier: String,
    pub database: String,
}

impl Identity {
    /// The 16 bytes behind [`Identity::id`].
    ///
    /// # Errors
    /// `Damaged` if it is no 32 hexadecimal digits.
    pub fn id_bytes(&self) -> Result<[u8; 16]> {
        let number = u128::from_str_radix(&self.id, 16)
            .context(Kind::Damaged, || "history.json: id is not 32 hexadecimal digits".into())?;
        Ok(number.to_be_bytes())
    }

    /// Reads the identity of the history at `place`, and returns whether its objects are checked with `key`.
    ///
    /// # Errors
    /// Fails as [`History::open`] does.
    fn read(store: &dyn Store, place: &str, key: Option<&Key>) -> Result<(Identity, Authorship)> {
        let name = ObjectName::only(ObjectKind::Identity);
        let file = store.locate(&name);
        let identity: Identity = match read_json(store, &name)? {
            Some(identity) => identity,
            None if StoreAddress::is_one(place) => {
                return Err(Error::refused(format!(
                    "{place} holds no history; copy one there, or heal the copy, with: backwhen copy --to {place}"
                )));
            }
            None if is_orphaned(store) => {
                return Err(Error::damaged(format!(
                    "{file} is missing; bring it back from a copy of the history with: backwhen repair --history {place} \
                     --from COPY"
                )));
            }
            None => {
                return Err(Error::refused(format!(
                    "{place} holds no history; make one with: backwhen init --history {place} --source CONN"
                )));
            }
        };
        let authorship = identity.authorship(place, key)?;
        // Read a second time, now that it is known which tag `history.json` must bear.
        if authorship.is_checked() && read_object(store, &name, &authorship)?.as_ref() != Some(&identity) {
            return Err(Error::damaged(format!("{file} changed while it was read")));
        }
        Ok((identity, authorship))
    }

    /// Whether objects of the history at `place` are checked with `key`.
    ///
    /// # Errors
    /// `Refused` if `key` is not the history's key, or the history has none; `Damaged` if its id is no id.
    fn authorship(&self, place: &str, key: Option<&Key>) -> Result<Authorship> {
        let id = self.id_bytes()?;
        match (&self.key, key) {
            (None, None) => Ok(Authorship::Unkeyed),
            (Some(_), None) => Ok(Authorship::Unchecked),
            (Some(record), Some(key)) if record.id == key.id() => Ok(key.authorship(id)),
            (Some(record), Some(key)) => Err(Error::refused(format!(
                "{} holds key {}, but the history {} names key {}; name the right file with --key-file",
                key.file().display(),
                key.id(),
                place,
                record.id
            ))),
            (None, Some(key)) => Err(Error::refused(format!(
                "{place}/history.json names no key, so it cannot be checked with {}: either the history was begun without \
                 --key-file, or somebody has tampered with it; leave --key-file away only if you trust all who can write \
                 there",
                key.file().display()
            ))),
        }
    }

    /// Whether the source's event triggers tell schema changes.
    pub fn has_event_triggers(&self) -> bool {
        self.event_triggers.unwrap_or(!self.secret.is_empty())
    }

    /// Returns the rule by which tables are cut into blocks. The key is made of the secret, which nobody has who has only
    /// encrypted copies.
    pub fn cuts(&self) -> Cuts {
        if self.cuts < KEYED_CUTS {
            return Cuts::Common;
        }
        Cuts::Keyed(blake3::derive_key("backwhen 2026-11-29 cuts of blocks", self.secret.as_bytes()))
    }

    /// Returns the key that tells backwhen's own messages in the source's WAL from others.
    pub fn message_key(&self) -> MessageKey {
        MessageKey::new(&self.secret, self.messages)
    }

    /// Slot and publications on the source carry the first digits of the id, so that several
    /// histories of one database do not meet.
    pub fn slot(&self) -> String {
        format!("backwhen_{}", self.id.chars().take(12).collect::<String>())
    }
}

/// A history that exists.
#[derive(Clone, Debug)]
pub struct History {
    local: LocalFolder,
    place: String,
    store: Arc<dyn Store>,
    identity: Identity,
    journal: Journal,
}

impl History {
    fn new(local: &LocalFolder, identity: Identity, authorship: Authorship) -> History {
        let store = local.store();
        let journal = Journal::new(Arc::clone(&store), local.spool(), authorship);
        let place = local.root().display().to_string();
        History { local: local.clone(), place, store, identity, journal }
    }

    /// Makes the history in an object store, with `cache` for what is no object.
    fn fetched(
        cache: LocalFolder,
        store: Arc<dyn Store>,
        place: String,
        identity: Identity,
        authorship: Authorship,
    ) -> Result<History> {
        let spool = journal::fetch(&*store, &cache.scratch())?;
        let journal = Journal::new(Arc::clone(&store), spool, authorship);
        Ok(History { local: cache, place, store, identity, journal })
    }

    /// Opens a history. With its key, no object is believed that was not written by a holder of the key.
    ///
    /// # Errors
    /// `Refused` if there is none, a newer backwhen wrote it, or `key` is not its key; `Damaged` if
    /// `history.json` is.
    pub fn open(local: &LocalFolder, key: Option<&Key>) -> Result<History> {
        let place = local.root().display().to_string();
        let (identity, authorship) = Identity::read(&*local.store(), &place, key)?;
        Ok(History::new(local, identity, authorship))
    }

    /// Takes the lock of a history that will exist once [`History::found`] ends well, and makes its folders. `what`
    /// is the command that the lock names.
    ///
    /// # Errors
    /// `Refused` if a history exists there already, or other files lie there; `Locked` if another process is about
    /// to make one.
    pub fn prepare(local: &LocalFolder, what: &str) -> Result<Lease> {
        let store = local.store();
        History::refuse_taken(local.root(), &*store)?;
        layout::make_locks(local.root())?;
        let lock = store.lease(Role::Capture, what)?;
        // Another process may have made one before the lock was taken.
        History::refuse_taken(local.root(), &*store)?;
        store.remove_unfinished(ObjectKind::Identity);
        layout::make_folders(local.root())?;
        Ok(lock)
    }

    /// Whether a history lies in the folder.
    ///
    /// # Errors
    /// `Unavailable` if the folder cannot be read.
    pub fn is_at(root: &Path) -> Result<bool> {
        let store: &dyn Store = &Folder::new(root);
        store.holds(&ObjectName::only(ObjectKind::Identity))
    }

    fn refuse_taken(root: &Path, store: &dyn Store) -> Result<()> {
        if History::is_at(root)? {
            return Err(Error::refused(format!(
                "{} is a history already; see it with: backwhen status --history {}",
                root.display(),
                root.display()
            )));
        }
        if is_orphaned(store) {
            return Err(Error::refused(format!(
                "{} holds a history whose history.json is missing; heal it with `backwhen repair`, or name a new folder",
                root.display()
            )));
        }
        match layout::first_stranger(root)? {
            Some(stranger) => Err(Error::refused(format!(
                "{} is not empty (it holds {stranger}); name a new folder for the history",
                root.display()
            ))),
            None => Ok(()),
        }
    }

    /// Makes the history valid: the last step of `init`.
    ///
    /// # Errors
    /// `Unavailable` if the disk does not take it.
    pub fn found(local: &LocalFolder, identity: Identity, authorship: Authorship) -> Result<History> {
        write_object(&*local.store(), &ObjectName::only(ObjectKind::Identity), &identity, &authorship)?;
        Ok(History::new(local, identity, authorship))
    }

    /// Undoes [`History::found`] as far as it came; a history.json with another `id` is not touched.
    ///
    /// # Errors
    /// `Unavailable` if history.json cannot be removed.
    pub fn withdraw(local: &LocalFolder, id: &str) -> Result<()> {
        let (store, name) = (local.store(), ObjectName::only(ObjectKind::Identity));
        match read_json::<Identity>(&*store, &name) {
            Ok(Some(found)) if found.id == id => store.remove(&[name]),
            _ => Ok(()),
        }
    }

    /// Whether it is checked who wrote the objects.
    pub fn authorship(&self) -> &Authorship {
        &self.journal.authorship
    }

    /// The local folder: the history itself or, of a history in an object store, the cache.
    pub fn root(&self) -> &Path {
        self.local.root()
    }

    /// The local folder, with the key of an encrypted history.
    pub fn local(&self) -> &LocalFolder {
        &self.local
    }

    /// The path or URL of the history, as a person names it.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Returns the free bytes of the disk of the history's folder, for a process without privileges; `None` for a history in an
    /// object store, and where the disk does not tell.
    pub fn free_bytes(&self) -> Option<u64> {
        if self.is_remote() { None } else { ambient::free_bytes(self.root()) }
    }

    /// Whether the history lies in an object store, where no capture writes it.
    pub fn is_remote(&self) -> bool {
        self.journal.is_remote()
    }

    /// Where the history's objects lie.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Returns the store for a reader or writer that outlives the borrow of the history.
    pub fn shared_store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    /// The segments of the history, open and sealed.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Takes the role of the capture, which `capture`, `init` and `drop` hold.
    ///
    /// # Errors
    /// `Locked` if another process holds it.
    pub fn lock_capture(&self) -> Result<Lease> {
        self.store().lease(Role::Capture, "capture")
    }

    /// Takes the role under which a checkpoint is made, and the lease of [`History::hold_objects`].
    ///
    /// # Errors
    /// `Locked` if another process makes a checkpoint, or removes objects.
    pub fn lock_checkpoint(&self) -> Result<(Lease, Option<Lease>)> {
        Ok((self.lock_checkpoint_alone()?, self.hold_objects()?))
    }

    fn lock_checkpoint_alone(&self) -> Result<Lease> {
        self.store().lease(Role::Checkpoint, "a checkpoint or expire")
    }

    /// Keeps an `expire` from removing objects as long as the lease is held: every command that reads objects for longer
    /// than an instant, or builds on them, shares this role. Waits for an `expire` that is at work.
    ///
    /// # Errors
    /// `Locked` if that takes longer than a minute.
    pub fn hold_objects(&self) -> Result<Option<Lease>> {
        self.store().share(Role::Objects, PATIENCE)
    }

    fn lock_objects_alone(&self) -> Result<Lease> {
        let busy = "somebody recovers from this history, verifies, copies or compares it; expire is not done beside \
                    that: try again later";
        self.store().lease(Role::Objects, "expire").map_err(|error| match error.kind() {
            Kind::Locked => Error::locked(busy),
            _ => error,
        })
    }

    /// Whether others than its owner may read or change the history, as in histories that earlier versions made under the
    /// usual umask.
    pub fn is_open_to_others(&self) -> bool {
        layout::is_open_to_others(self.root())
    }

    pub fn capture_is_running(&self) -> bool {
        !self.is_remote() && self.store().is_leased(Role::Capture)
    }

    /// The file in which `capture` says how it goes, for `status` to read.
    pub fn live_state(&self) -> VolatileFile {
        self.local.live_state()
    }

    /// The folder for files that are gone with the process.
    pub fn scratch(&self) -> PathBuf {
        self.local.scratch()
    }
}

/// An epoch begins only after `init.json` or `copy.json` was written, which go after `history.json` came.
fn is_orphaned(store: &dyn Store) -> bool {
    let holds = |name: ObjectName| store.holds(&name).unwrap_or(false);
    holds(ObjectName::epoch(1))
        && !holds(ObjectName::only(ObjectKind::InitIntent))
        && !holds(ObjectName::only(ObjectKind::CopyIntent))
}
