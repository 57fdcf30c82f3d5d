//! Fills a sink: folds the history, and loads and proves the rows.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::archive::AfterRows;
use super::changes::{amend, keep_part, try_condition};
use super::definitions::SchemaAt;
use super::load::{LoadOutcome, load_all};
use super::part::TablePart;
use super::plan::Plan;
use super::recovery::{Execution, FillOutcome, Recovery};
use super::report::Phases;
use super::sequences::{MadeSequence, sequence_values};
use super::sink::{SequenceValue, Sink};
use crate::ambient;
use crate::error::Result;
use crate::fold::{Folded, FoldedTable};
use crate::history::definitions::SchemaKnown;
use crate::model::{Inexact, Table};
use crate::past::RECOVERY_BUDGET;
use crate::progress::{Progress, Unit};

impl Recovery {
    pub(super) async fn fill(
        &self,
        sink: &Arc<Sink>,
        made: &[MadeSequence],
        phases: &mut Phases,
    ) -> Result<FillOutcome> {
        let (plan, execution, schema) = (&self.plan, &self.execution, &self.schema);
        ambient::pass("recover.opened")?;
        if execution.schema_only {
            return define(plan, execution, sink, schema).await;
        }
        // The server makes tables while the journal is read.
        let wanted: BTreeSet<u32> = plan.chosen.tables.iter().map(|table| table.oid).collect();
        let folding = async {
            let begun = ambient::instant();
            (fold_plan(plan, &execution.progress, wanted).await, begun.elapsed())
        };
        let (defined, (folded, fold_time)) = tokio::join!(self.define(sink), folding);
        let (set_aside, notes) = defined?;
        let folded = folded?;
        phases.end("schema and fold");
        let known = schema_known(plan, &folded)?;
        let mut inexact = inexact(plan, &folded, &known);
        let replayed: Vec<_> = schema.inexact.iter().filter(|it| !inexact.contains(it)).cloned().collect();
        inexact.extend(replayed.into_iter().chain(set_aside));
        let tables = folded.tables.len() as u64;
        let (sequences, unknown) = sequence_values(plan, made, &folded);
        inexact.extend(unknown);
        let (loaded, part) = match &self.template {
            Some(template) => {
                let read_all_with = execution.reads_all_back.then_some(execution.jobs);
                let reached = template.reach(plan, sink, &folded.tables, read_all_with).await?;
                phases.end("change rows and prove");
                (reached, Vec::new())
            }
            None => {
                let retyped = inexact.iter().filter(|it| it.is_retyped()).map(|it| it.what.clone()).collect();
                load_and_index(plan, execution, sink, (folded.tables, &retyped, &inexact), phases).await?
            }
        };
        inexact.extend(loaded.inexact);
        self.finish_rows(sink, &sequences, &mut inexact).await?;
        phases.end("sequences and views");
        ambient::pass("recover.valid")?;
        Ok(FillOutcome {
            schema: known,
            transactions: folded.transactions,
            fold_time,
            tables,
            rows: loaded.rows,
            inexact,
            proved: loaded.proved,
            part,
            notes,
            digests: loaded.digests,
        })
    }

    /// Makes what comes before the rows; a copy of a template has it. Returns the objects that are not exact, and notes.
    async fn define(&self, sink: &Sink) -> Result<(Vec<Inexact>, Vec<String>)> {
        if self.template.is_some() {
            return Ok((sink.guard_copy().await?, Vec::new()));
        }
        let set_aside = sink.pre_data().await?;
        Ok((set_aside, try_condition(&self.plan, sink).await?))
    }

    /// Sets what follows from the rows: sequences and materialised views.
    async fn finish_rows(
        &self,
        sink: &Sink,
        sequences: &[SequenceValue],
        inexact: &mut Vec<Inexact>,
    ) -> Result<()> {
        inexact.extend(sink.set_sequences(sequences).await?);
        if !self.plan.partial {
            self.execution.progress.phase("refreshing materialised views", 0, Unit::Tables);
            sink.refresh_materialized_views(&self.schema.facts.materialized_views).await?;
        }
        Ok(())
    }
}

