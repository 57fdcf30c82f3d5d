//! Chooses the template with which a recovery begins, and brings a copy of it to the recovery's moment.
//!
//! All rows of a template were read back and proved when the template was kept, and nobody could connect to it since. So a
//! later recovery reads back the rows that it changes. It compares each table that no transaction has touched since its
//! checkpoint with the digest of the checkpoint's image.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::amend::Amend;
use super::changes::amend;
use super::definitions::SchemaAt;
use super::load::LoadOutcome;
use super::plan::Plan;
use super::recovery::Execution;
use super::sink::{Sink, kept_templates};
use super::template::{KeptTemplate, TemplateRecord, TemplateReport};
use crate::ambient;
use crate::connect::Conninfo;
use crate::error::{Error, Kind, Result};
use crate::fold::FoldedTable;
use crate::history::evidence::TableDigest;
use crate::history::image::RowsDigest;
use crate::model::{Lsn, Table};

/// Finds the changes that lead from the rows at a template's moment, which the position tells, to those at the plan's.
pub type FindDifference = dyn Fn(&Plan, Lsn) -> Result<Arc<dyn Amend>> + Send + Sync;

/// The template that a recovery begins with, and the way from there to its moment.
pub(super) struct ChosenTemplate {
    pub name: String,
    record: TemplateRecord,
    difference: Arc<dyn Amend>,
}

/// Returns why this recovery neither uses nor keeps a template.
fn obstacle(plan: &Plan, schema: &SchemaAt, is_whole: bool) -> Option<&'static str> {
    if !is_whole || plan.partial || plan.filter.is_some() {
        return Some("templates are for whole databases that --create makes");
    }
    if schema.digests.is_none() {
        return Some(
            "the history has no digests of the definitions; take a checkpoint with: backwhen checkpoint --from-source",
        );
    }
    if schema.facts.large_objects > 0 {
        return Some("the database has large objects");
    }
    let is_told = schema.is_whole();
    (!is_told).then_some("not all definitions are recovered as they were")
}

/// Chooses the nearest template that can be used. Returns notes on those that cannot, and whether one can be kept.
///
/// # Errors
/// `Unavailable` if the target's server fails.
pub(super) async fn choose(
    plan: &Plan,
    schema: &SchemaAt,
    is_whole: bool,
    (find, info): (&Arc<FindDifference>, &Conninfo),
) -> Result<(Option<ChosenTemplate>, bool, Vec<String>)> {
    if let Some(why) = obstacle(plan, schema, is_whole) {
        return Ok((None, false, vec![format!("no template is used or kept: {why}")]));
    }
    let mut notes = Vec::new();
    for template in usable(info, plan, schema, &mut notes).await? {
        let Some(record) = template.record else { continue };
        let (plan, find, lsn) = (plan.clone(), Arc::clone(find), record.lsn);
        match ambient::blocking("following the journal", move || find(&plan, lsn)).await {
            Ok(difference) => {
                return Ok((Some(ChosenTemplate { name: template.name, record, difference }), false, notes));
            }
            Err(error) if error.kind() == Kind::Interrupted => return Err(error),
            Err(error) => notes.push(not_used(&template.name, error)),
        }
    }
    Ok((None, true, notes))
}

pub(super) fn not_used(name: &str, why: impl std::fmt::Display) -> String {
    format!("template {name} is not used: {why}")
}

/// Returns the templates of the history that hold the plan's tables as they are defined at its moment, the nearest first.
async fn usable(
    info: &Conninfo,
    plan: &Plan,
    schema: &SchemaAt,
    notes: &mut Vec<String>,
) -> Result<Vec<KeptTemplate>> {
    let identity = plan.past.history().identity();
    let mut usable = Vec::new();
    for template in kept_templates(info, identity).await? {
        let Some(record) = template.record.as_ref().filter(|it| it.history == identity.id) else { continue };
        let stale = template
            .staleness(plan.past.reading())?
            .map(|why| format!("{why}; drop it with: backwhen expire --target CONN --apply"));
        let oids: BTreeSet<u32> = plan.chosen.tables.iter().map(|table| table.oid).collect();
        let same_tables = oids.iter().eq(record.tables.keys());
        let other = if record.epoch != plan.epoch {
            Some("a gap of the history lies between its moment and this one")
        } else if schema.digests.as_ref().map(|it| it.name()).as_deref() != Some(&*record.definitions)
            || !same_tables
        {
            Some("the definitions are others than at its moment")
        } else {
            None
        };
        match stale.or(other.map(str::to_owned)) {
            Some(why) => notes.push(not_used(&template.name, why)),
            None => usable.push(template),
        }
    }
    let until = plan.past.until().0;
    usable.sort_by_key(|it| it.record.as_ref().map(|record| record.lsn.0.abs_diff(until)));
    Ok(usable)
}

