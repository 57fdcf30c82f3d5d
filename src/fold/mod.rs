//! Checkpoint + the journal after it up to a moment → the rows at that moment.
//!
//! [`fold`] follows the journal once. For each row that the journal touches, only the last version is kept, in a delta
//! beside the table's image. Image and delta are merged when the rows are read. Where the deltas outgrow their budget,
//! the largest one is merged into an intermediate image on local disk and begun anew, so memory is bounded whatever the
//! length of the journal.

mod delta;
mod deltas;
mod find;
mod image;
mod moved;
mod point;
mod range;
mod rewrite;
mod rows;
mod schema;
mod sequences;
mod source;
mod table;
mod tally;
#[cfg(test)]
mod tests;
mod touched;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

pub use delta::FastMap;
pub use deltas::SoughtKeys;
pub use find::AskedRows;
pub use range::KeyRange;
pub use rows::{Portion, TableRows};
pub use table::FoldedTable;
pub use tally::Tally;

use crate::error::Result;
use crate::follow::{EventKind, Follow, JournalRange, Wanted};
use crate::history::catalog::Catalog;
use crate::history::checkpoint::Checkpoint;
use crate::history::definitions::SchemaKnown;
use crate::history::image::{Blocks, Cuts};
use crate::history::journal::ChosenBlocks;
use crate::history::timeline::SegmentView;
use crate::model::{Inexact, Lsn, SequenceState};
use crate::progress::{Progress, Unit};
use crate::signal::DefinitionChange;
use crate::signal::key::MessageKey;
use deltas::Deltas;
use schema::SchemaGrade;
use sequences::Sequences;

/// Everything that a fold needs.
pub struct FoldInput<'a> {
    pub catalog: &'a Arc<Catalog>,
    /// The blocks of the base's images.
    pub blocks: &'a Blocks,
    /// The rule by which the history's images are cut.
    pub cuts: Cuts,
    pub base: &'a Checkpoint,
    /// Exclusive: the fold takes the transactions that committed from the base's position to before this one.
    pub until: Lsn,
    /// The position for which the schema matters. It is before `until` if that is only the first commit after a time.
    pub definitions_at: Lsn,
    /// The segments that hold the transactions and what comes after them, in order.
    pub segments: &'a [SegmentView],
    /// Tells backwhen's own messages in the journal from others.
    pub key: &'a MessageKey,
    /// Tells which tables matter; the others are left out.
    pub wanted: Wanted<'a>,
    /// The part of the journal that is read if only rows are asked for. The fold then tells neither sequences nor the schema.
    pub rows_only: Option<RowsOnly<'a>>,
    /// The bytes that all deltas together may take.
    pub budget: usize,
    /// The folder in which a folder for intermediate images is made.
    pub scratch: &'a Path,
    pub progress: &'a dyn Progress,
}

/// The part of the journal that is read for some rows.
pub struct RowsOnly<'a> {
    pub blocks: ChosenBlocks,
    /// Changes of transactions that committed before this position are passed over, since some of them may lie in blocks
    /// that are not read.
    pub since: Lsn,
    /// The rows, if the blocks do not hold all changes of the tables. Nothing is said of others then.
    pub sought: Option<&'a SoughtKeys>,
}

/// The sequences as the samples that a cursor passes tell them.
///
/// # Errors
/// `Damaged` if the journal is.
pub fn sampled_sequences(base: &Checkpoint, mut follow: Follow<'_>) -> Result<Vec<SequenceState>> {
    let mut sequences = Sequences::new(base);
    while let Some(event) = follow.next_event()? {
        sequences.take(&event);
    }
    Ok(sequences.states.into_values().collect())
}

/// The database at a moment.
pub struct Folded {
    /// In the order of their oids.
    pub tables: Vec<FoldedTable>,
    pub sequences: Vec<SequenceState>,
    /// The sequences were read no earlier than this position. It is before `until` if no sample follows that.
    pub sequences_sampled: Lsn,
    /// The oids of the sequences that were set back between the moment and that sample.
    pub sequences_set_back: BTreeSet<u32>,
    pub transactions: u64,
    /// The rows that these transactions inserted, updated or deleted.
    pub changes: u64,
    /// Whether the heartbeats up to the first one after the moment saw a schema change that nothing had told.
    pub definitions: SchemaKnown,
    /// The schema changes that the event triggers told between the base and the moment.
    pub definition_changes: Vec<DefinitionChange>,
    pub inexact: Vec<Inexact>,
    /// The keys that sought rows had before, if what they lack of values lies there. They must be sought too.
    pub origins: SoughtKeys,
}

/// Follows the journal once and folds its changes over the base.
///
/// # Errors
/// `Damaged` if the journal or the image is, or if they contradict each other.
pub fn fold(input: &FoldInput<'_>) -> Result<Folded> {
    let FoldInput { base, until, segments, progress, .. } = *input;
    let journal = JournalRange { segments, after: base.lsn, until };
    let mut follow = Follow::new(base, journal, input.key, input.wanted);
    if let Some(rows) = &input.rows_only {
        follow = follow.reading_only(&rows.blocks).showing_from(rows.since);
    }
    let mut deltas = Deltas::new(input);
    let (mut sequences, mut schema) = (Sequences::new(base), SchemaGrade::new(base));
    let (mut definition_changes, mut transactions, mut told) = (Vec::new(), 0, 0);
    let mut blocks_read = 0;
    progress.phase("folding", 0, Unit::Transactions);
    while let Some(event) = follow.next_event()? {
        deltas.take(&event)?;
        // Most events are rows, which tell nothing of sequences and schema.
        if !matches!(event.kind, EventKind::Row { .. }) {
            sequences.take(&event);
            schema.take(&event);
        }
        match &event.kind {
            EventKind::Definition { change, .. } => definition_changes.push((*change).clone()),
            EventKind::Commit => transactions += 1,
            _ => {}
        }
        if follow.blocks_read() > blocks_read {
            blocks_read = follow.blocks_read();
            progress.advance(transactions - told);
            told = transactions;
            deltas.keep_within_budget()?;
        }
    }
    progress.advance(transactions - told);
    deltas.keep_within_budget()?;
    // The first sample after a moment tells the sequences at the moment, and the first heartbeat tells of its schema.
    follow.go_beyond();
    while input.rows_only.is_none() && !(sequences.are_known(until) && schema.is_seen(input.definitions_at)) {
        let Some(event) = follow.next_event()? else { break };
        sequences.take_later(&event, until);
        schema.take(&event);
    }
    let (changes, origins) = (deltas.changes, std::mem::take(&mut deltas.origins));
    let tables = deltas.finish(&mut follow)?;
    let all = base.inexact.iter().cloned().chain(follow.inexact()).chain(sequences.inexact());
    let inexact: BTreeSet<_> = all.map(|it| (it.what, it.why)).collect();
    Ok(Folded {
        tables,
        sequences: sequences.states.into_values().collect(),
        sequences_sampled: sequences.sampled,
        sequences_set_back: sequences.set_back,
        transactions,
        changes,
        definitions: schema.known(),
        definition_changes,
        origins,
        inexact: inexact.into_iter().map(|(what, why)| Inexact { what, why }).collect(),
    })
}
