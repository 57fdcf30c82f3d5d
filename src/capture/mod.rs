//! The write half of backwhen on one screen: source → history → confirm.
//!
//! `drain` fetches a large backlog in batches, `stream` pumps one connection, `intake` gathers what
//! either brings, `disk` writes and seals in threads of its own, `watch` keeps the source company over
//! SQL (heartbeats, sequences, new tables), `state` says where protection stands. This file joins them,
//! connects again when something breaks, and begins a new epoch when continuity is lost.

mod also;
mod beat;
mod budget;
mod continuity;
mod copy_stores;
mod digests;
mod disk;
mod drain;
mod intake;
mod known_source;
pub mod live;
mod local_end;
mod loss;
mod orphan;
mod published;
pub mod state;
mod stop;
mod stream;
mod until;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch as news};
use tokio_util::sync::CancellationToken;

use crate::ambient;
use crate::connect::Conninfo;
use crate::error::{Context, Error, Kind, Result};
use crate::history::journal::{Admission, ContinuityBreak, Durable, Seam, SegmentName, Writer};
use crate::history::{History, HistoryPlace};
use crate::model::Lsn;
use crate::pgtools::Tools;
use crate::source::inspect;
use crate::source::publication::{Pool, Publications};
use crate::source::stream::{ReplicationClient, ReplicationStream, StreamFault};
use crate::store::{ObjectKind, ObjectName, files};
use also::Copies;
use budget::Budget;
pub use budget::RetainedWal;
use continuity::{ContinuityReport, Loss};
use disk::Disk;
use drain::{Drain, Drained};
use intake::{ConfirmPolicy, Intake};
use live::{Board, Durability, LiveOptions};
use local_end::LocalEnd;
use state::Event;
use stop::{StopReason, StopSignal};
use stream::{Ended, Pump};
use until::{await_end, decide_until};

/// The options of a capture.
#[derive(Clone)]
pub struct Options {
    pub until: Until,
    /// Time between heartbeats; an idle database can be recovered up to the last one.
    pub heartbeat: Duration,
    /// How long a capture with an end of its own keeps trying while something fails.
    pub patience: Duration,
    pub jobs: usize,
    /// The bytes of WAL that the source may retain for this history; `None` means that there is no limit.
    pub max_retained_wal: Option<u64>,
    /// Object stores in which copies of the history are kept up to date.
    pub also: Vec<HistoryPlace>,
    /// What must have a position before it is confirmed to the server.
    pub durable: Durability,
}

/// When to end by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Only when told to.
    Stopped,
    /// Everything that had committed when capture was started is durable.
    CaughtUp,
    /// Everything before this position is durable.
    Lsn(Lsn),
}

const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Tails the source until `stop` is cancelled, or until `options.until`.
///
/// # Errors
/// `Locked` if another capture runs; `Unavailable` if the source cannot be reached at the start;
/// `Damaged` or `Refused` if the history or the source cannot be gone on with.
pub async fn run(
    history: &History,
    source: &Conninfo,
    tools: &Tools,
    options: &Options,
    stop: CancellationToken,
) -> Result<Lsn> {
    let _lock = history.lock_capture()?;
    let local = Arc::new(LocalEnd::default());
    let insists = options.durable == Durability::Store && options.until != Until::Stopped;
    let mut copies = Copies::start(history, &options.also, &local, insists)?;
    stop.run_until_cancelled(copies.settled()).await.unwrap_or(Ok(()))?;
    let _ = history.store().remove(&[ObjectName::only(ObjectKind::InitIntent)]);
    files::remove_temporaries(&history.scratch());
    let (sealer, to_seal) = mpsc::unbounded_channel();
    let sealing = tokio::spawn(disk::seal_all(to_seal, history.journal().clone()));
    let budget = Budget::new(options.max_retained_wal, options.heartbeat);
    let mut capture = Capture {
        history,
        source,
        tools,
        options,
        stop,
        sealer,
        budget,
        copies,
        local,
        board: None,
        loss: None,
    };
    let end = capture.keep_going().await;
    let (board, stop) = (capture.board.take(), capture.stop.clone());
    let copies = capture.into_copies();
    if let Some(board) = &board {
        board.written().await;
    }
    let _ = sealing.await;
    // A run with an end of its own says that all is done: so all must be where it was told to be durable.
    let patience = (insists && end.is_ok()).then_some(options.patience);
    copies.finish(patience, &stop).await?;
    end
}

