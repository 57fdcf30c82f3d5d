//! The journal's functions by the paths of files, which is how the tests know the segments that they spoil.

use std::path::{Path, PathBuf};

use super::super::{
    Footer, Journal, OpenSegmentEnd, RecoveredJournal, Segment, SegmentName, SegmentReport, SegmentSummary,
    Writer,
};
use crate::error::Result;
use crate::history::key::Authorship;
use crate::model::Lsn;

/// The journal and the name of a segment whose file lies in the folder `journal` of a history.
pub(super) fn at(path: &Path, authorship: &Authorship) -> (Journal, SegmentName) {
    let folder = path.parent().unwrap();
    assert!(folder.ends_with("journal"));
    let journal = Journal::in_folder(folder.parent().unwrap(), authorship);
    let sealed = path.extension().unwrap() == "seg";
    let name = SegmentName::parse(path.file_stem().unwrap().to_str().unwrap(), sealed).unwrap();
    (journal, name)
}

/// Returns the folder of the segments of the history at `root`, and creates it if it is missing.
pub(super) fn folder_in(root: &Path) -> PathBuf {
    let folder = root.join("journal");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

pub(super) fn segments(root: &Path) -> Vec<PathBuf> {
    let journal = Journal::in_folder(root, &Authorship::Unkeyed);
    journal.list().unwrap().into_iter().map(|name| PathBuf::from(journal.locate(name))).collect()
}

pub(super) fn open_writer(
    root: &Path,
    history: [u8; 16],
    epoch: u32,
    start: Lsn,
    authorship: &Authorship,
) -> Result<(Writer, RecoveredJournal)> {
    Writer::open(&Journal::in_folder(root, authorship), history, epoch, start)
}

/// Finishes the open segment, and returns its path.
pub(super) fn roll(writer: &mut Writer) -> PathBuf {
    let name = writer.roll_now().unwrap().unwrap();
    PathBuf::from(writer.journal.locate(name))
}

pub(super) fn open_segment(path: &Path, authorship: &Authorship) -> Result<Segment> {
    let (journal, name) = at(path, authorship);
    Segment::open(&journal, name)
}

pub(super) fn scan_segment(path: &Path, authorship: &Authorship) -> Result<Segment> {
    let (journal, name) = at(path, authorship);
    Segment::scan(&journal, name)
}

pub(super) fn seal(path: &Path, authorship: &Authorship) -> Result<SegmentSummary> {
    let (journal, name) = at(path, authorship);
    super::super::seal(&journal, name)
}

pub(super) fn verify_segment(path: &Path, authorship: &Authorship) -> Result<SegmentReport> {
    let (journal, name) = at(path, authorship);
    super::super::verify_segment(&journal, name)
}

pub(super) fn read_footer(path: &Path, authorship: &Authorship) -> Result<Footer> {
    let (journal, name) = at(path, authorship);
    super::super::read_footer(&*journal.store, &name.object(), authorship)
}

pub(super) fn check_digest(path: &Path, authorship: &Authorship) -> Result<Footer> {
    let (journal, name) = at(path, authorship);
    super::super::check_digest(&*journal.store, &name.object(), authorship)
}

pub(super) fn open_segment_end(path: &Path, authorship: &Authorship) -> Result<OpenSegmentEnd> {
    let (journal, name) = at(path, authorship);
    super::super::open_segment_end(&journal, name)
}
