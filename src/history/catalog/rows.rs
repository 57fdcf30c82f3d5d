//! The rows of checkpoints and segments, and the tags that they bear in a history with a key.

use std::collections::BTreeSet;

use rusqlite::{Connection, Row, params};

use super::{Catalog, CheckpointRow, SegmentRow, failed};
use crate::error::{Context, Error, Kind, Result};
use crate::history::checkpoint::Origin;
use crate::history::journal::SegmentName;
use crate::history::key::{Authorship, Tag};
use crate::model::{Lsn, PgTime};

impl Catalog {
    /// Returns all checkpoints, by epoch and position.
    ///
    /// # Errors
    /// `Internal` if the catalog fails.
    pub fn checkpoints(&self) -> Result<Vec<CheckpointRow>> {
        let rows = read_checkpoints(&*self.connection()?)?;
        rows.into_iter().map(|row| row.believed(&self.authorship)).collect()
    }

    /// Returns all sealed segments, by epoch and start.
    ///
    /// # Errors
    /// `Internal` if the catalog fails.
    pub fn segments(&self) -> Result<Vec<SegmentRow>> {
        let rows = read_segments(&*self.connection()?)?;
        let parse = |row: TaggedRow<SegmentText>| {
            let row = row.believed(&self.authorship)?;
            let summary = serde_json::from_str(&row.summary).context(Kind::Internal, failed)?;
            let name = SegmentName { epoch: row.epoch, start: row.start, sealed: true };
            Ok(SegmentRow { name, bytes: row.bytes, summary })
        };
        rows.into_iter().map(parse).collect()
    }
}

/// A row with the tag that it was found with.
pub(super) struct TaggedRow<T> {
    row: T,
    tag: Option<Vec<u8>>,
}

/// A row whose content a tag vouches for.
pub(super) trait RowContent {
    fn content(&self) -> Result<Vec<u8>>;

    fn tag(&self, authorship: &Authorship) -> Result<Option<Tag>> {
        Ok(authorship.row_tag(&self.content()?))
    }
}

impl<T: RowContent> TaggedRow<T> {
    /// # Errors
    /// `Internal` if the row could not be written out.
    pub(super) fn is_believed(&self, authorship: &Authorship) -> Result<bool> {
        let Some(expected) = self.row.tag(authorship)? else { return Ok(true) };
        let found = self.tag.as_deref().and_then(|tag| Tag::from_slice(tag).ok());
        Ok(found == Some(expected))
    }

    fn believed(self, authorship: &Authorship) -> Result<T> {
        if self.is_believed(authorship)? {
            return Ok(self.row);
        }
        // The row was believed an instant ago, when the catalog was brought up to date.
        Err(Error::internal(failed()))
    }
}

/// A sealed segment, its summary as JSON.
pub(super) struct SegmentText {
    pub(super) epoch: u32,
    pub(super) start: Lsn,
    /// The file's name within `journal/`.
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) summary: String,
}

impl RowContent for SegmentText {
    fn content(&self) -> Result<Vec<u8>> {
        let fields = ("segment", self.epoch, self.start, &self.name, self.bytes, &self.summary);
        serde_json::to_vec(&fields).context(Kind::Internal, failed)
    }
}

impl RowContent for CheckpointRow {
    fn content(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(&("checkpoint", self)).context(Kind::Internal, failed)
    }
}

/// Returns the names in the only column of the query's rows.
pub(super) fn names(connection: &Connection, query: &str) -> Result<BTreeSet<String>> {
    let mut statement = connection.prepare_cached(query).context(Kind::Internal, failed)?;
    let rows = statement.query_map([], |row| row.get(0));
    rows.and_then(Iterator::collect).context(Kind::Internal, failed)
}

/// Returns the file names of the segments whose rows are believed.
///
/// # Errors
/// `Internal` if the catalog fails.
pub(super) fn believed_segments(
    connection: &Connection,
    authorship: &Authorship,
) -> Result<BTreeSet<String>> {
    if !authorship.is_checked() {
        return names(connection, "SELECT path FROM segments");
    }
    believed(read_segments(connection)?, authorship, |row| row.name)
}

