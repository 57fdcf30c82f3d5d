//! How fast this history is recovered, by the recoveries that `verify --restore` has measured.

use std::time::Duration;

use crate::error::Result;
use crate::history::History;
use crate::history::evidence::{Evidence, Measured};

/// A journal with fewer bytes is read in no time, and the time for it tells nothing of the time for a longer one.
pub const SHORT_JOURNAL: u64 = 64 << 10;

/// How many of the newest pieces of evidence are looked through for a measurement.
const LOOKED_THROUGH: usize = 30;

/// The pace of a recovery on the machine that verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveryPace {
    /// Everything but the journal: definitions, rows, indexes, proof.
    pub loading: Option<Measured>,
    /// The journal.
    pub folding: Option<Measured>,
}

impl RecoveryPace {
    /// Finds the newest measurements among the evidence of a history.
    ///
    /// # Errors
    /// `Unavailable` if the store cannot be listed.
    pub fn of(history: &History) -> Result<RecoveryPace> {
        let newest = history.evidence()?.rev().take(LOOKED_THROUGH).map(|(_, evidence)| evidence);
        Ok(RecoveryPace::among(newest))
    }

    /// `newest` is ordered from the newest piece of evidence to the oldest.
    fn among(newest: impl Iterator<Item = Evidence>) -> RecoveryPace {
        let mut pace = RecoveryPace::default();
        for evidence in newest {
            pace.loading = pace.loading.or(evidence.loading);
            pace.folding = pace.folding.or(evidence.folding.filter(|it| it.bytes >= SHORT_JOURNAL));
            if pace.loading.is_some() && pace.folding.is_some() {
                break;
            }
        }
        pace
    }

    /// How long the rows of a checkpoint take whose blocks have so many bytes; `None` if that was never measured.
    pub fn rows(&self, image_bytes: u64) -> Option<Duration> {
        self.loading.map(|loading| scaled(loading, image_bytes))
    }

    /// How long so many bytes of journal take; `None` if that was never measured.
    pub fn journal(&self, bytes: u64) -> Option<Duration> {
        match self.folding {
            Some(folding) => Some(scaled(folding, bytes)),
            None => (bytes < SHORT_JOURNAL).then_some(Duration::ZERO),
        }
    }

    /// How long a recovery takes that begins with a checkpoint and reads journal; `None` if that is not known.
    pub fn recovery(&self, image_bytes: u64, journal_bytes: u64) -> Option<Duration> {
        Some(self.rows(image_bytes)? + self.journal(journal_bytes)?)
    }
}

/// The time for so many bytes at the same pace. What was measured with nothing is taken to depend on nothing.
fn scaled(measured: Measured, bytes: u64) -> Duration {
    let factor = if measured.bytes == 0 { 1.0 } else { bytes as f64 / measured.bytes as f64 };
    Duration::from_secs_f64(measured.milliseconds as f64 / 1000.0 * factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::evidence::CheckMethod;
    use crate::model::PgTime;

    fn evidence(loading: Option<(u64, u64)>, folding: Option<(u64, u64)>) -> Evidence {
        let measured = |(milliseconds, bytes)| Measured { milliseconds, bytes };
        let mut evidence = Evidence::begun(CheckMethod::Restore, PgTime(0));
        (evidence.loading, evidence.folding) = (loading.map(measured), folding.map(measured));
        evidence
    }

    #[test]
    fn the_newest_measurement_of_each_kind_counts() {
        let all = [
            evidence(None, None),
            evidence(Some((2000, 100 << 20)), Some((5, 100))),
            evidence(Some((9000, 1 << 20)), Some((500, 1 << 20))),
        ];
        let pace = RecoveryPace::among(all.into_iter());
        assert_eq!(pace.rows(200 << 20), Some(Duration::from_secs(4)));
        assert_eq!(pace.journal(3 << 20), Some(Duration::from_millis(1500)), "a short journal tells nothing");
        assert_eq!(pace.recovery(100 << 20, 2 << 20), Some(Duration::from_secs(3)));
    }

    #[test]
    fn what_was_not_measured_is_unknown() {
        let nothing = RecoveryPace::among(std::iter::empty());
        assert_eq!((nothing.rows(1), nothing.recovery(0, 0)), (None, None));
        let rows_only = RecoveryPace::among([evidence(Some((1000, 1000)), None)].into_iter());
        assert_eq!(rows_only.recovery(1000, SHORT_JOURNAL - 1), Some(Duration::from_secs(1)));
        assert_eq!(rows_only.recovery(1000, SHORT_JOURNAL), None);
        let empty = RecoveryPace::among([evidence(Some((700, 0)), None)].into_iter());
        assert_eq!(empty.rows(0), Some(Duration::from_millis(700)));
    }
}
