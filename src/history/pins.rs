//! Pins: checkpoints that are kept whatever the rules of retention say.

use serde::{Deserialize, Serialize};

use super::catalog::{Catalog, CheckpointRow};
use super::checkpoint::manifest;
use super::{FORMAT, History, read_object, write_object};
use crate::ambient;
use crate::error::{Error, Result};
use crate::model::PgTime;
use crate::store::{ObjectKind, ObjectName};

/// The content of `pins/CHECKPOINT.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    pub format: u32,
    /// The id of the checkpoint that is kept.
    pub checkpoint: String,
    /// Why the checkpoint is kept, for the person who finds it years later.
    pub reason: String,
    /// When the checkpoint was pinned, by the clock of the machine that pinned it.
    pub at: PgTime,
    pub backwhen: String,
}

impl History {
    /// Returns all pins, by checkpoint.
    ///
    /// # Errors
    /// `Damaged` if one cannot be read: the checkpoint that it keeps would be taken for one that may be removed.
    pub fn pins(&self) -> Result<Vec<Pin>> {
        let names = self.store().list_sorted(ObjectKind::Pin)?;
        let read = |name: &ObjectName| read_object::<Pin>(self.store(), name, self.authorship()).transpose();
        names.iter().filter_map(read).collect()
    }

    /// Pins the checkpoint that `named` means: an id, the beginning of one, or a label. Returns the pin, which is durable.
    /// No expiry is at work meanwhile. A checkpoint that is pinned for the same reason stays as it is.
    ///
    /// # Errors
    /// `OutsideWindow` if there is no such checkpoint, `Usage` if several fit, `Refused` if the checkpoint is pinned for
    /// another reason.
    pub fn pin(&self, named: &str, reason: &str) -> Result<Pin> {
        let _objects = self.hold_objects()?;
        let id = find_checkpoint(&Catalog::open(self)?.checkpoints()?, named)?.id.clone();
        // The catalog might know a manifest that was damaged since.
        self.read_checkpoint(&id)?;
        if let Some(pin) = self.pins()?.into_iter().find(|pin| pin.checkpoint == id) {
            if pin.reason == reason {
                return Ok(pin);
            }
            return Err(Error::refused(format!(
                "checkpoint {id} is pinned already ({}); to give another reason, first: backwhen unpin {id}",
                pin.reason
            )));
        }
        let pin = Pin {
            format: FORMAT,
            checkpoint: id,
            reason: reason.to_owned(),
            at: PgTime::from_utc(ambient::now()),
            backwhen: env!("CARGO_PKG_VERSION").to_owned(),
        };
        write_object(self.store(), &pin_of(&pin.checkpoint), &pin, self.authorship())?;
        Ok(pin)
    }

    /// Removes the pin of the checkpoint that `named` means, and returns the pin. The checkpoint itself stays until an
    /// expiry finds no rule that keeps it.
    ///
    /// # Errors
    /// `OutsideWindow` if there is no such checkpoint, `Usage` if several fit, `Refused` if the checkpoint is not pinned.
    pub fn unpin(&self, named: &str) -> Result<Pin> {
        let _objects = self.hold_objects()?;
        let pins = self.pins()?;
        // A pin may outlive a checkpoint whose manifest was lost.
        let lost = pins.iter().find(|pin| pin.checkpoint == named);
        let id = match lost {
            Some(pin) => pin.checkpoint.clone(),
            None => find_checkpoint(&Catalog::open(self)?.checkpoints()?, named)?.id.clone(),
        };
        let Some(pin) = pins.into_iter().find(|pin| pin.checkpoint == id) else {
            return Err(Error::refused(format!(
                "checkpoint {id} is not pinned; see: backwhen list checkpoints"
            )));
        };
        self.store().remove(&[pin_of(&id)])?;
        Ok(pin)
    }
}

/// The name of the pin of a checkpoint.
fn pin_of(checkpoint: &str) -> ObjectName {
    ObjectName::new(ObjectKind::Pin, manifest(checkpoint).stem())
}

/// Returns the checkpoint that a person means by an id, the beginning of one, or a label.
fn find_checkpoint<'a>(rows: &'a [CheckpointRow], named: &str) -> Result<&'a CheckpointRow> {
    let named = named.strip_prefix("checkpoint:").unwrap_or(named);
    let exact: Vec<_> =
        rows.iter().filter(|row| row.id == named || row.label.as_deref() == Some(named)).collect();
    let found = if exact.is_empty() {
        rows.iter().filter(|row| !named.is_empty() && row.id.starts_with(named)).collect()
    } else {
        exact
    };
    match found[..] {
        [row] => Ok(row),
        [] => Err(Error::outside_window(format!(
            "there is no checkpoint {named:?}; see: backwhen list checkpoints"
        ))),
        _ => Err(Error::usage(format!("several checkpoints fit {named:?}; see: backwhen list checkpoints"))),
    }
}
