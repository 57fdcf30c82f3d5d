//! Reads the source under a slot's snapshot: tables, schema, sequences, all as of one position.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Access;
use super::draft::Content;
use super::earlier::Earlier;
use super::resync;
use super::take::{SourceReading, TableImages, read_tables};
use crate::ambient;
use crate::connect::{ServerFault, Session};
use crate::error::{Error, Result};
use crate::history::checkpoint::{SchemaFacts, TableEntry};
use crate::history::image::{PackStats, Packs};
use crate::history::resync::Resync;
use crate::model::{DatabaseFacts, Grade, LeftOut, Lsn, PgTime, RowIdentity, Selection};
use crate::pgtools::{self, Tools};
use crate::source::inspect::{self, FoundTable, Inventory};
use crate::source::process;
use crate::source::publication::Publications;
use crate::source::sequences::{self, Sample};
use crate::source::snapshot::{Snapshot, changed_since_snapshot, lock_tables, unlock_tables};
use crate::source::stream::ReplicationClient;
use crate::store::{NewFile, ObjectKind, ObjectName, Store};

/// The tables to read under a snapshot, and how.
pub struct Request<'a> {
    pub access: &'a Access<'a>,
    pub snapshot: &'a Snapshot,
    /// The slot's consistent point: the snapshot holds exactly what committed before it.
    pub lsn: Lsn,
    pub publications: &'a Publications,
    pub selection: &'a Selection,
    /// The protected tables to read; the caller knows the others.
    pub read: &'a (dyn Fn(&FoundTable) -> bool + Sync),
    pub store: &'a Arc<dyn Store>,
    /// The folder for sorted runs that do not fit into memory.
    pub scratch: &'a Path,
    pub packs: &'a Arc<Packs>,
}

/// The source at a slot's first position: its tables are locked, as they were there.
pub(super) struct SourceSnapshot {
    /// The history's own.
    pub slot: String,
    pub selection: Selection,
    pub publications: Publications,
    pub snapshot: Snapshot,
    pub lsn: Lsn,
    pub held: LockedTables,
    /// Keeps the snapshot.
    pub client: ReplicationClient,
}

impl SourceSnapshot {
    /// # Errors
    /// As [`take`].
    pub async fn hold(
        access: &Access<'_>,
        slot: &str,
        selection: Selection,
        (client, snapshot, lsn): (ReplicationClient, Snapshot, Lsn),
    ) -> Result<SourceSnapshot> {
        let publications = Publications::of_slot(slot);
        let held = hold(access, &snapshot, &publications, &selection).await?;
        Ok(SourceSnapshot { slot: slot.to_owned(), selection, publications, snapshot, lsn, held, client })
    }

    /// All protected tables, into `packs`.
    pub fn request<'a>(
        &'a self,
        access: &'a Access<'a>,
        store: &'a Arc<dyn Store>,
        scratch: &'a Path,
        packs: &'a Arc<Packs>,
    ) -> Request<'a> {
        Request {
            access,
            snapshot: &self.snapshot,
            lsn: self.lsn,
            publications: &self.publications,
            selection: &self.selection,
            read: &|_| true,
            store,
            scratch,
            packs,
        }
    }
}

/// The source as of one position.
pub struct SourceImage {
    /// The tables that were read.
    pub tables: Vec<TableEntry>,
    /// All protected tables, read or not, by oid.
    pub protected: BTreeMap<u32, FoundTable>,
    pub schema: SchemaFacts,
    pub sequences: Sample,
    pub time: PgTime,
    /// The result of the comparison, if there was one.
    pub resync: Option<Resync>,
}

/// Reads what the request wants.
///
/// # Errors
/// `Unavailable` if the source fails, if a table was truncated or rewritten before it could be locked, or
/// if definitions changed while they were read: then a new snapshot is needed.
pub async fn take(request: &Request<'_>) -> Result<SourceImage> {
    let held = hold(request.access, request.snapshot, request.publications, request.selection).await?;
    let described = describe(request, &held).await?;
    let read = read_rows(request, &held, None).await?;
    Ok(SourceImage::of(held, described, read))
}

