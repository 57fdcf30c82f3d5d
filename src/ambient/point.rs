//! Failpoints: named places at which a test has a process wait, fail or die.
//!
//! `BACKWHEN_TEST_POINT=PLACE=ACTION`, or `PLACE=ACTION@N` for the N-th time it is passed; ACTION is
//! `kill`, `error`, `error-once`, `panic` or a number of milliseconds to wait. Without it nothing happens.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Every place there is, in the order in which a history meets them. `tests/servers/crash` dies at each.
pub const POINTS: &[&str] = &[
    "file.create",
    "file.write",
    "file.sync",
    "file.link",
    "file.linked",
    "folder.sync",
    "file.remove",
    "file.set-aside",
    "file.set-aside-done",
    "init.intent",
    "init.publications",
    "init.slot",
    "init.image",
    "init.epoch",
    "init.manifest",
    "init.found",
    "capture.opened",
    "capture.confirm",
    "journal.append",
    "journal.sync",
    "journal.synced",
    "journal.cut",
    "journal.roll",
    "journal.rolled",
    "seal.write",
    "seal.written",
    "catalog.update",
    "catalog.updated",
    "checkpoint.image",
    "checkpoint.publish",
    "checkpoint.published",
    "expire.record",
    "expire.recorded",
    "expire.removed",
    "resync.lost",
    "resync.begin",
    "resync.folded",
    "resync.compared",
    "recover.opened",
    "recover.loaded",
    "recover.indexed",
    "recover.valid",
    "recover.validated",
    "drop.slot",
    "drop.done",
];

struct Wanted {
    place: String,
    action: Action,
    /// Passes that are still to be let through.
    left: AtomicU64,
    /// The action has been done; an action that is done once is not done again.
    done: AtomicBool,
}

enum Action {
    Kill,
    Error,
    ErrorOnce,
    Panic,
    Wait(Duration),
}

/// Passes a place.
///
/// # Errors
/// One that a test asked for.
pub fn point(place: &'static str) -> io::Result<()> {
    debug_assert!(POINTS.contains(&place), "{place} is not in the table");
    static WANTED: OnceLock<Option<Wanted>> = OnceLock::new();
    let wanted = WANTED.get_or_init(|| std::env::var("BACKWHEN_TEST_POINT").ok().and_then(|it| parse(&it)));
    match wanted {
        Some(wanted) if wanted.place == place => wanted.met(),
        _ => Ok(()),
    }
}

fn parse(text: &str) -> Option<Wanted> {
    let (place, action) = text.split_once('=')?;
    let (action, number) = action.split_once('@').unwrap_or((action, "1"));
    let action = match action {
        "kill" => Action::Kill,
        "error" => Action::Error,
        "error-once" => Action::ErrorOnce,
        "panic" => Action::Panic,
        millis => Action::Wait(Duration::from_millis(millis.parse().ok()?)),
    };
    let left = number.parse::<u64>().ok()?.checked_sub(1)?;
    Some(Wanted { place: place.to_owned(), action, left: AtomicU64::new(left), done: AtomicBool::new(false) })
}

impl Wanted {
    fn met(&self) -> io::Result<()> {
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            return Ok(());
        }
        match self.action {
            // On the spot, as with kill -9: nothing is flushed, no destructor runs.
            Action::Kill => std::process::abort(),
            Action::Error => Err(io::Error::other(format!("a test asked for an error at {}", self.place))),
            Action::ErrorOnce if self.done.swap(true, Ordering::Relaxed) => Ok(()),
            Action::ErrorOnce => {
                Err(io::Error::other(format!("a test asked for one error at {}", self.place)))
            }
            Action::Panic => panic!("a test asked for a panic at {}", self.place),
            Action::Wait(time) => {
                std::thread::sleep(time);
                Ok(())
            }
        }
    }
}

/// A number that a test sets, such as a limit that is met too seldom otherwise.
pub fn test_number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_begins_with_the_pass_that_it_names() {
        let wanted = parse("file.sync=error@3").unwrap();
        assert_eq!(wanted.place, "file.sync");
        let passes: Vec<_> = (0..4).map(|_| wanted.met().is_ok()).collect();
        assert_eq!(passes, [true, true, false, false]);
        let once = parse("file.sync=error-once@2").unwrap();
        let passes: Vec<_> = (0..4).map(|_| once.met().is_ok()).collect();
        assert_eq!(passes, [true, false, true, true]);
        assert!(parse("file.sync=40").unwrap().met().is_ok());
        for nonsense in ["file.sync", "file.sync=maybe", "file.sync=kill@0", "file.sync=kill@x"] {
            assert!(parse(nonsense).is_none(), "{nonsense}");
        }
    }
}
