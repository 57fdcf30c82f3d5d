//! The seam between history and stream: the source's WAL must be the WAL that the history was read from.
//!
//! A source that was restored from a backup, or a standby that was promoted before it had received all WAL, may by now
//! stand beyond the history's end, with a WAL of its own that differs before that end. The slot was set back together
//! with the source, so the source repeats the stretch between. In that stretch the history's last transaction must come,
//! with its xid and its time, and behind it no transaction that the history does not hold. Until the stream has shown
//! this, nothing is confirmed, since a slot that has moved on repeats nothing.

use std::fmt;

use super::peek::{PeekedMessage, peek};
use super::{CopiedEnd, Durable, Journal, Segment, TransactionEntry};
use crate::error::{Error, Result};
use crate::model::{Lsn, PgTime};

/// A position that may be confirmed to the server as flushed, so that the server removes the WAL before it. Only
/// [`Seam::confirmable`] makes one, out of the position that the journal's sync has returned:
///
/// ```
/// # use backwhen::{error::Result, history::journal::{Durable, Received, Seam}, source::stream::ReplicationStream};
/// async fn report(stream: &mut ReplicationStream, received: Received, durable: Durable, seam: &Seam) -> Result<()> {
///     stream.send_status(received, seam.confirmable(durable), false).await
/// }
/// ```
///
/// A position that was only received cannot be confirmed,
///
/// ```compile_fail,E0308
/// # use backwhen::{error::Result, history::journal::{Durable, Received, Seam}, source::stream::ReplicationStream};
/// async fn report(stream: &mut ReplicationStream, received: Received, durable: Durable, seam: &Seam) -> Result<()> {
///     stream.send_status(received, received, false).await
/// }
/// ```
///
/// nor can a durable position as long as the source has not shown that its WAL is the history's,
///
/// ```compile_fail,E0308
/// # use backwhen::{error::Result, history::journal::{Durable, Received, Seam}, source::stream::ReplicationStream};
/// async fn report(stream: &mut ReplicationStream, received: Received, durable: Durable, seam: &Seam) -> Result<()> {
///     stream.send_status(received, durable, false).await
/// }
/// ```
///
/// nor can a position that came from elsewhere, in a report or by advancing the slot;
///
/// ```compile_fail,E0308
/// # use backwhen::{error::Result, model::Lsn, source::stream::ReplicationClient};
/// async fn advance(client: &mut ReplicationClient, to: Lsn) -> Result<()> {
///     client.advance_slot("slot", to).await
/// }
/// ```
///
/// If a position counts as durable only once a copy has it too, the copy's position can only lower the journal's own,
/// and cannot stand in for it;
///
/// ```compile_fail,E0308
/// # use backwhen::history::journal::{Confirmable, CopiedEnd, Seam};
/// fn confirmable(seam: &Seam, copied: CopiedEnd) -> Confirmable {
///     seam.confirmable(copied)
/// }
/// ```
///
/// and no other code can make a position confirmable.
///
/// ```compile_fail,E0423
/// # use backwhen::{history::journal::Confirmable, model::Lsn};
/// fn confirmable(lsn: Lsn) -> Confirmable {
///     Confirmable(lsn)
/// }
/// ```
///
/// ```compile_fail,E0423
/// # use backwhen::{history::journal::Durable, model::Lsn};
/// fn durable(lsn: Lsn) -> Durable {
///     Durable(lsn)
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Confirmable(Lsn);

impl Confirmable {
    pub fn lsn(self) -> Lsn {
        self.0
    }
}

/// Knows whether the stream has joined on to the history, and so which durable positions may be confirmed.
#[derive(Clone, Debug)]
pub struct Seam {
    /// The end of the history when the stream was asked for.
    frontier: Lsn,
    epoch: u32,
    /// The position of the slot, from which on the source repeats.
    confirmed: Lsn,
    last: Option<TransactionEntry>,
    /// Whether the last transaction has come again.
    seen: bool,
    joined: bool,
}

