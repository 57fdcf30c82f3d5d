//! Waiting for a condition, with a limit.

use std::fmt::Display;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A condition that takes longer counts as hanging. More tests run at once than there are processors.
const LIMIT: Duration = Duration::from_secs(120);

const SHORTEST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(64);

/// Returns once the condition holds; fails the test with what it waited for if that takes too long.
#[track_caller]
pub fn wait_for(what: impl Display, is_so: impl FnMut() -> bool) {
    wait_at_most(LIMIT, what, is_so);
}

/// The same with a limit of the test's own. The condition is asked often at first, then more seldom, since asking may
/// take a process.
#[track_caller]
pub fn wait_at_most(limit: Duration, what: impl Display, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    let mut pause = SHORTEST_PAUSE;
    while !is_so() {
        assert!(begun.elapsed() < limit, "waited in vain, for {limit:?}, until {what}");
        sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
