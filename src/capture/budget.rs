//! How much of its log the source may keep for us. Beyond that, production's disk counts for more than
//! an unbroken history: the slot is given up.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::ambient;
use crate::source::slot::SlotFacts;

/// A backlog that becomes less within so many heartbeats is left to become less, also beyond the
/// budget.
const GRACE: u32 = 10;

/// What a look at the source gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Fine,
    /// More than half of it is used up, which was not so before.
    Warn,
    /// It is used up, and the backlog does not become less.
    GiveUp,
}

/// What the slot keeps of the source's log, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    pub retained: u64,
    /// Of that, what the history does not hold.
    pub lag: u64,
}

impl Kept {
    /// Nothing if there is no such slot, or one that retains no WAL any more.
    pub fn of(slot: &SlotFacts) -> Option<Kept> {
        slot.retained.map(|retained| Kept { retained, lag: slot.lag.unwrap_or(retained) })
    }
}

/// Shared by all that look at the source.
#[derive(Clone)]
pub struct Budget {
    /// In bytes; none means that there is no limit.
    most: Option<u64>,
    grace: Duration,
    memory: Arc<Mutex<Memory>>,
}

#[derive(Default)]
struct Memory {
    warned: bool,
    /// When it was found used up, or last found to become less, and the backlog then.
    over: Option<(Instant, u64)>,
}

impl Budget {
    pub fn new(most: Option<u64>, heartbeat: Duration) -> Budget {
        Budget { most, grace: heartbeat * GRACE, memory: Arc::default() }
    }

    /// Judges what was found just now.
    pub fn judge(&self, kept: Kept) -> Verdict {
        self.judge_at(kept, ambient::instant())
    }

    fn judge_at(&self, kept: Kept, now: Instant) -> Verdict {
        let (Some(most), Ok(mut memory)) = (self.most, self.memory.lock()) else { return Verdict::Fine };
        let much = kept.retained >= most / 2;
        let warns = !std::mem::replace(&mut memory.warned, much) && much;
        if kept.retained < most {
            memory.over = None;
            return if warns { Verdict::Warn } else { Verdict::Fine };
        }
        match memory.over {
            Some((since, _)) if now.duration_since(since) < self.grace => {}
            Some((_, before)) if kept.lag >= before => {
                return Verdict::GiveUp;
            }
            _ => memory.over = Some((now, kept.lag)),
        }
        if warns { Verdict::Warn } else { Verdict::Fine }
    }

    /// A new slot begins with nothing.
    pub fn begin(&self) {
        if let Ok(mut memory) = self.memory.lock() {
            *memory = Memory::default();
        }
    }

    /// For a person.
    pub fn describe(&self, kept: Kept) -> String {
        format!(
            "the slot keeps {} MiB of the source's log; at --max-retained-wal, {} MiB, it is given up",
            kept.retained >> 20,
            self.most.unwrap_or_default() >> 20
        )
    }

    /// Why it was given up.
    pub fn cause(&self) -> String {
        format!(
            "the slot kept more of the source's log than --max-retained-wal, {} MiB, and was given up before \
             production's disk could fill",
            self.most.unwrap_or_default() >> 20
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_beyond_the_budget_is_given_up_unless_it_becomes_less() {
        let budget = Budget::new(Some(100), Duration::from_secs(1));
        let start = Instant::now();
        let at = |seconds: u64, retained: u64, lag: u64| {
            budget.judge_at(Kept { retained, lag }, start + Duration::from_secs(seconds))
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
        let none = Budget::new(None, Duration::ZERO);
        assert_eq!(none.judge(Kept { retained: u64::MAX, lag: u64::MAX }), Verdict::Fine);
    }
}
