//! A recovery: its plan, how the plan is carried out, and what is known before the sink is opened.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::amend::Amend;
use super::chosen_template::{ChosenTemplate, FindDifference};
use super::definitions::SchemaAt;
use super::part::TablePart;
use super::plan::Plan;
use super::sink::{Destination, SideSchema};
use crate::connect::Conninfo;
use crate::history::definitions::SchemaKnown;
use crate::history::evidence::TableDigest;
use crate::model::Inexact;
use crate::pgtools::Tools;
use crate::progress::Progress;

/// The settings with which a plan is carried out.
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
    /// Begin with a template on the target's server, or keep one there.
    pub template: Option<Arc<FindDifference>>,
    /// Read all rows back, also those of a template, which were read back when it was kept.
    pub reads_all_back: bool,
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

/// A recovery whose schema is known.
pub(super) struct Recovery {
    pub plan: Plan,
    pub execution: Execution,
    pub schema: SchemaAt,
    pub beside: Option<SideSchema>,
    /// The template that is copied; `None` for an empty database.
    pub template: Option<ChosenTemplate>,
    pub keeps_template: bool,
    pub notes: Vec<String>,
    pub started: Instant,
}

/// The outcome of filling a sink.
pub(super) struct FillOutcome {
    pub schema: SchemaKnown,
    pub transactions: u64,
    pub fold_time: Duration,
    pub tables: u64,
    pub rows: u64,
    pub inexact: Vec<Inexact>,
    pub proved: bool,
    pub part: Vec<TablePart>,
    pub notes: Vec<String>,
    pub digests: Vec<TableDigest>,
}
