//! Begins a history, or a new epoch of one: publication, event triggers, slot, first checkpoint.
//!
//! The order matters. A publication younger than its slot cannot be decoded from the slot's start;
//! a snapshot older than the slot leaves a hole. A definition changed after
//! the slot's start and before the triggers would be told by nobody. So: publications, triggers, then the
//! slot with its snapshot, then the image under that snapshot.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::draft::{Draft, manifest};
use super::earlier::{self, Earlier};
use super::identity::{PATIENCE, treat_tables};
use super::snapshot::{self, SourceImage, SourceSnapshot};
use super::{Access, finish_packs, hold_objects, new_packs, slot};
use crate::ambient;
use crate::connect::{Conninfo, Session};
use crate::error::{Error, Kind, Result};
use crate::history::catalog::Catalog;
use crate::history::checkpoint::{self, Checkpoint, Origin, checkpoint_id};
use crate::history::epoch::{self, Epoch, GapStart};
use crate::history::evidence::Evidence;
use crate::history::image::{BlockDirectory, MemoryDirectory, Packs};
use crate::history::key::{Authorship, Key};
use crate::history::resync::Resync;
use crate::history::{
    FORMAT, History, Identity, KEYED_CUTS, KEYED_FORMAT, KeyRecord, SIGNED_FORMAT, Source, read_json,
    write_json,
};
use crate::model::{DatabaseFacts, PgTime, Selection};
use crate::signal::key::SIGNED;
use crate::source::blocker::{while_waiting, with_blocker};
use crate::source::identity::FullIdentity;
use crate::source::publication::{Publications, set_lock_timeout};
use crate::source::slot::drop_slot;
use crate::source::stream::ReplicationClient;
use crate::source::traces::{self, Trace};
use crate::source::triggers::{InstallOutcome, Triggers};
use crate::source::{inspect, process};
use crate::store::{LocalFolder, ObjectKind, ObjectName, Store, layout};

/// How long the creation of the publications waits for a table that another session has locked, such as a migration.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);

/// How long a removal waits for a lock.
const DROP_PATIENCE: Duration = Duration::from_secs(10);

/// The objects that `init` is about to create on the source; written before, so that a killed one can be cleaned
/// up after.
#[derive(Serialize, Deserialize)]
struct Intent {
    format: u32,
    slot: String,
    source: String,
    /// The cluster, which may be reached at another address by now; empty in what older versions wrote.
    #[serde(default)]
    system_identifier: String,
}

fn intent_name() -> ObjectName {
    ObjectName::only(ObjectKind::InitIntent)
}

/// The tables that a new history is to protect, and the ways to do it.
pub struct Wishes {
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    pub event_triggers: bool,
    /// Whether tables without a usable key get REPLICA IDENTITY FULL.
    pub full_identity: bool,
}

