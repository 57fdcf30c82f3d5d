//! The text that describes a recovery, before and after.

use super::Recovered;
use crate::cli::except::ExceptReport;
use crate::cli::{left_out, ui};
use crate::recover::part::{RowFilter, TablePart};
use crate::recover::plan::{Plan, PlannedMoment};
use crate::recover::template::TemplateReport;

fn describe_moment(moment: &PlannedMoment) -> String {
    let xid = moment.xid.map_or_else(String::new, |xid| format!("  xid {xid}"));
    let next = match &moment.next {
        Some(next) => format!("next commit  {}  {}  xid {}", ui::both_times(next.time), next.lsn, next.xid),
        None => "next commit  none is held".to_owned(),
    };
    format!("moment       {}  {}{xid}\n{next}", ui::both_times(moment.time), moment.lsn)
}

pub(super) fn describe_plan(plan: &Plan) -> String {
    let mut text = format!(
        "{}\ncheckpoint   {} with {} rows in {} tables\njournal      {} transactions in {} segments",
        describe_moment(&plan.moment),
        plan.checkpoint,
        plan.checkpoint_rows,
        plan.tables,
        plan.transactions,
        plan.segments
    );
    let compared = match &plan.schema_compared_at {
        Some(at) => format!("to be compared with the source's at {} ({})", at.lsn, at.time),
        None => "not to be proved: no later digests of the source's definitions are held".to_owned(),
    };
    text.push_str(&format!("\nschema       {}\ndefinitions  {compared}", plan.schema));
    if let Some(filter) = &plan.filter {
        text.push_str(&describe_filter(filter));
    }
    for note in &plan.notes {
        text.push_str(&format!("\nnote         {}", ui::printable(note)));
    }
    text
}

fn describe_filter(filter: &RowFilter) -> String {
    let mut text = String::new();
    if let Some(condition) = &filter.condition {
        text.push_str(&format!("\nrows         those that meet: {}", ui::printable(condition)));
    }
    if filter.with_references {
        let tables = match filter.referenced.as_slice() {
            [] => "no other table".to_owned(),
            tables => tables.join(", "),
        };
        text.push_str(&format!("\nreferences   rows are taken along from {}", ui::printable(&tables)));
    }
    text
}

pub(super) fn describe_schema(schema: Option<&String>) -> String {
    schema.map_or_else(String::new, |name| format!("\ninto schema  {}", ui::printable(name)))
}

fn describe_template(template: &TemplateReport) -> String {
    let TemplateReport { name, lsn, used } = template;
    let how = if *used { "the recovery began with a copy of it" } else { "was kept" };
    format!("\ntemplate     {} as of {lsn}: {how}", ui::printable(name))
}

fn describe_part(part: &[TablePart]) -> String {
    let line = |it: &TablePart| {
        let name = ui::printable(&it.table);
        format!("\npart         {name}: {} rows; {} rows are left out", it.rows, it.left_out)
    };
    part.iter().map(line).collect()
}

pub(super) fn describe(recovered: &Recovered) -> String {
    let report = &recovered.report;
    let phases: Vec<_> =
        report.phases.iter().map(|phase| format!("{} {:.2} s", phase.name, phase.seconds)).collect();
    let proof = match (report.proved, report.tables) {
        (true, _) => "proved: every table's digest agrees",
        (false, 0) => "definitions only",
        (false, _) => "not proved: not every row could be read back as it was written",
    };
    let mut text = format!(
        "{}\nschema       {}\ndefinitions  {}\nfrom         checkpoint {} and {} transactions\nrecovered    {} rows in {} tables; {proof}\ntook         {:.2} s ({})",
        describe_moment(&report.moment),
        report.schema,
        report.schema_proof,
        report.checkpoint,
        report.transactions_folded,
        report.rows,
        report.tables,
        report.seconds,
        phases.join(", ")
    );
    text.push_str(&describe_part(&report.part));
    text.push_str(&describe_schema(recovered.into_schema.as_ref()));
    text.push_str(&recovered.except.as_ref().map_or_else(String::new, ExceptReport::describe));
    if let Some(template) = &report.template {
        text.push_str(&describe_template(template));
    }
    text.push_str(&left_out::describe(&report.left_out));
    if let Some(file) = &recovered.left_out_file {
        text.push_str(&format!("\nleft out     is in {file}, as SQL; all else is recovered"));
    }
    text
}
