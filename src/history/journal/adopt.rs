//! Lets the open segment of an encrypted copy grow in the folder of the copy, which a capture writes from now on.

use super::increments;
use super::mirror::open_segment_end;
use super::place::Journal;
use crate::error::Result;
use crate::history::key::Authorship;
use crate::store::{LocalFolder, ObjectKind, Role};

/// Turns the increments in a folder into open segments. A folder that has none stays as it is. A process that is killed
/// meanwhile leaves increments, and the next one goes on.
///
/// # Errors
/// `Locked` if a copy is at work there; `Damaged` if the increments are; `Unavailable` if the disk does not do its part.
pub fn adopt_increments(local: &LocalFolder, authorship: &Authorship) -> Result<()> {
    let store = local.store();
    if store.list(ObjectKind::Increment)?.is_empty() {
        return Ok(());
    }
    let _lease = store.lease(Role::Capture, "capture")?;
    let fetched = increments::fetch(&*store, &local.scratch())?;
    let fetched = Journal::new(store.clone(), fetched, authorship.clone());
    let own = Journal::of_local(local, authorship);
    own.spool.prepare()?;
    for name in fetched.list_all()?.into_iter().filter(|name| !name.sealed) {
        if own.holds(name)? {
            continue;
        }
        let whole = open_segment_end(&fetched, name)?.bytes;
        own.spool.begin(&name.stem(), &*fetched.open(name)?.object, whole)?;
    }
    // Only now is all of it there in its new form.
    store.remove(&store.list_sorted(ObjectKind::Increment)?)
}
