//! One connection's worth of capture: source → journal → confirm.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::disk::Disk;
use super::live::Board;
use crate::error::{Error, Result};
use crate::history::journal::{BlockBuilder, RawBlock};
use crate::model::Lsn;
use crate::source::stream::{ReplicationStream, StreamMessage};

/// A transaction waits at most about so long before it is sent to disk.
const FLUSH_EVERY: Duration = Duration::from_millis(20);

/// How often the server hears how far we are, whatever else happens.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// How soon it hears of new durable positions.
const CONFIRM_EVERY: Duration = Duration::from_millis(500);

/// Idle positions are noted at most so often: each costs a write.
const IDLE_EVERY: Duration = Duration::from_secs(1);

/// A server that says nothing for so long is not there any more: it would have sent a keepalive,
/// asked for by our own reports.
const SILENCE: Duration = Duration::from_secs(60);

/// Blocks built and not yet handed to the disk, beyond which nothing more is read.
const BLOCKS_BUILT: usize = 4;

/// Why a stream ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Stopped,
    Reached,
}

/// Where to stop, once that is known, if anywhere.
pub type Until = watch::Receiver<Option<Lsn>>;

pub struct Pump<'a> {
    stream: ReplicationStream,
    builder: BlockBuilder,
    disk: Disk,
    board: &'a Board,
    built: VecDeque<RawBlock>,
    confirmed: Lsn,
    last_heard: Instant,
    last_idle: Instant,
    bytes: u64,
}

impl<'a> Pump<'a> {
    pub fn new(stream: ReplicationStream, frontier: Lsn, disk: Disk, board: &'a Board) -> Pump<'a> {
        let now = Instant::now();
        Pump {
            stream,
            builder: BlockBuilder::new(frontier),
            disk,
            board,
            built: VecDeque::new(),
            confirmed: Lsn::ZERO,
            last_heard: now,
            last_idle: now,
            bytes: 0,
        }
    }

    /// Pumps until told to stop, until `until` is durable, or until something fails. All that was
    /// received whole is durable and confirmed when it ends without an error.
    ///
    /// # Errors
    /// `Unavailable` if the connection, the server or the disk fails.
    pub async fn run(mut self, until: Until, stop: &CancellationToken) -> Result<Ended> {
        let ended = self.pump(until, stop).await;
        match ended {
            Ok(ended) => {
                self.finish().await?;
                Ok(ended)
            }
            Err(error) => {
                // What is whole is worth keeping; the disk may be what failed, so its word counts.
                self.take_complete();
                for block in self.built.drain(..) {
                    if self.disk.blocks.send(block).await.is_err() {
                        break;
                    }
                }
                self.disk.finish().await?;
                Err(error)
            }
        }
    }

    async fn pump(&mut self, until: Until, stop: &CancellationToken) -> Result<Ended> {
        let mut flush = ticker(FLUSH_EVERY);
        let mut confirm = ticker(CONFIRM_EVERY);
        let mut report = ticker(REPORT_EVERY);
        // Of its own, so that a permit does not hold on to the rest.
        let blocks = self.disk.blocks.clone();
        loop {
            let durable = *self.disk.durable.borrow_and_update();
            if until.borrow().is_some_and(|until| durable >= until) {
                return Ok(Ended::Reached);
            }
            if self.disk.blocks.is_closed() {
                return Err(Error::unavailable("the disk does not take the journal"));
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(Ended::Stopped),
                _ = report.tick() => self.report(true).await?,
                _ = confirm.tick() => {
                    self.note_rate();
                    self.report(false).await?;
                }
                permit = blocks.reserve(), if !self.built.is_empty() => {
                    let Ok(permit) = permit else { continue };
                    if let Some(block) = self.built.pop_front() {
                        permit.send(block);
                    }
                }
                _ = flush.tick(), if self.built.is_empty() => self.take_complete(),
                filled = self.stream.fill(), if self.built.len() < BLOCKS_BUILT => {
                    filled?;
                    self.last_heard = Instant::now();
                    self.take_in().await?;
                }
                _ = self.disk.durable.changed() => {}
            }
        }
    }

    /// Takes in everything that has been read from the socket.
    async fn take_in(&mut self) -> Result<()> {
        let mut reply = false;
        while let Some(message) = self.stream.next()? {
            match message {
                StreamMessage::Data { bytes, .. } => {
                    self.bytes += bytes.len() as u64;
                    self.builder.push(bytes)?;
                    while let Some(block) = self.builder.take_full() {
                        self.built.push_back(block);
                    }
                }
                StreamMessage::Keepalive { wal_end, time, reply_requested } => {
                    reply |= reply_requested;
                    if !self.builder.in_transaction() && self.last_idle.elapsed() >= IDLE_EVERY {
                        self.builder.push_idle(wal_end, time)?;
                        self.last_idle = Instant::now();
                    }
                }
            }
        }
        if reply {
            self.report(true).await?;
        }
        Ok(())
    }

    fn take_complete(&mut self) {
        while let Some(block) = self.builder.take_complete() {
            self.built.push_back(block);
        }
    }

    /// Tells the server what is received and what is durable: never more than that.
    async fn report(&mut self, always: bool) -> Result<()> {
        let durable = *self.disk.durable.borrow();
        if always && self.last_heard.elapsed() > SILENCE {
            return Err(Error::unavailable(format!(
                "the source has been silent for {} seconds; connecting again",
                self.last_heard.elapsed().as_secs()
            )));
        }
        if always || durable > self.confirmed {
            crate::ambient::pass("capture.confirm")?;
            self.stream.send_status(self.builder.received(), durable).await?;
            self.confirmed = durable;
        }
        Ok(())
    }

    fn note_rate(&mut self) {
        let (durable, bytes) = (*self.disk.durable.borrow(), std::mem::take(&mut self.bytes));
        self.board.update(|live| {
            live.durable = durable;
            live.bytes += bytes;
            let now = bytes as f64 / CONFIRM_EVERY.as_secs_f64();
            // A moving average over some seconds.
            live.bytes_per_second = live.bytes_per_second.mul_add(0.9, now * 0.1);
        });
        self.board.write();
    }

    async fn finish(mut self) -> Result<()> {
        self.builder.abandon_transaction();
        self.take_complete();
        let mut durable = self.disk.durable.clone();
        for block in self.built.drain(..) {
            if self.disk.blocks.send(block).await.is_err() {
                break;
            }
        }
        self.disk.finish().await?;
        let frontier = *durable.borrow_and_update();
        self.board.update(|live| live.durable = frontier);
        // The history has it all; that the server cannot hear so now only means repeats later.
        if self.stream.send_status(frontier, frontier).await.is_ok() {
            let _ = self.stream.stop().await;
        }
        Ok(())
    }
}

fn ticker(period: Duration) -> tokio::time::Interval {
    let mut ticker = interval(period);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}
