//! The source as the history's newest checkpoint knows it, to be compared with the source as it is now.

use crate::ambient;
use crate::error::{Error, Result};
use crate::history::History;
use crate::history::catalog::Catalog;
use crate::history::checkpoint::{self, Checkpoint, SchemaFacts};
use crate::model::schema_digests::SchemaDigests;

/// The source as the newest checkpoint of the current epoch knows it.
#[derive(Clone, Debug, Default)]
pub struct KnownSource {
    /// Whether the epoch has a checkpoint at all.
    pub exists: bool,
    /// The digest of the catalogs' definitions; empty if there is no checkpoint.
    pub fingerprint: String,
    /// The protected tables, by oid.
    pub tables: Vec<u32>,
    /// The tables among `tables` whose every change is in the stream.
    pub exact: Vec<u32>,
    /// The digest of the server's roles.
    pub roles_digest: Option<String>,
    /// The digests of the definitions with this fingerprint.
    pub digests: Option<SchemaDigests>,
}

impl KnownSource {
    /// # Errors
    /// `Damaged` if the checkpoint's manifest is.
    pub async fn read(history: &History) -> Result<KnownSource> {
        let history = history.clone();
        let reading = ambient::blocking("reading the newest checkpoint", move || {
            let catalog = Catalog::open(&history)?;
            let epoch = history.current_epoch()?.number;
            let damaged = catalog
                .unusable()
                .into_iter()
                .find(|it| checkpoint::position_of(&it.name).is_some_and(|(number, _)| number == epoch));
            if let Some(damaged) = damaged {
                // Taken for an image that was never finished, it would cost a gap.
                return Err(Error::damaged(damaged.why));
            }
            let newest = catalog.checkpoints()?.into_iter().rfind(|row| row.epoch == epoch);
            newest.map_or(Ok(KnownSource::default()), |row| Ok(history.read_checkpoint(&row.id)?.into()))
        });
        reading.await
    }

    /// Returns what is kept, which is read first if nothing is.
    ///
    /// # Errors
    /// `Damaged` if the checkpoint's manifest is.
    pub async fn kept<'a>(kept: &'a mut Option<KnownSource>, history: &History) -> Result<&'a KnownSource> {
        Ok(match kept {
            Some(known) => known,
            none => none.insert(KnownSource::read(history).await?),
        })
    }
}

impl From<Checkpoint> for KnownSource {
    fn from(checkpoint: Checkpoint) -> KnownSource {
        let tables = checkpoint.tables.iter().map(|entry| entry.table.oid).collect();
        let exact = checkpoint.tables.iter().filter(|entry| !entry.table.is_insert_only());
        let exact = exact.map(|entry| entry.table.oid).collect();
        let SchemaFacts { fingerprint, roles_digest, digests, .. } = checkpoint.schema;
        KnownSource { exists: true, fingerprint, tables, exact, roles_digest, digests }
    }
}
