//! Carries out a plan: make the schema, fold and load rows, build indexes, set sequences, prove, make valid.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::archive::{AfterRows, Archive, EntrySelection};
use super::compare::compare_definitions;
use super::definitions::{ReplaySettings, SchemaAt, base_schema, schema_at};
use super::load::{LoadOutcome, load_all};
use super::plan::{Plan, PlannedMoment};
use super::refused::RefusedObject;
use super::roles;
use super::sequences::{MadeSequence, sequence_values};
use super::sink::{self, ArchiveDefinitions, Destination, Opening, Provenance, Sink};
use crate::ambient;
use crate::connect::Conninfo;
use crate::error::{Error, Result};
use crate::fold::{Folded, FoldedTable};
use crate::history::definitions::SchemaKnown;
use crate::history::evidence::TableDigest;
use crate::model::schema_digests::SchemaProof;
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

/// The result of a recovery. Its JSON is a contract; see `docs/JSON.md`.
#[derive(Clone, Debug, Serialize)]
pub struct RecoveryReport {
    pub moment: PlannedMoment,
    pub checkpoint: String,
    pub segments: u64,
    pub transactions_folded: u64,
    pub tables: u64,
    pub rows: u64,
    pub seconds: f64,
    pub phases: Vec<Phase>,
    /// How well the schema is known.
    pub schema: SchemaKnown,
    /// Whether the definitions were compared with the source's own.
    pub schema_proof: SchemaProof,
    pub inexact: Vec<Inexact>,
    /// The objects that the target refused and the statements that were not replayed, with their SQL; they are in
    /// `inexact` too.
    pub left_out: Vec<RefusedObject>,
    pub notes: Vec<String>,
    /// Whether the digests of the loaded rows agree with the history's.
    pub proved: bool,
    /// The digests of the loaded rows, by table.
    #[serde(skip)]
    pub digests: Vec<TableDigest>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Phase {
    pub name: &'static str,
    pub seconds: f64,
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
    plan: Plan,
    execution: Execution,
    started: Instant,
    made: &[String],
) -> Result<RecoveryReport> {
    let mut phases = Phases { started, all: Vec::new() };
    let schema = schema_of(&plan, &execution).await?;
    let is_server = matches!(execution.destination, Destination::Postgres(_));
    if !execution.schema_only && (execution.strict || !is_server) {
        schema.require_fit(&plan.chosen.tables)?;
    }
    if execution.strict {
        schema.require_all()?;
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
    let filled = match completed {
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
    notes.extend(sink.notes());
    let mut inexact = filled.inexact;
    let compared = compare_definitions(&plan, &schema, &sink).await;
    notes.extend(
        compared.as_ref().err().map(|error| format!("the recovered definitions were not compared: {error}")),
    );
    phases.end("compare definitions");
    let mut left_out = sink.make_valid().await?;
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
        digests: filled.digests,
    })
}

struct Phases {
    started: Instant,
    all: Vec<Phase>,
}

impl Phases {
    fn end(&mut self, name: &'static str) {
        self.all.push(Phase { name, seconds: self.started.elapsed().as_secs_f64() });
        self.started = ambient::instant();
    }
}

struct FillOutcome {
    schema: SchemaKnown,
    transactions: u64,
    tables: u64,
    rows: u64,
    inexact: Vec<Inexact>,
    proved: bool,
    digests: Vec<TableDigest>,
}

/// Finds the schema of the moment. A replay never runs in a session on the target's server: statements written by roles
/// of the source would run there with the rights of the user who recovers.
async fn schema_of(plan: &Plan, execution: &Execution) -> Result<SchemaAt> {
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
async fn open(
    plan: &Plan,
    execution: &Execution,
    schema: &SchemaAt,
) -> Result<(Sink, Vec<String>, Vec<MadeSequence>)> {
    let archive = schema.open()?;
    let entries = entries_of(plan, &archive);
    let left_out = if plan.partial { partial_notes(&entries) } else { Vec::new() };
    let sequences = entries.entries(&archive.toc).filter(|entry| entry.kind == "SEQUENCE");
    let sequences = sequences.filter_map(|entry| schema.sequences.get(&entry.oid).cloned()).collect();
    let mut definitions = ArchiveDefinitions::new(archive, entries)?.with_orders(&schema.orders);
    if let Some(base) = schema.base.as_ref().filter(|_| schema.facts.large_objects > 0) {
        let base = Archive::open(base)?;
        let objects = EntrySelection::large_objects(&base.toc);
        definitions.large_objects = Some(Box::new(ArchiveDefinitions::new(base, objects)?));
    }
    let opening = Opening {
        create: execution.create,
        strict: execution.strict,
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
fn missing_of(plan: &Plan, schema: &SchemaAt) -> Vec<RefusedObject> {
    chosen_of(plan, &schema.refused)
}

/// If only some tables are wanted, what concerns none of them is not told.
fn chosen_of(plan: &Plan, objects: &[RefusedObject]) -> Vec<RefusedObject> {
    let is_chosen = |it: &&RefusedObject| {
        let named = it.what.strip_prefix("TABLE ").unwrap_or(&it.what).split(", ");
        let mut tables = plan.chosen.tables.iter().map(Table::display);
        !plan.partial || tables.any(|table| named.clone().any(|name| name == table))
    };
    objects.iter().filter(is_chosen).cloned().collect()
}

fn entries_of(plan: &Plan, archive: &Archive) -> EntrySelection {
    if plan.partial {
        EntrySelection::tables(&archive.toc, |schema, name| plan.chosen.selection.takes(schema, name))
    } else {
        EntrySelection::whole(&archive.toc)
    }
}

/// Returns what a target will refuse, as far as that is known before anything is made. The definitions are those of the
/// checkpoint: nothing is replayed.
///
/// # Errors
/// Fails with `Damaged` if the archive is, and with `Unavailable` if the server cannot be asked.
pub async fn foresee(plan: &Plan, destination: &Destination) -> Result<Vec<RefusedObject>> {
    let Destination::Postgres(info) = destination else { return Ok(Vec::new()) };
    let schema = base_schema(&plan.past)?;
    let archive = schema.open()?;
    let entries = entries_of(plan, &archive);
    sink::foresee(info, ArchiveDefinitions::new(archive, entries)?).await
}

/// Makes the notes for a recovery of some tables: which objects it leaves out, and which it takes in beyond the tables.
fn partial_notes(entries: &EntrySelection) -> Vec<String> {
    let left_out = entries
        .left_out
        .iter()
        .map(|what| format!("left out, as it refers to what is not recovered: {what}"));
    let empty = entries.definition_only.iter();
    let empty = empty
        .map(|(schema, name)| format!("made without rows, as a recovered table needs it: {schema}.{name}"));
    left_out.chain(empty).collect()
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
    let (defined, folded) = tokio::join!(sink.pre_data(), fold_plan(plan, &execution.progress, wanted));
    let set_aside = defined?;
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
    let loaded = load_and_index(plan, execution, sink, (folded.tables, &retyped, &inexact), phases).await?;
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
) -> Result<LoadOutcome> {
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
    if last.is_empty() {
        sink.post_data(execution.jobs, AfterRows::Whole, &exact_tables(&loaded, inexact)).await?;
    } else {
        sink.post_data(execution.jobs, AfterRows::Names, &HashSet::new()).await?;
        loaded.add(load(plan, execution, sink, (last, retyped)).await?);
        making();
        sink.post_data(execution.jobs, AfterRows::Remainder, &exact_tables(&loaded, inexact)).await?;
    }
    loaded.inexact = sink.bring_back_checks().await?;
    ambient::pass("recover.indexed")?;
    phases.end("indexes and constraints");
    Ok(loaded)
}

/// Returns the names of the tables that have exactly the rows of the source.
fn exact_tables(loaded: &LoadOutcome, inexact: &[Inexact]) -> HashSet<String> {
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
    let (known, transactions, tables, rows) = (plan.schema, 0, 0, 0);
    let inexact = of_schema.chain(schema.inexact.iter().cloned()).chain(set_aside).collect();
    Ok(FillOutcome { schema: known, transactions, tables, rows, inexact, proved: false, digests: Vec::new() })
}

/// Returns how well the schema is known: if event triggers told schema changes, the fold finds out whether there was an
/// untold one besides.
fn schema_known(plan: &Plan, folded: &Folded) -> Result<SchemaKnown> {
    Ok(match plan.schema {
        SchemaKnown::Exactly if !plan.past.changes_since_archive()?.is_empty() => folded.definitions,
        planned => planned,
    })
}

/// Joins what the plan knows for certain to be inexact with what the fold found.
fn inexact(plan: &Plan, folded: &Folded, known: &SchemaKnown) -> Vec<Inexact> {
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
