//! `backwhen verify --restore`: a recovery whose only purpose is to show that a recovery succeeds.

use std::time::Duration;

use serde::Serialize;

use super::Surroundings;
use crate::ambient;
use crate::connect::Conninfo;
use crate::error::{Context, Error, Kind, Result};
use crate::history::History;
use crate::history::evidence::{Measured, TableDigest};
use crate::model::schema_digests::SchemaProof;
use crate::model::{Inexact, Moment};
use crate::past::Reading;
use crate::recover::execute::{Execution, execute};
use crate::recover::plan::{PlannedMoment, plan};
use crate::recover::refused::RefusedObject;
use crate::recover::sink::{Destination, drop_database};
use crate::recover::template::TemplateReport;
use crate::rewind::find_difference;

/// The recovered database, which has been dropped again.
#[derive(Serialize)]
pub(super) struct RestoreReport {
    pub moment: PlannedMoment,
    pub checkpoint: String,
    pub transactions_folded: u64,
    pub tables: u64,
    pub rows: u64,
    pub seconds: f64,
    pub left_out: Vec<RefusedObject>,
    /// Remarks for a person, such as why no template was used.
    pub notes: Vec<String>,
    /// The template that was used or kept.
    pub template: Option<TemplateReport>,
    pub schema_proof: SchemaProof,
    /// The parts of the recovered database that are not as the source had them.
    pub inexact: Vec<Inexact>,
    #[serde(skip)]
    pub digests: Vec<TableDigest>,
    /// How long the recovery took but for the journal, and how long the journal took; `None` with a template.
    #[serde(skip)]
    pub measured: Option<(Measured, Measured)>,
}

/// Returns the temporary database on the server that `--into` or libpq's own variables name.
///
/// # Errors
/// Fails with `Usage` if no server is named.
pub(super) fn target(history: &History, into: Option<&str>) -> Result<Conninfo> {
    let named = ["PGHOST", "PGHOSTADDR", "PGSERVICE", "PGPORT"];
    if into.is_none() && named.iter().all(|name| std::env::var_os(name).is_none()) {
        return Err(Error::usage(
            "no server is named to recover into; name one with --into 'host=... user=...', or BACKWHEN_INTO",
        ));
    }
    let id: String = history.identity().id.chars().take(12).collect();
    Ok(Conninfo::parse(into.unwrap_or_default())?.with_dbname(&format!("backwhen_verify_{id}")))
}

/// Recovers the moment, which compares every table's digest with the fold's, and drops the database.
///
/// # Errors
/// Fails when a recovery does; nothing is left then either.
pub(super) async fn restore(
    at: &Surroundings,
    history: &History,
    target: &Conninfo,
    to: &str,
    (jobs, keep_template): (usize, bool),
) -> Result<RestoreReport> {
    let moment = Moment::parse(to, ambient::now()).context(Kind::Usage, || "--to".into())?;
    // Verifying took time: the history may have reached the moment meanwhile.
    let plan = plan(&Reading::open(history)?, &moment, false, &[])?;
    let image_bytes = plan.past.base().bytes_total;
    let journal_bytes = plan.past.segments().map(|segment| segment.bytes).sum();
    let interrupt = at.heed_signals();
    // A run that was killed may have left the database.
    drop_database(target).await?;
    let execution = Execution {
        scratch: None,
        replay_limit: super::REPLAY_LIMIT,
        create_roles: false,
        schema_only: false,
        strict: false,
        tools: at.tools()?,
        destination: Destination::Postgres(target.clone()),
        create: true,
        into_schema: None,
        amend: None,
        template: keep_template.then(find_difference),
        reads_all_back: true,
        jobs,
        progress: at.ui.progress(),
        interrupt,
    };
    let report = execute(plan, execution).await?;
    drop_database(target).await?;
    // If a column was retyped, only the number of the table's rows can be compared, and the report names the table.
    if !report.proved && report.inexact.is_empty() {
        return Err(Error::internal("a recovered database was not read back; please report this"));
    }
    let folding = Measured::of(report.fold_time, journal_bytes);
    let loading =
        Measured::of(Duration::from_secs_f64(report.seconds).saturating_sub(report.fold_time), image_bytes);
    let is_from_template = report.template.as_ref().is_some_and(|template| template.used);
    Ok(RestoreReport {
        measured: (!is_from_template).then_some((loading, folding)),
        moment: report.moment,
        checkpoint: report.checkpoint,
        transactions_folded: report.transactions_folded,
        tables: report.tables,
        rows: report.rows,
        seconds: report.seconds,
        left_out: report.left_out,
        notes: report.notes,
        template: report.template,
        schema_proof: report.schema_proof,
        inexact: report.inexact,
        digests: report.digests,
    })
}
