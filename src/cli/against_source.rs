//! `backwhen check --against-source`

use std::process::ExitCode;

use serde::Serialize;

use super::caught_up::{followed, wait_for};
use super::{SourceOption, Surroundings, ui};
use crate::ambient;
use crate::error::{Kind, Result};
use crate::history::evidence::{CheckMethod, Evidence};
use crate::model::schema_digests::{SchemaDigests, SchemaProof};
use crate::model::{Edge, PgTime};
use crate::past::{Past, SchemaWitness};
use crate::protect::{Access, compare};
use crate::recover::definitions::{ReplaySettings, SchemaAt, schema_compared};

#[derive(Serialize)]
struct ComparisonReport {
    ok: bool,
    #[serde(flatten)]
    at: Edge,
    tables: usize,
    rows: u64,
    schema_proof: Option<SchemaProof>,
    differences: Vec<String>,
    not_compared: Vec<String>,
    evidence: Option<String>,
}

pub(super) async fn run(at: &Surroundings, source: Option<String>, jobs: usize) -> Result<ExitCode> {
    at.history_folder("check --against-source")?;
    let (history, _objects) = at.history_held()?;
    followed(&history)?;
    let source = SourceOption { source }.of(&history)?;
    let tools = at.tools()?;
    let progress = at.ui.progress();
    let access = Access { source: &source, tools: &tools, jobs, progress: &*progress };
    let mut evidence = Evidence::begun(CheckMethod::AgainstSource, PgTime::from_utc(ambient::now()));
    let compared =
        compare::with_source(&access, &history, async |lsn| wait_for(&history, &source, lsn).await).await?;
    evidence.up_to = Some(compared.at);
    evidence.tables = compared.tables;
    evidence.differences = compared.differences;
    evidence.not_compared = compared.not_compared;
    match compared.schema {
        Some(digests) => {
            let schema = compare_schema(at, &compared.past, compared.at, digests).await?;
            evidence.differences.extend(schema.inexact.iter().map(|it| format!("{}: {}", it.what, it.why)));
            evidence.schema = Some(schema.proof);
        }
        None => evidence.not_compared.push("definitions: they were being changed".into()),
    }
    evidence.finished = PgTime::from_utc(ambient::now());
    let shown = ComparisonReport {
        ok: evidence.is_good(),
        at: compared.at,
        tables: evidence.tables.len(),
        rows: evidence.tables.iter().map(|table| table.rows).sum(),
        schema_proof: evidence.schema,
        differences: evidence.differences.clone(),
        not_compared: evidence.not_compared.clone(),
        evidence: super::verify::keep(&history, &evidence),
    };
    at.ui.result(&shown, || describe(&shown))?;
    Ok(if shown.ok { ExitCode::SUCCESS } else { ExitCode::from(Kind::Damaged.exit_code()) })
}

/// Follows the history's definitions up to the moment, and compares them with the source's.
async fn compare_schema(
    at: &Surroundings,
    past: &Past,
    moment: Edge,
    digests: SchemaDigests,
) -> Result<SchemaAt> {
    let (tools, progress, interrupt) = (at.tools()?, at.ui.progress(), at.heed_signals());
    let (server, limit) = (None, super::REPLAY_LIMIT);
    let settings = ReplaySettings {
        server,
        limit,
        strict: false,
        tools: &tools,
        progress: &*progress,
        interrupt: &interrupt,
    };
    let witness = SchemaWitness { at: moment, digests, later: Vec::new(), is_of_moment: true, earlier: None };
    schema_compared(past, &settings, Some(witness)).await
}

fn describe(shown: &ComparisonReport) -> String {
    let mut text = format!(
        "compared  {} rows in {} tables at {}  {}\n",
        shown.rows,
        shown.tables,
        shown.at.lsn,
        ui::both_times(shown.at.time)
    );
    if let Some(proof) = &shown.schema_proof {
        text.push_str(&format!("schema    {proof}\n"));
    }
    for table in &shown.differences {
        text.push_str(&format!("DIFFERS   {}\n", ui::printable(table)));
    }
    for skipped in &shown.not_compared {
        text.push_str(&format!("skipped   {}\n", ui::printable(skipped)));
    }
    text.push_str(if shown.ok {
        "the history is what the source is"
    } else {
        "the history is not what the source is"
    });
    text
}
