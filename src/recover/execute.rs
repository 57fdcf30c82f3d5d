//! Carries out a plan: make the schema, fold and load rows, build indexes, set sequences, prove, make valid.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::amend::Amend;
use super::archive::{AfterRows, Archive, EntrySelection};
use super::changes::{amend, keep_part, try_condition};
use super::compare::compare_definitions;
use super::definitions::{ReplaySettings, SchemaAt, base_schema, schema_at};
use super::entries::{entries_of, partial_notes};
use super::load::{LoadOutcome, load_all};
use super::part::TablePart;
use super::plan::Plan;
use super::refused::RefusedObject;
use super::report::Phases;
pub use super::report::RecoveryReport;
use super::roles;
use super::sequences::{MadeSequence, sequence_values};
use super::sink::{ArchiveDefinitions, Destination, Opening, Provenance, SideSchema, Sink};
use crate::ambient;
use crate::connect::Conninfo;
use crate::error::{Error, Result};
use crate::fold::{Folded, FoldedTable};
use crate::history::definitions::SchemaKnown;
use crate::history::evidence::TableDigest;
use crate::model::{Inexact, Table};
use crate::past::RECOVERY_BUDGET;
use crate::pgtools::Tools;
use crate::progress::{Progress, Unit};

/// How to carry out a plan.
pub struct Execution {
    pub tools: Tools,
    pub destination: Destination,
    /// A trusted server for the scratch database of a replay; `None` for a short-lived one that backwhen starts.
    pub scratch: Option<Conninfo>,
    /// How long one replayed statement may run.
    pub replay_limit: Duration,
    pub create: bool,
    /// A schema of the destination's database, beside whose own tables the recovered ones are put.
    pub into_schema: Option<String>,
    /// A change of the recovered rows.
    pub amend: Option<Arc<dyn Amend>>,
    /// Refuse everything if the target refuses one object.
    pub strict: bool,
    /// Whether to create the roles that the target lacks.
    pub create_roles: bool,
    /// Whether to leave out rows and the values of sequences.
    pub schema_only: bool,
    pub jobs: usize,
    pub progress: Arc<dyn Progress>,
    /// Cancelled to make the recovery end early and leave nothing behind.
    pub interrupt: CancellationToken,
}

/// Carries out the plan, all or nothing.
///
/// # Errors
/// `Refused` if the destination does not suit, `Damaged` if the history is, `Unavailable` if a server or the disk
/// fails, `Interrupted` if the recovery was cancelled. After an error, nothing is left that could be taken for a
/// database.
pub async fn execute(plan: Plan, execution: Execution) -> Result<RecoveryReport> {
    let started = ambient::instant();
    execution.progress.phase("preparing", 0, Unit::Tables);
    let made = if execution.create_roles {
        roles::create(&plan.past, &execution.destination).await?
    } else {
        Vec::new()
    };
    let recovered = recover(plan, execution, started, &made).await;
    recovered.map_err(|error| match made.first() {
        Some(made) => Error::new(error.kind(), format!("{error}; on the target's server stays: {made}")),
        None => error,
    })
}

