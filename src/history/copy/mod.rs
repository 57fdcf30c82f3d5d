//! Mirrors a history to a second place, a folder or a prefix in an object store, and keeps the copy up to date.
//!
//! The copy is a valid history at every instant, whenever the command is killed, and also while a capture writes to the
//! original: the objects that an object names are copied before it, segments are copied in their order, and
//! `history.json` is copied last. An object that the copy has already is never touched. Only the open segment grows, as
//! it did in the original. A damaged object is not copied, nor are the objects that depend on it. The copy keeps objects
//! that the original has expired, until `expire` is run on the copy too; what that removes is not copied again.

mod let_go;
mod standing;
mod work;

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::epoch::Epoch;
use super::journal::Journal;
use super::key::Authorship;
use super::{
    FORMAT, History, HistoryPlace, Identity, checkpoint, inventory, is_orphaned, read_json, read_object,
    write_json,
};
use crate::error::{Error, Result};
use crate::model::Lsn;
use crate::progress::{Progress, Unit};
use crate::store::{Lease, ObjectKind, ObjectName, Role, Store, layout, sealed};
use let_go::LetGo;
pub use standing::StandingCopy;
use work::CopyWork;

/// The number of images that are sent to an object store at a time. Each is held in memory meanwhile, and is at most as large
/// as a pack.
const SENDERS: usize = 3;

/// The content of `copy.json`: of which history a folder is becoming a copy.
#[derive(Serialize, Deserialize)]
struct CopyIntent {
    format: u32,
    history: String,
}

/// The outcome of a copy.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CopyOutcome {
    /// Objects that were not there yet; an open segment that grew is one.
    pub objects: u64,
    /// Bytes that were written for them.
    pub bytes: u64,
    /// Where the copy's journal ends.
    pub end: Option<Lsn>,
    /// Why objects could not be copied, a sentence for each object.
    pub faults: Vec<String>,
}

/// Copies the objects that the history at `to` does not have yet.
///
/// # Errors
/// `Refused` if something else lies at `to`, or the history's key was not given; `Locked` if a copy or a capture is at work there;
/// `Unavailable` if a disk fails. Damage of single objects is no error, but told in the result.
pub fn copy(history: &History, place: &HistoryPlace, progress: &dyn Progress) -> Result<CopyOutcome> {
    history.authorship().check_may_write(Path::new(&place.to_string()))?;
    let _objects = history.hold_objects()?;
    let store = place.store_to_copy()?;
    let _lock = begin(history, place, &store, &|store| store.lease(Role::Capture, "copy"))?;
    // A copied object may be named by no manifest there yet, and must not be expired meanwhile.
    let _objects_there = store.share(Role::Objects, super::PATIENCE)?;
    let to = match place {
        HistoryPlace::Folder { .. } => Journal::of_local(&place.local_folder()?, history.authorship()),
        _ => Journal::to_remote(Arc::clone(&store), history.authorship()),
    };
    let let_go = LetGo::of(history, &*store)?;
    let mut work = CopyWork::new(history, &to, &*store, progress);
    if to.is_remote() {
        list_all(&*store)?;
    }
    let wanted = |mut names: Vec<ObjectName>| {
        names.retain(|name| !let_go.includes(history, name));
        names
    };
    // In this order, every object that a listed manifest names is in a later list.
    let manifests = wanted(work.list(&[ObjectKind::Checkpoint])?);
    let epochs = work.list(&[ObjectKind::Epoch])?;
    let packs = wanted(work.list(&[ObjectKind::Pack])?);
    let schemas = wanted(work.list(&[ObjectKind::Archive, ObjectKind::Roles])?);
    // The record comes before a journal that does not begin where its epoch begins.
    if !work.all(&work.list(&[ObjectKind::Expiry])?)? {
        return finish(work);
    }
    progress.phase("copying images", (packs.len() + schemas.len()) as u64, Unit::Objects);
    let leant_on = [packs, schemas].concat();
    let whole = if to.is_remote() { work.all_at_once(&leant_on)? } else { work.all(&leant_on)? };
    progress.phase("copying journal and checkpoints", epochs.len() as u64, Unit::Objects);
    for name in &epochs {
        // The segments and checkpoints of an epoch that cannot be read are of no use.
        if !work.all(std::slice::from_ref(name))? {
            break;
        }
        let number = epoch_of(name);
        work.segments(number, &let_go)?;
        let own: Vec<_> = manifests.iter().filter(|name| epoch_of(name) == number).cloned().collect();
        if whole {
            work.all(&own)?;
        } else {
            work.skip(&own);
        }
    }
    // A pin of a checkpoint that could not be copied would be a fault of the copy.
    let mut pins = work.list(&[ObjectKind::Pin])?;
    pins.retain(|pin| store.holds(&checkpoint::manifest(pin.stem())).unwrap_or(false));
    work.all(&pins)?;
    work.all(&wanted(work.list(&[ObjectKind::Evidence])?))?;
    finish(work)
}

