//! Reads every object of a history and names every fault.

mod checkpoints;
mod segments;

use serde::Serialize;

use crate::error::{Kind, Result, without_verify};
use crate::history::catalog::Catalog;
use crate::history::segments::Segments;
use crate::history::{History, image, inventory};
use crate::model::Lsn;
use crate::progress::{Progress, Unit};
use crate::store::{ObjectKind, ObjectName};
pub use checkpoints::image_fault;

/// The findings of a verification.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Findings {
    pub checkpoints: usize,
    pub packs: usize,
    pub segments: usize,
    pub schemas: usize,
    pub bytes: u64,
    /// The faults, a line for each, which names the object.
    pub faults: Vec<String>,
    /// The facts that make a recovery less exact although every object is sound.
    pub notes: Vec<String>,
    /// The checkpoints whose manifests are sound, each with the digest of the manifest.
    #[serde(skip)]
    pub sound: Vec<(String, String)>,
}

/// The position that a capture has acknowledged as durable. An open segment whose end was cut off looks like one whose end
/// was never written; only this position tells them apart.
#[derive(Clone, Copy, Debug)]
pub struct AcknowledgedEnd {
    pub epoch: u32,
    pub durable: Lsn,
}

/// Reads every object. Faults of objects are findings and no errors. `acknowledged`, if it is known, must be read before
/// this function is called, as a running capture makes more durable meanwhile. Sound segments stay open in `table`.
///
/// # Errors
/// `Unavailable` if the store cannot be listed.
pub fn verify(
    history: &History,
    table: &Segments,
    acknowledged: Option<AcknowledgedEnd>,
    progress: &dyn Progress,
) -> Result<Findings> {
    let mut verified = Findings::default();
    // This comes first, since opening the catalog makes it forget objects that are gone.
    verified.faults.extend(Catalog::gone(history)?);
    packs(history, progress, &mut verified)?;
    let epochs = segments::check(history, table, acknowledged, progress, &mut verified)?;
    schemas(history, progress, &mut verified)?;
    checkpoints::check(history, &epochs, progress, &mut verified)?;
    other_objects(history, &mut verified)?;
    verified.faults.extend(Catalog::disagreement(history)?);
    verified.faults.iter_mut().for_each(|fault| *fault = without_verify(fault));
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

/// Reads the identity, which may have been exchanged or damaged since the history was opened, and the records.
fn other_objects(history: &History, verified: &mut Findings) -> Result<()> {
    verified.object(history, &ObjectName::only(ObjectKind::Identity))?;
    for kind in [ObjectKind::Pin, ObjectKind::Evidence, ObjectKind::Expiry] {
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
