use std::collections::BTreeSet;

use super::*;

#[test]
fn an_object_is_whole_or_not_there_and_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("object");
    let mut unfinished = NewFile::create(&path).unwrap();
    unfinished.write_all(b"half").unwrap();
    drop(unfinished);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

    let write = |bytes: &[u8]| {
        let mut file = NewFile::create(&path)?;
        file.write_all(bytes).unwrap();
        file.publish()
    };
    write(b"first").unwrap();
    assert_eq!(write(b"second").unwrap_err().kind(), Kind::Internal);
    assert_eq!(fs::read(&path).unwrap(), b"first");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left of the second one");
}

#[test]
fn a_lock_is_held_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("capture.lock");
    assert!(!Lock::is_held(&path));
    let lock = Lock::take(&path, "capture").unwrap();
    assert!(Lock::is_held(&path));
    assert_eq!(Lock::take(&path, "capture").err().unwrap().kind(), Kind::Locked);
    drop(lock);
    assert!(Lock::take(&path, "capture").is_ok());
}

/// Two containers share a volume, and in each the process id is 1.
#[test]
fn what_another_process_with_the_same_process_id_writes_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let others = folder.path().join(format!("object.{}.{TEMPORARY}", std::process::id()));
    fs::write(&others, "half of another object").unwrap();
    let mut ours = NewFile::create(&folder.path().join("object")).unwrap();
    ours.write_all(b"whole").unwrap();
    ours.publish().unwrap();
    assert_eq!(fs::read_to_string(&others).unwrap(), "half of another object");
    assert_eq!(fs::read(folder.path().join("object")).unwrap(), b"whole");
}

#[test]
fn leftovers_of_other_processes_go_and_our_own_files_stay() {
    let folder = tempfile::tempdir().unwrap();
    let mut ours = NewFile::create(&folder.path().join("object")).unwrap();
    ours.write_all(b"half").unwrap();
    // By its process id, as earlier versions wrote them, and by its random digits.
    for name in ["object.1.tmp", "object.0123456789abcdef-7.tmp"] {
        fs::write(folder.path().join(name), "half").unwrap();
    }
    fs::write(folder.path().join(format!("object.{}.tmp", std::process::id())), "half").unwrap();
    // Another process that lives holds the lock that `NewFile::create` takes.
    let living = folder.path().join("object.fedcba9876543210-7.tmp");
    let lock = fs::File::create(&living).unwrap();
    lock.try_lock_shared().unwrap();
    let left = || {
        remove_temporaries(folder.path());
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect::<BTreeSet<_>>()
    };
    assert_eq!(left(), BTreeSet::from([ours.path().to_owned(), living]));
    drop(lock);
    assert_eq!(left(), BTreeSet::from([ours.path().to_owned()]));
    let of_another = fs::File::open(ours.path()).unwrap();
    assert!(matches!(of_another.try_lock(), Err(fs::TryLockError::WouldBlock)), "our file can be told");
}

/// Other processes look for files that were left at any instant, also between the birth of a file and its lock.
#[test]
fn a_file_that_is_being_written_is_never_taken_for_one_that_was_left() {
    let folder = tempfile::tempdir().unwrap();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let sweep = || {
        while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
            for entry in fs::read_dir(folder.path()).unwrap().flatten() {
                remove_unless_written(&entry.path());
            }
        }
    };
    std::thread::scope(|scope| {
        (0..2).for_each(|_| drop(scope.spawn(sweep)));
        for number in 0..3_000 {
            let mut file = NewFile::create(&folder.path().join("draft.pack")).unwrap();
            file.write_all(b"bytes").unwrap();
            let found = fs::read(file.path()).ok();
            if found.as_deref() != Some(b"bytes") {
                is_over.store(true, std::sync::atomic::Ordering::Relaxed);
                panic!("the file of round {number} is gone while it is being written");
            }
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    fs::write(folder.path().join("draft.pack.0123456789abcdef-7.tmp"), "left").unwrap();
    remove_temporaries_of(folder.path(), "draft.");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
