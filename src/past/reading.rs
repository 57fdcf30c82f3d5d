//! A history that is open for reading.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::history::History;
use crate::history::catalog::{Catalog, UnusableObject};
use crate::history::image::Blocks;
use crate::history::segments::Segments;
use crate::history::timeline::{Stretch, Timeline};
use crate::model::Lsn;
use crate::store::Lease;

/// The place of a moment in its timeline.
pub(super) enum Place {
    /// In the stretch with this index.
    Epoch(usize),
    /// At a single checkpoint, whose journal was expired.
    Single(Box<Stretch>),
}

/// A history at one instant: its catalog, its timeline, and the segments that have been opened so far.
///
/// A command that reads opens one `Reading` and asks it for everything. Clones share what is open.
#[derive(Clone)]
pub struct Reading {
    opened: Arc<OpenHistory>,
    timeline: Arc<Timeline>,
}

struct OpenHistory {
    history: History,
    catalog: Arc<Catalog>,
    /// Keeps an `expire` from removing objects that are being read.
    _objects: Option<Lease>,
}

impl Reading {
    /// Opens a history, and keeps every `expire` away as long as the reading or a clone of it lives. Waits for a
    /// running `expire`.
    ///
    /// # Errors
    /// `Locked` if the wait takes longer than a minute; `Damaged` if an object that is needed cannot be read, or if
    /// segments do not join.
    pub fn open(history: &History) -> Result<Reading> {
        Reading::open_with(history, &Arc::new(Segments::new(history.journal())))
    }

    /// Opens a history of which some segments are open already. The growing segment stays as it was when it was opened.
    ///
    /// # Errors
    /// The same as for [`Reading::open`].
    pub fn open_with(history: &History, segments: &Arc<Segments>) -> Result<Reading> {
        let objects = history.hold_objects()?;
        Reading::new(history, Arc::new(Catalog::open(history)?), segments, objects)
    }

    /// Opens a history whose catalog is open already, and brings the catalog up to date.
    ///
    /// # Errors
    /// The same as for [`Reading::open`].
    pub fn by_catalog(history: &History, catalog: &Arc<Catalog>) -> Result<Reading> {
        let objects = history.hold_objects()?;
        catalog.synchronise(history)?;
        let segments = Arc::new(Segments::new(history.journal()));
        Reading::new(history, Arc::clone(catalog), &segments, objects)
    }

    /// Opens a history for a short look that must not wait for an `expire`. An `expire` may meanwhile remove objects.
    ///
    /// # Errors
    /// `Damaged` as for [`Reading::open`]; never `Locked`.
    pub fn glance(history: &History) -> Result<Reading> {
        let segments = Arc::new(Segments::new(history.journal()));
        Reading::new(history, Arc::new(Catalog::open(history)?), &segments, None)
    }

    fn new(
        history: &History,
        catalog: Arc<Catalog>,
        segments: &Arc<Segments>,
        objects: Option<Lease>,
    ) -> Result<Reading> {
        let timeline = Arc::new(Timeline::read_with(history, &catalog, segments)?);
        let opened = OpenHistory { history: history.clone(), catalog, _objects: objects };
        Ok(Reading { opened: Arc::new(opened), timeline })
    }

    /// Returns the history as it is now, as far as its newest epoch goes on. Only what came since is read, and checkpoints
    /// that came since are not known.
    ///
    /// # Errors
    /// `Unavailable` if another epoch has begun; `Damaged` if the journal is.
    pub fn extended(&self) -> Result<Reading> {
        let timeline = Arc::new(self.timeline.extended(self.history())?);
        Ok(Reading { opened: Arc::clone(&self.opened), timeline })
    }

    pub fn history(&self) -> &History {
        &self.opened.history
    }

    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.opened.catalog
    }

    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// Returns a reader of the blocks of all images.
    pub fn blocks(&self) -> Blocks {
        Blocks::new(self.history().shared_store(), Arc::clone(self.catalog()) as Arc<_>)
    }

    /// Returns a reading of the same history that passes over a checkpoint that turned out to be damaged.
    #[must_use]
    pub fn without(&self, checkpoint: UnusableObject) -> Reading {
        let mut timeline = Timeline::clone(&self.timeline);
        timeline.unusable.push(checkpoint);
        Reading { opened: Arc::clone(&self.opened), timeline: Arc::new(timeline) }
    }

    /// Returns an epoch with the checkpoints and segments that the history holds of it.
    ///
    /// # Errors
    /// `Damaged` if the epoch is missing.
    pub fn stretch(&self, epoch: u32) -> Result<&Stretch> {
        Ok(&self.timeline.stretches[self.place(epoch)?])
    }

    /// Returns where the moment at a position of an epoch lies: in the epoch's stretch, or alone.
    pub(super) fn place_at(&self, epoch: u32, position: Lsn) -> Result<Place> {
        match self.timeline.single(epoch, position) {
            Some(single) => Ok(Place::Single(Box::new(single))),
            None => self.place(epoch).map(Place::Epoch),
        }
    }

    /// Returns the index of an epoch among the timeline's stretches.
    fn place(&self, epoch: u32) -> Result<usize> {
        let found = self.timeline.stretches.iter().position(|stretch| stretch.epoch.number == epoch);
        found.ok_or_else(|| Error::damaged(format!("epoch {epoch} is missing")))
    }
}