/// Loads the rows, and then creates indexes, constraints and triggers. Tables whose values may name an index are loaded
/// once there are indexes.
async fn load_and_index(
    plan: &Plan,
    execution: &Execution,
    sink: &Arc<Sink>,
    (tables, retyped, inexact): (Vec<FoldedTable>, &BTreeSet<String>, &[Inexact]),
    phases: &mut Phases,
) -> Result<(LoadOutcome, Vec<TablePart>)> {
    let all: Vec<&Table> = tables.iter().map(|folded| &folded.table).collect();
    let there = sink.tables_there(&all).await?;
    let tables: Vec<_> = tables.into_iter().filter(|folded| there.contains(&folded.table.oid)).collect();
    let all: Vec<&Table> = tables.iter().map(|folded| &folded.table).collect();
    let naming = sink.tables_that_name(&all).await?;
    let (last, first): (Vec<_>, Vec<_>) =
        tables.into_iter().partition(|folded| naming.contains(&folded.table.oid));
    let mut loaded = load(plan, execution, sink, (first, retyped)).await?;
    ambient::pass("recover.loaded")?;
    phases.end("load and prove");
    if !plan.partial {
        sink.large_objects().await?;
    }
    let making = || execution.progress.phase("building indexes and constraints", 0, Unit::Tables);
    making();
    let mut part = Vec::new();
    if last.is_empty() && plan.filter.is_none() {
        sink.post_data(execution.jobs, AfterRows::Whole, &exact_tables(plan, &loaded, inexact)).await?;
    } else {
        sink.post_data(execution.jobs, AfterRows::Names, &HashSet::new()).await?;
        loaded.add(load(plan, execution, sink, (last, retyped)).await?);
        if let Some(change) = execution.amend.as_ref().filter(|_| plan.filter.is_some()) {
            amend(plan, &**change, sink, &mut loaded).await?;
        }
        part = keep_part(plan, sink, &mut loaded).await?;
        making();
        sink.post_data(execution.jobs, AfterRows::Remainder, &exact_tables(plan, &loaded, inexact)).await?;
    }
    loaded.inexact = sink.bring_back_checks().await?;
    if let Some(change) = execution.amend.as_ref().filter(|_| plan.filter.is_none()) {
        amend(plan, &**change, sink, &mut loaded).await?;
    }
    ambient::pass("recover.indexed")?;
    phases.end("indexes and constraints");
    Ok((loaded, part))
}

/// Returns the names of the tables that have exactly the rows of the source.
fn exact_tables(plan: &Plan, loaded: &LoadOutcome, inexact: &[Inexact]) -> HashSet<String> {
    if plan.filter.is_some() {
        return HashSet::new();
    }
    let names = loaded.digests.iter().map(|digest| digest.table.clone());
    names.filter(|name| inexact.iter().all(|it| !it.what.contains(name))).collect()
}

/// Loads tables. Those whose rows the sink refuses are folded and loaded again, once what refused them is taken away.
async fn load(
    plan: &Plan,
    execution: &Execution,
    sink: &Arc<Sink>,
    (tables, retyped): (Vec<FoldedTable>, &BTreeSet<String>),
) -> Result<LoadOutcome> {
    let mut loaded = load_all(tables, execution.jobs, &execution.progress, sink, retyped).await?;
    loop {
        let mut again = BTreeSet::new();
        for (table, error) in std::mem::take(&mut loaded.refused) {
            if sink.make_way(&table, error).await? {
                again.insert(table.oid);
            }
        }
        if again.is_empty() {
            return Ok(loaded);
        }
        let folded = fold_plan(plan, &execution.progress, again).await?;
        loaded.add(load_all(folded.tables, execution.jobs, &execution.progress, sink, retyped).await?);
    }
}

/// Creates the schema without rows. There are no digests to prove.
async fn define(
    plan: &Plan,
    execution: &Execution,
    sink: &Arc<Sink>,
    schema: &SchemaAt,
) -> Result<FillOutcome> {
    let set_aside = sink.pre_data().await?;
    sink.post_data(execution.jobs, AfterRows::Whole, &HashSet::new()).await?;
    let of_schema = plan.inexact.iter().filter(|found| found.what == "schema").cloned();
    Ok(FillOutcome {
        schema: plan.schema,
        transactions: 0,
        fold_time: Duration::ZERO,
        tables: 0,
        rows: 0,
        inexact: of_schema.chain(schema.inexact.iter().cloned()).chain(set_aside).collect(),
        proved: false,
        part: Vec::new(),
        notes: Vec::new(),
        digests: Vec::new(),
    })
}

/// Returns how well the schema is known: if event triggers told schema changes, the fold finds out whether there was an
/// untold one besides.
pub(super) fn schema_known(plan: &Plan, folded: &Folded) -> Result<SchemaKnown> {
    Ok(match plan.schema {
        SchemaKnown::Exactly if !plan.past.changes_since_archive()?.is_empty() => folded.definitions,
        planned => planned,
    })
}

/// Joins what the plan knows for certain to be inexact with what the fold found.
pub(super) fn inexact(plan: &Plan, folded: &Folded, known: &SchemaKnown) -> Vec<Inexact> {
    let planned = plan.inexact.iter().filter(|it| !plan.inexact.perhaps_tables.contains(it));
    let mut all: Vec<_> = planned.cloned().collect();
    let new: Vec<_> =
        folded.inexact.iter().cloned().chain(known.inexact()).filter(|found| !all.contains(found)).collect();
    all.extend(new);
    all
}

/// Folds the tables of a plan that are wanted, by their oids.
///
/// # Errors
/// The errors of a fold.
pub(super) async fn fold_plan(
    plan: &Plan,
    progress: &Arc<dyn Progress>,
    wanted: BTreeSet<u32>,
) -> Result<Folded> {
    let (past, progress) = (Arc::clone(&plan.past), Arc::clone(progress));
    let folding = ambient::blocking("folding the history", move || {
        let wanted = |table: &Table| wanted.contains(&table.oid);
        // The scratch folder is not in the history, which may lie on a disk that cannot be written to.
        past.fold(&wanted, RECOVERY_BUDGET, &ambient::temporary_place(), &*progress)
    });
    folding.await
}
