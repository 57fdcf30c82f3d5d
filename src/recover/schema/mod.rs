//! Rebuilds the schema of a moment: a checkpoint's archive is restored without rows into a scratch database, the
//! statements since the checkpoint are replayed there, and the result is dumped.

mod attempt;
mod choose;
mod context;
mod failure;
mod mend;
mod order;
mod replay;
mod rewrite;
mod roles;
mod scratch;
mod sequences;
mod server;
mod sessions;
mod statements;
mod tables;

pub use statements::{Sql, split};

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::archive::{Archive, ColumnOrders, EntrySelection, Roles};
use super::refused::RefusedObject;
use super::sequences::MadeSequence;
use super::sink::{ArchiveDefinitions, usable_roles};
use crate::ambient;
use crate::connect::{Conninfo, Session, server_error};
use crate::error::{Context, Error, Kind, Result};
use crate::history::checkpoint::SchemaFacts;
use crate::history::definitions::SchemaKnown;
use crate::model::Inexact;
use crate::model::schema::quote_ident;
use crate::model::schema_digests::SchemaDigests;
use crate::pgtools::{self, Tools};
use crate::progress::{Progress, Unit};
use crate::signal::DefinitionChange;
pub use choose::headlines;
use order::Order;
use replay::{Replay, Rights};
pub use roles::SourceRoles;
pub(in crate::recover) use roles::missing;
use scratch::MARKER;
pub(in crate::recover) use scratch::ScratchDatabase;
use sequences::Sequences;
pub use server::ScratchServer;
pub(in crate::recover) use server::programs_for;
use tables::orders_of_inherited;

/// The statements to replay, and the server to replay them on.
pub struct ReplayRequest<'a> {
    /// The connection to a server for the scratch database; any database of the server will do.
    pub server: &'a Conninfo,
    /// Whether that server exists only for this replay: the source's roles are then created on it, and log in.
    pub ours: bool,
    pub roles: &'a SourceRoles,
    /// The time limit for one statement.
    pub limit: Duration,
    /// Whether the first object that the server refuses ends the replay.
    pub strict: bool,
    pub tools: &'a Tools,
    /// The archive that pg_dump wrote at `base`.
    pub archive: &'a Path,
    pub base: &'a SchemaFacts,
    /// The sequences of the archive, by their oids.
    pub sequences: &'a BTreeMap<u32, MadeSequence>,
    /// The order of the columns of the archive's tables.
    pub orders: &'a ColumnOrders,
    /// The statements since the base, in commit order.
    pub changes: &'a [DefinitionChange],
    /// The statements after these, up to the position at which the source's own digests are compared with the replay's.
    pub later: &'a [DefinitionChange],
    /// How many of the changes the source's last digests before the moment show; `None` if there are no such digests.
    pub shown: Option<usize>,
    pub progress: &'a dyn Progress,
    /// Cancelled to have the replay end early and drop the scratch database.
    pub interrupt: &'a CancellationToken,
}

/// The schema after the last of the changes.
#[derive(Debug)]
pub struct ReplayedSchema {
    /// The archive that pg_dump wrote, without rows and without large objects, which are in the base's archive.
    pub archive: PathBuf,
    /// The base's facts with the changes of the statements. `left_out` and `large_objects` are the base's; there is
    /// no fingerprint.
    pub facts: SchemaFacts,
    pub notes: Vec<String>,
    pub inexact: Vec<Inexact>,
    /// Objects of the base's archive that the server refused.
    pub refused: Vec<RefusedObject>,
    /// Statements that were not replayed, with the objects that each concerns; they are in `inexact` too.
    pub left_out: Vec<RefusedObject>,
    /// Whether all changes were replayed.
    pub grade: SchemaKnown,
    /// The tables that cannot hold their rows, and the reasons.
    pub unfit: Vec<Inexact>,
    /// The sequences of the schema, by their oids in the archive.
    pub sequences: BTreeMap<u32, MadeSequence>,
    /// The order of the columns of tables that inherit, and of their parents.
    pub orders: ColumnOrders,
    /// The digests of this schema, and of the schema after the later statements.
    pub digests: Option<(SchemaDigests, SchemaDigests)>,
    /// The digests of the schema after the first of the changes, as many as the source's last digests show.
    pub earlier: Option<SchemaDigests>,
    /// Whether the owners and the privileges are those that the archive and the statements tell.
    pub rights: (bool, bool),
    /// The temporary folder that holds the archive.
    pub(super) folder: TempDir,
}

