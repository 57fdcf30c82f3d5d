//! Roles over several stores.

use super::*;

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
    assert_eq!(
        having(&memory[1..], &pack()).len(),
        5,
        "what cannot be removed everywhere is removed nowhere"
    );
}

#[test]
fn a_store_that_remembers_a_dead_process_refuses_nobody() {
    let memory = stores(6);
    dispersed(4, 2, 1, &memory).put_new(&pack(), b"x").unwrap();
    for stale in [0, 4] {
        let forgotten = memory[stale].lease(Role::Capture, "capture").unwrap();
        let store = dispersed(4, 2, 1, &memory);
        let lease = store.lease(Role::Capture, "copy").unwrap();
        store.put_new(&ObjectName::epoch(stale as u32), b"epoch").unwrap();
        drop(lease);
        drop(forgotten);
    }
}

#[test]
fn a_store_that_was_away_gives_its_lease_before_anything_is_put_there() {
    let memory = stores(6);
    dispersed(4, 2, 1, &memory).put_new(&pack(), b"x").unwrap();
    memory[2].set_away(true);
    let store = dispersed(4, 2, 1, &memory);
    let lease = store.lease(Role::Capture, "capture").unwrap();
    memory[2].set_away(false);
    assert!(!memory[2].is_leased(Role::Capture));
    store.all[2].come_back();
    store.put_new(&ObjectName::epoch(1), b"epoch").unwrap();
    assert!(memory[2].is_leased(Role::Capture));
    assert_eq!(having(&memory, &ObjectName::epoch(1)).len(), 6);
    drop(lease);
    assert!(memory.iter().all(|it| !it.is_leased(Role::Capture)));
}

#[test]
fn a_process_whose_role_may_be_another_ones_puts_nothing() {
    let memory = stores(6);
    dispersed(4, 2, 1, &memory).put_new(&pack(), b"x").unwrap();
    let store = dispersed(4, 2, 1, &memory);
    let _lease = store.lease(Role::Capture, "capture").unwrap();
    // One store has lost the lease, and gives it again.
    memory[3].lose_leases();
    store.put_new(&ObjectName::epoch(1), b"epoch").unwrap();
    assert_eq!(having(&memory, &ObjectName::epoch(1)).len(), 6);
    // Another process may have had the role in a quorum meanwhile.
    memory[..5].iter().for_each(MemoryStore::lose_leases);
    let error = store.put_new(&ObjectName::epoch(2), b"epoch").unwrap_err();
    assert_eq!(error.kind(), Kind::Locked, "{error}");
    assert!(having(&memory, &ObjectName::epoch(2)).len() <= 1);
    assert_eq!(dispersed(4, 2, 1, &memory).list(ObjectKind::Epoch).unwrap(), [ObjectName::epoch(1)]);
}

#[test]
fn a_reader_keeps_an_expiry_away_also_after_the_loss_of_m_stores() {
    let memory = stores(5);
    dispersed(3, 2, 1, &memory).put_new(&pack(), b"x").unwrap();
    let reader = dispersed(3, 2, 1, &memory);
    let shared = reader.share(Role::Objects, Duration::ZERO).unwrap().unwrap();
    let held: Vec<_> = (0..5).filter(|number| memory[*number].is_leased(Role::Objects)).collect();
    assert!(!held.is_empty(), "{held:?}");
    let error = dispersed(3, 2, 1, &memory).lease(Role::Objects, "expire").unwrap_err();
    assert_eq!(error.kind(), Kind::Locked, "{error}");
    drop(shared);
    dispersed(3, 2, 1, &memory).lease(Role::Objects, "expire").unwrap();
}