/// Reads the tables that the request wants; with an `earlier` state of the history only what differs from it.
///
/// # Errors
/// As [`take`].
pub(super) async fn read_rows(
    request: &Request<'_>,
    held: &LockedTables,
    earlier: Option<&Arc<Earlier>>,
) -> Result<TableImages> {
    let reading = SourceReading {
        source: request.access.source,
        snapshot: request.snapshot,
        packs: request.packs,
        scratch: request.scratch,
        jobs: request.access.jobs,
        progress: request.access.progress,
    };
    let wanted: Vec<_> = held.protected.values().filter(|found| (request.read)(found)).collect();
    match earlier {
        None => Ok(TableImages { tables: read_tables(&reading, &wanted).await?, resync: None }),
        Some(earlier) => resync::read_differences(&reading, earlier, &wanted).await,
    }
}

/// The definitions and sequences as the snapshot shows them.
pub(super) struct SchemaFromSource {
    schema: SchemaFacts,
    sequences: Sample,
}

/// Reads the definitions and the sequences. This is better done before the rows are read: it fails if definitions change
/// meanwhile. The tables are not locked while pg_dump works, since pg_dump locks them itself, and a server with many
/// tables has no room for two locks on each.
///
/// # Errors
/// Fails as [`take`] does.
pub(super) async fn describe(request: &Request<'_>, held: &LockedTables) -> Result<SchemaFromSource> {
    let schema = read_schema(request, held).await?;
    let sequences = sequences::sample(&held.holder).await?;
    Ok(SchemaFromSource { schema, sequences })
}

impl SourceImage {
    pub(super) fn of(held: LockedTables, described: SchemaFromSource, read: TableImages) -> SourceImage {
        let LockedTables { time, protected, .. } = held;
        let SchemaFromSource { schema, sequences } = described;
        let TableImages { tables, resync } = read;
        SourceImage { tables, protected, schema, sequences, time, resync }
    }

    /// All that the snapshot showed, for a checkpoint.
    pub(super) fn content(self, stats: PackStats) -> Content {
        let SourceImage { tables, schema, sequences, resync, .. } = self;
        Content { tables, schema, sequences, inexact: Vec::new(), stats, resync }
    }
}

/// The protected tables, locked so that they can be read as the snapshot shows them.
pub(super) struct LockedTables {
    /// Keeps the locks.
    pub holder: Session,
    /// The server's clock.
    pub time: PgTime,
    /// By oid.
    pub protected: BTreeMap<u32, FoundTable>,
    pub left_out: Vec<LeftOut>,
}

/// # Errors
/// As [`take`].
pub(super) async fn hold(
    access: &Access<'_>,
    snapshot: &Snapshot,
    publications: &Publications,
    selection: &Selection,
) -> Result<LockedTables> {
    let holder = snapshot.session(access.source, "checkpoint").await?;
    let Inventory { tables, mut left_out } = inspect::inventory(&holder, selection).await?;
    let members = publications.members(&holder).await?;
    let (protected, unprotected) = split_by_membership(tables, &members);
    left_out.extend(unprotected);
    let time = inspect::clock(&holder).await?;
    let held = LockedTables { holder, time, protected, left_out };
    held.lock(access).await?;
    Ok(held)
}

impl LockedTables {
    async fn lock(&self, access: &Access<'_>) -> Result<()> {
        let tables: Vec<_> = self.protected.values().map(|found| &found.table).collect();
        lock_tables(access.source, &self.holder, &tables).await?;
        let changed = changed_since_snapshot(&self.holder, &tables).await?;
        if changed.is_empty() {
            return Ok(());
        }
        Err(Disturbance::error(format!(
            "{} was truncated or rewritten while its image was begun",
            changed.join(", ")
        )))
    }
}

