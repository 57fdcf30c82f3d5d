//! The way of messages from a connection to the disk, whichever way they came.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{Permit, Sender};
use tokio::sync::watch::Receiver;

use super::also::Copied;
use super::disk::Disk;
use super::live::Board;
use super::local_end::LocalEnd;
use crate::error::{Error, Result};
use crate::history::journal::{
    Admission, BlockBuilder, Confirmable, CopiedEnd, Durable, RawBlock, Received, Seam,
};
use crate::model::{Lsn, PgTime};

/// If a position counts only once the copy has it, a connection that ends and a batch that is done wait so long for the copy.
const COPY_WAIT: Duration = Duration::from_secs(10);

/// Blocks built and not yet handed to the disk, beyond which nothing more is read.
const BLOCKS_BUILT: usize = 4;

/// The policy that decides which positions are confirmed to the server.
pub struct ConfirmPolicy {
    pub local: Arc<LocalEnd>,
    /// The positions that a copy reaches, if a position counts only once the copy has it too.
    pub copied: Option<Copied>,
}

impl ConfirmPolicy {
    fn confirmable(&self, seam: &Seam, durable: Durable) -> Confirmable {
        match &self.copied {
            None => seam.confirmable(durable),
            Some(copied) => seam.confirmable_with_copy(durable, *copied.borrow()),
        }
    }

    /// Waits a little until the copy has what is durable, where that counts.
    async fn wait_for_copy(&mut self, seam: &Seam, durable: Durable) {
        let Some(copied) = &mut self.copied else { return };
        self.local.hurry();
        let all = seam.confirmable(durable);
        let is_there = |end: &Option<CopiedEnd>| seam.confirmable_with_copy(durable, *end) >= all;
        let _ = tokio::time::timeout(COPY_WAIT, copied.wait_for(is_there)).await;
    }
}

pub struct Intake<'a> {
    admission: Admission,
    builder: BlockBuilder,
    built: VecDeque<RawBlock>,
    disk: Disk,
    seam: Seam,
    policy: ConfirmPolicy,
    board: &'a Board,
    /// Received since the rate was last noted.
    bytes: u64,
}

