//! One connection's worth of capture: source → journal → confirm.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::intake::Intake;
use super::stop::{StopReason, StopSignal};
use crate::ambient;
use crate::error::{Error, Result};
use crate::history::journal::Confirmable;
use crate::model::Lsn;
use crate::source::stream::{ReplicationStream, StreamMessage};

/// A transaction waits at most so long before it is sent to disk, and one after a pause does not wait.
const FLUSH_EVERY: Duration = Duration::from_millis(20);

/// The interval at which the server is told the confirmed position, whatever else happens.
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// And at least so often in the time after which it would give us up.
const REPORTS_IN_SILENCE: u32 = 3;

/// The longest time after which the server is told a new durable position.
pub(super) const CONFIRM_EVERY: Duration = Duration::from_millis(500);

/// Idle positions are noted at most so often: each costs a write.
const IDLE_EVERY: Duration = Duration::from_secs(1);

/// Why a stream ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Stopped(StopReason),
    Reached,
}

/// The position at which to stop, once it is known; `None` to go on.
pub type Until = watch::Receiver<Option<Lsn>>;

pub struct Pump<'a> {
    stream: ReplicationStream,
    intake: Intake<'a>,
    confirmed: Option<Confirmable>,
    last_heard: Instant,
    last_idle: Instant,
}

impl<'a> Pump<'a> {
    pub fn new(stream: ReplicationStream, intake: Intake<'a>) -> Pump<'a> {
        let now = ambient::instant();
        Pump { stream, intake, confirmed: None, last_heard: now, last_idle: now }
    }

    /// Pumps until told to stop, until `until` is durable, or until something fails. All that was
    /// received whole is durable and confirmed when it ends without an error.
    ///
    /// # Errors
    /// `Unavailable` if the connection, the server or the disk fails.
    pub async fn run(mut self, until: Until, stop: &StopSignal) -> Result<Ended> {
        let ended = self.pump(until, stop).await;
        match ended {
            Ok(ended) => {
                self.finish().await?;
                Ok(ended)
            }
            Err(error) => {
                // Whole transactions are worth keeping. If the disk is what failed, its error is the one to report.
                self.intake.finish().await?;
                Err(error)
            }
        }
    }

    async fn pump(&mut self, until: Until, stop: &StopSignal) -> Result<Ended> {
        let mut next_flush = ambient::instant();
        let mut confirm = ticker(CONFIRM_EVERY);
        let often = REPORT_EVERY.min(self.stream.silence() / REPORTS_IN_SILENCE);
        let mut report = ticker(often);
        let mut news = self.intake.news();
        loop {
            let durable = news.borrow_and_update().lsn();
            if until.borrow().is_some_and(|until| durable >= until) {
                return Ok(Ended::Reached);
            }
            let queue = self.intake.queue()?;
            if !self.intake.has_room() {
                // The server is not to blame: capture itself did not read.
                self.last_heard = ambient::instant();
            }
            tokio::select! {
                biased;
                reason = stop.told() => return Ok(Ended::Stopped(reason)),
                _ = report.tick() => self.report(true).await?,
                _ = confirm.tick() => {
                    self.intake.note_rate(CONFIRM_EVERY.as_secs_f64());
                    self.report(false).await?;
                }
                place = queue.reserve(), if self.intake.waits() => {
                    let Ok(place) = place else { continue };
                    self.intake.pass_on(place);
                }
                () = sleep_until(next_flush), if !self.intake.waits() && self.intake.has_complete() => {
                    self.intake.take_complete();
                    next_flush = ambient::instant() + FLUSH_EVERY;
                }
                filled = self.stream.fill(), if self.intake.has_room() => {
                    filled?;
                    self.last_heard = ambient::instant();
                    self.take_in().await?;
                }
                _ = news.changed() => {}
            }
        }
    }

    /// Takes in everything that has been read from the socket.
    async fn take_in(&mut self) -> Result<()> {
        let mut reply = false;
        while let Some(message) = self.stream.next()? {
            match message {
                StreamMessage::Data { bytes, .. } => self.intake.push(bytes)?,
                StreamMessage::Keepalive { wal_end, time, reply_requested } => {
                    reply |= reply_requested;
                    if !self.intake.in_transaction() && self.last_idle.elapsed() >= IDLE_EVERY {
                        self.intake.push_idle(wal_end, time)?;
                        self.last_idle = ambient::instant();
                    }
                }
            }
        }
        if reply {
            self.report(true).await?;
        }
        Ok(())
    }

    /// Tells the server what is received and what is durable: never more than that. One that has
    /// been silent for long is asked to answer; if it does not, it is not there any more, or what
    /// lies between swallows what it says.
    async fn report(&mut self, always: bool) -> Result<()> {
        let confirmable = self.intake.confirmable();
        let (heard, limit) = (self.last_heard.elapsed(), self.stream.silence());
        if always && heard > limit {
            return Err(Error::unavailable(format!(
                "the source has been silent for {} seconds; connecting again",
                heard.as_secs()
            )));
        }
        if always || Some(confirmable) > self.confirmed {
            crate::ambient::pass("capture.confirm")?;
            let answer = heard > limit / (2 * REPORTS_IN_SILENCE);
            self.stream.send_status(self.intake.received(), confirmable, answer).await?;
            if self.intake.waits_for_copy() {
                // A store that is away must not keep the source from shutting down.
                self.stream.send_received(self.intake.received()).await?;
            }
            self.confirmed = Some(confirmable);
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<()> {
        self.intake.abandon_transaction();
        let received = self.intake.received();
        let confirmable = self.intake.finish().await?.confirmable().await;
        // The history has it all; that the server cannot hear so now only means repeats later.
        if self.stream.send_status(received, confirmable, false).await.is_ok() {
            let _ = self.stream.stop().await;
        }
        Ok(())
    }
}

pub(super) fn ticker(period: Duration) -> tokio::time::Interval {
    let mut ticker = interval(period);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}