/// A table's grade is what its publication streams; a table in neither is not protected yet.
fn split_by_membership(
    tables: Vec<FoundTable>,
    members: &std::collections::BTreeSet<(u32, bool)>,
) -> (BTreeMap<u32, FoundTable>, Vec<LeftOut>) {
    let mut protected = BTreeMap::new();
    let mut left_out = Vec::new();
    for mut found in tables {
        let oid = found.table.oid;
        if members.contains(&(oid, true)) && found.table.grade == Grade::Exact {
            protected.insert(oid, found);
        } else if members.contains(&(oid, false)) || members.contains(&(oid, true)) {
            found.table.grade = Grade::InsertOnly;
            found.table.identity = RowIdentity::WholeRow;
            protected.insert(oid, found);
        } else {
            let reason = "not in backwhen's publication yet; `backwhen capture` adds it".to_owned();
            left_out.push(LeftOut { table: found.table.display(), reason });
        }
    }
    (protected, left_out)
}

async fn read_schema(request: &Request<'_>, held: &LockedTables) -> Result<SchemaFacts> {
    let holder = &held.holder;
    request.access.progress.phase("reading the schema", 0, crate::progress::Unit::Tables);
    let database = DatabaseFacts::read(holder).await?;
    let server_version = inspect::server_version(holder).await?;
    let (roles, materialized_views, large_objects) = inspect::schema_extras(holder).await?;
    let fingerprint = inspect::fingerprint(holder).await?;
    let tools: &Tools = request.access.tools;
    let tool = tools.for_dump(database.server_major)?;
    let archive = draft(request.store, ObjectKind::Archive).await?;
    unlock_tables(holder).await?;
    let dumped = dump_giving_way(request, tool, archive.path()).await;
    let now = Session::connect_utf8(request.access.source, "checkpoint").await?;
    let digested = pgtools::schema_digests(&now).await;
    let locked = if dumped.is_ok() { held.lock(request.access).await } else { Ok(()) };
    // First: pg_dump fails in many ways where definitions change under its hands.
    assert_settled(request.access, &fingerprint).await?;
    dumped.and(locked)?;
    let digests = match digested {
        Err(error) if ServerFault::sqlstate_of(&error) == Some(LOCK_NOT_AVAILABLE) => return Err(gave_way()),
        // Definitions without digests are worth keeping; a recovery says that they are not proved.
        digested => digested.inspect_err(|error| tracing::warn!("{error}")).ok(),
    };
    // A role that changes in between is in the list, and its digest will show the change.
    let roles_digest = inspect::roles_digest(&now).await?;
    let globals = read_roles(request.access, request.store, database.server_major).await?;
    Ok(SchemaFacts {
        lsn: request.lsn,
        time: held.time,
        archive: put_by_digest(request.store, ObjectKind::Archive, archive).await?,
        globals,
        roles_digest: Some(roles_digest),
        pg_dump_major: tool.major,
        server_version,
        database,
        roles,
        materialized_views,
        large_objects,
        left_out: held.left_out.clone(),
        fingerprint,
        digests,
        since: Vec::new(),
    })
}

/// Puts the server's roles, as they are now, into the history; their digest. `None` if they cannot be read:
/// managed services let nobody read all roles. The roles that matter are listed in manifests anyway.
///
/// # Errors
/// `Refused` if the programs are missing; `Unavailable` if the disk fails.
pub async fn read_roles(
    access: &Access<'_>,
    store: &Arc<dyn Store>,
    server_major: u32,
) -> Result<Option<String>> {
    let tool = access.tools.for_dump(server_major)?;
    let globals = draft(store, ObjectKind::Roles).await?;
    match pgtools::dump_globals(tool, access.source, globals.path()).await {
        Ok(()) => put_by_digest(store, ObjectKind::Roles, globals).await.map(Some),
        Err(error) => {
            tracing::info!("the server's roles cannot be read: {error}");
            Ok(None)
        }
    }
}

