//! The schema archive of a moment: the checkpoint's, or one replayed up to the moment.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::archive::Archive;
use super::objects::{globals, read_checked};
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

/// The definitions at a moment.
pub struct SchemaAt {
    pub archive: PathBuf,
    pub facts: SchemaFacts,
    pub notes: Vec<String>,
    pub inexact: Vec<Inexact>,
    /// Whether all statements since the checkpoint's archive were replayed.
    pub grade: SchemaKnown,
    /// Tables that cannot take their rows, and why.
    pub unfit: Vec<Inexact>,
    /// The archive of the checkpoint, if that is another one: it holds the large objects.
    pub base: Option<PathBuf>,
    /// The sequences, by their oids in the archive.
    pub sequences: BTreeMap<u32, MadeSequence>,
    /// Hold the archives.
    _files: Vec<LentFile>,
}

/// Where a replay may make its scratch database.
pub struct Scratch<'a> {
    /// One that somebody named and trusts; `None` for a server of our own, for that alone.
    pub server: Option<&'a Conninfo>,
    /// How long one statement may take.
    pub limit: Duration,
    pub tools: &'a Tools,
    pub progress: &'a dyn Progress,
    /// Cancelled to have a replay end early and take its database away.
    pub interrupt: &'a CancellationToken,
}

/// Finds the archive, or makes it.
///
/// # Errors
/// `Damaged` if the checkpoint's archive is; `Refused` if there is no server to replay on; otherwise as
/// [`schema::schema_at`].
pub async fn schema_at(past: &Past, scratch: &Scratch<'_>) -> Result<SchemaAt> {
    let schema = base_schema(past)?;
    let changes = past.changes_since_archive()?;
    if changes.is_empty() {
        return Ok(schema);
    }
    let base = &past.base().schema;
    let path = schema.archive.clone();
    let roles = SourceRoles::read(globals(past)?.as_deref());
    let server = ScratchServer::find(scratch.server.cloned(), scratch.tools, &base.database, &roles).await?;
    let said = server.notes();
    let request = schema::Request {
        server: server.info(),
        ours: server.is_ours(),
        roles: &roles,
        limit: scratch.limit,
        tools: scratch.tools,
        archive: &path,
        base,
        sequences: &schema.sequences,
        changes: &changes,
        progress: scratch.progress,
        interrupt: scratch.interrupt,
    };
    // An interrupted replay takes its database away itself.
    let replayed = schema::schema_at(&request).await;
    // The recovery need not wait for its end.
    tokio::spawn(server.stop());
    let replayed = replayed?;
    let ReplayedSchema { archive, facts, mut notes, inexact, grade, unfit, sequences, folder } = replayed;
    notes.extend(said);
    notes.extend(unlisted(&roles, &inexact));
    let facts = SchemaFacts { since: Vec::new(), ..facts };
    let base = Some(path);
    let _files = schema._files.into_iter().chain([LentFile::in_scratch(archive.clone(), folder)]).collect();
    Ok(SchemaAt { archive, facts, notes, inexact, grade, unfit, base, sequences, _files })
}

/// Why much may be missing, where no list of roles tells who was a superuser.
fn unlisted(roles: &SourceRoles, inexact: &[Inexact]) -> Option<String> {
    (!roles.are_known() && !inexact.is_empty()).then(|| {
        "the history has no list of the source's roles, so no statement was replayed as a superuser"
            .to_owned()
    })
}

/// The archive of the checkpoint before the moment.
///
/// # Errors
/// `Damaged` if it is.
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
        grade,
        unfit,
        base: None,
        sequences,
        _files: vec![archive],
    })
}

/// Lends an archive, once its bytes agree with its name. With a key, the archive is copied into a folder of our own,
/// since whoever can write to the history could exchange the file before pg_restore reads it.
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
    /// How well the definitions are known and replayed.
    pub fn known(&self, told: SchemaKnown) -> SchemaKnown {
        if told == SchemaKnown::Exactly { self.grade } else { told }
    }

    /// All tables can take their rows.
    ///
    /// # Errors
    /// `Refused`, with what to type, if one cannot.
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

    /// # Errors
    /// `Damaged` if it is no archive.
    pub fn open(&self) -> Result<Archive> {
        Archive::open(&self.archive)
    }
}
