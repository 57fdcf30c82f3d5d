//! Encrypted objects can be read only as a holder of the key has written them, and under their own names; everything else
//! is an error that names the object.

mod fixture;
mod frames;
mod keys;

use super::*;
use crate::store::MemoryStore;

/// A sealed store, and the store beneath it.
fn sealed() -> (MemoryStore, Sealed) {
    let memory = MemoryStore::default();
    (memory.clone(), over(&memory, 1))
}

fn over(memory: &MemoryStore, key: u8) -> Sealed {
    Sealed::new(Arc::new(memory.clone()), &StoreKey::of_byte(key), crate::ambient::temporary_place())
}

fn name(kind: ObjectKind, stem: &str) -> ObjectName {
    ObjectName::new(kind, kind.only_stem().unwrap_or(stem))
}

/// The object beneath, exchanged for other bytes.
fn overwrite(memory: &MemoryStore, name: &ObjectName, bytes: &[u8]) {
    memory.remove(std::slice::from_ref(name)).unwrap();
    memory.put_new(name, bytes).unwrap();
}

/// Every way of reading an object must end in this kind of error, which names the object.
fn assert_damaged(store: &Sealed, name: &ObjectName, case: &str) {
    let read = store.read(name).unwrap_err();
    assert!(read.kind() == Kind::Damaged && read.message().contains(&name.to_string()), "{case}: {read}");
    let ranged = || -> Result<()> {
        let object = store.open(name)?.unwrap();
        let mut bytes = vec![0; object.size() as usize];
        let read = object.read_exact_at(&mut bytes, 0);
        read.map_err(|error| Error::new(crate::store::kind_of_failure(&error), error.to_string()))
    };
    let opened = ranged().unwrap_err();
    assert!(
        opened.kind() == Kind::Damaged && opened.message().contains(&name.to_string()),
        "{case}: {opened}"
    );
    assert_eq!(store.lend(name).unwrap_err().kind(), Kind::Damaged, "{case}");
}

#[test]
fn an_object_of_each_kind_that_is_tampered_with_is_named() {
    for kind in ObjectKind::ALL {
        let (memory, store) = sealed();
        let (one, two) = (name(kind, "one"), name(kind, "two"));
        let text = [b"the rows of one".repeat(5_000), b"end".to_vec()].concat();
        store.put_new(&one, &text).unwrap();
        let beneath = store.names.seal(&one);
        let whole = memory.read(&beneath).unwrap().unwrap();
        for (case, bytes) in [
            ("cut", &whole[..whole.len() - 1]),
            ("halved", &whole[..whole.len() / 2]),
            ("cut in front", &whole[1..]),
            ("emptied", &[]),
            ("longer", &[&whole[..], b"x"].concat()),
            ("in the clear", &text),
        ] {
            overwrite(&memory, &beneath, bytes);
            assert_damaged(&store, &one, case);
        }
        for at in [0, 1, 70_000, whole.len() / 2, whole.len() - 100, whole.len() - 60] {
            let mut flipped = whole.clone();
            flipped[at] ^= 4;
            overwrite(&memory, &beneath, &flipped);
            assert_damaged(&store, &one, "flipped");
        }
        // The same object of another store, whose key is another one.
        let other = over(&MemoryStore::default(), 2);
        overwrite(&memory, &beneath, &other.seal_bytes(&one, &text).unwrap());
        assert_damaged(&store, &one, "of another store");
        overwrite(&memory, &beneath, &whole);
        assert_eq!(store.read(&one).unwrap().unwrap(), text);
        if kind.only_stem().is_some() {
            continue;
        }
        // Two objects that change their places, and one that is put under another name too.
        store.put_new(&two, &text).unwrap();
        let second = store.names.seal(&two);
        let other = memory.read(&second).unwrap().unwrap();
        overwrite(&memory, &beneath, &other);
        overwrite(&memory, &second, &whole);
        assert_damaged(&store, &one, "exchanged");
        assert_damaged(&store, &two, "exchanged");
    }
}

#[test]
fn an_object_of_one_kind_is_none_of_another_kind() {
    let kinds = ObjectKind::ALL.into_iter().filter(|kind| kind.only_stem().is_none());
    let kinds: Vec<_> = kinds.collect();
    for from in &kinds {
        for to in kinds.iter().filter(|to| *to != from) {
            let (memory, store) = sealed();
            store.put_new(&name(*from, "one"), b"text").unwrap();
            let beneath = store.names.seal(&name(*from, "one"));
            let bytes = memory.read(&beneath).unwrap().unwrap();
            // Under its own sealed name, and under that which its stem has as the other kind.
            memory.put_new(&ObjectName::new(*to, beneath.stem()), &bytes).unwrap();
            assert_eq!(store.list(*to).unwrap_err().kind(), Kind::Damaged, "{from:?}, {to:?}");
            memory.put_new(&store.names.seal(&name(*to, "one")), &bytes).unwrap();
            assert_damaged(&store, &name(*to, "one"), "another kind");
        }
    }
}