impl Seam {
    /// Makes the seam of a journal that ends at `frontier` with a slot that stands at `confirmed`. The journal is read only
    /// if the source will repeat transactions.
    ///
    /// # Errors
    /// `Damaged` or `Unavailable` if the journal cannot be read.
    pub fn new(journal: &Journal, epoch: u32, frontier: Durable, confirmed: Lsn) -> Result<Seam> {
        let frontier = frontier.lsn();
        let joined = confirmed >= frontier;
        let last = if joined { None } else { last_transaction(journal, epoch)? };
        Ok(Seam { frontier, epoch, confirmed, last, seen: false, joined })
    }

    /// Returns the position from which the stream is to be asked for, so that the history's last transaction is in it.
    pub fn from(&self) -> Lsn {
        match (self.joined, self.last) {
            (true, _) => self.frontier,
            (false, last) => last.map_or(Lsn::ZERO, |last| last.commit_lsn),
        }
    }

    /// Returns the position that the server may be told is flushed. Once the stream has joined on to the history, that is the
    /// durable position; until then it is no further than the slot's own.
    pub fn confirmable(&self, durable: Durable) -> Confirmable {
        let durable = durable.lsn();
        Confirmable(if self.joined { durable } else { self.confirmed.min(durable) })
    }

    /// Returns the position that the server may be told is flushed, if that needs a copy as well: the position up to which
    /// both have the journal. It is no less than the slot's own, which a server might take for an order to go back.
    pub fn confirmable_with_copy(&self, durable: Durable, copied: Option<CopiedEnd>) -> Confirmable {
        let copied = copied.filter(|copied| copied.epoch() == self.epoch).map_or(Lsn::ZERO, CopiedEnd::lsn);
        let floor = self.confirmed.min(durable.lsn());
        Confirmable(self.confirmable(durable).lsn().min(copied).max(floor))
    }

    /// Looks at a pgoutput message before it is taken.
    ///
    /// # Errors
    /// Fails with [`ContinuityBreak`] as cause.
    pub fn heed(&mut self, message: &[u8]) -> Result<()> {
        match peek(message) {
            Some(PeekedMessage::Begin { commit_lsn, time, xid }) if !self.joined => {
                self.transaction(commit_lsn, time, xid)
            }
            _ => Ok(()),
        }
    }

    /// Notes that the source has sent every transaction that committed before `lsn`.
    ///
    /// # Errors
    /// Fails with [`ContinuityBreak`] as cause.
    pub fn passed(&mut self, lsn: Lsn) -> Result<()> {
        if self.joined || lsn < self.frontier {
            return Ok(());
        }
        match self.last {
            Some(last) if !self.seen && last.commit_lsn >= self.confirmed => Err(self.torn(last.commit_lsn)),
            _ => {
                self.joined = true;
                Ok(())
            }
        }
    }

    fn transaction(&mut self, lsn: Lsn, time: PgTime, xid: u32) -> Result<()> {
        match self.last {
            _ if lsn >= self.frontier => self.passed(lsn),
            Some(last) if lsn < last.commit_lsn => Ok(()),
            Some(last) if (lsn, time, xid) == (last.commit_lsn, last.time, last.xid) => {
                self.seen = true;
                Ok(())
            }
            _ => Err(self.torn(lsn)),
        }
    }

    fn torn(&self, at: Lsn) -> Error {
        Error::refused(format!(
            "the source's log differs from the history at {at}, before the history's end at {}: the source was \
             restored from a backup, or a standby was promoted that lacked what had been committed",
            self.frontier
        ))
        .caused_by(ContinuityBreak)
    }
}

/// The cause of the error that the source's WAL is not the WAL that the history was read from.
#[derive(Debug)]
pub struct ContinuityBreak;

impl fmt::Display for ContinuityBreak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("continuity is lost")
    }
}

impl std::error::Error for ContinuityBreak {}

