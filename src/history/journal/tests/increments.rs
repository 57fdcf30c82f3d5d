//! An open segment in an object store.

use std::path::Path;
use std::sync::Arc;

use super::super::increments::{check_increment, fetch};
use super::super::{BlockBuilder, FollowedSegment, Journal, Segment, Writer, mirror};
use crate::error::Kind;
use crate::history::key::Authorship;
use crate::model::Lsn;
use crate::store::{MemoryStore, ObjectKind, ObjectName, Store, StoreFault};

fn append(writer: &mut Writer, from: u64, commit: u64) {
    let begin = [&b"B"[..], &commit.to_be_bytes(), &[0; 8], &[0, 0, 0, 1]].concat();
    let end = [&b"C\0"[..], &commit.to_be_bytes(), &(commit + 1).to_be_bytes(), &[0; 8]].concat();
    let mut builder = BlockBuilder::new(Lsn(from));
    builder.push(&begin).unwrap();
    builder.push(&end).unwrap();
    writer.write(builder.take_complete().unwrap()).unwrap();
    writer.sync().unwrap();
}

fn remote(memory: &MemoryStore, scratch: &Path) -> Journal {
    Journal::new(Arc::new(memory.clone()), fetch(memory, scratch).unwrap(), Authorship::Unkeyed)
}

fn names(memory: &MemoryStore) -> Vec<ObjectName> {
    let store: &dyn Store = memory;
    store.list_sorted(ObjectKind::Increment).unwrap()
}

#[test]
fn an_open_segment_grows_by_increments_and_is_read_as_one() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), MemoryStore::default());
    let journal = Journal::in_folder(folder.path(), &Authorship::Unkeyed);
    let (mut writer, _) = Writer::open(&journal, [7; 16], 1, Lsn(1)).unwrap();
    let name = journal.list().unwrap().remove(0);
    for number in 1..5_u64 {
        append(&mut writer, (number - 1) * 10 + 1, number * 10);
        let sent = mirror(&journal, &remote(&memory, folder.path()), name).unwrap();
        assert!(sent.bytes > 0 && sent.end == Lsn(number * 10 + 1), "{sent:?}");
        assert_eq!(mirror(&journal, &remote(&memory, folder.path()), name).unwrap().bytes, 0);
        let copy = remote(&memory, folder.path());
        assert_eq!(copy.list().unwrap(), [name]);
        assert_eq!(Segment::open(&copy, name).unwrap().transactions().len() as u64, number);
    }
    assert_eq!(names(&memory).len(), 4);
    let copy = remote(&memory, folder.path());
    copy.remove(name).unwrap();
    assert_eq!(names(&memory), []);
}

#[test]
fn a_damaged_missing_or_foreign_increment_is_named_and_one_that_is_missing_is_put_again() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), MemoryStore::default());
    let journal = Journal::in_folder(folder.path(), &Authorship::Unkeyed);
    let (mut writer, _) = Writer::open(&journal, [7; 16], 1, Lsn(1)).unwrap();
    let name = journal.list().unwrap().remove(0);
    for number in 1..4_u64 {
        append(&mut writer, (number - 1) * 10 + 1, number * 10);
        mirror(&journal, &remote(&memory, folder.path()), name).unwrap();
    }
    for at in 0..3 {
        let object = names(&memory).remove(at);
        let whole = memory.read(&object).unwrap().unwrap();
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for bad in [&flipped[..], &whole[..whole.len() - 1], &whole[..40], b""] {
            memory.remove(std::slice::from_ref(&object)).unwrap();
            memory.put_new(&object, bad).unwrap();
            assert_eq!(check_increment(&memory, &object).unwrap_err().kind(), Kind::Damaged);
            let copy = remote(&memory, folder.path());
            let fault = Segment::open(&copy, name).unwrap_err();
            assert!(fault.kind() == Kind::Damaged && fault.message().contains(object.stem()), "{fault}");
        }
        memory.remove(std::slice::from_ref(&object)).unwrap();
        assert!(mirror(&journal, &remote(&memory, folder.path()), name).unwrap().bytes > 0);
        assert!(memory.read(&object).unwrap().unwrap() == whole);
        assert!(Segment::open(&remote(&memory, folder.path()), name).is_ok());
    }
    let (other, _kept) = (tempfile::tempdir().unwrap(), writer);
    let fork = Journal::in_folder(other.path(), &Authorship::Unkeyed);
    let (mut writer, _) = Writer::open(&fork, [7; 16], 1, Lsn(1)).unwrap();
    append(&mut writer, 1, 12);
    let refused = mirror(&fork, &remote(&memory, folder.path()), name).unwrap_err();
    assert_eq!(refused.kind(), Kind::Refused, "{refused}");
}

#[test]
fn a_followed_segment_goes_on_after_every_fault_and_never_beyond_what_is_synced() {
    for fault in [StoreFault::Fail, StoreFault::Tear, StoreFault::LoseAnswer] {
        let (folder, memory) = (tempfile::tempdir().unwrap(), MemoryStore::default());
        let journal = Journal::in_folder(folder.path(), &Authorship::Unkeyed);
        let (mut writer, recovered) = Writer::open(&journal, [7; 16], 1, Lsn(1)).unwrap();
        let name = journal.list().unwrap().remove(0);
        append(&mut writer, 1, 10);
        let mut followed = FollowedSegment::begin(&journal, &memory, name).unwrap();
        // Nothing has been told to be synced but the empty segment.
        let first = followed.follow(&journal, &memory, Some(recovered.durable)).unwrap();
        assert_eq!((first.end, followed.increments()), (Lsn(1), 1));
        append(&mut writer, 11, 20);
        let synced = writer.sync().unwrap();
        memory.fail_at(0, fault);
        let failed = followed.follow(&journal, &memory, Some(synced));
        assert_eq!(failed.unwrap_err().kind(), Kind::Unavailable, "{fault:?}");
        // Meanwhile the segment has grown.
        append(&mut writer, 21, 30);
        let synced = writer.sync().unwrap();
        assert_eq!(followed.follow(&journal, &memory, Some(synced)).unwrap().end, Lsn(31));
        let copy = remote(&memory, folder.path());
        assert_eq!(Segment::open(&copy, name).unwrap().transactions().len(), 3, "{fault:?}");
        // Another process goes on with the same journal in another way.
        let at = names(&memory).len();
        let other = tempfile::tempdir().unwrap();
        let fork = Journal::in_folder(other.path(), &Authorship::Unkeyed);
        let (mut theirs, _) = Writer::open(&fork, [7; 16], 1, Lsn(1)).unwrap();
        append(&mut theirs, 1, 11);
        let refused = FollowedSegment::begin(&fork, &memory, name).err().unwrap();
        assert_eq!((refused.kind(), names(&memory).len()), (Kind::Refused, at), "{refused}");
    }
}
