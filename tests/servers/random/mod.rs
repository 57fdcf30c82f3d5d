//! A database under a random load, captured by a process that is killed again and again, comes
//! back exactly as it was at every moment that was remembered.
//!
//! `BACKWHEN_TEST_SEED` replays a seed that a failure printed; `BACKWHEN_RANDOM_ROUNDS` is the number
//! of moments, and so the length of the story.

mod story;
mod workload;

use std::sync::Mutex;

use crate::support::{Part, assert_same, compare, number_from, seed};
use story::{Remembered, Story};

const ROUNDS: usize = 8;

/// Seeds that once found a fault.
const REGRESSIONS: &[u64] = &[1];

#[test]
fn every_remembered_moment_comes_back() {
    let rounds = number_from("BACKWHEN_RANDOM_ROUNDS").unwrap_or(ROUNDS as u64) as usize;
    let seed = seed();
    live_and_recover(seed, rounds);
}

#[test]
fn seeds_that_once_found_a_fault_find_none() {
    for seed in REGRESSIONS {
        live_and_recover(*seed, 3);
    }
}

/// The proof is only worth something if it can fail.
#[test]
fn a_damaged_byte_and_a_missing_transaction_are_seen() {
    let story = Story::tell(7, 1);
    let [moment] = &story.remembered[..] else { panic!("one round, one moment") };
    let (_, recovered) = story.recover(&["--to", &moment.time]);
    assert_same(&moment.truth, &recovered);
    let mut damaged = recovered.clone();
    let row = damaged.rows.get_mut("public.untouched (id, name)").unwrap().first_mut().unwrap();
    *row.last_mut().unwrap() ^= 1;
    assert_eq!(compare(&moment.truth, &damaged).len(), 1);

    let (_, without_the_last) = story.recover(&["--to", &format!("xid:{}", moment.xid), "--before"]);
    let differences = compare(&moment.truth, &without_the_last);
    let [difference] = &differences[..] else {
        panic!("one transaction changed one table: {differences:#?}")
    };
    assert_eq!(difference.object, "public.tally (id, n)");
}

fn live_and_recover(seed: u64, rounds: usize) {
    let server = crate::support::Server::shared(None).major();
    eprintln!("PostgreSQL {server}; again with: BACKWHEN_TEST_SEED={seed} BACKWHEN_RANDOM_ROUNDS={rounds}");
    let story = Story::tell(seed, rounds);
    let wanted = Mutex::new(story.remembered.iter().enumerate());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let next = wanted.lock().unwrap().next();
                    let Some((number, moment)) = next else { return };
                    assert_comes_back(&story, number, moment);
                }
            });
        }
    });
    story.backwhen.ok(&["checkpoint"]);
    story.backwhen.ok(&["verify", "--prove"]);
}

/// By time and by position; every third also by its last transaction, every third by its mark.
fn assert_comes_back(story: &Story, number: usize, moment: &Remembered) {
    let mut names = vec![moment.time.clone(), moment.lsn.clone()];
    match number % 3 {
        0 => names.push(format!("xid:{}", moment.xid)),
        1 => names.push(format!("mark:{}", moment.mark)),
        _ => {}
    }
    for name in names {
        let (report, recovered) = story.recover(&["--to", &name]);
        assert_eq!(report["proved"], true, "{name}: {report}");
        let inexact = said_to_be_inexact(&report);
        let mut differences = compare(&moment.truth, &recovered);
        differences
            .retain(|it| it.part != Part::Sequence || !inexact.contains(&format!("sequence {}", it.object)));
        assert_eq!(differences, [], "moment {} by {name}: {report}", number + 1);
    }
}

/// Only a sequence that the load restarts or drops may be anything but exact, and then by its name.
fn said_to_be_inexact(report: &serde_json::Value) -> Vec<String> {
    let inexact = report["inexact"].as_array().expect("a list").iter();
    let named: Vec<_> = inexact.map(|it| it["what"].as_str().expect("a name").to_owned()).collect();
    let restarted = [
        "sequence public.queue_id_seq",
        "sequence public.queue_note_id_seq",
        "sequence public.comes_and_goes_id_seq",
    ];
    assert!(named.iter().all(|name| restarted.contains(&name.as_str())), "{report}");
    named
}
