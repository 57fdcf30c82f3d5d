//! Compares the recovered definitions with those that were to be recovered.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::definitions::SchemaAt;
use super::plan::Plan;
use super::refused::RefusedObject;
use super::sink::{ComputedColumn, Sink};
use crate::ambient;
use crate::error::Result;
use crate::model::Inexact;
use crate::model::schema_digests::{DifferenceKind, SchemaDifference, name_differences};

/// The definitions that the target does not have as they were to be recovered.
#[derive(Default)]
pub(super) struct ComparedDefinitions {
    /// The columns that another function computed than on the source.
    computed_anew: Vec<Inexact>,
    differences: Vec<SchemaDifference>,
}

/// Names the columns that a function computed anew which is not the one that computed them on the source. The stream does
/// not carry computed values, and the server takes none.
async fn computed_anew(plan: &Plan, schema: &SchemaAt, sink: &Sink) -> Result<Vec<Inexact>> {
    let columns = sink.computed_columns().await?;
    if columns.is_empty() || plan.partial {
        return Ok(Vec::new());
    }
    let past = Arc::clone(&plan.past);
    let reading = ambient::blocking("reading the checkpoints", move || past.schema_digests());
    let known = reading.await?;
    let is_replaced = |function: &str| {
        let all = known.iter().chain(&schema.digests).filter_map(|digests| digests.of_object(function));
        all.collect::<BTreeSet<_>>().len() > 1
    };
    let named = columns.into_iter().filter(|it| is_replaced(&it.function)).map(|it| {
        let ComputedColumn { table, column, function } = it;
        let why = format!(
            "column {column} is computed anew: {function}, which it calls, was replaced, and rows of before may have held \
             what the former one gave"
        );
        Inexact { what: table, why }
    });
    Ok(named.collect())
}

/// Compares the target's definitions with those that were to be recovered, and looks for columns that are computed anew. If
/// only some tables are wanted, most objects are missing by intent. If that fails, a note says so.
pub(super) async fn compare_definitions(
    plan: &Plan,
    schema: &SchemaAt,
    sink: &Sink,
    notes: &mut Vec<String>,
) -> ComparedDefinitions {
    let compared = compare(plan, schema, sink).await;
    compared.unwrap_or_else(|error| {
        notes.push(format!("the recovered definitions were not compared: {error}"));
        ComparedDefinitions::default()
    })
}

async fn compare(plan: &Plan, schema: &SchemaAt, sink: &Sink) -> Result<ComparedDefinitions> {
    let computed_anew = computed_anew(plan, schema, sink).await?;
    let Some(wanted) = &schema.digests else {
        return Ok(ComparedDefinitions { computed_anew, differences: Vec::new() });
    };
    let mut differences = sink.schema_differences(wanted).await?.unwrap_or_default();
    differences.retain(|it| !plan.partial || matches!(it.kind, DifferenceKind::Parts(_)));
    Ok(ComparedDefinitions { computed_anew, differences })
}

impl ComparedDefinitions {
    /// Adds to what is not exact what was left out, and the differences that this does not explain.
    pub fn name(mut self, left_out: &[RefusedObject], inexact: &mut Vec<Inexact>) {
        inexact.append(&mut self.computed_anew);
        let is_new = |object: &&RefusedObject| !inexact.iter().any(|it| object.is_named_by(it));
        let new: Vec<_> = left_out.iter().filter(is_new).map(RefusedObject::as_inexact).collect();
        self.differences.retain(|difference| !left_out.iter().any(|object| object.explains(difference)));
        name_differences(&self.differences, "what was to be recovered", inexact);
        inexact.extend(new);
    }
}
