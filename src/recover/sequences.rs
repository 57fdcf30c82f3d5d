//! Finds the value to which each sequence is set at a moment.

use std::collections::BTreeMap;

use super::archive::{Entry, Toc};
use super::plan::Plan;
use super::sink::SequenceValue;
use crate::fold::Folded;
use crate::model::schema::quote_ident;
use crate::model::{Inexact, SequenceOwner, SequenceState};

/// A sequence that the recovered schema has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeSequence {
    pub schema: String,
    pub name: String,
    /// The sequence's oid at the source, which finds samples taken under another name; `None` if only the name is
    /// known.
    pub oid: Option<u32>,
}

/// Returns the sequences of an archive that was dumped from the source, by their oids. `known` are the sequences of the
/// checkpoint, since an archive in another encoding than UTF-8 is not read for its names.
pub fn made_by_source(toc: &Toc, known: &[SequenceState]) -> BTreeMap<u32, MadeSequence> {
    let made = |entry: &Entry| {
        let (schema, name) = (entry.schema.clone().unwrap_or_default(), entry.tag.clone());
        let unread = [&schema, &name].iter().any(|it| it.contains(char::REPLACEMENT_CHARACTER));
        let (schema, name) = match known.iter().find(|state| unread && state.oid == entry.oid) {
            Some(state) => (state.schema.clone(), state.name.clone()),
            None => (schema, name),
        };
        (entry.oid, MadeSequence { schema, name, oid: Some(entry.oid) })
    };
    toc.entries.iter().filter(|entry| entry.kind == "SEQUENCE").map(made).collect()
}

/// Returns the value of each sequence, and the sequences for which there is no sample.
///
/// A sample is taken at another instant than the moment, so the sequence may have another name in the sample.
/// If no sample at or after the moment shows the sequence, a value may have been handed out that no sample shows. The
/// sequence is then set at least to the largest value in use.
pub fn sequence_values(
    plan: &Plan,
    made: &[MadeSequence],
    folded: &Folded,
) -> (Vec<SequenceValue>, Vec<Inexact>) {
    let is_sampled = folded.sequences_sampled >= plan.past.until();
    let unsampled = |oid| !is_sampled || folded.sequences_set_back.contains(&oid);
    let (mut values, mut unknown) = (Vec::new(), Vec::new());
    for sequence in made {
        let MadeSequence { schema, name, oid } = sequence;
        let is_it = |state: &&SequenceState| match oid {
            Some(oid) => state.oid == *oid,
            None => (&state.schema, &state.name) == (schema, name),
        };
        let Some(state) =
            folded.sequences.iter().find(is_it).or_else(|| plan.past.base().sequences.iter().find(is_it))
        else {
            unknown.push(Inexact {
                what: format!("sequence {schema}.{name}"),
                why: "no sample of it is held, so it stands at its start, and may hand out values in use"
                    .into(),
            });
            continue;
        };
        let owner = state.owner.as_ref().filter(|owner| unsampled(state.oid) && is_wanted(plan, owner));
        values.push(value_of(state, sequence, owner));
    }
    (values, unknown)
}

fn is_wanted(plan: &Plan, owner: &SequenceOwner) -> bool {
    plan.chosen.tables.iter().any(|table| {
        (&table.schema, &table.name) == (&owner.schema, &owner.table)
            && table.columns.iter().any(|column| column.name == owner.column)
    })
}

fn value_of(state: &SequenceState, named: &MadeSequence, at_least: Option<&SequenceOwner>) -> SequenceValue {
    let quoted = |owner: &SequenceOwner| {
        let table = format!("{}.{}", quote_ident(&owner.schema), quote_ident(&owner.table));
        (table, quote_ident(&owner.column))
    };
    SequenceValue {
        schema: named.schema.clone(),
        name: named.name.clone(),
        last_value: state.last_value,
        is_called: state.is_called,
        at_least: at_least.map(quoted),
        descending: state.increment < 0,
    }
}
