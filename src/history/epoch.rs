//! Epochs: stretches of the history without gaps.
//!
//! Positions of two epochs are not comparable: a source restored from a backup writes the same
//! positions a second time. Everything that has a position therefore names its epoch too.

use serde::{Deserialize, Serialize};

use super::key::Authorship;
use super::{FORMAT, History, read_object, write_object};
use crate::error::{Error, Result};
use crate::model::{Lsn, PgTime};
use crate::store::{ObjectKind, ObjectName, Store};

/// The content of `epochs/NNNN.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    pub format: u32,
    pub number: u32,
    /// The slot's consistent point. The journal holds the transactions that committed from here on.
    pub start: Lsn,
    pub started: PgTime,
    pub timeline: u32,
    pub slot: String,
    /// Why this epoch began and, if there was an epoch before, why that one ended.
    pub cause: String,
    /// The end of the epoch before. Between that end and `start` lies a gap.
    pub after: Option<GapStart>,
}

/// Where continuity was lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapStart {
    pub epoch: u32,
    pub lsn: Lsn,
    /// The last moment before the gap that can be recovered.
    pub time: Option<PgTime>,
    /// The changes that the epoch before may lack at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<Doubt>,
}

/// Changes that may be missing without a trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubt {
    /// No change that committed before this position is missing.
    pub from: Lsn,
    pub tables: Vec<String>,
    pub why: String,
}

impl Epoch {
    pub fn new(
        number: u32,
        start: Lsn,
        started: PgTime,
        timeline: u32,
        slot: String,
        cause: String,
    ) -> Epoch {
        Epoch { format: FORMAT, number, start, started, timeline, slot, cause, after: None }
    }
}

impl History {
    /// Reads all epochs, oldest first.
    ///
    /// # Errors
    /// `Damaged` if an epoch cannot be read or is missing in between.
    pub fn epochs(&self) -> Result<Vec<Epoch>> {
        let count = self.store().list(ObjectKind::Epoch)?.len();
        (1..=count as u32).map(|number| self.epoch(number)).collect()
    }

    /// The epoch that `capture` writes to.
    ///
    /// # Errors
    /// `Damaged` if the history has none.
    pub fn current_epoch(&self) -> Result<Epoch> {
        let none = || Error::damaged(format!("{} has no epochs", self.place()));
        self.epochs()?.pop().ok_or_else(none)
    }

    fn epoch(&self, number: u32) -> Result<Epoch> {
        let name = ObjectName::epoch(number);
        let missing = || Error::damaged(format!("{} is missing", self.store().locate(&name)));
        let epoch: Epoch = read_object(self.store(), &name, self.authorship())?.ok_or_else(missing)?;
        if epoch.number != number || epoch.slot != self.identity().slot() {
            return Err(Error::damaged(format!(
                "{} is epoch {} of slot {}, not what its name says; bring it back with `backwhen repair`",
                self.store().locate(&name),
                epoch.number,
                epoch.slot
            )));
        }
        Ok(epoch)
    }
}

/// Makes an epoch part of the history in `store`.
///
/// # Errors
/// `Unavailable` if the disk does not take it, `Refused` if the history's key was not given.
pub fn begin(store: &dyn Store, epoch: &Epoch, authorship: &Authorship) -> Result<()> {
    write_object(store, &ObjectName::epoch(epoch.number), epoch, authorship)
}
