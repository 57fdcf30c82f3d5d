//! Losses that left no trace at the moment itself, but were found out later.

use super::{Past, Reading};
use crate::error::Result;
use crate::history::catalog::CheckpointRow;
use crate::history::checkpoint::{Checkpoint, Origin};
use crate::history::timeline::{Stretch, Timeline};
use crate::model::{Inexact, Lsn, Selection};

/// Returns the losses known to have happened before `until` in the epoch of the stretch.
///
/// # Errors
/// `Damaged` if a checkpoint's manifest is.
pub(super) fn doubts(
    reading: &Reading,
    stretch: &Stretch,
    until: Lsn,
    selection: &Selection,
) -> Result<Vec<Inexact>> {
    let mut found = at_the_end(reading.timeline(), stretch.epoch.number, until);
    found.extend(found_by_resync(reading, stretch, until)?);
    let takes =
        |it: &Inexact| it.what.split_once('.').is_none_or(|(schema, name)| selection.takes(schema, name));
    found.retain(takes);
    Ok(found)
}

impl Past {
    /// Returns the positions between this past and `until` at which rows were corrected, with the oids and names of the
    /// tables: changes had been lost, and no transaction of the journal tells them.
    ///
    /// # Errors
    /// `Damaged` if a checkpoint's manifest is.
    pub fn corrections(&self, until: Lsn) -> Result<Vec<(Lsn, Vec<(u32, String)>)>> {
        let between = |row: &&CheckpointRow| self.until() < row.lsn && row.lsn <= until;
        let rows = self.stretch().checkpoints.iter().filter(between);
        let mut found = Vec::new();
        for row in rows.filter(|row| row.origin == Origin::Source) {
            let checkpoint = self.history().read_checkpoint(&row.id)?;
            // Only parts of a checkpoint with a base were read from the source.
            let resync = checkpoint.resync.as_ref().filter(|_| checkpoint.base.is_none());
            let tables: Vec<_> = resync
                .into_iter()
                .flat_map(|resync| resync.differing())
                .map(|table| (table.oid, table.table.clone()))
                .collect();
            if !tables.is_empty() {
                found.push((row.lsn, tables));
            }
        }
        Ok(found)
    }
}

/// Returns what the end of an epoch may lack, as the next epoch recorded it.
fn at_the_end(timeline: &Timeline, epoch: u32, until: Lsn) -> Vec<Inexact> {
    let after = timeline.stretches.iter().filter_map(|stretch| stretch.epoch.after.as_ref());
    let doubt = after.filter(|after| after.epoch == epoch).find_map(|after| after.doubt.as_ref());
    let Some(doubt) = doubt.filter(|doubt| doubt.from < until) else { return Vec::new() };
    let inexact = |table: &String| Inexact {
        what: table.clone(),
        why: format!("may lack changes since {}: {}", doubt.from, doubt.why),
    };
    doubt.tables.iter().map(inexact).collect()
}

/// Returns the tables whose rows differed from the source at the next checkpoint that was compared with it. The changes
/// were lost somewhere after the last time that the whole source was read or compared.
fn found_by_resync(reading: &Reading, stretch: &Stretch, until: Lsn) -> Result<Vec<Inexact>> {
    let mut since = stretch.epoch.start;
    // A single checkpoint is doubted by checkpoints that came after its journal too.
    let rows = reading.timeline().checkpoints_of(stretch.epoch.number);
    for row in rows.into_iter().filter(|row| row.origin == Origin::Source) {
        let checkpoint = reading.history().read_checkpoint(&row.id)?;
        // Only parts of this checkpoint were read from the source.
        if checkpoint.base.is_some() {
            continue;
        }
        if row.lsn <= until {
            since = row.lsn;
            continue;
        }
        let lost = checkpoint.resync.iter().flat_map(|resync| resync.differing());
        let lost = lost.map(|table| inexact(&table.table, since, &checkpoint));
        return Ok(if since < until { lost.collect() } else { Vec::new() });
    }
    Ok(Vec::new())
}

fn inexact(table: &str, since: Lsn, checkpoint: &Checkpoint) -> Inexact {
    let why = format!(
        "may lack changes since {since}: at {} ({}) the source was found to have other rows",
        checkpoint.lsn, checkpoint.time
    );
    Inexact { what: table.to_owned(), why }
}
