//! Carries out a plan: make the schema, fold and load rows, build indexes, set sequences, prove, make valid.

use std::sync::Arc;

use tokio::time::Instant;

use super::archive::{Archive, EntrySelection};
use super::chosen_template::{ChosenTemplate, choose, not_used, record_of};
use super::compare::compare_definitions;
use super::definitions::{ReplaySettings, SchemaAt, base_schema, schema_at};
use super::entries::{entries_of, partial_notes};
use super::plan::Plan;
pub use super::recovery::Execution;
use super::recovery::{FillOutcome, Recovery};
use super::refused::RefusedObject;
use super::report::Phases;
pub use super::report::RecoveryReport;
use super::roles;
use super::sequences::MadeSequence;
use super::sink::{ArchiveDefinitions, Destination, Opening, Provenance, SideSchema, Sink};
use super::template::TemplateReport;
use crate::ambient;
use crate::error::{Error, Kind, Result};
use crate::model::Table;
use crate::progress::Unit;

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
    recovered.map_err(|error| roles::name_created(error, &made))
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
    let (template, keeps_template, notes) = choose_template(&plan, &execution, &schema).await?;
    let mut recovery = Recovery { plan, execution, schema, beside, template, keeps_template, notes, started };
    recovery.notes.extend(made.iter().cloned());
    if let Some(template) = recovery.template.as_ref().map(ChosenTemplate::report) {
        match recovery.build(&mut phases).await {
            Err(error) if error.kind() != Kind::Interrupted => {
                recovery.notes.push(not_used(&template.name, error));
                (recovery.template, recovery.keeps_template) = (None, true);
            }
            done => return done,
        }
    }
    recovery.build(&mut phases).await
}

/// Chooses the template to begin with. Returns whether to keep one, and notes.
async fn choose_template(
    plan: &Plan,
    execution: &Execution,
    schema: &SchemaAt,
) -> Result<(Option<ChosenTemplate>, bool, Vec<String>)> {
    let (Some(find), Destination::Postgres(info)) = (&execution.template, &execution.destination) else {
        return Ok((None, false, Vec::new()));
    };
    let is_whole = execution.create && execution.amend.is_none() && !execution.schema_only;
    choose(plan, schema, is_whole, (find, info)).await
}

impl Recovery {
    /// Opens the sink, fills it and makes it valid, or leaves nothing behind.
    async fn build(&self, phases: &mut Phases) -> Result<RecoveryReport> {
        let (plan, execution) = (&self.plan, &self.execution);
        let template = self.template.as_ref().map(|template| &*template.name);
        let (sink, unwanted, sequences) = open(plan, execution, &self.schema, template).await?;
        let sink = Arc::new(sink);
        phases.end("prepare");
        let filled = tokio::select! {
            filled = self.fill(&sink, &sequences, phases) => filled,
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
            Ok(filled) => self.complete(&mut sink, filled).await,
            Err(error) => Err(error),
        };
        let (mut filled, template) = match completed {
            Ok(completed) => completed,
            Err(error) => return Err(sink.abandon_after(error).await),
        };
        let notes = [&plan.notes, &self.notes, &self.schema.notes, &unwanted, &filled.notes, &sink.notes()];
        filled.notes = notes.into_iter().flatten().cloned().collect();
        self.make_valid(sink, filled, template, phases).await
    }

    /// Completes the definitions, and keeps a template if one is wanted. Returns the template that was used or kept.
    async fn complete(
        &self,
        sink: &mut Sink,
        mut filled: FillOutcome,
    ) -> Result<(FillOutcome, Option<TemplateReport>)> {
        let mut template = self.template.as_ref().map(ChosenTemplate::report);
        let record = record_of(&self.plan, &self.schema, filled.proved, &filled.digests);
        if self.keeps_template && record.is_none() {
            filled.notes.push("no template is kept: not all rows are proved".to_owned());
        }
        if let Some(record) = record.filter(|_| self.keeps_template) {
            let kept = sink.keep_template(self.plan.past.history().identity(), &record).await?;
            template = kept.map(|name| TemplateReport { name, lsn: record.lsn, used: false });
        }
        sink.complete_definitions().await?;
        Ok((filled, template))
    }

    /// Compares the definitions, and takes the last step.
    async fn make_valid(
        &self,
        sink: Sink,
        mut filled: FillOutcome,
        template: Option<TemplateReport>,
        phases: &mut Phases,
    ) -> Result<RecoveryReport> {
        let (plan, schema) = (&self.plan, &self.schema);
        let compared = compare_definitions(plan, schema, &sink, &mut filled.notes).await;
        phases.end("compare definitions");
        let mut left_out = match &self.beside {
            None => sink.make_valid().await?,
            Some(schema) => {
                let comment =
                    format!("recovered by backwhen as of {} ({})", plan.moment.time, plan.moment.lsn);
                let interrupt = &self.execution.interrupt;
                let (left_out, notes) =
                    sink.put_into(schema, &plan.chosen.tables, &comment, interrupt).await?;
                filled.notes.extend(notes);
                left_out
            }
        };
        if !matches!(self.execution.destination, Destination::Postgres(_)) {
            left_out.extend(missing_of(plan, schema));
        }
        left_out.extend(chosen_of(plan, &schema.left_out));
        compared.name(&left_out, &mut filled.inexact);
        ambient::pass("recover.validated")?;
        phases.end("make valid");
        Ok(self.report(filled, left_out, template, phases))
    }

    fn report(
        &self,
        filled: FillOutcome,
        left_out: Vec<RefusedObject>,
        template: Option<TemplateReport>,
        phases: &mut Phases,
    ) -> RecoveryReport {
        let (plan, schema) = (&self.plan, &self.schema);
        RecoveryReport {
            moment: plan.moment.clone(),
            checkpoint: plan.checkpoint.clone(),
            segments: plan.segments,
            transactions_folded: filled.transactions,
            fold_time: filled.fold_time,
            tables: filled.tables,
            rows: filled.rows,
            seconds: self.started.elapsed().as_secs_f64(),
            phases: std::mem::take(&mut phases.all),
            schema: schema.known(filled.schema),
            schema_proof: schema.proof,
            inexact: filled.inexact,
            left_out,
            notes: filled.notes,
            proved: filled.proved,
            template,
            part: filled.part,
            digests: filled.digests,
        }
    }
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
    template: Option<&str>,
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
        template,
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
        jobs: execution.jobs,
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
