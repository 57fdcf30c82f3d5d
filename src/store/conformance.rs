//! Tests of the promises that every store makes, run on each of them.

use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::time::Duration;

use super::{Folder, MemoryStore, ObjectKind, ObjectName, Role, Store, StoreFault};
use crate::error::Kind;

/// Calls `test` with an empty store of every sort.
fn on_each_store(test: impl Fn(&dyn Store)) {
    on_each_open_store(&test);
    let scratch = tempfile::tempdir().unwrap();
    test(&super::sealed::for_tests(Arc::new(MemoryStore::default()), scratch.path()));
}

/// Calls `test` with an empty store of every sort that does not encrypt: the cipher takes minutes for large objects where it
/// is not optimised. The tests of frames read ranges of encrypted objects.
fn on_each_open_store(test: impl Fn(&dyn Store)) {
    let folder = tempfile::tempdir().unwrap();
    for name in ["packs", "epochs", "schemas", "journal", "checkpoints", "locks"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    test(&Folder::new(folder.path()));
    test(&MemoryStore::default());
    for remote in super::remote::for_tests(folder.path()) {
        test(&remote);
    }
    for dispersed in super::disperse::for_tests(folder.path()) {
        test(&dispersed);
    }
}

/// Waits until a later put is told from an earlier one by its age; object stores date their objects by seconds.
fn wait_for_another_date(store: &dyn Store) {
    let place = store.locate(&pack("one"));
    let is_coarse = ["s3://", "gs://", "az://"].iter().any(|scheme| place.starts_with(scheme));
    std::thread::sleep(Duration::from_millis(if is_coarse { 5_000 } else { 40 }));
}

fn pack(stem: &str) -> ObjectName {
    ObjectName::new(ObjectKind::Pack, stem)
}

#[test]
fn an_object_is_read_as_it_was_put_and_is_never_replaced() {
    on_each_store(|store| {
        for kind in ObjectKind::ALL {
            let name = ObjectName::new(kind, kind.only_stem().unwrap_or("one"));
            assert_eq!(store.read(&name).unwrap(), None, "{name}");
            assert!(store.open(&name).unwrap().is_none() && store.lend(&name).unwrap().is_none());
            store.put_new(&name, name.to_string().as_bytes()).unwrap();
            assert_eq!(store.put_new(&name, b"another").unwrap_err().kind(), Kind::Internal);
            assert_eq!(store.read(&name).unwrap().unwrap(), name.to_string().as_bytes());
            assert_eq!(
                store.list(kind).unwrap(),
                std::slice::from_ref(&name),
                "no other kind is listed with it"
            );
            assert!(store.locate(&name).ends_with(&name.to_string()));
        }
    });
}

#[test]
fn what_is_listed_follows_puts_and_removals() {
    on_each_store(|store| {
        let names: Vec<_> = (0..20).map(|number| pack(&format!("{number:02}"))).collect();
        assert_eq!(store.list(ObjectKind::Pack).unwrap(), []);
        for name in names.iter().rev() {
            store.put_new(name, b"x").unwrap();
        }
        assert_eq!(store.list_sorted(ObjectKind::Pack).unwrap(), names);
        let epoch = ObjectName::epoch(1);
        store.put_new(&epoch, b"y").unwrap();
        store.remove(&[names[0].clone(), epoch.clone(), pack("never there"), names[1].clone()]).unwrap();
        assert_eq!(store.list_sorted(ObjectKind::Pack).unwrap(), names[2..]);
        assert!(!store.holds(&epoch).unwrap());
        store.put_new(&names[0], b"again").unwrap();
        assert_eq!(store.size(&names[0]).unwrap(), Some(5));
    });
}

#[test]
fn ranges_are_read_from_empty_and_from_large_objects() {
    let large: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    on_each_open_store(|store| {
        store.put_new(&pack("empty"), b"").unwrap();
        store.put_new(&pack("large"), &large).unwrap();
        let (empty, whole) =
            (store.open(&pack("empty")).unwrap().unwrap(), store.open(&pack("large")).unwrap().unwrap());
        assert_eq!((empty.size(), whole.size()), (0, large.len() as u64));
        empty.read_exact_at(&mut [], 0).unwrap();
        let mut range = vec![0; 70_001];
        for offset in [0, 1, 4_194_303, large.len() - range.len()] {
            whole.read_exact_at(&mut range, offset as u64).unwrap();
            assert!(range == large[offset..offset + range.len()]);
        }
        for offset in [large.len() as u64 - 70_000, u64::MAX >> 1] {
            let beyond = whole.read_exact_at(&mut range, offset).unwrap_err();
            assert_eq!(beyond.kind(), ErrorKind::UnexpectedEof);
        }
        for step in [5_000, 70_001, 1 << 20] {
            // One behind the other, with one that is out of the row.
            let mut range = vec![0; step];
            for (number, offset) in (8..large.len() - step).step_by(step).take(50).enumerate() {
                whole.read_exact_at(&mut range, offset as u64).unwrap();
                assert!(range == large[offset..offset + step], "{step}, {number}");
                if number % 9 == 8 {
                    whole.read_exact_at(&mut range, 4).unwrap();
                    assert!(range == large[4..4 + step]);
                }
            }
        }
        let lent = store.lend(&pack("large")).unwrap().unwrap();
        assert!(std::fs::read(lent.path()).unwrap() == large);
    });
}

#[test]
fn an_object_is_copied_from_any_store_to_any_other() {
    let large: Vec<u8> = (0..700_000_u32).flat_map(u32::to_le_bytes).collect();
    on_each_open_store(|from| {
        from.put_new(&pack("large"), &large).unwrap();
        from.put_new(&ObjectName::epoch(1), b"").unwrap();
        on_each_open_store(|to| {
            for (name, size) in [(pack("large"), large.len() as u64), (ObjectName::epoch(1), 0)] {
                let object = from.open(&name).unwrap().unwrap();
                assert_eq!(to.copy_new(&name, &*object).unwrap(), size);
                assert!(to.read(&name).unwrap() == from.read(&name).unwrap());
                assert_eq!(to.copy_new(&name, &*object).unwrap_err().kind(), Kind::Internal);
            }
        });
    });
}

#[test]
fn a_complete_local_file_becomes_an_object_and_never_replaces_one() {
    on_each_store(|store| {
        for kind in ObjectKind::ALL {
            let name = ObjectName::new(kind, kind.only_stem().unwrap_or("one"));
            let draft = |text: &str| {
                let mut file = store.draft(kind).unwrap();
                file.write_all(text.as_bytes()).unwrap();
                assert_eq!(file.read().unwrap(), text.as_bytes());
                file
            };
            let first = draft("first");
            let left = first.path().to_owned();
            assert_eq!(store.list(kind).unwrap(), [], "an unfinished object is not listed");
            store.put_file(&name, first).unwrap();
            assert!(!left.exists());
            let second = draft("second");
            let left = second.path().to_owned();
            assert_eq!(store.put_file(&name, second).unwrap_err().kind(), Kind::Internal);
            assert!(!left.exists(), "a refused file goes");
            let third = draft("third");
            let left = third.path().to_owned();
            drop(third);
            assert!(!left.exists(), "a file that was dropped goes");
            assert_eq!(store.read(&name).unwrap().unwrap(), b"first");
            assert_eq!(store.list(kind).unwrap(), [name]);
        }
    });
}

#[test]
fn an_object_that_is_named_by_its_content_may_be_put_again() {
    on_each_store(|store| {
        let put = || {
            let mut file = store.draft(ObjectKind::Pack).unwrap();
            file.write_all(b"the same").unwrap();
            store.put_content(&pack("one"), file)
        };
        put().unwrap();
        wait_for_another_date(store);
        let age = store.age(&pack("one")).unwrap();
        put().unwrap();
        assert!(store.age(&pack("one")).unwrap() < age, "it is as young as a new one");
        assert_eq!(store.read(&pack("one")).unwrap().unwrap(), b"the same");
    });
}

#[test]
fn what_is_set_aside_makes_room_under_its_name() {
    on_each_store(|store| {
        for kind in ObjectKind::ALL {
            let name = ObjectName::new(kind, kind.only_stem().unwrap_or("one"));
            assert_eq!(store.set_aside(&name).unwrap(), None);
            let mut places = Vec::new();
            for bytes in [&b"damaged"[..], b"damaged again"] {
                store.put_new(&name, bytes).unwrap();
                places.push(store.set_aside(&name).unwrap().unwrap());
                assert_eq!((store.list(kind).unwrap(), store.read(&name).unwrap()), (vec![], None));
            }
            let is_told = |place: &String| place.contains("damaged/") && place.contains(&name.file_name());
            assert!(places.iter().all(is_told), "{places:?}");
        }
    });
}

#[test]
fn leftovers_of_killed_processes_go() {
    let folder = tempfile::tempdir().unwrap();
    let store: &dyn Store = &Folder::new(folder.path());
    let ours = store.draft(ObjectKind::Pack).unwrap();
    let left = folder.path().join("packs/new.pack.0123456789abcdef-7.tmp");
    std::fs::write(&left, "half").unwrap();
    store.put_new(&pack("one"), b"whole").unwrap();
    store.remove_unfinished(ObjectKind::Pack);
    assert!(!left.exists() && ours.path().exists());
    assert_eq!(store.list(ObjectKind::Pack).unwrap(), [pack("one")]);
}

#[test]
fn drafts_that_killed_processes_left_for_a_store_that_lies_elsewhere_go() {
    let folder = tempfile::tempdir().unwrap();
    let sealed = super::sealed::for_tests(Arc::new(MemoryStore::default()), folder.path());
    let remotes = super::remote::for_tests(folder.path());
    for store in remotes.iter().map(|remote| remote as &dyn Store).chain([&sealed as &dyn Store]) {
        let ours = store.draft(ObjectKind::Pack).unwrap();
        let left = folder.path().join("draft.pack.0123456789abcdef-7.tmp");
        let of_another_kind = folder.path().join("draft.seg.0123456789abcdef-7.tmp");
        for path in [&left, &of_another_kind] {
            std::fs::write(path, "half").unwrap();
        }
        store.remove_unfinished(ObjectKind::Pack);
        assert!(!left.exists() && ours.path().exists() && of_another_kind.exists());
    }
}

#[test]
fn an_object_is_as_old_as_its_put_or_its_renewal() {
    on_each_store(|store| {
        let name = pack("one");
        assert_eq!((store.age(&name), store.renew(&name).unwrap_err().kind()), (None, Kind::Unavailable));
        store.put_new(&name, b"x").unwrap();
        wait_for_another_date(store);
        let age = store.age(&name).unwrap();
        assert!(age >= Duration::from_millis(30) && age < Duration::from_secs(60), "{age:?}");
        store.renew(&name).unwrap();
        assert!(store.age(&name).unwrap() < age && store.read(&name).unwrap().unwrap() == b"x");
    });
}

#[test]
fn of_puts_that_race_for_a_name_one_wins() {
    on_each_store(|store| {
        let put = |text: String| store.put_new(&pack("one"), text.as_bytes()).map(|()| text);
        let done: Vec<_> = std::thread::scope(|scope| {
            let racers: Vec<_> =
                (0..6).map(|number| scope.spawn(move || put(format!("of {number}")))).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        let won: Vec<_> = done.iter().flatten().collect();
        assert_eq!(won.len(), 1, "{done:?}");
        assert_eq!(store.read(&pack("one")).unwrap().unwrap(), won[0].as_bytes());
        assert!(
            done.iter().flat_map(|it| it.as_ref().err()).all(|it| it.kind() == Kind::Internal),
            "{done:?}"
        );
    });
}

#[test]
fn odd_names_are_names_and_no_name_leads_out_of_the_history() {
    on_each_store(|store| {
        for stem in ["..", "a b", "ä", "a.pack", "-rf", "*", "line\nend", "Case", "case"] {
            store.put_new(&pack(stem), stem.as_bytes()).unwrap();
            assert_eq!(store.read(&pack(stem)).unwrap().unwrap(), stem.as_bytes());
        }
        assert_eq!(store.list(ObjectKind::Pack).unwrap().len(), 9);
        for stem in ["", "../epochs/0001", "/etc/passwd", "a\0b"] {
            assert_eq!(store.put_new(&pack(stem), b"x").unwrap_err().kind(), Kind::Damaged, "{stem:?}");
            assert_eq!(store.read(&pack(stem)).unwrap_err().kind(), Kind::Damaged, "{stem:?}");
        }
        assert_eq!(store.read(&pack(&"x".repeat(5_000))).unwrap(), None);
    });
}

#[test]
fn a_taken_name_gets_a_number() {
    on_each_store(|store| {
        let put = || store.put_numbered(ObjectKind::Evidence, "now", |name| store.put_new(name, b"x"));
        let stems: Vec<_> = (0..3).map(|_| put().unwrap().stem().to_owned()).collect();
        assert_eq!(stems, ["now", "now-2", "now-3"]);
    });
}

#[test]
fn a_role_is_had_alone_or_shared() {
    on_each_store(|store| {
        let alone = store.lease(Role::Objects, "expire").unwrap();
        assert!(store.is_leased(Role::Objects) && !store.is_leased(Role::Capture));
        assert_eq!(store.lease(Role::Objects, "expire").unwrap_err().kind(), Kind::Locked);
        assert_eq!(store.share(Role::Objects, Duration::ZERO).unwrap_err().kind(), Kind::Locked);
        drop(store.lease(Role::Capture, "capture").unwrap());
        drop(alone);
        let shared: Vec<_> = (0..2).map(|_| store.share(Role::Objects, Duration::ZERO).unwrap()).collect();
        assert_eq!(store.lease(Role::Objects, "expire").unwrap_err().kind(), Kind::Locked);
        drop(shared);
        assert!(store.lease(Role::Objects, "expire").is_ok());
    });
}

#[test]
fn whoever_shares_a_role_waits_for_its_holder() {
    on_each_store(|store| {
        let alone = store.lease(Role::Objects, "expire").unwrap();
        std::thread::scope(|scope| {
            let waiting =
                scope.spawn(|| store.share(Role::Objects, Duration::from_secs(60)).unwrap().is_some());
            std::thread::sleep(Duration::from_millis(30));
            assert!(!waiting.is_finished());
            drop(alone);
            assert!(waiting.join().unwrap());
        });
    });
}

#[test]
fn a_put_that_is_cut_short_leaves_nothing_that_is_listed() {
    let memory = MemoryStore::default();
    let store: &dyn Store = &memory;
    for fault in [StoreFault::Fail, StoreFault::Tear] {
        memory.fail_at(0, fault);
        assert_eq!(store.put_new(&pack("one"), b"whole").unwrap_err().kind(), Kind::Unavailable);
        let mut file = store.draft(ObjectKind::Pack).unwrap();
        file.write_all(b"whole").unwrap();
        memory.fail_at(0, fault);
        assert_eq!(store.put_file(&pack("one"), file).unwrap_err().kind(), Kind::Unavailable);
        assert_eq!(
            (store.list(ObjectKind::Pack).unwrap(), store.size(&pack("one")).unwrap()),
            (vec![], None)
        );
    }
    assert_eq!(memory.torn(), 4);
    memory.fail_at(0, StoreFault::LoseAnswer);
    assert_eq!(store.put_new(&pack("one"), b"whole").unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(store.read(&pack("one")).unwrap().unwrap(), b"whole", "the answer was lost, not the object");

    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("packs")).unwrap();
    std::fs::write(folder.path().join("packs/one.pack.0123456789abcdef-7.tmp"), "half").unwrap();
    assert_eq!(Folder::new(folder.path()).list(ObjectKind::Pack).unwrap(), []);
}
