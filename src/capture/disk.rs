//! The journal's writer in a thread of its own, so that a slow disk never delays feedback.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::local_end::LocalEnd;
use crate::error::{Context, Kind, Result};
use crate::history::journal::{self, Durable, Journal, RawBlock, SegmentName, Writer};

/// Blocks that may wait for the disk. Each holds half a mebibyte, or one larger message.
const BLOCKS_WAITING: usize = 16;

/// The way to the disk, and the news from it.
pub struct Disk {
    pub blocks: mpsc::Sender<RawBlock>,
    /// The end of the journal that the last sync has made durable.
    pub durable: watch::Receiver<Durable>,
    thread: JoinHandle<Result<()>>,
}

impl Disk {
    /// Starts the thread; it ends when `blocks` is dropped, or with the first error.
    pub fn start(
        writer: Writer,
        durable: &Arc<watch::Sender<Durable>>,
        sealer: mpsc::UnboundedSender<SegmentName>,
        local: Arc<LocalEnd>,
    ) -> Disk {
        let (blocks, receiver) = mpsc::channel(BLOCKS_WAITING);
        let news = Arc::clone(durable);
        local.announce(writer.epoch(), *news.borrow());
        let thread = tokio::task::spawn_blocking(move || write(writer, receiver, &news, &sealer, &local));
        Disk { blocks, durable: durable.subscribe(), thread }
    }

    /// Waits until everything handed over is durable.
    ///
    /// # Errors
    /// `Unavailable` if the disk did not take it.
    pub async fn finish(self) -> Result<()> {
        drop(self.blocks);
        self.thread.await.context(Kind::Internal, || "the writing thread failed".into())?
    }
}

fn write(
    mut writer: Writer,
    mut blocks: mpsc::Receiver<RawBlock>,
    durable: &watch::Sender<Durable>,
    sealer: &mpsc::UnboundedSender<SegmentName>,
    local: &LocalEnd,
) -> Result<()> {
    while let Some(block) = blocks.blocking_recv() {
        crate::ambient::pause("disk");
        writer.write(block)?;
        // Blocks that arrived meanwhile share one sync.
        while let Ok(block) = blocks.try_recv() {
            writer.write(block)?;
        }
        let synced = writer.sync()?;
        // `make bench` parses this line to measure the delay from commit to durable.
        tracing::trace!("durable up to {}", synced.lsn());
        durable.send_replace(synced);
        local.announce(writer.epoch(), synced);
        let finished = if local.take_roll() { writer.roll_now()? } else { writer.roll()? };
        if let Some(finished) = finished {
            let _ = sealer.send(finished);
        }
    }
    Ok(())
}

/// Segments that are sealed at the same time: at the end of a drain nothing else is left to do.
const SEALED_AT_ONCE: usize = 2;

/// Seals finished segments until all senders are gone and all are done.
pub async fn seal_all(mut finished: mpsc::UnboundedReceiver<SegmentName>, journal: Journal) {
    let mut sealing = JoinSet::new();
    let mut under_way = BTreeSet::new();
    while let Some(name) = finished.recv().await {
        while let Some(ended) = sealing.try_join_next() {
            under_way.retain(|name| ended.as_ref().ok() != Some(name));
        }
        // With a new connection, all segments that are not sealed yet come again.
        if !under_way.insert(name) {
            continue;
        }
        if sealing.len() == SEALED_AT_ONCE
            && let Some(ended) = sealing.join_next().await
        {
            under_way.retain(|name| ended.as_ref().ok() != Some(name));
        }
        let journal = journal.clone();
        sealing.spawn_blocking(move || {
            let place = journal.locate(name);
            match journal::seal(&journal, name) {
                Ok(summary) => tracing::debug!("sealed {place}: {} transactions", summary.transactions),
                // It stays readable as it is, and is sealed at the next start.
                Err(error) => tracing::warn!("cannot seal {place}: {error}"),
            }
            name
        });
    }
    while let Some(ended) = sealing.join_next().await {
        if let Err(error) = ended {
            tracing::warn!("a segment was not sealed, which is tried again at the next start: {error}");
        }
    }
}