/// Returns the ids of the checkpoints whose rows are believed.
///
/// # Errors
/// `Internal` if the catalog fails.
pub(super) fn believed_checkpoints(
    connection: &Connection,
    authorship: &Authorship,
) -> Result<BTreeSet<String>> {
    if !authorship.is_checked() {
        return names(connection, "SELECT id FROM checkpoints");
    }
    believed(read_checkpoints(connection)?, authorship, |row| row.id)
}

fn believed<T: RowContent>(
    rows: Vec<TaggedRow<T>>,
    authorship: &Authorship,
    name: impl Fn(T) -> String,
) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for row in rows {
        if row.is_believed(authorship)? {
            names.insert(name(row.row));
        }
    }
    Ok(names)
}

/// # Errors
/// `Internal` if the catalog fails.
pub(super) fn put_segment(connection: &Connection, row: &SegmentText, authorship: &Authorship) -> Result<()> {
    let tag = row.tag(authorship)?.map(|tag| tag.as_bytes().to_vec());
    connection
        .execute(
            "INSERT OR REPLACE INTO segments (epoch, start, path, bytes, summary, tag) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![row.epoch, row.start.0 as i64, row.name, row.bytes as i64, row.summary, tag],
        )
        .map(drop)
        .context(Kind::Internal, failed)
}

/// # Errors
/// `Internal` if the catalog fails.
pub(super) fn put_checkpoint(
    connection: &Connection,
    row: &CheckpointRow,
    authorship: &Authorship,
) -> Result<()> {
    let tag = row.tag(authorship)?.map(|tag| tag.as_bytes().to_vec());
    let origin = if row.origin == Origin::Fold { "fold" } else { "source" };
    connection
        .execute(
            "INSERT OR REPLACE INTO checkpoints \
             (id, epoch, lsn, time, label, origin, rows, bytes_new, bytes_total, tag) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            params![
                row.id,
                row.epoch,
                row.lsn.0 as i64,
                row.time.0,
                row.label,
                origin,
                row.rows as i64,
                row.bytes_new as i64,
                row.bytes_total as i64,
                tag
            ],
        )
        .map(drop)
        .context(Kind::Internal, failed)
}

fn read_checkpoints(connection: &Connection) -> Result<Vec<TaggedRow<CheckpointRow>>> {
    let query = "SELECT id, epoch, lsn, time, label, origin, rows, bytes_new, bytes_total, tag \
                 FROM checkpoints ORDER BY epoch, lsn, id";
    all(connection, query, |row| {
        let checkpoint = CheckpointRow {
            id: row.get(0)?,
            epoch: row.get(1)?,
            lsn: Lsn(row.get::<_, i64>(2)? as u64),
            time: PgTime(row.get(3)?),
            label: row.get(4)?,
            origin: if row.get::<_, String>(5)? == "fold" { Origin::Fold } else { Origin::Source },
            rows: row.get::<_, i64>(6)? as u64,
            bytes_new: row.get::<_, i64>(7)? as u64,
            bytes_total: row.get::<_, i64>(8)? as u64,
        };
        Ok(TaggedRow { row: checkpoint, tag: row.get(9)? })
    })
}

fn read_segments(connection: &Connection) -> Result<Vec<TaggedRow<SegmentText>>> {
    let query = "SELECT epoch, start, path, bytes, summary, tag FROM segments ORDER BY epoch, start";
    all(connection, query, |row| {
        let segment = SegmentText {
            epoch: row.get(0)?,
            start: Lsn(row.get::<_, i64>(1)? as u64),
            name: row.get(2)?,
            bytes: row.get::<_, i64>(3)? as u64,
            summary: row.get(4)?,
        };
        Ok(TaggedRow { row: segment, tag: row.get(5)? })
    })
}

fn all<T>(
    connection: &Connection,
    query: &str,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    let mut statement = connection.prepare_cached(query).context(Kind::Internal, failed)?;
    let rows = statement.query_map([], read);
    rows.and_then(Iterator::collect).context(Kind::Internal, failed)
}