impl<'a> Intake<'a> {
    /// `frontier`: where the journal stands.
    pub fn new(
        admission: Admission,
        frontier: Lsn,
        disk: Disk,
        (seam, policy): (Seam, ConfirmPolicy),
        board: &'a Board,
    ) -> Intake<'a> {
        let (builder, built) = (BlockBuilder::new(frontier), VecDeque::new());
        Intake { admission, builder, built, disk, seam, policy, board, bytes: 0 }
    }

    /// Takes one pgoutput message.
    ///
    /// # Errors
    /// `Internal` for what the protocol does not allow; `Refused` if the source's log is not the
    /// history's.
    pub fn push(&mut self, message: &[u8]) -> Result<()> {
        self.seam.heed(message)?;
        if !self.admission.admits(message) {
            return Ok(());
        }
        self.bytes += message.len() as u64;
        self.policy.local.heed(message);
        self.builder.push(message)?;
        while let Some(block) = self.builder.take_full() {
            self.built.push_back(block);
        }
        Ok(())
    }

    /// Notes that nothing more was committed up to `lsn`.
    ///
    /// # Errors
    /// `Internal` inside a transaction; `Refused` as [`Intake::push`].
    pub fn push_idle(&mut self, lsn: Lsn, time: PgTime) -> Result<()> {
        self.seam.passed(lsn)?;
        self.builder.push_idle(lsn, time)
    }

    pub fn in_transaction(&self) -> bool {
        self.builder.in_transaction()
    }

    /// Makes blocks of all transactions that came in whole.
    pub fn take_complete(&mut self) {
        while let Some(block) = self.builder.take_complete() {
            self.built.push_back(block);
        }
    }

    /// Whether complete transactions wait for [`Intake::take_complete`].
    pub fn has_complete(&self) -> bool {
        self.builder.has_complete()
    }

    /// Forgets the transaction that is coming in; it comes again.
    pub fn abandon_transaction(&mut self) {
        self.builder.abandon_transaction();
    }

    /// Whether more may be read: so memory stays bounded when the disk is slow.
    pub fn has_room(&self) -> bool {
        self.built.len() < BLOCKS_BUILT
    }

    /// Whether blocks wait for [`Intake::pass_on`].
    pub fn waits(&self) -> bool {
        !self.built.is_empty()
    }

    /// The queue to the disk, to wait for a place in it. A handle of its own, so that waiting does
    /// not hold on to the rest.
    ///
    /// # Errors
    /// `Unavailable` if the disk has failed; [`Intake::finish`] tells how.
    pub fn queue(&self) -> Result<Sender<RawBlock>> {
        if self.disk.blocks.is_closed() {
            Err(Error::unavailable("the disk does not take the journal"))
        } else {
            Ok(self.disk.blocks.clone())
        }
    }

    pub fn pass_on(&mut self, place: Permit<'_, RawBlock>) {
        if let Some(block) = self.built.pop_front() {
            place.send(block);
        }
    }

    /// The highest position up to which everything was received whole.
    pub fn received(&self) -> Received {
        self.builder.received()
    }

    /// The end of the records that are on disk.
    pub fn durable(&self) -> Durable {
        *self.disk.durable.borrow()
    }

    /// The end of the records that are on disk, and in the copy where that counts, and may be confirmed to the server.
    pub fn confirmable(&self) -> Confirmable {
        self.policy.confirmable(&self.seam, self.durable())
    }

    /// Whether more is on disk than may be confirmed, because the copy does not have it yet.
    pub fn waits_for_copy(&self) -> bool {
        self.confirmable() < self.seam.confirmable(self.durable())
    }

    /// Waits a little until what is on disk may be confirmed.
    pub async fn wait_for_copy(&mut self) {
        let durable = self.durable();
        self.policy.wait_for_copy(&self.seam, durable).await;
    }

    /// The position from which the stream is to be asked for.
    pub fn asks_from(&self) -> Lsn {
        self.durable().lsn().min(self.seam.from())
    }

    /// Tells of new durable positions.
    pub fn news(&self) -> Receiver<Durable> {
        self.disk.durable.clone()
    }

    /// Shows how it goes; call it once in `period` seconds.
    pub fn note_rate(&mut self, period: f64) {
        let (durable, bytes) = (self.durable().lsn(), std::mem::take(&mut self.bytes));
        self.board.update(|live| {
            live.durable = durable;
            live.bytes += bytes;
            // A moving average over some seconds.
            live.bytes_per_second = live.bytes_per_second.mul_add(0.9, bytes as f64 / period * 0.1);
        });
        self.board.write();
    }

    /// Waits until all that was received whole is durable.
    ///
    /// # Errors
    /// `Unavailable` if the disk did not take it.
    pub async fn finish(mut self) -> Result<Written> {
        self.take_complete();
        let durable = self.disk.durable.clone();
        for block in self.built.drain(..) {
            if self.disk.blocks.send(block).await.is_err() {
                break;
            }
        }
        self.disk.finish().await?;
        let durable = *durable.borrow();
        self.board.update(|live| live.durable = durable.lsn());
        Ok(Written { seam: self.seam, policy: self.policy, durable })
    }
}

/// A journal to which a connection has written everything that came in whole.
pub struct Written {
    seam: Seam,
    policy: ConfirmPolicy,
    durable: Durable,
}

impl Written {
    /// Returns what may be confirmed; waits a little for the copy, where that counts.
    pub async fn confirmable(mut self) -> Confirmable {
        self.policy.wait_for_copy(&self.seam, self.durable).await;
        self.policy.confirmable(&self.seam, self.durable)
    }
}
