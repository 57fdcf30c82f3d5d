use super::*;

const PLACE: &str = "memory:";

fn identities(folder: &std::path::Path, file: &str) -> (IdentitySource, Identities) {
    let source = IdentitySource::File(folder.join(file));
    let identities = source.read_or_make().unwrap().0;
    (source, identities)
}

fn copy(
    memory: &MemoryStore,
    source: &IdentitySource,
    new: NewCopy,
    to: &[Recipient],
) -> Result<Arc<dyn Store>> {
    let secrecy = Secrecy::new(Some(source.clone()), new, to.to_vec());
    secrecy.open_to_copy(Arc::new(memory.clone()), PLACE, crate::ambient::temporary_place())
}

fn read(memory: &MemoryStore, source: Option<&IdentitySource>) -> Result<Arc<dyn Store>> {
    let secrecy = Secrecy::new(source.cloned(), NewCopy::default(), Vec::new());
    secrecy.open(Arc::new(memory.clone()), PLACE, crate::ambient::temporary_place())
}

fn says(result: Result<Arc<dyn Store>>, kind: Kind, words: &[&str]) {
    let said = result.unwrap_err();
    assert!(said.kind() == kind && words.iter().all(|word| said.message().contains(word)), "{said:?}");
}

#[test]
fn each_recipient_opens_the_copy_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let (memory, epoch) = (MemoryStore::default(), ObjectName::epoch(1));
    let (ours, one) = identities(folder.path(), "ours");
    let (theirs, two) = identities(folder.path(), "theirs");
    let (wrong, three) = identities(folder.path(), "wrong");
    let to = two.first().recipient();
    copy(&memory, &ours, NewCopy::ByIdentity, &[to]).unwrap().put_new(&epoch, b"rows").unwrap();
    for source in [&ours, &theirs] {
        assert_eq!(read(&memory, Some(source)).unwrap().read(&epoch).unwrap().unwrap(), b"rows");
    }
    let (own, other) = (one.first().recipient().to_string(), three.first().recipient().to_string());
    says(read(&memory, Some(&wrong)), Kind::Refused, &[&own, &to.to_string(), &other, "--identity-file"]);
    // The same copy is gone on with, and its key is the same.
    let again = copy(&memory, &ours, NewCopy::Encrypted, &[to]).unwrap();
    assert_eq!(again.read(&epoch).unwrap().unwrap(), b"rows");
    assert_eq!(recipients(&memory).unwrap().len(), 2);
    let both = IdentitySource::of_command(format!(
        "cat {} {}",
        folder.path().join("wrong").display(),
        folder.path().join("theirs").display()
    ));
    assert!(read(&memory, Some(&both)).is_ok(), "one of several identities is enough");
}

#[test]
fn recipients_come_and_go_and_the_last_one_stays() {
    let folder = tempfile::tempdir().unwrap();
    let memory = MemoryStore::default();
    let (ours, one) = identities(folder.path(), "ours");
    let (theirs, two) = identities(folder.path(), "theirs");
    copy(&memory, &ours, NewCopy::Encrypted, &[]).unwrap();
    let (own, other) = (one.first().recipient(), two.first().recipient());
    let last = remove(&memory, &own, PLACE).unwrap_err();
    assert!(last.kind() == Kind::Refused && last.message().contains("is the last one"), "{last}");
    assert_eq!(remove(&memory, &other, PLACE).unwrap_err().kind(), Kind::Refused, "never was one");
    let opened = find(&memory, &one, PLACE).unwrap();
    assert!(opened.is_own() && add(&memory, &opened, one.first(), &other).unwrap());
    assert!(!add(&memory, &opened, one.first(), &other).unwrap(), "once is enough");
    let found = find(&memory, &two, PLACE).unwrap();
    assert!(found.key == opened.key && found.key.id() == opened.key.id());
    assert_eq!((found.is_own(), found.vouched_by), (false, own));
    remove(&memory, &own, PLACE).unwrap();
    says(read(&memory, Some(&ours)), Kind::Refused, &["encrypted for"]);
    // The one who is left says that the key is right, and may then write.
    says(
        copy(&memory, &theirs, NewCopy::Encrypted, &[]),
        Kind::Refused,
        &["backwhen key add", &found.key.id()],
    );
    assert!(read(&memory, Some(&theirs)).is_ok());
    assert!(add(&memory, &found, two.first(), &other).unwrap());
    assert!(copy(&memory, &theirs, NewCopy::Encrypted, &[]).is_ok());
    assert_eq!(memory.list(ObjectKind::StoreKey).unwrap().len(), 1, "the old voucher is gone");
}

