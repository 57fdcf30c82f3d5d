//! The schema archive of a moment: the checkpoint's, or one replayed up to the moment.

use std::path::{Path, PathBuf};

use super::archive::Archive;
use super::plan::Plan;
use super::schema::{self, ReplayedSchema};
use crate::connect::Conninfo;
use crate::error::{Context, Error, Kind, Result};
use crate::history::History;
use crate::history::checkpoint::{Inexact, SchemaFacts};
use crate::pgtools::Tools;
use crate::progress::Progress;

/// The definitions at a plan's moment.
pub struct SchemaAt {
    pub archive: PathBuf,
    pub facts: SchemaFacts,
    pub notes: Vec<String>,
    pub inexact: Vec<Inexact>,
    /// The archive of the checkpoint, if that is another one: it holds the large objects.
    pub base: Option<PathBuf>,
    /// Holds the archive.
    _replayed: Option<ReplayedSchema>,
}

/// Where a replay may make its scratch database.
pub struct Scratch<'a> {
    pub server: Option<&'a Conninfo>,
    pub tools: &'a Tools,
    pub progress: &'a dyn Progress,
}

/// Finds the archive, or makes it.
///
/// # Errors
/// `Damaged` if the checkpoint's archive is; `Refused` if there is no server to replay on; otherwise as
/// [`schema::schema_at`].
pub async fn schema_at(plan: &Plan, history: &History, scratch: &Scratch<'_>) -> Result<SchemaAt> {
    let base = &plan.base.schema;
    let path = history.schemas_folder().join(format!("{}.dump", base.archive));
    check_digest(&path, &base.archive)?;
    if plan.changes.is_empty() {
        return Ok(SchemaAt {
            archive: path,
            facts: base.clone(),
            notes: Vec::new(),
            inexact: Vec::new(),
            base: None,
            _replayed: None,
        });
    }
    let Some(server) = scratch.server else {
        return Err(Error::refused(format!(
            "{} statements changed definitions between checkpoint {} and this moment, and are replayed in a scratch \
             database: name a server of PostgreSQL {} or newer that may hold one, with --scratch CONN",
            plan.changes.len(),
            plan.base.id,
            base.database.server_major
        )));
    };
    let replayed = schema::schema_at(&schema::Request {
        server,
        ours: false,
        tools: scratch.tools,
        archive: &path,
        base,
        changes: &plan.changes,
        progress: scratch.progress,
    })
    .await?;
    Ok(SchemaAt {
        archive: replayed.archive.clone(),
        facts: replayed.facts.clone(),
        notes: replayed.notes.clone(),
        inexact: replayed.inexact.clone(),
        base: Some(path),
        _replayed: Some(replayed),
    })
}

impl SchemaAt {
    /// # Errors
    /// `Damaged` if it is no archive.
    pub fn open(&self) -> Result<Archive> {
        Archive::open(&self.archive)
    }
}

/// The file is what its name says.
///
/// # Errors
/// `Damaged` if it is not.
pub fn check_digest(path: &Path, digest: &str) -> Result<()> {
    let bytes = std::fs::read(path).context(Kind::Damaged, || format!("cannot read {}", path.display()))?;
    match blake3::hash(&bytes).to_hex().as_str() == digest {
        true => Ok(()),
        false => Err(Error::damaged(format!("{} is damaged: its digest is not its name", path.display()))),
    }
}
