//! A checkpoint on its way into the history.

use std::sync::Arc;

use crate::ambient;
use crate::error::Result;
use crate::history::catalog::Catalog;
use crate::history::checkpoint::{self, Checkpoint, Origin, SchemaFacts, TableEntry};
use crate::history::image::PackStats;
use crate::history::resync::Resync;
use crate::history::{FORMAT, History};
use crate::model::{Inexact, Lsn, PgTime};
use crate::source::sequences::Sample;

/// The facts of a checkpoint's manifest beside its content.
pub(super) struct Draft {
    pub epoch: u32,
    pub lsn: Lsn,
    pub time: PgTime,
    pub label: Option<String>,
    /// The id of the checkpoint that it was folded from.
    pub base: Option<String>,
    pub origin: Origin,
}

/// The content of a checkpoint.
pub(super) struct Content {
    pub tables: Vec<TableEntry>,
    pub schema: SchemaFacts,
    pub sequences: Sample,
    pub inexact: Vec<Inexact>,
    pub stats: PackStats,
    pub resync: Option<Resync>,
}

pub(super) fn publish(
    history: &History,
    catalog: &Catalog,
    draft: Draft,
    content: Content,
) -> Result<Checkpoint> {
    let id = history.free_checkpoint_id(draft.epoch, draft.lsn);
    let checkpoint = manifest(id, draft, content);
    ambient::pass("checkpoint.publish")?;
    checkpoint::publish(history.store(), &checkpoint, history.authorship())?;
    ambient::pass("checkpoint.published")?;
    catalog.synchronise(history)?;
    Ok(checkpoint)
}

/// The same in a thread of its own, beside a stream.
pub(super) async fn publish_beside(
    history: &History,
    catalog: &Arc<Catalog>,
    draft: Draft,
    content: Content,
) -> Result<Checkpoint> {
    let (history, catalog) = (history.clone(), Arc::clone(catalog));
    let publishing = move || publish(&history, &catalog, draft, content);
    ambient::blocking("publishing a checkpoint", publishing).await
}

pub(super) fn manifest(id: String, draft: Draft, content: Content) -> Checkpoint {
    Checkpoint {
        format: FORMAT,
        id,
        epoch: draft.epoch,
        lsn: draft.lsn,
        time: draft.time,
        label: draft.label,
        origin: draft.origin,
        base: draft.base,
        tables: content.tables,
        schema: content.schema,
        sequences: content.sequences.sequences,
        sequences_sampled: content.sequences.sampled,
        bytes_new: content.stats.bytes_new,
        bytes_total: content.stats.bytes_new + content.stats.bytes_shared,
        inexact: content.inexact,
        resync: content.resync,
    }
}
