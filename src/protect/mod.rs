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
use crate::pgtools::Tools;
use crate::progress::Progress;

/// What every act on the source needs.
pub struct Access<'a> {
    pub source: &'a Conninfo,
    pub tools: &'a Tools,
    /// Sessions that read tables at the same time.
    pub jobs: usize,
    pub progress: &'a dyn Progress,
}

/// Where what does not fit into memory is spilled: in the history's own folder, whose disk has room
/// for an image if any has.
pub(crate) fn scratch(history: &crate::history::History) -> PathBuf {
    history.root().join("live")
}