/// Replays the changes over the base.
///
/// The replay handles Ctrl-C by itself. A caller that drops the future early leaves a database behind, which the next
/// replay on that server drops.
///
/// # Errors
/// Fails with `Refused` if the server is not suitable, with `Unavailable` if it fails, and with `Interrupted` after
/// Ctrl-C. A statement that the server refuses is left out, and named. After an error the scratch database is gone
/// too, or the error names it.
pub async fn schema_at(request: &ReplayRequest<'_>) -> Result<ReplayedSchema> {
    let statements = request.changes.len() + request.later.len();
    request.progress.phase("replaying definitions", statements as u64, Unit::Statements);
    let scratch =
        ScratchDatabase::create(request.server, request.ours, request.strict, &request.base.database).await?;
    let replayed = tokio::select! {
        replayed = in_scratch(request, &scratch) => replayed,
        () = request.interrupt.cancelled() => Err(Error::interrupted()),
        () = scratch.end_what_hangs(request.limit) => Err(Error::internal("looking for what hangs ended")),
    };
    // A server of our own is removed as a whole.
    let dropped = if request.ours { Ok(()) } else { scratch.drop().await };
    match (replayed, dropped) {
        (Ok(replayed), dropped) => dropped.map(|()| replayed),
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(left)) => Err(Error::new(error.kind(), format!("{error}; moreover, {left}"))),
    }
}

/// How a server to replay on gets roles that it lacks. Backwhen makes them on a server of its own.
const GET_ROLES: &str = "make the role on the server of --scratch, or leave --scratch away";

async fn in_scratch(request: &ReplayRequest<'_>, scratch: &ScratchDatabase) -> Result<ReplayedSchema> {
    let acting = request.changes.iter().map(|change| change.signal.statement.role.as_str());
    let restored = RestoredArchive {
        archive: request.archive,
        ours: request.ours,
        roles: request.roles,
        further_roles: request.base.roles.iter().map(String::as_str).chain(acting).collect(),
        orders: request.orders,
        tools: request.tools,
    };
    let (definitions, mut notes) = restored.restore_into(scratch).await?;
    let (owners, privileges) = definitions.owners_and_privileges();
    let rights = Rights { ours: request.ours, owners, privileges, limit: request.limit };
    let mut replay = Replay::open(&scratch.info, rights, request.roles).await?;
    replay.filled = filled_at_base(&replay.observer, request.base).await?;
    replay.sequences = Sequences::restored(&replay.observer, request.sequences.values()).await?;
    let silenced = silence_event_triggers(&replay.observer).await?;
    let (shown, others) = request.changes.split_at(request.shown.unwrap_or_default());
    replay_all(request, &mut replay, shown).await?;
    let earlier = if request.shown.is_some() { digests_now(scratch).await.ok() } else { None };
    replay_all(request, &mut replay, others).await?;
    // No role has a session when the database gets its properties and is dumped.
    let unfit = replay.mend().await?;
    notes.extend(enable_event_triggers(&replay.observer, silenced).await);
    notes.append(&mut replay.notes);
    notes.extend(scratch.take_properties(&definitions).await);
    let replayed = finish(request, scratch, replay, notes, unfit).await?;
    Ok(ReplayedSchema { earlier, ..replayed })
}

async fn digests_now(scratch: &ScratchDatabase) -> Result<SchemaDigests> {
    let session = Session::connect_utf8(&scratch.info, "replay").await?;
    pgtools::schema_digests(&session).await
}

async fn replay_all(
    request: &ReplayRequest<'_>,
    replay: &mut Replay<'_>,
    changes: &[DefinitionChange],
) -> Result<()> {
    let mut order = Order::of(changes);
    while let Some(change) = order.next() {
        match replay.step(change).await {
            Err(error) if error.kind() == Kind::Refused && order.put_off(change) => continue,
            Err(error) if error.kind() == Kind::Refused => replay.go_on_without(change, error).await?,
            done => done?,
        }
        request.progress.advance(1);
    }
    Ok(())
}