async fn recover(
    mut plan: Plan,
    mut execution: Execution,
    started: Instant,
    made: &[String],
) -> Result<RecoveryReport> {
    let beside = side_schema(&mut execution).await?;
    let mut phases = Phases { started, all: Vec::new() };
    let schema = schema_of(&plan, &execution).await?;
    let is_server = matches!(execution.destination, Destination::Postgres(_));
    if !execution.schema_only && (execution.strict || !is_server) {
        schema.require_fit(&plan.chosen.tables)?;
    }
    if execution.strict {
        schema.require_all()?;
    }
    if plan.filter.is_some() {
        plan.add_references(&schema.open()?.toc)?;
    }
    let (sink, unwanted, sequences) = open(&plan, &execution, &schema).await?;
    let sink = Arc::new(sink);
    phases.end("prepare");
    let filled = tokio::select! {
        filled = fill(&plan, &execution, &sink, &schema, &sequences, &mut phases) => filled,
        () = execution.interrupt.cancelled() => Err(Error::interrupted()),
    };
    // Tasks that were told to end drop the sink a little later.
    while Arc::strong_count(&sink) > 1 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let Ok(mut sink) = Arc::try_unwrap(sink) else {
        return Err(Error::internal("a table is still being loaded"));
    };
    let completed = match filled {
        Ok(filled) => sink.complete_definitions().await.map(|()| filled),
        Err(error) => Err(error),
    };
    let mut filled = match completed {
        Ok(filled) => filled,
        Err(error) => {
            let abandoned = sink.abandon().await;
            return Err(match abandoned {
                Ok(()) => error,
                Err(left) => Error::new(error.kind(), format!("{error}; moreover, {left}")),
            });
        }
    };
    let mut notes = plan.notes.clone();
    notes.extend(made.iter().cloned());
    notes.extend(schema.notes.iter().cloned());
    notes.extend(unwanted);
    notes.extend(std::mem::take(&mut filled.notes));
    notes.extend(sink.notes());
    let mut inexact = filled.inexact;
    let compared = compare_definitions(&plan, &schema, &sink).await;
    notes.extend(
        compared.as_ref().err().map(|error| format!("the recovered definitions were not compared: {error}")),
    );
    phases.end("compare definitions");
    let mut left_out = match &beside {
        None => sink.make_valid().await?,
        Some(schema) => {
            let comment = format!("recovered by backwhen as of {} ({})", plan.moment.time, plan.moment.lsn);
            let put = sink.put_into(schema, &plan.chosen.tables, &comment, &execution.interrupt).await?;
            notes.extend(put.1);
            put.0
        }
    };
    if !is_server {
        left_out.extend(missing_of(&plan, &schema));
    }
    left_out.extend(chosen_of(&plan, &schema.left_out));
    compared.unwrap_or_default().name(&left_out, &mut inexact);
    ambient::pass("recover.validated")?;
    phases.end("make valid");
    Ok(RecoveryReport {
        moment: plan.moment,
        checkpoint: plan.checkpoint,
        segments: plan.segments,
        transactions_folded: filled.transactions,
        tables: filled.tables,
        rows: filled.rows,
        seconds: started.elapsed().as_secs_f64(),
        phases: phases.all,
        schema: schema.known(filled.schema),
        schema_proof: schema.proof,
        inexact,
        left_out,
        notes,
        proved: filled.proved,
        part: filled.part,
        digests: filled.digests,
    })
}

/// The schema beside whose tables the recovered ones are put, if that is asked for. They are recovered in a database of their
/// own first.
async fn side_schema(execution: &mut Execution) -> Result<Option<SideSchema>> {
    let (Some(name), Destination::Postgres(live)) = (&execution.into_schema, &execution.destination) else {
        return Ok(None);
    };
    let schema = SideSchema::new(live, name);
    schema.drop_leftover().await?;
    schema.require_free().await?;
    execution.destination = Destination::Postgres(schema.workshop());
    execution.create = true;
    Ok(Some(schema))
}

struct FillOutcome {
    schema: SchemaKnown,
    transactions: u64,
    tables: u64,
    rows: u64,
    inexact: Vec<Inexact>,
    proved: bool,
    part: Vec<TablePart>,
    notes: Vec<String>,
    digests: Vec<TableDigest>,
}

/// Finds the schema of the moment. A replay never runs in a session on the target's server: statements written by roles
/// of the source would run there with the rights of the user who recovers.
pub(super) async fn schema_of(plan: &Plan, execution: &Execution) -> Result<SchemaAt> {
    let replay = ReplaySettings {
        server: execution.scratch.as_ref(),
        limit: execution.replay_limit,
        strict: execution.strict,
        tools: &execution.tools,
        progress: &*execution.progress,
        interrupt: &execution.interrupt,
    };
    match &execution.destination {
        // The sink takes tables and rows only, and the fold knows the tables.
        Destination::Sqlite(_) => base_schema(&plan.past),
        _ => schema_at(&plan.past, &replay).await,
    }
}

