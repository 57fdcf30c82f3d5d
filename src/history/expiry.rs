//! The record of an expiry, which says which objects may be missing from a history.
//!
//! `expire` makes the record durable before it removes anything. A record permits that objects are missing, and does not
//! forbid that they are there: older moments whose objects are all there, as in a copy, can be recovered as ever.

use serde::{Deserialize, Serialize};

use super::checkpoint::position_of;
use super::epoch::Epoch;
use super::evidence::Evidence;
use super::journal::SegmentName;
use super::key::Authorship;
use super::{History, read_object, write_object};
use crate::error::Result;
use crate::model::{Lsn, PgTime};
use crate::store::{ObjectKind, ObjectName, Store};

/// The content of `expired/TIME.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expiry {
    pub format: u32,
    /// When the expiry began, by the clock of the machine that carried it out.
    pub at: PgTime,
    pub backwhen: String,
    /// The rules that were asked for, as typed.
    pub rules: Vec<String>,
    /// The oldest checkpoint that was kept with the journal after it. Every checkpoint before its epoch and position may be
    /// missing, unless it is one of `singles`.
    pub checkpoint: String,
    pub epoch: u32,
    pub lsn: Lsn,
    pub time: PgTime,
    /// The segments of that epoch from here on were kept, and all segments before were removed.
    pub journal_from: Lsn,
    /// The ids of the earlier checkpoints that are kept all the same, as single moments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub singles: Vec<String>,
    /// The names of the packs, archives and lists of roles that were removed.
    pub packs: Vec<String>,
    pub schemas: Vec<String>,
}

impl Expiry {
    /// Whether moments were removed, and not only objects that no checkpoint named.
    pub fn let_go(&self, first: &Epoch) -> bool {
        (self.epoch, self.lsn) > (first.number, first.start)
    }

    pub fn covers_checkpoint(&self, id: &str) -> bool {
        position_of(id).is_some_and(|position| position < (self.epoch, self.lsn))
            && !self.singles.iter().any(|single| single == id)
    }

    pub fn covers_segment(&self, name: SegmentName) -> bool {
        (name.epoch, name.start) < (self.epoch, self.journal_from)
    }

    /// Whether evidence is about removed moments only. Evidence that cannot be read is kept, so that `verify` names it.
    pub fn covers_evidence(&self, store: &dyn Store, name: &ObjectName, authorship: &Authorship) -> bool {
        let evidence = read_object::<Evidence>(store, name, authorship).ok().flatten();
        evidence.is_some_and(|it| it.up_to.is_some_and(|up_to| up_to.time < self.time))
    }

    /// Returns the position from which on nothing of an epoch's journal may be missing; `None` if all of it may be missing.
    pub fn must_hold_from(&self, epoch: &Epoch) -> Option<Lsn> {
        match epoch.number.cmp(&self.epoch) {
            std::cmp::Ordering::Less => None,
            std::cmp::Ordering::Equal => Some(self.journal_from.max(epoch.start)),
            std::cmp::Ordering::Greater => Some(epoch.start),
        }
    }
}

impl History {
    /// Returns the record that reaches furthest, with the names of the objects that all records cover.
    ///
    /// # Errors
    /// `Damaged` if one cannot be read.
    pub fn expiry(&self) -> Result<Option<Expiry>> {
        expiry_in(self.store(), self.authorship())
    }

    /// Makes a record durable, and returns its name.
    ///
    /// # Errors
    /// `Unavailable` if the disk does not take it.
    pub(super) fn record_expiry(&self, expiry: &Expiry) -> Result<ObjectName> {
        let stem = expiry.at.to_utc().format("%Y%m%dT%H%M%S%6fZ").to_string();
        self.store().put_numbered(ObjectKind::Expiry, &stem, |name| {
            write_object(self.store(), name, expiry, self.authorship())
        })
    }
}

/// Returns the record in a store that reaches furthest, with the names of the objects that all records cover.
///
/// # Errors
/// `Damaged` if a record cannot be read.
pub fn expiry_in(store: &dyn Store, authorship: &Authorship) -> Result<Option<Expiry>> {
    let mut furthest: Option<Expiry> = None;
    let (mut packs, mut schemas, mut records) = (Vec::new(), Vec::new(), Vec::new());
    for name in store.list_sorted(ObjectKind::Expiry)? {
        let Some(mut expiry) = read_object::<Expiry>(store, &name, authorship)? else { continue };
        packs.append(&mut expiry.packs);
        schemas.append(&mut expiry.schemas);
        let further = |known: &Expiry| (known.epoch, known.lsn) <= (expiry.epoch, expiry.lsn);
        if furthest.as_ref().is_none_or(further) {
            furthest = Some(expiry.clone());
        }
        records.push(expiry);
    }
    Ok(furthest.map(|mut expiry| {
        // A checkpoint that one of the records permits to be missing may be missing: a copy may have had an expiry of its own.
        expiry.singles.retain(|id| !records.iter().any(|it| it.covers_checkpoint(id)));
        Expiry { packs, schemas, ..expiry }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::pins::Pin;
    use crate::store::Folder;

    const SINGLES: [&str; 2] = ["0001-0000000001000000", "0002-0000000002000000"];

    fn fixture() -> Folder {
        Folder::new(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/formats/thinned-v2"))
    }

    #[test]
    fn the_record_and_the_pin_of_format_2_stay_readable() {
        let store = fixture();
        let expiry = expiry_in(&store, &Authorship::Unkeyed).unwrap().unwrap();
        assert_eq!((expiry.format, expiry.singles.as_slice()), (2, &SINGLES.map(str::to_owned)[..]));
        assert!(SINGLES.iter().all(|id| !expiry.covers_checkpoint(id)));
        assert!(expiry.covers_checkpoint("0001-0000000001000001"), "it may be missing");
        assert!(!expiry.covers_checkpoint("0002-0000000003000000"), "it is the oldest with its journal");
        let name = ObjectName::new(ObjectKind::Pin, SINGLES[0]);
        let pin: Pin = read_object(&store, &name, &Authorship::Unkeyed).unwrap().unwrap();
        assert_eq!((&*pin.checkpoint, &*pin.reason), (SINGLES[0], "before the audit"));
    }

    /// A copy has the records of the original and its own.
    #[test]
    fn a_checkpoint_that_one_record_lets_go_may_be_missing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Folder::new(folder.path());
        let further = expiry_in(&fixture(), &Authorship::Unkeyed).unwrap().unwrap();
        let nearer = Expiry { epoch: 1, lsn: Lsn(0x0200_0000), singles: Vec::new(), ..further.clone() };
        for (stem, record) in [("1", &further), ("2", &nearer)] {
            let name = ObjectName::new(ObjectKind::Expiry, stem);
            write_object(&store, &name, record, &Authorship::Unkeyed).unwrap();
        }
        let both = expiry_in(&store, &Authorship::Unkeyed).unwrap().unwrap();
        assert_eq!((both.epoch, both.lsn), (further.epoch, further.lsn));
        assert_eq!(both.singles, [SINGLES[1]]);
    }
}