/// Digests the schema as it is, and as it is after the later statements. Names what these dropped that was not there.
async fn digests(
    request: &ReplayRequest<'_>,
    scratch: &ScratchDatabase,
    mut replay: Replay<'_>,
) -> Result<(SchemaDigests, SchemaDigests, Vec<Inexact>)> {
    let session = Session::connect_utf8(&scratch.info, "replay").await?;
    let now = pgtools::schema_digests(&session).await?;
    if request.later.is_empty() {
        return Ok((now.clone(), now, Vec::new()));
    }
    scratch.open_to_roles().await?;
    let silenced = silence_event_triggers(&session).await?;
    replay.unknown_until_dropped.clear();
    replay_all(request, &mut replay, request.later).await?;
    enable_event_triggers(&session, silenced).await;
    let later = pgtools::schema_digests(&session).await?;
    Ok((now, later, replay.unknown_until_dropped))
}

/// Dumps the contents of the scratch database.
async fn finish(
    request: &ReplayRequest<'_>,
    scratch: &ScratchDatabase,
    mut replay: Replay<'_>,
    mut notes: Vec<String>,
    unfit: Vec<Inexact>,
) -> Result<ReplayedSchema> {
    let folder = ambient::temporary_folder()?;
    let archive = folder.path().join("schema.dump");
    let views = pgtools::materialized_views(&replay.observer).await?;
    let filled = views.into_iter().filter(|view| replay.filled.contains(&view.oid));
    let materialized_views = filled.map(|view| (view.schema, view.name)).collect();
    let roles = pgtools::roles_used(&replay.observer).await?;
    let sequences = replay.sequences.made(&replay.observer).await?;
    let orders = orders_of_inherited(&replay.observer).await?;
    let (mut inexact, grade) = (replay.inexact(), replay.grade());
    let left_out = std::mem::take(&mut replay.left_out);
    let mut refused = scratch.refused.take();
    refused.retain(|object| !is_dropped_later(object, request.changes));
    notes.extend(installation_hint(&refused));
    let tool = request.tools.for_dump(scratch.server_major)?;
    pgtools::dump_definitions(tool, &scratch.info, MARKER, &archive).await?;
    let bytes = std::fs::read(&archive)
        .context(Kind::Unavailable, || format!("cannot read {}", archive.display()))?;
    let last = request.changes.last();
    let facts = SchemaFacts {
        lsn: last.map_or(request.base.lsn, |change| change.end_lsn),
        time: last.map_or(request.base.time, |change| change.time),
        archive: blake3::hash(&bytes).to_hex().to_string(),
        pg_dump_major: tool.major,
        roles,
        materialized_views,
        fingerprint: String::new(),
        digests: None,
        ..request.base.clone()
    };
    let rights = (replay.rights.owners, replay.rights.privileges);
    // A failure here concerns the proof only, not the recovery.
    let digests = digests(request, scratch, replay).await;
    notes.extend(
        digests.as_ref().err().map(|error| format!("the replayed definitions were not compared: {error}")),
    );
    let digests = digests.ok().map(|(now, later, dropped)| {
        inexact.extend(dropped);
        (now, later)
    });
    Ok(ReplayedSchema {
        archive,
        facts,
        notes,
        inexact,
        refused,
        left_out,
        grade,
        unfit,
        sequences,
        orders,
        digests,
        earlier: None,
        rights,
        folder,
    })
}

/// Whether a statement of the source dropped an object that the server could not make.
fn is_dropped_later(object: &RefusedObject, changes: &[DefinitionChange]) -> bool {
    let name = object.what.rsplit(['.', ' ']).next().unwrap_or_default();
    changes.iter().any(|change| change.signal.dropped_names.iter().any(|dropped| dropped == name))
}

/// Says what to do if the server lacks files of an extension.
fn installation_hint(refused: &[RefusedObject]) -> Option<String> {
    let lacks = |sql: &str| ["CREATE EXTENSION", "LANGUAGE c"].iter().any(|it| sql.contains(it));
    let lost = refused.iter().find(|it| lacks(&it.sql))?;
    Some(format!(
        "{} could not be made where definitions are replayed ({}), so statements since that concern it were not replayed; \
         what it needs must be installed on this machine too, or on a server that you trust, named with --scratch CONN",
        lost.what, lost.why
    ))
}

