//! Compares the catalog with the objects. A row of an object that is gone is a witness that the object was there. A row
//! that differs from its object is a fault of the catalog, which is then made anew.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, params};

use super::opening::known_sealed;
use super::rows::names;
use super::sync::checkpoint_ids;
use super::{Catalog, CheckpointRow, failed, open_file};
use crate::error::{Context, Kind, Result};
use crate::history::History;
use crate::history::expiry::Expiry;
use crate::history::image::{self, PackReader};
use crate::history::journal::{self, SegmentName};
use crate::store::layout::{self, CATALOG};
use crate::store::{ObjectKind, ObjectName, files};

impl Catalog {
    /// Names the objects that the catalog has seen and that are gone, a sentence for each; none if there is no catalog. The
    /// caller must not have brought the catalog up to date before, as that makes it forget these objects.
    ///
    /// # Errors
    /// `Unavailable` if the store cannot be listed.
    pub fn gone(history: &History) -> Result<Vec<String>> {
        let Some(connection) = known(history) else { return Ok(Vec::new()) };
        let seen = |query: &str| names(&connection, query).unwrap_or_default();
        // An expired object is no fault; a record that cannot be read is named elsewhere.
        let expired = history.expiry().ok().flatten();
        let may_miss = |covers: &dyn Fn(&Expiry) -> bool| expired.as_ref().is_some_and(covers);
        let mut gone = Vec::new();
        for id in seen("SELECT id FROM checkpoints").difference(&checkpoint_ids(history)?) {
            if !may_miss(&|it| it.covers_checkpoint(id)) {
                gone.push(history.locate_manifest(id));
            }
        }
        let segments = stored(history, ObjectKind::Segment)?;
        for name in seen("SELECT path FROM segments") {
            let Some(object) = ObjectKind::Segment.object_in(&name) else { continue };
            let segment = SegmentName::of_object(&object);
            if !segments.contains(&object)
                && !may_miss(&|it| segment.is_some_and(|name| it.covers_segment(name)))
            {
                gone.push(history.store().locate(&object));
            }
        }
        let packs = stored(history, ObjectKind::Pack)?;
        for name in seen("SELECT name FROM packs") {
            let object = image::pack_object(&name);
            if !packs.contains(&object) && !may_miss(&|it| it.packs.contains(&name)) {
                gone.push(history.store().locate(&object));
            }
        }
        Ok(gone.iter().map(|place| format!("{place} is gone; the catalog has seen it")).collect())
    }

    /// Compares every row with its object. If one differs, the catalog is thrown away, so that the next command makes it
    /// anew, and the difference is returned.
    ///
    /// # Errors
    /// `Unavailable` if the disk does not read.
    pub fn disagreement(history: &History) -> Result<Option<String>> {
        if known(history).is_none() {
            return Ok(None);
        }
        // Listed before the catalog is brought up to date, so that it knows all of them.
        let packs = history.store().list_sorted(ObjectKind::Pack)?;
        let differs = match Catalog::open(history) {
            // The damaged object that prevents this is named as a fault of its own.
            Err(_) => return Ok(None),
            Ok(catalog) => catalog.first_difference(history, packs)?,
        };
        Ok(differs.map(|what| {
            Catalog::forget(history.local());
            format!("{CATALOG} does not agree with {what}; it is thrown away, and made anew from the objects")
        }))
    }

    fn first_difference(&self, history: &History, packs: Vec<ObjectName>) -> Result<Option<String>> {
        for row in self.segments()? {
            let footer = journal::read_footer(history.store(), &row.name.object(), history.authorship());
            if footer.is_ok_and(|footer| footer.summary != row.summary) {
                return Ok(Some(history.journal().locate(row.name)));
            }
        }
        for row in self.checkpoints()? {
            let read = history.read_checkpoint(&row.id);
            if read.is_ok_and(|checkpoint| CheckpointRow::from(&checkpoint) != row) {
                return Ok(Some(history.locate_manifest(&row.id)));
            }
        }
        for name in packs {
            if let Ok(reader) = PackReader::open(history.store(), &name)
                && !self.knows_pack(&reader)?
            {
                return Ok(Some(history.store().locate(&name)));
            }
        }
        Ok(None)
    }

    /// Whether the catalog has every block of the pack, each at its place.
    fn knows_pack(&self, reader: &PackReader) -> Result<bool> {
        let connection = self.connection()?;
        let query = "SELECT b.id, b.offset, b.stored FROM blocks b JOIN packs p ON p.number = b.pack WHERE p.name = ?1";
        let mut statement = connection.prepare_cached(query).context(Kind::Internal, failed)?;
        let rows = statement.query_map([reader.name()], |row| {
            Ok((row.get::<_, Vec<u8>>(0)?, (row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)))
        });
        let rows: BTreeMap<_, _> = rows.and_then(Iterator::collect).context(Kind::Internal, failed)?;
        let mut elsewhere = connection
            .prepare_cached("SELECT 1 FROM blocks WHERE id = ?1")
            .context(Kind::Internal, failed)?;
        let mut own = 0;
        for entry in reader.entries() {
            let place = (entry.offset as i64, i64::from(entry.stored_len));
            match rows.get(&entry.id.0[..]) {
                Some(known) if *known == place => own += 1,
                Some(_) => return Ok(false),
                // Another pack holds the same block.
                None if elsewhere.exists(params![&entry.id.0[..]]).context(Kind::Internal, failed)? => {}
                None => return Ok(false),
            }
        }
        Ok(own == rows.len())
    }
}

/// The catalog as an earlier command has left it; `None` if there is none, or none that can be used, which is no witness.
fn known(history: &History) -> Option<Connection> {
    if let Some(file) = history.local().sealed_catalog() {
        return known_sealed(&file).ok().flatten();
    }
    let path = layout::catalog(history.root());
    if files::is_there(&path) { open_file(&path).ok() } else { None }
}

fn stored(history: &History, kind: ObjectKind) -> Result<BTreeSet<ObjectName>> {
    Ok(history.store().list(kind)?.into_iter().collect())
}

impl From<&crate::history::checkpoint::Checkpoint> for CheckpointRow {
    fn from(checkpoint: &crate::history::checkpoint::Checkpoint) -> CheckpointRow {
        CheckpointRow {
            id: checkpoint.id.clone(),
            epoch: checkpoint.epoch,
            lsn: checkpoint.lsn,
            time: checkpoint.time,
            label: checkpoint.label.clone(),
            origin: checkpoint.origin,
            rows: checkpoint.rows(),
            bytes_new: checkpoint.bytes_new,
            bytes_total: checkpoint.bytes_total,
        }
    }
}
