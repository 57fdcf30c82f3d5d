//! The indexes of changes of segments that have none of their own, see [`ChangeIndex`].

use rusqlite::{OptionalExtension, params};

use super::opening::keep_sealed;
use super::{Catalog, failed};
use crate::error::{Context, Kind, Result};
use crate::history::journal::{ChangeIndex, Segment};
use crate::history::key::Digest;

impl Catalog {
    /// Returns the index of a segment's changes, which is made if the catalog does not have it yet. Where it cannot be
    /// kept (the disk is full), it is made again the next time.
    ///
    /// # Errors
    /// `Damaged` if the segment is, `Internal` if the catalog fails.
    pub fn changes_of(&self, segment: &Segment) -> Result<ChangeIndex> {
        let digest = segment.blocks_digest();
        if let Some(known) = self.known_changes(segment, &digest)? {
            return Ok(known);
        }
        let made = segment.index_changes()?;
        let tag = self.changes_tag(&digest, &made);
        let row = params![
            &digest.as_bytes()[..],
            segment.name().file_name(),
            made.counts_bytes(),
            made.filter_bytes(),
            &tag.as_bytes()[..]
        ];
        let put = "INSERT OR REPLACE INTO change_indexes (segment, path, counts, filters, tag) VALUES (?1, ?2, ?3, ?4, ?5)";
        let connection = self.connection()?;
        match (connection.execute(put, row), &self.kept) {
            (Ok(_), Some(file)) => keep_sealed(&connection, file),
            (Ok(_), None) => {}
            (Err(error), _) => {
                tracing::debug!("the index of {}'s changes is not kept: {error}", segment.name().file_name());
            }
        }
        Ok(made)
    }

    fn known_changes(&self, segment: &Segment, digest: &Digest) -> Result<Option<ChangeIndex>> {
        let connection = self.connection()?;
        let mut statement = connection
            .prepare_cached("SELECT counts, filters, tag FROM change_indexes WHERE segment = ?1")
            .context(Kind::Internal, failed)?;
        let row = statement.query_row([&digest.as_bytes()[..]], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get::<_, Vec<u8>>(2)?))
        });
        let row = row.optional().context(Kind::Internal, failed)?;
        Ok(row.and_then(|(counts, filters, tag)| {
            let found = ChangeIndex::of_segment(segment.footer().blocks.len(), counts, filters)?;
            (self.changes_tag(digest, &found).as_bytes()[..] == tag).then_some(found)
        }))
    }

    fn changes_tag(&self, digest: &Digest, changes: &ChangeIndex) -> Digest {
        let content = [&b"changes"[..], digest.as_bytes(), changes.digest().as_bytes()].concat();
        self.authorship.row_tag(&content).unwrap_or_else(|| blake3::hash(&content))
    }
}