/// Returns an archive's definitions as SQL, without backwhen's own.
///
/// # Errors
/// Fails with `Damaged` if the file is not an archive, and with `Unavailable` and pg_restore's own words.
pub async fn sql_of(archive: &Path, tools: &Tools) -> Result<String> {
    let archive = Archive::open(archive)?;
    let selection = EntrySelection::whole(&archive.toc);
    let tool = tools.for_restore(archive.toc.dump_major, archive.toc.server_major)?;
    let folder = ambient::temporary_folder()?;
    let list = folder.path().join("entries.list");
    selection.write_list(&archive.toc, &list)?;
    let mut sql = Vec::new();
    pgtools::Child::new(tool.program("pg_restore"))
        .args(["--schema-only", "--file=-", "--use-list"])
        .args([&list, &archive.path])
        .run_into(&mut sql)
        .await?;
    Ok(String::from_utf8_lossy(&sql).into_owned())
}

/// The definitions of an archive, to be restored into a scratch database.
pub(in crate::recover) struct RestoredArchive<'a> {
    pub archive: &'a Path,
    /// Whether the server is our own: every role that the history lists or that is needed is then created on it.
    pub ours: bool,
    pub roles: &'a SourceRoles,
    /// Roles that are needed beside those of the history's list and of the archive.
    pub further_roles: BTreeSet<&'a str>,
    pub orders: &'a ColumnOrders,
    pub tools: &'a Tools,
}

impl RestoredArchive<'_> {
    /// Restores all definitions, without rows. Returns them, and notes for a person.
    ///
    /// # Errors
    /// Fails with `Refused` and pg_restore's own words, and with `Damaged` if the file is not an archive.
    pub async fn restore_into(&self, scratch: &ScratchDatabase) -> Result<(ArchiveDefinitions, Vec<String>)> {
        let archive = Archive::open(self.archive)?;
        let selection = EntrySelection::whole(&archive.toc);
        let named = Roles::of(&archive.toc, &selection);
        let mut definitions = ArchiveDefinitions::new(archive, selection)?.as_on_source(self.orders);
        let session = Session::connect_utf8(&scratch.info, "replay").await?;
        if self.ours {
            let names = named.all().into_iter().chain(self.further_roles.iter().copied());
            self.roles.create(&session, names.chain(definitions.database_owner()).collect()).await?;
            self.roles.create_tablespaces(&session).await?;
            scratch.belong_to_source(&definitions).await?;
        }
        let usable = usable_roles(&session).await?;
        let without_roles = definitions.adapt_to_roles(|name| usable.contains(name), GET_ROLES);
        let notes = without_roles.iter().map(RefusedObject::note).collect();
        // These definitions are recovered on another server, which may have the roles.
        definitions.give_up_rights();
        if self.ours {
            scratch.restore_muted(&definitions, self.tools).await?;
        } else {
            scratch.restore(&definitions, self.tools).await?;
        }
        Ok((definitions, notes))
    }
}

/// Disables the event triggers that also fire in a replica; returns the statements that enable them again. No event
/// trigger tells of such statements, so no statement of the source can come in between.
pub(in crate::recover) async fn silence_event_triggers(session: &Session) -> Result<Vec<String>> {
    let failed = |error| server_error("cannot disable the application's event triggers", error);
    let sql = "SELECT evtname::text, CASE evtenabled WHEN 'A' THEN 'ALWAYS' ELSE 'REPLICA' END \
               FROM pg_catalog.pg_event_trigger WHERE evtenabled IN ('A', 'R')";
    let mut again = Vec::new();
    for row in session.query(sql, &[]).await.map_err(failed)? {
        let (name, when) = (quote_ident(row.get(0)), row.get::<_, String>(1));
        session.batch_execute(&format!("ALTER EVENT TRIGGER {name} DISABLE")).await.map_err(failed)?;
        again.push(format!("ALTER EVENT TRIGGER {name} ENABLE {when}"));
    }
    Ok(again)
}

/// Runs the statements that enable event triggers again; returns why one could not be enabled.
async fn enable_event_triggers(session: &Session, silenced: Vec<String>) -> Vec<String> {
    let mut notes = Vec::new();
    for statement in silenced {
        // An event trigger whose function was dropped is gone as well.
        if let Err(error) = session.batch_execute(&statement).await {
            notes.push(server_error("an event trigger is not enabled as it was", error).to_string());
        }
    }
    notes
}

/// Returns the materialised views that held rows at the base.
async fn filled_at_base(observer: &Session, base: &SchemaFacts) -> Result<BTreeSet<u32>> {
    let views = pgtools::materialized_views(observer).await?;
    let held = views.into_iter().filter(|view| {
        base.materialized_views.iter().any(|(schema, name)| (schema, name) == (&view.schema, &view.name))
    });
    Ok(held.map(|view| view.oid).collect())
}