/// The SQLSTATE of a statement that waited too long for a lock.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// How long pg_dump may wait for a lock. A migration may itself wait for a table that we hold, and then
/// it is we who give way, well before the server's `deadlock_timeout` (1 s) ends one of the two.
const LOCK_WAIT: Duration = Duration::from_millis(100);

/// Has pg_dump write the archive, and cancels it where it waits for a lock. Its own time-out knows only
/// the locks of tables, not those that reading a view's text takes.
async fn dump_giving_way(request: &Request<'_>, tool: &pgtools::Installation, out: &Path) -> Result<()> {
    let source = request.access.source;
    let application = source.application(&format!("pg_dump {}", request.snapshot.name));
    let dump = pgtools::dump_schema(tool, source, Some(&request.snapshot.name), &application, out);
    let watch = Session::connect_utf8(source, "checkpoint").await?;
    let ended = AtomicBool::new(false);
    // Whether it was cancelled.
    let cancelling = async {
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if ended.load(Ordering::Relaxed) {
                return Ok(false);
            }
            if process::cancel_waiting(&watch, &application, LOCK_WAIT).await? {
                return Ok::<_, Error>(true);
            }
        }
    };
    tokio::pin!(dump, cancelling);
    tokio::select! {
        done = &mut dump => {
            let Err(error) = done else { return Ok(()) };
            // A cancelled pg_dump may end before the task that cancelled it reports so.
            ended.store(true, Ordering::Relaxed);
            return Err(if matches!(cancelling.await, Ok(true)) { gave_way() } else { error });
        }
        cancelled = &mut cancelling => drop(cancelled?),
    }
    // Its locks are gone only once it has ended.
    dump.await.map_err(|_| gave_way())
}

fn gave_way() -> Error {
    Disturbance::error("pg_dump met a table that is being altered")
}

/// A change that another session made to the source while it was read. The same work may succeed under a new snapshot.
#[derive(Debug)]
struct Disturbance(String);

impl Disturbance {
    fn error(what: impl Into<String>) -> Error {
        Error::unavailable("another session is at work on what is to be read; try again")
            .caused_by(Disturbance(what.into()))
    }
}

impl std::fmt::Display for Disturbance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Disturbance {}

/// Whether the source could not be read because another session was at work on it at that moment.
pub(super) fn was_disturbed(error: &Error) -> bool {
    let cause = std::error::Error::source(error);
    cause.is_some_and(|cause| cause.is::<Disturbance>())
        || ServerFault::sqlstate_of(error) == Some(LOCK_NOT_AVAILABLE)
}

/// pg_dump asks the server for the texts of functions, views and the like, which the server tells as of
/// now and not of the snapshot: after a change of definitions the archive is of no moment at all.
async fn assert_settled(access: &Access<'_>, under_snapshot: &str) -> Result<()> {
    let now = Session::connect_utf8(access.source, "checkpoint").await?;
    if inspect::fingerprint(&now).await? == under_snapshot {
        return Ok(());
    }
    Err(Disturbance::error("definitions were changed on the source while pg_dump read them"))
}

/// Begins an object that another program writes.
async fn draft(store: &Arc<dyn Store>, kind: ObjectKind) -> Result<NewFile> {
    let store = Arc::clone(store);
    ambient::blocking("making a file", move || store.draft(kind)).await
}

/// Puts an object that another program has written into the store; its name is the digest of its content, which is
/// returned.
async fn put_by_digest(store: &Arc<dyn Store>, kind: ObjectKind, file: NewFile) -> Result<String> {
    let store = Arc::clone(store);
    let putting = move || {
        let digest = blake3::hash(&file.read()?).to_hex().to_string();
        store.put_content(&ObjectName::new(kind, &digest), file)?;
        Ok(digest)
    };
    ambient::blocking("naming an archive", putting).await
}
