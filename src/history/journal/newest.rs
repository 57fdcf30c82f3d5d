//! Looks at the forms of an epoch's newest segment, before the writer decides what to do with them.

use super::fault::SegmentFault;
use super::footer::Footer;
use super::name::SegmentName;
use super::place::Journal;
use super::recovery::{OpenForm, SealedForm};
use super::verify;
use super::walk::{Tail, Walk, walk};
use crate::error::{Error, Kind, Result};

/// The forms of an epoch's newest segment, and the facts that the recovery table asks for.
pub(super) struct NewestSegment {
    /// The segment, in the form in which it was found; `None` if the epoch has no segment.
    pub(super) name: Option<SegmentName>,
    pub(super) open: OpenForm,
    pub(super) walk: Option<Walk>,
    pub(super) sealed: SealedForm,
    pub(super) footer: Option<Footer>,
    /// The fault of the first form that has one.
    pub(super) fault: Option<Error>,
    /// Finished open segments, oldest first, also of earlier epochs.
    pub(super) unsealed: Vec<SegmentName>,
}

/// # Errors
/// `Unavailable` if a segment cannot be read, `Refused` if a sealed one is of another history,
/// `Internal` if a later epoch has begun.
pub(super) fn find(journal: &Journal, history: [u8; 16], epoch: u32) -> Result<NewestSegment> {
    let names = journal.list_all()?;
    if let Some(later) = names.iter().find(|name| name.epoch > epoch) {
        return Err(Error::internal(format!(
            "epoch {epoch} is over: the journal has reached epoch {} with {}",
            later.epoch,
            journal.locate(*later)
        )));
    }
    let newest = names.iter().filter(|name| name.epoch == epoch).map(|name| name.start).max();
    let (newest, older): (Vec<_>, Vec<_>) =
        names.into_iter().partition(|name| name.epoch == epoch && Some(name.start) == newest);
    let mut found = NewestSegment {
        // The open form, if both are there, as it sorts first.
        name: newest.first().copied(),
        open: OpenForm::Missing,
        walk: None,
        sealed: SealedForm::Missing,
        footer: None,
        fault: None,
        unsealed: older.into_iter().filter(|name| !name.sealed).collect(),
    };
    for name in newest {
        if name.sealed {
            found.look_at_sealed(journal, name, history)?;
        } else {
            found.look_at_open(journal, name, history)?;
        }
    }
    Ok(found)
}

impl NewestSegment {
    fn look_at_open(&mut self, journal: &Journal, name: SegmentName, history: [u8; 16]) -> Result<()> {
        let bytes = journal.open(name)?;
        self.open = match bytes.header() {
            Err(SegmentFault::Newer) => OpenForm::Newer,
            Err(fault) => {
                self.fault.get_or_insert(bytes.fault(0, fault));
                OpenForm::BadHeader
            }
            Ok(header) if header.history != history => OpenForm::Foreign,
            Ok(header) if !header.agrees_with(name) => {
                let fault = SegmentFault::bad("the header names another epoch or start than the file's name");
                self.fault.get_or_insert(bytes.fault(0, fault));
                OpenForm::Misnamed
            }
            Ok(header) => {
                let key = header.key(name, &journal.authorship).map_err(|fault| bytes.fault(0, fault))?;
                let walk = walk(&*bytes.object, header.start, bytes.len(), key.as_ref());
                let open = match &walk.tail {
                    Tail::Whole => OpenForm::Whole,
                    Tail::Incomplete => OpenForm::Incomplete,
                    Tail::Torn => OpenForm::Torn,
                    Tail::Newer => OpenForm::Newer,
                    Tail::Damaged { offset, what } => {
                        self.fault.get_or_insert(bytes.fault(*offset, SegmentFault::bad(what)));
                        OpenForm::Damaged
                    }
                };
                self.walk = Some(walk);
                open
            }
        };
        Ok(())
    }

    fn look_at_sealed(&mut self, journal: &Journal, name: SegmentName, history: [u8; 16]) -> Result<()> {
        if journal.open(name)?.header().is_ok_and(|header| header.history != history) {
            return Err(foreign(&journal.locate(name)));
        }
        self.sealed = match verify::check_digest(&*journal.store, &name.object(), &journal.authorship) {
            Ok(footer) => {
                self.footer = Some(footer);
                SealedForm::Valid
            }
            Err(error) if error.kind() == Kind::Refused => SealedForm::Newer,
            Err(error) if error.kind() == Kind::Damaged => {
                self.fault.get_or_insert(error);
                SealedForm::Invalid
            }
            Err(error) => return Err(error),
        };
        Ok(())
    }
}

pub(super) fn foreign(place: &str) -> Error {
    Error::refused(format!("{place} belongs to another history; move it out of this one's folder"))
}
