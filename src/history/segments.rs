//! The segments that a reader of a history has open, each of which is opened once and then shared.
//!
//! Opening a segment that is still written to means reading all of it: its blocks are checked, decompressed and
//! digested. A second look must show the same transactions as the first one, or two answers about one moment would not
//! agree. So a table of open segments belongs to one [`Timeline`](super::timeline::Timeline), which is shared by all who
//! ask about its moments.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::journal::{Journal, KeptBlocks, Lookup, Segment, SegmentName, SoughtRows, look_up};
use crate::error::{Kind, Result};
use crate::model::Lsn;

/// With more sealed segments open than this, the one that was asked for longest ago is closed: each has a file
/// descriptor, of which a process usually has 1024.
const MOST_SEALED: usize = 64;

/// With more bytes of footers in memory than this, sealed segments are closed likewise.
const MOST_FOOTER_BYTES: usize = 64 << 20;

/// A table of open segments, see the module.
#[derive(Debug)]
pub struct Segments {
    journal: Journal,
    /// The segment that was asked for last stands last.
    open: Mutex<VecDeque<OpenSegment>>,
    /// A segment as it was when it was still written to, from which its reader goes on.
    earlier: Option<Arc<Segment>>,
    kept: Arc<KeptBlocks>,
}

#[derive(Debug)]
struct OpenSegment {
    epoch: u32,
    start: Lsn,
    /// The bytes that the footer takes in memory.
    bytes: usize,
    segment: Arc<Segment>,
}

impl Segments {
    /// An empty table of the segments of `journal`.
    pub fn new(journal: &Journal) -> Segments {
        Segments { journal: journal.clone(), open: Mutex::default(), earlier: None, kept: Arc::default() }
    }

    /// An empty table, in which a segment that has grown since is read from where `earlier` ends.
    pub fn after(journal: &Journal, earlier: Arc<Segment>) -> Segments {
        Segments { earlier: Some(earlier), ..Segments::new(journal) }
    }

    /// Returns the segment, which is opened if it is not open yet. Other threads wait meanwhile, so that no segment is
    /// opened twice.
    ///
    /// # Errors
    /// Fails as [`Segment::open`] does.
    pub fn open(&self, name: SegmentName) -> Result<Arc<Segment>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let known = open.iter().position(|it| (it.epoch, it.start) == (name.epoch, name.start));
        if let Some(known) = known.and_then(|at| open.remove(at)) {
            // A segment that was opened while capture wrote to it may lack the end of the segment that is sealed by now.
            if known.segment.is_sealed() || !name.sealed {
                let segment = Arc::clone(&known.segment);
                open.push_back(known);
                return Ok(segment);
            }
        }
        let earlier = self.earlier.as_ref().filter(|it| it.name().form(false) == name.form(false));
        let segment = match earlier {
            Some(earlier) => earlier.reopen(&self.journal)?,
            None => Segment::open(&self.journal, name)?,
        };
        let segment = Arc::new(segment);
        let (epoch, start, bytes) = (name.epoch, name.start, segment.footer().memory());
        open.push_back(OpenSegment { epoch, start, bytes, segment: Arc::clone(&segment) });
        close_the_oldest(&mut open);
        Ok(segment)
    }

    /// The decompressed blocks of these segments that questions about few rows read again.
    pub fn kept_blocks(&self) -> &Arc<KeptBlocks> {
        &self.kept
    }

    /// Looks rows up in a sealed segment without opening it; `None` if an earlier version sealed it, or if its footer is
    /// damaged, so that whoever needs the segment opens it in another form.
    ///
    /// # Errors
    /// Fails as [`Segment::open`] does.
    pub fn look_up(&self, name: SegmentName, rows: &SoughtRows) -> Result<Option<Lookup>> {
        match look_up(&self.journal, name, rows) {
            Err(error) if error.kind() == Kind::Damaged => Ok(None),
            found => found,
        }
    }
}

