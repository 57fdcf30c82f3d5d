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
use crate::model::schema_digests::{DATABASE, SchemaDigests, SchemaProof, name_differences, skips_rights};
use crate::model::{Edge, Inexact, Table};
use crate::past::{Past, SchemaWitness};
use crate::pgtools::Tools;
use crate::progress::Progress;
use crate::signal::DefinitionChange;
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
    /// The digests of the archive's definitions, if they are known.
    pub digests: Option<SchemaDigests>,
    pub proof: SchemaProof,
    /// The position at which the definitions of the checkpoint's archive were read from the source.
    archived_at: Edge,
    /// The archives' files, which stay as long as these values live.
    _files: Vec<LentFile>,
}

/// The server on which a replay may create its scratch database, and the limits of the replay.
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
pub async fn schema_at(past: &Past, settings: &ReplaySettings<'_>) -> Result<SchemaAt> {
    schema_compared(past, settings, past.schema_witness()?).await
}

/// Finds the archive of the moment, or replays one, and compares it with digests of the source.
///
/// # Errors
/// The errors of [`schema_at`].
pub async fn schema_compared(
    past: &Past,
    settings: &ReplaySettings<'_>,
    witness: Option<SchemaWitness>,
) -> Result<SchemaAt> {
    let mut schema = base_schema(past)?;
    let changes = past.changes_since_archive()?;
    let later = witness.as_ref().map_or(&[][..], |witness| &witness.later);
    if changes.is_empty() && later.is_empty() {
        let found = schema.digests.clone();
        schema.prove(past, witness.as_ref(), found.as_ref(), (true, true));
        return Ok(schema);
    }
    let replayed = replay(past, settings, &schema, &changes, later).await;
    if !changes.is_empty() {
        schema.replace(replayed?, past, witness.as_ref());
        return Ok(schema);
    }
    // Only the proof needs the replay.
    match replayed {
        Ok(ReplayedSchema { digests, rights, .. }) => {
            schema.prove(past, witness.as_ref(), digests.as_ref().map(|(_, later)| later), rights);
        }
        Err(error) if error.kind() == Kind::Interrupted => return Err(error),
        Err(error) => schema.notes.push(format!("the definitions are not proved: {error}")),
    }
    Ok(schema)
}

async fn replay(
    past: &Past,
    settings: &ReplaySettings<'_>,
    schema: &SchemaAt,
    changes: &[DefinitionChange],
    later: &[DefinitionChange],
) -> Result<ReplayedSchema> {
    let base = &past.base().schema;
    let roles = SourceRoles::read(globals(past)?.as_deref());
    let server =
        ScratchServer::find(settings.server.cloned(), settings.tools, &base.database, &roles).await?;
    let said = server.notes();
    let request = schema::ReplayRequest {
        server: server.info(),
        ours: server.is_ours(),
        roles: &roles,
        limit: settings.limit,
        strict: settings.strict,
        tools: settings.tools,
        archive: &schema.archive,
        base,
        sequences: &schema.sequences,
        changes,
        later,
        progress: settings.progress,
        interrupt: settings.interrupt,
    };
    // An interrupted replay drops its database itself.
    let replayed = schema::schema_at(&request).await;
    // The recovery need not wait until the server has stopped.
    tokio::spawn(server.stop());
    let mut replayed = replayed?;
    replayed.notes.extend(said);
    replayed.notes.extend(unlisted(&roles, &replayed.inexact));
    Ok(replayed)
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
    let archived_at = Edge { lsn: facts.lsn, time: facts.time };
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
        digests: past.base().schema.digests.clone(),
        proof: SchemaProof::Unproved { since: archived_at },
        archived_at,
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
    /// Replaces the checkpoint's schema by the replayed one.
    fn replace(&mut self, by: ReplayedSchema, past: &Past, witness: Option<&SchemaWitness>) {
        self._files.push(LentFile::in_scratch(by.archive.clone(), by.folder));
        self.base = Some(std::mem::replace(&mut self.archive, by.archive));
        self.facts = SchemaFacts { since: Vec::new(), ..by.facts };
        (self.notes, self.inexact, self.refused) = (by.notes, by.inexact, by.refused);
        (self.grade, self.unfit, self.sequences) = (by.grade, by.unfit, by.sequences);
        self.prove(past, witness, by.digests.as_ref().map(|(_, later)| later), by.rights);
        self.digests = by.digests.map(|(now, _)| now);
    }

    /// Compares the definitions, followed up to the position of the witness, with the source's own; what is not the same
    /// is named. `rights`: whether owners and privileges were followed.
    fn prove(
        &mut self,
        past: &Past,
        witness: Option<&SchemaWitness>,
        found: Option<&SchemaDigests>,
        rights: (bool, bool),
    ) {
        let (Some(witness), Some(found)) = (witness, found) else { return };
        let archived = past.base().schema.digests.as_ref();
        let mut found = found.clone();
        // No event trigger tells of the database's own properties; they are recovered as the archive has them.
        let database = archived.and_then(|archived| archived.objects.get(DATABASE));
        found.objects.extend(database.map(|parts| (DATABASE.to_owned(), parts.clone())));
        let skips = |object: &str, part: &str| skips_rights(object, part, rights);
        let differences = witness.digests.differences(&found, archived, skips);
        let at = witness.at;
        self.proof = match differences.len() {
            0 => SchemaProof::Proved { at },
            objects => SchemaProof::Differs { at, objects },
        };
        let source = format!("the source at {} ({})", at.lsn, at.time);
        name_differences(&differences, &source, &mut self.inexact);
    }

    /// Returns how well the schema is known, by the journal's evidence and by the outcome of the replay.
    pub fn known(&self, told: SchemaKnown) -> SchemaKnown {
        match (told, self.grade, self.proof) {
            // Something changed that nothing told of.
            (SchemaKnown::Exactly, SchemaKnown::Exactly, SchemaProof::Differs { at, .. }) => {
                SchemaKnown::Within { from: self.archived_at, to: Some(at) }
            }
            (SchemaKnown::Exactly, grade, _) => grade,
            (told, ..) => told,
        }
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
