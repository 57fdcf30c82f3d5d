//! Catches up with a source that is far ahead, before the stream is opened: batch by batch, by SQL.
//!
//! The slot is advanced to what is durable, the next batch is asked for, written and synced, and so
//! on until little is left. The server keeps a whole batch before it sends the first byte of it. And
//! after each it reads most of that batch's log twice more: once to advance the slot, once because it
//! begins the next where the oldest open transaction began, some time before. So few large batches
//! are better than many small ones, as far as that is fair: to a part of the log that it keeps for us
//! anyway. Where an old transaction is open, the stream, which reads once, is the better way.

use super::intake::Intake;
use super::stop::{StopReason, StopSignal};
use super::stream::{CONFIRM_EVERY, Until, ticker};
use crate::ambient::{self, WantedDrain};
use crate::connect::Conninfo;
use crate::error::{Error, Result};
use crate::model::{Lsn, PgTime};
use crate::source::liveness::Liveness;
use crate::source::stream::{BatchItem, ReplicationClient, SlotPosition, StreamFault};

/// Bytes of the server's log that the stream is left to catch up with.
const NEAR: u64 = 16 << 20;
/// No batch reaches so close to the end of the server's log, unless the run ends there: the end of
/// what is flushed may lie within a record, and decoding would wait for the rest of it.
const MARGIN: u64 = 64 << 10;
/// No batch reaches further, whatever comes of it: the server is silent while it reads.
const REACH: u64 = 4 << 30;
/// Log that may be read again for each batch, if less than that is left.
const AGAIN: u64 = 1 << 30;
/// A batch is to bring one byte for so many of the log that is left, or read again for it.
const SHARE: u64 = 4;
/// Bytes that a batch is to bring at least, and at most.
const SMALLEST: u64 = 64 << 20;
const LARGEST: u64 = 1 << 30;
/// Bytes of a change, while none has been seen. Few are smaller; many small transactions behind a huge one that
/// filled the batch alone would cost that one's decoding again.
const SMALL_CHANGE: u64 = 64;
/// The most that PostgreSQL takes as a number of changes.
const MOST_CHANGES: u64 = i32::MAX as u64;

/// How a drain ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// The stream takes over at the frontier, or ends there.
    Near,
    /// The same, on a new connection: in this one the server did not leave pgoutput in good order.
    Refused,
    /// Told to stop, in a batch: the connection is of no use any more.
    Stopped(StopReason),
}

/// Whether a server's log that ends at `head` is so far ahead that draining pays.
pub fn pays(frontier: Lsn, head: Lsn) -> bool {
    head.0.saturating_sub(frontier.0) > sizes().backlog
}

fn sizes() -> WantedDrain {
    ambient::wanted_drain().unwrap_or(WantedDrain { backlog: NEAR, reach: REACH, changes: None })
}

/// The changes of one batch, or of all batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    batches: u64,
    changes: u64,
    bytes: u64,
}

/// How one batch ended.
enum BatchEnd {
    /// All of the batch is in the history.
    Durable(Tally),
    Stopped(StopReason),
}

/// The next batch to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    /// Nothing that committed later.
    end: Lsn,
    /// No further transaction after so many changes.
    changes: u64,
    /// The server's clock.
    time: PgTime,
}

pub struct Drain<'a, 'b> {
    pub client: &'a mut ReplicationClient,
    pub intake: &'a mut Intake<'b>,
    pub slot: &'a str,
    pub source: &'a Conninfo,
    pub options: &'a [(&'a str, &'a str)],
}

impl Drain<'_, '_> {
    /// Drains until little is left, until `until` is durable, or until told to stop.
    ///
    /// # Errors
    /// As the stream: locked, if another connection has the slot; unavailable, if the connection or
    /// the disk fails.
    pub async fn run(&mut self, until: &Until, stop: &StopSignal) -> Result<Drained> {
        let mut tally = Tally::default();
        let drained = self.batches(until, stop, &mut tally).await;
        tracing::info!("drained {} bytes of changes in {} batches", tally.bytes, tally.batches);
        match drained {
            Err(error) if refused_to_us_only(&error) => {
                tracing::warn!("the backlog cannot be fetched in batches, so it is streamed: {error}");
                self.intake.abandon_transaction();
                Ok(Drained::Refused)
            }
            drained => drained,
        }
    }

