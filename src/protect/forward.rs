//! Checkpoints that are folded from the history alone; the source is not asked.

use std::sync::Arc;

use super::draft::{Content, Draft, publish};
use super::images::images;
use super::new_packs;
use crate::ambient;
use crate::error::{Error, Result};
use crate::history::History;
use crate::history::catalog::Catalog;
use crate::history::checkpoint::{Checkpoint, Origin};
use crate::past::{CHECKPOINT_BUDGET, Reading};
use crate::progress::Progress;
use crate::source::sequences::Sample;

/// Folds the newest checkpoint and the journal after it into a new one. The source is not asked.
///
/// If nothing was committed since and no label is wanted, or if `is_wanted` says no to the history as it is now and
/// that checkpoint, the checkpoint itself is returned.
///
/// # Errors
/// `Locked` if a checkpoint is being made; `Damaged` if the history is.
pub fn fold_newest(
    history: &History,
    catalog: &Arc<Catalog>,
    label: Option<&str>,
    is_wanted: &mut dyn FnMut(&Reading, &Checkpoint) -> Result<bool>,
    progress: &dyn Progress,
) -> Result<Checkpoint> {
    let _lock = history.lock_checkpoint()?;
    let reading = Reading::by_catalog(history, catalog)?;
    let stretch = reading.timeline().current()?;
    let newest = stretch.checkpoints.last().ok_or_else(|| {
        Error::refused(
            "there is no checkpoint to fold from; take one with: backwhen checkpoint --from-source",
        )
    })?;
    let base = history.read_checkpoint(&newest.id)?;
    if stretch.frontier() <= base.lsn && label.is_none() {
        return Ok(base);
    }
    if !is_wanted(&reading, &base)? {
        return Ok(base);
    }
    fold_to_end(&reading, base, label, progress)
}

/// Folds a checkpoint with all of its epoch that comes after it into a new one. The checkpoints are locked.
pub(super) fn fold_to_end(
    reading: &Reading,
    base: Checkpoint,
    label: Option<&str>,
    progress: &dyn Progress,
) -> Result<Checkpoint> {
    let (history, catalog) = (reading.history(), reading.catalog());
    let until = reading.stretch(base.epoch)?.frontier();
    let past = reading.forward(base, until)?;
    let folded = past.fold(&|_| true, CHECKPOINT_BUDGET, &history.scratch(), progress)?;
    let packs = new_packs(history, catalog);
    let sequences = Sample { sampled: folded.sequences_sampled, sequences: folded.sequences };
    let mut inexact = folded.inexact;
    inexact.extend(folded.definitions.inexact());
    let base = past.base();
    let mut schema = base.schema.clone();
    schema.since.extend(folded.definition_changes);
    schema.globals = past.roles()?.map(str::to_owned);
    let tables = images(folded.tables, &packs, progress)?;
    ambient::pass("checkpoint.image")?;
    let draft = Draft {
        epoch: base.epoch,
        lsn: until.max(base.lsn),
        time: past.latest_time(),
        label: label.map(str::to_owned),
        base: Some(base.id.clone()),
        origin: Origin::Fold,
    };
    let content = Content { tables, schema, sequences, inexact, stats: packs.finish()?, resync: None };
    publish(history, catalog, draft, content)
}
