//! Tests of a dispersal over stores in memory, of which some are lost, damaged or away.

use super::*;
use crate::progress::Silent;
use crate::store::MemoryStore;

/// A dispersal over stores in memory, and the stores.
fn dispersed(k: usize, m: usize, tolerate: usize, stores: &[MemoryStore]) -> Dispersed {
    let member = |(number, store): (usize, &MemoryStore)| {
        Arc::new(Member::new(number, format!("memory:{number}"), Arc::new(store.clone()), None))
    };
    let all = stores.iter().enumerate().map(member).collect();
    Dispersed::new(Code { k, m }, tolerate, all, &ambient::temporary_place().join("backwhen-test-drafts"))
}

fn stores(count: usize) -> Vec<MemoryStore> {
    (0..count).map(|_| MemoryStore::default()).collect()
}

fn pack() -> ObjectName {
    ObjectName::new(ObjectKind::Pack, "one")
}

fn bytes(len: u64) -> Vec<u8> {
    (0..len).map(|at| (at * 7 % 251) as u8).collect()
}

fn shard_of(store: &MemoryStore, of: &ObjectName) -> ObjectName {
    let shards = store.list(ObjectKind::Shard).unwrap();
    shards.into_iter().find(|shard| object_of(shard).is_some_and(|(name, _)| name == *of)).unwrap()
}

