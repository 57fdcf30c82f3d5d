//! Keeps the source company over an ordinary session: heartbeats, sequences, tables that come.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::beat::{beat_once, heartbeat};
use super::budget::{Budget, RetainedWal, Verdict};
use super::digests::{DIGEST_SHARE, ToldDigests};
use super::known_source::KnownSource;
use super::live::Board;
use super::published::{self, PublicationCheck};
use super::stop::{StopReason, StopSignal};
use crate::ambient;
use crate::connect::{Conninfo, ServerFault, Session};
use crate::error::{Context, Error, Kind, Result};
use crate::history::History;
use crate::history::catalog::Catalog;
use crate::history::journal::Durable;
use crate::history::roles;
use crate::model::SequenceState;
use crate::model::{DatabaseFacts, Grade, LeftOut, Lsn, PgTime, Selection};
use crate::pgtools::Tools;
use crate::progress::Silent;
use crate::protect::identity::treat_tables;
use crate::protect::snapshot::read_roles;
use crate::protect::{Access, checkpoint, hold_objects};
use crate::signal::{self, RolesSignal};
use crate::source::blocker::{OpenTransaction, oldest_transaction, while_waiting};
use crate::source::inspect;
use crate::source::messages::write;
use crate::source::publication::{Pool, Publications, set_lock_timeout};
use crate::source::sequences;
use crate::source::slot::SlotFacts;
use crate::source::triggers::{Fault, InstallOutcome, Triggers};

/// A source that takes longer to answer than this is asked anew on another connection.
const PATIENCE: Duration = Duration::from_secs(120);

/// A publication that somebody keeps locked for longer than this is left for the next beat.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// The SQLSTATE of a statement about a table that does not exist.
const UNDEFINED_TABLE: &str = "42P01";

/// Images of new tables follow each other no faster than this.
const REFRESH_PAUSE: Duration = Duration::from_secs(3);

/// How long an image of new tables waits before it looks again whether a transaction that is in its way has ended.
const LATE_PAUSE: Duration = Duration::from_secs(10);

/// Lists of the server's roles follow each other no faster than this: some servers make roles all the time.
const ROLES_PAUSE: Duration = Duration::from_secs(60);

/// Attempts to change the replica identity of locked tables follow each other no faster than this: everybody who uses
/// such a table waits during an attempt.
const IDENTITY_PAUSE: Duration = Duration::from_secs(60);

pub struct Watcher {
    pub history: History,
    pub source: Conninfo,
    pub tools: Tools,
    pub board: Board,
    pub durable: watch::Receiver<Durable>,
    pub heartbeat: Duration,
    pub budget: Budget,
    pub jobs: usize,
    /// The publications that the stream names.
    pub pool: Pool,
    /// Told when the stream lacks what it should carry, or the slot retains too much.
    pub stop: StopSignal,
}

/// The state that the watcher keeps from one heartbeat to the next.
#[derive(Default)]
struct Memory {
    sequences: Option<BTreeMap<u32, SequenceState>>,
    next_digest: Option<Instant>,
    next_refresh: Option<Instant>,
    known: Option<KnownSource>,
    /// A digest of the roles that the history knows.
    roles: Option<String>,
    next_roles: Option<Instant>,
    /// When tables whose replica identity could not be changed are tried again; `None` if there are none.
    next_identities: Option<Instant>,
    digests: ToldDigests,
}

