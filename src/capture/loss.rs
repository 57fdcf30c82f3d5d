//! The end of continuity: capture finds that it is lost, or gives it up, and begins a new epoch.

use std::sync::Arc;
use std::time::Duration;

use super::budget::{RetainedWal, Verdict};
use super::continuity::Loss;
use super::live::Board;
use super::state::{Event, State};
use super::{Capture, LONGEST_PAUSE, orphan};
use crate::ambient;
use crate::connect::Session;
use crate::error::{Error, Result};
use crate::history::catalog::Catalog;
use crate::history::epoch::{Doubt, GapStart};
use crate::history::timeline::Timeline;
use crate::progress::Silent;
use crate::protect::{Access, begin};
use crate::source::blocker::oldest_transaction;
use crate::source::slot::{SlotFacts, drop_slot};
use crate::store::files;

/// Between two images, if one fails.
const LONGEST_REST: Duration = Duration::from_secs(600);
/// The history's disk must take so many bytes before the source is read for a new image.
const ROOM: usize = 4 << 20;

impl Capture<'_> {
    /// Records the gap and begins a new epoch behind it.
    pub(super) async fn begin_again(&self, board: &Board, loss: Loss) -> Result<()> {
        let Loss { why, unpublished } = loss;
        // If capture itself gave the slot up, its reason says more than the missing slot does.
        let cause = board.read().and_then(|live| live.given_up).unwrap_or(why);
        tracing::error!(
            "continuity is lost: {cause}; the source is compared with the history, and the gap is recorded"
        );
        if board.read().is_none_or(|live| live.state != State::Lost) {
            board.step(Event::ContinuityLost, cause.clone())?;
        }
        ambient::pass("resync.lost")?;
        let history = self.history.clone();
        let reading = ambient::blocking("reading where the history ends", move || {
            let catalog = Arc::new(Catalog::open(&history)?);
            let timeline = Timeline::read(&history, &catalog)?;
            let stretch = timeline.current()?;
            let time = stretch.window().map(|window| window.latest.time);
            files::find_room(&history.scratch(), ROOM)?;
            Ok((stretch.epoch.clone(), stretch.frontier(), time, catalog))
        });
        let (epoch, lsn, time, catalog) = reading.await?;
        let from = board.read().and_then(|live| live.published_until).unwrap_or(epoch.start);
        let doubt = (!unpublished.is_empty() && from < lsn).then(|| Doubt {
            from,
            tables: unpublished,
            why: cause.clone(),
        });
        let after = GapStart { epoch: epoch.number, lsn, time, doubt };
        board.step(Event::ResyncBegun, cause.clone())?;
        let access =
            Access { source: self.source, tools: self.tools, jobs: self.options.jobs, progress: &Silent };
        let begun = ambient::instant();
        let checkpoint = match begin::next_epoch(&access, self.history, catalog, cause, after).await {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                self.let_go(begun.elapsed()).await;
                return Err(error);
            }
        };
        if let Some(resync) = &checkpoint.resync {
            tracing::info!("{}", resync.summary());
        }
        board.step(
            Event::ImageDone,
            format!("checkpoint {} begins epoch {}", checkpoint.id, checkpoint.epoch),
        )?;
        Ok(())
    }

    /// Also while nothing comes in, the source's log must not grow without bound for us. Returns
    /// whether the slot was given up.
    pub(super) async fn mind_budget(&mut self) -> Result<bool> {
        let slot = self.history.identity().slot();
        let look = async {
            let session = Session::connect_utf8(self.source, "capture").await?;
            let Some(found) = RetainedWal::of(&SlotFacts::read(&session, &slot).await?) else {
                return Ok(None);
            };
            match self.budget.judge(found) {
                Verdict::Fine => {}
                Verdict::Warn => {
                    let oldest = oldest_transaction(&session).await?;
                    tracing::warn!("{}", self.budget.describe(found, oldest));
                }
                Verdict::GiveUp => {
                    let oldest = oldest_transaction(&session).await?;
                    drop_slot(&session, &slot).await?;
                    return Ok(Some(self.budget.cause(found, oldest)));
                }
            }
            Ok::<_, Error>(None)
        };
        let cause = match tokio::time::timeout(LONGEST_PAUSE, look).await {
            Ok(Ok(Some(cause))) => cause,
            Ok(Ok(None)) | Err(_) => return Ok(false),
            Ok(Err(error)) => {
                tracing::debug!("the slot was not looked at: {error}");
                return Ok(false);
            }
        };
        tracing::error!("{cause}");
        self.budget.begin();
        if let Some(board) = &self.board {
            board.update(|live| live.given_up = Some(cause.clone()));
            if board.read().is_some_and(|live| live.state != State::Lost) {
                board.step(Event::ContinuityLost, cause)?;
            }
        }
        Ok(true)
    }

    /// If it is our own former walsender that has the slot, it has nobody to send to any more.
    pub(super) async fn end_orphan(&self, error: &Error) {
        let live = self.board.as_ref().and_then(Board::read);
        let ours = live.as_ref().and_then(|live| live.walsender.as_ref());
        let Some(orphan) = orphan::holds_slot(error, ours) else { return };
        match orphan::end(self.source, orphan).await {
            Ok(true) => tracing::info!("ended backwhen's own former walsender, process {}", orphan.pid),
            Ok(false) => {}
            Err(error) => tracing::warn!("{error}"),
        }
    }

    /// A slot without an image is of no use, and would keep the source's log until the next try. That
    /// one may wait, so that a source is not read again and again for nothing.
    async fn let_go(&self, tried: Duration) {
        let letting_go = async {
            let session = Session::connect_utf8(self.source, "capture").await?;
            drop_slot(&session, &self.history.identity().slot()).await
        };
        if let Ok(Err(error)) = tokio::time::timeout(LONGEST_PAUSE, letting_go).await {
            tracing::warn!("the slot of the unfinished image stays until the next try: {error}");
        }
        let pause = (tried * 2).min(LONGEST_REST);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.stop.cancelled() => {}
        }
    }
}