#[test]
fn any_m_stores_may_be_away() {
    let (memory, whole) = (stores(6), bytes(900_000));
    let writer = dispersed(4, 2, 1, &memory);
    writer.put_new(&pack(), &whole).unwrap();
    writer.put_new(&ObjectName::epoch(1), b"epoch").unwrap();
    for one in 0..6 {
        for other in 0..6 {
            memory.iter().enumerate().for_each(|(number, it)| it.set_away(number == one || number == other));
            let reader = dispersed(4, 2, 1, &memory);
            assert!(reader.read(&pack()).unwrap().unwrap() == whole, "{one}, {other}");
            assert_eq!(reader.read(&ObjectName::epoch(1)).unwrap().unwrap(), b"epoch");
            assert_eq!(reader.list(ObjectKind::Pack).unwrap(), [pack()]);
            let (object, mut range) = (reader.open(&pack()).unwrap().unwrap(), vec![0; 300_000]);
            object.read_exact_at(&mut range, 123_456).unwrap();
            assert!(range == whole[123_456..423_456]);
        }
    }
    memory.iter().take(3).for_each(|it| it.set_away(true));
    let error = dispersed(4, 2, 1, &memory).read(&pack()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
}

#[test]
fn damaged_and_cut_shards_are_passed_over_and_made_again() {
    let (memory, whole) = (stores(5), bytes(700_000));
    dispersed(3, 2, 1, &memory).put_new(&pack(), &whole).unwrap();
    dispersed(3, 2, 1, &memory).put_new(&ObjectName::epoch(1), b"epoch").unwrap();
    for first in 0..5 {
        let second = (first + 2) % 5;
        memory[first].damage(&shard_of(&memory[first], &pack()), |bytes| bytes[70_000] ^= 1);
        memory[second].damage(&shard_of(&memory[second], &pack()), |bytes| bytes.truncate(100_000));
        memory[first].damage(&shard_of(&memory[first], &ObjectName::epoch(1)), |bytes| bytes[0] ^= 1);
        let store = dispersed(3, 2, 1, &memory);
        assert!(store.read(&pack()).unwrap().unwrap() == whole);
        assert_eq!(store.read(&ObjectName::epoch(1)).unwrap().unwrap(), b"epoch");
        let found = store.survey(false, &Silent).unwrap();
        assert_eq!((found.could_lose, found.stores[first].damaged, found.stores[second].damaged), (0, 2, 1));
        let healed = dispersed(3, 2, 1, &memory).survey(true, &Silent).unwrap();
        assert_eq!((healed.could_lose, healed.faults.len(), healed.stores[first].healed), (2, 0, 2));
        let after = dispersed(3, 2, 1, &memory).survey(false, &Silent).unwrap();
        assert!(after.could_lose == 2 && after.stores.iter().all(|it| it.lacks + it.damaged == 0));
    }
}

#[test]
fn a_put_may_lack_as_many_stores_as_are_tolerated() {
    let (memory, whole) = (stores(6), bytes(300_000));
    dispersed(4, 2, 1, &memory).put_new(&ObjectName::epoch(1), b"epoch").unwrap();
    memory[2].set_away(true);
    dispersed(4, 2, 1, &memory).put_new(&pack(), &whole).unwrap();
    memory[3].set_away(true);
    let writer = dispersed(4, 2, 1, &memory);
    let other = ObjectName::new(ObjectKind::Pack, "two");
    assert_eq!(writer.put_new(&other, &whole).unwrap_err().kind(), Kind::Unavailable);
    assert!(!writer.holds(&other).unwrap(), "too few stores have it");
    memory.iter().for_each(|it| it.set_away(false));
    dispersed(4, 2, 1, &memory).put_new(&other, &whole).unwrap();
    let again = dispersed(4, 2, 1, &memory).put_new(&other, &whole).unwrap_err();
    assert_eq!(again.kind(), Kind::Internal, "{again}");
    let healed = dispersed(4, 2, 1, &memory).survey(true, &Silent).unwrap();
    assert_eq!((healed.could_lose, healed.stores[2].lacks, healed.stores[2].healed), (2, 1, 1));
}

#[test]
fn a_lost_store_is_filled_by_a_repair_and_not_before() {
    let (mut memory, whole) = (stores(3), bytes(200_000));
    dispersed(2, 1, 0, &memory).put_new(&pack(), &whole).unwrap();
    memory[1] = MemoryStore::default();
    let store = dispersed(2, 1, 0, &memory);
    let error = store.put_new(&ObjectName::epoch(1), b"epoch").unwrap_err();
    assert!(error.kind() == Kind::Unavailable && error.to_string().contains("backwhen repair"), "{error}");
    let healed = dispersed(2, 1, 0, &memory).survey(true, &Silent).unwrap();
    assert_eq!((healed.could_lose, healed.faults), (1, Vec::<String>::new()));
    memory[0].set_away(true);
    assert!(dispersed(2, 1, 0, &memory).read(&pack()).unwrap().unwrap() == whole);
}

#[test]
fn stores_are_known_by_their_marks() {
    let mut memory = stores(3);
    dispersed(2, 1, 0, &memory).put_new(&pack(), b"x").unwrap();
    memory.swap(0, 2);
    assert_eq!(dispersed(2, 1, 0, &memory).read(&pack()).unwrap_err().kind(), Kind::Refused);
    memory.swap(0, 2);
    let others = stores(3);
    dispersed(2, 1, 0, &others).put_new(&pack(), b"y").unwrap();
    memory[1] = others[1].clone();
    assert_eq!(dispersed(2, 1, 0, &memory).list(ObjectKind::Pack).unwrap_err().kind(), Kind::Refused);
}

#[test]
fn two_processes_that_see_other_stores_never_both_have_a_role() {
    let memory = stores(6);
    dispersed(4, 2, 1, &memory).put_new(&pack(), b"x").unwrap();
    for (one, other) in [(0, 1), (0, 5), (3, 0)] {
        memory[one].set_away(true);
        let (first, second) = (dispersed(4, 2, 1, &memory), dispersed(4, 2, 1, &memory));
        let lease = first.lease(Role::Capture, "capture").unwrap();
        memory[one].set_away(false);
        memory[other].set_away(true);
        let error = second.lease(Role::Capture, "copy").unwrap_err();
        assert_eq!(error.kind(), Kind::Locked, "{error}");
        memory[other].set_away(false);
        drop(lease);
        drop(dispersed(4, 2, 1, &memory).lease(Role::Capture, "copy").unwrap());
    }
    memory[0].set_away(true);
    let error = dispersed(4, 2, 1, &memory).lease(Role::Objects, "expire").unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "objects are removed from every store, {error}");
    let removal = dispersed(4, 2, 1, &memory).remove(&[pack()]).unwrap_err();
    assert_eq!(removal.kind(), Kind::Unavailable, "{removal}");
}
