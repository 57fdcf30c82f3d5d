//! Finds the schema archive of a moment: the checkpoint's archive, or an archive replayed from it up to the moment.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::archive::Archive;
use super::objects::{globals, read_checked};
use super::refused::RefusedObject;
use super::schema::{self, ReplayedSchema, ScratchServer, SourceRoles};
use super::sequences::{MadeSequence, made_by_source};
use crate::ambient;
use crate::connect::Conninfo;
use crate::error::{Context, Error, Kind, Result};
use crate::history::History;
use crate::history::checkpoint::SchemaFacts;
use crate::history::definitions::SchemaKnown;
use crate::history::inventory::missing;
use crate::model::{Inexact, Table};
use crate::past::Past;
use crate::pgtools::Tools;
use crate::progress::Progress;
use crate::store::{LentFile, ObjectKind, ObjectName};

/// The schema at a moment.
pub struct SchemaAt {
    pub archive: PathBuf,
    pub facts: SchemaFacts,
    pub notes: Vec<String>,
    pub inexact: Vec<Inexact>,
    /// Objects of the checkpoint's archive that the replay's server refused.
    pub refused: Vec<RefusedObject>,
    /// How well the schema is known, given which statements since the checkpoint's archive could be replayed.
    pub grade: SchemaKnown,
    /// Tables whose definitions cannot take their rows, and why.
    pub unfit: Vec<Inexact>,
    /// The checkpoint's own archive, if `archive` is another one: it holds the large objects.
    pub base: Option<PathBuf>,
    /// The sequences, by their oids in the archive.
    pub sequences: BTreeMap<u32, MadeSequence>,
    /// These keep the archives' files in place.
    _files: Vec<LentFile>,
}

/// Where a replay may create its scratch database.
pub struct ReplaySettings<'a> {
    /// A server that the user named and trusts; `None` for a short-lived server that backwhen starts for this replay
    /// only.
    pub server: Option<&'a Conninfo>,
    /// How long one replayed statement may run.
    pub limit: Duration,
    /// Whether the first object that the server refuses ends the replay.
    pub strict: bool,
    pub tools: &'a Tools,
    pub progress: &'a dyn Progress,
    /// Cancelled to make a replay end early and drop its database.
    pub interrupt: &'a CancellationToken,
}

/// Finds the archive of the moment, or replays one.
///
/// # Errors
/// `Damaged` if the checkpoint's archive is; `Refused` if there is no server to replay on; otherwise the errors of
/// [`schema::schema_at`].
pub async fn schema_at(past: &Past, replay: &ReplaySettings<'_>) -> Result<SchemaAt> {
    let schema = base_schema(past)?;
    let changes = past.changes_since_archive()?;
    if changes.is_empty() {
        return Ok(schema);
    }
    let base = &past.base().schema;
    let path = schema.archive.clone();
    let roles = SourceRoles::read(globals(past)?.as_deref());
    let server = ScratchServer::find(replay.server.cloned(), replay.tools, &base.database, &roles).await?;
    let said = server.notes();
    let request = schema::ReplayRequest {
        server: server.info(),
        ours: server.is_ours(),
        roles: &roles,
        limit: replay.limit,
        strict: replay.strict,
        tools: replay.tools,
        archive: &path,
        base,
        sequences: &schema.sequences,
        changes: &changes,
        progress: replay.progress,
        interrupt: replay.interrupt,
    };
    // An interrupted replay drops its database itself.
    let replayed = schema::schema_at(&request).await;
    // The recovery need not wait until the server has stopped.
    tokio::spawn(server.stop());
    let replayed = replayed?;
    let ReplayedSchema { archive, facts, mut notes, inexact, refused, grade, unfit, sequences, folder } =
        replayed;
    notes.extend(said);
    notes.extend(unlisted(&roles, &inexact));
    let facts = SchemaFacts { since: Vec::new(), ..facts };
    let base = Some(path);
    let _files = schema._files.into_iter().chain([LentFile::in_scratch(archive.clone(), folder)]).collect();
    Ok(SchemaAt { archive, facts, notes, inexact, refused, grade, unfit, base, sequences, _files })
}

/// Explains why much may be missing, if no list of roles tells which roles were superusers.
fn unlisted(roles: &SourceRoles, inexact: &[Inexact]) -> Option<String> {
    (!roles.are_known() && !inexact.is_empty()).then(|| {
        "the history has no list of the source's roles, so no statement was replayed as a superuser"
            .to_owned()
    })
}

/// Returns the archive of the checkpoint before the moment.
///
/// # Errors
/// `Damaged` if the archive is.
pub fn base_schema(past: &Past) -> Result<SchemaAt> {
    let facts = past.base().schema.clone();
    let archive = checked_archive(past.history(), &facts.archive)?;
    let (notes, inexact) = (Vec::new(), Vec::new());
    let (grade, unfit) = (SchemaKnown::Exactly, Vec::new());
    let sequences = made_by_source(&Archive::open(archive.path())?.toc, &past.base().sequences);
    Ok(SchemaAt {
        archive: archive.path().to_owned(),
        facts,
        notes,
        inexact,
        refused: Vec::new(),
        grade,
        unfit,
        base: None,
        sequences,
        _files: vec![archive],
    })
}

/// Lends an archive, after checking its content against its name. With a key, the archive is copied into a private
/// folder, since anybody who can write to the history could exchange the file before pg_restore reads it.
fn checked_archive(history: &History, digest: &str) -> Result<LentFile> {
    let name = ObjectName::new(ObjectKind::Archive, digest);
    let bytes = read_checked(history, &name)?;
    if !history.authorship().is_checked() {
        return history.store().lend(&name)?.ok_or_else(|| missing(history.store(), &name));
    }
    let folder = ambient::temporary_folder()?;
    let copy = folder.path().join("schema.dump");
    std::fs::write(&copy, bytes)
        .context(Kind::Unavailable, || format!("cannot write {}; is TMPDIR full?", copy.display()))?;
    Ok(LentFile::in_scratch(copy, folder))
}

impl SchemaAt {
    /// Returns how well the schema is known, by the journal's evidence and by the outcome of the replay.
    pub fn known(&self, told: SchemaKnown) -> SchemaKnown {
        if told == SchemaKnown::Exactly { self.grade } else { told }
    }

    /// Checks that the definitions of these tables can take their rows.
    ///
    /// # Errors
    /// `Refused` if a table cannot take its rows; the message says what to type.
    pub fn require_fit(&self, tables: &[Table]) -> Result<()> {
        let wanted = |it: &&Inexact| tables.iter().any(|table| table.display() == it.what);
        let Some(Inexact { what, why }) = self.unfit.iter().find(wanted) else { return Ok(()) };
        let cause = self.inexact.first().map_or(String::new(), |it| format!(" ({})", it.why));
        Err(Error::refused(format!(
            "{what} cannot take its rows: as its definitions are replayed, {why}{cause}; name a server that takes \
             the statement with --scratch CONN, another moment (see: backwhen list schemas), or the other tables \
             with --table"
        )))
    }

    /// Opens the schema archive.
    ///
    /// # Errors
    /// `Damaged` if the file is no archive.
    pub fn open(&self) -> Result<Archive> {
        Archive::open(&self.archive)
    }
}
