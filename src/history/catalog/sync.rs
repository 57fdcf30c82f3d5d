//! Brings the catalog up to date with the objects.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::Path;

use rusqlite::{Connection, params};

use super::opening::{keep_sealed, open_in_memory, start_over};
use super::rows::{self, SegmentText, names};
use super::{Catalog, CheckpointRow, UnusableObject, failed};
use crate::ambient;
use crate::error::{Context, Error, Kind, Result};
use crate::history::History;
use crate::history::checkpoint::manifest;
use crate::history::image::PackReader;
use crate::history::journal::{self, SegmentName};
use crate::store::{ObjectKind, ObjectName, Store, layout};

/// The number of new objects that are announced to the store before the first of them is opened. An object store then holds
/// two chunks of each in memory.
const EXPECTED: usize = 64;

impl Catalog {
    /// Indexes the objects that are new, and forgets the objects that are gone. A file that cannot be read or written (a
    /// page is damaged, the disk is full) is replaced: by a new file, and if that fails too, by a catalog in memory.
    ///
    /// # Errors
    /// `Damaged` if a segment's footer cannot be read, `Internal` if the catalog fails in memory too.
    pub fn synchronise(&self, history: &History) -> Result<()> {
        let mut connection = self.connection()?;
        let path = layout::catalog(history.root());
        let before = connection.total_changes();
        let mut done = index(&mut connection, history);
        let replacements: &[fn(&Path, &dyn Display) -> Result<Connection>] =
            if self.kept.is_some() { &[open_in_memory] } else { &[start_over, open_in_memory] };
        for replacement in replacements {
            match &done {
                Err(error) if error.kind() == Kind::Internal => *connection = replacement(&path, error)?,
                _ => break,
            }
            done = index(&mut connection, history);
        }
        let unusable = done?;
        if let Some(file) = self.kept.as_ref().filter(|_| connection.total_changes() != before) {
            keep_sealed(&connection, file);
        }
        if let Ok(mut known) = self.unusable.lock() {
            for new in unusable.iter().filter(|new| !known.contains(new)) {
                tracing::warn!("{}; it is passed over", new.why);
            }
            *known = unusable;
        }
        Ok(())
    }
}

/// Brings the tables up to date in one transaction, and returns the objects that are damaged.
fn index(connection: &mut Connection, history: &History) -> Result<Vec<UnusableObject>> {
    let transaction = connection
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .context(Kind::Internal, failed)?;
    segments(&transaction, history)?;
    let mut unusable = checkpoints(&transaction, history)?;
    unusable.extend(packs(&transaction, history)?);
    ambient::pass("catalog.update")?;
    transaction.commit().context(Kind::Internal, failed)?;
    ambient::pass("catalog.updated")?;
    Ok(unusable)
}

/// Calls `each` with each item. The store is told a batch ahead which objects they are.
fn each_expected<T>(
    store: &dyn Store,
    items: &[T],
    object: impl Fn(&T) -> ObjectName,
    mut each: impl FnMut(&T) -> Result<()>,
) -> Result<()> {
    for batch in items.chunks(EXPECTED) {
        store.expect(&batch.iter().map(&object).collect::<Vec<_>>());
        batch.iter().try_for_each(&mut each)?;
    }
    Ok(())
}

/// Notes a damaged object, so that the others are indexed all the same; hands on any other error.
fn pass_over(name: &str, error: Error, unusable: &mut Vec<UnusableObject>) -> Result<()> {
    match error.kind() {
        Kind::Damaged => unusable.push(UnusableObject { name: name.to_owned(), why: error.to_string() }),
        _ => return Err(error),
    }
    Ok(())
}