/// Begins a new history in a local folder.
///
/// # Errors
/// `Refused` if there is one, or the source cannot be protected; `Locked` if another process begins one there; then,
/// as after an interruption, the source is left as it was found.
pub async fn init(
    access: &Access<'_>,
    local: &LocalFolder,
    wishes: Wishes,
    key_file: Option<&Path>,
    interrupt: &CancellationToken,
) -> Result<Begun> {
    let Wishes { include, exclude, event_triggers, full_identity } = wishes;
    let selection = Selection::parse(&include, &exclude)?;
    let _lock = History::prepare(local, "init")?;
    let key = key_file.map(|file| Key::for_new_history(file, local.root())).transpose()?;
    let mut identity = new_identity(access.source, (include, exclude), key.as_ref())?;
    let source = access.source.for_history(&identity.slot());
    let access = &Access { source: &source, ..*access };
    let connecting = async {
        undo_killed_init(access.source, local).await?;
        let mut client = ReplicationClient::connect(access.source, "init").await?;
        let server = client.identify_system().await?;
        Ok((client, server))
    };
    let (client, server) = unless_interrupted(interrupt, connecting).await?;
    identity.source.system_identifier = server.system_identifier;
    let id = identity.id_bytes()?;
    let authorship = key.map_or(Authorship::Unkeyed, |key| key.authorship(id));
    let intent = Intent {
        format: FORMAT,
        slot: identity.slot(),
        source: access.source.without_password(),
        system_identifier: identity.source.system_identifier.clone(),
    };
    write_json(&*local.store(), &intent_name(), &intent)?;
    ambient::pass("init.intent")?;
    let beginning = async {
        if full_identity {
            let session = Session::connect_utf8(access.source, "init").await?;
            FullIdentity::of_slot(&identity.slot()).switch_on(&session).await?;
        }
        create_publications(access, &identity.slot(), &selection, event_triggers).await?;
        let refused = if event_triggers { install_triggers(access.source, &identity).await? } else { None };
        let start = Start { number: 1, cause: "init".into(), after: None, timeline: server.timeline };
        let none: Arc<dyn BlockDirectory> = Arc::new(MemoryDirectory::default());
        let packs = Packs::new(local.store(), none, identity.cuts());
        let opened = open(access, &identity.slot(), selection, client).await?;
        let checkpoint =
            begin_epoch(access, (local, &authorship), opened, packs, start, Comparing::No).await?;
        let event_triggers = Some(event_triggers && refused.is_none());
        let history = History::found(local, Identity { event_triggers, ..identity.clone() }, authorship)?;
        Ok(Begun { history, checkpoint, without_triggers: refused })
    };
    match unless_interrupted(interrupt, beginning).await {
        Ok(begun) => {
            forget_intent(local);
            Ok(begun)
        }
        Err(error) => Err(withdraw(access.source, local, &identity, error).await),
    }
}

async fn unless_interrupted<T>(
    interrupt: &CancellationToken,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    interrupt.run_until_cancelled(work).await.unwrap_or_else(|| Err(Error::interrupted()))
}

/// The history is valid from here on, whatever becomes of the intent.
fn forget_intent(local: &LocalFolder) {
    let forgotten = ambient::pass("init.found").and_then(|()| local.store().remove(&[intent_name()]));
    if let Err(error) = forgotten {
        tracing::info!("init.json stays until capture is started: {error}");
    }
}

/// The identity of a history that begins now. The cluster is known only once it has been asked, and whether the history
/// has event triggers only once they are installed.
fn new_identity(
    source: &Conninfo,
    (include, exclude): (Vec<String>, Vec<String>),
    key: Option<&Key>,
) -> Result<Identity> {
    Ok(Identity {
        format: if key.is_some() { KEYED_FORMAT } else { SIGNED_FORMAT },
        id: ambient::random::<16>()?.iter().map(|byte| format!("{byte:02x}")).collect(),
        created: PgTime::from_utc(ambient::now()),
        backwhen: env!("CARGO_PKG_VERSION").to_owned(),
        source: Source {
            connection: source.without_password(),
            system_identifier: String::new(),
            database: source.dbname().to_owned(),
        },
        include,
        exclude,
        secret: ambient::random::<32>()?.iter().map(|byte| format!("{byte:02x}")).collect(),
        messages: SIGNED,
        cuts: KEYED_CUTS,
        event_triggers: Some(false),
        key: key.map(|key| KeyRecord { id: key.id() }),
    })
}

/// Removes everything that a failed `init` has made, on the source and in the folder; returns the error to report.
async fn withdraw(source: &Conninfo, local: &LocalFolder, identity: &Identity, error: Error) -> Error {
    let root = local.root();
    let moreover = |what: String| Error::new(error.kind(), format!("{error}; moreover, {what}"));
    if let Err(left) = History::withdraw(local, &identity.id) {
        return moreover(format!(
            "history.json cannot be removed again, so the history {root} is valid and its slot stays; go on with: \
             backwhen capture --history {root}, or take it off the source with: backwhen drop --history {root} ({left})",
            root = root.display()
        ));
    }
    if let Err(left) = undo(source, &identity.slot()).await {
        return moreover(format!(
            "slot {slot}, its publications and event triggers may stay on the source until init is run again, or take \
             them off with: backwhen drop --force --slot {slot} --source CONN ({left})",
            slot = identity.slot()
        ));
    }
    layout::remove_unfinished_history(root);
    error
}