fn last_transaction(journal: &Journal, epoch: u32) -> Result<Option<TransactionEntry>> {
    let segments = journal.list()?;
    for name in segments.into_iter().rev().filter(|name| name.epoch == epoch) {
        if let Some(last) = Segment::open(journal, name)?.transactions().last() {
            return Ok(Some(*last));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The history's last transaction is at 100 and ends at 110; idle marks reach 120.
    fn seam(confirmed: u64) -> Seam {
        let last =
            TransactionEntry { commit_lsn: Lsn(100), end_lsn: Lsn(110), xid: 7, time: PgTime(5), block: 0 };
        let joined = confirmed >= 120;
        Seam {
            frontier: Lsn(120),
            epoch: 1,
            confirmed: Lsn(confirmed),
            last: Some(last),
            seen: false,
            joined,
        }
    }

    fn message(lsn: u64, time: i64, xid: u32) -> Vec<u8> {
        [&b"B"[..], &lsn.to_be_bytes(), &time.to_be_bytes(), &xid.to_be_bytes()].concat()
    }

    /// Returns the position that may be confirmed where the journal is durable up to 1000; `None` if that is 1000.
    fn holds_back(seam: &Seam) -> Option<Lsn> {
        let durable = Durable::of_test(Lsn(1000));
        let confirmable = seam.confirmable(durable).lsn();
        (confirmable != durable.lsn()).then_some(confirmable)
    }

    fn heeds(seam: &mut Seam, transactions: &[(u64, i64, u32)]) -> bool {
        transactions.iter().all(|(lsn, time, xid)| seam.heed(&message(*lsn, *time, *xid)).is_ok())
    }

    #[test]
    fn the_last_transaction_must_come_again_as_it_was() {
        let mut whole = seam(50);
        assert_eq!((whole.from(), holds_back(&whole)), (Lsn(100), Some(Lsn(50))));
        assert!(heeds(&mut whole, &[(60, 4, 6), (100, 5, 7)]));
        assert_eq!(holds_back(&whole), Some(Lsn(50)), "nothing is confirmed before it is over");
        assert!(heeds(&mut whole, &[(120, 6, 8)]));
        assert_eq!(holds_back(&whole), None);
        assert!(heeds(&mut whole, &[(130, 6, 9)]));

        for other in [(100, 5, 8), (100, 6, 7), (101, 5, 7), (119, 9, 9), (120, 6, 8), (500, 6, 8)] {
            assert!(!heeds(&mut seam(50), &[(60, 4, 6), other]), "{other:?}");
        }
        assert!(!heeds(&mut seam(50), &[(100, 5, 7), (110, 6, 8)]), "one behind it that is not held");
    }

    #[test]
    fn a_keepalive_tells_as_much() {
        let mut whole = seam(100);
        assert!(whole.passed(Lsn(119)).is_ok(), "it is not there yet");
        assert!(heeds(&mut whole, &[(100, 5, 7)]) && whole.passed(Lsn(120)).is_ok());
        assert_eq!(holds_back(&whole), None);
        assert!(seam(100).passed(Lsn(120)).is_err());
    }

    #[test]
    fn what_was_confirmed_does_not_come_again() {
        let mut beyond = seam(110);
        assert!(beyond.passed(Lsn(120)).is_ok() && holds_back(&beyond).is_none());
        assert!(!heeds(&mut seam(110), &[(115, 6, 8)]));
        let mut all = seam(120);
        assert_eq!((all.from(), holds_back(&all)), (Lsn(120), None));
        assert!(heeds(&mut all, &[(120, 6, 8)]));
    }

    #[test]
    fn where_a_copy_counts_the_lesser_of_both_positions_is_confirmed() {
        let (durable, at) = (Durable::of_test(Lsn(1000)), |epoch, lsn| Some(CopiedEnd::new(epoch, Lsn(lsn))));
        let confirmable = |seam: &Seam, copied| seam.confirmable_with_copy(durable, copied).lsn();
        let joined = seam(120);
        assert_eq!(confirmable(&joined, at(1, 500)), Lsn(500));
        assert_eq!(confirmable(&joined, at(1, 2000)), Lsn(1000), "no further than the journal");
        for none in [None, at(2, 500), at(0, 500), at(1, 90)] {
            assert_eq!(confirmable(&joined, none), Lsn(120), "{none:?}: and never back");
        }
        assert_eq!(confirmable(&seam(50), at(1, 500)), Lsn(50), "not before the stream has joined on");
        let behind = Durable::of_test(Lsn(40));
        assert_eq!(seam(50).confirmable_with_copy(behind, at(1, 500)).lsn(), Lsn(40));
    }

    #[test]
    fn what_is_not_durable_is_not_confirmed_whatever_the_slot_says() {
        let durable = Durable::of_test(Lsn(40));
        assert_eq!(seam(50).confirmable(durable).lsn(), Lsn(40));
        assert_eq!(seam(500).confirmable(durable).lsn(), Lsn(40));
    }
}
