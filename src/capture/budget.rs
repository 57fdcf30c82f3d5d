//! How much WAL the source may retain for the history. Beyond that, production's disk counts for more than an unbroken
//! history: the slot is given up.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::ambient;
use crate::model::Lsn;
use crate::source::blocker::OpenTransaction;
use crate::source::slot::SlotFacts;

/// A backlog that becomes less within this many heartbeats is left to become less, also beyond the budget.
const GRACE: u32 = 10;

/// The decision after one look at the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Fine,
    /// More than half of it is used up, which was not so before.
    Warn,
    /// The budget is used up, and the backlog does not shrink.
    GiveUp,
}

/// The WAL that the slot retains, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetainedWal {
    pub retained: u64,
    /// The part of it that the history does not hold yet.
    pub lag: u64,
}

impl RetainedWal {
    /// Returns `None` if there is no such slot, or one that retains no WAL any more.
    pub fn of(slot: &SlotFacts) -> Option<RetainedWal> {
        slot.retained.map(|retained| RetainedWal { retained, lag: slot.lag.unwrap_or(retained) })
    }

    /// Counts as held what the history has up to `frontier`, also if that is not confirmed to the server yet. `head` is the
    /// end of the server's WAL.
    pub fn held_up_to(self, frontier: Lsn, head: Lsn) -> RetainedWal {
        RetainedWal { lag: self.lag.min(head.bytes_since(frontier)), ..self }
    }

    /// Whether capture catches up, or the server has let go of WAL. A backlog of less than half of the budget is no
    /// reason for the rest: there a transaction keeps the slot where it is, and what lag there is goes up and down by
    /// chance.
    fn is_better_than(self, before: RetainedWal, most: u64) -> bool {
        let is_behind = |found: RetainedWal| found.lag >= most / 2;
        match (is_behind(before), is_behind(self)) {
            (true, true) => self.lag < before.lag,
            // Capture has caught up meanwhile, and the server lets go of WAL a little later.
            (true, false) => true,
            (false, _) => self.retained < before.retained,
        }
    }

    /// Whether most of the WAL is retained for another reason than that capture is behind.
    pub fn is_held_by_a_transaction(self) -> bool {
        self.lag < self.retained / 2
    }

    fn held_by(self, oldest: Option<OpenTransaction>) -> String {
        match oldest {
            Some(oldest) if self.is_held_by_a_transaction() => format!("; {oldest}"),
            _ => String::new(),
        }
    }
}

/// The budget, shared by all tasks that look at the source.
#[derive(Clone)]
pub struct Budget {
    /// The most WAL that the slot may retain, in bytes; `None` means that there is no limit.
    most: Option<u64>,
    grace: Duration,
    memory: Arc<Mutex<Memory>>,
}

#[derive(Default)]
struct Memory {
    warned: bool,
    /// A warning was given while a transaction, and not the backlog, made the slot retain most of the WAL.
    warned_of_transaction: bool,
    /// When the budget was found used up, or what is retained was last found to become less; and what was found then.
    over: Option<(Instant, RetainedWal)>,
}

impl Budget {
    pub fn new(most: Option<u64>, heartbeat: Duration) -> Budget {
        Budget { most, grace: heartbeat * GRACE, memory: Arc::default() }
    }

    /// Judges what was found just now.
    pub fn judge(&self, found: RetainedWal) -> Verdict {
        self.judge_at(found, ambient::instant())
    }

    fn judge_at(&self, found: RetainedWal, now: Instant) -> Verdict {
        let (Some(most), Ok(mut memory)) = (self.most, self.memory.lock()) else { return Verdict::Fine };
        let much = found.retained >= most / 2;
        let held = much && found.is_held_by_a_transaction();
        // After a burst of WAL, the reason why the slot retains it shows only later.
        let warns = much && !memory.warned || held && !memory.warned_of_transaction;
        (memory.warned, memory.warned_of_transaction) = (much, held || much && memory.warned_of_transaction);
        if found.retained < most {
            memory.over = None;
            return if warns { Verdict::Warn } else { Verdict::Fine };
        }
        match memory.over {
            Some((since, _)) if now.duration_since(since) < self.grace => {}
            Some((_, before)) if !found.is_better_than(before, most) => return Verdict::GiveUp,
            _ => memory.over = Some((now, found)),
        }
        if warns { Verdict::Warn } else { Verdict::Fine }
    }