/// Lists every kind: from these lists it is known at once which objects are there, without a request for each.
fn list_all(store: &dyn Store) -> Result<()> {
    let kinds = ObjectKind::ALL.into_iter().filter(|kind| kind.only_stem().is_none());
    kinds.map(|kind| store.list(kind)).collect::<Result<Vec<_>>>().map(drop)
}

/// Makes the folders, unless something else lies there, and takes the copy's lock with `take`.
fn begin(
    history: &History,
    place: &HistoryPlace,
    store: &Arc<dyn Store>,
    take: &dyn Fn(&dyn Store) -> Result<Lease>,
) -> Result<Lease> {
    let mut folders = place.folders().into_iter().chain([place.local()]);
    if folders.any(|folder| layout::is_same(folder, history.root())) {
        return Err(Error::usage(format!("{place} is the history itself; name another place")));
    }
    let id = &history.identity().id;
    let other = |found: &str| {
        Error::refused(format!(
            "{place} holds a copy of another history ({found}, not {id}); name a new place"
        ))
    };
    let (store, begun) = (&**store, ObjectName::only(ObjectKind::CopyIntent));
    let earlier = match read_json::<Identity>(store, &ObjectName::only(ObjectKind::Identity))? {
        Some(identity) => Some(identity.id),
        None => read_json::<CopyIntent>(store, &begun)?.map(|begun| begun.history),
    };
    let lock = match earlier {
        Some(earlier) if earlier != *id => return Err(other(&earlier)),
        Some(_) => {
            if let HistoryPlace::Folder { root, .. } = place {
                layout::make_folders(root)?;
            }
            take(store)?
        }
        // The keys of an encrypted copy whose first objects were not put any more.
        None if sealed::is_encrypted(store)? => {
            return Err(sealed::needs_identity(store, &place.to_string()));
        }
        None => {
            let lock = prepare(history, place, store, take)?;
            write_json(store, &begun, &CopyIntent { format: FORMAT, history: id.clone() })?;
            lock
        }
    };
    for kind in ObjectKind::ALL {
        store.remove_unfinished(kind);
    }
    Ok(lock)
}

/// Takes the lock of a copy that will exist.
fn prepare(
    history: &History,
    place: &HistoryPlace,
    store: &dyn Store,
    take: &dyn Fn(&dyn Store) -> Result<Lease>,
) -> Result<Lease> {
    match place {
        HistoryPlace::Folder { .. } => History::prepare(&place.local_folder()?, "copy"),
        _ if is_orphaned(store) && !is_of_same_slot(history, store) => Err(Error::refused(format!(
            "{place} holds objects of a history without its history.json, and not of this one; name a new prefix"
        ))),
        _ => take(store),
    }
}

/// Whether the first epoch in the store is one of this history.
fn is_of_same_slot(history: &History, store: &dyn Store) -> bool {
    let epoch = read_object::<Epoch>(store, &ObjectName::epoch(1), history.authorship());
    epoch.is_ok_and(|epoch| epoch.is_some_and(|epoch| epoch.slot == history.identity().slot()))
}

/// Makes the copy a history, if it is not one yet.
fn finish(mut work: CopyWork<'_>) -> Result<CopyOutcome> {
    work.identity()?;
    Ok(work.copied)
}

/// `epochs/0002.json` and `checkpoints/0002-….json` are of epoch 2.
fn epoch_of(name: &ObjectName) -> u32 {
    let digits: String = name.stem().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

/// Checks an object and copies it; returns how many bytes it has. The object is read once from a store that is far away.
///
/// # Errors
/// Fails as [`inventory::check`] and [`copy_object`] do.
fn copy_checked(from: &dyn Store, to: &dyn Store, name: &ObjectName, authorship: &Authorship) -> Result<u64> {
    from.hold(name)?;
    let copied = inventory::check(from, name, authorship).and_then(|()| copy_object(from, to, name));
    from.release(name);
    copied
}

/// Copies an object between stores; returns how many bytes it has.
///
/// # Errors
/// `Damaged` if the object is gone; otherwise it fails as `copy_new` of a store does.
pub(super) fn copy_object(from: &dyn Store, to: &dyn Store, name: &ObjectName) -> Result<u64> {
    let object = from.open(name)?.ok_or_else(|| inventory::missing(from, name))?;
    to.copy_new(name, &*object)
}