    async fn batches(&mut self, until: &Until, stop: &StopSignal, tally: &mut Tally) -> Result<Drained> {
        let (mut last, mut stood) = (Tally::default(), false);
        loop {
            let until = *until.borrow();
            let liveness = Liveness::of(self.client, self.source);
            let wanted = match stop.unless_told(liveness.guard(self.next_batch(until, last))).await {
                Ok(next) => next??,
                Err(reason) => return Ok(Drained::Stopped(reason)),
            };
            let Some(wanted) = wanted else { return Ok(Drained::Near) };
            let before = self.intake.received();
            let batch = match self.batch(wanted, stop).await? {
                BatchEnd::Durable(batch) => batch,
                BatchEnd::Stopped(reason) => return Ok(Drained::Stopped(reason)),
            };
            tally.batches += 1;
            tally.changes += batch.changes;
            tally.bytes += batch.bytes;
            // It was full of what is here already, which is to be passed, or of messages outside of
            // transactions, which cannot be.
            let stands = self.intake.received() == before;
            if stands && stood {
                return Ok(Drained::Near);
            }
            (last, stood) = (batch, stands);
        }
    }

    /// Returns the next batch; `None` if no further batch is worth its cost.
    async fn next_batch(&mut self, until: Option<Lsn>, last: Tally) -> Result<Option<Wanted>> {
        let frontier = self.intake.received().lsn();
        let place = self.client.slot_position(self.slot).await?;
        if !goes_on(&place, frontier, until) {
            return Ok(None);
        }
        let place = self.settle(place).await?;
        let again = frontier.0.saturating_sub(place.restart.0);
        let left = place.flushed.0.saturating_sub(frontier.0);
        let end = (again <= left.max(AGAIN)).then(|| end_of_batch(&place, frontier, until)).flatten();
        let changes = sizes().changes.unwrap_or_else(|| next_changes(last, left.max(again)));
        Ok(end.map(|end| Wanted { end, changes, time: place.time }))
    }

    /// Advances the slot to what is durable, which is all that was received; so the next batch
    /// begins there. Not before the source has shown that its log is the history's.
    async fn settle(&mut self, place: SlotPosition) -> Result<SlotPosition> {
        self.intake.wait_for_copy().await;
        let confirmable = self.intake.confirmable();
        if place.confirmed >= confirmable.lsn() {
            return Ok(place);
        }
        ambient::pause("advance");
        self.client.advance_slot(self.slot, confirmable).await?;
        self.client.slot_position(self.slot).await
    }

    /// Fetches what is wanted and waits until it is durable; the reason, if told to stop before.
    async fn batch(&mut self, wanted: Wanted, stop: &StopSignal) -> Result<BatchEnd> {
        let mut note = ticker(CONFIRM_EVERY);
        let mut news = self.intake.news();
        let liveness = Liveness::of(self.client, self.source);
        let gone = liveness.gone();
        tokio::pin!(gone);
        let mut batch = self.client.peek(self.slot, wanted.end, wanted.changes, self.options).await?;
        let (mut tally, mut whole) = (Tally { batches: 1, ..Tally::default() }, false);
        loop {
            let durable = news.borrow_and_update().lsn();
            if whole && durable >= self.intake.received().lsn() {
                return Ok(BatchEnd::Durable(tally));
            }
            let queue = self.intake.queue()?;
            let waits = !whole && self.intake.has_room();
            if !waits {
                liveness.heard();
            }
            tokio::select! {
                biased;
                reason = stop.told() => {
                    self.intake.abandon_transaction();
                    return Ok(BatchEnd::Stopped(reason));
                }
                _ = note.tick() => self.intake.note_rate(CONFIRM_EVERY.as_secs_f64()),
                place = queue.reserve(), if self.intake.waits() => {
                    let Ok(place) = place else { continue };
                    self.intake.pass_on(place);
                }
                error = &mut gone, if waits => return Err(error),
                filled = batch.fill(), if waits => {
                    filled?;
                    liveness.heard();
                    while let Some(fetched) = batch.next()? {
                        match fetched {
                            BatchItem::Message(message) => {
                                tally.changes += 1;
                                tally.bytes += message.len() as u64;
                                self.intake.push(message)?;
                            }
                            BatchItem::End => {
                                whole = true;
                                break;
                            }
                        }
                    }
                    if whole {
                        // Else the batch ended with the transaction that made it full.
                        if tally.changes < wanted.changes {
                            self.intake.push_idle(wanted.end, wanted.time)?;
                        }
                        self.intake.take_complete();
                    }
                }
                _ = news.changed() => {}
            }
        }
    }
}

