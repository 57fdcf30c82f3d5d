//! Tests of a dispersal over stores in memory, of which some are lost, damaged, slow or away.

mod damage;
mod leases;
mod writing;

use super::*;
use crate::ambient;
use crate::progress::Silent;
use crate::store::MemoryStore;

pub(super) fn member(number: usize, store: MemoryStore) -> Member {
    Member::new(number, format!("memory:{number}"), Arc::new(store), None)
}

/// A dispersal over stores in memory, as a process that begins now sees it.
fn dispersed(k: usize, m: usize, tolerate: usize, stores: &[MemoryStore]) -> Dispersed {
    let all =
        stores.iter().enumerate().map(|(number, store)| Arc::new(member(number, store.clone()))).collect();
    let policy = Policy { code: code::Code { k, m }, tolerate };
    Dispersed::new(policy, all, &ambient::temporary_place().join("backwhen-test-drafts"))
}

pub(super) fn stores(count: usize) -> Vec<MemoryStore> {
    (0..count).map(|_| MemoryStore::default()).collect()
}

fn pack() -> ObjectName {
    ObjectName::new(ObjectKind::Pack, "one")
}

fn bytes(len: u64) -> Vec<u8> {
    (0..len).map(|at| (at * 7 % 251) as u8).collect()
}

fn shard_of(store: &MemoryStore, of: &ObjectName) -> Option<ObjectName> {
    let shards = store.list(ObjectKind::Shard).unwrap();
    shards.into_iter().find(|it| shard::object_of(it).is_some_and(|(name, _)| name == *of))
}

/// The stores that have a part of an object.
fn having(stores: &[MemoryStore], of: &ObjectName) -> Vec<usize> {
    (0..stores.len()).filter(|number| shard_of(&stores[*number], of).is_some()).collect()
}

/// The numbers of the stores in the order in which they have the shards of an object.
fn ranked(stores: &[MemoryStore], of: &ObjectName) -> Vec<usize> {
    dispersed(stores.len() - 1, 1, 0, stores).members_of("x").ranked(of)
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
fn a_store_that_hangs_holds_up_nothing() {
    let (memory, whole) = (stores(6), bytes(900_000));
    dispersed(4, 2, 1, &memory).put_new(&pack(), &whole).unwrap();
    for (hangs, away) in [(0, 1), (5, 2)] {
        memory[hangs].hang(true);
        memory[away].set_away(true);
        let (store, begun) = (dispersed(4, 2, 1, &memory), ambient::instant());
        assert!(store.read(&pack()).unwrap().unwrap() == whole);
        assert_eq!(store.list(ObjectKind::Pack).unwrap(), [pack()]);
        for _ in 0..200 {
            assert!(store.read(&pack()).unwrap().unwrap() == whole);
        }
        assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
        memory.iter().for_each(|it| it.set_away(false));
        memory[hangs].hang(false);
    }
    [1, 4].iter().for_each(|number| memory[*number].hang(true));
    let (store, begun) = (dispersed(4, 2, 1, &memory), ambient::instant());
    for _ in 0..20 {
        assert!(store.holds(&pack()).unwrap() && store.read(&pack()).unwrap().unwrap() == whole);
        assert_eq!(
            (store.list(ObjectKind::Pack).unwrap(), store.glance().unwrap().objects),
            (vec![pack()], 1)
        );
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    [1, 4].iter().for_each(|number| memory[*number].hang(false));
    memory[3].hang(true);
    let (store, begun) = (dispersed(4, 2, 1, &memory), ambient::instant());
    let _lease = store.lease(Role::Capture, "capture").unwrap();
    for number in 0..20 {
        store.put_new(&ObjectName::epoch(number), b"epoch").unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    memory[3].hang(false);
}

#[test]
fn a_thread_that_panics_is_an_answer() {
    let (memory, whole) = (stores(3), bytes(200_000));
    dispersed(2, 1, 0, &memory).put_new(&pack(), &whole).unwrap();
    for broken in 0..3 {
        memory[broken].panic(true);
        assert!(dispersed(2, 1, 0, &memory).read(&pack()).unwrap().unwrap() == whole, "{broken}");
        memory[broken].panic(false);
    }
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
    let named_otherwise = stores(6);
    dispersed(4, 2, 1, &named_otherwise).put_new(&pack(), b"x").unwrap();
    assert_eq!(dispersed(4, 2, 0, &named_otherwise).read(&pack()).unwrap_err().kind(), Kind::Refused);
    assert_eq!(dispersed(3, 3, 1, &named_otherwise).read(&pack()).unwrap_err().kind(), Kind::Refused);
}

#[test]
fn a_dispersal_whose_beginning_was_cut_short_is_begun_by_the_next_process() {
    for marked in 0..6 {
        let memory = stores(6);
        memory[marked].fail_at(2, crate::store::StoreFault::Fail);
        let cut = dispersed(4, 2, 1, &memory).put_new(&pack(), b"x");
        assert!(cut.is_err(), "{marked}");
        let next = dispersed(4, 2, 1, &memory);
        assert_eq!(next.read(&pack()).unwrap(), None, "{marked}");
        next.put_new(&pack(), b"x").unwrap();
        assert_eq!(dispersed(4, 2, 1, &memory).read(&pack()).unwrap().unwrap(), b"x");
        assert_eq!(having(&memory, &pack()).len(), 6);
    }
}

#[test]
fn a_dispersal_begins_only_where_all_stores_answer() {
    let memory = stores(3);
    memory[2].set_away(true);
    let error = dispersed(2, 1, 0, &memory).put_new(&pack(), b"x").unwrap_err();
    assert!(error.kind() == Kind::Unavailable && error.to_string().contains("begins once all"), "{error}");
}