impl Watcher {
    /// Beats until cancelled. A failure costs a beat, never the capture.
    /// Says once that the first one is done, however it went.
    pub async fn run(self, cancelled: CancellationToken, first: oneshot::Sender<()>) {
        let mut memory = Memory::default();
        let mut first = Some(first);
        let mut session = None;
        loop {
            let beat = async {
                let connected = match session.take() {
                    Some(connected) => connected,
                    None => Session::connect_utf8(&self.source, "capture").await?,
                };
                self.beat(&connected, &mut memory).await?;
                session = Some(connected);
                Ok::<(), Error>(())
            };
            tokio::select! {
                done = beat => if let Err(error) = done {
                    tracing::info!("the heartbeat failed and is tried again: {error}");
                    memory.sequences = None;
                },
                () = cancelled.cancelled() => return,
            }
            if let Some(first) = first.take() {
                let _ = first.send(());
            }
            tokio::select! {
                () = tokio::time::sleep(self.heartbeat) => {}
                () = cancelled.cancelled() => return,
            }
        }
    }

    async fn beat(&self, session: &Session, memory: &mut Memory) -> Result<()> {
        let looked = tokio::time::timeout(PATIENCE, self.look(session, memory)).await;
        match looked.map_err(|_| Error::unavailable("the source does not answer"))?? {
            Some(now) => self.follow_schema(session, memory, now).await,
            None => Ok(()),
        }
    }

    /// Looks at the source and writes the heartbeat; tells the definitions' fingerprint, if it was
    /// time to ask for it.
    async fn look(&self, session: &Session, memory: &mut Memory) -> Result<Option<String>> {
        let due = memory.next_digest.is_none_or(|next| ambient::instant() >= next);
        let sample = sequences::sample(session).await?;
        let started = ambient::instant();
        let now = if due { Some(inspect::fingerprint(session).await?) } else { None };
        if due {
            self.follow_roles(session, memory).await?;
        }
        if let Some(now) = &now {
            let known = KnownSource::kept(&mut memory.known, &self.history).await?;
            memory.digests.tell(session, &self.history.identity().message_key(), now, known).await?;
        }
        self.check_publications(session, memory, now.as_ref()).await?;
        self.check_triggers(session).await?;
        self.follow_pool(session).await?;
        if due {
            memory.next_digest = Some(ambient::instant() + started.elapsed() * DIGEST_SHARE);
        }
        let head = heartbeat(
            session,
            &self.history.identity().message_key(),
            sample,
            now.clone(),
            &mut memory.sequences,
        )
        .await?;
        self.check_budget(session).await?;
        self.board.update(|live| {
            live.source_head = Some(head);
            live.source_asked = Some(PgTime::from_utc(ambient::now()));
        });
        Ok(now)
    }

    /// No event trigger fires for roles: where they are others than the history knows, the list of them
    /// is put into it, and a message says so at this place in the stream.
    async fn follow_roles(&self, session: &Session, memory: &mut Memory) -> Result<()> {
        let digest = inspect::roles_digest(session).await?;
        if memory.roles.is_none() {
            let history = self.history.clone();
            let reading = ambient::blocking("reading the roles", move || roles::last_known(&history));
            memory.roles = reading.await?;
        }
        let waits = memory.next_roles.is_some_and(|next| ambient::instant() < next);
        if memory.roles.as_ref() == Some(&digest) || waits {
            return Ok(());
        }
        let access = Access { source: &self.source, tools: &self.tools, jobs: self.jobs, progress: &Silent };
        let major = DatabaseFacts::read(session).await?.server_major;
        // A list that was there already must not go just now.
        let _objects = hold_objects(&self.history).await?;
        if let Some(globals) = read_roles(&access, &self.history.shared_store(), major).await? {
            let signal = RolesSignal { digest: digest.clone(), globals };
            let body = serde_json::to_string(&signal);
            let body = body.context(Kind::Internal, || "cannot write of the roles".into())?;
            write(session, &self.history.identity().message_key(), &[(signal::ROLES, &body)]).await?;
            tracing::info!("the server's roles have changed, and are in the history as they are now");
        }
        memory.roles = Some(digest);
        memory.next_roles = Some(ambient::instant() + ROLES_PAUSE);
        Ok(())
    }

