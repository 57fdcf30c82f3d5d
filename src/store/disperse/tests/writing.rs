//! Puts that reach only some of the stores.

use super::*;
use crate::store::StoreFault;

const POLICY: (usize, usize, usize) = (4, 2, 1);

fn process(memory: &[MemoryStore]) -> Dispersed {
    dispersed(POLICY.0, POLICY.1, POLICY.2, memory)
}

/// A dispersal that has been begun.
fn begun() -> Vec<MemoryStore> {
    let memory = stores(6);
    process(&memory).put_new(&ObjectName::epoch(9999), b"first").unwrap();
    memory
}

fn set_away(memory: &[MemoryStore], which: &[usize]) {
    memory.iter().enumerate().for_each(|(number, it)| it.set_away(which.contains(&number)));
}

#[test]
fn a_put_may_lack_as_many_stores_as_are_tolerated() {
    let (memory, whole) = (begun(), bytes(300_000));
    set_away(&memory, &[2]);
    process(&memory).put_new(&pack(), &whole).unwrap();
    set_away(&memory, &[2, 3]);
    let writer = process(&memory);
    let other = ObjectName::new(ObjectKind::Pack, "two");
    assert_eq!(writer.put_new(&other, &whole).unwrap_err().kind(), Kind::Unavailable);
    assert!(!writer.holds(&other).unwrap(), "too few stores have it");
    assert!(!writer.list(ObjectKind::Pack).unwrap().contains(&other));
    set_away(&memory, &[]);
    [2, 3].iter().for_each(|number| writer.all[*number].come_back());
    writer.put_new(&other, &whole).unwrap();
    let again = process(&memory).put_new(&other, &whole).unwrap_err();
    assert_eq!(again.kind(), Kind::Internal, "{again}");
    let glance = process(&memory).glance().unwrap();
    assert_eq!((glance.could_lose, glance.stores[2].lacks, glance.objects), (1, 1, 3), "{glance:?}");
    let healed = process(&memory).heal(&[], &Silent).unwrap();
    assert_eq!((healed.could_lose, healed.stores[2].lacks, healed.stores[2].healed), (2, 1, 1));
}

/// Leaves an object in so many of the stores, as a process that was killed does.
fn put_into(memory: &[MemoryStore], name: &ObjectName, whole: &[u8], count: usize) {
    let there = stores(6);
    process(&there).put_new(name, whole).unwrap();
    let order = ranked(memory, name);
    for number in &order[..count] {
        let shard = shard_of(&there[*number], name).unwrap();
        memory[*number].put_new(&shard, &there[*number].read(&shard).unwrap().unwrap()).unwrap();
    }
}

#[test]
fn who_takes_a_role_first_makes_whole_what_a_killed_process_left_readable() {
    for (name, needed) in [(pack(), 4), (ObjectName::epoch(1), 2)] {
        for count in 1..6 {
            let (memory, whole) = (begun(), bytes(300_000));
            put_into(&memory, &name, &whole, count);
            let next = process(&memory);
            let _lease = next.lease(Role::Capture, "capture").unwrap();
            next.remove_unfinished(name.kind());
            let has = having(&memory, &name).len();
            assert_eq!(
                has,
                if count < needed { 0 } else { count.max(6 * usize::from(count < 5)) },
                "{name} in {count}"
            );
            assert_eq!(next.holds(&name).unwrap(), count >= needed);
            assert_eq!(next.list(name.kind()).unwrap().contains(&name), count >= needed);
            let other = next.put_new(&name, b"others");
            assert_eq!(other.is_ok(), count < needed, "{other:?}");
            assert!(having(&memory, &name).len() >= 5);
        }
    }
}

#[test]
fn a_killed_process_is_followed_only_once_enough_stores_answer() {
    let (memory, whole) = (begun(), bytes(300_000));
    put_into(&memory, &pack(), &whole, 4);
    let order = ranked(&memory, &pack());
    // Two that lack it, or one that has it: whether the object is there cannot be settled.
    for away in [&order[4..], &order[..1]] {
        set_away(&memory, away);
        let error = process(&memory).lease(Role::Capture, "capture").unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    }
    set_away(&memory, &order[5..]);
    let _lease = process(&memory).lease(Role::Capture, "capture").unwrap();
    set_away(&memory, &[]);
    assert_eq!(having(&memory, &pack()).len(), 5);
}

