//! Looks at what an epoch's newest segment consists of, before the writer decides.

use std::path::{Path, PathBuf};

use super::fault::Fault;
use super::footer::Footer;
use super::name::{self, SegmentFile, SegmentHeader};
use super::recovery::{Open, Sealed};
use super::segment::open_file;
use super::verify;
use super::walk::{Tail, Walk, walk};
use crate::error::{Error, Kind, Result};
use crate::history::key::Authorship;

/// The files of an epoch's newest segment, and the facts that the recovery table asks for.
pub(super) struct Found {
    pub(super) open: Open,
    pub(super) open_path: Option<PathBuf>,
    pub(super) walk: Option<Walk>,
    pub(super) sealed: Sealed,
    pub(super) sealed_path: Option<PathBuf>,
    pub(super) footer: Option<Footer>,
    /// What is wrong with either, in words.
    pub(super) fault: Option<Error>,
    /// Finished open files, oldest first, also of earlier epochs.
    pub(super) unsealed: Vec<PathBuf>,
}

/// # Errors
/// `Unavailable` if a file cannot be read, `Refused` if a sealed one is of another history,
/// `Internal` if a later epoch has begun.
pub(super) fn find(folder: &Path, history: [u8; 16], epoch: u32, authorship: &Authorship) -> Result<Found> {
    let mut files = name::list_all(folder)?;
    files.sort();
    if let Some(later) = files.iter().map(|file| file.epoch).max().filter(|&newest| newest > epoch) {
        return Err(Error::internal(format!(
            "epoch {epoch} is over: the journal in {} has reached epoch {later}",
            folder.display()
        )));
    }
    let newest = files.iter().filter(|file| file.epoch == epoch).map(|file| file.start).max();
    let (newest, older): (Vec<_>, Vec<_>) =
        files.into_iter().partition(|file| file.epoch == epoch && Some(file.start) == newest);
    let mut found = Found {
        open: Open::Missing,
        open_path: None,
        walk: None,
        sealed: Sealed::Missing,
        sealed_path: None,
        footer: None,
        fault: None,
        unsealed: older.into_iter().filter(|file| !file.sealed).map(|file| file.path).collect(),
    };
    for file in newest {
        if file.sealed {
            found.look_at_sealed(file, history, authorship)?;
        } else {
            found.look_at_open(file, history, authorship)?;
        }
    }
    Ok(found)
}

impl Found {
    fn look_at_open(&mut self, name: SegmentFile, history: [u8; 16], authorship: &Authorship) -> Result<()> {
        let path = name.path;
        let (file, len) = open_file(&path)?;
        self.open = match SegmentHeader::read(&file, false) {
            Err(Fault::Newer) => Open::Newer,
            Err(fault) => {
                self.fault.get_or_insert(fault.at(&path, 0));
                Open::BadHeader
            }
            Ok(header) if header.history != history => Open::Foreign,
            Ok(header) if !header.agrees_with(&path) => {
                let fault = Fault::bad("the header names another epoch or start than the file's name");
                self.fault.get_or_insert(fault.at(&path, 0));
                Open::Misnamed
            }
            Ok(header) => {
                let key = header.key(&path, authorship).map_err(|fault| fault.at(&path, 0))?;
                let walk = walk(&file, header.start, len, key.as_ref());
                let open = match &walk.tail {
                    Tail::Whole => Open::Whole,
                    Tail::Incomplete => Open::Incomplete,
                    Tail::Torn => Open::Torn,
                    Tail::Newer => Open::Newer,
                    Tail::Damaged { offset, what } => {
                        self.fault.get_or_insert(Fault::bad(what).at(&path, *offset));
                        Open::Damaged
                    }
                };
                self.walk = Some(walk);
                open
            }
        };
        self.open_path = Some(path);
        Ok(())
    }

    fn look_at_sealed(
        &mut self,
        name: SegmentFile,
        history: [u8; 16],
        authorship: &Authorship,
    ) -> Result<()> {
        let path = name.path;
        let (file, _) = open_file(&path)?;
        if SegmentHeader::read(&file, true).is_ok_and(|header| header.history != history) {
            return Err(foreign(&path));
        }
        self.sealed = match verify::check_digest(&path, authorship) {
            Ok(footer) => {
                self.footer = Some(footer);
                Sealed::Valid
            }
            Err(error) if error.kind() == Kind::Refused => Sealed::Newer,
            Err(error) if error.kind() == Kind::Damaged => {
                self.fault.get_or_insert(error);
                Sealed::Invalid
            }
            Err(error) => return Err(error),
        };
        self.sealed_path = Some(path);
        Ok(())
    }
}

pub(super) fn foreign(path: &Path) -> Error {
    Error::refused(format!("{} belongs to another history; move it out of this one's folder", path.display()))
}