/// Whether the stream may well do what this was refused.
fn refused_to_us_only(error: &Error) -> bool {
    match StreamFault::of(error) {
        // Class 57P: the server ends the session, and would end the stream too.
        Some(fault @ StreamFault::Server(_)) => fault.sqlstate().is_none_or(|code| !code.starts_with("57P")),
        _ => false,
    }
}

/// Whether a batch pays, or the run ends with one.
fn goes_on(place: &SlotPosition, frontier: Lsn, until: Option<Lsn>) -> bool {
    match until {
        Some(until) if frontier >= until => false,
        Some(until) if until <= place.flushed => true,
        _ => pays(frontier, place.flushed),
    }
}

/// Returns the furthest end of the next batch; `None` if that is not beyond its start.
fn end_of_batch(place: &SlotPosition, frontier: Lsn, until: Option<Lsn>) -> Option<Lsn> {
    let WantedDrain { backlog, reach, .. } = sizes();
    let safe = Lsn(place.flushed.0.saturating_sub(MARGIN.min(backlog)));
    let furthest = until.filter(|until| *until <= place.flushed).unwrap_or(safe);
    let end = Lsn(frontier.0 + reach).min(furthest);
    (end > frontier).then_some(end)
}

/// Returns the number of changes in `log` bytes of WAL, if they are as large as those of the `last` batch.
fn next_changes(last: Tally, log: u64) -> u64 {
    let bytes = (log / SHARE).clamp(SMALLEST, LARGEST);
    let each = match last.changes {
        0 => SMALL_CHANGE,
        changes => last.bytes.div_ceil(changes).max(1),
    };
    (bytes / each).clamp(1, MOST_CHANGES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn place(restart: u64, flushed: u64) -> SlotPosition {
        let lsn = |mebibytes: u64| Lsn(mebibytes * MIB);
        SlotPosition { confirmed: lsn(5000), restart: lsn(restart), flushed: lsn(flushed), time: PgTime(0) }
    }

    /// The position, in mebibytes of WAL behind the frontier.
    fn end(flushed: u64, until: Option<u64>) -> Option<f64> {
        let (frontier, until) = (Lsn(5000 * MIB), until.map(|until| Lsn(until * MIB)));
        let place = place(5000, flushed);
        let end = end_of_batch(&place, frontier, until).filter(|_| goes_on(&place, frontier, until))?;
        Some((end.0 - frontier.0) as f64 / MIB as f64)
    }

    #[test]
    fn a_batch_reaches_as_far_as_is_safe() {
        assert_eq!(end(15000, None), Some(4096.0));
        assert_eq!(end(6000, None), Some(1000.0 - 1.0 / 16.0));
        assert_eq!(end(5016, None), None, "the stream is near enough");
        assert_eq!(end(5017, None), Some(17.0 - 1.0 / 16.0));
    }

    #[test]
    fn a_run_with_an_end_is_drained_up_to_it() {
        assert_eq!(end(6000, Some(5010)), Some(10.0));
        assert_eq!(end(5012, Some(5010)), Some(10.0), "near, but nothing comes after");
        assert_eq!(end(6000, Some(5000)), None, "it is reached");
        assert_eq!(end(5012, Some(5013)), None, "it is not yet there");
        assert_eq!(end(6000, Some(5900)), Some(900.0));
    }

    #[test]
    fn a_batch_is_worth_the_log_that_is_read_for_it() {
        let last = |changes, bytes| Tally { batches: 1, changes, bytes };
        assert_eq!(next_changes(Tally::default(), 0), 1 << 20, "none seen yet");
        assert_eq!(next_changes(last(1000, 64_000), 100 * MIB), 1 << 20, "no smaller than 64 MiB");
        assert_eq!(next_changes(last(1000, 64_000), 1024 * MIB), 4 << 20);
        assert_eq!(next_changes(last(1000, 64_000), 99_000 * MIB), 16 << 20, "no larger than 1 GiB");
        assert_eq!(next_changes(last(10, 20_000 * MIB), 0), 1, "at least one transaction");
        assert_eq!(next_changes(last(3, 0), 1024 * MIB), 256 << 20);
    }
}