#[test]
fn a_failed_put_is_followed_by_one_with_other_bytes() {
    for fault in [StoreFault::Fail, StoreFault::Tear, StoreFault::LoseAnswer] {
        for (name, whole, other) in [
            (pack(), bytes(300_000), bytes(299_999)),
            (ObjectName::epoch(1), b"the first".to_vec(), b"the second".to_vec()),
        ] {
            let memory = begun();
            let writer = process(&memory);
            writer.put_new(&ObjectName::epoch(5), b"before").unwrap();
            let order = ranked(&memory, &name);
            // Three stores fail, so the put fails; one of them has what it does not say.
            order[3..].iter().for_each(|number| memory[*number].fail_at(0, fault));
            let failed = writer.put_new(&name, &whole).unwrap_err();
            assert_eq!(failed.kind(), Kind::Unavailable, "{failed}");
            order.iter().for_each(|number| writer.all[*number].come_back());
            let again = writer.put_new(&name, &other);
            let now = process(&memory).read(&name).unwrap().unwrap();
            match again {
                Ok(()) => assert!(now == other, "{fault:?} {name}"),
                // The first put may have been taken for an object by others, so it stays, and is whole.
                Err(error) => {
                    assert!(error.kind() == Kind::Internal && now == whole, "{fault:?} {name}: {error}")
                }
            }
            assert!(having(&memory, &name).len() >= 5, "{fault:?} {name}");
            assert!(process(&memory).survey(&Silent).unwrap().faults.is_empty());
        }
    }
}

#[test]
fn a_put_that_comes_too_late_gives_way_and_makes_the_other_object_whole() {
    let (memory, first) = (begun(), bytes(300_000));
    let order = ranked(&memory, &pack());
    put_into(&memory, &pack(), &first, 5);
    // The store that decides does not know of the first put.
    let shard = shard_of(&memory[order[0]], &pack()).unwrap();
    memory[order[0]].remove(&[shard]).unwrap();
    let late = process(&memory).put_new(&pack(), &bytes(299_999)).unwrap_err();
    assert_eq!(late.kind(), Kind::Internal, "{late}");
    assert!(process(&memory).read(&pack()).unwrap().unwrap() == first);
    assert!(process(&memory).survey(&Silent).unwrap().is_whole());
}

#[test]
fn a_full_store_is_one_that_lacks_what_is_put() {
    let (memory, whole) = (begun(), bytes(30_000_000));
    memory[1].fill_up(true);
    let writer = process(&memory);
    let _lease = writer.lease(Role::Capture, "capture").unwrap();
    writer.put_new(&pack(), &whole).unwrap();
    writer.put_new(&ObjectName::epoch(1), b"epoch").unwrap();
    memory[1].fill_up(false);
    let glance = process(&memory).glance().unwrap();
    assert_eq!((glance.stores[1].lacks, glance.could_lose), (2, 1), "{glance:?}");
    assert!(process(&memory).read(&pack()).unwrap().unwrap() == whole);
}

#[test]
fn of_two_processes_that_put_a_name_with_other_bytes_one_does_well() {
    for round in 0..30 {
        let memory = begun();
        for (name, len) in [(pack(), 100_000), (ObjectName::epoch(1), 10)] {
            let put =
                |number: u64| process(&memory).put_new(&name, &bytes(len + number)).map(|()| len + number);
            let done: Vec<_> = std::thread::scope(|scope| {
                let both: Vec<_> = (0..3).map(|number| scope.spawn(move || put(number))).collect();
                both.into_iter().map(|it| it.join().unwrap()).collect()
            });
            let won: Vec<_> = done.iter().flatten().collect();
            assert_eq!(won.len(), 1, "{round}: {done:?}");
            assert!(
                done.iter().flat_map(|it| it.as_ref().err()).all(|it| it.kind() == Kind::Internal),
                "{done:?}"
            );
            let read = process(&memory).read(&name).unwrap().unwrap();
            assert!(read == bytes(*won[0]), "{round}: {name}");
        }
    }
}
