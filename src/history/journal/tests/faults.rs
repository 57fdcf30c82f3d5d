//! Sealing into a store that fails: the open segment stays until its sealed form is whole.

use std::sync::Arc;

use super::super::{BlockBuilder, Journal, Segment, Writer, seal};
use super::stream::{HISTORY, Item, START, drain, random, read_segment};
use crate::history::key::Authorship;
use crate::model::Lsn;
use crate::store::{MemoryStore, Spool, StoreFault};

fn read_all(journal: &Journal) -> Vec<Item> {
    let segments = journal.list().unwrap().into_iter().map(|name| Segment::open(journal, name).unwrap());
    segments.flat_map(|segment| read_segment(&segment, Lsn::ZERO, Lsn::MAX).0).collect()
}

#[test]
fn a_segment_is_never_lost_to_a_store_that_fails() {
    let items = random(41, 30, 20);
    let mut failed = 0;
    for fault in [StoreFault::Fail, StoreFault::Tear, StoreFault::LoseAnswer] {
        for call in 0..8 {
            let (root, memory) = (tempfile::tempdir().unwrap(), MemoryStore::default());
            let spool = Spool::new(root.path());
            let journal = Journal::new(Arc::new(memory.clone()), spool, Authorship::Unkeyed);
            let (mut writer, recovered) = Writer::open(&journal, HISTORY, 1, START).unwrap();
            let mut builder = BlockBuilder::new(recovered.frontier);
            for item in &items {
                item.push(&mut builder);
            }
            drain(&mut builder, &mut writer);
            let finished = writer.roll_now().unwrap().unwrap();
            memory.fail_at(call, fault);
            let sealed = seal(&journal, finished);
            memory.fail_at(u64::MAX >> 1, fault);
            failed += u32::from(sealed.is_err());
            assert!(sealed.is_ok() || journal.holds(finished).unwrap(), "{fault:?} at call {call}");
            assert_eq!(read_all(&journal), items, "{fault:?} at call {call}");
            let summary = seal(&journal, finished).unwrap();
            assert_eq!(sealed.unwrap_or_else(|_| summary.clone()), summary);
            assert!(journal.holds(finished.form(true)).unwrap() && !journal.holds(finished).unwrap());
            assert_eq!(read_all(&journal), items, "{fault:?} at call {call}");
        }
    }
    assert!(failed >= 6, "only {failed} faults were met");
}
