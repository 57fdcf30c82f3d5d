//! Checkpoints: their manifests, which name everything that they consist of.

use serde::{Deserialize, Serialize};

use super::image::TableImage;
use super::key::Authorship;
use super::resync::Resync;
use super::{FORMAT, History, read_object, write_object};
use crate::error::{Error, Result};
use crate::model::schema_digests::SchemaDigests;
use crate::model::{DatabaseFacts, Inexact, LeftOut, Lsn, PgTime, SequenceState, Table};
use crate::signal::DefinitionChange;
use crate::store::{ObjectKind, ObjectName, Store};

/// The content of `checkpoints/ID.json`: a consistent image of the whole database at one position.
///
/// A checkpoint holds exactly the transactions whose commit record lies before `lsn`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub format: u32,
    pub id: String,
    pub epoch: u32,
    pub lsn: Lsn,
    /// The source's clock when the snapshot was taken; for a fold, the time of the latest commit that the fold holds.
    pub time: PgTime,
    pub label: Option<String>,
    pub origin: Origin,
    /// The checkpoint that a fold started from.
    pub base: Option<String>,
    pub tables: Vec<TableEntry>,
    pub schema: SchemaFacts,
    pub sequences: Vec<SequenceState>,
    /// The sequences were read no earlier than this position.
    pub sequences_sampled: Lsn,
    /// The bytes of the blocks that were stored for this checkpoint.
    pub bytes_new: u64,
    /// The bytes of all blocks of this checkpoint.
    pub bytes_total: u64,
    /// The parts of this image that are not exact, by name.
    pub inexact: Vec<Inexact>,
    /// The result of the comparison, if the checkpoint is a state of the history that was corrected by the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resync: Option<Resync>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Read from the source under a snapshot.
    Source,
    /// Folded from an earlier checkpoint and the journal.
    Fold,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableEntry {
    pub table: Table,
    pub image: TableImage,
}

/// The schema as pg_dump wrote it, and the facts that pg_dump does not tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaFacts {
    /// The position at which the schema was read from the source. A fold has the position of its base.
    pub lsn: Lsn,
    pub time: PgTime,
    /// `schemas/DIGEST.dump`, a pg_dump custom-format archive without rows of tables.
    pub archive: String,
    /// `schemas/DIGEST.sql`: the server's roles, without passwords, where they could be read.
    pub globals: Option<String>,
    /// A digest of the server's roles, read before `globals`, to notice that they changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles_digest: Option<String>,
    /// Major version of the pg_dump that wrote the archive.
    pub pg_dump_major: u32,
    /// The version as the setting `server_version` has it.
    pub server_version: String,
    /// The encoding and locale that a target must have to hold the same bytes.
    pub database: DatabaseFacts,
    /// Roles that own something in the database or are granted something.
    pub roles: Vec<String>,
    /// Populated materialised views, each after the views that it reads.
    pub materialized_views: Vec<(String, String)>,
    /// Number of large objects in the archive.
    pub large_objects: u64,
    /// Tables whose rows are not in the history, with the reason.
    pub left_out: Vec<LeftOut>,
    /// A digest of the catalogs' definitions, to notice that they changed.
    pub fingerprint: String,
    /// Digests of each object that the archive holds, read from the source with it; `None` where they could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digests: Option<SchemaDigests>,
    /// The schema changes between the archive and this checkpoint, in order, as the source's triggers told them.
    #[serde(with = "super::since", default, skip_serializing_if = "Vec::is_empty")]
    pub since: Vec<DefinitionChange>,
}

impl Checkpoint {
    pub fn rows(&self) -> u64 {
        self.tables.iter().fold(0, |rows, entry| rows.saturating_add(entry.image.rows))
    }

    /// Whether the manifest refers to nothing outside the history. A digest only proves that these are the bytes that
    /// somebody wrote. Names of objects must be digests, so that no path can hide in them.
    pub fn is_sound(&self) -> bool {
        let is_digest = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let schema = &self.schema;
        is_digest(&schema.archive)
            && schema.globals.as_deref().is_none_or(is_digest)
            && self.tables.iter().all(|entry| entry.table.is_sound())
    }

    pub fn table(&self, oid: u32) -> Option<&TableEntry> {
        self.tables.iter().find(|entry| entry.table.oid == oid)
    }
}

impl History {
    /// Returns a name for a new checkpoint: its epoch and position, and a number if that name is taken.
    pub fn free_checkpoint_id(&self, epoch: u32, lsn: Lsn) -> String {
        let stem = checkpoint_id(epoch, lsn);
        let taken = |id: &String| self.store().holds(&manifest(id)).unwrap_or(false);
        let numbered = (2..).map(|number| format!("{stem}-{number}"));
        std::iter::once(stem.clone()).chain(numbered).find(|id| !taken(id)).unwrap_or(stem)
    }

    /// # Errors
    /// `Damaged` if the manifest is missing or cannot be read.
    pub fn read_checkpoint(&self, id: &str) -> Result<Checkpoint> {
        let (name, place) = (manifest(id), self.locate_manifest(id));
        let missing = || Error::damaged(format!("checkpoint {id} is gone: {place} is missing"));
        let checkpoint: Checkpoint =
            read_object(self.store(), &name, self.authorship())?.ok_or_else(missing)?;
        if checkpoint.id != id {
            return Err(Error::damaged(format!("{place} holds checkpoint {}", checkpoint.id)));
        }
        if checkpoint.is_sound() {
            Ok(checkpoint)
        } else {
            Err(Error::damaged(format!("{place} contradicts itself")))
        }
    }

    /// Says where a checkpoint's manifest lies, for messages.
    pub fn locate_manifest(&self, id: &str) -> String {
        self.store().locate(&manifest(id))
    }
}

/// The name of a checkpoint's manifest.
pub fn manifest(id: &str) -> ObjectName {
    ObjectName::new(ObjectKind::Checkpoint, id)
}

/// Makes a checkpoint valid: everything that it names must be durable before.
///
/// # Errors
/// `Unavailable` if the disk does not take it, `Refused` if the history's key was not given.
pub fn publish(store: &dyn Store, checkpoint: &Checkpoint, authorship: &Authorship) -> Result<()> {
    debug_assert_eq!(checkpoint.format, FORMAT);
    write_object(store, &manifest(&checkpoint.id), checkpoint, authorship)
}

/// The epoch and position in a checkpoint's id.
pub fn position_of(id: &str) -> Option<(u32, Lsn)> {
    let mut parts = id.split('-');
    let (epoch, lsn) = (parts.next()?.parse().ok()?, u64::from_str_radix(parts.next()?, 16).ok()?);
    Some((epoch, Lsn(lsn)))
}

pub fn checkpoint_id(epoch: u32, lsn: Lsn) -> String {
    format!("{epoch:04}-{:016X}", lsn.0)
}
