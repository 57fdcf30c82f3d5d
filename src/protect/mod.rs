//! The write half: what brings changes from the source into the history.

pub mod begin;
pub mod checkpoint;
pub mod compare;
mod draft;
mod earlier;
pub mod forward;
pub mod identity;
mod images;
mod ranges;
mod resync;
mod slot;
pub mod snapshot;
pub mod suspicion;
mod take;

use std::sync::Arc;

use crate::ambient;
use crate::connect::Conninfo;
use crate::error::{Error, Result};
use crate::history::History;
use crate::history::catalog::Catalog;
use crate::history::epoch::Epoch;
use crate::history::image::{PackStats, Packs};
use crate::pgtools::Tools;
use crate::progress::Progress;
use crate::store::Lease;

/// The parameters of every act on the source.
pub struct Access<'a> {
    pub source: &'a Conninfo,
    pub tools: &'a Tools,
    /// Sessions that read tables at the same time.
    pub jobs: usize,
    pub progress: &'a dyn Progress,
}

/// Keeps an `expire` from what is built on, and waits for one that is at work without holding up others.
pub(crate) async fn hold_objects(history: &History) -> Result<Option<Lease>> {
    let history = history.clone();
    ambient::blocking("waiting for an expire", move || history.hold_objects()).await
}

/// The locks under which a checkpoint is made, and the epoch that it is made in; the catalog is brought up to date.
pub(crate) async fn begin_checkpoint(
    history: &History,
    catalog: &Arc<Catalog>,
) -> Result<((Lease, Option<Lease>), Epoch)> {
    let (history, catalog) = (history.clone(), Arc::clone(catalog));
    let beginning = ambient::blocking("beginning a checkpoint", move || {
        let locks = history.lock_checkpoint()?;
        catalog.synchronise(&history)?;
        Ok((locks, history.current_epoch()?))
    });
    beginning.await
}

/// Begins to write packs into a history; blocks that the catalog names are not stored again.
pub(crate) fn new_packs(history: &History, catalog: &Arc<Catalog>) -> Packs {
    Packs::new(history.shared_store(), Arc::clone(catalog) as Arc<_>, history.identity().cuts())
}

/// Makes all that was put into the packs durable. Nobody else may hold them any more.
pub(crate) async fn finish_packs(packs: Arc<Packs>) -> Result<PackStats> {
    let packs = Arc::try_unwrap(packs).map_err(|_| Error::internal("a thread still writes images"))?;
    ambient::blocking("writing packs", move || packs.finish()).await
}