    /// Where the definitions are not those that the newest checkpoint knows: protects what is new,
    /// and takes a checkpoint that knows them.
    async fn follow_schema(&self, session: &Session, memory: &mut Memory, now: String) -> Result<()> {
        let changed = memory.known.as_ref().is_none_or(|known| known.fingerprint != now);
        self.board.update(|live| live.schema_changed = changed);
        // A table whose publication somebody kept locked is tried again, whatever a checkpoint knows of it.
        let left = self.board.read().is_some_and(|live| !live.unprotected.is_empty())
            || memory.next_identities.is_some_and(|next| ambient::instant() >= next);
        let waits = memory.next_refresh.is_some_and(|next| ambient::instant() < next);
        if !changed && (!left || waits) {
            return Ok(());
        }
        // Tables that move now are moved by capture itself, even if this process dies before it can note that.
        self.board.update(|live| live.published.iter_mut().for_each(|last| last.members.clear()));
        self.board.written().await;
        self.treat_identities(session, memory).await?;
        let published = self.publish_tables(session).await?;
        self.look_again(session, memory).await?;
        if !changed && !published {
            memory.next_refresh = Some(ambient::instant() + REFRESH_PAUSE);
            return Ok(());
        }
        if memory.next_refresh.is_none_or(|next| ambient::instant() >= next) {
            // The snapshot's slot would wait for this transaction, and the heart would not beat meanwhile.
            if let Some(open) = oldest_transaction(session).await?.filter(OpenTransaction::is_late) {
                tracing::info!("the checkpoint with the new definitions waits: {open}");
                memory.next_refresh = Some(ambient::instant() + LATE_PAUSE);
                return Ok(());
            }
            let started = ambient::instant();
            let done = self.refresh().await;
            memory.next_refresh = Some(ambient::instant() + REFRESH_PAUSE.max(started.elapsed() * 2));
            let newest = done?;
            self.board.update(|live| live.schema_changed = newest.fingerprint != now);
            memory.roles.clone_from(&newest.roles_digest);
            memory.known = Some(newest);
            memory.digests.begin_at_checkpoint();
            self.look_again(session, memory).await?;
        }
        Ok(())
    }

    /// At the publications, once tables have moved: this run may end before the next beat.
    async fn look_again(&self, session: &Session, memory: &Memory) -> Result<()> {
        let Some(known) = &memory.known else { return Ok(()) };
        let look = PublicationCheck::at(session, self.history.identity(), known).await?;
        self.note_publications(&look, Vec::new()).await
    }

    /// Weighs the WAL that the slot retains, since it fills production's disk.
    async fn check_budget(&self, session: &Session) -> Result<()> {
        let slot = SlotFacts::read(session, &self.history.identity().slot()).await?;
        let Some(found) = RetainedWal::of(&slot) else { return Ok(()) };
        match self.budget.judge(found) {
            Verdict::Fine => {}
            Verdict::Warn => {
                let oldest = oldest_transaction(session).await?;
                tracing::warn!("{}", self.budget.describe(found, oldest));
            }
            Verdict::GiveUp => self.stop.tell(StopReason::BudgetSpent),
        }
        Ok(())
    }

    /// A table that somebody takes out of the publications is lost to the stream without a sign.
    async fn check_publications(
        &self,
        session: &Session,
        memory: &mut Memory,
        now: Option<&String>,
    ) -> Result<()> {
        let known = KnownSource::kept(&mut memory.known, &self.history).await?;
        let identity = self.history.identity();
        let publications = Publications::of_slot(&identity.slot());
        let lacking = publications.lacking(session, &known.tables).await?;
        if lacking.is_empty() {
            let look = PublicationCheck::at(session, identity, known).await?;
            // After a schema change, tables move because of that change.
            let moved = if now == Some(&known.fingerprint) {
                publications.moved(session, &known.exact).await?
            } else {
                Vec::new()
            };
            self.note_publications(&look, moved).await?;
            // The source's position at the heartbeat before, which is surely earlier than the facts just read.
            self.board.update(|live| live.published_until = live.published_until.max(live.source_head));
            return Ok(());
        }
        self.stop.tell(StopReason::Unpublished);
        Err(Error::unavailable(format!("backwhen's publications do not carry all of {}", lacking.join(", "))))
    }