struct Capture<'a> {
    history: &'a History,
    source: &'a Conninfo,
    tools: &'a Tools,
    options: &'a Options,
    /// Cancelled when somebody asks the capture to end.
    stop: CancellationToken,
    sealer: mpsc::UnboundedSender<SegmentName>,
    budget: Budget,
    copies: Copies,
    local: Arc<LocalEnd>,
    board: Option<Board>,
    /// A loss of continuity that no new epoch has made good yet, whatever the source says now: one that the stream
    /// told of, or one that was found and whose new epoch could not be begun.
    loss: Option<Loss>,
}

impl Capture<'_> {
    /// Ends; the sealing ends with it.
    fn into_copies(self) -> Copies {
        self.copies
    }

    /// Connects again after every failure that may pass, ever more slowly.
    async fn keep_going(&mut self) -> Result<Lsn> {
        let mut pause = SHORTEST_PAUSE;
        let mut failing_since = None;
        loop {
            let started = ambient::instant();
            let mut streamed = false;
            let error = match self.once(&mut streamed).await {
                Ok(Ended::Stopped(StopReason::PoolReady)) if !self.stop.is_cancelled() => {
                    if let Some(board) = &self.board {
                        board
                            .step(Event::Interrupted, "the stream is opened again, with more publications")?;
                    }
                    continue;
                }
                Ok(Ended::Stopped(_) | Ended::Reached) => return self.ended(),
                Err(error) => error,
            };
            if self.stop.is_cancelled() {
                return self.ended();
            }
            if streamed && started.elapsed() > LONGEST_PAUSE {
                (pause, failing_since) = (SHORTEST_PAUSE, None);
            }
            let since = *failing_since.get_or_insert(started);
            let loss = told_loss(&error);
            let may_pass = loss.is_some() || may_pass(&error);
            self.loss = loss.map(|why| Loss { why, unpublished: Vec::new() }).or(self.loss.take());
            let first_time = self.board.is_none();
            let patient = self.options.until == Until::Stopped || since.elapsed() < self.options.patience;
            if !may_pass || first_time || !patient {
                return Err(error);
            }
            if let Some(board) = &self.board {
                board.step(Event::Interrupted, error.to_string())?;
            }
            tracing::warn!("{error}; trying again in {:.1} s", pause.as_secs_f64());
            self.end_orphan(&error).await;
            if self.mind_budget().await? {
                pause = SHORTEST_PAUSE;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled() => return self.ended(),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn ended(&self) -> Result<Lsn> {
        let Some(board) = &self.board else { return Ok(Lsn::ZERO) };
        board.step(Event::Interrupted, "capture was stopped")?;
        Ok(board.read().map_or(Lsn::ZERO, |live| live.durable))
    }

    /// Runs one connection, from finding the journal's end to the end of the stream.
    async fn once(&mut self, streamed: &mut bool) -> Result<Ended> {
        let stop = self.stop.clone();
        let opened = tokio::select! {
            opened = self.open() => opened?,
            () = stop.cancelled() => return Ok(Ended::Stopped(StopReason::Asked)),
        };
        *streamed = true;
        self.follow(opened).await
    }

    /// Opens the journal and the way to what comes after its end; after a loss, behind a new image.
    async fn open(&mut self) -> Result<CaptureRun> {
        self.copies.check_are_ours().await?;
        loop {
            let history = self.history.clone();
            let opening = ambient::blocking("opening the journal", move || {
                let (epoch, id) = (history.current_epoch()?, history.identity().id_bytes()?);
                let opened = Writer::open(history.journal(), id, epoch.number, epoch.start)?;
                Ok((epoch, opened))
            });
            let (epoch, (writer, recovered)) = opening.await?;
            let number = epoch.number;
            recovered.repaired.iter().for_each(|repair| tracing::info!("{repair}"));
            let _ = recovered.unsealed.into_iter().try_for_each(|name| self.sealer.send(name));
            let durable = recovered.durable;
            let frontier = durable.lsn();

            let mut client = ReplicationClient::connect(self.source, "capture").await?;
            let ContinuityReport { continuity, head, confirmed, published, pool } =
                continuity::check(self.history, &epoch, self.source, &mut client, frontier).await?;
            let board = self.board(frontier).await?;
            if let Some(loss) = Loss::remember(self.loss.take(), continuity) {
                // The new epoch ends all sessions that work for this history.
                drop((writer, client));
                // If this fails before the slot is gone, the next look may find nothing wrong.
                self.loss = Some(loss.clone());
                self.begin_again(&board, loss).await?;
                self.loss = None;
                board.update(|live| live.given_up = None);
                self.budget.begin();
                continue;
            }
            ambient::pass("capture.opened")?;
            let history = self.history.clone();
            let reading = ambient::blocking("reading the history's last transaction", move || {
                Seam::new(history.journal(), number, durable, confirmed)
            });
            let seam = reading.await?;
            board.update(|live| {
                live.published_until = Some(frontier);
                live.published = Some(published);
            });
            let (link, cause) = if drain::pays(frontier, head) {
                // Asked for its own sake: whether somebody else has the slot.
                client.slot_position(&self.history.identity().slot()).await?;
                board.update(|live| live.walsender = Some(client.backend().clone()));
                (Link::Far(client), format!("draining what was committed after {frontier}"))
            } else {
                (
                    Link::Near(self.start(Some(client), seam.from(), pool).await?),
                    format!("streaming from {frontier}"),
                )
            };
            board.update(|live| (live.epoch, live.durable) = (number, frontier));
            board.step(Event::StreamOpened, cause)?;
            return Ok(CaptureRun { link, writer, durable, seam, board, pool });
        }
    }

    /// The live state; the first time, what an earlier capture left is taken over.
    async fn board(&mut self, frontier: Lsn) -> Result<Board> {
        if let Some(board) = &self.board {
            return Ok(board.clone());
        }
        let kept = self.history.live_state();
        let options = LiveOptions {
            heartbeat_seconds: self.options.heartbeat.as_secs_f64(),
            max_retained_wal: self.options.max_retained_wal,
            durable: self.options.durable,
        };
        let reading =
            ambient::blocking("reading the live state", move || Ok(Board::new(kept, frontier, options)));
        let board = reading.await?;
        self.copies.show_on(&board);
        board.step(Event::Started, "capture was started")?;
        Ok(self.board.insert(board).clone())
    }

    /// Opens the stream, on a connection of its own if none is given.
    async fn start(
        &self,
        client: Option<ReplicationClient>,
        from: Lsn,
        pool: Pool,
    ) -> Result<ReplicationStream> {
        let client = match client {
            Some(client) => client,
            None => ReplicationClient::connect(self.source, "capture").await?,
        };
        let (slot, serving, patience) =
            (self.history.identity().slot(), client.backend().clone(), client.silence());
        let options = Publications::of_slot(&slot).option(pool);
        let options = plugin_options(&options);
        let started = tokio::time::timeout(patience, client.start(&slot, from, &options)).await;
        let stream = started.map_err(|_| Error::unavailable("the source does not begin to stream"))??;
        if let Some(board) = &self.board {
            board.update(|live| live.walsender = Some(serving));
        }
        Ok(stream)
    }

    /// Takes in what comes, while the watcher keeps the source company.
    async fn follow(&self, opened: CaptureRun) -> Result<Ended> {
        let CaptureRun { link, writer, durable, seam, board, pool } = opened;
        let frontier = durable.lsn();
        let durable = Arc::new(news::channel(durable).0);
        let disk = Disk::start(writer, &durable, self.sealer.clone(), Arc::clone(&self.local));
        let watching = self.stop.child_token();
        let stop = StopSignal::default();
        let (first_beat, beaten) = oneshot::channel();
        let watcher = watch::Watcher {
            history: self.history.clone(),
            source: self.source.clone(),
            tools: self.tools.clone(),
            board: board.clone(),
            durable: durable.subscribe(),
            heartbeat: self.options.heartbeat,
            budget: self.budget.clone(),
            jobs: self.options.jobs,
            pool,
            stop: stop.clone(),
        };
        let watcher = tokio::spawn(watcher.run(watching.clone(), first_beat));
        let (until, known) = news::channel(None);
        let key = self.history.identity().message_key();
        let deciding =
            tokio::spawn(decide_until(self.options.until, self.source.clone(), key.clone(), beaten, until));
        let last_beat_at = (self.options.until == Until::Stopped).then_some(self.source);
        let last_beat = beat::last_beat(&self.stop, last_beat_at, &stop, durable.subscribe(), key.clone());
        let copied = self.copies.first().filter(|_| self.options.durable == Durability::Store);
        let policy = ConfirmPolicy { local: Arc::clone(&self.local), copied };
        let intake = Intake::new(Admission::new(key), frontier, disk, (seam, policy), &board);
        let ended = tokio::select! {
            ended = self.take_in((link, pool), intake, known, &stop) => ended,
            never = last_beat => match never {},
        };
        watching.cancel();
        deciding.abort();
        let _ = watcher.await;
        match ended? {
            Ended::Stopped(reason) => reason.failure().map_or(Ok(Ended::Stopped(reason)), Err),
            Ended::Reached => Ok(Ended::Reached),
        }
    }

    /// Drains, if the source is far ahead, and then streams.
    async fn take_in(
        &self,
        (link, pool): (Link, Pool),
        mut intake: Intake<'_>,
        mut until: stream::Until,
        stop: &StopSignal,
    ) -> Result<Ended> {
        let stream = match link {
            Link::Near(stream) => Ok(stream),
            Link::Far(mut client) => {
                await_end(&mut until, stop).await;
                let slot = self.history.identity().slot();
                let names = Publications::of_slot(&slot).option(pool);
                let options = plugin_options(&names);
                let mut drain = Drain {
                    client: &mut client,
                    intake: &mut intake,
                    slot: &slot,
                    source: self.source,
                    options: &options,
                };
                let drained = drain.run(&until, stop).await;
                match drained {
                    Ok(Drained::Near | Drained::Refused) => {
                        let client = matches!(drained, Ok(Drained::Near)).then_some(client);
                        let from = intake.asks_from();
                        self.say(format!("streaming from {from}"));
                        match stop.unless_told(self.start(client, from, pool)).await {
                            Ok(started) => started,
                            Err(reason) => return intake.finish().await.map(|_| Ended::Stopped(reason)),
                        }
                    }
                    Ok(Drained::Stopped(reason)) => {
                        return intake.finish().await.map(|_| Ended::Stopped(reason));
                    }
                    Err(error) => Err(error),
                }
            }
        };
        match stream {
            Ok(stream) => Pump::new(stream, intake).run(until, stop).await,
            Err(error) => {
                // Whole transactions are worth keeping. If the disk is what failed, its error is the one to report.
                intake.finish().await?;
                Err(error)
            }
        }
    }

    /// Goes on in the same state for another cause.
    fn say(&self, cause: String) {
        tracing::info!("{cause}");
        if let Some(board) = &self.board {
            board.update(|live| live.cause = cause);
        }
    }
}

/// Returns the loss that the stream reports and that another look at the source would not find.
fn told_loss(error: &Error) -> Option<String> {
    if std::error::Error::source(error).is_some_and(|cause| cause.is::<ContinuityBreak>()) {
        return Some(error.message().to_owned());
    }
    // The log itself lacks what was changed while it was gone.
    let gone = matches!(StreamFault::of(error), Some(StreamFault::PublicationMissing(_)));
    gone.then(|| "backwhen's publications are gone from the source, or were for a while".to_owned())
}

/// Whether looking again may help a capture that has worked before. What the source refuses today it may grant
/// tomorrow: a password is rotated, pg_hba.conf is mended, a standby is promoted. Protection would end for good if
/// capture ended here.
fn may_pass(error: &Error) -> bool {
    !matches!(error.kind(), Kind::Damaged | Kind::Internal | Kind::Interrupted)
}

/// The options for pgoutput, for the stream and for batches alike.
fn plugin_options(publications: &str) -> [(&str, &str); 3] {
    [("proto_version", "1"), ("publication_names", publications), ("messages", "true")]
}

/// The connection that goes on at the journal's end.
enum Link {
    /// The stream is open.
    Near(ReplicationStream),
    /// The source is far ahead: first its backlog is drained.
    Far(ReplicationClient),
}

/// The open ends of one run of capture: the connection to the source and the writer of the journal.
struct CaptureRun {
    link: Link,
    writer: Writer,
    /// The end of the journal.
    durable: Durable,
    seam: Seam,
    board: Board,
    /// The publications that the connection names.
    pool: Pool,
}

/// Writes a heartbeat into the source's log, so that a capture gets beyond what is there now.
///
/// # Errors
/// `Unavailable` if the source fails.
pub async fn heartbeat(history: &History, source: &Conninfo) -> Result<Lsn> {
    beat::beat_once(source, &history.identity().message_key()).await
}

/// Puts a named moment into the source's log, with a sample of the sequences.
///
/// # Errors
/// `Unavailable` if the source fails.
pub async fn mark(history: &History, source: &Conninfo, name: &str) -> Result<Lsn> {
    use crate::signal::{MARK, MarkSignal};
    let content = serde_json::to_string(&MarkSignal { name: name.to_owned() });
    let content = content.context(Kind::Internal, || "cannot write the mark".into())?;
    let session = crate::connect::Session::connect_utf8(source, "mark").await?;
    inspect::check_cluster(&session, &history.identity().source.system_identifier).await?;
    beat::signal_once(&session, &history.identity().message_key(), Some((MARK, &content))).await
}
