//! Catches up with a source that is far ahead, before the stream is opened: batch by batch, by SQL.
//!
//! The slot is advanced to what is durable, the next batch is asked for, written and synced, and so
//! on until little is left. The server keeps a whole batch before it sends the first byte of it, and
//! begins to read its log where the slot's oldest open transaction began, for every batch anew. Both
//! are bounded; beyond the bound the stream, which keeps nothing and reads once, is the better way.

use tokio_util::sync::CancellationToken;

use super::intake::Intake;
use super::stream::{CONFIRM_EVERY, Until, ticker};
use crate::ambient;
use crate::error::{Error, Result};
use crate::model::{Lsn, PgTime};
use crate::source::stream::{Fetched, ReplicationClient, SlotPosition, StreamFault};

/// Bytes of the server's log that the stream is left to catch up with.
const NEAR: u64 = 16 << 20;
/// No batch reaches so close to the end of the server's log, unless the run ends there: the end of
/// what is flushed may lie within a record, and decoding would wait for the rest of it.
const MARGIN: u64 = 64 << 10;
/// Bytes of the server's log in one batch.
const SMALLEST: u64 = 16 << 20;
const FIRST: u64 = 64 << 20;
const LARGEST: u64 = 256 << 20;
/// A batch that brought fewer bytes lets the next one reach further.
const FEW: u64 = 16 << 20;
/// One that brought more lets it reach less far.
const MANY: u64 = 64 << 20;
/// Log that may be read again for each batch. So no transaction with more than this and a batch's
/// worth of log is ever kept by the server for us.
const MOST_AGAIN: u64 = 1 << 30;
/// A batch reaches at least so far, in parts of what is read again for it.
const SHARE_AGAIN: u64 = 4;

/// How a drain ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// The stream takes over at the frontier, or ends there.
    Near,
    /// The same, on a new connection: in this one the server did not leave pgoutput in good order.
    Refused,
    /// Told to stop, in a batch: the connection is of no use any more.
    Stopped,
}

/// Whether a server's log that ends at `head` is so far ahead that draining pays.
pub fn pays(frontier: Lsn, head: Lsn) -> bool {
    head.0.saturating_sub(frontier.0) > sizes().0
}

/// What counts as near, and how much of the log the first batch holds.
fn sizes() -> (u64, u64) {
    ambient::wanted_drain().unwrap_or((NEAR, FIRST))
}

#[derive(Default)]
struct Tally {
    batches: u64,
    bytes: u64,
}

pub struct Drain<'a, 'b> {
    pub client: &'a mut ReplicationClient,
    pub intake: &'a mut Intake<'b>,
    pub slot: &'a str,
    pub options: &'a [(&'a str, &'a str)],
}