#[test]
fn an_object_that_was_put_without_the_key_is_named_by_the_list() {
    let (memory, store) = sealed();
    store.put_new(&name(ObjectKind::Pack, "one"), b"text").unwrap();
    for stem in ["one", "planted", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"] {
        let planted = name(ObjectKind::Pack, stem);
        memory.put_new(&planted, b"rows of somebody else").unwrap();
        let said = store.list(ObjectKind::Pack).unwrap_err();
        assert!(said.kind() == Kind::Damaged && said.message().contains(&planted.to_string()), "{said}");
        memory.remove(&[planted]).unwrap();
    }
    assert_eq!(store.list(ObjectKind::Pack).unwrap(), [name(ObjectKind::Pack, "one")]);
}

#[test]
fn names_hide_their_stems_and_nobody_else_can_make_one() {
    let (names, others) = (StoreKey::of_byte(1).names(), StoreKey::of_byte(2).names());
    for kind in ObjectKind::ALL.into_iter().filter(|kind| kind.only_stem().is_none()) {
        let stems = [
            "0001-0000000001000000",
            "a",
            "ä ö",
            &"8ecf5337ad9fe267031b2e031c5cc947".repeat(2),
            &"x".repeat(99),
        ];
        for stem in stems {
            let hidden = names.seal(&name(kind, stem));
            assert_eq!(names.open(&hidden), Some(name(kind, stem)));
            assert!(hidden == names.seal(&name(kind, stem)) && hidden.file_name().len() < 240, "{hidden}");
            assert!(stem.len() < 3 || !hidden.to_string().contains(stem));
            assert_eq!(others.open(&hidden), None);
            for at in 0..hidden.stem().len() {
                let mut changed = hidden.stem().to_owned().into_bytes();
                changed[at] = if changed[at] == b'a' { b'b' } else { b'a' };
                let changed = ObjectName::new(kind, String::from_utf8(changed).unwrap());
                assert_eq!(names.open(&changed), None, "{at}");
                assert_eq!(names.open(&ObjectName::new(kind, &hidden.stem()[..at])), None, "{at}");
            }
        }
    }
    let len = |stem: &str| names.seal(&name(ObjectKind::Pin, stem)).stem().len();
    assert_eq!(len("a"), len("before-import"), "short stems have names of one length");
}

#[test]
fn the_store_beneath_sees_nothing_that_can_be_read() {
    let scan = |memory: &MemoryStore, word: &[u8]| {
        let kinds = ObjectKind::ALL.into_iter();
        let names: Vec<_> = kinds.flat_map(|kind| memory.list(kind).unwrap()).collect();
        names.iter().any(|name| {
            let bytes = [name.to_string().as_bytes(), &memory.read(name).unwrap().unwrap()].concat();
            bytes.windows(word.len()).any(|it| it == word)
        })
    };
    let (memory, store) = sealed();
    for store in [&memory as &dyn Store, &store] {
        for kind in ObjectKind::ALL {
            store.put_new(&name(kind, "stem of customers"), b"table customers, row CANARY").unwrap();
        }
        let is_plain = format!("{store:?}").starts_with("MemoryStore");
        assert_eq!(scan(&memory, b"CANARY"), is_plain, "in the clear the canary is found");
        assert_eq!(scan(&memory, b"customers"), is_plain);
        for kind in ObjectKind::ALL {
            let names = memory.list(kind).unwrap();
            memory.remove(&names).unwrap();
        }
    }
    let twice: Vec<_> =
        (0..2).map(|_| store.seal_bytes(&name(ObjectKind::Pack, "one"), b"same").unwrap()).collect();
    assert_ne!(twice[0], twice[1], "equal objects are not told");
}

#[test]
fn a_note_is_for_holders_of_the_key_and_for_one_role() {
    let key = StoreKey::of_byte(1).data();
    let sealed = key.seal_text(note_of(Role::Capture), b"table customers").unwrap();
    assert_eq!(key.open_text(note_of(Role::Capture), &sealed).unwrap(), b"table customers");
    assert_eq!(key.open_text(note_of(Role::Objects), &sealed), None);
    assert_eq!(StoreKey::of_byte(2).data().open_text(note_of(Role::Capture), &sealed), None);
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        assert_eq!(key.open_text(note_of(Role::Capture), &changed), None);
        assert_eq!(key.open_text(note_of(Role::Capture), &sealed[..at]), None);
    }
}

/// A draft of rows is made in the folder of the history, where a killed process leaves it.
#[test]
fn a_draft_shows_nothing_before_it_is_put() {
    use std::io::Write;

    let folder = tempfile::tempdir().unwrap();
    let store = for_tests(Arc::new(MemoryStore::default()), folder.path());
    let rows = b"CANARY in a row; ".repeat(20_000);
    for kind in [ObjectKind::Pack, ObjectKind::Segment, ObjectKind::Archive, ObjectKind::Roles] {
        let mut draft = store.draft(kind).unwrap();
        match kind {
            ObjectKind::Pack | ObjectKind::Segment => draft.write_all(&rows).unwrap(),
            // Another program writes by the path.
            _ => std::fs::write(draft.path(), &rows).unwrap(),
        }
        assert_eq!((draft.size().unwrap(), draft.read().unwrap().len()), (rows.len() as u64, rows.len()));
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let stored = std::fs::read(entry.unwrap().path()).unwrap();
            assert!(!stored.windows(6).any(|it| it == b"CANARY"), "{kind:?}");
        }
        let name = ObjectName::new(kind, "one");
        store.put_file(&name, draft).unwrap();
        assert!(store.read(&name).unwrap().unwrap() == rows, "{kind:?}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the draft is gone");
    }
}
