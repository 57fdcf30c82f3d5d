//! The write half: what brings changes from the source into the history.

pub mod begin;
pub mod checkpoint;
pub mod compare;
mod earlier;
mod ranges;
mod resync;
pub mod snapshot;
pub mod suspicion;
mod take;

use std::path::PathBuf;

use crate::connect::Conninfo;
use crate::error::{Context, Kind, Result};
use crate::history::History;
use crate::pgtools::Tools;
use crate::progress::Progress;
use crate::store::files::Lock;

/// What every act on the source needs.
pub struct Access<'a> {
    pub source: &'a Conninfo,
    pub tools: &'a Tools,
    /// Sessions that read tables at the same time.
    pub jobs: usize,
    pub progress: &'a dyn Progress,
}

/// Keeps an `expire` from what is built on, and waits for one that is at work without holding up others.
pub(crate) async fn hold_objects(history: &History) -> Result<Option<Lock>> {
    let history = history.clone();
    let held = tokio::task::spawn_blocking(move || history.hold_objects()).await;
    held.context(Kind::Internal, || "a waiting thread failed".into())?
}

/// Where what does not fit into memory is spilled: in the history's own folder, whose disk has room
/// for an image if any has.
pub(crate) fn scratch(history: &History) -> PathBuf {
    history.root().join("live")
}
