//! The report of a recovery that is done.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::part::TablePart;
use super::plan::PlannedMoment;
use super::refused::RefusedObject;
use super::template::TemplateReport;
use crate::ambient;
use crate::history::definitions::SchemaKnown;
use crate::history::evidence::TableDigest;
use crate::model::Inexact;
use crate::model::schema_digests::SchemaProof;

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
    /// The objects that the target refused, with their SQL; they are in `inexact` too.
    pub left_out: Vec<RefusedObject>,
    pub notes: Vec<String>,
    /// Whether the digests of the loaded rows agree with the history's.
    pub proved: bool,
    /// The template that was used or kept.
    pub template: Option<TemplateReport>,
    /// The wanted rows of each table, and the others; empty if all rows are wanted.
    pub part: Vec<TablePart>,
    /// How long the journal took, while other things were done.
    #[serde(skip)]
    pub fold_time: Duration,
    /// The digests of the loaded rows, by table.
    #[serde(skip)]
    pub digests: Vec<TableDigest>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Phase {
    pub name: &'static str,
    pub seconds: f64,
}

/// The phases so far.
pub(super) struct Phases {
    pub started: Instant,
    pub all: Vec<Phase>,
}

impl Phases {
    pub fn end(&mut self, name: &'static str) {
        self.all.push(Phase { name, seconds: self.started.elapsed().as_secs_f64() });
        self.started = ambient::instant();
    }
}