    /// Forgets what was found: a new slot retains nothing.
    pub fn begin(&self) {
        if let Ok(mut memory) = self.memory.lock() {
            *memory = Memory::default();
        }
    }

    /// Describes what was found, for a person. `oldest` is the source's oldest transaction.
    pub fn describe(&self, found: RetainedWal, oldest: Option<OpenTransaction>) -> String {
        format!(
            "the slot retains {} MiB of the source's WAL; at --max-retained-wal, {} MiB, it is given up{}",
            found.retained >> 20,
            self.most.unwrap_or_default() >> 20,
            found.held_by(oldest)
        )
    }

    /// Says why the slot was given up.
    pub fn cause(&self, found: RetainedWal, oldest: Option<OpenTransaction>) -> String {
        format!(
            "the slot retained more of the source's WAL than --max-retained-wal, {} MiB, and was given up before \
             production's disk could fill{}",
            self.most.unwrap_or_default() >> 20,
            found.held_by(oldest)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_history_holds_is_no_backlog_though_the_server_has_not_heard_of_it() {
        let unconfirmed = RetainedWal { retained: 100, lag: 90 };
        assert!(!unconfirmed.is_held_by_a_transaction());
        assert!(unconfirmed.held_up_to(Lsn(990), Lsn(1000)).is_held_by_a_transaction());
        assert_eq!(
            unconfirmed.held_up_to(Lsn(500), Lsn(1000)),
            unconfirmed,
            "never more than is not confirmed"
        );
        assert_eq!(unconfirmed.held_up_to(Lsn(1001), Lsn(1000)).lag, 0);
    }

    #[test]
    fn a_backlog_beyond_the_budget_is_given_up_unless_it_becomes_less() {
        let budget = Budget::new(Some(100), Duration::from_secs(1));
        let start = Instant::now();
        let at = |seconds: u64, retained: u64, lag: u64| {
            budget.judge_at(RetainedWal { retained, lag }, start + Duration::from_secs(seconds))
        };
        assert_eq!(at(0, 49, 49), Verdict::Fine);
        assert_eq!(at(1, 50, 50), Verdict::Warn);
        assert_eq!(at(2, 60, 60), Verdict::Fine, "it is said once");
        assert_eq!(at(3, 120, 120), Verdict::Fine);
        assert_eq!(at(12, 130, 130), Verdict::Fine, "it has time to become less");
        assert_eq!(at(13, 130, 119), Verdict::Fine, "and does");
        assert_eq!(at(22, 130, 119), Verdict::Fine);
        assert_eq!(at(23, 130, 119), Verdict::GiveUp);
        assert_eq!(at(24, 40, 40), Verdict::Fine);
        assert_eq!(at(25, 50, 50), Verdict::Warn);
        assert_eq!(at(26, 100, 90), Verdict::Fine);
        assert_eq!(at(27, 99, 99), Verdict::Fine);
        assert_eq!(at(40, 100, 100), Verdict::Fine, "the time begins anew");
        let at = |seconds: u64, retained: u64, lag: u64| {
            budget.judge_at(RetainedWal { retained, lag }, start + Duration::from_secs(100 + seconds))
        };
        budget.begin();
        assert_eq!(at(0, 150, 3), Verdict::Warn, "a transaction keeps it");
        assert_eq!(at(10, 150, 1), Verdict::GiveUp, "whatever little lag there is");
        assert_eq!(at(11, 150, 0), Verdict::GiveUp, "and it stays so");
        budget.begin();
        assert_eq!(at(20, 200, 200), Verdict::Warn);
        assert_eq!(at(30, 220, 10), Verdict::Warn, "capture has caught up, so that a transaction shows");
        assert_eq!(at(40, 210, 12), Verdict::Fine, "and the server lets go of WAL");
        assert_eq!(at(50, 230, 5), Verdict::GiveUp);
        let none = Budget::new(None, Duration::ZERO);
        assert_eq!(none.judge(RetainedWal { retained: u64::MAX, lag: u64::MAX }), Verdict::Fine);
    }
}