fn segments(connection: &Connection, history: &History) -> Result<()> {
    let sealed = history.store().list_sorted(ObjectKind::Segment)?;
    let sealed = sealed.iter().filter_map(SegmentName::of_object);
    let found: BTreeMap<String, SegmentName> = sealed.map(|name| (name.file_name(), name)).collect();
    let believed = rows::believed_segments(connection, history.authorship())?;
    for name in names(connection, "SELECT path FROM segments")? {
        if !found.contains_key(&name) || !believed.contains(&name) {
            connection
                .execute("DELETE FROM segments WHERE path = ?1", [name])
                .context(Kind::Internal, failed)?;
        }
    }
    let new: Vec<_> = found.into_iter().filter(|(file_name, _)| !believed.contains(file_name)).collect();
    each_expected(
        history.store(),
        &new,
        |(_, name)| name.object(),
        |(file_name, name)| {
            let footer = journal::read_footer(history.store(), &name.object(), history.authorship())?;
            let row = SegmentText {
                epoch: name.epoch,
                start: name.start,
                name: file_name.clone(),
                bytes: history.journal().size(*name)?,
                summary: serde_json::to_string(&footer.summary).context(Kind::Internal, failed)?,
            };
            rows::put_segment(connection, &row, history.authorship())
        },
    )?;
    connection
        .execute("DELETE FROM change_indexes WHERE path NOT IN (SELECT path FROM segments)", [])
        .context(Kind::Internal, failed)?;
    Ok(())
}

fn checkpoints(connection: &Connection, history: &History) -> Result<Vec<UnusableObject>> {
    let mut unusable = Vec::new();
    let found = checkpoint_ids(history)?;
    let believed = rows::believed_checkpoints(connection, history.authorship())?;
    for id in names(connection, "SELECT id FROM checkpoints")? {
        if !found.contains(&id) || !believed.contains(&id) {
            connection
                .execute("DELETE FROM checkpoints WHERE id = ?1", [id])
                .context(Kind::Internal, failed)?;
        }
    }
    let new: Vec<_> = found.difference(&believed).collect();
    each_expected(
        history.store(),
        &new,
        |id| manifest(id),
        |id| match history.read_checkpoint(id) {
            Ok(checkpoint) => {
                rows::put_checkpoint(connection, &CheckpointRow::from(&checkpoint), history.authorship())
            }
            Err(error) => pass_over(id, error, &mut unusable),
        },
    )?;
    Ok(unusable)
}

fn packs(connection: &Connection, history: &History) -> Result<Vec<UnusableObject>> {
    let mut unusable = Vec::new();
    let found = history.store().list_sorted(ObjectKind::Pack)?;
    let mut known = names(connection, "SELECT name FROM packs")?;
    if known.iter().any(|name| !found.iter().any(|pack| pack.stem() == name)) {
        // A block of the pack that is gone may lie in another pack too, which only the list of that pack tells.
        connection.execute_batch("DELETE FROM blocks; DELETE FROM packs").context(Kind::Internal, failed)?;
        known.clear();
    }
    let new: Vec<_> = found.into_iter().filter(|name| !known.contains(name.stem())).collect();
    each_expected(history.store(), &new, ObjectName::clone, |name| {
        index_pack(connection, history.store(), name)
            .or_else(|error| pass_over(name.stem(), error, &mut unusable))
    })?;
    Ok(unusable)
}

fn index_pack(connection: &Connection, store: &dyn Store, name: &ObjectName) -> Result<()> {
    let reader = PackReader::open(store, name)?;
    reader.check_name(name)?;
    connection
        .execute(
            "INSERT INTO packs (name, bytes) VALUES (?1, ?2)",
            params![name.stem(), reader.size() as i64],
        )
        .context(Kind::Internal, failed)?;
    let number = connection.last_insert_rowid();
    let mut insert = connection
        .prepare_cached("INSERT OR IGNORE INTO blocks (id, pack, offset, stored) VALUES (?1, ?2, ?3, ?4)")
        .context(Kind::Internal, failed)?;
    for entry in reader.entries() {
        insert
            .execute(params![&entry.id.0[..], number, entry.offset as i64, entry.stored_len as i64])
            .context(Kind::Internal, failed)?;
    }
    Ok(())
}

/// Returns the ids of all checkpoints whose manifests are there.
pub(super) fn checkpoint_ids(history: &History) -> Result<BTreeSet<String>> {
    let names = history.store().list(ObjectKind::Checkpoint)?;
    Ok(names.iter().map(|name| name.stem().to_owned()).collect())
}
