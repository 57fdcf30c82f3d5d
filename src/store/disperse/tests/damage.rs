//! Damaged, lost and outdated stores, and their repair.

mod fixture;

use super::*;

#[test]
fn damaged_and_cut_shards_are_passed_over_and_made_again() {
    let (memory, whole) = (stores(5), bytes(700_000));
    dispersed(3, 2, 1, &memory).put_new(&pack(), &whole).unwrap();
    dispersed(3, 2, 1, &memory).put_new(&ObjectName::epoch(1), b"epoch").unwrap();
    let shard = |number: usize, of: &ObjectName| shard_of(&memory[number], of).unwrap();
    for first in 0..5 {
        let second = (first + 2) % 5;
        memory[first].damage(&shard(first, &pack()), |bytes| bytes[70_000] ^= 1);
        memory[second].damage(&shard(second, &pack()), |bytes| bytes.truncate(100_000));
        memory[first].damage(&shard(first, &ObjectName::epoch(1)), |bytes| bytes[0] ^= 1);
        let store = dispersed(3, 2, 1, &memory);
        assert!(store.read(&pack()).unwrap().unwrap() == whole);
        assert_eq!(store.read(&ObjectName::epoch(1)).unwrap().unwrap(), b"epoch");
        let found = store.survey(&Silent).unwrap();
        assert_eq!((found.could_lose, found.stores[first].damaged, found.stores[second].damaged), (0, 2, 1));
        let third = (first + 1) % 5;
        assert_eq!((found.stores[third].would_lose, found.stores[first].would_lose), (1, 0), "{found:?}");
        let healed = dispersed(3, 2, 1, &memory).heal(&[], &Silent).unwrap();
        assert_eq!((healed.could_lose, healed.faults.len(), healed.stores[first].healed), (2, 0, 2));
        assert!(healed.is_whole());
        let after = dispersed(3, 2, 1, &memory).survey(&Silent).unwrap();
        assert!(after.could_lose == 2 && after.stores.iter().all(|it| it.lacks + it.damaged == 0));
    }
}

#[test]
fn what_cannot_be_read_any_more_is_a_fault_and_not_passed_over() {
    let memory = stores(3);
    dispersed(2, 1, 0, &memory).put_new(&pack(), &bytes(100)).unwrap();
    for number in [0, 1] {
        memory[number].damage(&shard_of(&memory[number], &pack()).unwrap(), |bytes| bytes[1] ^= 1);
    }
    let store = dispersed(2, 1, 0, &memory);
    assert_eq!(store.list(ObjectKind::Pack).unwrap(), [pack()]);
    assert_eq!(store.read(&pack()).unwrap_err().kind(), Kind::Damaged);
    let healed = store.heal(&[], &Silent).unwrap();
    assert!(healed.faults.len() == 1 && healed.faults[0].contains("packs/one.pack"), "{healed:?}");
    assert!(!healed.is_whole() && healed.could_lose == 0);
}

#[test]
fn a_store_that_lies_is_outvoted() {
    let (memory, others) = (stores(6), stores(6));
    let (truth, lie) = (bytes(300_000), bytes(300_001));
    for (set, epoch, pack_bytes) in [(&memory, &b"truth"[..], &truth), (&others, b"a lie", &lie)] {
        let store = dispersed(4, 2, 1, set);
        store.put_new(&ObjectName::epoch(1), epoch).unwrap();
        store.put_new(&pack(), pack_bytes).unwrap();
    }
    for liar in 0..6 {
        let (before, name) = (MemoryStore::default(), ObjectName::epoch(1));
        before.take_from(&memory[liar]);
        for of in [&name, &pack()] {
            let shard = shard_of(&memory[liar], of).unwrap();
            let bytes = others[liar].read(&shard).unwrap().unwrap();
            memory[liar].damage(&shard, |it| *it = bytes.clone());
        }
        let store = dispersed(4, 2, 1, &memory);
        assert_eq!(store.read(&name).unwrap().unwrap(), b"truth", "{liar}");
        assert!(store.read(&pack()).unwrap().unwrap() == truth, "{liar}");
        let healed = store.heal(&[], &Silent).unwrap();
        assert!(healed.is_whole() && healed.stores[liar].healed == 2, "{healed:?}");
        assert!(before.has_same(&memory[liar]), "{liar}: it has what it had before");
    }
}