/// A new history with its first checkpoint.
pub struct Begun {
    pub history: History,
    pub checkpoint: Checkpoint,
    /// Why the source refused event triggers, if they were wanted and it did.
    pub without_triggers: Option<String>,
}

/// Before the slot: from its first position on, every change of definitions is told.
async fn install_triggers(source: &Conninfo, identity: &Identity) -> Result<Option<String>> {
    let session = Session::connect_utf8(source, "init").await?;
    let triggers = Triggers::of_slot(&identity.slot());
    let installing = triggers.install(&session, identity);
    let what = "the installation of the event triggers";
    let (installed, blocker) = while_waiting(source, session.process(), what, installing).await;
    match installed.map_err(|error| with_blocker(error, blocker))? {
        InstallOutcome::Installed => Ok(None),
        InstallOutcome::NotAllowed(reason) => Ok(Some(reason)),
    }
}

/// The epoch that a new epoch follows, and why.
pub struct Start {
    pub number: u32,
    pub cause: String,
    pub after: Option<GapStart>,
    pub timeline: u32,
}

/// Goes on with a history whose continuity is lost: the gap is recorded with the new epoch. The source is
/// compared with the latest state of the history, and only what differs is read.
///
/// # Errors
/// `Unavailable` if the source or the disk fails; `Locked` if a checkpoint is being made.
pub async fn next_epoch(
    access: &Access<'_>,
    history: &History,
    catalog: Arc<Catalog>,
    cause: String,
    after: GapStart,
) -> Result<Checkpoint> {
    let begun = PgTime::from_utc(ambient::now());
    let _objects = hold_objects(history).await?;
    let (history_, catalog_) = (history.clone(), Arc::clone(&catalog));
    ambient::blocking("bringing the catalog up to date", move || catalog_.synchronise(&history_)).await?;
    ambient::pass("resync.begin")?;
    // At once, since every transaction before the new slot lies in the gap.
    let (opened, comparing) = tokio::join!(open_again(access, history), latest_state(history, &catalog));
    let (opened, timeline) = opened?;
    let start = Start { number: after.epoch + 1, cause, after: Some(after), timeline };
    let packs = new_packs(history, &catalog);
    let checkpoint =
        begin_epoch(access, (history.local(), history.authorship()), opened, packs, start, comparing?)
            .await?;
    if let Some(evidence) = Evidence::of_resync(&checkpoint, begun) {
        let history = history.clone();
        let keeping = ambient::blocking("keeping evidence", move || history.keep_evidence(&evidence));
        if let Err(error) = keeping.await {
            tracing::warn!("the evidence is not kept: {error}");
        }
    }
    Ok(checkpoint)
}

/// Takes what is left of the slot off the source, and makes another; also tells the source's timeline.
async fn open_again(access: &Access<'_>, history: &History) -> Result<(SourceSnapshot, u32)> {
    let identity = history.identity();
    let slot = identity.slot();
    let selection = Selection::parse(&identity.include, &identity.exclude)?;
    let session = Session::connect_utf8(access.source, "resync").await?;
    process::end_sessions_of(&session, &slot).await?;
    undo_stream(access.source, &session, &slot).await?;
    drop(session);
    let mut client = ReplicationClient::connect(access.source, "resync").await?;
    let server = client.identify_system().await?;
    create_publications(access, &slot, &selection, identity.has_event_triggers()).await?;
    if identity.has_event_triggers()
        && let Some(reason) = install_triggers(access.source, identity).await?
    {
        tracing::warn!("the event triggers cannot be installed again: {reason}");
    }
    Ok((open(access, &slot, selection, client).await?, server.timeline))
}