/// Closes sealed segments until the others are within bounds. A segment that is still written to stays, since
/// opening it again would cost most and show more than before; so does the one that was asked for last.
fn close_the_oldest(open: &mut VecDeque<OpenSegment>) {
    loop {
        let sealed = || open.iter().filter(|it| it.segment.is_sealed());
        let bytes: usize = sealed().map(|it| it.bytes).sum();
        if sealed().count() <= MOST_SEALED && bytes <= MOST_FOOTER_BYTES {
            return;
        }
        let Some(oldest) = open.iter().position(|it| it.segment.is_sealed()) else { return };
        if oldest + 1 == open.len() {
            return;
        }
        open.remove(oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::journal::{BlockBuilder, Writer, seal};
    use crate::history::key::Authorship;

    fn journal(root: &std::path::Path) -> (Journal, Writer) {
        let journal = Journal::in_folder(root, &Authorship::Unkeyed);
        let (writer, _) = Writer::open(&journal, [7; 16], 1, Lsn(1)).unwrap();
        (journal, writer)
    }

    fn transaction(commit: u64) -> [Vec<u8>; 2] {
        let begin = [&b"B"[..], &commit.to_be_bytes(), &[0; 8], &[0, 0, 0, 1]].concat();
        let end = [&b"C\0"[..], &commit.to_be_bytes(), &(commit + 1).to_be_bytes(), &[0; 8]].concat();
        [begin, end]
    }

    fn append(writer: &mut Writer, from: u64, commit: u64) {
        let mut builder = BlockBuilder::new(Lsn(from));
        for message in transaction(commit) {
            builder.push(&message).unwrap();
        }
        writer.write(builder.take_complete().unwrap()).unwrap();
        writer.sync().unwrap();
    }

    fn commits(segment: &Segment) -> Vec<u64> {
        segment.transactions().iter().map(|entry| entry.commit_lsn.0).collect()
    }

    #[test]
    fn an_open_segment_stays_as_it_was_when_it_was_first_read() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, mut writer) = journal(folder.path());
        append(&mut writer, 1, 10);
        let segments = Segments::new(&journal);
        let file = journal.list().unwrap().remove(0);
        assert_eq!(commits(&segments.open(file).unwrap()), [10]);
        append(&mut writer, 11, 20);
        assert_eq!(commits(&segments.open(file).unwrap()), [10], "its other moments are resolved by this");
        assert_eq!(commits(&Segments::new(&journal).open(file).unwrap()), [10, 20]);

        let finished = writer.roll_now().unwrap().unwrap();
        seal(&journal, finished).unwrap();
        assert_eq!(commits(&segments.open(file).unwrap()), [10], "who knows it as open");
        let sealed = journal.list().unwrap().remove(0);
        assert!(sealed.sealed);
        assert_eq!(commits(&segments.open(sealed).unwrap()), [10, 20], "who knows where the sealed one ends");
    }

    #[test]
    fn a_segment_that_has_grown_is_read_on() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, mut writer) = journal(folder.path());
        append(&mut writer, 1, 10);
        let file = journal.list().unwrap().remove(0);
        let mut last = Segments::new(&journal).open(file).unwrap();
        for number in 2..5 {
            append(&mut writer, (number - 1) * 10 + 1, number * 10);
            last = Segments::after(&journal, last).open(file).unwrap();
            let whole = Segments::new(&journal).open(file).unwrap();
            assert_eq!(last.footer(), whole.footer());
            assert!(last.relations_at_end().eq(whole.relations_at_end()));
        }
        assert_eq!(commits(&last), [10, 20, 30, 40]);

        let finished = writer.roll_now().unwrap().unwrap();
        append(&mut writer, 41, 50);
        let files = journal.list().unwrap();
        let later = Segments::after(&journal, Arc::clone(&last));
        assert_eq!(commits(&later.open(files[0]).unwrap()), [10, 20, 30, 40]);
        assert_eq!(commits(&later.open(files[1]).unwrap()), [50], "another segment is read from its start");
        seal(&journal, finished).unwrap();
        let sealed = Segments::after(&journal, last).open(file).unwrap();
        assert!(sealed.is_sealed());
        assert_eq!(commits(&sealed), [10, 20, 30, 40]);
    }

    #[test]
    fn sealed_segments_are_open_once_and_not_without_number() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, mut writer) = journal(folder.path());
        for number in 0..MOST_SEALED as u64 + 1 {
            let from = if number == 0 { 1 } else { number * 10 + 1 };
            append(&mut writer, from, number * 10 + 10);
            let finished = writer.roll_now().unwrap().unwrap();
            seal(&journal, finished).unwrap();
        }
        let files = journal.list().unwrap();
        let segments = Segments::new(&journal);
        let first = segments.open(files[0]).unwrap();
        assert!(Arc::ptr_eq(&first, &segments.open(files[0]).unwrap()));
        let open = *files.last().unwrap();
        assert!(!open.sealed);
        let last = segments.open(open).unwrap();
        for file in files.iter().filter(|file| file.sealed) {
            segments.open(*file).unwrap();
        }
        assert!(!Arc::ptr_eq(&first, &segments.open(files[0]).unwrap()), "it had to make room");
        assert!(Arc::ptr_eq(&last, &segments.open(open).unwrap()));
    }
}
