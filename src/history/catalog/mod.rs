//! The catalog: a SQLite index of the history, which is derived from the objects only.
//!
//! [`Catalog::open`] compares the names of the objects with its rows, reads the footers and manifests of the objects that
//! are new, and forgets the objects that are gone. Nothing else writes to the catalog, so a catalog that is missing, stale
//! or damaged costs time, and never an answer.

mod changes;
mod check;
mod opening;
mod rows;
mod sync;

use std::sync::{Mutex, MutexGuard};

use rusqlite::{Connection, OptionalExtension};
use serde::Serialize;

use super::History;
use super::checkpoint::Origin;
use super::image::{BlockDirectory, BlockId, Location};
use super::journal::{SegmentName, SegmentSummary};
use super::key::Authorship;
use crate::error::{Context, Error, Kind, Result};
use crate::model::{Lsn, PgTime};
use crate::store::layout::{self, CATALOG};
use crate::store::{LocalFolder, VolatileFile, files};
use opening::{open_file, open_sealed, put_away, start_over};

/// The history's index, as of its last synchronisation.
pub struct Catalog {
    connection: Mutex<Connection>,
    /// The file of an encrypted history's catalog, which is in memory while it is used.
    kept: Option<VolatileFile>,
    /// With a key, a row is believed only if it bears the key's tag, as somebody who can write to the history can write to
    /// its catalog too. The places of blocks need no tag, as a block is checked against its name.
    authorship: Authorship,
    /// Manifests and packs that could not be read. They are passed over, and read again by each synchronisation.
    unusable: Mutex<Vec<UnusableObject>>,
}

/// A damaged object, of which nothing is in the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnusableObject {
    /// A checkpoint's id, or a pack's name.
    pub name: String,
    pub why: String,
}

/// A checkpoint, without its tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckpointRow {
    pub id: String,
    pub epoch: u32,
    pub lsn: Lsn,
    pub time: PgTime,
    pub label: Option<String>,
    pub origin: Origin,
    pub rows: u64,
    pub bytes_new: u64,
    pub bytes_total: u64,
}

/// A sealed segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentRow {
    pub name: SegmentName,
    /// Bytes of the object.
    pub bytes: u64,
    pub summary: SegmentSummary,
}

impl Catalog {
    /// Opens the catalog and brings it up to date. If there is no catalog that can be used, it is made anew. A damaged
    /// manifest or pack is passed over, so that questions which do not need it are still answered.
    ///
    /// # Errors
    /// `Damaged` if a segment's footer cannot be read.
    pub fn open(history: &History) -> Result<Catalog> {
        let (connection, kept) = match history.local().sealed_catalog() {
            Some(file) => (open_sealed(&file)?, Some(file)),
            None => {
                let path = layout::catalog(history.root());
                (open_file(&path).or_else(|error| start_over(&path, &error))?, None)
            }
        };
        let authorship = history.authorship().clone();
        let (connection, unusable) = (Mutex::new(connection), Mutex::default());
        let catalog = Catalog { connection, kept, authorship, unusable };
        catalog.synchronise(history)?;
        Ok(catalog)
    }

    /// Returns the objects that were damaged when the catalog was last brought up to date.
    pub fn unusable(&self) -> Vec<UnusableObject> {
        self.unusable.lock().map(|unusable| unusable.clone()).unwrap_or_default()
    }

    /// Throws the catalog of the history in a folder away; the next one to open it makes it anew.
    pub fn forget(local: &LocalFolder) {
        put_away(&layout::catalog(local.root()));
        if let Some(file) = local.sealed_catalog() {
            files::discard(file.path());
        }
    }

    /// Returns the bytes of all packs.
    ///
    /// # Errors
    /// `Internal` if the catalog fails.
    pub fn pack_bytes(&self) -> Result<u64> {
        let sum = "SELECT coalesce(sum(bytes), 0) FROM packs";
        let bytes = self.connection()?.query_row(sum, [], |row| row.get::<_, i64>(0));
        Ok(bytes.context(Kind::Internal, failed)? as u64)
    }

    fn connection(&self) -> Result<MutexGuard<'_, Connection>> {
        self.connection.lock().map_err(|_| Error::internal("another thread failed while it used the catalog"))
    }
}

impl BlockDirectory for Catalog {
    fn locate(&self, id: &BlockId) -> Result<Option<Location>> {
        let connection = self.connection()?;
        let mut statement = connection
            .prepare_cached(
                "SELECT p.name, b.offset, b.stored FROM blocks b JOIN packs p ON p.number = b.pack WHERE b.id = ?1",
            )
            .context(Kind::Internal, failed)?;
        let location = statement.query_row([&id.0[..]], |row| {
            Ok(Location {
                pack: row.get(0)?,
                offset: row.get::<_, i64>(1)? as u64,
                stored_len: row.get::<_, i64>(2)? as u64,
            })
        });
        location.optional().context(Kind::Internal, failed)
    }
}

fn failed() -> String {
    format!(
        "the catalog failed; delete {CATALOG} in the history and try again, it is made anew from the objects"
    )
}

#[cfg(test)]
mod tests;
