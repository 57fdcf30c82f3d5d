//! The entries of an archive that a plan wants, and what is known of them before anything is made.

use super::archive::{Archive, EntrySelection};
use super::definitions::base_schema;
use super::plan::Plan;
use super::refused::RefusedObject;
use super::sink::{self, ArchiveDefinitions, Destination};
use crate::error::Result;

pub(super) fn entries_of(plan: &Plan, archive: &Archive) -> EntrySelection {
    if plan.partial {
        EntrySelection::tables(&archive.toc, |schema, name| plan.chosen.selection.takes(schema, name))
    } else {
        EntrySelection::whole(&archive.toc)
    }
}

/// Returns what a target will refuse, as far as that is known before anything is made. The definitions are those of the
/// checkpoint: nothing is replayed. Takes the tables to which rows will refer into the plan.
///
/// # Errors
/// Fails with `Damaged` if the archive is, and with `Unavailable` if the server cannot be asked.
pub async fn foresee(plan: &mut Plan, destination: Option<&Destination>) -> Result<Vec<RefusedObject>> {
    if plan.filter.is_none() && destination.is_none() {
        return Ok(Vec::new());
    }
    let schema = base_schema(&plan.past)?;
    let archive = schema.open()?;
    plan.add_references(&archive.toc)?;
    let Some(Destination::Postgres(info)) = destination else { return Ok(Vec::new()) };
    let entries = entries_of(plan, &archive);
    sink::foresee(info, ArchiveDefinitions::new(archive, entries)?).await
}

/// Makes the notes for a recovery of some tables: which objects it leaves out, and which it takes in beyond the tables.
pub(super) fn partial_notes(entries: &EntrySelection) -> Vec<String> {
    let left_out = entries
        .left_out
        .iter()
        .map(|what| format!("left out, as it refers to what is not recovered: {what}"));
    let empty = entries.definition_only.iter();
    let empty = empty
        .map(|(schema, name)| format!("made without rows, as a recovered table needs it: {schema}.{name}"));
    left_out.chain(empty).collect()
}