    /// Notes the publications, which may have been altered and put back since the last check. `moved`: the tables that have not
    /// been put back.
    async fn note_publications(&self, look: &PublicationCheck, moved: Vec<String>) -> Result<()> {
        let history = self.history.clone();
        let reading = ambient::blocking("reading the newest epoch", move || history.current_epoch());
        let epoch = reading.await?.number;
        let last = self.board.read().and_then(|live| live.published);
        let mut altered = look.altered(epoch, last.as_ref());
        altered.extend(moved);
        self.board.update(|live| live.published = Some(look.known(epoch, altered.clone())));
        if !altered.is_empty() {
            self.board.written().await;
            self.stop.tell(StopReason::Altered);
            return Err(Error::unavailable(published::message(&altered)));
        }
        Ok(())
    }

    /// Checks the event triggers: somebody may have disabled or dropped them, or another version of backwhen installed them.
    async fn check_triggers(&self, session: &Session) -> Result<()> {
        let identity = self.history.identity();
        if !identity.has_event_triggers() {
            return Ok(());
        }
        let triggers = Triggers::of_slot(&identity.slot());
        let mut stays = None;
        if let Some(fault) = triggers.fault(session).await? {
            let first = self.board.read().is_none_or(|live| live.triggers_fault.is_none());
            if first && matches!(fault, Fault::Broken(_)) {
                tracing::warn!("schema changes are no longer told by triggers: {fault}");
            }
            let refused = match triggers.install(session, identity).await {
                Ok(InstallOutcome::Installed) => None,
                Ok(InstallOutcome::NotAllowed(reason)) => Some(reason),
                Err(error) => Some(error.to_string()),
            };
            match &refused {
                None => tracing::info!("the event triggers are installed again: {fault}"),
                Some(reason) if first && fault == Fault::OtherVersion => {
                    tracing::warn!("the event triggers cannot be replaced: {fault}; {reason}");
                }
                Some(_) => {}
            }
            stays = refused.map(|reason| format!("{fault}; {reason}"));
        }
        self.board.update(|live| live.triggers_fault = stays);
        Ok(())
    }

    /// Lets the event triggers use the pool of publications if the stream names it. A history that an older version began
    /// has no pool: it is created here, and named by another connection once the slot is past its creation.
    async fn follow_pool(&self, session: &Session) -> Result<()> {
        let identity = self.history.identity();
        if !identity.has_event_triggers() {
            return Ok(());
        }
        let slot = identity.slot();
        if self.pool == Pool::Ready {
            return Triggers::of_slot(&slot).use_pool(session).await;
        }
        let publications = Publications::of_slot(&slot);
        let major = DatabaseFacts::read(session).await?.server_major;
        if let Err(error) = publications.create_pool(session, major).await {
            tracing::info!("new tables may wait for each other's transactions: {error}");
        } else if publications.pool(session, &slot, false).await? == Pool::Ready {
            self.stop.tell(StopReason::PoolReady);
            return Err(Error::interrupted());
        }
        Ok(())
    }

    /// With `init --full-identity`: gives tables their replica identity that no event trigger could give it.
    async fn treat_identities(&self, session: &Session, memory: &mut Memory) -> Result<()> {
        let identity = self.history.identity();
        let selection = Selection::parse(&identity.include, &identity.exclude)?;
        let changes = treat_tables(session, &identity.slot(), &selection, Duration::ZERO).await?;
        for LeftOut { table, reason } in &changes.refused {
            tracing::info!("{table} stays insert-only for now: {reason}");
        }
        let waits = !changes.refused.is_empty();
        memory.next_identities = waits.then(|| ambient::instant() + IDENTITY_PAUSE);
        Ok(())
    }