impl Drain<'_, '_> {
    /// Drains until little is left, until `until` is durable, or until told to stop.
    ///
    /// # Errors
    /// As the stream: locked, if another connection has the slot; unavailable, if the connection or
    /// the disk fails.
    pub async fn run(&mut self, until: &Until, stop: &CancellationToken) -> Result<Drained> {
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

    async fn batches(
        &mut self,
        until: &Until,
        stop: &CancellationToken,
        tally: &mut Tally,
    ) -> Result<Drained> {
        self.client.watch_connection().await?;
        let mut size = sizes().1;
        loop {
            let until = *until.borrow();
            let Some(next) = stop.run_until_cancelled(self.next_batch(until, size)).await else {
                return Ok(Drained::Stopped);
            };
            let Some((end, time)) = next? else { return Ok(Drained::Near) };
            let Some(bytes) = self.batch(end, time, stop).await? else {
                return Ok(Drained::Stopped);
            };
            size = next_size(size, bytes);
            tally.batches += 1;
            tally.bytes += bytes;
        }
    }

    /// Where the next batch ends, and the server's time; nothing if there is to be none.
    async fn next_batch(&mut self, until: Option<Lsn>, size: u64) -> Result<Option<(Lsn, PgTime)>> {
        let frontier = self.intake.received();
        let place = self.client.slot_position(self.slot).await?;
        if !goes_on(&place, frontier, until) {
            return Ok(None);
        }
        let place = self.settle(place).await?;
        Ok(end_of_batch(&place, frontier, until, size).map(|end| (end, place.time)))
    }

    /// Advances the slot to what is durable, which is all that was received; so the next batch
    /// begins there.
    async fn settle(&mut self, place: SlotPosition) -> Result<SlotPosition> {
        let durable = self.intake.durable();
        if place.confirmed >= durable {
            return Ok(place);
        }
        ambient::pause("advance");
        self.client.advance_slot(self.slot, durable).await?;
        self.client.slot_position(self.slot).await
    }

    /// Fetches what committed before `end` and waits until it is durable; returns how many bytes
    /// that were, or nothing if told to stop.
    async fn batch(&mut self, end: Lsn, time: PgTime, stop: &CancellationToken) -> Result<Option<u64>> {
        let mut note = ticker(CONFIRM_EVERY);
        let mut news = self.intake.news();
        let mut batch = self.client.peek(self.slot, end, self.options).await?;
        let (mut bytes, mut whole) = (0, false);
        loop {
            let durable = *news.borrow_and_update();
            if whole && durable >= self.intake.received() {
                return Ok(Some(bytes));
            }
            let queue = self.intake.queue()?;
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    self.intake.abandon_transaction();
                    return Ok(None);
                }
                _ = note.tick() => self.intake.note_rate(CONFIRM_EVERY.as_secs_f64()),
                place = queue.reserve(), if self.intake.waits() => {
                    let Ok(place) = place else { continue };
                    self.intake.pass_on(place);
                }
                filled = batch.fill(), if !whole && self.intake.has_room() => {
                    filled?;
                    while let Some(fetched) = batch.next()? {
                        match fetched {
                            Fetched::Message(message) => {
                                bytes += message.len() as u64;
                                self.intake.push(message)?;
                            }
                            Fetched::End => {
                                whole = true;
                                break;
                            }
                        }
                    }
                    if whole {
                        self.intake.push_idle(end, time)?;
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

/// Where the next batch ends; nothing if too much would be read again for it.
fn end_of_batch(place: &SlotPosition, frontier: Lsn, until: Option<Lsn>, size: u64) -> Option<Lsn> {
    let again = frontier.0.saturating_sub(place.restart.0);
    let size = size.max(again / SHARE_AGAIN).min(LARGEST);
    let safe = Lsn(place.flushed.0.saturating_sub(MARGIN.min(sizes().0)));
    let furthest = until.filter(|until| *until <= place.flushed).unwrap_or(safe);
    let end = Lsn(frontier.0 + size).min(furthest);
    (again <= MOST_AGAIN && end > frontier).then_some(end)
}

fn next_size(size: u64, bytes: u64) -> u64 {
    match bytes {
        ..FEW => (size * 2).min(LARGEST),
        FEW..=MANY => size,
        _ => (size / 2).max(SMALLEST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn place(restart: u64, flushed: u64) -> SlotPosition {
        let lsn = |mebibytes: u64| Lsn(mebibytes * MIB);
        SlotPosition { confirmed: lsn(5000), restart: lsn(restart), flushed: lsn(flushed), time: PgTime(0) }
    }

    /// In mebibytes behind the frontier.
    fn end(restart: u64, flushed: u64, until: Option<u64>) -> Option<f64> {
        let (frontier, until) = (Lsn(5000 * MIB), until.map(|until| Lsn(until * MIB)));
        let place = place(restart, flushed);
        let end =
            end_of_batch(&place, frontier, until, FIRST).filter(|_| goes_on(&place, frontier, until))?;
        Some((end.0 - frontier.0) as f64 / MIB as f64)
    }

    #[test]
    fn a_batch_is_as_large_as_pays_and_as_is_left() {
        assert_eq!(end(5000, 6000, None), Some(64.0));
        assert_eq!(end(5000, 5016, None), None, "the stream is near enough");
        assert_eq!(end(5000, 5017, None), Some(17.0 - 1.0 / 16.0));
        // What is read again for each batch makes it larger, up to a bound.
        assert_eq!(end(4600, 6000, None), Some(100.0));
        assert_eq!(end(3976, 6000, None), Some(256.0));
        assert_eq!(end(3975, 6000, None), None, "an old transaction is open, and may be huge");
    }

    #[test]
    fn a_run_with_an_end_is_drained_up_to_it() {
        assert_eq!(end(5000, 6000, Some(5010)), Some(10.0));
        assert_eq!(end(5000, 5012, Some(5010)), Some(10.0), "near, but nothing comes after");
        assert_eq!(end(5000, 6000, Some(5000)), None, "it is reached");
        assert_eq!(end(5000, 5012, Some(5013)), None, "it is not yet there");
        assert_eq!(end(5000, 6000, Some(5900)), Some(64.0));
    }

    #[test]
    fn batches_grow_where_little_comes_of_them_and_shrink_where_much_does() {
        assert_eq!(next_size(64 * MIB, 1), 128 * MIB);
        assert_eq!(next_size(LARGEST, 1), LARGEST);
        assert_eq!(next_size(64 * MIB, 32 * MIB), 64 * MIB);
        assert_eq!(next_size(64 * MIB, 300 * MIB), 32 * MIB);
        assert_eq!(next_size(SMALLEST, 300 * MIB), SMALLEST);
    }
}
