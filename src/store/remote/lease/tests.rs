//! Leases in memory, with terms that are short enough for a test.

use super::*;

fn leases(terms: LeaseTerms) -> Leases {
    let store = Arc::new(object_store::memory::InMemory::new());
    Leases::new(Bucket::new(store, "", "memory://bucket"), terms)
}

/// Adds a holder that never raises its heartbeat, as a process that was killed leaves it.
fn leave_behind(leases: &Leases, role: Role, alone: bool) {
    let holder = |id| Holder { id, alone, command: "expire".into(), beat: 3, owner: None, note: None };
    let add = |content: &mut Holders| {
        content.holders.push(holder(77));
        Ok(())
    };
    leases.object(role).change(add).unwrap();
}

#[test]
fn a_holder_that_was_killed_is_taken_for_dead_once_its_heartbeat_has_stood_still() {
    let short = LeaseTerms { beat: Duration::from_millis(5), dead_after: Duration::from_millis(40) };
    for alone in [true, false] {
        let leases = leases(short);
        leave_behind(&leases, Role::Objects, alone);
        assert!(leases.is_leased(Role::Objects));
        let begun = ambient::instant();
        let lease = leases.alone(Role::Objects, "expire", None).unwrap();
        assert!(begun.elapsed() >= short.dead_after, "it was watched first");
        drop(lease);
        assert!(!leases.is_leased(Role::Objects));
    }
    let leases = leases(short);
    leave_behind(&leases, Role::Objects, true);
    assert_eq!(leases.shared(Role::Objects, Duration::ZERO).err().unwrap().kind(), Kind::Locked);
    assert!(leases.shared(Role::Objects, Duration::from_secs(60)).is_ok());
}

#[test]
fn a_holder_whose_lease_was_taken_stops_writing() {
    let leases =
        leases(LeaseTerms { beat: Duration::from_millis(5), dead_after: Duration::from_millis(200) });
    let lease = leases.alone(Role::Capture, "copy", None).unwrap();
    let strike_off = |content: &mut Holders| {
        content.holders.clear();
        Ok(())
    };
    leases.object(Role::Capture).change(strike_off).unwrap();
    let begun = ambient::instant();
    let lost = loop {
        match leases.check() {
            Err(error) => break error,
            Ok(()) => assert!(begun.elapsed() < Duration::from_secs(60), "it goes on"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(lost.kind(), Kind::Locked);
    drop(lease);
    leases.check().unwrap();
}

#[test]
fn an_owner_takes_the_place_of_its_dead_holder_at_once_and_no_other_does() {
    let leases = leases(LeaseTerms::for_tests());
    let dead = leases.alone(Role::Capture, "capture", Some("one")).unwrap();
    leases.note(Role::Capture, "it goes well");
    let begun = ambient::instant();
    while leases.read_note(Role::Capture).unwrap().unwrap().note.as_deref() != Some("it goes well") {
        assert!(begun.elapsed() < Duration::from_secs(60), "the note comes with a heartbeat");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(leases.alone(Role::Capture, "capture", Some("other")).err().unwrap().kind(), Kind::Locked);
    let next = leases.alone(Role::Capture, "capture", Some("one")).unwrap();
    let begun = ambient::instant();
    while leases.check().is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the earlier holder goes on");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(dead);
    assert!(leases.check().is_ok() && leases.is_leased(Role::Capture), "the next one has it still");
    drop(next);
    assert!(leases.read_note(Role::Capture).unwrap().is_none());
}

#[test]
fn many_share_a_role_and_give_it_back_at_once() {
    let leases = leases(LeaseTerms::for_tests());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| drop(leases.shared(Role::Objects, Duration::ZERO).unwrap()));
        }
    });
    assert!(!leases.is_leased(Role::Objects));
    let content = leases.object(Role::Objects).read().unwrap().0;
    assert_eq!(content.fence, 8, "each lease has a number of its own");
}