    /// Puts every table that is wanted into the publication that fits it; whether one was put there.
    async fn publish_tables(&self, session: &Session) -> Result<bool> {
        let identity = self.history.identity();
        let selection = Selection::parse(&identity.include, &identity.exclude)?;
        let publications = Publications::of_slot(&identity.slot());
        let members = publications.members(session).await?;
        ambient::pause("publish");
        let inventory = inspect::inventory(session, &selection).await?;
        let before = self.board.read().map_or(Vec::new(), |live| live.unprotected);
        let (mut unprotected, mut any) = (Vec::new(), false);
        // A migration that made tables holds the publications until it ends; the heart beats on.
        set_lock_timeout(session, LOCK_PATIENCE).await?;
        for found in &inventory.tables {
            let table = &found.table;
            let exact = table.grade == Grade::Exact;
            if is_published(&members, table.oid, exact) {
                continue;
            }
            let publishing = async {
                if members.contains(&(table.oid, true)) {
                    publications.demote(session, table, self.pool).await
                } else {
                    publications.add(session, table, self.pool).await
                }
            };
            let what = "the publication of a table";
            let (published, blocker) = while_waiting(&self.source, session.process(), what, publishing).await;
            if let Err(error) = published {
                ambient::pause("publish");
                // Since its membership was read, the event triggers may have published the table or moved it, or somebody
                // may have dropped it. The next question asks anew.
                let here = |members: &BTreeSet<_>| membership(members, table.oid);
                if ServerFault::sqlstate_of(&error) == Some(UNDEFINED_TABLE)
                    || here(&publications.members(session).await?) != here(&members)
                {
                    continue;
                }
                let reason = blocker.map_or(error.to_string(), |blocker| format!("{error}; {blocker}"));
                if !before.iter().any(|left| left.table == table.display()) {
                    tracing::warn!("{} is not protected: {reason}", table.display());
                }
                unprotected.push(LeftOut { table: table.display(), reason });
            } else {
                any = true;
                tracing::info!("{} is published; its image follows", table.display());
                if let Some(advice) = &found.advice {
                    tracing::info!("{}: {}; to mend: {}", table.display(), advice.why, advice.command);
                }
            }
        }
        set_lock_timeout(session, Duration::ZERO).await?;
        self.board.update(|live| live.unprotected = unprotected);
        Ok(any)
    }

    /// A checkpoint with images of what is new, at the first position where all of it is known.
    async fn refresh(&self) -> Result<KnownSource> {
        let history = self.history.clone();
        let opening = ambient::blocking("opening the catalog", move || Catalog::open(&history));
        let catalog = Arc::new(opening.await?);
        let access = Access { source: &self.source, tools: &self.tools, jobs: self.jobs, progress: &Silent };
        let mut durable = self.durable.clone();
        let (source, key) = (self.source.clone(), self.history.identity().message_key());
        let reached = async |lsn: Lsn| {
            // An idle source would never get there by itself.
            beat_once(&source, &key).await?;
            let reached = durable.wait_for(|durable| durable.lsn() >= lsn).await;
            reached.map(|_| ()).map_err(|_| Error::interrupted())
        };
        let made = checkpoint::refresh(&access, &self.history, &catalog, reached).await?;
        tracing::info!("checkpoint {} has the schema as it is now", made.id);
        Ok(made.into())
    }
}

/// Whether a table is where its grade belongs: in an exact publication, or in none of those but in another.
fn is_published(members: &BTreeSet<(u32, bool)>, table: u32, exact: bool) -> bool {
    let (is_exact, is_other) = membership(members, table);
    is_exact == exact && (exact || is_other)
}

/// Whether a table is in an exact publication, and whether it is in another.
fn membership(members: &BTreeSet<(u32, bool)>, table: u32) -> (bool, bool) {
    (members.contains(&(table, true)), members.contains(&(table, false)))
}
