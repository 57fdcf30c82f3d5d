//! Finds the schema archive of a moment: the checkpoint's archive, or an archive replayed from it up to the moment.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::archive::{Archive, ColumnOrders, column_orders};
use super::objects::{globals, read_checked};
use super::refused::RefusedObject;
use super::schema::{self, ReplayedSchema, ScratchServer, SourceRoles};
use super::sequences::{MadeSequence, made_by_source};
use crate::ambient;
use crate::connect::Conninfo;
use crate::error::{Context, Error, Kind, Result};
use crate::history::History;
use crate::history::checkpoint::{Checkpoint, SchemaFacts};
use crate::history::definitions::SchemaKnown;
use crate::history::inventory::missing;
use crate::model::schema_digests::{
    DATABASE, SchemaDifference, SchemaDigests, SchemaProof, name_differences, skips_rights,
};
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
    /// Statements since then that were not replayed; they are in `inexact` too.
    pub left_out: Vec<RefusedObject>,
    /// How well the schema is known, given which statements since the checkpoint's archive could be replayed.
    pub grade: SchemaKnown,
    /// Tables whose definitions cannot take their rows, and why.
    pub unfit: Vec<Inexact>,
    /// The checkpoint's own archive, if `archive` is another one: it holds the large objects.
    pub base: Option<PathBuf>,
    /// The sequences, by their oids in the archive.
    pub sequences: BTreeMap<u32, MadeSequence>,
    /// The order of the columns of the archive's tables.
    pub orders: ColumnOrders,
    /// The digests of the archive's definitions, if they are known.
    pub digests: Option<SchemaDigests>,
    pub proof: SchemaProof,
    /// The objects that, as they were followed, are not what the source had.
    differences: Vec<SchemaDifference>,
    /// The objects that the source had otherwise before the moment, without having been told and without being seen later.
    passing: Vec<Inexact>,
    /// Whether the source was seen to have these definitions before the moment and after it.
    is_certain: bool,
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
    let witness = past.schema_witness()?;
    let compared = schema_compared(past, settings, witness.clone()).await;
    let is_final = match &compared {
        Ok(schema) => schema.is_as_told() || schema.differences.iter().any(SchemaDifference::is_of_values),
        Err(error) => settings.strict || error.kind() == Kind::Interrupted,
    };
    let Some(later) = (if is_final { None } else { past.later_archive()? }) else { return compared };
    let followed = compared.or_else(|_| base_schema(past))?;
    followed.taken_from(past, &later, witness.as_ref())
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
        schema.look_back(past, witness.as_ref(), found.as_ref(), (true, true))?;
        return Ok(schema);
    }
    let shown = witness.as_ref().and_then(|witness| witness.earlier.as_ref()).map(|earlier| earlier.shown);
    let replayed = replay(past, settings, &schema, (&changes, later, shown)).await;
    if !changes.is_empty() {
        schema.replace(replayed?, past, witness.as_ref())?;
        return Ok(schema);
    }
    // Only the proof needs the replay.
    match replayed {
        Ok(ReplayedSchema { digests, earlier, rights, inexact, .. }) => {
            schema.inexact = inexact;
            schema.prove(past, witness.as_ref(), digests.as_ref().map(|(_, later)| later), rights);
            schema.look_back(past, witness.as_ref(), earlier.as_ref(), rights)?;
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
    (changes, later, shown): (&[DefinitionChange], &[DefinitionChange], Option<usize>),
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
        orders: &schema.orders,
        changes,
        later,
        shown,
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
    archived(past.history(), past.base())
}

/// Returns the archive of a checkpoint.
fn archived(history: &History, checkpoint: &Checkpoint) -> Result<SchemaAt> {
    let facts = checkpoint.schema.clone();
    let archive = checked_archive(history, &facts.archive)?;
    let (notes, inexact) = (Vec::new(), Vec::new());
    let archived_at = Edge { lsn: facts.lsn, time: facts.time };
    let (grade, unfit) = (SchemaKnown::Exactly, Vec::new());
    let sequences = made_by_source(&Archive::open(archive.path())?.toc, &checkpoint.sequences);
    Ok(SchemaAt {
        archive: archive.path().to_owned(),
        facts,
        notes,
        inexact,
        refused: Vec::new(),
        left_out: Vec::new(),
        grade,
        unfit,
        base: None,
        sequences,
        orders: column_orders(checkpoint.tables.iter().map(|entry| &entry.table)),
        digests: checkpoint.schema.digests.clone(),
        differences: Vec::new(),
        passing: Vec::new(),
        is_certain: false,
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

/// Lists the objects in which the definitions, followed up to a position, are not what the source had there.
fn differences(
    past: &Past,
    source: &SchemaDigests,
    found: &SchemaDigests,
    rights: (bool, bool),
) -> Vec<SchemaDifference> {
    let archived = past.base().schema.digests.as_ref();
    let mut found = found.clone();
    // No event trigger tells of the database's own properties; they are recovered as the archive has them.
    let database = archived.and_then(|archived| archived.objects.get(DATABASE));
    found.objects.extend(database.map(|parts| (DATABASE.to_owned(), parts.clone())));
    source.differences(&found, archived, |object, part| skips_rights(object, part, rights))
}

impl SchemaAt {
    /// Replaces the checkpoint's schema by the replayed one.
    fn replace(&mut self, by: ReplayedSchema, past: &Past, witness: Option<&SchemaWitness>) -> Result<()> {
        self._files.push(LentFile::in_scratch(by.archive.clone(), by.folder));
        self.base = Some(std::mem::replace(&mut self.archive, by.archive));
        self.facts = SchemaFacts { since: Vec::new(), ..by.facts };
        (self.notes, self.inexact) = (by.notes, by.inexact);
        (self.refused, self.left_out) = (by.refused, by.left_out);
        (self.grade, self.unfit, self.sequences, self.orders) = (by.grade, by.unfit, by.sequences, by.orders);
        self.prove(past, witness, by.digests.as_ref().map(|(_, later)| later), by.rights);
        self.look_back(past, witness, by.earlier.as_ref(), by.rights)?;
        self.digests = by.digests.map(|(now, _)| now);
        Ok(())
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
        let differences = differences(past, &witness.digests, found, rights);
        let at = witness.at;
        self.proof = match differences.len() {
            0 => SchemaProof::Proved { at },
            objects => SchemaProof::Differs { at, objects },
        };
        let source = format!("the source at {} ({})", at.lsn, at.time);
        name_differences(&differences, &source, &mut self.inexact);
        self.differences = differences;
    }

    /// Names what the source had otherwise at its last digests before the moment, if no statement up to the moment and no
    /// later digests tell of it: something changed it before these digests, and something changed it back after them. It
    /// is not known whether the second change came before the moment. `found`: the definitions, followed up to there.
    fn look_back(
        &mut self,
        past: &Past,
        witness: Option<&SchemaWitness>,
        found: Option<&SchemaDigests>,
        rights: (bool, bool),
    ) -> Result<()> {
        let earlier = witness.and_then(|witness| witness.earlier.as_ref());
        let (Some(earlier), Some(found)) = (earlier, found) else { return Ok(()) };
        let told = past.changes_since_archive()?;
        let mut passing = differences(past, &earlier.digests, found, rights);
        passing.retain(|it| {
            let is_told = told[earlier.shown..].iter().any(|change| change.signal.accounts_for(&it.object));
            !is_told && !self.differences.contains(it)
        });
        let source = format!("the source at {} ({})", earlier.at.lsn, earlier.at.time);
        name_differences(&passing, &source, &mut self.inexact);
        name_differences(&passing, &source, &mut self.passing);
        Ok(())
    }

    /// Whether all definitions are there, and can take their rows.
    pub fn is_whole(&self) -> bool {
        self.unfit.is_empty() && self.refused.is_empty() && self.left_out.is_empty()
    }

    /// Whether nothing contradicts that the definitions are those that the history tells.
    fn is_as_told(&self) -> bool {
        let is_whole = self.differences.is_empty() && self.unfit.is_empty() && self.refused.is_empty();
        is_whole && matches!(self.grade, SchemaKnown::Exactly)
    }

    /// Returns the definitions of a later checkpoint's archive instead of these. Nothing was told to change them between
    /// the moment and that archive. A difference that no statement accounts for may have come about only after the
    /// moment, so it is named.
    fn taken_from(
        self,
        past: &Past,
        later: &Checkpoint,
        witness: Option<&SchemaWitness>,
    ) -> Result<SchemaAt> {
        let told = past.changes_since_archive()?;
        let mut taken = archived(past.history(), later)?;
        let (from, archived) = (self.archived_at, taken.archived_at);
        let to = witness.map_or(archived, |witness| witness.at);
        let is_certain = witness.is_some_and(|witness| witness.is_of_moment);
        let is_untold = |it: &&SchemaDifference| {
            let is_told = told.iter().any(|change| change.signal.accounts_for(&it.object));
            !is_told && (!is_certain || it.lacks_rows())
        };
        let untold = self.differences.iter().filter(is_untold).map(|it| it.untold(from, to));
        taken.inexact = told
            .iter()
            .filter_map(|change| change.signal.untold(change.lsn))
            .chain(untold)
            .chain(self.passing)
            .collect();
        if self.differences.iter().any(|it| is_untold(&it)) {
            taken.grade = SchemaKnown::Within { from, to: Some(to) };
        }
        if taken.digests.is_some() {
            taken.proof = SchemaProof::Proved { at: archived };
        }
        taken.is_certain = is_certain;
        taken.archived_at = from;
        taken.notes.push(format!(
            "the definitions are those of checkpoint {}: nothing was told to change them since the moment, and what was \
             told before does not lead to them",
            later.id
        ));
        Ok(taken)
    }

    /// Returns how well the schema is known, by the journal's evidence and by the outcome of the replay.
    pub fn known(&self, told: SchemaKnown) -> SchemaKnown {
        if self.is_certain {
            return SchemaKnown::Exactly;
        }
        match (told, self.grade, self.proof) {
            // Something changed that nothing told of.
            (SchemaKnown::Exactly, SchemaKnown::Exactly, SchemaProof::Differs { at, .. }) => {
                SchemaKnown::Within { from: self.archived_at, to: Some(at) }
            }
            (SchemaKnown::Exactly, grade, _) => grade,
            (told, ..) => told,
        }
    }

    /// Checks that all statements were replayed.
    ///
    /// # Errors
    /// `Refused` if a statement was left out; the message says what to type.
    pub fn require_all(&self) -> Result<()> {
        let Some(RefusedObject { what, why, .. }) = self.left_out.first() else { return Ok(()) };
        Err(Error::refused(format!(
            "{what}: {why}; name a server that takes the statement with --scratch CONN, or have all else recovered by \
             leaving --strict away"
        )))
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