/// The state of the history with which the source is compared.
enum Comparing {
    /// All is read.
    No,
    /// All is read, since the history's state cannot be had.
    Without(String),
    With(Arc<Earlier>),
}

async fn latest_state(history: &History, catalog: &Arc<Catalog>) -> Result<Comparing> {
    let (history, catalog) = (history.clone(), Arc::clone(catalog));
    match ambient::blocking("folding the history", move || earlier::latest(&history, &catalog)).await {
        Ok(state) => Ok(Comparing::With(Arc::new(state))),
        Err(error) if matches!(error.kind(), Kind::Damaged | Kind::Refused) => {
            tracing::warn!("all of the source is read, since there is nothing to compare it with: {error}");
            Ok(Comparing::Without(error.to_string()))
        }
        Err(error) => Err(error),
    }
}

async fn create_publications(
    access: &Access<'_>,
    slot: &str,
    selection: &Selection,
    pool: bool,
) -> Result<()> {
    let session = Session::connect_utf8(access.source, "init").await?;
    // An update of a table that is published without a replica identity would fail, so the tables get theirs first.
    let changes = treat_tables(&session, slot, selection, PATIENCE).await?;
    for table in &changes.refused {
        tracing::info!("{} does not have REPLICA IDENTITY FULL yet: {}", table.table, table.reason);
    }
    let inventory = inspect::inventory(&session, selection).await?;
    let facts = DatabaseFacts::read(&session).await?;
    let tables: Vec<_> = inventory.tables.iter().map(|found| &found.table).collect();
    set_lock_timeout(&session, LOCK_PATIENCE).await?;
    let publications = Publications::of_slot(slot);
    let creating = publications.create(&session, &tables, facts.server_major, pool);
    let what = "the creation of the publications";
    let (created, blocker) = while_waiting(access.source, session.process(), what, creating).await;
    created.map_err(|error| with_blocker(error, blocker))?;
    ambient::pass("init.publications")
}

async fn open(
    access: &Access<'_>,
    slot: &str,
    selection: Selection,
    mut client: ReplicationClient,
) -> Result<SourceSnapshot> {
    access.progress.phase("creating the slot", 0, crate::progress::Unit::Tables);
    let (snapshot, lsn) = slot::create(access.source, &mut client, slot, false).await?;
    ambient::pass("init.slot")?;
    SourceSnapshot::hold(access, slot, selection, (client, snapshot, lsn)).await
}

async fn begin_epoch(
    access: &Access<'_>,
    (local, authorship): (&LocalFolder, &Authorship),
    opened: SourceSnapshot,
    packs: Packs,
    start: Start,
    comparing: Comparing,
) -> Result<Checkpoint> {
    let store = local.store();
    let packs = Arc::new(packs);
    let scratch = local.scratch();
    let request = opened.request(access, &store, &scratch, &packs);
    let (state, without) = match comparing {
        Comparing::No => (None, None),
        Comparing::Without(why) => (None, Some(why)),
        Comparing::With(state) => (Some(state), None),
    };
    let described = snapshot::describe(&request, &opened.held).await?;
    let mut read = snapshot::read_rows(&request, &opened.held, state.as_ref()).await?;
    if without.is_some() {
        read.resync = Some(Resync { without, ..Resync::default() });
    }
    let (lsn, slot) = (opened.lsn, opened.slot);
    let taken = SourceImage::of(opened.held, described, read);
    drop(state);
    let stats = finish_packs(packs).await?;
    ambient::pass("init.image")?;
    let mut epoch = Epoch::new(start.number, lsn, taken.time, start.timeline, slot, start.cause);
    epoch.after = start.after;
    let draft =
        Draft { epoch: epoch.number, lsn, time: taken.time, label: None, base: None, origin: Origin::Source };
    let id = checkpoint_id(epoch.number, lsn);
    let checkpoint = manifest(id, draft, taken.content(stats));
    publish(&*store, authorship, &epoch, &checkpoint)?;
    Ok(checkpoint)
}