#[test]
fn a_lost_store_is_filled_only_where_a_person_says_so() {
    let (mut memory, whole) = (stores(3), bytes(200_000));
    dispersed(2, 1, 0, &memory).put_new(&pack(), &whole).unwrap();
    memory[1] = MemoryStore::default();
    let store = dispersed(2, 1, 0, &memory);
    let error = store.put_new(&ObjectName::epoch(1), b"epoch").unwrap_err();
    assert!(error.kind() == Kind::Unavailable && error.to_string().contains("--refill memory:1"), "{error}");
    let not_filled = dispersed(2, 1, 0, &memory).heal(&[], &Silent).unwrap();
    assert!(
        not_filled.stores[1].away.is_some() && having(&memory, &pack()) == [0, 2],
        "an empty mount point stays empty"
    );
    let other = dispersed(2, 1, 0, &memory).heal(&["memory:7".into()], &Silent).unwrap_err();
    assert_eq!(other.kind(), Kind::Usage);
    let healed = dispersed(2, 1, 0, &memory).heal(&["memory:1".into()], &Silent).unwrap();
    assert!(healed.could_lose == 1 && healed.is_whole(), "{healed:?}");
    memory[0].set_away(true);
    assert!(dispersed(2, 1, 0, &memory).read(&pack()).unwrap().unwrap() == whole);
}

#[test]
fn nothing_is_put_below_the_mount_point_of_a_disk_that_goes_while_a_process_writes() {
    let scratch = tempfile::tempdir().unwrap();
    let store = for_tests(scratch.path()).remove(0);
    let (epoch, pack) = (ObjectName::epoch(1), pack());
    store.put_new(&epoch, b"before").unwrap();
    let member = &store.all[5];
    let (folder, gone) = (member.folder.clone().unwrap(), scratch.path().join("gone"));
    std::fs::rename(&folder, &gone).unwrap();
    store.put_new(&pack, &bytes(300_000)).unwrap();
    assert!(!folder.exists());
    member.come_back();
    std::fs::create_dir(&folder).unwrap();
    store.put_new(&ObjectName::epoch(2), b"after").unwrap();
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    std::fs::remove_dir(&folder).unwrap();
    std::fs::rename(&gone, &folder).unwrap();
    member.come_back();
    assert_eq!(store.glance().unwrap().stores[5].lacks, 2);
}

#[test]
fn two_repairs_at_once_leave_every_store_whole_and_set_nothing_sound_aside() {
    for round in 0..20 {
        let (memory, whole) = (stores(5), bytes(200_000));
        let names: Vec<_> =
            (0..5).map(|number| ObjectName::new(ObjectKind::Pack, number.to_string())).collect();
        let writer = dispersed(3, 2, 1, &memory);
        names.iter().for_each(|name| writer.put_new(name, &whole).unwrap());
        for (number, name) in names.iter().enumerate() {
            memory[number].damage(&shard_of(&memory[number], name).unwrap(), |bytes| bytes[5] ^= 1);
            let missing = shard_of(&memory[(number + 1) % 5], name).unwrap();
            memory[(number + 1) % 5].remove(&[missing]).unwrap();
        }
        let surveys: Vec<_> = std::thread::scope(|scope| {
            let repair = || dispersed(3, 2, 1, &memory).heal(&[], &Silent).unwrap();
            let both: Vec<_> = (0..2).map(|_| scope.spawn(repair)).collect();
            both.into_iter().map(|it| it.join().unwrap()).collect()
        });
        let after = dispersed(3, 2, 1, &memory).heal(&[], &Silent).unwrap();
        assert!(after.is_whole(), "{round}: {surveys:?} {after:?}");
        let aside: usize = memory.iter().map(MemoryStore::aside).sum();
        assert_eq!(aside, 5, "{round}: only the damaged shards are set aside");
        assert!(names.iter().all(|name| dispersed(3, 2, 1, &memory).read(name).unwrap().unwrap() == whole));
    }
}

#[test]
fn a_store_that_is_brought_back_from_an_old_state_brings_nothing_removed_back() {
    let memory = stores(6);
    let store = dispersed(4, 2, 1, &memory);
    let (old, kept) = (ObjectName::epoch(1), ObjectName::epoch(2));
    store.put_new(&old, b"old").unwrap();
    store.put_new(&pack(), &bytes(300_000)).unwrap();
    let snapshot = MemoryStore::default();
    snapshot.take_from(&memory[2]);
    store.remove(&[old.clone(), pack()]).unwrap();
    store.put_new(&kept, b"kept").unwrap();
    memory[2].take_from(&snapshot);
    let after = dispersed(4, 2, 1, &memory);
    assert_eq!(after.list(ObjectKind::Epoch).unwrap(), std::slice::from_ref(&kept));
    assert_eq!(after.list(ObjectKind::Pack).unwrap(), []);
    assert_eq!(
        (after.read(&old).unwrap(), after.read(&pack()).unwrap()),
        (None, None),
        "one store alone is not believed"
    );
    assert_eq!(after.read(&kept).unwrap().unwrap(), b"kept");
    let survey = after.glance().unwrap();
    assert_eq!((survey.stores[2].lacks, survey.remnants), (1, 2));
    // Even another object of that name can be put.
    let _lease = after.lease(Role::Capture, "copy").unwrap();
    for kind in [ObjectKind::Epoch, ObjectKind::Pack] {
        after.remove_unfinished(kind);
    }
    after.put_new(&old, b"new").unwrap();
    assert_eq!(having(&memory, &old).len(), 6);
}
