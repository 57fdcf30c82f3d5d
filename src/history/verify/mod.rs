//! Reads every object of a history and names every fault.

mod checkpoints;
mod segments;

use serde::Serialize;

use crate::error::{Kind, Result};
use crate::history::catalog::Catalog;
use crate::history::segments::Segments;
use crate::history::{History, image, inventory};
use crate::model::Lsn;
use crate::progress::{Progress, Unit};
use crate::store::{ObjectKind, ObjectName};
pub use checkpoints::image_fault;

/// What was read, and what is wrong with it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Findings {
    pub checkpoints: usize,
    pub packs: usize,
    pub segments: usize,
    pub schemas: usize,
    pub bytes: u64,
    /// One line a fault, each naming the object.
    pub faults: Vec<String>,
    /// What is whole, and yet will make a recovery less exact.
    pub notes: Vec<String>,
    /// The checkpoints whose manifests are sound, each with the digest of the manifest.
    #[serde(skip)]
    pub sound: Vec<(String, String)>,
}

/// What a capture once said to be durable. The end of an open segment that was cut off looks like
/// one that was never written; only this tells them apart.
#[derive(Clone, Copy, Debug)]
pub struct AcknowledgedEnd {
    pub epoch: u32,
    pub durable: Lsn,
}

/// Reads everything. Faults of objects are found, not returned as errors. `acknowledged`, if known,
/// was read before this is called: a capture that runs makes more durable meanwhile. Segments that are whole stay
/// open in `table`.
///
/// # Errors
/// `Unavailable` if the disk does not list what is there.
pub fn verify(
    history: &History,
    table: &Segments,
    acknowledged: Option<AcknowledgedEnd>,
    progress: &dyn Progress,
) -> Result<Findings> {
    let mut verified = Findings::default();
    // First, since whoever opens the catalog makes it forget what is gone.
    verified.faults.extend(Catalog::gone(history)?);
    packs(history, progress, &mut verified)?;
    let epochs = segments::check(history, table, acknowledged, progress, &mut verified)?;
    schemas(history, progress, &mut verified)?;
    checkpoints::check(history, &epochs, progress, &mut verified)?;
    other_objects(history, &mut verified)?;
    verified.faults.extend(Catalog::disagreement(history)?);
    Ok(verified)
}

fn packs(history: &History, progress: &dyn Progress, verified: &mut Findings) -> Result<()> {
    let store = history.store();
    let size = |name: &ObjectName| store.size(name).ok().flatten().unwrap_or(0);
    let names = store.list_sorted(ObjectKind::Pack)?;
    progress.phase("reading packs", names.iter().map(size).sum(), Unit::Bytes);
    for name in names {
        verified.packs += 1;
        verified.bytes += size(&name);
        match image::verify_pack(store, &name) {
            Ok(check) => verified.faults.extend(check.faults),
            Err(error) => verified.faults.push(error.to_string()),
        }
        progress.advance(size(&name));
    }
    Ok(())
}

fn schemas(history: &History, progress: &dyn Progress, verified: &mut Findings) -> Result<()> {
    progress.phase("reading schemas", 0, Unit::Bytes);
    for kind in [ObjectKind::Archive, ObjectKind::Roles] {
        for name in history.store().list_sorted(kind)? {
            verified.schemas += 1;
            verified.object(history, &name)?;
        }
    }
    Ok(())
}

/// The identity was read when the history was opened; it may have been exchanged or spoilt since.
fn other_objects(history: &History, verified: &mut Findings) -> Result<()> {
    verified.object(history, &ObjectName::only(ObjectKind::Identity))?;
    for kind in [ObjectKind::Evidence, ObjectKind::Expiry] {
        for name in history.store().list_sorted(kind)? {
            verified.object(history, &name)?;
        }
    }
    Ok(())
}

impl Findings {
    /// Reads an object; damage is a fault, and no error.
    fn object(&mut self, history: &History, name: &ObjectName) -> Result<()> {
        self.bytes += history.store().size(name)?.unwrap_or(0);
        match inventory::check(history.store(), name, history.authorship()) {
            Err(error) if matches!(error.kind(), Kind::Damaged | Kind::Refused) => {
                self.faults.push(error.to_string());
                Ok(())
            }
            checked => checked,
        }
    }
}
