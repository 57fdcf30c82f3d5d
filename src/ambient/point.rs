//! Failpoints: named places at which a test can make a process wait, fail or die.
//!
//! A test sets `BACKWHEN_TEST_POINT=PLACE=ACTION`, or `PLACE=ACTION@N` for the N-th pass. ACTION is `kill`, `error`,
//! `error-once`, `panic`, `stop` (once, until the test sends SIGCONT) or a number of milliseconds to wait. Without the variable,
//! every pass does nothing.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// All places, in the order in which a history passes them. `tests/servers/crash` kills a process at each.
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
    "store.put",
    "store.put-done",
    "disperse.put",
    "disperse.put-done",
    "disperse.repair",
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
    "checkpoint.snapshot",
    "checkpoint.image",
    "checkpoint.publish",
    "checkpoint.published",
    "expire.repacked",
    "expire.record",
    "expire.recorded",
    "expire.removed",
    "resync.lost",
    "resync.begin",
    "resync.folded",
    "resync.compared",
    "recover.cloned",
    "recover.opened",
    "recover.loaded",
    "recover.indexed",
    "recover.valid",
    "recover.copied",
    "recover.validated",
    "recover.beside",
    "demand.structure",
    "demand.ledger",
    "demand.gates",
    "demand.loaded",
    "demand.close",
    "rewind.planned",
    "rewind.locked",
    "rewind.applied",
    "rewind.committed",
    "drop.slot",
    "drop.done",
];

struct ArmedPoint {
    place: String,
    action: PointAction,
    /// How many passes are let through before the action.
    left: AtomicU64,
    /// Whether an action that is done only once has been done.
    done: AtomicBool,
}

enum PointAction {
    Kill,
    Error,
    ErrorOnce,
    Panic,
    Stop,
    Wait(Duration),
}

/// Passes a failpoint.
///
/// # Errors
/// Fails if a test asked for an error at this place.
pub fn point(place: &'static str) -> io::Result<()> {
    debug_assert!(POINTS.contains(&place), "{place} is not in the table");
    static WANTED: OnceLock<Option<ArmedPoint>> = OnceLock::new();
    let wanted = WANTED.get_or_init(|| std::env::var("BACKWHEN_TEST_POINT").ok().and_then(|it| parse(&it)));
    match wanted {
        Some(wanted) if wanted.place == place => wanted.met(),
        _ => Ok(()),
    }
}

fn parse(text: &str) -> Option<ArmedPoint> {
    let (place, action) = text.split_once('=')?;
    let (action, number) = action.split_once('@').unwrap_or((action, "1"));
    let action = match action {
        "kill" => PointAction::Kill,
        "error" => PointAction::Error,
        "error-once" => PointAction::ErrorOnce,
        "panic" => PointAction::Panic,
        "stop" => PointAction::Stop,
        millis => PointAction::Wait(Duration::from_millis(millis.parse().ok()?)),
    };
    let left = number.parse::<u64>().ok()?.checked_sub(1)?;
    Some(ArmedPoint {
        place: place.to_owned(),
        action,
        left: AtomicU64::new(left),
        done: AtomicBool::new(false),
    })
}

impl ArmedPoint {
    fn met(&self) -> io::Result<()> {
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            return Ok(());
        }
        match self.action {
            // The process ends at once, as by kill -9: nothing is flushed, and no destructor runs.
            PointAction::Kill => std::process::abort(),
            PointAction::Error => {
                Err(io::Error::other(format!("a test asked for an error at {}", self.place)))
            }
            PointAction::ErrorOnce if self.done.swap(true, Ordering::Relaxed) => Ok(()),
            PointAction::ErrorOnce => {
                Err(io::Error::other(format!("a test asked for one error at {}", self.place)))
            }
            PointAction::Stop if self.done.swap(true, Ordering::Relaxed) => Ok(()),
            PointAction::Stop => {
                let stopped =
                    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
                Ok(stopped?)
            }
            PointAction::Panic => panic!("a test asked for a panic at {}", self.place),
            PointAction::Wait(time) => {
                std::thread::sleep(time);
                Ok(())
            }
        }
    }
}

/// Returns a number that a test sets, such as a limit that is otherwise reached too rarely.
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