impl ChosenTemplate {
    pub fn report(&self) -> TemplateReport {
        TemplateReport { name: self.name.clone(), lsn: self.record.lsn, used: true }
    }

    /// Brings the rows of a copy of the template to the plan's moment, and proves them.
    ///
    /// # Errors
    /// `Internal` if the copy does not hold what the history says; otherwise the errors of the sink.
    pub async fn reach(
        &self,
        plan: &Plan,
        execution: &Execution,
        sink: &Sink,
        folded: &[FoldedTable],
    ) -> Result<LoadOutcome> {
        let mut loaded = LoadOutcome::empty();
        for table in &plan.chosen.tables {
            let Some((rows, digest)) = self.record.tables.get(&table.oid) else { continue };
            loaded.rows += rows;
            loaded.digests.push(TableDigest { table: table.display(), rows: *rows, digest: digest.clone() });
        }
        amend(plan, &*self.difference, sink, &mut loaded).await?;
        require_images(folded, &loaded)?;
        if execution.reads_all_back {
            require_rows(plan, execution, sink, &loaded).await?;
        }
        Ok(loaded)
    }
}

/// Reads all tables back, and compares them with what the changed template must hold.
async fn require_rows(plan: &Plan, execution: &Execution, sink: &Sink, loaded: &LoadOutcome) -> Result<()> {
    for table in &plan.chosen.tables {
        let name = table.display();
        let Some(expected) = loaded.digests.iter().find(|it| it.table == name) else { continue };
        let Some(held) = sink.read_back(table, execution.jobs).await? else { continue };
        let digest = held.digest.map(|it| it.to_string()).unwrap_or_default();
        if held.rows != expected.rows || digest != expected.digest {
            return Err(not_as_told(&name));
        }
    }
    Ok(())
}

fn not_as_told(table: &str) -> Error {
    Error::internal(format!("{table} is not what the history says"))
}

/// Checks the tables that no transaction has touched since the checkpoint against the digests of their images.
fn require_images(folded: &[FoldedTable], loaded: &LoadOutcome) -> Result<()> {
    let untouched = folded.iter().filter_map(|folded| Some((folded.table.display(), folded.untouched()?)));
    for (name, image) in untouched {
        let held = loaded.digests.iter().find(|it| it.table == name);
        let is_same = held.is_some_and(|it| it.rows == image.rows && it.digest == image.digest.to_string());
        if !is_same {
            return Err(not_as_told(&name));
        }
    }
    Ok(())
}

/// Describes the database that was recovered, all of whose rows are proved; `None` if that does not hold.
pub(super) fn record_of(
    plan: &Plan,
    schema: &SchemaAt,
    proved: bool,
    digests: &[TableDigest],
) -> Option<TemplateRecord> {
    let by_name: BTreeMap<&str, &TableDigest> = digests.iter().map(|it| (&*it.table, it)).collect();
    let of_table = |table: &Table| {
        let digest = by_name.get(&*table.display())?;
        digest.digest.parse::<RowsDigest>().ok()?;
        Some((table.oid, (digest.rows, digest.digest.clone())))
    };
    let tables: Option<BTreeMap<_, _>> = plan.chosen.tables.iter().map(of_table).collect();
    Some(TemplateRecord {
        history: plan.past.history().identity().id.clone(),
        epoch: plan.epoch,
        lsn: plan.past.until(),
        definitions: schema.digests.as_ref()?.name(),
        tables: tables.filter(|_| proved)?,
    })
}
