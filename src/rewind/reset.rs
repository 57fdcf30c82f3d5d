//! Puts all of a database back to a mark: definitions and sequences as well as rows.

use crate::connect::Session;
use crate::error::{Error, Result};
use crate::model::schema_digests::SchemaDigests;
use crate::model::{Lsn, SequenceState};
use crate::past::Past;
use crate::source::amend::Removal;

/// A database at a mark, besides its rows.
#[derive(Clone, Debug)]
pub struct MarkedState {
    pub digests: SchemaDigests,
    pub sequences: Vec<SequenceState>,
}

impl MarkedState {
    /// Reads the state from the history.
    ///
    /// # Errors
    /// `Refused` if the definitions at the mark are not known; `Damaged` if the history is.
    pub fn of(past: &Past) -> Result<MarkedState> {
        let digests = past.known_digests()?.ok_or_else(|| {
            Error::refused(
                "the definitions at that mark are not known: the schema had just changed, or no event triggers tell its \
                 changes; put it right by hand, then run backwhen checkpoint --from-source and backwhen mark NAME, and \
                 reset to that mark",
            )
        })?;
        Ok(MarkedState { digests, sequences: past.sampled_sequences()? })
    }

    /// Finds the statements that take away the definitions made since. `since` is a position up to which the
    /// definitions are known to be those of the mark.
    ///
    /// # Errors
    /// `Refused` if objects were dropped or changed; `Damaged` if the history is.
    pub async fn removal(&self, past: &Past, since: Lsn, session: &Session) -> Result<Removal> {
        if !past.has_schema_changes_since(since)? {
            return Ok(Removal::default());
        }
        Removal::plan(session, &self.digests).await
    }
}