/// Opens the destination, which refuses an unsuitable target before anything else is done. Returns the objects that are
/// left out, and the sequences that are made.
pub(super) async fn open(
    plan: &Plan,
    execution: &Execution,
    schema: &SchemaAt,
) -> Result<(Sink, Vec<String>, Vec<MadeSequence>)> {
    let archive = schema.open()?;
    let entries = entries_of(plan, &archive);
    let left_out = if plan.partial { partial_notes(&entries) } else { Vec::new() };
    let sequences = entries.entries(&archive.toc).filter(|entry| entry.kind == "SEQUENCE");
    let sequences = sequences.filter_map(|entry| schema.sequences.get(&entry.oid).cloned()).collect();
    let mut definitions = ArchiveDefinitions::new(archive, entries)?.as_on_source(&schema.orders);
    if let Some(base) = schema.base.as_ref().filter(|_| schema.facts.large_objects > 0) {
        let base = Archive::open(base)?;
        let objects = EntrySelection::large_objects(&base.toc);
        definitions.large_objects = Some(Box::new(ArchiveDefinitions::new(base, objects)?));
    }
    let opening = Opening {
        create: execution.create,
        strict: execution.strict,
        is_part: plan.filter.is_some(),
        source: &schema.facts.database,
        definitions,
        tables: &plan.chosen.tables,
        unfit: if execution.schema_only { Vec::new() } else { schema.unfit.clone() },
        missing: missing_of(plan, schema),
        provenance: Provenance {
            moment: plan.moment.time.to_string(),
            lsn: plan.moment.lsn.to_string(),
            source: plan.past.history().identity().source.database.clone(),
        },
        tools: execution.tools.clone(),
    };
    Ok((Sink::open(&execution.destination, opening).await?, left_out, sequences))
}

/// Returns the objects that the replay's server refused, as far as the recovery wants them.
pub(super) fn missing_of(plan: &Plan, schema: &SchemaAt) -> Vec<RefusedObject> {
    chosen_of(plan, &schema.refused)
}

/// If only some tables are wanted, what concerns none of them is not told.
pub(super) fn chosen_of(plan: &Plan, objects: &[RefusedObject]) -> Vec<RefusedObject> {
    let is_chosen = |it: &&RefusedObject| {
        let named = it.what.strip_prefix("TABLE ").unwrap_or(&it.what).split(", ");
        let mut tables = plan.chosen.tables.iter().map(Table::display);
        !plan.partial || tables.any(|table| named.clone().any(|name| name == table))
    };
    objects.iter().filter(is_chosen).cloned().collect()
}

async fn fill(
    plan: &Plan,
    execution: &Execution,
    sink: &Arc<Sink>,
    schema: &SchemaAt,
    made: &[MadeSequence],
    phases: &mut Phases,
) -> Result<FillOutcome> {
    ambient::pass("recover.opened")?;
    if execution.schema_only {
        return define(plan, execution, sink, schema).await;
    }
    // The server makes tables while the journal is read.
    let wanted: BTreeSet<u32> = plan.chosen.tables.iter().map(|table| table.oid).collect();
    let defining = async {
        let set_aside = sink.pre_data().await?;
        Ok::<_, Error>((set_aside, try_condition(plan, sink).await?))
    };
    let (defined, folded) = tokio::join!(defining, fold_plan(plan, &execution.progress, wanted));
    let (set_aside, notes) = defined?;
    let folded = folded?;
    phases.end("schema and fold");
    let known = schema_known(plan, &folded)?;
    let mut inexact = inexact(plan, &folded, &known);
    let replayed: Vec<_> = schema.inexact.iter().filter(|it| !inexact.contains(it)).cloned().collect();
    inexact.extend(replayed.into_iter().chain(set_aside));
    let tables = folded.tables.len() as u64;
    let unsampled =
        |oid| folded.sequences_sampled < plan.past.until() || folded.sequences_set_back.contains(&oid);
    let (sequences, unknown) = sequence_values(plan, made, &folded.sequences, unsampled);
    inexact.extend(unknown);
    let retyped = inexact.iter().filter(|it| it.is_retyped()).map(|it| it.what.clone()).collect();
    let (loaded, part) =
        load_and_index(plan, execution, sink, (folded.tables, &retyped, &inexact), phases).await?;
    inexact.extend(loaded.inexact);
    inexact.extend(sink.set_sequences(&sequences).await?);
    if !plan.partial {
        execution.progress.phase("refreshing materialised views", 0, Unit::Tables);
        sink.refresh_materialized_views(&schema.facts.materialized_views).await?;
    }
    phases.end("sequences and views");
    ambient::pass("recover.valid")?;
    Ok(FillOutcome {
        schema: known,
        transactions: folded.transactions,
        tables,
        rows: loaded.rows,
        inexact,
        proved: loaded.proved,
        part,
        notes,
        digests: loaded.digests,
    })
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
        part = keep_part(plan, sink, &mut loaded).await?;
        making();
        sink.post_data(execution.jobs, AfterRows::Remainder, &exact_tables(plan, &loaded, inexact)).await?;
    }
    loaded.inexact = sink.bring_back_checks().await?;
    if let Some(change) = &execution.amend {
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