/// Somebody who can write to the bucket knows our public key, and wants the next copy to be encrypted with his key.
#[test]
fn nothing_is_encrypted_with_a_key_that_somebody_else_has_put_there() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, one) = identities(folder.path(), "ours");
    let (theirs, _) = identities(folder.path(), "theirs");
    let own = one.first().recipient();
    let (memory, foreign) = (MemoryStore::default(), MemoryStore::default());
    copy(&memory, &ours, NewCopy::Encrypted, &[]).unwrap();
    copy(&foreign, &theirs, NewCopy::Encrypted, &[own]).unwrap();
    let name = ObjectName::new(ObjectKind::StoreKey, own.to_string());
    let planted = foreign.read(&name).unwrap().unwrap();
    // Beside ours, which then counts, and in its place.
    memory.put_new(&ObjectName::new(ObjectKind::StoreKey, format!("{own}-2")), &planted).unwrap();
    assert!(copy(&memory, &ours, NewCopy::Encrypted, &[]).is_ok());
    assert!(find(&memory, &one, PLACE).unwrap().is_own());
    overwrite(&memory, &name, &planted);
    says(
        copy(&memory, &ours, NewCopy::Encrypted, &[]),
        Kind::Refused,
        &["and not your identity", "backwhen key list"],
    );
    // A wrapped key that was changed, or that is not for us, is damage.
    let mut changed = planted.clone();
    let end = changed.len() - 1;
    changed[end] ^= 1;
    overwrite(&memory, &name, &changed);
    memory.remove(&[ObjectName::new(ObjectKind::StoreKey, format!("{own}-2"))]).unwrap();
    says(read(&memory, Some(&ours)), Kind::Damaged, &[&name.to_string()]);
}

#[test]
fn plain_and_encrypted_copies_are_not_mixed_up() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, _) = identities(folder.path(), "ours");
    let plain = MemoryStore::default();
    plain.put_new(&ObjectName::only(ObjectKind::Identity), b"{}").unwrap();
    for new in [NewCopy::ByIdentity, NewCopy::Encrypted] {
        says(copy(&plain, &ours, new, &[]), Kind::Refused, &["is not encrypted", "--no-encrypt"]);
    }
    says(read(&plain, Some(&ours)), Kind::Refused, &["is not encrypted"]);
    let as_it_is = copy(&plain, &ours, NewCopy::Plain, &[]).unwrap();
    assert_eq!(as_it_is.read(&ObjectName::only(ObjectKind::Identity)).unwrap().unwrap(), b"{}");
    assert!(read(&plain, None).is_ok() && plain.list(ObjectKind::StoreKey).unwrap().is_empty());
    // A new copy that is to be plain although there is an identity, and an encrypted one without an identity.
    let new = MemoryStore::default();
    copy(&new, &ours, NewCopy::Plain, &[]).unwrap();
    assert!(!is_encrypted(&new).unwrap());
    let place = crate::ambient::temporary_place();
    let wanted = Secrecy::new(None, NewCopy::Encrypted, Vec::new());
    says(
        wanted.open_to_copy(Arc::new(MemoryStore::default()), PLACE, place),
        Kind::Usage,
        &["--identity-file"],
    );
}

#[test]
fn of_two_that_begin_a_copy_one_makes_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, _) = identities(folder.path(), "ours");
    let memory = MemoryStore::default();
    std::thread::scope(|scope| {
        let begin = || loop {
            match copy(&memory, &ours, NewCopy::Encrypted, &[]) {
                Err(error) if error.kind() == Kind::Locked => std::thread::yield_now(),
                begun => return begun.unwrap(),
            }
        };
        let begun: Vec<_> = (0..4).map(|_| scope.spawn(begin)).collect();
        let stores: Vec<_> = begun.into_iter().map(|it| it.join().unwrap()).collect();
        stores[0].put_new(&ObjectName::epoch(1), b"rows").unwrap();
        assert!(stores.iter().all(|store| store.read(&ObjectName::epoch(1)).unwrap().unwrap() == b"rows"));
    });
    assert_eq!(memory.list(ObjectKind::StoreKey).unwrap().len(), 1);
}
