//! What each sequence is set to at a moment.

use super::plan::Plan;
use super::sink::SequenceValue;
use crate::history::checkpoint::{SequenceOwner, SequenceState};
use crate::model::schema::quote_ident;

/// A sequence as the archive has it: schema and name.
pub type SequenceName = (String, String);

/// What each sequence is set to. `unsampled`: no sample at or after the moment tells how it stood, so
/// a value may have been handed out that no sample shows; the largest in use is the least that will do.
pub fn sequence_values(
    plan: &Plan,
    sequences: &[SequenceState],
    unsampled: impl Fn(u32) -> bool,
) -> Vec<SequenceValue> {
    let mut values = Vec::new();
    for known in &plan.base.sequences {
        let Some(state) = sequences.iter().find(|state| state.oid == known.oid) else { continue };
        let owner = known.owner.as_ref();
        if plan.partial && owner.is_none_or(|owner| !plan.selection.takes(&owner.schema, &owner.table)) {
            continue;
        }
        // Its name and owner as the recovered schema has them.
        values.push(value_of(state, (&known.schema, &known.name), owner.filter(|_| unsampled(known.oid))));
    }
    values
}

/// As [`sequence_values`], where definitions changed since the checkpoint: for those sequences that the
/// schema of the moment has. One that was renamed after the moment is known by its number.
pub fn made_sequences(
    plan: &Plan,
    made: &[SequenceName],
    sequences: &[SequenceState],
    unsampled: impl Fn(u32) -> bool,
) -> Vec<SequenceValue> {
    let mut values = Vec::new();
    for (schema, name) in made {
        let named = |state: &&SequenceState| (&state.schema, &state.name) == (schema, name);
        let earlier = || plan.base.sequences.iter().find(named);
        let now = || sequences.iter().find(|state| earlier().is_some_and(|known| known.oid == state.oid));
        let Some(state) = sequences.iter().find(named).or_else(now).or_else(earlier) else { continue };
        let owner = state.owner.as_ref().filter(|owner| {
            unsampled(state.oid)
                && plan.wanted.iter().any(|table| {
                    (&table.schema, &table.name) == (&owner.schema, &owner.table)
                        && table.columns.iter().any(|column| column.name == owner.column)
                })
        });
        values.push(value_of(state, (schema, name), owner));
    }
    values
}

fn value_of(
    state: &SequenceState,
    (schema, name): (&str, &str),
    at_least: Option<&SequenceOwner>,
) -> SequenceValue {
    let quoted = |owner: &SequenceOwner| {
        let table = format!("{}.{}", quote_ident(&owner.schema), quote_ident(&owner.table));
        (table, quote_ident(&owner.column))
    };
    SequenceValue {
        schema: schema.to_owned(),
        name: name.to_owned(),
        last_value: state.last_value,
        is_called: state.is_called,
        at_least: at_least.map(quoted),
        descending: state.increment < 0,
    }
}