/// On the caller's own thread: an interruption must not leave a thread behind that makes a history valid while it is
/// taken back. No stream runs beside it.
fn publish(store: &dyn Store, authorship: &Authorship, epoch: &Epoch, checkpoint: &Checkpoint) -> Result<()> {
    epoch::begin(store, epoch, authorship)?;
    ambient::pass("init.epoch")?;
    checkpoint::publish(store, checkpoint, authorship)?;
    ambient::pass("init.manifest")
}

/// Takes event triggers, slot and publications off the source, and gives tables back their replica identity; what is
/// gone already is fine.
///
/// # Errors
/// `Unavailable` if the source cannot be reached, `Locked` if the slot or a table is in use.
pub async fn undo(source: &Conninfo, slot: &str) -> Result<()> {
    let session = Session::connect_utf8(source, "drop").await?;
    // A statement of an interrupted command, which still waits for a lock, would make again what is taken off here.
    process::end_sessions_of(&session, slot).await?;
    set_lock_timeout(&session, DROP_PATIENCE).await?;
    // The event triggers go first: they would look for the publications.
    let triggers = Triggers::of_slot(slot);
    let what = "the removal of the event triggers";
    let (removed, blocker) = while_waiting(source, session.process(), what, triggers.remove(&session)).await;
    removed.map_err(|error| with_blocker(error, blocker))?;
    undo_stream(source, &session, slot).await?;
    // The publications went first: with what they had, tables may refuse updates while they are published.
    FullIdentity::of_slot(slot).put_back(&session).await
}

/// Takes slot and publications off the source, and leaves the event triggers.
async fn undo_stream(source: &Conninfo, session: &Session, slot: &str) -> Result<()> {
    drop_slot(session, slot).await?;
    ambient::pass("drop.slot")?;
    set_lock_timeout(session, DROP_PATIENCE).await?;
    let publications = Publications::of_slot(slot);
    let what = "the removal of the publications";
    let (dropped, blocker) = while_waiting(source, session.process(), what, publications.drop(session)).await;
    dropped.map_err(|error| with_blocker(error, blocker))
}

async fn undo_killed_init(source: &Conninfo, local: &LocalFolder) -> Result<()> {
    let Some(intent) = read_json::<Intent>(&*local.store(), &intent_name())? else { return Ok(()) };
    let earlier = Conninfo::parse(&intent.source)?;
    tracing::info!("an earlier init was killed; taking its slot {} off the source", intent.slot);
    let session = Session::connect_utf8(source, "drop").await?;
    let same = earlier.without_password() == source.without_password()
        || earlier.dbname() == source.dbname()
            && inspect::check_cluster(&session, &intent.system_identifier).await.is_ok();
    let earlier = if same { source } else { &earlier };
    undo(&earlier.for_history(&intent.slot), &intent.slot).await?;
    layout::remove_unfinished_history(local.root());
    layout::make_folders(local.root())
}

/// Takes a history's event triggers, slot and publications off its source, for good. A cluster that pg_upgrade has made
/// of the source has another identifier, but the names of this history, which no other history has.
///
/// # Errors
/// `Locked` if a capture runs; `Refused` if the source is another cluster that knows nothing of this history, unless
/// `force` is given; `Unavailable` if the source cannot be reached.
pub async fn leave(history: &History, source: &Conninfo, force: bool) -> Result<()> {
    let _lock = history.lock_capture()?;
    let slot = history.identity().slot();
    let session = Session::connect_utf8(source, "drop").await?;
    let same = inspect::check_cluster(&session, &history.identity().source.system_identifier).await;
    if !force && !traces::slots(&session).await?.iter().any(|trace| trace.slot == slot) {
        same?;
    }
    drop(session);
    undo(source, &slot).await?;
    ambient::pass("drop.done")
}

/// Returns what histories have on the source.
///
/// # Errors
/// `Unavailable` if the source cannot be reached.
pub async fn traces_on(source: &Conninfo) -> Result<Vec<Trace>> {
    let session = Session::connect_utf8(source, "drop").await?;
    traces::slots(&session).await
}
